"""The runbook has a line for every metric and every event, and none for what does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from app.telemetry.logging import EVENTS
from app.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[4]
RUNBOOK = (ROOT / "deploy" / "README.md").read_text()


def test_every_metric_has_its_line() -> None:
    documented = set(re.findall(r"^\| `(thalamus_\w+)`", RUNBOOK, re.MULTILINE))
    exported = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}
    assert documented == exported


def test_every_event_has_its_line() -> None:
    assert set(re.findall(r"^\| `([a-z]+\.[a-z_]+)`", RUNBOOK, re.MULTILINE)) == set(EVENTS)


def test_every_event_that_is_written_is_declared() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    written = set(re.findall(r"\.(?:write|record)\(\s*\"([a-z]+\.[a-z_]+)\"", sources))
    assert written == set(EVENTS)
