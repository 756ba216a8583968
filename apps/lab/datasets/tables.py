"""Tables: LoMar's KDDCup99 and Amazon Commerce reviews, and Shuttle, which stands in for KDD under its own name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.datasets.base import Dataset, split
from apps.lab.datasets.store import stored

#: Where Debian's r-cran-mlbench puts Shuttle.
DEBIAN_SHUTTLE = Path("/usr/lib/R/site-library/mlbench/data/Shuttle.rda")


def kddcup99() -> Dataset:
    """Load 10% of KDD Cup 1999: 494,021 network connections, 41 columns, 23 labels, three of them 98% (scikit-learn).

    The labels are numbered in the order of their names. Reading the original takes 1.6 GB of memory, once.
    """
    expected = "kddcup99_10-py3/kddcup99_10_data (kddcup.data_10_percent.gz, renamed)"
    return stored("kddcup99", _kddcup99, expected)


def amazon() -> Dataset:
    """Load Amazon Commerce reviews (OpenML 1457; Liu et al. 2011): 1,500 reviews by 50 authors, 10,000 counts each."""
    return stored("amazon", _amazon, "OpenML's cache of data set 1457 under openml/openml.org")


def shuttle() -> Dataset:
    """Load Statlog Shuttle: 58,000 rows, 9 columns, 7 labels, one of them 79%; the shape of KDD, but not KDD.

    Debian's r-cran-mlbench carries it; PyPI's rdata reads it.
    """
    return stored("shuttle", _shuttle, f"Shuttle.rda from Debian's r-cran-mlbench (or {DEBIAN_SHUTTLE})")


def quantise(columns: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return a table as integers from 0 to 255, column by column, since a training plan takes integers and one scale.

    ``round(255 (f(x) - min f) / (max f - min f))`` with f the identity, or, where a column's range exceeds 255 and a
    few giants would make zeros of all others (bytes sent), ``sign(x) log(1 + |x|)``. A column of words becomes the
    ranks of its words first. A constant column is 0. Minima and maxima are those of all rows, training and test.

    Parameters
    ----------
    columns : ndarray, shape (m, features)
    """
    samples = np.zeros(columns.shape, np.uint8)
    for j, column in enumerate(columns.T):
        try:
            x = column.astype(np.float64)
        except ValueError:
            x = np.unique(column.astype(str), return_inverse=True)[1].astype(np.float64)
        if np.ptp(x) > 255:
            x = np.sign(x) * np.log1p(np.abs(x))
        if reach := np.ptp(x):
            samples[:, j] = np.rint(255 * (x - x.min()) / reach)
    return samples


def _kddcup99(folder: Path) -> Dataset:
    from sklearn.datasets import fetch_kddcup99

    samples, labels = fetch_kddcup99(data_home=folder, percent10=True, n_retries=1, return_X_y=True)
    return _split(samples, labels)


def _amazon(folder: Path) -> Dataset:
    from sklearn.datasets import fetch_openml

    samples, labels = fetch_openml(
        data_id=1457, data_home=folder, n_retries=1, return_X_y=True, as_frame=False, parser="auto"
    )
    return _split(samples, labels)


def _shuttle(folder: Path) -> Dataset:
    import rdata  # optional extra

    placed = folder / "Shuttle.rda"
    file = placed if placed.exists() else DEBIAN_SHUTTLE
    table = rdata.read_rda(file, default_encoding="ascii")["Shuttle"]
    return _split(table.drop(columns="Class").to_numpy(), table["Class"].to_numpy())


def _split(samples: npt.NDArray[Any], names: npt.NDArray[Any]) -> Dataset:
    return split(quantise(samples), np.unique(names.astype(str), return_inverse=True)[1])
