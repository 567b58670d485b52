"""Log events as JSON lines: `noun.past_verb` and fields. Prompts, answers and keys are never fields."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

EVENTS = {
    "request.completed": "one per admitted request, with everything about it",
    "request.rejected": "refused before it was admitted, with the code",
    "request.crashed": "a bug of ours: kind and places, no values",
    "replica.ejected": "taken out after failures",
    "replica.restored": "an ejected replica answers again",
    "replica.refused_key": "a backend does not accept the gateway's key",
    "predictor.failed": "an encoder failed: the other one decided, or the profile's default order",
    "gateway.started": "both listeners take requests, at these addresses",
    "gateway.draining": "asked to stop: requests are served for a while, and load balancers told to send no more",
    "gateway.stopped": "all that was in flight is over, everything is closed",
    "config.applied": "the files were read again, and requests see them from now on",
    "config.rejected": "the files were read again and are wrong: what was before stays",
    "keys.missing": "the configuration has no keys: every caller on this machine is let in",
}
"""Every event, and when it is written."""

_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


class EventLog:
    """Writes events to a text stream; a stream that fails costs the line, never the request."""

    def __init__(self, stream: TextIO | None = None, wall_clock: Callable[[], float] = time.time) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._wall_clock = wall_clock
        self.dropped = 0
        """Lines that could not be written."""

    def write(self, event: str, **fields: Any) -> None:
        """Write one line. Fields that are None are left out; control characters come out escaped."""
        line = {"time": round(self._wall_clock(), 3), "event": event}
        line.update((name, value) for name, value in fields.items() if value is not None)
        try:
            self._stream.write(_encode(line) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self.dropped += 1
