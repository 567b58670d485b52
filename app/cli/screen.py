"""What the command line shows: tables on stdout, progress bars on stderr so that figures stay clean.

Names are other people's words: they are shown as they are, brackets and all, and whole, however narrow it is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a bar with a name and a number of steps; what it returns is called after each step."""


FILE_COLUMNS = 150
"""Width of a table where there is no terminal to ask: names of models stay whole."""


def console(*, stderr: bool = False) -> Console:
    """Where tables go."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if is_terminal else FILE_COLUMNS, markup=False, emoji=False)


class WholeTable(Table):
    """A table in which nothing is cut: a word that is wider than its column goes on in the next line."""

    def add_column(self, *args: Any, **kwargs: Any) -> None:
        super().add_column(*args, **{"overflow": "fold", **kwargs})


def words(form: str, style: str = "none") -> TextColumn:
    """A part of a bar that has somebody's words."""
    return TextColumn(form, style=style, markup=False)


@contextlib.contextmanager
def bars() -> Iterator[Bar]:
    """Bars for as long as the block runs."""
    with progress(console(stderr=True)) as shown:

        def bar(name: str, steps: int) -> Callable[[], object]:
            task = shown.add_task(name, total=steps)
            return lambda: shown.advance(task)

        yield bar


def progress(screen: Console, *, transient: bool = False) -> Progress:
    """Bars with a name, a share and the time that is left."""
    name = words("{task.description}", "progress.description")
    return Progress(name, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=screen, transient=transient)
