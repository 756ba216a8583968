"""Flower logs one line per node and round; here nobody reads them. Data sets are small files; no network is used."""

import logging
from pathlib import Path

import pytest
from flwr.common.logger import FLOWER_LOGGER  # importing it sets its level

from tests.lab import smalldata

FLOWER_LOGGER.setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set that somebody can place by hand, in its real format and small; a folder for FAA_DATA."""
    folder = tmp_path_factory.mktemp("data")
    smalldata.write_idx(folder / "MNIST" / "raw", packed=True)
    smalldata.write_idx(folder / "FashionMNIST" / "raw", packed=False)
    smalldata.write_kdd(folder / "kddcup99_10-py3" / "kddcup99_10_data")
    smalldata.write_openml(folder / "openml" / "openml.org")
    smalldata.write_faces(folder / "vggface2" / "train", [f"n{i:06d}" for i in range(12)], "jpg", "RGB")
    smalldata.write_faces(folder / "orl", [f"s{i}" for i in range(1, 41)], "pgm", "L")
    return folder


@pytest.fixture
def faa_data(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FAA_DATA with those files. Scikit-learn compares KDD's checksum: here it is the small file's."""
    from sklearn.datasets import _kddcup99

    monkeypatch.setenv("FAA_DATA", str(small_data))
    archive = _kddcup99.ARCHIVE_10_PERCENT._replace(checksum=None, url="http://127.0.0.1:9/")
    monkeypatch.setattr(_kddcup99, "ARCHIVE_10_PERCENT", archive)
    return small_data
