"""The attacks. Each is a class, which a file of ``conf/attack`` names by ``_target_: apps.lab.attacks.<class>``."""

from apps.lab.attacks.absent import Absent, AbsentFlip
from apps.lab.attacks.adaptive import Evade, EvadeFlipping
from apps.lab.attacks.base import Attack, Conduct, Scene
from apps.lab.attacks.colluding import Alie, Ipm, Mimic, MinMax, MinSum
from apps.lab.attacks.gaussian import BackboneNoise, Gaussian
from apps.lab.attacks.holdout import Backdoor, UnderHoldout
from apps.lab.attacks.labels import Boosted, Clones, LabelFlip, LabelFlipMulti, LabelShift, Stealthy
from apps.lab.attacks.sign_flip import SignFlip, SignFlipUpdate

__all__ = [
    "Absent", "AbsentFlip", "Alie", "Attack", "BackboneNoise", "Backdoor", "Boosted", "Clones", "Conduct", "Evade",
    "EvadeFlipping", "Gaussian", "Ipm", "LabelFlip", "LabelFlipMulti", "LabelShift", "Mimic", "MinMax", "MinSum",
    "Scene", "SignFlip", "SignFlipUpdate", "Stealthy", "UnderHoldout",
]  # fmt: skip
