"""One thread for linear algebra while a round is measured.

The blocks of a round are small: threads that share one wait for each other most of the time, and OpenBLAS's spin while
they wait, which on a busy server costs many times the work. And a product by two threads may round differently than by
one; a verdict must not depend on the number of cores.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any


def single_threaded() -> AbstractContextManager[Any]:
    """Return a context in which BLAS has one thread; or, without threadpoolctl (of scikit-learn), any number."""
    found = _libraries()
    return nullcontext() if found is None else found.limit(limits=1, user_api="blas")


@cache
def _libraries() -> Any:
    """The BLAS libraries that are loaded; looked for once (milliseconds)."""
    try:
        return import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None
