"""A stream of bytes becomes the data of server-sent events, wherever the network cut it.

Rules of the WHATWG event-stream format: lines end in CR LF, LF or CR; a byte-order mark may come first; a line that
begins with a colon is a comment; the `data` lines of an event are joined by LF; an empty line ends the event; what is
left at the end of the stream is no event. Fields other than `data` are read and dropped.
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"
# The largest legitimate event seen is a chunk with 20 logprobs a token, some 10 KiB.
MAX_EVENT_BYTES = 1 << 20


class EventTooLong(ValueError):
    """An event, or a line of one, is longer than the limit."""


class EventSplitter:
    """Feed it pieces of a stream; it returns the data of the events that became complete."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._head: bytes | None = b""
        """What may yet turn out to be a byte-order mark; None once that is settled."""
        self._ended_in_cr = False

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._line or self._data)

    @property
    def unended(self) -> bytes:
        """The data of an event that has begun and not ended; where the stream ends here it is none, by the rules."""
        value = _value_in(bytes(self._line))
        return b"\n".join(self._data if value is None else [*self._data, value])

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece; return the data of each event that it completes, in order.

        Raises:
            EventTooLong: an event passes the limit; the splitter is of no use after that.
        """
        if self._head is not None:
            piece = self._without_bom(piece)
        if (events := self._whole_events(piece)) is not None:
            return events
        lines = self._normalised(piece).split(b"\n")
        events = []
        for line in lines[:-1]:
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            self._take(line, events)
        self._line += lines[-1]
        self._check_length()
        return events

    def _whole_events(self, piece: bytes) -> list[bytes] | None:
        """The events of a piece that is nothing but whole ones of one line, as workers mostly write them; else None."""
        if (
            not (piece.startswith(b"data: ") and piece.endswith(b"\n\n") and len(piece) <= self._max_event_bytes)
            or self._line
            or self._data
            or self._ended_in_cr
            or b"\r" in piece
        ):
            return None
        events = piece[6:-2].split(b"\n\ndata: ")
        return events if piece.count(b"\n") == 2 * len(events) else None

    def _without_bom(self, piece: bytes) -> bytes:
        head = (self._head or b"") + piece
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _normalised(self, piece: bytes) -> bytes:
        """The piece with LF as its only line end; a CR LF pair may be cut in two by the network."""
        if self._ended_in_cr and piece:
            piece = piece.removeprefix(b"\n")
            self._ended_in_cr = False
        if b"\r" not in piece:
            return piece
        self._ended_in_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data, self._data_bytes = [], 0
        elif (value := _value_in(line)) is not None:
            self._keep(value, len(line))

    def _keep(self, value: bytes, size: int) -> None:
        self._data.append(value)
        # Each line takes some room of its own, even an empty one; so all of it counts.
        self._data_bytes += size + 1
        self._check_length()

    def _check_length(self) -> None:
        if self._data_bytes + len(self._line) > self._max_event_bytes:
            raise EventTooLong(f"an event is longer than {self._max_event_bytes} bytes")


def _value_in(line: bytes) -> bytes | None:
    """What a `data` line says; None for any other line."""
    if line.startswith(b"data:"):
        return line[6:] if line[5:6] == b" " else line[5:]
    return b"" if line == b"data" else None
