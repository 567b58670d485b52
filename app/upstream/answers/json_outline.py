"""What JSON is made of, found in its bytes before anything parses it: texts, brackets, commas, colons.

How it works: a parser makes an object of each `{}`, so a short text becomes a large structure, and the whole process
waits. Here all bytes are looked at at once, as arrays and block by block, so that what they say makes little
difference: 4 MiB take some 10 ms at most. Of what is no JSON the outline is something, and says nothing.

Legend of array suffixes: N bytes, E of them that are quotation marks or marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# What is looked at at once stays in the processor's cache.
BLOCK_BYTES = 64 << 10
# More digits are never an integer of 64 bits; as many are it up to this one.
_DIGITS, _LARGEST = 20, b"18446744073709551615"
_DIGITS_AS_ZEROS, _LONG_RUN = bytes.maketrans(b"0123456789", b"0" * 10), b"0" * _DIGITS
_INTEGER = re.compile(rb"[0-9]*+(?![.eE])")
_IN_A_NUMBER, _EXPONENT = (b".", b"e", b"E", b"+"), (b"e", b"E")
MOST_LONG_NUMBERS = 1_000
_QUOTE, _BACKSLASH, _COMMA, _COLON = b'"\\,:'
# With this bit, square brackets are curly ones.
_CURLY = np.uint8(0x20)
_OPEN, _CLOSE = b"{}"
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1

Bytes = NDArray[np.uint8]
Truths = NDArray[np.bool_]
_NOTHING: Bytes = np.zeros(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Outline:
    """Of one piece of JSON."""

    texts: int
    marks: bytes
    """Brackets, commas and colons outside of texts, in their order."""
    quotes_E: NDArray[np.int64]
    """Where texts begin and end."""

    @property
    def parts(self) -> int:
        """Texts, lists and objects."""
        return self.texts + _count(self._array | _CURLY, _OPEN)

    @property
    def values(self) -> int:
        """How many lists and objects hold at most, above one each."""
        return _count(self._array, _COMMA)

    @property
    def keys(self) -> int:
        return _count(self._array, _COLON)

    @property
    def depth(self) -> int:
        return int(np.cumsum(_STEPS[self._array], dtype=np.int64).max(initial=0))

    @property
    def _array(self) -> Bytes:
        return np.frombuffer(self.marks, np.uint8)

    def has_long_integer(self, content: bytes, block_bytes: int = BLOCK_BYTES) -> bool:
        """Whether what this is the outline of has an integer of more than 64 bits, of which parsers make a float.

        Also true of so many numbers of that length that nobody means them.
        """
        # Most have none, not even in a text, which takes half the time to see.
        if _LONG_RUN not in content.translate(_DIGITS_AS_ZEROS):
            return False
        begins_E = _long_runs(np.frombuffer(content, np.uint8), block_bytes)
        # Outside of texts an even number of quotation marks came before.
        begins = begins_E[np.searchsorted(self.quotes_E, begins_E) % 2 == 0].tolist()
        return len(begins) > MOST_LONG_NUMBERS or any(_is_too_long(content, begin) for begin in begins)


class Things(NamedTuple):
    """How many of each kind JSON is made of."""

    texts: int
    brackets: int
    """Lists and objects."""
    values: int
    keys: int


def has_more(content: bytes, most: Things) -> bool:
    """Whether JSON is made of more things of a kind than these; nothing is looked at after that is clear."""
    quotes = brackets = values = keys = 0
    for quotes_N, marks_E in _blocks(content, BLOCK_BYTES):
        quotes += int(np.count_nonzero(quotes_N))
        brackets += _count(marks_E | _CURLY, _OPEN)
        values += _count(marks_E, _COMMA)
        keys += _count(marks_E, _COLON)
        if quotes > 2 * most.texts or brackets > most.brackets or values > most.values or keys > most.keys:
            return True
    return False


def outlined(content: bytes, most_parts: int, block_bytes: int = BLOCK_BYTES) -> Outline:
    """The outline of this; it ends where there are more parts than that."""
    found, quotes, start, parts = list[bytes](), [np.zeros(0, np.int64)], 0, 0.0
    for quotes_N, marks_E in _blocks(content, block_bytes):
        quotes.append(np.flatnonzero(quotes_N) + start)
        found.append(marks_E.tobytes())
        start += block_bytes
        parts += len(quotes[-1]) / 2 + _count(marks_E | _CURLY, _OPEN)
        if parts > most_parts:
            break
    quotes_E = np.concatenate(quotes)
    return Outline((len(quotes_E) + 1) // 2, b"".join(found), quotes_E)


def _blocks(content: bytes, block_bytes: int) -> Iterator[tuple[Truths, Bytes]]:
    """Of each block where texts begin or end, and the marks outside of them."""
    bytes_N, is_escaped, is_inside = np.frombuffer(content, np.uint8), False, False
    for start in range(0, len(bytes_N), block_bytes):
        block_N = bytes_N[start : start + block_bytes]
        quotes_N, is_escaped = _quotes(block_N, is_escaped)
        if not quotes_N.any():
            # All of it is outside of texts, or nothing is.
            yield quotes_N, _NOTHING if is_inside else block_N[_marks(block_N)]
            continue
        found_E = block_N[quotes_N | _marks(block_N)]
        quotes_E = found_E == _QUOTE
        # Sums of eight bits overflow, and stay odd or even.
        before_E = np.cumsum(quotes_E, dtype=np.uint8) + np.uint8(is_inside)
        yield quotes_N, found_E[(before_E % 2 == 0) & ~quotes_E]
        is_inside = bool(before_E[-1] % 2)


def _count(bytes_E: Bytes, byte: int) -> int:
    return int(np.count_nonzero(bytes_E == byte))


def _marks(block_N: Bytes) -> Truths:
    curly_N = block_N | _CURLY
    marks_N: Truths = (curly_N == _OPEN) | (curly_N == _CLOSE)
    marks_N |= block_N == _COMMA
    marks_N |= block_N == _COLON
    return marks_N


def _quotes(block_N: Bytes, is_escaped: bool) -> tuple[Truths, bool]:
    """Where texts begin or end, and whether the byte after the block is escaped as the first one of it was."""
    quotes_N: Truths = block_N == _QUOTE
    slashes_N = block_N == _BACKSLASH
    if is_escaped:
        quotes_N[0] = slashes_N[0] = False
    if not slashes_N.any():
        return quotes_N, False
    if not (slashes_N[1:] & slashes_N[:-1]).any():
        quotes_N[1:] &= ~slashes_N[:-1]
        return quotes_N, bool(slashes_N[-1])
    # What follows an odd number of backslashes is escaped.
    edges_E = np.flatnonzero(np.diff(slashes_N, prepend=False, append=False))
    begins_E, ends_E = edges_E[::2], edges_E[1::2]
    escaped_E = ends_E[(ends_E - begins_E) % 2 == 1]
    goes_on = bool(len(escaped_E) and escaped_E[-1] == len(block_N))
    quotes_N[escaped_E[:-1] if goes_on else escaped_E] = False
    return quotes_N, goes_on


def _long_runs(bytes_N: Bytes, block_bytes: int) -> NDArray[np.int64]:
    """Where so many digits begin that they may be too many; JSON that is an object begins with none."""
    found = [np.zeros(0, np.int64)]
    for start in range(1, len(bytes_N), block_bytes):
        # One byte before the block, to see where digits begin, and enough after it.
        digits_N = _is_digit(bytes_N[start - 1 : start + block_bytes + _DIGITS - 1])
        twos_N = digits_N[1:] & digits_N[:-1]
        fours_N = twos_N[2:] & twos_N[:-2]
        eights_N = fours_N[4:] & fours_N[:-4]
        sixteens_N = eights_N[8:] & eights_N[:-8]
        runs_N = sixteens_N[1:-4] & fours_N[17:]
        found.append(np.flatnonzero(runs_N & ~digits_N[: len(runs_N)]) + start)
    return np.concatenate(found)


def _is_digit(bytes_N: Bytes) -> Truths:
    digits_N: Truths = bytes_N - np.uint8(ord("0")) < 10
    return digits_N


def _is_too_long(content: bytes, begin: int) -> bool:
    """Whether the run of digits that begins here is an integer of more than 64 bits."""
    number = _INTEGER.match(content, begin)
    before, first = content[begin - 1 : begin], content[begin - 2 : begin - 1]
    if number is None or before in _IN_A_NUMBER or (before == b"-" and first in _EXPONENT):
        return False
    return before == b"-" or len(number[0]) > _DIGITS or number[0] > _LARGEST
