"""What the command line shows: tables on stdout, progress bars on stderr so that figures stay clean."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a bar with a name and a number of steps; what it returns is called after each step."""


FILE_COLUMNS = 150
"""Width of a table where there is no terminal to ask: names of models stay whole."""


def console() -> Console:
    """Where tables go."""
    return Console(width=None if sys.stdout.isatty() else FILE_COLUMNS)


@contextlib.contextmanager
def bars() -> Iterator[Bar]:
    """Bars for as long as the block runs."""
    with Progress(console=Console(stderr=True)) as progress:

        def bar(name: str, steps: int) -> Callable[[], object]:
            task = progress.add_task(name, total=steps)
            return lambda: progress.advance(task)

        yield bar
