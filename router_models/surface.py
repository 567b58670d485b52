"""What a question looks like: eighteen figures of its surface, for a few microseconds.

How it works: the text becomes bytes, each byte becomes the letter of its class (digit, capital, bracket, ...), and the
classes are counted. Counts go in as logarithms or as shares, so that a prompt of 800 characters weighs about as much as
one of 80, and all of them are bounded: a crafted prompt cannot push a score arbitrarily far.

Legend of array suffixes: F features.
"""

from __future__ import annotations

import re
from math import log1p

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


def _classes() -> bytes:
    """The class of each byte of UTF-8: d digit, u capital, b bracket or operator, x first beyond ASCII, - other."""
    letters = bytearray(b"-" * 256)
    for letter, members in (("d", b"0123456789"), ("u", bytes(range(65, 91))), ("b", b"{}[]()=_<>;")):
        for byte in members:
            letters[byte] = ord(letter)
    letters[0xC0:] = b"x" * 0x40
    return bytes(letters)


_CLASSES = _classes()


def surface_features(question: str) -> np.ndarray:
    """float32 [F], finite and in the order of `NAMES`, for any text: 5 us for 200 characters, 10 us for 800."""
    text = question[:_MOST_CHARS]
    raw = text.encode("utf-8", "surrogatepass")
    classes = raw.translate(_CLASSES)
    # Words are split as bytes: half the price of splitting the text.
    chars, words, newlines = len(text) or 1, len(raw.split()) or 1, text.count("\n")
    options = len(_OPTION.findall(text)) if newlines else 0
    return np.array(
        (
            log1p(chars),
            log1p(words),
            min(chars / words, _MOST_CHARS_PER_WORD),
            classes.count(b"d") / chars,
            classes.count(b"u") / chars,
            min(newlines / words, _MOST_NEWLINES_PER_WORD),
            text[:1].isupper(),
            text[-9:].rstrip()[-1:] == "?",
            "?" in text,
            log1p(text.count("\\")),
            log1p(text.count("$")),
            "def " in text or "```" in text or "    return" in text or "\nimport " in text or "#include" in text,
            log1p(classes.count(b"b")),
            log1p(text.count(",")),
            options > 1,
            log1p(options),
            text.startswith(_FACT_STARTS),
            classes.count(b"x") / chars,
        ),
        dtype=np.float32,
    )
