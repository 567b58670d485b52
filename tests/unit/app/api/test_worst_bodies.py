"""Bodies that are made to keep a parser busy: while one is read and checked, everybody else waits.

Prints its figure as one line of JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from app.api.parsing import parse_chat, parse_completion, parse_embeddings, parse_responses
from app.api.strict_json import MAX_PARTS, MAX_VALUES, parse_object
from app.domain.request import Request
from app.errors import InvalidRequest
from tests.fakes.call import FakeCall
from tests.fakes.yardstick import Machine

LIMIT = 4 << 20
MOST_S = 0.1
CALL = FakeCall()
CHAT = b'{"model":"auto","messages":['
TWICE = b'{"model":"auto","model":"a","messages":['
MESSAGE = b'{"role":"user","content":""},'


def filled(head: bytes, thing: bytes, tail: bytes = b"1]}", times: int = LIMIT) -> bytes:
    """As many things as fit, or so many."""
    return head + thing * min(times, (LIMIT - len(head) - len(tail)) // len(thing)) + tail


BODIES: Mapping[str, bytes] = {
    "tiny objects": filled(CHAT, b"{},"),
    "tiny lists": filled(CHAT, b"[],"),
    "tiny texts": filled(CHAT, b'"ab",'),
    "tiny messages": filled(CHAT, MESSAGE),
    "tiny parts": filled(CHAT + b'{"role":"user","content":[', b'{"type":"text","text":""},', b"1]}]}"),
    "token ids": filled(b'{"model":"auto","prompt":[', b"1,"),
    "as many token ids as may be": filled(b'{"model":"auto","prompt":[', b"12345,", times=MAX_VALUES - 10),
    "as many ids to embed": filled(b'{"model":"small","input":[', b"12345,", times=MAX_VALUES - 10),
    "as many numbers, and a key twice": filled(TWICE, b"1.5,", times=MAX_VALUES - 10),
    "as many things, and a key twice": filled(TWICE, b'{"a":""},', times=MAX_PARTS // 3 - 10),
    "as many keys": b"{%b}" % b",".join(b'"%d":1' % number for number in range(MAX_PARTS - 10)),
    "as many messages as may be": filled(CHAT, MESSAGE * 2048, b'{"role":"user","content":1}]}', times=1),
    "as many items": filled(b'{"model":"auto","input":[', MESSAGE, b'{"type":1}]}', times=2047),
    "a text of colons": filled(CHAT + b'{"role":"user","content":"', b":{", b'"}]}'),
    "a text of escapes": filled(CHAT + b'{"role":"user","content":"', b'\\"\\n\\u003a', b'"}]}'),
    "a text without end": filled(CHAT + b'{"role":"user","content":"', b'\\"[{', b""),
    "nesting": filled(b'{"a":', b"[", b"", times=MAX_PARTS - 10),
    "a long number": filled(b'{"seed":', b"9", b"}"),
}


def _parser(parsed: Mapping[str, Any]) -> Callable[[Mapping[str, Any], FakeCall], Request]:
    if "prompt" in parsed:
        return parse_completion
    if "input" not in parsed:
        return parse_chat
    return parse_embeddings if parsed["model"] == "small" else parse_responses


def seconds(body: bytes) -> float:
    began_at = time.process_time()
    try:
        parsed = parse_object(body)
        _parser(parsed)(parsed, CALL)
    except InvalidRequest:
        pass
    return time.process_time() - began_at


def test_no_body_keeps_everybody_else_waiting(
    capsys: pytest.CaptureFixture[str], full_size: bool, machine: Machine
) -> None:
    # The least of a few: what a body takes by itself, without what else goes on in the machine.
    taken_ms = {name: round(1e3 * min(seconds(body) for _ in range(3)), 1) for name, body in BODIES.items()}
    with capsys.disabled():
        print(json.dumps({"test": "S3 parsing", "worst_ms": max(taken_ms.values()), "taken_ms": taken_ms}))
    assert max(taken_ms.values()) <= 1e3 * MOST_S * (1 if full_size else machine.slowness())
