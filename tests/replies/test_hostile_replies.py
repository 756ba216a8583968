"""Random models, honest replies and hostile ones: nothing is raised, the honest are heard, the model stays sound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_faa.defence import Defence
from flwr_faa.detection import MultiView
from flwr_faa.pipeline import Pipeline
from flwr_faa.replies.averaging import average
from flwr_faa.replies.updates import Reply, read_replies
from tests.helpers.models import Model, models, trained

HONEST = 5
EXTREMES = (0, 1, -1, 0.5, 1e-300, 65504, 1e9, 1e37, 3e38, 1e300, 1.7e308, np.nan, np.inf, -np.inf)
WHOLE = (0, 1, -1, 2**31, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 2**64 - 1)
EXAMPLES = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**4000), True, None, "10", b"", [10], [], 1e-320, 10**9, np.float32("inf")]),
)


@st.composite
def hostile(draw: Any, model: Model) -> Reply:
    """A reply that is honest but for what is drawn: values, dtypes, shapes, arrays left out or twice, numbers."""
    arrays: list[Any] = list(trained(model, draw(st.integers(0, 9))).values())
    for i in draw(st.sets(st.integers(0, len(arrays) - 1), min_size=1)):
        a = arrays[i]
        kind = draw(st.sampled_from(["value", "one", "dtype", "shape", "none", "any"]))
        with np.errstate(all="ignore"):
            if kind in ("value", "one"):
                values = EXTREMES if a.dtype.kind == "f" else WHOLE
                value = np.array(draw(st.sampled_from(values)), object if a.dtype.kind != "f" else float)
                wide = value.astype(np.uint64 if a.dtype == np.uint64 and value > 0 else float).astype(a.dtype)
                a = np.full_like(a, wide) if kind == "value" else np.where(np.arange(a.size).reshape(a.shape), a, wide)
            elif kind == "dtype":
                a = a.astype(draw(st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "u8", "i8", "?", "c8", "U3", "O"])))
            elif kind == "shape":
                a = draw(st.sampled_from([a.ravel(), a[None], np.zeros((0, *a.shape), a.dtype), a.T, np.zeros(7)]))
            elif kind == "none":
                a = None
            else:
                a = draw(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
        arrays[i] = a
    arrays = draw(st.sampled_from([arrays, arrays, arrays, arrays[:-1], arrays * 2, arrays[::-1], []]))
    return Reply(0, arrays, draw(st.one_of(st.just(10), EXAMPLES)))


@st.composite
def rounds(draw: Any) -> tuple[Model, list[Reply], list[Reply]]:
    """A model, replies of five honest clients to it, and of one or two others."""
    model = draw(models(extreme=True))
    good = [Reply(10 + i, list(trained(model, i).values()), 20 + i) for i in range(HONEST)]
    bad = [
        Reply(i, r.arrays, r.num_examples) for i, r in enumerate(draw(st.lists(hostile(model), min_size=1, max_size=2)))
    ]
    return model, good, bad


def check(found: list[np.ndarray], model: Model) -> None:
    for new, w in zip(found, model.values(), strict=True):
        assert (new.dtype, new.shape) == (w.dtype, w.shape)
        assert np.isfinite(new[np.isfinite(w)]).all()


@settings(max_examples=300)
@given(rounds(), st.booleans())
def test_no_reply_costs_anybody_else_anything(drawn: tuple[Model, list[Reply], list[Reply]], named: bool) -> None:
    model, good, bad = drawn
    w, names = list(model.values()), tuple(model) if named else ()
    batch = read_replies(bad + good, w, names=names)
    assert {r.node_id for r in good} <= set(batch.node_ids)
    assert np.isfinite(batch.updates).all()
    assert (batch.weights > 0).all() and np.isfinite(batch.weights).all()
    check(average(batch, batch.canonical, w), model)
    # A counter moves by what an honest client may claim, at most.
    alone = average(read_replies(good, w, names=names), range(HONEST), w)
    for ours, theirs, before in zip(average(batch, batch.canonical, w), alone, w, strict=True):
        if before.dtype.kind in "iu":
            assert abs(int(ours.max(initial=0)) - int(theirs.max(initial=0))) <= 3000


@settings(max_examples=100)
@given(rounds(), st.randoms(use_true_random=False))
def test_a_round_ends_the_same_in_any_order(drawn: tuple[Model, list[Reply], list[Reply]], random: Any) -> None:
    model, good, bad = drawn
    w, replies = list(model.values()), bad + good
    results = []
    for _ in range(2):
        arrays, report = Pipeline(MultiView()).run(1, replies, w, lambda challenges: {}, names=tuple(model))
        check(arrays, model)
        assert {v.node_id for v in report.nodes} == {r.node_id for r in replies}
        results.append([a.tobytes() for a in arrays])
        random.shuffle(replies)
    assert results[0] == results[1]


def test_a_few_bad_replies_while_most_are_silent_do_not_stop_a_run() -> None:
    model = [np.zeros(3, np.float32)]
    bad = [Reply(i, [np.full(3, np.nan, np.float32)], 10) for i in range(2)]
    silent = [Reply(i, problem="no reply in time", absent=True) for i in range(2, 4)]
    arrays, report = Defence(None, None, None, None, 1.0, 1).decide(1, bad + silent, model, lambda challenges: {}, {})
    assert not report.accepted and not arrays[0].any()
    with pytest.raises(RuntimeError, match="expected replies that can be judged one by one"):
        Defence(None, None, None, None, 1.0, 1).decide(1, bad + silent[:1], model, lambda challenges: {}, {})
