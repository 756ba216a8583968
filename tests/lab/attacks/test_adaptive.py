"""Attackers that rehearse: how far they go, and that what they learn in the rehearsal holds in a real round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from apps.lab.attacks.adaptive import Evade, EvadeFlipping, largest, stand_ins
from apps.lab.attacks.base import Scene
from apps.lab.attacks.colluding import flat_update
from apps.lab.config import load
from apps.lab.running.local_run import run_locally
from flwr_faa.detection import Detection
from flwr_faa.replies.updates import Batch

MODEL = [np.zeros((10, 6), np.float32), np.zeros(10, np.float32)]


@dataclass(frozen=True)
class Away:
    """Suspects whose mean coordinate is below a limit: a boundary that can be worked out by hand."""

    limit: float

    def detect(self, batch: Batch, seed: int) -> Detection:
        scores = -batch.updates.mean(axis=1).astype(np.float64)
        return Detection(scores, -self.limit, tuple(np.flatnonzero(scores > -self.limit)), ("",) * len(batch))

    def more(self, batch: Batch, detection: Detection, judged: Mapping[int, bool]) -> tuple[int, ...]:
        return ()


def scene_of(count: int = 8) -> Scene:
    rng = np.random.default_rng(0)
    honest = [[1 + 0.01 * rng.normal(size=a.shape).astype(np.float32) for a in MODEL] for _ in range(count)]
    return Scene(MODEL, honest[0], lambda: honest, clients=20, rng=np.random.default_rng(1))


def test_the_step_ends_at_the_detectors_boundary() -> None:
    scene = scene_of()
    means = [flat_update(h, MODEL).mean() for h in scene.fellows]
    attack = Evade(share=0.4, detector=Away(0.2), most=3.0)
    gamma = (means[0] - flat_update(attack.craft(scene), MODEL).mean()) / np.mean(means)
    boundary = (min(means) - 0.2) / np.mean(means)  # the first of them to be suspected
    assert 0.98 * boundary <= gamma <= boundary
    assert flat_update(Evade(share=0.4, detector=Away(-9.0), most=3.0).craft(scene), MODEL).mean() < -1.9


def test_the_step_is_the_one_before_the_first_that_does_not_pass() -> None:
    assert largest(lambda gamma: gamma <= 1.0, 4.0) == pytest.approx(1.0, rel=0.02)
    assert largest(lambda gamma: True, 4.0) == 4.0
    assert largest(lambda gamma: False, 4.0) == 0.0
    assert largest(lambda gamma: not 0.5 < gamma < 2, 4.0) == pytest.approx(0.5, rel=0.02)  # the first boundary


def test_too_few_attackers_send_what_they_trained() -> None:
    scene = scene_of(2)
    np.testing.assert_array_equal(Evade(share=0.1).craft(scene)[0], scene.honest[0])


def test_stand_ins_are_as_far_apart_as_the_honest() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(12, 500)) * np.linspace(0.1, 3, 500) + 2
    made = stand_ins(honest, 200, rng)
    apart = [np.mean([np.sum((a - b) ** 2) for a in x for b in x if a is not b]) for x in (honest, made[:60])]
    assert apart[0] == pytest.approx(apart[1], rel=0.15)
    assert np.linalg.norm(made.mean(0) - honest.mean(0)) < 0.3 * np.linalg.norm(honest.std(0))


def test_flipping_goes_from_the_honest_update_towards_the_flipped_one() -> None:
    lab = load("model=logistic attack=evade_lomar")
    model = lab.plan.initial_arrays(0)
    honest = [lab.plan.train(model, lab.data_of(i), 5) for i in sorted(lab.malicious)[:3]]
    data, pool = lab.data_of(min(lab.malicious)), lab.dataset.train
    scene = Scene(model, honest[0], lambda: honest, 20, np.random.default_rng(1), lab.plan, data, pool)
    attack = EvadeFlipping(share=0.4, detector=Away(-9.0), most=1.0)
    crafted = attack.craft(scene)
    sevens = pool[0][pool[1] == 7]
    taken_for_ones = [np.mean(lab.plan.predict(a, sevens).argmax(axis=1) == 1) for a in (honest[0], crafted)]
    assert taken_for_ones[1] > taken_for_ones[0] + 0.5
    assert attack.flips == ((7, 1),)
    with pytest.raises(ValueError, match="expected a scene with a plan"):
        attack.craft(replace(scene, plan=None))


@pytest.mark.parametrize(
    ("evading", "blunt", "detector"),
    [
        ("evade_multiview attack.share=0.2", "sign_flip_update attack.share=0.2", "multiview"),
        ("evade_ocsvm", "sign_flip_update", "ocsvm"),
        ("evade_lomar attack.share=0.2", "boosted attack.share=0.2", "lomar"),
    ],
)
def test_more_of_a_rehearsed_attack_gets_through_than_of_a_blunt_one(evading: str, blunt: str, detector: str) -> None:
    def accepted(attack: str) -> int:
        overrides = f"model=logistic rounds=2 attack={attack} strategy=faa verification=none detector={detector}"
        return int(run_locally(load(overrides)).summary["attackers_accepted"])

    assert accepted(evading) > accepted(blunt)
