"""The curious server: its algebra on systems whose answer is known, and what it makes of a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.studies.curious_server.algebra import Equations, Prior, reconstruct, recovered
from apps.studies.curious_server.study import Victim, draw, read_paper, read_spotcheck, run_paper, run_spotcheck
from apps.studies.curious_server.transcript import exchanges

RNG = np.random.default_rng(0)
M, N = 12, 20
X = RNG.uniform(0, 255, (M, N))
PUBLIC = RNG.uniform(0, 255, (100, N))
PRIORS = {"flat": Prior.flat(PUBLIC), "pca": Prior.pca(PUBLIC)}


def told(functions: int, steps: int) -> Equations:
    """A view of X by random functions of each sample, and steps of 6 samples and 4 units that overlap."""
    view = Equations(M, N)
    for row in range(M):
        y = RNG.normal(size=(functions, N))
        view.tell(row, y, y @ X[row])
    for step in range(steps):
        rows, delta = [(3 * step + i) % M for i in range(6)], RNG.normal(size=(6, 4))
        view.tell_step(rows, delta, delta.T @ X[rows])
    return view


@pytest.mark.parametrize("prior", PRIORS)
def test_as_many_functions_as_values_or_as_many_units_as_samples_give_everything(prior: str) -> None:
    for view in (told(N, 0), told(0, 6), told(N // 2, 4)):
        guess = reconstruct(view, PRIORS[prior], True, iterations=5000)
        assert recovered(X, guess, PUBLIC.mean(0)) > 1 - 1e-6


def test_few_functions_give_the_nearest_to_the_mean() -> None:
    view, mean = told(5, 0), PUBLIC.mean(0)
    guess = reconstruct(view, PRIORS["flat"], True)
    for row in range(M):
        (known,) = view.functions[row]
        expected = mean + np.linalg.pinv(known[:, :N]) @ (known[:, N] - known[:, :N] @ mean)
        np.testing.assert_allclose(guess[row], expected, atol=1e-6)
    assert recovered(X, np.tile(mean, (M, 1)), mean) == 0.0


def test_gradients_are_left_aside_on_request() -> None:
    view, mean = told(5, 2), PUBLIC.mean(0)
    without, with_them = (recovered(X, reconstruct(view, PRIORS["flat"], g), mean) for g in (False, True))
    assert without < with_them < 1


def test_what_a_curious_server_recovers_of_digits(tmp_path: Path) -> None:
    case = Victim.of("digits")
    mean = case.public.mean(0)
    run_paper(case, tmp_path / "paper")
    with pytest.raises(ValueError, match="64 of 64 dimensions"):  # so small that a check may tell everything
        run_spotcheck(case, tmp_path / "none", budget=0.99, rounds=3)
    assert "at most 64 of 64 dimensions" in run_spotcheck(case, tmp_path / "spotcheck", budget=1.0, rounds=1)
    blind, exact = read_paper(case, next(exchanges(tmp_path / "paper")))
    np.testing.assert_array_equal(exact, case.truth)
    assert recovered(case.truth, blind, mean) > 0.5  # and all of MNIST, whose images have a dark border
    (only,) = exchanges(tmp_path / "spotcheck")
    view = read_spotcheck(case, [only])
    flat, pca = Prior.flat(case.public), Prior.pca(case.public)
    assert recovered(case.truth, reconstruct(Equations(*case.truth.shape), pca, True), mean) == 0  # a prior alone
    shares = [
        recovered(case.truth, reconstruct(view, prior, gradients), mean)
        for gradients in (False, True)
        for prior in (flat, pca)
    ]
    assert 0.1 < shares[0] < shares[1] < 0.7
    assert shares[0] < shares[2] < shares[3] < 0.85
    draw(case, [("original", case.truth)], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
