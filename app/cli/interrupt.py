"""How a long command ends when it is asked to: its task is cancelled, and what it did is kept."""

from __future__ import annotations

import asyncio
import signal

INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended."""


def end_on_signals() -> None:
    """Have Ctrl-C and SIGTERM cancel the running task.

    Ctrl-C as well: a shell starts background jobs deaf to it, and then Python sets no handler of its own.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker: a coroutine runs in a task
    for asked_to_end in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(asked_to_end, task.cancel)
