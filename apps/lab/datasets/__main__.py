"""``python -m apps.lab.datasets mnist kddcup99``: fetch and convert data sets, and say what is in them and where."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from apps.lab import datasets
from apps.lab.datasets.store import root

NAMES = ("mnist", "fashion_mnist", "kddcup99", "amazon", "vggface2", "shuttle", "orl")


def main() -> int:
    """Fetch and describe the data sets; the exit code is 1 if one could not be fetched."""
    parser = argparse.ArgumentParser(prog="python -m apps.lab.datasets", description=__doc__)
    parser.add_argument("names", nargs="+", choices=NAMES)
    missing = False
    print(f"FAA_DATA: {root()}")
    for name in parser.parse_args().names:
        try:
            data = getattr(datasets, name)()
        except datasets.DataMissingError as why:
            missing = True
            print(f"{name}: {why}", file=sys.stderr)
            continue
        shape, labels = data.train[0].shape[1:], len(np.unique(data.train[1]))
        print(f"{name}: {len(data.train[1])} samples to train, {len(data.test[1])} to test, {shape}, {labels} labels")
    return int(missing)


if __name__ == "__main__":
    sys.exit(main())
