"""What a question looks like: eighteen figures of its surface, for a few microseconds.

How it works: the text becomes bytes, plain letters and spaces go, each other byte becomes the sign of its kind (digit,
capital, bracket, ...), and the kinds are counted. Counts go in as logarithms or as shares, so that a prompt of 800
characters weighs about as much as one of 80, and all of them are bounded: a crafted prompt cannot push a score
arbitrarily far.

Legend of array suffixes: F features.
"""

from __future__ import annotations

import re
from math import log1p
from struct import Struct

import numpy as np

NAMES = (
    "log_chars",
    "log_words",
    "chars_per_word",
    "digit_share",
    "capital_share",
    "newlines_per_word",
    "starts_with_capital",
    "ends_with_question_mark",
    "has_question_mark",
    "log_backslashes",
    "log_dollars",
    "has_code",
    "log_brackets",
    "log_commas",
    "has_options",
    "log_options",
    "asks_for_a_fact",
    "non_ascii_share",
)

# Ten times the longest question that the conversation's plan lets through; what lies beyond is not read.
_MOST_CHARS = 8000
# No language has such words, no page such gaps.
_MOST_CHARS_PER_WORD = 40.0
_MOST_NEWLINES_PER_WORD = 4.0

# "A." or "(A)" at the beginning of a line: the options of a multiple choice.
_OPTION = re.compile(r"\n[ \t]?\(?[A-J][.)]")
_FACT_WORDS = ("who", "when", "what", "where", "which", "how", "why")
_FACT_STARTS = (*_FACT_WORDS, *(word.capitalize() for word in _FACT_WORDS))


_KINDS = (
    (b"d", b"0123456789"),
    (b"u", bytes(range(65, 91))),
    (b"b", b"{}[]()=_<>;"),
    (b"x", bytes(range(0xC0, 0x100))),
    (b"\\", b"\\"),
    (b"$", b"$"),
    (b",", b","),
    (b"?", b"?"),
    (b"\n", b"\n"),
    (b"#", b"#`"),
)
"""Kinds of bytes of UTF-8: digits, capitals, brackets and operators, first bytes beyond ASCII, signs of their own."""
_KIND_OF = bytes.maketrans(
    b"".join(members for _, members in _KINDS), b"".join(kind * len(members) for kind, members in _KINDS)
)
_PLAIN = bytes(set(range(256)) - {byte for _, members in _KINDS for byte in members})
_FLOAT32 = np.dtype(np.float32)
_FIGURES = Struct(f"{len(NAMES)}f")


def surface_features(question: str) -> np.ndarray:
    """float32 [F], read-only, finite and in the order of `NAMES`, for any text: 3 us for 200 characters."""
    text = question[:_MOST_CHARS]
    raw = text.encode("utf-8", "surrogatepass")
    signs = raw.translate(_KIND_OF, _PLAIN)
    # Words are split as bytes: half the price of splitting the text.
    chars, words = len(text) or 1, len(raw.split()) or 1
    figures = _of_signs(text, signs, chars, words) if signs else _of_plain(text, chars, words)
    return np.frombuffer(figures, _FLOAT32)


def _of_plain(text: str, chars: int, words: int) -> bytes:
    """Of a text without any sign: the same as `_of_signs`, for a third of its time."""
    per_word, has_code = min(chars / words, _MOST_CHARS_PER_WORD), "def " in text or "    return" in text
    is_fact = text.startswith(_FACT_STARTS)
    return _FIGURES.pack(log1p(chars), log1p(words), per_word, 0, 0, 0, 0, 0, 0, 0, 0, has_code, 0, 0, 0, 0, is_fact, 0)


def _of_signs(text: str, signs: bytes, chars: int, words: int) -> bytes:
    count = signs.count
    newlines = count(b"\n")
    options = len(_OPTION.findall(text)) if newlines else 0
    return _FIGURES.pack(
        log1p(chars),
        log1p(words),
        min(chars / words, _MOST_CHARS_PER_WORD),
        count(b"d") / chars,
        count(b"u") / chars,
        min(newlines / words, _MOST_NEWLINES_PER_WORD),
        text[:1].isupper(),
        text[-9:].rstrip()[-1:] == "?",
        count(b"?") > 0,
        log1p(count(b"\\")),
        log1p(count(b"$")),
        "def " in text
        or "    return" in text
        or (count(b"#") > 0 and ("```" in text or "#include" in text))
        or (newlines > 0 and "\nimport " in text),
        log1p(count(b"b")),
        log1p(count(b",")),
        options > 1,
        log1p(options),
        text.startswith(_FACT_STARTS),
        count(b"x") / chars,
    )
