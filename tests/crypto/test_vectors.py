"""The vectors on disk are what the second implementation writes, and what the package computes."""

import json

import numpy as np
import pytest

from flwr_faa.crypto import aont, ipfe
from flwr_faa.crypto.group import Group
from tests.crypto.make_vectors import HERE, vectors
from tests.crypto.oracle import Scalars


def test_the_files_are_the_script_s() -> None:
    assert {file.name: json.loads(file.read_text()) for file in HERE.iterdir()} == vectors()


def test_encryption_byte_by_byte(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = json.loads((HERE / f"ipfe-{group.name}.json").read_text())
    draw = Scalars(vector["seed"])
    monkeypatch.setattr(ipfe, "_random_scalar", lambda g: draw(g.order))

    public, master = ipfe.setup(group, len(vector["x"][0]))
    assert [f"{s:x}" for s in master.scalars] == vector["master"]
    assert public.to_bytes().hex() == vector["public"]
    assert ipfe.ciphertexts_to_bytes(ipfe.encrypt_rows(public, vector["x"])).hex() == vector["ciphertexts"]
    assert [f"{ipfe.derive_key(master, y).secret:x}" for y in vector["y"]] == vector["secrets"]


def test_decryption_of_the_bytes(group: Group) -> None:
    vector = json.loads((HERE / f"ipfe-{group.name}.json").read_text())
    ciphertexts = ipfe.ciphertexts_from_bytes(group, bytes.fromhex(vector["ciphertexts"]))
    for y, secret, values in zip(vector["y"], vector["secrets"], zip(*vector["values"], strict=True), strict=True):
        key = ipfe.FunctionalKey(tuple(y), int(secret, 16))
        for ciphertext, value in zip(ciphertexts, values, strict=True):
            assert ipfe.claim_holds([ciphertext], [1], key, value)
            if abs(value) < 2**20:
                assert ipfe.decrypt(ciphertext, key, abs(value)) == value


def test_the_transform() -> None:
    for case in json.loads((HERE / "aont.json").read_text()):
        assert aont.transform(np.array(case["x"])).tolist() == case["u"]
        assert aont.inverse(np.array(case["u"])).tolist() == case["x"]
