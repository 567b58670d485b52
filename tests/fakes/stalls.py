"""Repeats tests that measure time when the machine stood still meanwhile, and says so.

How it works: while a test marked `timing` runs, a thread sleeps a little again and again, and notes how late it wakes,
less the processor time that this process used meanwhile: who computes keeps others waiting himself, and has not met a
machine that stands still. If the test fails, and the thread was once late by more than `STALLED_S`, what was measured
was the machine: the test runs again, twice at most. On a quiet machine nothing is repeated, and a test that fails each
time fails.

Not a substitute for an invariant: it is for tests whose very claim is a short time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from _pytest.runner import runtestprotocol

STALLED_S = 0.05
"""Twice what a busy interpreter makes a thread wait, and as much as the shortest times that tests ask for."""
REPEATS = 2
_SLEEP_S = 0.005


@dataclass
class Stall:
    """The longest that the machine stood still so far."""

    seconds: float = 0.0


@contextmanager
def watched() -> Iterator[Stall]:
    """How long the machine at most stood still while the block ran, as a thread of this process sees it."""
    stall, over, began_at = Stall(), threading.Event(), _idle_s()

    def _watch() -> None:
        woke_at, is_over = began_at, False
        while not is_over:
            is_over = over.wait(_SLEEP_S)
            stall.seconds = max(stall.seconds, _idle_s() - woke_at - _SLEEP_S)
            woke_at = _idle_s()

    thread = threading.Thread(target=_watch, daemon=True)
    thread.start()
    try:
        yield stall
    finally:
        over.set()
        thread.join()


def _idle_s() -> float:
    """Grows while this process does not compute."""
    return time.monotonic() - time.process_time()


class Repeats:
    """The pytest plugin."""

    def __init__(self, watch: Callable[[], AbstractContextManager[Stall]] = watched) -> None:
        self._watch = watch
        self._said: list[str] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "timing: depends on short times; is repeated if the machine stood still")

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item.get_closest_marker("timing") is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._said:
            terminalreporter.section("repeated because the machine stood still")
            terminalreporter.write("".join(f"{line}\n" for line in self._said))

    def _reports(self, item: pytest.Item, nextitem: pytest.Item | None) -> Sequence[pytest.TestReport]:
        """Of the last try."""
        for _ in range(REPEATS):
            with self._watch() as stall:
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
            failed = [report for report in reports if report.failed]
            if not failed or stall.seconds <= STALLED_S:
                return reports
            self._said.append(f"{item.nodeid}: for {1e3 * stall.seconds:.0f} ms; {_why(failed[0])}")
        return runtestprotocol(item, log=False, nextitem=nextitem)


def _why(report: pytest.TestReport) -> str:
    """The first line of what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).partition("\n")[0]
