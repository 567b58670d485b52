"""Events are JSON lines, and a log that fails is not the request's problem."""

from __future__ import annotations

import io
import json

import pytest

from app.telemetry.logging import EventLog


def test_an_event_is_one_line_of_json_without_empty_fields() -> None:
    stream = io.StringIO()
    EventLog(stream, lambda: 12.3456).write("replica.ejected", replica="http://x", code=None)
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue()) == {"time": 12.346, "event": "replica.ejected", "replica": "http://x"}


def test_control_characters_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    EventLog(stream).write("request.completed", asked_for='x"}\n{"event":"forged\x1b[2J')
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("text", ["\x9b31m", "\u2028", "caf\u00e9", "\ud800"], ids=ascii)
def test_whatever_is_beyond_ascii_comes_out_escaped(text: str) -> None:
    stream = io.StringIO()
    EventLog(stream).write("request.completed", asked_for=text)
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue())["asked_for"] == text


def test_a_number_that_is_too_large_is_no_trouble() -> None:
    stream = io.StringIO()
    EventLog(stream).write("request.completed", tokens=1 << 70)
    assert json.loads(stream.getvalue())["tokens"] == 1 << 70


def test_a_stream_that_fails_costs_the_line_only() -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError("no space left on device")

    log = EventLog(Full())
    log.write("request.completed")
    closed = io.StringIO()
    closed.close()
    EventLog(closed).write("request.completed")
    assert log.dropped == 1
