"""How a question is worded: what hints at the number of its steps, where `surface` counts characters.

How it works: amounts, sentences and telling words are counted, and the options of a multiple choice compared. English
words only; in other languages those counts are 0 and say nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log1p

_AMOUNT = re.compile(
    r"\d[\d,]*\.?\d*|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|dozen|half|twice|third|quarter|double|triple)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SENTENCE_END = re.compile(r"[.?!](?:\s|$)")
_OPTION = re.compile(r"\n\(?[A-J][.)]\s*(.*)")
# Words that make a question of arithmetic or of exclusion; counted together.
_WORD_GROUPS = (
    ("if",),
    ("each", "every", "per"),
    ("more", "less", "than", "fewer", "times"),
    ("total", "all", "altogether"),
    ("not", "except", "least", "incorrect", "false"),
    ("how",),
    ("which",),
    ("of", "the"),
)
# What lies beyond is not read.
_MOST_CHARS = 8000
_MOST_NUMBER = 1e15


def wording_features(text: str) -> list[float]:
    """Steps a question may take: its amounts, sentences, telling words, and how its options differ.

    26 finite numbers, for any text; counts as logarithms. 0.1 ms for 500 characters.
    """
    text = text[:_MOST_CHARS]
    options, first_option = _OPTION.findall(text), _OPTION.search(text)
    stem = text[: first_option.start()] if first_option else text
    return [*_amounts(text), *_words(text, stem), *_options(options)]


def _amounts(text: str) -> list[float]:
    amounts = _AMOUNT.findall(text)
    numbers = [min(float(found.replace(",", "")), _MOST_NUMBER) for found in _NUMBER.findall(text)]
    broken = sum(number != int(number) for number in numbers)
    return [
        log1p(len(amounts)),
        log1p(len(set(amounts))),
        log1p(max(numbers, default=0.0)),
        log1p(broken),
        "%" in text,
        "$" in text or "dollar" in text,
    ]


def _words(text: str, stem: str) -> list[float]:
    words = text.lower().split()
    counted, count = Counter(words), len(words) or 1
    sentences, stem_words = len(_SENTENCE_END.findall(stem)) or 1, stem.split()
    return [
        *(log1p(sum(counted[word] for word in group)) for group in _WORD_GROUPS),
        log1p(sentences),
        log1p(len(stem)),
        log1p(len(stem_words) / sentences),
        len(counted) / count,
        sum(len(word) > 8 for word in words) / count,
        log1p(10 * sum(word[:1].isupper() for word in stem_words) / count),
        "statement" in text.lower(),
        "____" in text,
    ]


def _options(options: Sequence[str]) -> list[float]:
    lengths = [len(option) for option in options]
    if not lengths:
        return [0.0, 0.0, 0.0, 0.0]
    longest = max(lengths)
    return [
        log1p(sum(lengths) / len(lengths)),
        log1p(longest - min(lengths)),
        lengths.index(longest) / 3,
        any(any(letter.isdigit() for letter in option) for option in options),
    ]
