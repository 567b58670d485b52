"""Log events as JSON lines: `noun.past_verb` and fields. Prompts, answers and keys are never fields."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import orjson

from app.telemetry.sinks import BackgroundSink, Sink, StreamSink

EVENTS = {
    "request.completed": "one per admitted request, with everything about it",
    "request.rejected": "refused before it was admitted, with the code",
    "request.crashed": "a bug of ours: kind and places, no values",
    "request.untold": "a bug of ours, after an answer: how it ended was not counted, kept or logged in full",
    "answer.unread": "a bug of ours, at an answer that nobody foresaw: which backend's, kind and places",
    "record.failed": "a bug of ours: the record that an answer was to carry could not be made: kind and places",
    "replica.ejected": "taken out after failures in a row, or too many of them",
    "replica.slowed": "begins its answers much later than others of its backend, so it is chosen seldom",
    "replica.restored": "an ejected replica answers again",
    "page.unread": "a worker's metrics page is refused, too large or not vLLM's, so its queue is not known",
    "replica.refused_key": "a backend does not accept the gateway's key",
    "quota.spent": "a backend says that the gateway's account has no money left, so all of it rests",
    "predictor.failed": "an encoder failed: the other one decided, or the profile's default order",
    "gateway.started": "both listeners take requests, at these addresses",
    "gateway.draining": "asked to stop: requests are served for a while, and load balancers told to send no more",
    "gateway.stopped": "all that was in flight is over, everything is closed",
    "worker.died": "a process of this gateway ended without being asked to, and is started again",
    "worker.silent": "a process of this gateway does not say how it is: metrics show what it said last",
    "config.applied": "the files were read again, and requests see them from now on",
    "config.rejected": "the files were read again and are wrong: what was before stays",
    "admin.asked": "a reload, or to be drained or not any more: by whose key",
    "keys.missing": "there is no valid key, so nobody can call",
    "keys.unread": "generated keys were written by a later release, so this one knows nobody by them",
    "keys.shut_out": "generated keys name models or profiles, and the configuration that answers now has none of them",
    "store.failed": "the store did not take or tell what a feature needs of it",
    "store.resumed": "it does again",
    "keys.stale": "the store of the keys does not answer, or cannot be used: changes of keys do not arrive",
    "key.created": "a key was made: which one, and by whom",
    "key.revoked": "a key was ended: which one, and by whom",
    "key.rotated": "a key has another secret: which one, and by whom",
    "journal.stopped": "records cannot be written: the disk is full, or the spool is; requests are served",
    "journal.resumed": "records are written again",
    "journal.recovered": "what a dead process had left is recorded",
    "journal.failed": "a bug of ours in recording: its kind; it is tried again",
    "store.evicts": "Redis drops keys when its memory is full, and what was spent may be among them",
    "models.unpriced": "these models have no price, or one of zero, so no budget stops them",
}
"""Every event, and when it is written."""


class EventLog:
    """Writes events: to a stream at once, or to standard error by a thread that holds nobody up."""

    def __init__(
        self, stream: TextIO | None = None, wall_clock: Callable[[], float] = time.time, sink: Sink | None = None
    ) -> None:
        """Without a stream or a sink it is standard error."""
        self._sink = sink or (_standard_error() if stream is None else StreamSink(stream))
        self._wall_clock = wall_clock

    @property
    def dropped(self) -> int:
        """Lines that were lost, because the stream failed or its reader stalled."""
        return self._sink.dropped

    def write(self, event: str, **fields: Any) -> None:
        """Write one line. Fields that are None are left out; control characters come out escaped."""
        self.record(event, {name: value for name, value in fields.items() if value is not None})

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        """The same with the fields as they are, for what is written once for each request."""
        self._sink.write(_encoded({"time": round(self._wall_clock(), 3), "event": event, **fields}))

    def close(self) -> None:
        """Write what waits; nothing can be written afterwards."""
        self._sink.close()


def _standard_error() -> Sink:
    if sys.stderr is None:
        return BackgroundSink(os.open(os.devnull, os.O_WRONLY))
    try:
        return BackgroundSink(os.dup(sys.stderr.fileno()))
    except (OSError, ValueError):
        # It is closed, or no file.
        return StreamSink(sys.stderr)


def _encoded(line: dict[str, Any]) -> bytes:
    try:
        encoded = orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Half of a UTF-16 pair, or an integer of more than 64 bits.
        return _ascii(line)
    # Some terminals obey control characters beyond ASCII too, and orjson does not escape those.
    return encoded if encoded.isascii() else _ascii(line)


def _ascii(line: dict[str, Any]) -> bytes:
    return json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n"


def where(error: Exception) -> str:
    """The kind of a bug and its places, no values, which may be somebody's."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames]
    return f"{type(error).__name__} at {' > '.join(places[-6:])}"
