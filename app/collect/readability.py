"""How hard a model's answers are to read, as a US school grade.

The Flesch-Kincaid grade (Kincaid et al. 1975): 0.39 * words per sentence + 11.8 * syllables per word - 15.59, over all
answers together. Syllables are counted as groups of vowels, a silent final e left out, which is right for about nine
English words in ten; the grade compares models on the same prompts and is no statement about other languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LEAST_WORDS = 4
"""Shorter answers are labels and numbers, not prose."""
LEAST_ANSWERS = 30
"""With fewer answers of prose the grade moves by whole years from one prompt set to the next."""

_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)")
_VOWELS = re.compile(r"[aeiouy]+")


def readability_grade(answers: Iterable[str | None]) -> tuple[float | None, int]:
    """The grade of the answers that are prose, and how many those are; None where they are too few to say."""
    prose = [text for text in answers if text and len(_WORD.findall(text)) >= LEAST_WORDS]
    if len(prose) < LEAST_ANSWERS:
        return None, len(prose)
    words = [word for text in prose for word in _WORD.findall(text)]
    # An answer that was cut, or that ends without a stop, still is a sentence.
    sentences = sum(max(1, len(_SENTENCE_END.findall(text))) for text in prose)
    syllables = sum(count_syllables(word) for word in words)
    return 0.39 * len(words) / sentences + 11.8 * syllables / len(words) - 15.59, len(prose)


def count_syllables(word: str) -> int:
    """Syllables of an English word, at least one."""
    groups = len(_VOWELS.findall(word.lower()))
    if word.lower().endswith("e") and not word.lower().endswith(("le", "ee")) and groups > 1:
        groups -= 1
    return max(1, groups)
