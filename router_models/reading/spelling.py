"""Misspelt words, read as the words that were probably meant.

How it works: of two words that are one slip apart (a letter left out, put in or replaced, two neighbours swapped) both
are alike once each lacks at most one letter ("symmetric deletes", W. Garbe, 2012). So every known word is filed under
itself and under what is left of it without each of its letters, and an unknown one is looked up in the same ways. Of
those that are one slip away the commonest is taken. Known words are what it was told, however odd they are: `json` is
no slip of `son`. Short words, and what is not of plain letters, stay as they are: too many of them are names.

Under one key only the commonest word is filed, so a rare one may be missed. A lookup takes some 15 us, and is done once
for each word that the reader remembers.

Legend of array suffixes: K keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np

from router_models.reading.conversation import Parts

# Under three letters kept in common, half of all short words are slips of each other.
LEAST_LETTERS, MOST_LETTERS = 4, 24
# A word of fewer texts than these may be a slip itself, or nobody's business.
LEAST_TEXTS = 3
# Who knows fewer words takes too much that is merely unknown for a slip: see LOG.md.
LEAST_WORDS = 2_000

# Units of the word-piece reader: runs of letters and digits.
_WORDS = re.compile(rf"(?<![a-z0-9])[a-z]{{1,{MOST_LETTERS}}}(?![a-z0-9])")


class Spelling:
    """Knows words; safe to share between threads."""

    def __init__(self, words: Sequence[str]) -> None:
        """`words` in lower case, the commonest first."""
        self._words = tuple(words)
        self._known = frozenset(words)
        targets = [(rank, word) for rank, word in enumerate(words) if _is_eligible(word)]
        filed = [(key, rank) for rank, word in targets for key in _keys(word)]
        key_K, first_K = np.unique(np.array([key for key, _ in filed], dtype=np.uint32), return_index=True)
        self._key_K = key_K
        self._rank_K = np.array([rank for _, rank in filed], dtype=np.int32)[first_K]

    def meant(self, word: str) -> str:
        """The commonest known word that is one slip away from an unknown one; else the word itself."""
        if word in self._known or not _is_eligible(word) or not len(self._key_K):
            return word
        keys = np.array(_keys(word), dtype=np.uint32)
        places = np.minimum(self._key_K.searchsorted(keys), len(self._key_K) - 1)
        ranks: list[int] = np.unique(self._rank_K[places[self._key_K[places] == keys]]).tolist()
        found = (self._words[rank] for rank in ranks)
        return next((other for other in found if _is_one_slip(word, other)), word)


def common_words(texts: Iterable[Parts]) -> tuple[str, ...]:
    """Words of at least `LEAST_TEXTS` texts, those of most texts first; fewer than `LEAST_WORDS` are none."""
    texts_of = Counter(
        word for text in texts for word in set(_WORDS.findall(f"{text.context} {text.question}".lower()))
    )
    known = [(-count, word) for word, count in texts_of.items() if count >= LEAST_TEXTS]
    return tuple(word for _, word in sorted(known)) if len(known) >= LEAST_WORDS else ()


def is_plain(word: str) -> bool:
    """Whether it is of letters from a to z, and not too long for a word."""
    return len(word) <= MOST_LETTERS and word.isascii() and word.isalpha() and word.islower()


def _is_eligible(word: str) -> bool:
    return len(word) >= LEAST_LETTERS and is_plain(word)


def _keys(word: str) -> list[int]:
    """Of the word and of what is left without each of its letters."""
    return [crc32(word.encode()), *(crc32(f"{word[:i]}{word[i + 1 :]}".encode()) for i in range(len(word)))]


def _is_one_slip(one: str, other: str) -> bool:
    start, shorter = 0, min(len(one), len(other))
    while start < shorter and one[start] == other[start]:
        start += 1
    end = 0
    while end < shorter - start and one[-1 - end] == other[-1 - end]:
        end += 1
    left, right = one[start : len(one) - end], other[start : len(other) - end]
    return max(len(left), len(right)) == 1 or (len(left) == 2 and left == right[::-1])
