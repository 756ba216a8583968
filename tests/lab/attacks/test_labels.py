"""Attacks through labels: what is trained on, what is sent, and what a verification says to it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from apps.lab.attacks.base import Attack, Scene
from apps.lab.attacks.labels import Boosted, Clones, LabelFlip, LabelFlipMulti, Stealthy, flip, pull
from apps.lab.config import load
from apps.lab.running.local_run import run_locally
from apps.lab.scenario import Scenario
from flwr_faa.report import Outcome

SMALL = "model=logistic rounds=1"


@cache
def scenario(overrides: str = "") -> Scenario:
    return load(f"{SMALL} {overrides}")


def scene_of(attack: Attack, seed: int = 1) -> Scene:
    """An attacker's scene in a federation where three hold flipped data."""
    clean = scenario()
    model = clean.plan.initial_arrays(0)
    rng = np.random.default_rng(0)
    data = [attack.poison(clean.data_of(i), clean.dataset.train, i, rng) for i in range(3)]
    fellows = [clean.plan.train(model, d, 5) for d in data]
    return Scene(
        model, fellows[1], lambda: fellows, 20, np.random.default_rng(seed), clean.plan, data[1], clean.dataset.train
    )


def flat(arrays) -> np.ndarray:
    return np.concatenate([a.ravel().astype(np.float64) for a in arrays])


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_a_share_of_the_samples_become_source_samples_under_the_target_label(tau: float) -> None:
    own, pool = scenario().data_of(0), scenario().dataset.train
    samples, labels = flip(own, pool, 7, 1, tau, np.random.default_rng(0))
    changed = (samples != own[0]).any(axis=(1, 2, 3)) | (labels != own[1])
    assert len(labels) == len(own[1])
    sevens = {s.tobytes() for s in pool[0][pool[1] == 7]}
    poisoned = np.array([s.tobytes() in sevens and y == 1 for s, y in zip(samples, labels, strict=True)])
    assert poisoned.sum() == round(tau * len(labels))
    assert not (changed & ~poisoned).any()


def test_mixed_flips_its_own_source_samples_only() -> None:
    own, pool = scenario().data_of(0), scenario().dataset.train
    samples, labels = flip(own, pool, 7, 1, None, np.random.default_rng(0))
    np.testing.assert_array_equal(samples, own[0])
    np.testing.assert_array_equal(labels, np.where(own[1] == 7, 1, own[1]))
    assert (own[1] == 7).any()


def test_several_pairs_share_the_attackers() -> None:
    lab = scenario("attack=label_flip_multi attack.share=0.4")
    targets = [set(lab.data_of(i)[1]) for i in sorted(lab.malicious)]
    assert targets == [{7}, {9}, {5}, {8}] * 2
    assert lab.attack.flips == LabelFlipMulti().flips == ((1, 7), (6, 9), (2, 5), (0, 8))


def test_honest_clients_keep_their_data_and_attackers_hold_the_same_in_every_round() -> None:
    lab, clean = scenario("attack=label_flip attack.tau=0.4"), scenario()
    for i in range(20):
        np.testing.assert_array_equal(lab.data_of(i)[0], lab.data_of(i)[0])
        assert np.array_equal(lab.data_of(i)[1], clean.data_of(i)[1]) == (i not in lab.malicious)


def test_boosted_is_ten_times_the_update() -> None:
    scene = scene_of(LabelFlip())
    w, honest, sent = flat(scene.model), flat(scene.honest), flat(Boosted().craft(scene))
    np.testing.assert_allclose(sent - w, 10 * (honest - w), rtol=1e-4, atol=1e-5)


def test_clones_are_equal_and_jitter_sets_them_apart_as_far_as_they_were() -> None:
    one, two = scene_of(LabelFlip(tau=0.4), 1), scene_of(LabelFlip(tau=0.4), 2)
    np.testing.assert_array_equal(flat(Clones().craft(one)), flat(one.fellows[0]))
    np.testing.assert_array_equal(flat(Clones().craft(two)), flat(two.fellows[0]))
    sigma = np.std([flat(f) for f in one.fellows], axis=0)
    a, b = (flat(Clones(jitter=1.0).craft(s)) for s in (one, two))
    assert np.linalg.norm(a - b) == pytest.approx(np.sqrt(2) * np.linalg.norm(sigma), rel=0.2)


def test_the_proximal_step_minimises_its_objective() -> None:
    rng = np.random.default_rng(0)
    v, c = [rng.normal(size=7)], [rng.normal(size=7)]
    (found,) = pull(v, c, 0.5)

    def objective(x: np.ndarray) -> float:
        return 0.5 * np.linalg.norm(x - c[0]) + 0.5 * np.sum((x - v[0]) ** 2)

    assert all(objective(found) <= objective(found + 1e-3 * rng.normal(size=7)) for _ in range(200))
    np.testing.assert_array_equal(pull(v, c, 100.0)[0], c[0])
    np.testing.assert_array_equal(pull(c, c, 0.1)[0], c[0])


def test_stealthy_hides_better_with_more_weight_on_it_and_still_flips() -> None:
    scene = scene_of(Stealthy())
    benign, w = np.mean([flat(f) for f in scene.fellows], axis=0), flat(scene.model)
    off = [np.linalg.norm(flat(Stealthy(boost=1.0, rho=r).craft(scene)) - benign) for r in (0.0, 0.2, 1e6)]
    assert off[0] > off[1] > off[2]
    assert off[2] < 1e-5
    fresh = scene_of(Stealthy())
    np.testing.assert_allclose(
        flat(Stealthy(boost=10.0).craft(fresh)) - w,
        10 * (flat(Stealthy(boost=1.0).craft(scene_of(Stealthy()))) - w),
        rtol=1e-3,
        atol=1e-4,
    )
    sevens = scene.pool[0][scene.pool[1] == 7]
    sent = Stealthy(whole=False).craft(scene_of(Stealthy()))
    taken_for_ones = [np.mean(scene.plan.predict(a, sevens).argmax(axis=1) == 1) for a in (scene.honest, sent)]
    assert taken_for_ones[1] > taken_for_ones[0]


@pytest.mark.parametrize(
    ("attack", "convicted"),
    [
        ("label_flip", 0),
        ("label_flip attack.tau=null", 0),
        ("label_flip_multi", 0),
        ("boosted", 4),
        ("clones", 3),  # the first of them sends what it trained
        ("stealthy", 4),
        ("stealthy attack.whole=false", 4),
    ],
)
def test_verification_clears_who_trained_on_the_data_it_shows_and_convicts_the_rest(
    attack: str, convicted: int
) -> None:
    record = run_locally(scenario(f"attack={attack} strategy=fe"))
    guilty = {v.node_id for v in record.reports[0].having(Outcome.CONVICTED)}
    assert len(guilty) == convicted
    assert all(record.census.about(node)["malicious"] for node in guilty)
    assert len(record.reports[0].having(Outcome.CLEARED)) == 20 - convicted
