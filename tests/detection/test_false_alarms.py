"""Nobody attacks: detection without verification keeps to its rate, with few clients, unequal ones and counters."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from apps.lab.attacks import Boosted, SignFlip
from apps.lab.config import load
from apps.lab.models import cnn
from apps.lab.partitions.split import choose_malicious, unequal
from apps.studies import false_alarms
from apps.studies.lomar_detection.cells import rounds
from flwr_faa import TrainingPlan
from flwr_faa.detection import MultiView, as_detector
from flwr_faa.detection.geometry import Cloud
from flwr_faa.detection.multiview import RATE
from flwr_faa.detection.threshold import largest_z
from flwr_faa.detection.views import FAR, GROSS, LONG, harm_views, number_of_chances, pull_of
from flwr_faa.pipeline import Pipeline
from flwr_faa.replies.updates import Batch, Layout, Reply, read_replies
from flwr_lomar import LoMarDetector
from tests.detection.simulate import batch_of, crowd

DEFAULTS = {"FAADL": MultiView(), "LoMar": as_detector(LoMarDetector())}
BOTH = pytest.mark.parametrize("name", list(DEFAULTS))
LINEAR = ((10, 20), (10,))


def suspects(name: str, batches) -> tuple[int, int]:
    """How many of how many."""
    found = [(len(DEFAULTS[name].detect(batch, 0).suspects), len(batch)) for batch in batches]
    return sum(s for s, _ in found), sum(n for _, n in found)


@BOTH
@pytest.mark.parametrize("n", [3, 4, 5, 6, 10, 30])
@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_equal_noise(name, n, signal):
    """A linear model of ten labels; at n = 3 a fifth was suspected."""
    rng = np.random.default_rng(n)
    rounds = [signal * rng.normal(size=210) + rng.normal(size=(n, 210)) for _ in range(max(8, 200 // n))]
    removed, everybody = suspects(name, [batch_of(x.astype(np.float32), LINEAR) for x in rounds])
    assert removed <= RATE * everybody


@BOTH
@pytest.mark.parametrize("d", [1, 2, 3, 5, 10])
def test_few_columns(name, d):
    """In one dimension LoMar suspected 23%."""
    rng = np.random.default_rng(d)
    rounds = [rng.normal(size=(n, d)).astype(np.float32) for n in (6, 10, 20, 50) for _ in range(6)]
    removed, everybody = suspects(name, [batch_of(x) for x in rounds])
    assert removed <= RATE * everybody


@BOTH
@pytest.mark.parametrize("factor", [1.1, 1.5, 0.5])
def test_a_group_that_is_a_little_longer_or_shorter_matters_to_nobody(name, factor):
    """As clients with differential privacy are; LoMar removed 26 of 200 at 1.1, and all of the group at 1.5."""
    for seed in range(6):
        updates = np.random.default_rng(seed).normal(size=(10, 5000))
        updates[[0, 3, 5]] *= factor
        assert DEFAULTS[name].detect(batch_of(updates.astype(np.float32)), 0).suspects == ()


@BOTH
@pytest.mark.parametrize("partition", list(false_alarms.PARTITIONS))
def test_real_clients(name, partition):
    detectors = {name: DEFAULTS[name]}
    federations = (
        (3, 3),
        (6, 6),
        (20, 20),
        (20, 100),
    )  # of those drawn some have a twin, and some a label for themselves
    batches = [b for n, of in federations for b in false_alarms.honest_rounds("MLP", partition, n, of, 7)]
    alarms = sum(false_alarms.suspected(d, b).sum() for d in detectors.values() for b in batches)
    assert alarms <= (0 if partition in ("iid", "sizes differ tenfold") else 3)


@pytest.fixture(scope="module")
def batch_norm_rounds():
    """Six rounds of 20 clients with 32 to 120 samples: how many batches each counted differs."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 1, 8, 8).astype(np.uint8)
    plan = TrainingPlan(partial(cnn, (1, 8, 8), 10, True), 0.05, batch_size=8, scale=1 / 16)
    parts = unequal(y[:1400], 20, 3, 120 / 32)
    arrays, names = plan.initial_arrays(1), list(plan.model().state_dict())
    found = []
    for number in range(6):
        trained = [plan.train(arrays, (x[p], y[p]), number) for p in parts]
        replies = [Reply(i, own, len(p)) for i, (own, p) in enumerate(zip(trained, parts, strict=True))]
        found.append((arrays, replies, names))
        arrays, _ = Pipeline(MultiView(), observe=True).run(number, replies, arrays, lambda asked: {})
    return found


@BOTH
def test_batch_norm_and_unequal_sizes_cost_honest_clients_nothing(name, batch_norm_rounds):
    """With counters among the parameters, 47 of 120 were removed, and 6 by LoMar."""
    batches = [read_replies(replies, arrays) for arrays, replies, _ in batch_norm_rounds]
    removed, everybody = suspects(name, batches)
    assert everybody == 120 and removed <= 2


@BOTH
def test_counters_are_in_no_view(name, batch_norm_rounds):
    arrays, replies, _ = batch_norm_rounds[0]
    counters = [i for i, array in enumerate(arrays) if array.dtype.kind == "i"]
    assert len(counters) == 2
    changed = []
    for reply in replies:
        own = list(reply.arrays)
        for i in counters:
            own[i] = np.asarray(own[i] + 10 * reply.node_id, own[i].dtype)
        changed.append(Reply(reply.node_id, own, reply.num_examples))
    before, after = (DEFAULTS[name].detect(read_replies(r, arrays), 0) for r in (replies, changed))
    assert np.array_equal(before.scores, after.scores)


@BOTH
def test_running_statistics_have_a_view_of_their_own(name, batch_norm_rounds):
    arrays, replies, _ = batch_norm_rounds[5]
    batch = read_replies(replies, arrays)
    statistics = batch.layout.statistics
    assert statistics.stop - statistics.start == 2 * (32 + 64)
    updates = batch.updates.copy()
    updates[4, statistics] *= -30
    updates[9, statistics.stop - 1] += 1e6  # one variance
    odd = Batch(batch.node_ids, updates, batch.weights, batch.layout, {})
    found = DEFAULTS[name].detect(odd, 0)
    assert {4, 9} <= set(found.suspects) and len(found.suspects) <= 3
    assert all("running statistics" in found.evidence[row] for row in (4, 9))


@BOTH
def test_with_few_clients_only_the_gross_is_known(name):
    for n in (3, 4, 5):
        updates = crowd(n, n)
        for factor in (0.0, 0.1, 5.0):
            updates[1] = factor * crowd(n, n)[1]
            assert DEFAULTS[name].detect(batch_of(updates), 0).suspects == ()
        updates[1] = 100 * crowd(n, n)[1]
        assert DEFAULTS[name].detect(batch_of(updates), 0).suspects == (1,)


def test_scores_exceed_the_threshold_only_where_the_difference_matters():
    batch = batch_of(crowd(20), ((4, 5), (3, 4), (3,)))
    found = MultiView().detect(batch)
    views = harm_views(Cloud.of(batch))
    assert found.threshold == largest_z(20, number_of_chances(views), RATE)
    for view in views:
        away = view.values - np.median(view.values)
        below, above = view.matters
        assert not (np.abs(view.among(4.0)) > 4.0)[(away > -below) & (away < above)].any()
    assert views[0].matters[1] == FAR
    assert harm_views(Cloud.of(batch_of(crowd(5))))[0].matters[1] == GROSS


def test_the_command_prints_both_tables(tmp_path, capsys):
    """And goes on where it was: the second time it measures nothing."""
    out = tmp_path / "cells.jsonl"
    rows = [false_alarms.run(false_alarms.Cell(False, "MLP", "sizes differ tenfold", 3, 3, 0))]
    assert "| MLP | sizes differ tenfold | 0.0 |" in false_alarms.alarms_table(rows)
    rows = [false_alarms.run(false_alarms.Cell(True, "MLP", "iid", 10, 10, 1))]
    assert "| Gaussian | 100.0 / 0.0 |" in false_alarms.recall_table(rows)
    out.write_text("")
    assert false_alarms.main(["--finished", "--quick", "--out", str(out)]) == 0


@pytest.mark.parametrize("model", ["logistic", "mlp"])
def test_clients_who_took_more_steps_are_longer_and_no_suspects(model):
    """Sizes differ tenfold, and few batches: one client takes a step, another six; up to 4% were suspected."""
    batches = []
    for seed, n in product(range(3), (10, 20, 40)):
        scenario = load(f"dataset=digits model={model} clients={n} partition=unequal seed={seed}")
        for one, honest in rounds(scenario, 3):
            batches.append(Batch(tuple(range(n)), honest, np.ones(n), Layout.of(one.model), {}))
    for name in DEFAULTS:
        removed, everybody = suspects(name, batches)
        assert removed <= 0.02 * everybody


@BOTH
@pytest.mark.parametrize("partition", ["unequal", "shards", "lambda"])
@pytest.mark.parametrize("share", [0.2, 0.4])
def test_who_turns_the_mean_is_found_however_many(name, partition, share):
    """Four of ten widen every spread, by which half of them passed; where the mean points they cannot hide."""
    for attack in (SignFlip(share), Boosted(share)):
        scenario = load(f"dataset=digits clients=10 partition={partition} seed=1")
        *_, (one, honest) = rounds(scenario, 2)
        malicious = sorted(choose_malicious(scenario.partitions, scenario.dataset.train[1], share, 1))
        batch, odd = false_alarms.attacked(one, honest, attack, malicious)
        assert set(np.flatnonzero(odd)) == set(DEFAULTS[name].detect(batch, 0).suspects)


@given(st.integers(6, 30), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_nobody_pulls_the_mean_who_is_no_longer_than_usual(n, seed, unit):
    rng = np.random.default_rng(seed)
    to_mean, norms = rng.uniform(-1, 1, n), unit * rng.lognormal(0, 1, n)
    pull = pull_of(to_mean, norms)
    usual, long = np.median(to_mean), norms > LONG * np.median(norms)
    assert (pull[~long] == usual).all() and np.array_equal(pull[long], to_mean[long])
    assert np.median(pull) == usual  # fewer than half are long
