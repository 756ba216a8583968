"""Each attack does what its formula says."""

from __future__ import annotations

import numpy as np
import pytest

from apps.lab.attacks.base import Absent, Alie, Attack, Gaussian, Scene, SignFlip, SignFlipUpdate, z_max


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    model = [rng.normal(size=(40, 30)).astype(np.float32), np.array(7)]
    fellows = [[model[0] + rng.normal(size=(40, 30)).astype(np.float32), np.array(8)] for _ in range(8)]
    return Scene(model, fellows[0], lambda: fellows, clients=20, rng=np.random.default_rng(1))


def test_no_attack_sends_the_honest_arrays(scene: Scene) -> None:
    np.testing.assert_array_equal(Attack().craft(scene)[0], scene.honest[0])


def test_gaussian_adds_noise_of_the_given_deviation(scene: Scene) -> None:
    noise = Gaussian(sigma=0.3).craft(scene)[0] - scene.honest[0]
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(0.3, rel=0.1)


def test_sign_flip_negates_the_weights(scene: Scene) -> None:
    np.testing.assert_array_equal(SignFlip().craft(scene)[0], -scene.honest[0])
    np.testing.assert_array_equal(SignFlip(epsilon=-4.0).craft(scene)[0], -4 * scene.honest[0])


def test_sign_flip_update_negates_the_update(scene: Scene) -> None:
    sent = SignFlipUpdate().craft(scene)[0]
    np.testing.assert_allclose(sent - scene.model[0], scene.model[0] - scene.honest[0], rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("attack", [Gaussian(), SignFlip(), SignFlipUpdate(), Alie(share=0.4, jitter=True)])
def test_dtypes_and_integer_arrays_stay(attack: Attack, scene: Scene) -> None:
    sent = attack.craft(scene)
    assert [a.dtype for a in sent] == [a.dtype for a in scene.honest]
    assert sent[1] == 8


def test_absent_sends_nothing(scene: Scene) -> None:
    with pytest.raises(RuntimeError, match="takes no part"):
        Absent().craft(scene)
