"""Bodies that are made to keep a parser busy: while one is read and checked, everybody else waits.

Prints its figure as one line of JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from app.api.bodies.parsing import parse_chat, parse_completion, parse_embeddings, parse_responses
from app.api.bodies.strict_json import MAX_PARTS, MAX_VALUES, OUTLINED_BYTES, STRICT_BYTES, parse_object
from app.domain.request import Request
from app.errors import InvalidRequest
from tests.fakes.call import FakeCall
from tests.fakes.yardstick import SHARED, Machine

LIMIT = 4 << 20
# On an idle core: what the heaviest of honest bodies take, 300,000 token ids.
MOST_S = 0.025
CALL = FakeCall()
CHAT = b'{"model":"auto","messages":['
TWICE = b'{"model":"auto","model":"a","messages":['
# What an escaped colon says could be found twice, or not at all.
DOUBTFUL = b'{"model":"auto","a":"\\u003a","messages":['
SAID = b'{"model":"auto","input":[{"role":"user","content":[{"type":"input_text","text":"\\u003a%b","annotations":[' % (
    b'\\"' * 1_500_000
)
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
    "token ids": filled(b'{"model":"small","prompt":[', b"1,"),
    "as many token ids as may be": filled(b'{"model":"small","prompt":[', b"12345,", times=MAX_VALUES - 10),
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
    "doubtful lists": filled(DOUBTFUL, b"[],", times=MAX_PARTS - 10),
    "doubtful lists of numbers": filled(DOUBTFUL, b"[1.5e15,1],", times=MAX_PARTS - 10),
    "doubtful lists in a small body": filled(DOUBTFUL, b"[],", times=STRICT_BYTES // 3 - 10),
    "doubtful lists in a body of middle size": filled(DOUBTFUL, b"[],", times=OUTLINED_BYTES // 3 - 10),
    "doubtful keys": b"{%b}" % b",".join(b'"\\u003%d":1' % number for number in range(MAX_PARTS - 10)),
    "doubtful numbers": filled(DOUBTFUL, b"12345678901234567890,"),
    "a doubtful text of quotation marks": filled(b'{"a":"\\u003a', b'\\"', b'"}'),
    "a doubtful text of backslashes": filled(b'{"a":"\\u003a', b"\\\\a", b'"}'),
    "a doubtful text, then lists": b'{"a":"\\u003a%b","b":[%b1]}' % (b'\\"' * 1_700_000, b"[1,1]," * (MAX_PARTS - 10)),
    "doubtful annotations": SAID + b"[1,1]," * (MAX_PARTS - 20) + b"1]}]}]}",
    "doubtful annotations within each other": SAID
    + (b"[" * 25 + b"]" * 25 + b",") * (MAX_PARTS // 25 - 1)
    + b"1]}]}]}",
    "half a character, and lists": filled(b'{"a":"\\ud83d\\ude00\\u003a","b":[', b"[],", times=STRICT_BYTES // 3 - 20),
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
    assert max(taken_ms.values()) <= 1e3 * SHARED * MOST_S * (1 if full_size else machine.slowness())
