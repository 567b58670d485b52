"""Word-piece ids of a text: those of the `tokenizers` library, at a tenth of its price.

How it works: an uncased BERT tokenizer reads runs of letters and digits, and single punctuation marks, each on its own.
So the ids of every such unit are kept, as bytes, and a text of known units costs one pass and one join. Units not seen
before go through the library, all in one call. A text with letters beyond ASCII, control characters or special tokens
is taken word by word: plain words as above, the others whole, by the library.

Not kept: what is long, since it rarely comes twice. When the store is full it starts anew; traffic fills it in seconds.

Legend of array suffixes: T tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

# 20,000 questions of public benchmarks have 41,000 units. A full store takes about 10 MB.
MOST_KNOWN = 50_000
MOST_CHARS = 24

_UNITS = re.compile(r"[a-z0-9]+|[^ \t\n\ra-z0-9]")
# Words end at these alone: other white space is replaced or dropped by the normaliser, which the library knows best.
_WORDS = re.compile(r"[^ \t\n\r]+")


class FastWordPiece:
    """Texts to ids without [CLS] and [SEP]; safe to share between threads."""

    def __init__(self, tokenizer_json: bytes, most_known: int = MOST_KNOWN) -> None:
        """Reads a tokenizer file; keeps the ids of about `most_known` units.

        Raises:
            ValueError: it is not an uncased BERT tokenizer, so ids of units would not add up to those of a text.
        """
        _check(json.loads(tokenizer_json))
        self._library = Tokenizer.from_str(tokenizer_json.decode())
        self._library.no_padding()
        self._library.no_truncation()
        self._special = tuple(token.content for token in self._library.get_added_tokens_decoder().values())
        self.vocabulary_size = int(self._library.get_vocab_size())
        self._most_known = most_known
        self._known: dict[str, bytes] = {}

    def special(self, token: str) -> int:
        """The id of a special token.

        Raises:
            ValueError: the tokenizer has none of that name.
        """
        token_id = self._library.token_to_id(token)
        if token_id is None:
            raise ValueError(f"the tokenizer has no {token}")
        return int(token_id)

    def ids(self, text: str) -> list[int]:
        """Ids in reading order; none for an empty text."""
        ids: list[int] = self.ids_array(text).tolist()
        return ids

    def ids_array(self, text: str) -> np.ndarray:
        """The same ids as a read-only int64 [T], ready to index with: 5 us for 24 known words, 23 us for 128."""
        known = self._known
        if text.isascii() and not ("[" in text and any(token in text for token in self._special)):
            units = _UNITS.findall(text.lower())
            try:
                return np.frombuffer(b"".join(map(known.__getitem__, units)), dtype=np.int64)
            except KeyError:
                if "".join(units).isprintable():
                    return self._learned(units)
        return self._learned(_units_by_word(text))

    def _learned(self, units: Sequence[str]) -> np.ndarray:
        if len(self._known) > self._most_known:
            self._known = {}  # not cleared: another thread may be reading it
        known = self._known
        new = list({unit for unit in units if unit not in known})
        ids_of = dict(zip(new, self._from_library(new), strict=True))
        known.update((unit, ids) for unit, ids in ids_of.items() if len(unit) <= MOST_CHARS and unit.isprintable())
        return np.frombuffer(
            b"".join([ids_of[unit] if unit in ids_of else known[unit] for unit in units]), dtype=np.int64
        )

    def _from_library(self, units: list[str]) -> list[bytes]:
        pieces: list[list[int]] = [[] for _ in units]
        if units:
            encoding = self._library.encode(units, is_pretokenized=True, add_special_tokens=False)
            for token_id, unit in zip(encoding.ids, encoding.word_ids, strict=True):
                if unit is not None:  # only tokens that belong to no unit have none, and none is added
                    pieces[unit].append(token_id)
        return [np.array(ids, dtype=np.int64).tobytes() for ids in pieces]


def _units_by_word(text: str) -> list[str]:
    """Units of the plain words; the other words whole, for only the library knows how they are cut."""
    units: list[str] = []
    for word in _WORDS.findall(text):
        if word.isascii() and word.isprintable() and "[" not in word:
            units += _UNITS.findall(word.lower())
        else:
            units.append(word)
    return units


def _check(tokenizer: dict[str, Any]) -> None:
    """Raises ValueError unless the ids of a text are those of its units, one after the other."""
    normalizer, splitter, model = (tokenizer.get(key) or {} for key in ("normalizer", "pre_tokenizer", "model"))
    wanted = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    bert = wanted.items() <= normalizer.items() and splitter.get("type") == "BertPreTokenizer"
    if not bert or model.get("type") != "WordPiece":
        raise ValueError("the tokenizer is not an uncased BERT word-piece tokenizer")
    for token in tokenizer.get("added_tokens") or ():
        if "[" not in token["content"] or any(
            token[flag] for flag in ("single_word", "lstrip", "rstrip", "normalized")
        ):
            raise ValueError(f"the special token {token['content']} is not plain, in brackets")
