"""Progress of a study: a line when a stage is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def bar(name: str, steps: int) -> Callable[[], object]:
    """What it returns is called after each step; the last one prints how long the stage took."""
    began_at, done = time.monotonic(), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done == steps:
            print(f"{name}: {time.monotonic() - began_at:.0f} s", file=sys.stderr, flush=True)

    return advance
