"""Only a test that measures time, fails, and met a machine that stood still is tried again."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.fakes.stalls import REPEATS, STALLED_S, Repeats, Stall, watched

pytest_plugins = ["pytester"]

FAILS_AT_FIRST = """
import pytest

tries = []

@pytest.fixture
def fresh():
    tries.append("set up")
    yield
    tries.append("torn down")

@pytest.fixture(scope="module")
def shared():
    tries.append("shared")

@pytest.mark.timing
def test_late(shared, fresh):
    assert tries.count("set up") > {failures}, "too late"

def test_afterwards(shared):
    assert tries.count("shared") == 1
    assert tries.count("set up") == tries.count("torn down")
"""


def machine(*stalls_s: float) -> Callable[[], AbstractContextManager[Stall]]:
    """One that stands still for so long, test by test."""
    left = iter(stalls_s)

    @contextmanager
    def watch() -> Iterator[Stall]:
        yield Stall(next(left))

    return watch


def run(pytester: pytest.Pytester, content: str, *stalls_s: float) -> pytest.RunResult:
    pytester.makepyfile(content)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    return pytester.runpytest_inprocess("--strict-markers", plugins=[Repeats(machine(*stalls_s))])


def outcomes(pytester: pytest.Pytester, failures: int, *stalls_s: float) -> tuple[dict[str, int], str]:
    """Of a test that fails so often at first, and of one after it; and what was written."""
    result = run(pytester, FAILS_AT_FIRST.format(failures=failures), *stalls_s)
    return result.parseoutcomes(), result.stdout.str()


def test_a_test_that_a_stall_made_fail_is_tried_again_and_that_is_said(pytester: pytest.Pytester) -> None:
    counts, written = outcomes(pytester, 1, 0.343, 0.0)
    assert counts == {"passed": 2}
    assert "repeated because the machine stood still" in written
    assert "test_late: for 343 ms; AssertionError: too late" in written


def test_on_a_quiet_machine_a_failure_is_one(pytester: pytest.Pytester) -> None:
    counts, written = outcomes(pytester, 1, STALLED_S)
    assert counts == {"failed": 1, "passed": 1}
    assert "stood still" not in written


def test_a_test_that_fails_each_time_fails(pytester: pytest.Pytester) -> None:
    counts, written = outcomes(pytester, 99, *[1.0] * REPEATS)
    assert counts == {"failed": 1, "passed": 1}
    assert written.count("for 1000 ms") == REPEATS


def test_a_test_that_passes_is_not_repeated_however_late_it_was(pytester: pytest.Pytester) -> None:
    counts, written = outcomes(pytester, 0, 1.0)
    assert counts == {"passed": 2}
    assert "stood still" not in written


def test_other_tests_are_never_repeated(pytester: pytest.Pytester) -> None:
    run(pytester, "def test_wrong(): assert False").assert_outcomes(failed=1)


def test_a_stall_is_seen() -> None:
    with watched() as stall:
        # In one call of C that keeps the interpreter to itself and computes nothing: as on a machine that stands still.
        ctypes.PyDLL(None).usleep(200_000)
    assert stall.seconds > 0.15


def test_who_keeps_the_interpreter_to_himself_is_not_taken_for_a_stall() -> None:
    began_s, began_at = time.process_time(), time.monotonic()
    with watched() as stall:
        while time.process_time() - began_s < 3 * STALLED_S:
            sum(range(3_000_000))
    computed_s = time.process_time() - began_s
    stood_s = time.monotonic() - began_at - computed_s
    assert computed_s > 2 * STALLED_S
    assert stall.seconds < stood_s + 0.2 * computed_s
