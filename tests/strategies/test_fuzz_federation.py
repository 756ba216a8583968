"""A short run of the fuzzer of whole federations; ``python -m tests.helpers.fuzz_federation`` is the long one."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from flwr_faa.verification.wire import pack
from tests.helpers.fuzz_federation import Episode, check, combinations, run
from tests.helpers.mutations import CHANGES

FIRST = list(islice(combinations(1), 26))


#: Episodes that ended a run once: records under other names, arrays that Flower cannot read.
FOUND = [
    Episode("message", defence, verifier, seed)
    for defence, verifier, seed in (
        ("LoMar", "none", 4),
        ("protect(FedAvg)", "none", 5),
        ("protect(FedAvg)", "Replay", 2),
        ("protect(FedAdam)", "Paper", 4),
    )
]


@pytest.mark.parametrize("episode", [*FIRST, *FOUND], ids=lambda episode: f"{episode} {episode.seed}")
def test_no_hostile_reply_ends_a_run_or_costs_an_honest_node(episode: Episode, tmp_path: Path) -> None:
    check(episode, run(episode, tmp_path))


def test_every_combination_is_there() -> None:
    assert len({str(episode) for episode in FIRST}) == len(FIRST) == 26


@pytest.mark.parametrize("change", set(CHANGES), ids=lambda change: change.__name__)
def test_a_mutation_changes_what_is_sent_and_not_the_honest_reply(change: Callable[..., None]) -> None:
    honest = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.ones((2, 3), np.float32)), "b": Array(np.zeros(2, np.float32))}),
            "metrics": MetricRecord({"num-examples": 40}),
            "config": ConfigRecord({"faa.commitment": pack("x", {"claims": np.arange(3), "n": 3})}),
        }
    )
    before, changed = repr(honest), set()
    for seed in range(30):
        sent = deepcopy(honest)
        with suppress(TypeError, ValueError, KeyError, IndexError):  # Flower's records refuse it: it cannot be sent
            change(sent, random.Random(seed))
        changed.add(repr(sent))
    assert len(changed) > 5
    assert repr(honest) == before
