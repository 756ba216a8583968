"""What the defences are compared with: the same with parts switched off, and aggregation rules of others.

A rule that *selects* (Krum) is a detector here: whom it leaves out is REMOVED, with its score. A rule that *combines*
(median) is the pipeline's ``rule``. FoolsGold is both. So all of them get the pipeline's validated replies and
leave its reports. All work on updates ``g_i = w_i - w`` in float64: squared distances of raw float32 weights, as in
Flower's Krum, drown in the norm of ``w``.
"""

from apps.lab.baselines.clipping import CentredClipping, norm_bounded
from apps.lab.baselines.dnc import DnC
from apps.lab.baselines.foolsgold import FoolsGold
from apps.lab.baselines.heldout import FLTrust, ZenoPlusPlus, holdout
from apps.lab.baselines.krum import Krum
from apps.lab.baselines.nnm import nnm_trimmed_mean
from apps.lab.baselines.off import Nobody, no_verifier
from apps.lab.baselines.rules import geometric_median, median, trimmed_mean

__all__ = [
    "CentredClipping", "DnC", "FLTrust", "FoolsGold", "Krum", "Nobody", "ZenoPlusPlus", "geometric_median", "holdout",
    "median", "nnm_trimmed_mean", "no_verifier", "norm_bounded", "trimmed_mean",
]  # fmt: skip
