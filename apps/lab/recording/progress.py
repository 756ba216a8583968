"""Progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Watch = Callable[[int, float | None], None]


@contextmanager
def rounds_bar(console: Console, rounds: int) -> Iterator[Callable[..., Watch]]:
    """Yield a function that starts a progress bar under a name; call what it returns after each round.

    A bar may also have a status. Its text is shown behind the bar, and looked up whenever the bar is drawn.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[accuracy]}"),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:

        def watch(name: str, status: object = "") -> Watch:
            task = progress.add_task(name, total=rounds, accuracy="", status=status)

            def after(number: int, accuracy: float | None) -> None:
                shown = "" if accuracy is None else f"accuracy {accuracy:.3f}"
                progress.update(task, completed=number, accuracy=shown)

            return after

        yield watch
