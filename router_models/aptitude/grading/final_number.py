"""Which number an answer settles on.

How it works: signs are looked for, the surest first.

    \\boxed{42}
    the answer is 42           the last one, unless an equation begins there
    **42**                     the only number in bold after the last "=", or the first line
    42, because ...            in the last sentence
    = 42                       the last one
    42                         the last number that the question did not give

Minus signs and group marks of all kinds are read. Decimal commas, fractions and powers of ten are not.
"""

from __future__ import annotations

import re
from collections.abc import Set

_NUMBER = r"-?(?>\d(?:[\d,]*\d)?(?:\.\d+)?|\.\d+)"
_GROUPED = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)"
# A digit after a letter or a hyphen begins a number as well: x5, 12-5.
_ANYWHERE = re.compile(rf"(?<![\w.])-?(?:{_GROUPED}|\d+(?:\.\d+)?|\.\d+)|(?<=[-\w])\d+(?:\.\d+)?")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_ANSWER = re.compile(rf"\banswer(?: is|[*_\"]*:):?([\s*_$]*)({_NUMBER})", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.!?;](?=\s|$)|\n|\s\(|\b(?:because|since)\b|,\s+(?:as|for)\b", re.IGNORECASE)
_OPERATOR = re.compile(r"[\s$]*(?:[-+/^x\u00d7\u00f7\u00b7]|\*(?!\*)|\\(?:times|cdot|div)|times|plus|minus)\s*[\d($]")
_LIST_MARK = re.compile(r"[.)]\s+\S")
# With a unit of one word perhaps; "**2.** Add" is an item of a list.
_BOLD = re.compile(rf"\*\*\s*\$?({_NUMBER})(?:\s*%|\s+[^\W\d]+)?\s*(?:\*\*|\.\*\*(?=\s*(?:$|\n)))")
_EQUALS = re.compile(rf"=[\s*$]*(- )?({_NUMBER})")
_REASON = re.compile(r",?\s(?:because|since)\s", re.IGNORECASE)

_MINUS = re.compile(r"[\u2212\ufe63\uff0d]|(?<![\w)\]])\u2013(?=\.?\d)")
_GROUP_MARK = r"(?:\{,\}|\\[,!; ]|[\u00a0\u2007\u2009\u202f])"
_SPACED = re.compile(rf"(?<![\d.])\d{{1,3}}(?:{_GROUP_MARK}\d{{3}})+(?!\d)")


def final_number(text: str, given: Set[float]) -> float | None:
    """The number that an answer to a question with these numbers settles on; None where it has none."""
    text = plain(text)
    for found in (_boxed(text), _answer(text), _bold(text, given), _claim(text, given), _equals(text)):
        if found is not None:
            return found
    numbers = _numbers(text)
    fresh = [number for number in numbers if number not in given]
    return (fresh or numbers)[-1] if numbers else None


def plain(text: str) -> str:
    """The text with hyphens as minus signs and without group marks other than commas."""
    return _SPACED.sub(lambda match: re.sub(r"\D", "", match[0]), _MINUS.sub("-", text))


def _numbers(text: str) -> list[float]:
    return [_value(found) for found in _ANYWHERE.findall(text)]


def _value(digits: str) -> float:
    return float(digits.replace(",", ""))


def _boxed(text: str) -> float | None:
    boxes = _BOXED.findall(text)
    numbers = _numbers(boxes[-1].rpartition("=")[2]) if boxes else []
    return numbers[0] if numbers else None


def _answer(text: str) -> float | None:
    found = list(_ANSWER.finditer(text))
    if not found:
        return None
    gap, digits, rest = found[-1][1], found[-1][2], text[found[-1].end() :]
    is_equation = "=" in _CLAUSE_END.split(rest, maxsplit=1)[0] or _OPERATOR.match(rest)
    is_list = "\n" in gap and _LIST_MARK.match(rest)
    return None if is_equation or is_list else _value(digits)


def _bold(text: str, given: Set[float]) -> float | None:
    """A number in bold that concludes: of several nobody can tell, and one before a sum is a part of it."""
    if first := _BOLD.fullmatch(text.strip().partition("\n")[0].strip()):
        return _value(first[1])
    found = {_value(digits) for digits in _BOLD.findall(text.rpartition("=")[2])} - given
    return found.pop() if len(found) == 1 else None


def _claim(text: str, given: Set[float]) -> float | None:
    """What the last sentence says before it gives reasons: "There are 1500 m, since 1 km = 1000 m" claims 1500.

    A number that the question gave, or that the reasons calculate with, is no claim.
    """
    sentence = re.split(r"[.!?]\s|\n", text.strip())[-1]
    claim, *reasons = _REASON.split(sentence, maxsplit=1)
    numbers = _numbers(claim)
    if not reasons or not numbers or "=" in claim:
        return None
    calculated_with = set(_numbers(_EQUALS.sub("", reasons[0])))
    return None if numbers[-1] in calculated_with | given else numbers[-1]


def _equals(text: str) -> float | None:
    found = _EQUALS.findall(text)
    return _value(f"{'-' if found[-1][0] else ''}{found[-1][1]}") if found else None
