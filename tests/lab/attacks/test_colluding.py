"""ALIE, IPM, Mimic, MinMax and MinSum against their definitions, checked by search instead of by formula."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from apps.lab.attacks.base import Attack, Scene
from apps.lab.attacks.colluding import Alie, Ipm, Mimic, MinMax, MinSum, fellows_updates, flat_update, send, z_max

MODEL = [np.full((6, 5), 3.0, np.float32), np.zeros(5, np.float32), np.array(7)]


def scene_of(count: int = 8, seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)
    honest = [
        [
            MODEL[0] + 0.5 + rng.normal(size=(6, 5)).astype(np.float32),
            rng.normal(size=5).astype(np.float32),
            np.array(9),
        ]
        for _ in range(count)
    ]
    return Scene(MODEL, honest[0], lambda: honest, clients=20, rng=np.random.default_rng(1))


def updates_of(scene: Scene) -> NDArray:
    """Floats only: integers are sent as they are, and have no column."""
    return fellows_updates(scene)


def sent(attack: Attack, scene: Scene) -> NDArray:
    return flat_update(attack.craft(scene), MODEL)


def test_alie_sends_mean_plus_z_deviations_of_the_attackers_own_updates(scene: Scene) -> None:
    stack = np.stack([f[0] for f in scene.fellows]).astype(np.float64)
    sent = Alie(share=0.4, z=1.5).craft(scene)[0]
    np.testing.assert_allclose(sent, stack.mean(0) + 1.5 * stack.std(0), rtol=1e-5)
    by_default = Alie(share=0.4).craft(scene)[0]
    np.testing.assert_allclose(by_default, stack.mean(0) + z_max(20, 8) * stack.std(0), rtol=1e-5)


def test_jitter_is_each_attackers_own_and_as_wide_as_the_deviation(scene: Scene) -> None:
    stack = np.stack([f[0] for f in scene.fellows]).astype(np.float64)
    other = Scene(scene.model, scene.honest, scene.train_fellows, 20, np.random.default_rng(2))
    one, two = (Alie(share=0.4, z=0.0, jitter=True).craft(s)[0] for s in (scene, other))
    assert not np.allclose(one, two)
    assert ((one - stack.mean(0)) / stack.std(0)).std() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(("clients", "attackers", "z"), [(50, 24, 1.4260768), (20, 8, 0.6744898), (20, 2, 0.0)])
def test_z_max_is_the_alie_papers(clients: int, attackers: int, z: float) -> None:
    assert z_max(clients, attackers) == pytest.approx(z, abs=1e-6)


def test_ipm_sends_the_mean_the_other_way() -> None:
    scene = scene_of()
    np.testing.assert_allclose(sent(Ipm(epsilon=0.3), scene), -0.3 * updates_of(scene).mean(0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_mimic_sends_the_update_that_lies_farthest_out_along_the_principal_direction(seed: int) -> None:
    scene = scene_of(seed=seed)
    g = updates_of(scene)
    z = np.linalg.svd(g - g.mean(0))[2][0]
    chosen = np.abs((g - g.mean(0)) @ z).argmax()
    np.testing.assert_allclose(sent(Mimic(), scene), g[chosen], rtol=1e-4, atol=1e-6)


def farthest(point: NDArray, g: NDArray) -> float:
    return max(float(np.sum((point - x) ** 2)) for x in g)


def summed(point: NDArray, g: NDArray) -> float:
    return sum(float(np.sum((point - x) ** 2)) for x in g)


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
@pytest.mark.parametrize(("attack", "measure"), [(MinMax, farthest), (MinSum, summed)])
@pytest.mark.parametrize("seed", range(3))
def test_the_step_is_as_long_as_the_bound_allows_and_no_longer(attack, measure, direction: str, seed: int) -> None:
    scene = scene_of(seed=seed)
    g = updates_of(scene)
    limit = max(measure(x, g) for x in g)
    p = {"std": -g.std(0), "unit": -g.mean(0) / np.linalg.norm(g.mean(0)), "sign": -np.sign(g.mean(0))}[direction]
    step = sent(attack(direction=direction), scene) - g.mean(0)
    gamma = float(step @ p / (p @ p))
    assert gamma > 0.1
    np.testing.assert_allclose(step, gamma * p, rtol=1e-3, atol=1e-5)
    assert measure(g.mean(0) + 0.999 * gamma * p, g) < limit < measure(g.mean(0) + 1.001 * gamma * p, g)


@pytest.mark.parametrize("attack", [MinMax(), MinSum(), MinMax(direction="unit")])
def test_one_attacker_alone_sends_what_it_trained(attack: Attack) -> None:
    scene = scene_of(1)
    np.testing.assert_allclose(sent(attack, scene), updates_of(scene)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attack", [Ipm(), Mimic(), MinMax(), MinSum()])
def test_dtypes_and_integer_arrays_stay_and_all_attackers_agree(attack: Attack) -> None:
    scene = scene_of()
    crafted = attack.craft(scene)
    assert [a.dtype for a in crafted] == [a.dtype for a in scene.honest]
    assert crafted[2] == 9
    other = Scene(MODEL, scene.fellows[3], lambda: scene.fellows, 20, np.random.default_rng(5))
    np.testing.assert_array_equal(attack.craft(other)[0], crafted[0])


def test_a_flat_update_is_put_back_where_it_came_from() -> None:
    scene = scene_of()
    for a, b in zip(send(scene, flat_update(scene.honest, MODEL)), scene.honest, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
