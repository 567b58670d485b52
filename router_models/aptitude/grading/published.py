"""Grades answers to public questions by the rules under which their published scores were made.

A new model's score on an anchor stands beside old models' scores, so it has to be made in the same way: the rule
belongs to the set that an anchor is from. Anchors of other sets are graded by `router_models.aptitude.grading.graders`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence

from router_models.aptitude.grading.graders import MAX_TEXT_CHARS, grade, grade_all
from router_models.aptitude.grading.reference import GraderError

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
# The field where an answer is no JSON as a whole, as when it is cut or has text around it.
_ANSWER_FIELD = re.compile(r'"answer"\s*:\s*("(?:[^"\\]|\\.)*"|[^,}\n]+)')


def grade_anchor(pool: str, grader: str, reference: str, text: str) -> float:
    """Score of an answer in [0, 1].

    Raises:
        GraderError: the set has no rule of that name, and neither have the graders.
    """
    rule = _RULES.get((pool, grader))
    return grade(grader, reference, text) if rule is None else rule(reference, text[-MAX_TEXT_CHARS:])


def why_ungradable(anchors: Sequence[tuple[str, str, str]]) -> tuple[int, str] | None:
    """The first of these (pool, grader, reference) whose answers could not be graded, and why; None if all could."""
    own_rule = [(pool, grader) in _RULES for pool, grader, _ in anchors]
    rest = [place for place, has_rule in enumerate(own_rule) if not has_rule]
    try:
        grade_all([(anchors[place][1], anchors[place][2], "") for place in rest])
    except GraderError:
        return next((place, why) for place in rest if (why := _why_ungradable(*anchors[place][1:])))
    return None


def _why_ungradable(grader: str, reference: str) -> str | None:
    try:
        grade(grader, reference, "")
    except GraderError as exc:
        return str(exc)
    return None


def _mmlu_pro_choice(reference: str, text: str) -> float:
    """ "answer is (X)", else "answer: X", else the last single letter."""
    for pattern in (r"answer is \(?([A-J])\)?", r"[aA]nswer:\s*\(?([A-J])\b"):
        if found := re.search(pattern, text):
            return float(found[1] == reference)
    letters = re.findall(r"\b[A-J]\b", text)
    return float(bool(letters) and letters[-1] == reference)


def _choice_in_parentheses(reference: str, text: str) -> float:
    """The last letter in parentheses."""
    letters = re.findall(r"\(([A-Za-z])\)", text)
    return float(bool(letters) and letters[-1].upper() == reference.upper())


def _last_number(reference: str, text: str) -> float:
    return _same_number(reference, _NUMBER.findall(text)[-1:])


def _number_in_answer(reference: str, text: str) -> float:
    """The first number of the JSON field `answer`."""
    return _same_number(reference, _NUMBER.findall(_answer_field(text) or "")[:1])


def _same_number(reference: str, found: list[str]) -> float:
    wanted = _NUMBER.findall(reference)
    if not found or not wanted:
        return 0.0
    value, gold = (float(each.replace(",", "")) for each in (found[0], wanted[0]))
    return float(math.isclose(value, gold, rel_tol=1e-6, abs_tol=1e-6))


def _text_in_answer(reference: str, text: str) -> float:
    """The JSON field `answer`, without quotes around it."""
    found = _answer_field(text)
    return float(found is not None and _unquoted(found) == _unquoted(reference))


def _answer_field(text: str) -> str | None:
    """The last `answer` field of a text, JSON or nearly so."""
    fields = _ANSWER_FIELD.findall(text)
    if not fields:
        return None
    value = fields[-1].strip()
    if not value.startswith('"'):
        return str(value)
    try:
        return str(json.loads(value, strict=False))
    except ValueError:
        return str(value[1:-1])


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


_RULES: Mapping[tuple[str, str], Callable[[str, str], float]] = {
    ("mmlu_pro", "choice"): _mmlu_pro_choice,
    ("llmrouter_nim9", "choice"): _choice_in_parentheses,
    ("llmrouter_nim9", "number"): _last_number,
    ("zeroeval", "exact"): _text_in_answer,
    ("zeroeval", "number"): _number_in_answer,
}
