"""Where log lines go: at once to a stream, or from a buffer by a thread, so that no reader can hold the gateway up.

How the thread works: the first line after a pause is written at once; what comes within the next tenth of a second
is written together. A reader that stalls blocks the thread only. Meanwhile lines wait, up to `MAX_WAITING_BYTES`; what
is over that is dropped and counted. Non-blocking writes were the other way, but the flag belongs to the open file,
which a shell or another process may share. A fork takes no thread along: make a sink after it.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from typing import Protocol, TextIO

# Some 600 bytes a line: at 2,000 requests per second, three seconds of a stalled reader.
MAX_WAITING_BYTES = 4 << 20
# Twenty writes a second would be as unnoticeable, and cost more.
EVERY_S = 0.1
# How long the end of the process waits for a reader that stalls.
CLOSE_WITHIN_S = 1.0


class Sink(Protocol):
    """Takes lines."""

    @property
    def dropped(self) -> int:
        """Lines that were lost."""
        ...

    def write(self, line: bytes) -> None: ...

    def close(self) -> None:
        """Write what waits, as far as that goes."""


class StreamSink:
    """Writes each line at once; a stream that fails costs the line, never the request."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.dropped = 0

    def write(self, line: bytes) -> None:
        try:
            self._stream.write(line.decode())
            self._stream.flush()
        except (OSError, ValueError):
            self.dropped += 1

    def close(self) -> None:
        """The stream is its owner's."""


class BackgroundSink:
    """Writes to a file descriptor of its own, from a thread that starts with the first line."""

    def __init__(self, descriptor: int, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        """`descriptor` is closed at the end."""
        self._descriptor, self._max_waiting_bytes = descriptor, max_waiting_bytes
        self._lines: deque[bytes] = deque()
        # Each is written by one thread only; their difference is what waits.
        self._bytes_in, self._bytes_out = 0, 0
        self._refused, self._failed = 0, 0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        return self._refused + self._failed

    def write(self, line: bytes) -> None:
        size = len(line)
        if self._bytes_in - self._bytes_out + size > self._max_waiting_bytes:
            self._refused += 1
            return
        self._bytes_in += size
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake_up()

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        # Nothing more is taken.
        self._max_waiting_bytes = -1
        if self._thread:
            atexit.unregister(self.close)
            self._wake.set()
            self._thread.join(CLOSE_WITHIN_S)
            if self._thread.is_alive():
                return
        os.close(self._descriptor)

    def _wake_up(self) -> None:
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            self._write_out()
            self._closing.wait(EVERY_S)
        self._write_out()

    def _write_out(self) -> None:
        lines: list[bytes] = []
        while self._lines:
            lines.append(self._lines.popleft())
        batch = b"".join(lines)
        rest = memoryview(batch)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._failed += bytes(rest).count(b"\n")
        self._bytes_out += len(batch)
