"""How odd an honest update may be: by SciPy's distributions, and by draws."""

import numpy as np
import pytest
from scipy.stats import norm, t

from flwr_faa.detection import MultiView
from flwr_faa.detection.threshold import largest_z, student_isf
from tests.detection.simulate import batch_of, crowd


@pytest.mark.parametrize("p", [0.49, 0.25, 0.01, 1e-4, 1e-6])
@pytest.mark.parametrize("freedom", [0.8, 1.0, 2.0, 5.5, 16.0])
def test_the_quantile_is_students(p, freedom):
    """To five digits."""
    np.testing.assert_allclose(student_isf(p, freedom), t.isf(p, freedom), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("n", [1, 6, 20, 1000])
@pytest.mark.parametrize("views", [1, 18])
@pytest.mark.parametrize("rate", [0.01, 0.02, 0.3])
def test_the_threshold_is_that_of_the_docstring(n, views, rate):
    """Views are independent; z is Student's t with 1 / (1/16 + 1.7/n) degrees of freedom, in spreads of a normal's."""
    each = 1 - (1 - rate) ** (1 / views)
    scale = t.isf(0.25, 16) / norm.isf(0.25)
    expected = t.isf(each / 2, 1 / (1 / 16 + 1.7 / n)) / scale
    assert largest_z(n, views, rate) == pytest.approx(expected, rel=2e-5)


def test_of_a_hundred_honest_updates_one_is_above_unless_another_rate_is_asked():
    assert largest_z(20, 18) == largest_z(20, 18, 0.01)
    rng, n, views, above = np.random.default_rng(0), 50, 6, 0
    for _ in range(400):
        x = rng.standard_t(16, size=(views, n))
        away = x - np.median(x, axis=1, keepdims=True)
        z = away / (1.4826 * np.median(np.abs(away), axis=1, keepdims=True))
        above += np.count_nonzero(np.abs(z).max(axis=0) > largest_z(n, views))
    assert 0.005 < above / (400 * n) < 0.02


def test_six_clients_are_enough_to_say_what_is_usual():
    """Ten times as long as the others: below six clients that is not gross."""
    for n in (5, 6):
        updates = crowd(n, n)
        updates[1] = 10 * crowd(n, 99)[0]
        assert MultiView().detect(batch_of(updates)).suspects == ((1,) if n == 6 else ())
