"""JSON that can be read in one way only, because what is authorised here must be what the backend reads.

Refused, though many parsers take it: keys that occur twice, NaN and Infinity, numbers out of range, text that has no
UTF-8 form, and nesting deeper than `MAX_DEPTH`. The depth is checked before parsing, so that no input can exhaust the
stack.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from app.errors import InvalidRequest

MAX_DEPTH = 32
# The largest seeds are 64 bits; longer integers are for exhausting parsers.
MAX_DIGITS = 20

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NOT_A_BRACKET = re.compile(rb"[^\[\]{}]+")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in these bytes.

    Raises:
        InvalidRequest: they hold something else, or something ambiguous; the message says what and where.
    """
    _check_depth(body)
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not UTF-8 (byte {exc.start}); send JSON in UTF-8") from exc
    try:
        parsed = _decode(text)
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno} column {exc.colno}"
        raise InvalidRequest(f"the body is not valid JSON: {exc.msg} at {place}") from exc
    if not isinstance(parsed, dict):
        raise InvalidRequest('the body must be a JSON object, such as {"model": "auto", ...}')
    if b"\\u" in body:
        _refuse_surrogates(parsed)
    return parsed


def _check_depth(body: bytes) -> None:
    # Fewer brackets than the limit cannot be nested deeper, and that is what nearly all bodies have.
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _NOT_A_BRACKET.sub(b"", _STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels; flatten it")


def _refuse_surrogates(value: object) -> None:
    if isinstance(value, str):
        if _LONE_SURROGATE.search(value):
            raise InvalidRequest("the body has half of a UTF-16 pair (\\ud800 to \\udfff); send whole characters")
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_surrogates(name)
            _refuse_surrogates(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_surrogates(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidRequest(f"the key {twice!r} occurs twice in one object; send it once", param=twice)
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidRequest(f"an integer has more than {MAX_DIGITS} digits; send a smaller one")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise InvalidRequest(f"the number {text[:20]} is too large; send a finite one")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not JSON; send a number, or leave the field out")


_decode = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_refuse_constant
).decode
