"""The cores while a round is read, measured and averaged: one thread of linear algebra each.

Columns are independent, so pieces of them are handed to as many threads as linear algebra was allowed
(``OMP_NUM_THREADS``, ``threadpoolctl.threadpool_limits``; otherwise all cores). Linear algebra itself gets one: its
blocks are small, threads that share one wait for each other, and OpenBLAS's spin while they wait. On a busy server that
costs many times the work.

What a piece is depends on the round alone, and what pieces give is put together in their order. So not a bit depends on
the number of threads: a verdict must not depend on the number of cores.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any, Protocol, TypeVar

from flwr_faa.replies import kernels

Item = TypeVar("Item")
Found = TypeVar("Found")


class Each(Protocol):
    """``map``, or a map over several threads."""

    def __call__(self, act: Callable[[Item], Found], items: Iterable[Item], /) -> Iterable[Found]:
        """Return what the act gives for each item, in the order of the items."""
        ...


@contextmanager
def single_threaded() -> Iterator[None]:
    """Give linear algebra one thread; without threadpoolctl (of scikit-learn) it keeps what it has."""
    found, before = _libraries(), _cores.set(cores())
    limit: AbstractContextManager[Any] = nullcontext() if found is None else found.limit(limits=1, user_api="blas")
    try:
        with limit:
            yield
    finally:
        _cores.reset(before)


@contextmanager
def shared_out(entries: int, most: int | None = None) -> Iterator[Each]:
    """Give a map over the cores, for a round of so many entries; for a small one it is ``map``.

    Of the items, which are drawn by the caller's thread, no more are in work than there are threads. Where each takes
    much memory, there are to be so many at most.
    """
    threads = cores() if entries >= kernels.LARGE else 1
    threads = threads if most is None else min(threads, most)
    with single_threaded():
        if threads == 1:
            yield map
            return
        with ThreadPoolExecutor(threads) as pool:

            def each(act: Callable[[Item], Found], items: Iterable[Item], /) -> Iterator[Found]:
                running = deque[Future[Found]]()
                for item in items:
                    running.append(pool.submit(act, item))
                    if len(running) > threads:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()

            yield each


def cores() -> int:
    """Return how many threads linear algebra may use, or could before it was given one."""
    if (known := _cores.get()) is not None:
        return known
    there, told = os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS", "")
    allowed = [int(told)] if told.isdigit() else []
    if (libraries := _libraries()) is not None:
        allowed = [lib.num_threads for lib in libraries.lib_controllers if lib.user_api == "blas"] or allowed
    return max(1, min(max(allowed, default=there), there))


_cores: ContextVar[int | None] = ContextVar("cores", default=None)


@cache
def _libraries() -> Any:
    """The BLAS libraries that are loaded; looked for once (milliseconds)."""
    try:
        return import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None
