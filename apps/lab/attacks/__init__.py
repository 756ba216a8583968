"""Attacks, one class each: a file of ``conf/attack`` names one by ``_target_: apps.lab.attacks.<class>``."""

from apps.lab.attacks.absent import AbsentFlip
from apps.lab.attacks.adaptive import Evade, EvadeFlipping
from apps.lab.attacks.base import Absent, Alie, Attack, Conduct, Gaussian, Scene, SignFlip, SignFlipUpdate
from apps.lab.attacks.colluding import Ipm, Mimic, MinMax, MinSum
from apps.lab.attacks.labels import Boosted, Clones, LabelFlip, LabelFlipMulti, Stealthy

__all__ = [
    "Absent",
    "AbsentFlip",
    "Alie",
    "Conduct",
    "Attack",
    "Boosted",
    "Clones",
    "Evade",
    "EvadeFlipping",
    "Gaussian",
    "Ipm",
    "LabelFlip",
    "LabelFlipMulti",
    "Mimic",
    "MinMax",
    "MinSum",
    "Scene",
    "SignFlip",
    "SignFlipUpdate",
    "Stealthy",
]
