"""Waits and limits are measured with a clock that cannot jump; the time of day is for what people and others read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[3] / "app"
ALLOWED = {
    "api/connection/doors.py": "when a key ends",
    "cli/keys.py": "when a key ends",
    "forms/grants.py": "when a key ends",
    "store/money/budgets.py": "the day and the month that a budget is for",
    "store/keys/issuer.py": "when a key was made, and ends",
    "store/keys/key_ring.py": "when a key ends",
    "cli/check.py": "the date on a page",
    "collect/client.py": "a `retry-after` that is a date",
    "routing/identifiers.py": "names that follow the order of time",
    "setup/drafting.py": "the date in a comment",
    "setup/files.py": "the date in a comment",
    "assembly/stores.py": "when a request was admitted, and the day whose budget it counts in",
    "telemetry/logging.py": "when something happened",
    "telemetry/metrics.py": "when the gateway started",
    "upstream/http/http1.py": "a `retry-after` that is a date",
}
WALL_CLOCKS = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime"}


def wall_clocks(source: str) -> Iterator[str]:
    """Uses of the time of day in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (name.name for name in node.names if name.name in WALL_CLOCKS)
        elif isinstance(node, ast.Attribute) and node.attr in WALL_CLOCKS:
            owner = ast.unparse(node.value)
            if owner in ("time", "datetime", "date", "dt.datetime", "dt.date", "datetime.datetime", "datetime.date"):
                yield f"{owner}.{node.attr}"


@pytest.mark.parametrize(
    "source",
    ["import time\ntime.time()", "from time import time_ns", "import datetime as dt\ndt.datetime.now(dt.UTC)"],
)
def test_a_use_of_the_time_of_day_is_found(source: str) -> None:
    assert list(wall_clocks(source))


def test_a_monotonic_clock_is_not_one() -> None:
    assert not list(wall_clocks("import time\ntime.monotonic()\ntime.perf_counter()\nself.now"))


def test_only_what_is_read_by_others_knows_the_time_of_day() -> None:
    used = {str(path.relative_to(APP)) for path in APP.rglob("*.py") if list(wall_clocks(path.read_text()))}
    assert used == set(ALLOWED)
