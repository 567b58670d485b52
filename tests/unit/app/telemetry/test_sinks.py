"""Log lines reach their reader, and a reader that stalls or is gone holds nobody up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from app.telemetry.logging import EventLog
from app.telemetry.sinks import BackgroundSink


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its reading end, and its writing end for a sink to close."""
    reading, writing = os.pipe()
    yield reading, writing
    with suppress(OSError):
        os.close(reading)


def read_all(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def test_all_lines_arrive_in_their_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with closing(BackgroundSink(writing)) as sink:
        for number in range(1000):
            sink.write(b"%d\n" % number)
    assert read_all(reading).split() == [b"%d" % number for number in range(1000)]
    assert sink.dropped == 0


def test_a_single_line_does_not_wait_for_others(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with closing(BackgroundSink(writing)) as sink:
        sink.write(b"gateway.started\n")
        assert os.read(reading, 100) == b"gateway.started\n"


def test_a_reader_that_stalls_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = BackgroundSink(writing, max_waiting_bytes=1 << 20)
    line = b"x" * 999 + b"\n"
    # If one of them waited, it would wait forever.
    for _ in range(5000):
        sink.write(line)
    assert 5000 - 2100 <= sink.dropped <= 5000 - 1000, "a mebibyte waits, and what the pipe holds was written"
    os.close(reading)
    sink.close()


def test_a_reader_that_is_gone_costs_lines_only(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    with closing(BackgroundSink(writing)) as sink:
        sink.write(b"one\n")
        sink.write(b"two\n")
    assert sink.dropped == 2


def test_a_disk_that_is_full_costs_lines_only() -> None:
    with closing(BackgroundSink(os.open("/dev/full", os.O_WRONLY))) as sink:
        for _ in range(3):
            sink.write(b"a line\n")
    assert sink.dropped == 3


def test_what_comes_after_the_end_is_dropped(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = BackgroundSink(writing)
    sink.close()
    sink.write(b"late\n")
    sink.close()
    assert (read_all(reading), sink.dropped) == (b"", 1)


def test_events_written_in_the_background_are_whole_lines(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with closing(EventLog(wall_clock=lambda: 1.0, sink=BackgroundSink(writing))) as log:
        log.write("gateway.started", listen="127.0.0.1:8080")
        log.record("request.completed", {"outcome": "ok"})
    assert read_all(reading) == (
        b'{"time":1.0,"event":"gateway.started","listen":"127.0.0.1:8080"}\n'
        b'{"time":1.0,"event":"request.completed","outcome":"ok"}\n'
    )
