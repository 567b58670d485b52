"""What the command line shows: tables on stdout, progress bars on stderr so that figures stay clean.

Names are other people's words: they are shown as they are, brackets and all, and whole, however narrow it is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a bar with a name and a number of steps; what it returns is called after each step."""


FILE_COLUMNS = 150
"""Width of a table where there is no terminal to ask: names of models stay whole."""
ANY_WIDTH = 10_000


def console(*, stderr: bool = False) -> Console:
    """Where tables go."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if is_terminal else FILE_COLUMNS, markup=False, emoji=False)


class WholeTable(Table):
    """A table in which nothing is cut.

    Where it is too narrow, lines between columns are left out and headings have a line for each word; what is still
    wider than its column goes on in the next line.
    """

    def add_column(self, *args: Any, **kwargs: Any) -> None:
        super().add_column(*args, **{"overflow": "fold", **kwargs})

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.measure(self, options=options.update(max_width=ANY_WIDTH)).maximum > options.max_width:
            self._make_narrow()
        yield from super().__rich_console__(console, options)

    def _make_narrow(self) -> None:
        self.box, self.pad_edge, self.padding, self.title_justify = None, False, (0, 1, 0, 0), "left"
        for column in self.columns:
            column.header = str(column.header).replace(" ", "\n")


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
