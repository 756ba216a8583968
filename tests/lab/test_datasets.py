"""The real loaders, on small files in the real formats, from a folder or from a server on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from apps.lab import datasets
from apps.lab.datasets.tables import quantise
from tests.lab import smalldata


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server on this machine, and the folder that it gives out."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/", folder
        http.shutdown()
        thread.join()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty FAA_DATA."""
    monkeypatch.setenv("FAA_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def is_what_was_written(data: datasets.Dataset) -> None:
    rng = np.random.default_rng(0)
    for (samples, labels), count in ((data.train, 120), (data.test, 40)):
        np.testing.assert_array_equal(samples, rng.integers(0, 256, (count, 28, 28))[:, None])
        np.testing.assert_array_equal(labels, np.arange(count) % 10)
        assert (samples.dtype, labels.dtype) == (np.uint8, np.int64)


@pytest.mark.parametrize(("load", "kind"), [(datasets.mnist, "MNIST"), (datasets.fashion_mnist, "FashionMNIST")])
@pytest.mark.parametrize("packed", [True, False])
def test_placed_idx_files_are_read_packed_or_not(load, kind: str, packed: bool, empty: Path) -> None:
    raw = empty / kind / "raw"
    smalldata.write_idx(raw, packed)
    before = sorted(raw.iterdir())
    is_what_was_written(load())
    assert sorted(raw.iterdir()) == before  # nothing is unpacked beside them
    for file in raw.iterdir():
        file.unlink()
    is_what_was_written(load())  # from the .npz


def test_mnist_is_downloaded_where_nothing_is_placed(server, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    url, served = server
    monkeypatch.setattr(MNIST, "resources", smalldata.write_idx(served, packed=True))
    monkeypatch.setattr(MNIST, "mirrors", [url])
    is_what_was_written(datasets.mnist())
    assert {p.name for p in empty.iterdir()} == {"mnist.npz", ".mnist.lock"}


def test_kddcup99_is_downloaded_and_quantised(server, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import _kddcup99

    url, served = server
    checksum = smalldata.write_kdd(served / "archive")
    archive = _kddcup99.ARCHIVE_10_PERCENT._replace(url=url + "archive", checksum=checksum)
    monkeypatch.setattr(_kddcup99, "ARCHIVE_10_PERCENT", archive)
    data = datasets.kddcup99()
    samples = np.concatenate([data.train[0], data.test[0]])
    assert samples.shape == (230, 41)
    assert np.bincount(data.train[1]).tolist() == [8] * 23  # a fifth of each label is for testing
    assert set(np.unique(samples[:, 2])) == {0, 128, 255}  # ftp, http, smtp
    assert set(np.unique(samples[:, 24])) == {0, 64, 128, 191, 255}  # serror_rate 0, .25, .5, .75, 1
    sent = np.sort(np.log1p(np.arange(230.0) ** 2 * 1000))  # src_bytes spans 52 millions: logarithms
    np.testing.assert_array_equal(np.sort(samples[:, 4]), np.rint(255 * sent / sent[-1]))
    assert not samples[:, 19].any()  # a constant column


def test_amazon_comes_from_openmls_cache(empty: Path) -> None:
    smalldata.write_openml(empty / "openml" / "openml.org")
    data = datasets.amazon()
    assert data.train[0].shape == (200, 40)
    assert np.bincount(data.test[1]).tolist() == [1] * 50
    counts = np.random.default_rng(0).poisson(2.0, (250, 40))
    found = np.concatenate([data.train[0], data.test[0]])
    expected = np.rint(255 * (counts - counts.min(0)) / np.ptp(counts, axis=0))
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_amazon_is_asked_for_at_openml(server, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import _openml

    for name in ("_SEARCH_NAME", "_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        monkeypatch.setattr(_openml, name, getattr(_openml, name).replace("https://www.openml.org/", server[0]))
    with pytest.raises(datasets.DataMissingError, match=r"amazon\.npz, or OpenML's cache.*docs/how-to/data\.md.*404"):
        datasets.amazon()


def test_faces_are_cut_out_of_the_middle(empty: Path) -> None:
    people = [f"n{i:06d}" for i in range(4)]
    smalldata.write_faces(empty / "vggface2" / "train", people, "jpg", "RGB")
    smalldata.write_faces(empty / "orl", ["s1", "s2"], "pgm", "L")
    (empty / "orl" / "s2" / "target.jpg").write_bytes(b"no face")
    colour, grey = datasets.vggface2(identities=3, side=32), datasets.orl(identities=2, side=32)
    assert colour.train[0].shape == (12, 3, 32, 32)
    assert sorted(np.concatenate([colour.train[1], colour.test[1]])) == [0] * 5 + [1] * 5 + [2] * 5
    assert grey.train[0].shape == (8, 1, 32, 32)
    with pytest.raises(datasets.DataMissingError, match="expected 5 folders of images"):
        datasets.vggface2(identities=5, side=32)


def test_shuttle_is_read_from_debians_file(empty: Path) -> None:
    rdata = pytest.importorskip("rdata", reason="the group stand-ins")
    import pandas as pd

    empty.mkdir()
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(-9, 200, (100, 9)).astype(np.float64), columns=[f"V{i}" for i in range(1, 10)])
    table["Class"] = pd.Categorical([("Rad.Flow", "High")[i % 2] for i in range(100)])
    rdata.write_rda(empty / "Shuttle.rda", {"Shuttle": table})
    data = datasets.shuttle()
    assert data.train[0].shape == (80, 9)
    assert np.bincount(data.test[1]).tolist() == [10, 10]


@pytest.mark.parametrize(
    ("load", "wanted"),
    [(datasets.vggface2, r"vggface2/train/n000002"), (datasets.kddcup99, r"kddcup99_10-py3/kddcup99_10_data")],
)
def test_an_error_says_what_to_put_where(load, wanted: str, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import _kddcup99

    archive = _kddcup99.ARCHIVE_10_PERCENT._replace(url=(empty / "nothing").as_uri())
    monkeypatch.setattr(_kddcup99, "ARCHIVE_10_PERCENT", archive)
    with pytest.raises(datasets.DataMissingError, match=rf"expected .*npz, or .*{wanted}.* in {empty} \(FAA_DATA\)"):
        load()


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.lab.datasets.store import root

    monkeypatch.delenv("FAA_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert root() == tmp_path / "flwr-anomaly" / "data"


def test_quantise_keeps_order_and_uses_the_whole_range() -> None:
    table = np.array([[1.0, -1e6, 5.0], [2.0, 0.0, 5.0], [3.0, 1e6, 5.0]])
    np.testing.assert_array_equal(quantise(table), [[0, 0, 0], [128, 128, 0], [255, 255, 0]])
