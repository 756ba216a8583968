"""No message may hang or grow its reader, nor end in another exception than the declared one, whatever stands in it.

``python -m tests.verification.fuzz --minutes 10`` for more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.crypto.exact import digits, exact_product
from flwr_faa.verification.base import Finding, worst
from flwr_faa.verification.spotcheck.messages import Challenge
from flwr_faa.verification.wire import WireError, unpack
from tests.verification import fuzz
from tests.verification.hostile import hostile, message, raw, raw_array
from tests.verification.targets import Target, decoders, targets

NAMES = [
    *["answer", "commitment", "enrolled", "enrol", "challenge"],
    *[f"{name}, commitments" for name in ("answer", "enrolled", "enrol", "challenge")],
    *["paper evidence", "paper request", "replay evidence", "replay request"],
]  # fmt: skip


class Aims(dict[str, Target]):
    """Shown by hypothesis in every failure."""

    def __repr__(self) -> str:
        return "aims"


@pytest.fixture(scope="module")
def aims(tmp_path_factory: pytest.TempPathFactory) -> Aims:
    return Aims(targets(tmp_path_factory.mktemp("device")))


def encoded(target: Target, **changed: Any) -> bytes:
    fields = {**target.honest, **changed}
    return message(
        target.kind, [(n, v if isinstance(v, bytes) and n in changed else raw(v)) for n, v in fields.items()]
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_honest_is_read(name: str, aims: Aims) -> None:
    assert name in aims and aims.keys() == set(NAMES)
    found = aims[name].send(encoded(aims[name]))
    assert not isinstance(found, Finding) or not found.convicted


@settings(max_examples=120)
@given(data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_no_message_has_another_outcome_than_the_declared(name: str, aims: Aims, data: st.DataObject) -> None:
    target = aims[name]
    sent = data.draw(hostile(target.kind, target.honest))
    found = target.survives(sent)
    if name.startswith("answer") and isinstance(found, Finding) and not found.convicted:
        assert sent == encoded(target)


def test_the_least_integer_is_a_claim_that_is_refused(aims: Aims) -> None:
    """`np.abs` of the least int64 is negative: an endless loop in the digits of a claim."""
    for value in (-(2**63), 2**63 - 1, 2**53, -(2**53), 2**62):
        claims = np.array(aims["answer"].honest["claims"])
        claims[3, 2] = value
        with pytest.raises(WireError, match="below 2\\^53"):
            aims["answer"].send(encoded(aims["answer"], claims=raw(claims)))


@pytest.mark.parametrize("name", ["answer", "commitment", "paper evidence", "replay evidence", "challenge"])
@pytest.mark.parametrize("shape", [(0, 2**63), (2**63, 0), (0, 2**40, 2**40), (2**62, 2**62), (2**64 - 1,)])
def test_a_shape_beyond_numpys_limits_is_refused(name: str, shape: tuple[int, ...], aims: Aims) -> None:
    target = aims[name]
    field = next(n for n, v in target.honest.items() if isinstance(v, np.ndarray))
    with pytest.raises(WireError):
        target.send(encoded(target, **{field: raw_array(3, shape, b"")}))


def test_labels_without_an_axis_are_no_labels(aims: Aims) -> None:
    for name in ("paper evidence", "replay evidence", "answer"):
        with pytest.raises(WireError):
            aims[name].send(encoded(aims[name], labels=raw(np.array(3, np.int64))))


def test_a_label_that_torch_would_ignore_is_none(aims: Aims) -> None:
    for value in (-100, -1, 10, 2**63 - 1, -(2**63)):
        labels = np.array(aims["replay evidence"].honest["labels"])
        labels[0] = value
        with pytest.raises(WireError):
            aims["replay evidence"].send(encoded(aims["replay evidence"], labels=raw(labels)))


def test_steps_that_fall_by_more_than_an_integer_holds_do_not_ascend(aims: Aims) -> None:
    """Their difference is 1 in int64, and both ends are in range by themselves."""
    target = aims["challenge"]
    with pytest.raises(WireError, match="ascending"):
        Challenge.from_bytes(encoded(target, steps=raw(np.array([2**63 - 1, -(2**63)]))))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6), st.integers(1, 30))
def test_digits_are_exact_for_every_integer(values: list[int], bits: int) -> None:
    parts = digits(np.array(values), bits)
    assert [sum(int(part[i]) << shift for shift, part in parts) for i in range(len(values))] == values
    assert all(np.abs(part).max() < 2**bits for _, part in parts)
    vector = list(range(1, len(values) + 1))
    assert exact_product(np.array([values]), vector) == [sum(v * k for v, k in zip(values, vector, strict=True))]


@given(st.lists(st.floats() | st.just(float("nan")), max_size=5))
def test_a_nan_is_the_worst_error_wherever_it_stands(errors: list[float]) -> None:
    found = worst(errors)
    assert not any(not error <= found for error in errors if not math.isnan(error))
    assert found == float("inf") or not any(map(math.isnan, errors))


@settings(max_examples=300)
@given(data=st.data())
@pytest.mark.parametrize("name", ["public key", "ciphertexts", "points", "signed public key"])
def test_decoders_refuse_with_a_value_error(name: str, data: st.DataObject) -> None:
    honest, decode = decoders()[name]
    nearly = near(data, honest)
    try:
        decode(nearly)
    except ValueError:
        return
    assert len(nearly) <= len(honest)


def near(data: st.DataObject, honest: bytes) -> bytes:
    """Bytes of which a few are others, a run is an extreme, or that are longer or shorter."""
    changed = bytearray(honest)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(changed) - 1) | st.integers(0, 16))
        run = data.draw(
            st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x80", b"\x7f\xff\xff\xff", b"\xff" * 48, b"\0" * 48])
        )
        changed[at : at + len(run)] = run
    return bytes(changed[: data.draw(st.integers(0, len(changed)) | st.just(len(changed)))])


def test_a_message_of_many_fields_is_refused() -> None:
    many = message("k", [(f"{i:03}", raw(0)) for i in range(255)])
    with pytest.raises(WireError, match="expected fields"):
        unpack(many, "k", {"a": int})


def test_the_fuzzer_runs_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--minutes", "0"]) == 0
    *lines, memory = capsys.readouterr().out.splitlines()
    sent = {line[:24].strip(): int(line[24:].split()[0]) for line in lines}
    assert sent.keys() == set(NAMES) and min(sent.values()) >= 10 and memory.startswith("memory")
