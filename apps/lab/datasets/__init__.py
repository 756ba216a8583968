"""Real data as integer samples. Each set is fetched once and kept as one ``.npz`` file (``docs/how-to/data.md``).

Importing this needs numpy alone; what a set is read with loads when the set is first fetched.
"""

from apps.lab.datasets.base import Dataset
from apps.lab.datasets.faces import orl, vggface2
from apps.lab.datasets.heldout import HeldOut
from apps.lab.datasets.images import digits, fashion_mnist, mnist, mnist5k, mnist5k_shifted
from apps.lab.datasets.store import DataMissingError
from apps.lab.datasets.tables import amazon, kddcup99, shuttle

__all__ = [
    "DataMissingError", "Dataset", "HeldOut", "amazon", "digits", "fashion_mnist", "kddcup99", "mnist", "mnist5k",
    "mnist5k_shifted", "orl", "shuttle", "vggface2",
]  # fmt: skip
