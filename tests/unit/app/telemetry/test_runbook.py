"""The runbook has a line for every metric, event and code, and none for what does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from app.telemetry.logging import EVENTS
from app.telemetry.metrics import Metrics
from app.telemetry.names import REASONS

ROOT = Path(__file__).resolve().parents[4]
RUNBOOK = (ROOT / "deploy" / "README.md").read_text()
ROUTING = (ROOT / "deploy" / "ROUTING.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))


def test_every_metric_has_its_line() -> None:
    documented = set(re.findall(r"^\| `(thalamus_\w+)`", RUNBOOK, re.MULTILINE))
    exported = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}
    assert documented == exported


def test_every_event_has_its_line() -> None:
    assert set(re.findall(r"^\| `([a-z]+\.[a-z_]+)`", RUNBOOK, re.MULTILINE)) == set(EVENTS)


def test_every_event_that_is_written_is_declared() -> None:
    written = set(re.findall(r"\.(?:write|record)\(\s*\"([a-z]+\.[a-z_]+)\"", SOURCES))
    assert written == set(EVENTS)


def test_every_code_has_its_line() -> None:
    documented = re.findall(r"^\| `([a-z_]+)` \| (?:\d{3}|in logs)", RUNBOOK, re.MULTILINE)
    assert len(documented) == len(set(documented))
    declared = re.findall(r"^    (?:code|counted_as)\b.* = \"([a-z_]+)\"$", SOURCES, re.MULTILINE)
    assert set(documented) == set(declared)


def test_every_reason_is_told() -> None:
    (told,) = re.findall(r"^`x-thalamus-reason` is .*(?:\n.+)*", ROUTING, re.MULTILINE)
    assert set(re.findall(r"`([a-z]+)`", told)) == REASONS
