"""What is fuzzed: one function for each thing that reads what strangers wrote.

A target takes any bytes and returns. It lets pass only the exceptions that the parser documents, and checks what must
hold of whatever is accepted; anything else that is raised is a finding.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from app.api.bodies.parsing import parse_chat, parse_completion
from app.api.bodies.strict_json import parse_object, parse_strictly
from app.api.connection.chunked import ChunkedBody
from app.api.connection.guard import Head, Refused, check_head, end_of_head
from app.domain.dimensions import MOST_WEIGHT
from app.domain.preferences import parse_flag_line
from app.errors import CallerError, UsageError
from app.settings import load_settings
from app.upstream.answers.sse import EventSplitter, EventTooLong
from tests.fakes.call import FakeCall

_CALL = FakeCall()
# Documents of YAML in one input.
_BETWEEN = b"\n=====\n"


def body(data: bytes) -> None:
    """A body, as JSON and then as a request. What the quick parser accepts, the strict one reads in the same way."""
    try:
        parsed = parse_object(data)
    except CallerError:
        return
    assert json.dumps(parsed, allow_nan=False) == json.dumps(parse_strictly(data))
    for parse in (parse_chat, parse_completion):
        with contextlib.suppress(CallerError):
            json.dumps(parse(parse_object(data), _CALL).body, allow_nan=False, ensure_ascii=False).encode()


def events(data: bytes) -> None:
    """A stream of events: the same however it is cut. The first byte says how."""
    step, stream = (data[0] % 16 + 1, data[1:]) if data else (1, b"")
    with contextlib.suppress(EventTooLong):
        whole = EventSplitter(256).feed(stream)
        pieces = EventSplitter(256)
        assert [
            one for start in range(0, len(stream), step) for one in pieces.feed(stream[start : start + step])
        ] == whole
        assert not any(b"\r" in one for one in whole)


def flags(data: bytes) -> None:
    """The first line of a prompt."""
    prompt = data.decode(errors="replace")
    found = parse_flag_line(prompt)
    if found is not None:
        assert prompt.endswith(found.rest)
        assert found.preferences.weights
        assert all(0 <= weight <= MOST_WEIGHT for weight in found.preferences.weights.values())


def config(data: bytes) -> None:
    """The gateway's file and the catalogue, which is always called the same."""
    gateway, _, models = data.partition(_BETWEEN)
    path = _folder() / "gateway.yaml"
    path.write_bytes(gateway)
    (path.parent / "catalog.yaml").write_bytes(models)
    with contextlib.suppress(UsageError):
        load_settings(path, {})


def head(data: bytes) -> None:
    """A request's head: what passes is as long as its end says, and passes again when it is written anew."""
    with contextlib.suppress(Refused):
        end = end_of_head(data)
        assert end == -1 or data[:end].endswith(b"\r\n\r\n")
        found = check_head(data[:end] if end != -1 else data)
        assert check_head(written(found)) == found


def chunks(data: bytes) -> None:
    """A body in chunks: the same however it is cut, and never longer than what came."""
    step, sent = (data[0] % 16 + 1, data[1:]) if data else (1, b"")
    with contextlib.suppress(Refused):
        whole, pieces = ChunkedBody(), ChunkedBody()
        read = whole.feed(sent)
        rest = b"".join(_fed(pieces, sent, step))
        assert (rest, pieces.done) == (read, whole.done)
        assert len(read) + len(whole.rest) <= len(sent)


def written(found: Head) -> bytes:
    """A head that says the same."""
    dropped = {
        "transfer-encoding: chunked\r\n": found.chunked,
        "connection: close\r\n": not found.keep_alive,
        "expect: 100-continue\r\n": found.expect_continue,
    }
    fields = "".join(line for line, was_there in dropped.items() if was_there)
    fields += "".join(f"{name}: {value}\r\n" for name, value in found.headers.items())
    return f"{found.method} {found.target} HTTP/{found.version}\r\n{fields}\r\n".encode("latin-1")


def _fed(body: ChunkedBody, sent: bytes, step: int) -> Iterator[bytes]:
    for start in range(0, len(sent), step):
        if body.done:
            break
        yield body.feed(sent[start : start + step])


def _folder() -> Path:
    """Of this process."""
    global _configs
    if _configs is None:
        _configs = tempfile.TemporaryDirectory()
    return Path(_configs.name)


_configs: tempfile.TemporaryDirectory[str] | None = None

TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (body, events, flags, config, head, chunks)
}
