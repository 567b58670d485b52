"""JSON that can be read in one way only, because what is authorised here must be what the backend reads.

Refused, though many parsers take it: keys that occur twice, NaN and Infinity, numbers out of range, text that has no
UTF-8 form, and nesting deeper than `MAX_DEPTH`.

How it works: a quick parser reads the body, and what it read is compared with the bytes. Whatever is not plainly sound
goes to the strict decoder, which is slower, and says what is wrong. A parser stops the whole process while it works,
and a short text becomes a large object. So a large body has its outline drawn first, which says how many things it
holds, and what is doubtful in it is told from that; the strict decoder reads small ones only.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson

from app.errors import InvalidRequest, shown
from app.upstream.answers.json_outline import Outline, outlined

MAX_DEPTH = 32
# The largest seeds are 64 bits; longer integers are for exhausting parsers.
MAX_DIGITS = 20
# Texts, lists and objects in a body. The longest conversation with a tool call in each message has some 40,000; more
# than this takes a parser, and what checks the parameters, longer than others should wait.
MAX_PARTS = 50_000
# Values in a body: token ids, above all. OpenAI takes as many to embed at a time.
MAX_VALUES = 300_000
# In larger bodies what is wrong is looked for without a call for each number and each bracket: they take 5 ms so.
STRICT_BYTES = 16 << 10
# A smaller body cannot hold too much: each thing in it takes two bytes at least, as in `[]`.
OUTLINED_BYTES = 2 * MAX_PARTS

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_OBJECT = 'the body must be a JSON object, such as {"name": "value"}'
# The quick parser makes a float of a longer integer.
_SAFE_FLOAT = 1e15
_NO_COLONS = frozenset({int, bool, type(None)})
_NUMBERS = frozenset({int, float})
_NESTED = frozenset({dict, list})


class _Doubtful(Exception):
    """Perhaps sound, perhaps not."""


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in these bytes.

    Raises:
        InvalidRequest: they hold something else, or something ambiguous; the message says what and where.
    """
    outline = _checked_outline(body) if len(body) > OUTLINED_BYTES else None
    is_large = len(body) > STRICT_BYTES
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        if not is_large:
            return parse_strictly(body)
        if outline is None:
            _checked_outline(body)
        place = f"line {exc.lineno} column {exc.colno}"
        raise InvalidRequest(f"the body is not JSON that all read alike: {exc.msg} at {place}") from exc
    if outline is None and type(parsed) is dict and _is_plainly_sound(parsed, body):
        return parsed
    return _checked(parsed, body, outline or _checked_outline(body)) if is_large else parse_strictly(body)


def _checked_outline(body: bytes) -> Outline:
    """Of a body that is not made of too many things to be read in a short time and little memory."""
    outline = outlined(body, MAX_PARTS)
    if outline.parts > MAX_PARTS:
        raise InvalidRequest(f"the body has more than {MAX_PARTS} texts, lists and objects; send less at a time")
    if outline.values > MAX_VALUES:
        raise InvalidRequest(f"the body has more than {MAX_VALUES} values; send less at a time")
    _check_depth(outline)
    return outline


def _is_plainly_sound(parsed: dict[str, Any], body: bytes) -> bool:
    """Whether nothing was lost on reading; False may also mean that it is not so easy to tell."""
    # An object that brings a key twice has more colons than the one that was made of it; an escaped colon is none.
    try:
        return b"\\u003" not in body and _colons(parsed, 1) == body.count(b":")
    except _Doubtful:
        return False


def _colons(value: dict[str, Any] | list[Any], depth: int) -> int:
    """How many colons JSON has that says this.

    Raises:
        _Doubtful: something in it may have been read otherwise than it was written, or is nested too deep.
    """
    if depth > MAX_DEPTH:
        raise _Doubtful
    items: Any
    if type(value) is dict:
        # One for each key, and those within keys.
        found = ":".join(value).count(":") + 1 if value else 0
        items = value.values()
    else:
        found, items = 0, value
        if len(value) > MAX_DEPTH:
            kinds = set(map(type, items))
            if kinds <= _NO_COLONS:
                return 0
            if kinds <= _NUMBERS and -_SAFE_FLOAT < min(items) <= max(items) < _SAFE_FLOAT:
                return 0
    for item in items:
        kind = type(item)
        if kind is str:
            found += item.count(":")
        elif kind is float:
            if not -_SAFE_FLOAT < item < _SAFE_FLOAT:
                raise _Doubtful
        elif kind in _NESTED:
            found += _colons(item, depth + 1)
    return found


def parse_strictly(body: bytes) -> dict[str, Any]:
    """What `parse_object` says, of any body that is not too large for it."""
    _check_depth(outlined(body, len(body)))
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
        raise InvalidRequest(_NO_OBJECT)
    if _SURROGATE.search(body):
        _refuse_surrogates(parsed)
    return parsed


def _checked(parsed: object, body: bytes, outline: Outline) -> dict[str, Any]:
    """What the quick parser made of a large body, when nothing was lost on the way."""
    if not isinstance(parsed, dict):
        raise InvalidRequest(_NO_OBJECT)
    if outline.has_long_integer(body):
        raise InvalidRequest("an integer has more than 64 bits; send a smaller one")
    # An object that brings a key twice has fewer than were written.
    if _keys(parsed) != outline.keys:
        raise InvalidRequest("a key occurs twice in one object; send it once")
    return parsed


def _keys(parsed: dict[str, Any]) -> int:
    """How many keys its objects have, at any depth."""
    found, level = 0, list[Any]([parsed])
    while level:
        found += sum([len(each) for each in level if type(each) is dict])
        values = [each.values() if type(each) is dict else each for each in level]
        # Of a list of numbers, which may be long, nothing is looked at one by one.
        level = [
            item
            for items in values
            if len(items) <= MAX_DEPTH or not _NESTED.isdisjoint(map(type, items))
            for item in items
            if type(item) in _NESTED
        ]
    return found


def _check_depth(outline: Outline) -> None:
    if outline.depth > MAX_DEPTH:
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
        twice = shown(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
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
