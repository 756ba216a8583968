"""A client's part of a data set as a file. A device reads its own, and needs no data set library."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flwr_faa.verification.training import Data


@dataclass(frozen=True, eq=False)
class Slice:
    """What a device holds.

    Parameters
    ----------
    data : tuple of ndarray
        Samples, uint8, shape (m, ...), and labels, int64, shape (m,).
    partition : int
        Which part of its data set this is. Only reports use it; no decision trusts it.
    """

    data: Data
    partition: int

    def write(self, path: Path) -> None:
        """Write it to a new file, or in place of an older one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, samples=self.data[0], labels=self.data[1], partition=self.partition)

    @classmethod
    def read(cls, path: Path, shape: tuple[int, ...]) -> Slice:
        """Read a file; ``shape`` is that of one sample.

        Raises
        ------
        ValueError
            There is no such file, or what it holds is not a slice with such samples. The text is for the device's
            owner, who finds it in the SuperNode's log.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                samples, labels, partition = stored["samples"], stored["labels"], stored["partition"]
        except (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"expected a slice of 'python -m apps.lab.slice' at {path}, got {error!r}") from error
        got = f"samples {samples.dtype} {samples.shape}, labels {labels.dtype} {labels.shape}"
        same = len(samples) == len(labels) > 0 and labels.ndim == 1 and partition.shape == ()
        if not same or samples.dtype != np.uint8 or labels.dtype.kind != "i" or samples.shape[1:] != shape:
            raise ValueError(f"{path}: expected uint8 samples of shape {shape} and as many labels, got {got}")
        return cls((samples, labels.astype(np.int64)), int(partition))
