"""The curious server: its algebra on systems whose answer is known, and what it makes of a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.studies.curious_server.algebra import Equations, Prior, constrained, reconstruct, recovered
from apps.studies.curious_server.lattice import EXACT, reduce, solve
from apps.studies.curious_server.study import (
    BINDINGS,
    Victim,
    draw,
    packed,
    read_paper,
    read_spotcheck,
    refused_keys,
    run_paper,
    run_spotcheck,
    unpack_pixels,
)
from apps.studies.curious_server.transcript import exchanges
from flwr_faa.authority import BUDGET
from flwr_faa.crypto.fixedpoint import encode
from flwr_faa.verification.spotcheck.messages import Challenge

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


def test_a_prior_for_each_sample_and_a_range_come_closer() -> None:
    """Half of the pixels are 0, which the equations alone do not know."""
    rng = np.random.default_rng(1)
    truth = np.maximum(rng.normal(0, 50, (M, N)), 0)
    view = Equations(M, N)
    for row in range(M):
        y = rng.normal(size=(8, N))
        view.tell(row, y, y @ truth[row])
    delta = rng.normal(size=(M, 4))
    view.tell_step(range(M), delta, delta.T @ truth)
    prior = Prior.pca(np.maximum(rng.normal(0, 50, (500, N)), 0))
    guess = constrained(view, [prior] * M, 255, rounds=6)
    assert guess.min() >= 0
    mean = np.full(N, truth.mean())
    assert recovered(truth, guess, mean) > recovered(truth, reconstruct(view, prior, True), mean) + 0.02


def test_a_lattice_basis_is_reduced_and_spans_the_same_lattice() -> None:
    rng = np.random.default_rng(2)
    exact = rng.integers(-500, 500, (8, 2))
    basis = np.hstack([np.eye(8), exact * EXACT])
    reduced, u = reduce(np.eye(8), exact)
    assert abs(round(np.linalg.det(u))) == 1
    np.testing.assert_allclose(u @ basis, reduced, atol=1e-6)
    r = np.abs(np.diagonal(np.linalg.qr(reduced.T)[1]))
    assert (r[1:] > 0.7 * r[:-1]).all() and np.linalg.norm(reduced[0]) < 20 < np.linalg.norm(basis[0])


@pytest.mark.parametrize(("bits", "least"), [(24, 18), (8, 0)])
def test_what_few_exact_values_of_digits_tell_by_lattice_reduction(bits: int, least: int) -> None:
    """Attack (c), 12 claims: nearly all images at 24 fractional bits, none at the 8 that clients train on."""
    case = Victim.of("digits")
    prior, truth = Prior.pca(case.public), case.truth[:20].astype(np.int64)
    weight = case.plan.initial_arrays(1)[0]
    kernels = np.vstack([encode(weight, bits), np.random.default_rng(0).integers(-128, 129, (2, 64))])
    found = solve(kernels, truth @ kernels.T, np.tile(prior.mean, (20, 1)), prior.inverse)
    assert (found @ kernels.T == truth @ kernels.T).all()  # whatever is found has these values
    assert least <= (found == truth).all(1).sum() <= (20 if least else 0)


def test_what_a_curious_server_recovers_of_digits(tmp_path: Path) -> None:
    case = Victim.of("digits")
    mean = case.public.mean(0)
    run_paper(case, tmp_path / "paper")
    with pytest.raises(ValueError, match="64 of 64 dimensions"):  # so small that a check may tell everything
        run_spotcheck(case, tmp_path / "none", budget=0.99, rounds=3)
    assert "at most 64 of a sample's 64 dimensions known" in run_spotcheck(
        case, tmp_path / "spotcheck", budget=1.0, rounds=1
    )
    blind, exact = read_paper(case, next(exchanges(tmp_path / "paper")))
    np.testing.assert_array_equal(exact, case.truth)
    assert recovered(case.truth, blind, mean) > 0.5  # and all of MNIST, whose images have a dark border
    (only,) = exchanges(tmp_path / "spotcheck")
    view = read_spotcheck(case, [only])
    flat, pca = Prior.flat(case.public), Prior.pca(case.public)
    priors = Prior.by_label(case.public, case.public_labels)
    each = [priors[int(label)] for label in case.own[1]]
    assert recovered(case.truth, reconstruct(Equations(*case.truth.shape), pca, True), mean) == 0  # a prior alone
    guesses = [reconstruct(view, prior, True) for prior in (flat, pca)]
    shares = [recovered(case.truth, guess, mean) for guess in [*guesses, constrained(view, each, case.top)]]
    assert 0.5 < shares[0] < shares[1] < shares[2] < 0.95  # of one check; nothing is promised for such images
    draw(case, [("original", case.truth)], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_commitments_tell_no_more_than_encryption_by_any_attack(tmp_path: Path) -> None:
    """Asked the same, in small batches of which some are opened: the keys are what encryption tells besides."""
    case = Victim.of("digits_small_batches")
    seen = {}
    for binding in BINDINGS:  # commitments first
        first = [Challenge.from_bytes(exchange.challenge) for exchange in exchanges(tmp_path / BINDINGS[0])]
        run_spotcheck(case, tmp_path / binding, 1.0, 2, encrypted=binding == "encryption", asked=first)
        seen[binding] = list(exchanges(tmp_path / binding))
    committed, encrypted = (seen[binding] for binding in BINDINGS)
    questions = [[(c.run, c.steps, c.seed) for c in map(Challenge.from_bytes, (e.challenge for e in found))]
                 for found in (committed, encrypted)]  # fmt: skip
    assert questions[0] == questions[1]
    assert not any(e.keys for e in committed) and all(e.keys for e in encrypted)
    flat, pca, mean = Prior.flat(case.public), Prior.pca(case.public), case.public.mean(0)
    views = [read_spotcheck(case, found) for found in (committed, encrypted)]
    for prior in (flat, pca):
        less, more = (recovered(case.truth, reconstruct(view, prior, True), mean) for view in views)
        assert less < more - 0.01


def test_what_the_default_budget_leaves_of_mnist_to_a_prior_for_each_label(tmp_path: Path) -> None:
    """Attack (d): all that a device's answers tell across checks, labels in the clear, and pixels in their range.

    The budget allows one check and refuses the next. About half of the variance is known then, as the docs say.
    """
    case = Victim.of("mnist5k")
    told = run_spotcheck(case, tmp_path, BUDGET, 2, encrypted=False)
    assert "at most 141 of a sample's 784 dimensions known" in told and "the budget allows 196, 55 are left" in told
    (only,) = exchanges(tmp_path)
    priors, mean = Prior.by_label(case.public, case.public_labels), case.public.mean(0)
    each = [priors[int(label)] for label in case.own[1]]
    nothing = np.array([prior.mean for prior in each])
    share = recovered(case.truth, constrained(read_spotcheck(case, [only]), each, case.top, rounds=1), mean)
    assert recovered(case.truth, nothing, mean) + 0.15 < share < 0.6


def test_pixels_packed_into_the_model_are_read_and_keys_for_them_refused(tmp_path: Path) -> None:
    case = Victim.of("digits")
    run_spotcheck(case, tmp_path, budget=1.0, rounds=1, start=packed(case))
    (exchange,) = exchanges(tmp_path)
    view = Equations(*case.truth.shape)
    assert unpack_pixels(case, exchange, view) == 40
    for row, (known,) in ((row, [np.vstack(found)]) for row, found in view.functions.items()):
        np.testing.assert_array_equal(known[:, :64] @ case.truth[row], known[:, 64])
    assert "never registered data" in refused_keys(case)
