"""What the log says of a store that fails one feature and not another."""

from __future__ import annotations

import io
import json

from app.store.redis_client import StoreDown
from app.store.results import Results
from app.telemetry.logging import EventLog


def test_a_change_is_told_once_with_its_reason() -> None:
    log = io.StringIO()
    results = Results(EventLog(log))
    for error in (None, StoreDown("disk is full"), StoreDown("left alone"), None, None):
        results.hear("journal", error)
    results.hear("budgets", StoreDown("malformed"))
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(one["event"], one["feature"], one.get("why")) for one in lines] == [
        ("store.failed", "journal", "disk is full"),
        ("store.resumed", "journal", None),
        ("store.failed", "budgets", "malformed"),
    ]
    assert (results.is_well("journal"), results.is_well("budgets"), results.is_well("limits")) == (True, False, True)
