"""Progress bars of the command line, on stderr so that figures on stdout stay clean."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a bar with a name and a number of steps; what it returns is called after each step."""


@contextlib.contextmanager
def bars() -> Iterator[Bar]:
    """Bars for as long as the block runs."""
    with Progress(console=Console(stderr=True)) as progress:

        def bar(name: str, steps: int) -> Callable[[], object]:
            task = progress.add_task(name, total=steps)
            return lambda: progress.advance(task)

        yield bar
