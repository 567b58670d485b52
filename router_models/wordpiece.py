"""Word-piece ids of a text: those of the `tokenizers` library, at a tenth of its price.

How it works: an uncased BERT tokenizer reads runs of letters and digits, and single punctuation marks, each on its own.
So the ids of every such unit are kept, as bytes, and those of every word, which is what stands between white space: a
text of known words costs one split and one join. Words not seen before are put together from their units; units not
seen before go through the library, all in one call. A text with letters beyond ASCII, control characters or special
tokens is taken word by word: plain words as above, the others whole, by the library.

Not kept: what is long, since it rarely comes twice. When the store is full it starts anew; traffic fills it in seconds.

Legend of array suffixes: T tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

# 20,000 questions of public benchmarks have 41,000 units, and half as many words again with a mark at their end. A full
# store takes about 15 MB.
MOST_KNOWN = 80_000
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
        self._known = {"": b""}

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
        """The same ids as a read-only int64 [T], ready to index with: 3 us for 24 known words, 12 us for 128."""
        if text.isascii() and not ("[" in text and any(token in text for token in self._special)):
            line = text.lower().replace("\n", " ").replace("\t", " ").replace("\r", " ")
            if line.isprintable():
                return self._of_words(line.split(" "))
        units = _units_by_word(text)
        return _array(map(self._ids_of_units(units).__getitem__, units))

    def _of_words(self, words: list[str]) -> np.ndarray:
        known = self._known
        try:
            return _array(map(known.__getitem__, words))
        except KeyError:
            new = {word: _UNITS.findall(word) for word in words if word not in known}
            ids_of = self._ids_of_units([unit for units in new.values() for unit in units])
            of_new = {word: b"".join(map(ids_of.__getitem__, units)) for word, units in new.items()}
            self._keep(of_new)
            return _array(of_new[word] if word in of_new else known[word] for word in words)

    def _ids_of_units(self, units: list[str]) -> dict[str, bytes]:
        known, distinct = self._known, set(units)
        new = [unit for unit in distinct if unit not in known]
        of_new = dict(zip(new, self._from_library(new), strict=True))
        self._keep(of_new)
        return {unit: known[unit] for unit in distinct if unit not in of_new} | of_new

    def _keep(self, ids_of: dict[str, bytes]) -> None:
        """For the next time."""
        if len(self._known) > self._most_known:
            self._known = {"": b""}  # not cleared: another thread may be reading it
        self._known.update(
            (unit, ids) for unit, ids in ids_of.items() if len(unit) <= MOST_CHARS and unit.isprintable()
        )

    def _from_library(self, units: list[str]) -> list[bytes]:
        pieces: list[list[int]] = [[] for _ in units]
        if units:
            encoding = self._library.encode(units, is_pretokenized=True, add_special_tokens=False)
            for token_id, unit in zip(encoding.ids, encoding.word_ids, strict=True):
                if unit is not None:  # only tokens that belong to no unit have none, and none is added
                    pieces[unit].append(token_id)
        return [np.array(ids, dtype=np.int64).tobytes() for ids in pieces]


def _array(ids: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(ids), dtype=np.int64)


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
