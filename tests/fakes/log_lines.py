"""The log lines of a gateway that is still writing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def logged(log: Path, name: str | None = None) -> list[dict[str, Any]]:
    """Its events so far, or those of this name; a line whose end has yet to be written is not read."""
    whole, _, _ = log.read_bytes().rpartition(b"\n")
    events = [json.loads(line) for line in whole.decode().split("\n") if line.startswith("{")]
    return [event for event in events if name in (None, event["event"])]
