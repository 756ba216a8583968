"""A server's clean samples in the lab, the rules that use them, and the attackers who know of them."""

import math

import numpy as np
import pytest

from apps.lab.attacks import Backdoor, LabelShift, UnderHoldout
from apps.lab.attacks.base import Scene
from apps.lab.baselines import FLTrust, ZenoPlusPlus, holdout
from apps.lab.config import load
from apps.lab.datasets import HeldOut, digits
from apps.lab.running.direct import run_directly
from apps.lab.running.fleet import Fleet
from flwr_faa import TrainingPlan
from flwr_faa.holdout.losses import number_of
from flwr_faa.replies.updates import Batch, Reply, read_replies
from flwr_faa.report import Outcome

SMALL = "dataset=digits model=mlp clients=8 rounds=2 heldout.samples=40"


def held(**more: object) -> HeldOut:
    return HeldOut(digits(), **{"samples": 40, "seed": 1, **more})


def test_held_out_samples_are_no_test_samples_any_more() -> None:
    found, whole = held(), digits()
    samples, labels = found.data
    assert np.bincount(labels).tolist() == [4] * 10
    assert len(found.rest.test[1]) == len(whole.test[1]) - 40
    assert found.rest.train is whole.train
    both = {s.tobytes() for s in found.rest.test[0]} & {s.tobytes() for s in samples}
    assert len(both) <= len(whole.test[1]) - len({s.tobytes() for s in whole.test[0]})  # true doubles alone
    assert np.array_equal(held().rows, found.rows) and not np.array_equal(held(seed=2).rows, found.rows)


def test_held_out_samples_can_be_few_skewed_or_wrong() -> None:
    whole = digits().test[1]
    assert set(held(labels=3).data[1]) == {0, 1, 2}
    counts = np.bincount(held(samples=30, skew=0.5).data[1], minlength=10)
    assert counts[0] == 15 + 2 and counts.sum() == 30
    found = held(wrong=0.25)
    assert np.sum(found.data[1] != whole[found.rows]) == 10
    assert set(found.data[1]) <= set(range(10))
    with pytest.raises(ValueError, match="expected 40 test samples of label 0 to hold out, got"):
        _ = held(samples=40, labels=1).rows
    assert len(held(samples=None).data[1]) == 100


@pytest.fixture(scope="module")
def scenario() -> Fleet:
    return Fleet.of(load(f"{SMALL} attack=label_shift attack.share=0.25 strategy=holdout seed=3"))


@pytest.fixture(scope="module")
def batch(scenario: Fleet) -> Batch:
    """The first round: two of eight clients have shifted labels."""
    model = scenario.plan.initial_arrays(3)
    updates = scenario.train(model, 7)
    return read_replies([Reply(i, u, 100) for i, u in enumerate(updates)], model)


def test_fltrust_is_its_definition(scenario: Fleet, batch: Batch) -> None:
    rule = FLTrust(scenario.plan, held())
    w = batch.layout.flat(batch.base).astype(np.float64)
    own = batch.layout.flat(scenario.plan.train(batch.base, held().data, nonce=0)).astype(np.float64) - w
    g = batch.updates.astype(np.float64)
    trust = [max(0.0, float(u @ own) / np.linalg.norm(u) / np.linalg.norm(own)) for u in g]
    scaled = [t * u * np.linalg.norm(own) / np.linalg.norm(u) for t, u in zip(trust, g, strict=True)]
    assert np.allclose(rule(batch, range(8)), np.sum(scaled, axis=0) / sum(trust), rtol=1e-6)
    detection = rule.detect(batch)
    assert np.allclose(1 - np.maximum(detection.scores, 0), trust, atol=1e-6) or (detection.scores > 1).any()
    assert set(detection.suspects) == {i for i, t in enumerate(trust) if t == 0}


def test_fltrust_gives_no_weight_to_who_goes_the_other_way(scenario: Fleet, batch: Batch) -> None:
    models = [
        [2 * w - a for w, a in zip(batch.base, m, strict=True)] if i < 3 else m for i, m in enumerate(batch.models)
    ]
    turned = read_replies([Reply(i, m, 100) for i, m in enumerate(models)], batch.base)
    for rule in (FLTrust(scenario.plan, held()), ZenoPlusPlus(scenario.plan, held())):
        assert {0, 1, 2} <= set(rule.detect(turned).suspects)


def test_zeno_accepts_who_descends(scenario: Fleet, batch: Batch) -> None:
    """The score from its definition, with the gradient by differences along each update."""
    rule = ZenoPlusPlus(scenario.plan, held())
    detection, loss = rule.detect(batch), holdout(scenario.plan, held()).loss
    for row, score in enumerate(detection.scores):
        g = [m.astype(np.float64) - w for m, w in zip(batch.models[row], batch.base, strict=True)]
        up, down = (
            number_of(loss([(w + s * 1e-2 * d).astype(w.dtype) for w, d in zip(batch.base, g, strict=True)]))
            for s in (1, -1)
        )
        assert math.copysign(1, up - down) == math.copysign(1, score) or abs(up - down) < 1e-4
    own = np.asarray(rule(batch, [0, 1]))
    assert own.shape == (batch.layout.size,) and np.isfinite(own).all()


@pytest.mark.parametrize("strategy", ["holdout", "faa_holdout", "lomar_holdout", "fltrust", "zenopp"])
def test_each_runs_in_the_lab(strategy: str) -> None:
    record = run_directly(Fleet.of(load(f"{SMALL} attack=label_shift attack.share=0.25 strategy={strategy} seed=3")))
    assert len(record.reports) == 2 and all(report.accepted for report in record.reports)
    assert all(not v.banned for r in record.reports for v in r.nodes)
    if "holdout" in strategy:
        assert all(v.verdict in (Outcome.TRUSTED, Outcome.LEFT_OUT) for r in record.reports for v in r.nodes)


@pytest.mark.parametrize(
    ("more", "taken"),
    [("strategy=holdout", 100), ("strategy=fedavg attack=under_holdout attack.share=0.2", 100), ("strategy=fedavg", 0),
     ("strategy=fedavg heldout.samples=30", 30)],
)  # fmt: skip
def test_samples_are_held_out_where_somebody_uses_them(more: str, taken: int) -> None:
    scenario = load(f"dataset=digits clients=5 {more}")
    assert len(scenario.dataset.test[1]) == len(digits().test[1]) - taken


def test_labels_shift_by_one() -> None:
    data = digits().train
    _, labels = LabelShift(share=0.1).poison((data[0][:50], data[1][:50]), data, 0, np.random.default_rng(0))
    assert np.array_equal(labels, (data[1][:50] + 1) % 10)


def test_a_trigger_is_a_square_in_the_corner() -> None:
    attack, (samples, labels) = Backdoor(share=0.2, target=3, size=2), digits().train
    own = samples[:60].reshape(60, 1, 8, 8), labels[:60]
    poisoned, told = attack.poison(own, (samples, labels), 0, np.random.default_rng(0))
    marked = (poisoned != own[0]).any(axis=(1, 2, 3)) | (told != own[1])
    assert marked.sum() <= 30 and (told[marked] == 3).all()
    assert (attack.stamped(own[0])[..., -2:, -2:] == 255).all()
    assert np.array_equal(attack.stamped(own[0])[..., :-2, :], own[0][..., :-2, :])


@pytest.mark.parametrize("knows", [True, False])
def test_who_knows_the_rule_does_harm_below_it(knows: bool, scenario: Fleet) -> None:
    """Its update differs from an honest one, and by its own reckoning the held-out loss is not higher with it."""
    plan: TrainingPlan = scenario.plan
    attack = UnderHoldout(share=0.25, heldout=held(), knows=knows)
    model = plan.initial_arrays(0)
    for step in range(3):
        model = plan.train(model, scenario.data_of(0), step)
    trained = [plan.train(model, scenario.data_of(i), 9) for i in range(2)]

    def scene() -> Scene:
        rng = np.random.default_rng(5)
        return Scene(model, trained[0], lambda: trained, 8, rng, plan, scenario.data_of(0), scenario.dataset.train)

    sent, again = attack.craft(scene()), attack.craft(scene())
    assert all(np.array_equal(a, b) for a, b in zip(sent, again, strict=True))
    assert all(a.dtype == w.dtype and np.isfinite(a).all() for a, w in zip(sent, model, strict=True))
    if knows and any(not np.array_equal(a, b) for a, b in zip(sent, trained[0], strict=True)):
        loss, crowd = holdout(plan, held()).loss, [np.mean(layer, axis=0) for layer in zip(*trained, strict=True)]
        mixed = [c + 0.25 * (s - c) for c, s in zip(crowd, sent, strict=True)]
        assert loss(mixed) <= loss(crowd) + 1e-5
