"""Graders by name: how good an answer is, in [0, 1], by rules alone.

    exact        the text is the reference, but for case, spacing, quotes and final punctuation
    choice       names the right option and no wrong one
    number       its final number is the right one
    regex        the pattern of the reference is found in it
    json_schema  the first JSON object in it fits the schema and has the expected values
    python       the expression in it computes the same as the reference's, on every value
    sql          the SELECT in it returns the same rows as the reference's, on generated databases

A verbose correct answer gets its due: code in a fence, JSON inside prose, "The answer is 42." What a reference looks
like stands with each grader. `grade_all` runs all Python and all patterns of a batch in one sandbox each.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from router_models.aptitude.grading.code_graders import grade_python, grade_sql
from router_models.aptitude.grading.equality import normal, same
from router_models.aptitude.grading.final_number import final_number, plain
from router_models.aptitude.grading.letters import Letters
from router_models.aptitude.grading.reference import GraderError, check_kinds, fields_of
from router_models.aptitude.grading.sandbox import search_all
from router_models.aptitude.grading.schema import check_schema, fits

# Answers beyond this are not read on: the right part of one comes early.
MAX_TEXT_CHARS = 20_000


def grade(grader: str, reference: str, text: str) -> float:
    """Score of an answer in [0, 1]. Raises GraderError for an unknown grader or a bad reference."""
    return grade_all([(grader, reference, text)])[0]


def grade_all(cases: Sequence[tuple[str, str, str]]) -> list[float]:
    """Scores of many (grader, reference, text); far cheaper than one by one where something has to run.

    Raises:
        GraderError: of the first that cannot be graded.
    """
    scores = []
    for found in grade_each(cases):
        if isinstance(found, GraderError):
            raise found
        scores.append(found)
    return scores


def grade_each(cases: Sequence[tuple[str, str, str]]) -> list[float | GraderError]:
    """Scores of many (grader, reference, text), an error in place of each that cannot be graded."""
    scores: list[float | GraderError] = [0.0] * len(cases)
    together: dict[str, list[int]] = {name: [] for name in _TOGETHER}
    for position, (grader, reference, text) in enumerate(cases):
        if grader in together:
            together[grader].append(position)
        elif grader in _GRADERS:
            scores[position] = _score(_GRADERS[grader], reference, text)
        else:
            scores[position] = GraderError(f"unknown grader {grader!r}; there are {', '.join(GRADERS)}")
    for grader, positions in together.items():
        found = _TOGETHER[grader]([(cases[position][1], cases[position][2][:MAX_TEXT_CHARS]) for position in positions])
        for position, score in zip(positions, found, strict=True):
            scores[position] = score
    return scores


def _score(rule: Callable[[str, str], float], reference: str, text: str) -> float | GraderError:
    try:
        return rule(reference, text[:MAX_TEXT_CHARS])
    except GraderError as exc:
        return exc


def _exact(reference: str, text: str) -> float:
    """Reference: the text itself. "X = Y", "X: Y" and "X is Y" count as Y where the sign occurs once."""
    wanted = normal(reference)
    readings = {normal(text)}
    if text.count("\n") == 0:
        for sign in ("=", ":", "→", "->", " is "):
            if text.count(sign) == 1:
                readings.add(normal(text.partition(sign)[2]))
    return float(wanted in readings)


def _choice(reference: str, text: str) -> float:
    """Reference: {"answer", "options", "last"}. No other option may be named, except before the last "is", ":" or "=".

    With "last", others may always come before: of all the options named, the last one counts. Options of one letter
    are read as `letters` says.
    """
    fields = fields_of(reference, "answer", "options")
    answer, wrong = _options(fields)
    options = (answer, *wrong)
    if all(len(option) == 1 for option in options):
        letters = Letters(options)
        return float((letters.last(text) if fields.get("last") else letters.settled(text)) == answer)
    if fields.get("last"):
        return float(_named(text, options)[-1:] == [answer])
    conclusion = re.split(r"(?:\b(?:is|are|was|be)\b|[:=])", text)[-1]
    return float(any(set(_named(part, options)) == {answer} for part in (text, conclusion)))


def _options(fields: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The right option and the others."""
    answer, options = fields["answer"], fields["options"]
    if not isinstance(options, list) or not all(isinstance(each, str | int | float) for each in (answer, *options)):
        raise GraderError('"options" must be a list of texts, and "answer" one of them')
    wrong = [str(option) for option in options if str(option) != str(answer)]
    if not wrong or not all((str(answer), *wrong)):
        raise GraderError('"options" must have another option than the answer, and none that is empty')
    return str(answer), wrong


def _named(text: str, options: Sequence[str]) -> list[str]:
    """The options that the text names in any case, in its order.

    What is part of a longer option is not named where that one is. "it" names "IT" only where no option stands in its
    own case.
    """
    longest_first = "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True))
    found = re.findall(rf"(?<!\w)(?:{longest_first})(?!\w)", text, re.IGNORECASE)
    named = [next(each for each in options if re.fullmatch(re.escape(each), one, re.IGNORECASE)) for one in found]
    if not set(found) & set(options):
        return named
    return [option for option, one in zip(named, found, strict=True) if one == option or not option.isupper()]


def _number(reference: str, text: str) -> float:
    """Reference: a number, or {"value", "given": numbers of the question, "tolerance"}.

    What counts is the number that the text settles on, as `final_number` says.
    """
    fields = fields_of(reference, "value") if reference.lstrip().startswith("{") else {"value": reference}
    try:
        value, tolerance = float(plain(str(fields["value"]))), float(fields.get("tolerance", 1e-6))
        given = {float(number) for number in fields.get("given", ())} - {value}
    except (TypeError, ValueError, OverflowError) as exc:
        raise GraderError(f"not a number: {reference[:60]!r}") from exc
    if not math.isfinite(value):
        raise GraderError(f"not a number: {reference[:60]!r}, which no answer equals")
    if not tolerance >= 0:
        raise GraderError(f"a negative tolerance: {reference[:60]!r}")
    found = final_number(text, given)
    return float(found is not None and math.isclose(found, value, rel_tol=tolerance, abs_tol=1e-9))


def _grade_regex(cases: Sequence[tuple[str, str]]) -> list[float | GraderError]:
    """Reference: the pattern, searched for in the text as it is."""
    wrong = [_wrong_pattern(reference) for reference, _ in cases]
    usable = [position for position, error in enumerate(wrong) if error is None]
    found = search_all([cases[position] for position in usable])
    scores: list[float | GraderError] = [0.0 if error is None else error for error in wrong]
    for position, is_found in zip(usable, found, strict=True):
        slow = GraderError(f"takes too long on this answer: the pattern {cases[position][0][:60]!r}")
        scores[position] = slow if is_found is None else float(is_found)
    return scores


def _wrong_pattern(reference: str) -> GraderError | None:
    try:
        re.compile(reference)
    except (re.error, OverflowError, RecursionError) as exc:
        return GraderError(f"not a regular expression: {reference[:60]!r}: {exc}")
    return None


def _json_schema(reference: str, text: str) -> float:
    """Reference: {"schema", "expected"}, at least one of them.

    Without a fit 0, else the share of expected values that are right; keys that nobody asked for count as wrong ones.
    """
    fields = fields_of(reference)
    if not {"schema", "expected"} & set(fields):
        raise GraderError('the reference must have "schema" or "expected"')
    check_kinds(fields, dict, "an object", "schema", "expected")
    if "schema" in fields:
        check_schema(fields["schema"])
    found = next(_json_objects(text), None)
    if found is None or ("schema" in fields and not fits(found, fields["schema"])):
        return 0.0
    expected: Mapping[str, object] | None = fields.get("expected")
    if expected is None:
        return 1.0
    right = sum(same(found.get(key), value) for key, value in expected.items())
    return right / max(len(expected), len(set(found) | set(expected)), 1)


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    for start in [match.start() for match in re.finditer(r"\{", text)][:20]:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


_GRADERS: Mapping[str, Callable[[str, str], float]] = {
    "exact": _exact,
    "choice": _choice,
    "number": _number,
    "json_schema": _json_schema,
    "sql": grade_sql,
}
_TOGETHER: Mapping[str, Callable[[Sequence[tuple[str, str]]], list[float | GraderError]]] = {
    "regex": _grade_regex,
    "python": grade_python,
}
"""Of these all cases run in one sandbox."""
GRADERS: tuple[str, ...] = ("exact", "choice", "number", "regex", "json_schema", "sql", "python")
