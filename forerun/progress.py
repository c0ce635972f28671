"""How far something long is, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from forerun.console import PEOPLE


@contextmanager
def steps(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar while the body runs; call what is yielded after each step."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=PEOPLE, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
