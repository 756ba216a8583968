"""Detection: who is suspected, in which order, and why (FAA-DL, Sec. IV-B). Importing it needs numpy only.

``Sequential`` is the default, ``OCSVM`` the paper's, ``MultiView`` what both packages score with, ``PyODDetector`` any
other, ``Everyone`` none.
"""

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.everyone import Everyone
from flwr_faa.detection.multiview import MultiView
from flwr_faa.detection.ocsvm import OCSVM
from flwr_faa.detection.pyod import PyODDetector, as_detector
from flwr_faa.detection.sequential import Sequential

__all__ = ["OCSVM", "Detection", "Detector", "Everyone", "MultiView", "PyODDetector", "Sequential", "as_detector"]
