"""Word-piece ids of a text: those of the `tokenizers` library, at a tenth of its price, with misspelt words mended.

How it works: an uncased BERT tokenizer reads runs of letters and digits, and single punctuation marks, each on its own,
and cuts each into the longest pieces that it knows, from left to right. So the ids of every word, which is what stands
between white space, are kept as bytes, and a text of known words costs one split and one join. Words not seen before
are cut here, for a call of the library costs as much as five of them. A text with letters beyond ASCII, control
characters or special tokens is taken word by word: plain words as above, the others whole, by the library. Of plain
words, one that is no piece by itself is read as `router_models.reading.spelling` says.

Not kept: what is long, since it rarely comes twice. When the store is full it starts anew; traffic fills it in seconds.

Legend of array suffixes: T tokens.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from router_models.reading.spelling import Spelling

# 20,000 questions of public benchmarks have 41,000 units, and half as many words again with a mark at their end. A full
# store takes about 15 MB.
MOST_KNOWN = 80_000
MOST_CHARS = 24

# Made once: NumPy takes twice as long for so few numbers when it has to look up what the type's name means.
_INT64 = np.dtype(np.int64)

_UNITS = re.compile(r"[a-z0-9]+|[^ \t\n\ra-z0-9]")
# Words end at these alone: other white space is replaced or dropped by the normaliser, which the library knows best.
_WORDS = re.compile(r"[^ \t\n\r]+")


class FastWordPiece:
    """Texts to ids without [CLS] and [SEP]; safe to share between threads."""

    def __init__(self, tokenizer_json: bytes, words: Sequence[str] = (), most_known: int = MOST_KNOWN) -> None:
        """Reads a tokenizer file; keeps the ids of about `most_known` units. Slips are mended to `words`, if any.

        Raises:
            ValueError: it is not an uncased BERT tokenizer, so ids of units would not add up to those of a text.
        """
        form = json.loads(tokenizer_json)
        _check(form)
        self._library = Tokenizer.from_str(tokenizer_json.decode())
        self._library.no_padding()
        self._cutter = _Cutter(form["model"], self._library.token_to_id)
        self._library.no_truncation()
        self._special = tuple(token.content for token in self._library.get_added_tokens_decoder().values())
        self.vocabulary_size = int(self._library.get_vocab_size())
        self._spelling = Spelling(words) if words else None
        self._most_known = most_known
        self._known = {"": b""}
        """Words of lower-case ASCII."""
        self._foreign: dict[str, bytes] = {}
        """Other words, as they are written."""

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
            line = text.lower()
            if not line.isprintable():
                line = line.replace("\n", " ").replace("\t", " ").replace("\r", " ")
            if line.isprintable():
                return self._of_words(line.split(" "))
        return self._of_mixed(_WORDS.findall(text))

    def _of_words(self, words: list[str]) -> np.ndarray:
        known = self._known
        try:
            return _array(map(known.__getitem__, words))
        except KeyError:
            return _array([known[word] if word in known else self._of_word(word) for word in words])

    def _of_word(self, word: str) -> bytes:
        """Of one that is not known yet."""
        ids = _bytes([token_id for unit in _UNITS.findall(word) for token_id in self._of_unit(unit)])
        self._known = self._kept(self._known, {word: ids})
        return ids

    def _of_unit(self, unit: str) -> list[int]:
        if self._spelling is not None and self._library.token_to_id(unit) is None:
            unit = self._spelling.meant(unit)
        return self._cutter.ids(unit)

    def _of_mixed(self, words: list[str]) -> np.ndarray:
        known, foreign = self._known, self._foreign
        new = [word for word in set(words) if word not in foreign and not _is_plain(word)]
        of_new = dict(zip(new, self._from_library(new), strict=True))
        self._foreign = self._kept(foreign, of_new)
        ids = []
        for word in words:
            if _is_plain(word):
                ids.append(known.get(word.lower()) or self._of_word(word.lower()))
            else:
                ids.append(of_new[word] if word in of_new else foreign[word])
        return _array(ids)

    def _kept(self, known: dict[str, bytes], ids_of: dict[str, bytes]) -> dict[str, bytes]:
        """What is known from now on."""
        if len(known) > self._most_known:
            known = {"": b""}  # not cleared: another thread may be reading it
        known.update((word, ids) for word, ids in ids_of.items() if len(word) <= MOST_CHARS)
        return known

    def _from_library(self, words: list[str]) -> list[bytes]:
        pieces: list[list[int]] = [[] for _ in words]
        encoding = self._library.encode(words, is_pretokenized=True, add_special_tokens=False)
        for token_id, word in zip(encoding.ids, encoding.word_ids, strict=True):
            if word is not None:  # only tokens that belong to no word have none, and none is added
                pieces[word].append(token_id)
        return list(map(_bytes, pieces))


class _Cutter:
    """Cuts a plain unit into the longest pieces of a vocabulary, from left to right."""

    def __init__(self, model: Mapping[str, Any], number: Callable[[str], int | None]) -> None:
        """`number` is the id of a piece; a vocabulary of our own would take 3 MB beside the library's."""
        self._number, self._unknown = number, int(model["vocab"][model["unk_token"]])
        self._inside: str = model["continuing_subword_prefix"]
        self._most_chars: int = model["max_input_chars_per_word"]
        self._longest: dict[str, int] = {}
        """Of all pieces that begin alike, by their first two letters, so that few have to be tried."""
        for piece in filter(str.isascii, model["vocab"]):
            within = len(self._inside) if piece.startswith(self._inside) else 0
            begin = piece[: within + 2]
            self._longest[begin] = max(self._longest.get(begin, 1), len(piece) - within)

    def ids(self, unit: str) -> list[int]:
        """Of its pieces; of the unknown one alone, where it is too long or some part of it is none."""
        ids, start, prefix = [], 0, ""
        if len(unit) > self._most_chars:
            return [self._unknown]
        while start < len(unit):
            end = start + self._longest.get(prefix + unit[start : start + 2], 1)
            while (token_id := self._number(prefix + unit[start:end])) is None:
                end -= 1
                if end == start:
                    return [self._unknown]
            ids.append(token_id)
            start, prefix = min(end, len(unit)), self._inside
        return ids


def _array(ids: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(ids), _INT64)


def _bytes(ids: list[int]) -> bytes:
    return array("q", ids).tobytes()


def _is_plain(word: str) -> bool:
    """Whether it is cut as the library would; only that knows about special tokens, and letters beyond ASCII."""
    return word.isascii() and word.isprintable() and "[" not in word


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
