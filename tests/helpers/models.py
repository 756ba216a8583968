"""Random models as other people have them: dtypes, shapes, empty and constant arrays, counters, masks, statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

Model = dict[str, np.ndarray]


def _parameter(dtype: str, shape: tuple[int, ...], scale: float, seed: int) -> np.ndarray:
    largest = float(np.finfo(dtype).max) * 1e-4  # weighted sums must fit too, in the rules that are compared with
    values = np.random.default_rng(seed).normal(0, scale, shape)
    order: Any = "F" if seed % 3 == 0 else "C"  # as scikit-learn's coefficients are
    return np.asarray(np.clip(values, -largest, largest)).astype(dtype, order=order)


SCALES = (1e-6, 1e-2, 1.0, 1e3)
#: Squares of these do not fit into a float32, or they themselves are at its ends.
EXTREME = (1e-42, 1e-30, 1e15, 1e30, 1e300)


def parameters(scales: tuple[float, ...]) -> st.SearchStrategy[np.ndarray]:
    """One array of parameters."""
    return st.builds(
        _parameter,
        st.sampled_from(["f4", "f4", "f4", "f8", "f2"]),
        st.sampled_from([(), (1,), (3,), (0, 2), (2, 3), (4, 1, 2)]),
        st.sampled_from(scales),
        st.integers(0, 99),
    )


def _batch_norm(width: int) -> Model:
    return {
        "weight": np.ones(width, "f4"),
        "bias": np.zeros(width, "f4"),
        "running_mean": np.zeros(width, "f4"),
        "running_var": np.ones(width, "f4"),
        "num_batches_tracked": np.array(0),
    }


CONSTANTS = st.sampled_from(
    [
        np.tril(np.ones((3, 3), bool)),
        np.array([-np.inf, 0.0], "f4"),
        np.full(2, -1e9, "f4"),
        np.array([2**63 - 1, 2**53 + 1]),
        np.array([2**64 - 1], "u8"),
        np.arange(4, dtype="i4"),
    ]
)


@st.composite
def models(draw: Any, exotic: bool = True, extreme: bool = False) -> Model:
    """Between one and eight arrays, by name; ``exotic`` also such as hold no parameters, ``extreme`` huge and tiny."""
    found = draw(st.lists(parameters(SCALES + EXTREME * extreme), min_size=1, max_size=4))
    arrays = {f"layer{i}.weight": a for i, a in enumerate(found)}
    if exotic and draw(st.booleans()):
        arrays |= {f"norm.{name}": a for name, a in _batch_norm(draw(st.integers(1, 3))).items()}
    if exotic and draw(st.booleans()):
        arrays["mask"] = draw(CONSTANTS)
    return arrays


def trained(model: Model, seed: int) -> Model:
    """What an honest client makes of a model: parameters move a little, counters count, constants stay."""
    rng = np.random.default_rng(seed)
    result = {}
    for name, w in model.items():
        if name.endswith("num_batches_tracked"):
            result[name] = w + np.array(3, w.dtype)
        elif name == "mask":
            result[name] = w
        elif name.endswith("running_var"):
            result[name] = np.asarray(0.9 * w + 0.1 * rng.uniform(0.5, 1.5, w.shape)).astype(w.dtype)
        else:
            size = float(np.abs(w).max(initial=0.0)) or 1.0
            result[name] = np.asarray(w + 0.1 * size * rng.normal(size=w.shape)).astype(w.dtype)
    return result
