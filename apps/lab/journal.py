"""Run cells in several processes. Every finished cell is a line of a file, so a killed command can go on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Row = Mapping[str, Any]
C = TypeVar("C")


def run_missing(
    cells: Mapping[Any, C], out: Path, jobs: int, work: Callable[[C], Row], key: Callable[[Row], Any]
) -> dict[Any, Row]:
    """Return the results of all cells, in the order of the cells; those not yet in the file are run and appended to it.

    Whenever the command is killed, the file has every finished cell, and at most a torn last line, which is removed.

    Parameters
    ----------
    cells : mapping
        By key.
    out : path
        One line of JSON a finished cell.
    jobs : int
        Processes; with one the work is done in this process.
    work : callable
        Runs a cell; what it returns is the line.
    key : callable
        A line's key.

    Raises
    ------
    RuntimeError
        If cells failed, when all others are done; or if another command writes to the file.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process
    failed: list[BaseException] = []
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), speed_estimate_period=3600)
    with _journal(out) as (file, rows), progress:
        done = {k: row for row in rows if (k := key(row)) in cells}
        missing = [cell for k, cell in cells.items() if k not in done]
        task = progress.add_task("", total=len(cells), completed=len(done))
        with _pool(min(jobs, len(missing))) as pool:
            try:
                submitted = [pool.submit(work, cell) for cell in missing]
                # as_completed forgets the order of those that were done before it looked.
                for finished in as_completed(submitted) if jobs > 1 else submitted:
                    if (failure := finished.exception()) is not None:
                        failed.append(failure)
                        continue
                    row = finished.result()
                    file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
                    done[key(row)] = row
                    progress.advance(task)
            except BaseException:  # Ctrl-C: what is finished is in the file
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(cells)} runs failed; the first: {failed[0]!r}") from failed[0]
    return {k: done[k] for k in cells}


@contextmanager
def _journal(path: Path) -> Iterator[tuple[IO[bytes], list[Row]]]:
    """Lock the file to append to, and yield it with its lines; unbuffered, so that a line is one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lifts it when the process ends, however
        except BlockingIOError as error:
            raise RuntimeError(f"expected to be the only one who writes to {path}, another command does") from error
        file.truncate(_whole(path.read_bytes()))
        yield file, lines(path)


def lines(path: Path) -> list[Row]:
    """Return the finished runs in a file, if there is one."""
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text[: _whole(text)].splitlines()]


def _whole(text: bytes) -> int:
    """Return the length without a line that was being written when the command was killed."""
    return text.rfind(b"\n") + 1


def _pool(jobs: int) -> Executor:
    if jobs <= 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this worker when its parent is killed; it would wait for work for ever."""

    def wait() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()
