"""Small files in the formats of the real data sets, as their publishers give them out."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np

#: A connection as in kddcup.data_10_percent: 41 fields and the label.
KDD = (
    "0,tcp,{service},SF,{sent},5450,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0,0,8,8,{rate},0.00,0.00,0.00,1.00,0.00,0.00,"
    "9,9,1.00,0.00,0.11,0.00,0.00,0.00,0.00,0.00,{label}."
)


def idx(array: np.ndarray) -> bytes:
    """LeCun's format: two zeros, 8 for bytes, the number of axes, their lengths, the values."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_idx(raw: Path, packed: bool, train: int = 120, test: int = 40) -> list[tuple[str, str]]:
    """MNIST's four files; their names with .gz, and the md5 of what was packed."""
    raw.mkdir(parents=True, exist_ok=True)
    rng, resources = np.random.default_rng(0), []
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28))
        for name, array in (
            (f"{part}-images-idx3-ubyte", images),
            (f"{part}-labels-idx1-ubyte", np.arange(count) % 10),
        ):
            content = gzip.compress(idx(array), mtime=0)
            (raw / (f"{name}.gz" if packed else name)).write_bytes(content if packed else idx(array))
            resources.append((f"{name}.gz", hashlib.md5(content, usedforsecurity=False).hexdigest()))
    return resources


def write_kdd(path: Path, kinds: int = 23) -> str:
    """The archive with some rows of each label; its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        KDD.format(
            service=("http", "smtp", "ftp")[i % 3],
            sent=i * i * 1000,
            rate=f"{i % 5 / 4:.2f}",
            label=f"label{i % kinds:02d}",
        )
        for i in range(10 * kinds)
    ]
    content = gzip.compress(("\n".join(rows) + "\n").encode(), mtime=0)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def write_openml(folder: Path, authors: int = 50, features: int = 40) -> None:
    """What OpenML answers for data set 1457, as scikit-learn keeps it: four gzip files."""
    rng = np.random.default_rng(0)
    names = [f"V{j + 1}" for j in range(features)]
    kinds = [f"author{i:02d}" for i in range(authors)]
    arff = ["@RELATION amazon", *(f"@ATTRIBUTE {n} NUMERIC" for n in names)]
    arff += [f"@ATTRIBUTE Class {{{','.join(kinds)}}}", "@DATA"]
    counts = rng.poisson(2.0, (5 * authors, features))
    arff += [",".join(map(str, row)) + f",{kinds[i % authors]}" for i, row in enumerate(counts)]
    feature = [
        {
            "index": str(j),
            "name": n,
            "data_type": "numeric",
            "is_target": "false",
            "is_ignore": "false",
            "is_row_identifier": "false",
            "number_of_missing_values": "0",
        }
        for j, n in enumerate(names)
    ]
    feature.append(feature[0] | {"index": str(features), "name": "Class", "data_type": "nominal", "is_target": "true"})
    text = "\n".join(arff).encode()
    description = {
        "id": "1457",
        "name": "amazon-commerce-reviews",
        "version": "1",
        "format": "ARFF",
        "file_id": "1586660",
        "url": "https://www.openml.org/data/v1/download/1586660/amazon-commerce-reviews.arff",
        "status": "active",
        "default_target_attribute": "Class",
        "md5_checksum": hashlib.md5(text, usedforsecurity=False).hexdigest(),
    }
    for place, content in {
        "api/v1/json/data/1457": json.dumps({"data_set_description": description}).encode(),
        "api/v1/json/data/features/1457": json.dumps({"data_features": {"feature": feature}}).encode(),
        "api/v1/json/data/qualities/1457": json.dumps(
            {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": str(5 * authors)}]}}
        ).encode(),
        "data/v1/download/1586660/amazon-commerce-reviews.arff": text,
    }.items():
        path = folder / f"{place}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, 1, mtime=0))


def write_faces(folder: Path, people: list[str], ending: str, mode: str, images: int = 5) -> None:
    """Folders of pictures, one a person."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for person in people:
        (folder / person).mkdir(parents=True, exist_ok=True)
        for i in range(1, images + 1):
            pixels = rng.integers(0, 256, (112, 92, 3), np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / person / f"{i:04d}_01.{ending}")
