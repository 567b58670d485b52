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

import contextlib
import json
import math
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from router_models.aptitude.final_number import final_number, plain
from router_models.aptitude.letters import Letters
from router_models.aptitude.sandbox import (
    Database,
    Refused,
    Trial,
    is_expression,
    run_expressions,
    search_all,
)

# Answers beyond this are not read on: the right part of one comes early.
MAX_TEXT_CHARS = 20_000


class GraderError(ValueError):
    """The grader does not exist or cannot use this reference; one line that says why."""


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
        found = _TOGETHER[grader]([(cases[position][1], cases[position][2]) for position in positions])
        for position, score in zip(positions, found, strict=True):
            scores[position] = score
    return scores


def _score(rule: Callable[[str, str], float], reference: str, text: str) -> float | GraderError:
    try:
        return rule(reference, text[:MAX_TEXT_CHARS])
    except GraderError as exc:
        return exc


def _fields(reference: str, *needed: str) -> dict[str, Any]:
    try:
        fields = json.loads(reference)
    except ValueError as exc:
        raise GraderError(f"the reference is not JSON: {reference[:60]!r}") from exc
    if not isinstance(fields, dict) or not set(needed) <= set(fields):
        raise GraderError(f"the reference must be a JSON object with {', '.join(needed)}")
    return fields


def _need(fields: Mapping[str, Any], kind: type, words: str, *names: str) -> None:
    """These fields, where they are there, are of this kind."""
    for name in names:
        if not isinstance(fields.get(name, kind()), kind):
            raise GraderError(f'"{name}" must be {words}, not {json.dumps(fields[name])[:40]}')


def _normal(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[\s]+", " ", text).strip()
    return text.strip("\"'`*_“”„‘’«» ").rstrip(".,;!").strip("\"'`*_“”„‘’«» ")


def _exact(reference: str, text: str) -> float:
    """Reference: the text itself. "X = Y", "X: Y" and "X is Y" count as Y where the sign occurs once."""
    wanted = _normal(reference)
    readings = {_normal(text)}
    if text.count("\n") == 0:
        for sign in ("=", ":", "→", "->", " is "):
            if text.count(sign) == 1:
                readings.add(_normal(text.partition(sign)[2]))
    return float(wanted in readings)


def _choice(reference: str, text: str) -> float:
    """Reference: {"answer", "options", "last"}. No other option may be named, except before the last "is", ":" or "=".

    With "last", others may always come before: of all the options named, the last one counts. Options of one letter
    are read as `letters` says.
    """
    fields = _fields(reference, "answer", "options")
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
    fields = _fields(reference, "value") if reference.lstrip().startswith("{") else {"value": reference}
    try:
        value, tolerance = float(plain(str(fields["value"]))), float(fields.get("tolerance", 1e-6))
        given = {float(number) for number in fields.get("given", ())} - {value}
    except (TypeError, ValueError, OverflowError) as exc:
        raise GraderError(f"not a number: {reference[:60]!r}") from exc
    if not tolerance >= 0:
        raise GraderError(f"a negative tolerance: {reference[:60]!r}")
    found = final_number(text, given)
    return float(found is not None and math.isclose(found, value, rel_tol=tolerance, abs_tol=1e-9))


def _grade_regex(cases: Sequence[tuple[str, str]]) -> list[float | GraderError]:
    """Reference: the pattern, searched for in the text as it is."""
    wrong = [_wrong_pattern(reference) for reference, _ in cases]
    usable = [position for position, error in enumerate(wrong) if error is None]
    found = search_all([(cases[position][0], cases[position][1][:MAX_TEXT_CHARS]) for position in usable])
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
    fields = _fields(reference)
    if not {"schema", "expected"} & set(fields):
        raise GraderError('the reference must have "schema" or "expected"')
    _need(fields, dict, "an object", "schema", "expected")
    if "schema" in fields:
        _check_schema(fields["schema"])
    found = next(_json_objects(text), None)
    if found is None or ("schema" in fields and not _fits(found, fields["schema"])):
        return 0.0
    expected: Mapping[str, object] | None = fields.get("expected")
    if expected is None:
        return 1.0
    right = sum(_same(found.get(key), value) for key, value in expected.items())
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


def _check_schema(schema: Mapping[str, Any]) -> None:
    """Raise where it is no schema, or refers to what is not in it; nothing is fetched."""
    import jsonschema  # only who grades by schema needs it
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY, specification_with

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
        draft = specification_with(str(schema.get("$schema", "")), default=DRAFT202012)
        root = draft.create_resource(schema)
        resolver = EMPTY_REGISTRY.resolver_with_root(root)
        for reference in _references(schema):
            resolver.lookup(reference)
    except jsonschema.SchemaError as exc:
        raise GraderError(f"not a JSON schema: {exc.message}") from exc
    except Unresolvable as exc:
        raise GraderError(f"the schema refers to what is not in it: {exc.ref!r}") from exc
    except RecursionError as exc:
        raise GraderError("the schema is nested too deeply") from exc


def _references(schema: object) -> Iterator[str]:
    """Every "$ref" in a schema; none where an "$id" inside of it gives some of them another base."""
    inner = [part for part in _parts(schema) if isinstance(part, dict)][1:]
    if not any(isinstance(part.get("$id"), str) for part in inner):
        for part in (schema, *inner):
            if isinstance(part, dict) and isinstance(part.get("$ref"), str):
                yield part["$ref"]


def _fits(value: dict[str, Any], schema: Mapping[str, Any]) -> bool:
    import jsonschema
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY

    # In a process that can be stopped first: a pattern that comes to an end there does so here too.
    if None in search_all([*_searches(value, schema)]):
        raise GraderError("takes too long on this answer: a pattern of the schema")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        return bool(kind(schema, registry=EMPTY_REGISTRY).is_valid(value))
    except (RecursionError, Unresolvable) as exc:
        raise GraderError("the schema does not end on this answer, or refers to what is not in it") from exc


def _searches(value: object, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each pattern of the schema with each text of the value that it may be searched for in."""
    objects = [part for part in _parts(value) if isinstance(part, dict)]
    texts = {part for part in _parts(value) if isinstance(part, str)}
    names = {name for each in objects for name in each}
    for part in _parts(schema):
        if isinstance(part, dict) and isinstance(pattern := part.get("pattern"), str):
            yield from ((pattern, text) for text in texts)
        if isinstance(part, dict) and isinstance(patterns := part.get("patternProperties"), dict):
            yield from ((pattern, name) for pattern in patterns for name in names)


def _parts(value: object) -> Iterator[object]:
    """The value and everything in it, but names."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def _same(found: object, wanted: object) -> bool:
    """Equality that tells 1 from true, takes 3.0 for 3, and forgives case and outer spaces of strings."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, str) and isinstance(wanted, str):
        return _normal(found) == _normal(wanted)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return set(found) == set(wanted) and all(_same(found[key], wanted[key]) for key in wanted)
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12)
    return found == wanted


def _code_parts(text: str) -> list[str]:
    """Where code may stand, likeliest first: fences, then backticks, then the text as it is."""
    fenced = re.findall(r"```[\w+-]*\n?(.*?)(?:```|\Z)", text, re.DOTALL)
    quoted = re.findall(r"`([^`\n]+)`", text)
    return [*fenced, *quoted, text]


def _grade_python(cases: Sequence[tuple[str, str]]) -> list[float | GraderError]:
    """Reference: {"variable", "expression", "values"}; the answer must give the same value as the expression on all."""
    scores: list[float | GraderError] = [0.0] * len(cases)
    trials: dict[int, tuple[Trial, Trial]] = {}
    for position, (reference, text) in enumerate(cases):
        try:
            trials[position] = _trials(reference, text)
        except GraderError as exc:
            scores[position] = exc
    results = run_expressions([trial for both in trials.values() for trial in both])
    for position, wanted, found in zip(trials, results[::2], results[1::2], strict=True):
        source = trials[position][0].source
        fails = GraderError(f"the reference's expression fails: {source!r}")
        scores[position] = fails if wanted is None else float(found is not None and _same(found, wanted))
    return scores


def _trials(reference: str, text: str) -> tuple[Trial, Trial]:
    """The expression of the reference, and that of the answer."""
    fields = _fields(reference, "variable", "expression", "values")
    _need(fields, str, "a text", "variable", "expression")
    _need(fields, list, "a list", "values")
    variable, values = fields["variable"], fields["values"]
    found = _expression_in(text[:MAX_TEXT_CHARS], variable)
    return Trial(fields["expression"], variable, values), Trial(found, variable, values)


def _expression_in(text: str, variable: str) -> str:
    """The last line that is an expression over the variable, without `print(...)` or the name it is assigned to."""
    for part in _code_parts(text):
        for line in reversed(part.splitlines()):
            expression = _bare(line.strip())
            if re.search(rf"\b{re.escape(variable)}\b", expression) and is_expression(expression, variable):
                return expression
    return ""


def _bare(line: str) -> str:
    assigned = re.match(r"[A-Za-z]\w*\s*=(?!=)\s*(.+)", line)
    line = assigned[1] if assigned else line
    printed = re.fullmatch(r"print\((.+)\)", line)
    return printed[1] if printed else line


def _sql(reference: str, text: str) -> float:
    """Reference: {"table", "columns": {name: values | [low, high] | []}, "query", "ordered"}.

    An empty list makes a label that differs from row to row, strings a group, two numbers a range of distinct integers.
    """
    fields = _fields(reference, "table", "columns", "query")
    _need(fields, str, "a text", "table", "query")
    _need(fields, dict, "an object", "columns")
    _check_columns(fields["columns"])
    query: str | None = None
    for number in range(_DATABASES):
        with contextlib.closing(_database(fields, Random(f"{reference}/{number}"))) as database:
            # The first database decides which of several candidates in the text is a query at all.
            query = query or next(filter(database.accepts, _queries_in(text)), None)
            if not _same_answer(database, query or "", fields):
                return 0.0
    return 1.0


def _check_columns(columns: Mapping[str, object]) -> None:
    if not columns:
        raise GraderError('"columns" must have at least one column')
    for name, pool in columns.items():
        kinds = [type(value) for value in pool] if isinstance(pool, list) else [type(None)]
        if not (set(kinds) <= {str} or kinds == [int, int]):
            raise GraderError(f"column {name!r} must be [], a list of texts or two whole numbers")


def _queries_in(text: str) -> Iterator[str]:
    """Whatever begins like a query, up to a semicolon, an empty line or a fence."""
    for part in _code_parts(text):
        for begin in list(re.finditer(r"\b(?:SELECT|WITH)\b", part, re.IGNORECASE))[:5]:
            yield re.split(r";|\n\s*\n|```", part[begin.start() :])[0]


def _same_answer(database: Database, query: str, fields: Mapping[str, Any]) -> bool:
    try:
        wanted = database.select(fields["query"])
    except Refused as exc:
        raise GraderError(f"the reference's query fails: {exc}") from exc
    try:
        return _same_rows(database.select(query), wanted, bool(fields.get("ordered")))
    except Refused:
        return False


# Several databases, so that a query is not right by coincidence.
_DATABASES = 3
_ROWS = 18


def _database(fields: Mapping[str, Any], rng: Random) -> Database:
    columns = [_column(rng, name, pool) for name, pool in fields["columns"].items()]
    try:
        return Database(fields["table"], list(fields["columns"]), list(zip(*columns, strict=True)))
    except (sqlite3.Error, OverflowError) as exc:
        raise GraderError(f"the reference's table cannot be made: {exc}") from exc


def _column(rng: Random, name: str, pool: Sequence[str | int]) -> list[str | int]:
    if not pool:
        return [f"{name} {number}" for number in rng.sample(range(100, 1000), _ROWS)]
    if isinstance(pool[0], int):
        low, high = int(pool[0]), int(pool[1])
        return list(rng.sample(range(low, max(high, low + _ROWS) + 1), _ROWS))
    return [rng.choice(pool) for _ in range(_ROWS)]


def _same_rows(found: list[tuple[object, ...]], wanted: list[tuple[object, ...]], ordered: bool) -> bool:
    def rounded(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
        return [tuple(round(v, 6) if isinstance(v, float) else v for v in row) for row in rows]

    left, right = rounded(found), rounded(wanted)
    return left == right if ordered else sorted(left, key=repr) == sorted(right, key=repr)


_GRADERS: Mapping[str, Callable[[str, str], float]] = {
    "exact": _exact,
    "choice": _choice,
    "number": _number,
    "json_schema": _json_schema,
    "sql": _sql,
}
_TOGETHER: Mapping[str, Callable[[Sequence[tuple[str, str]]], list[float | GraderError]]] = {
    "regex": _grade_regex,
    "python": _grade_python,
}
"""Of these all cases run in one sandbox."""
GRADERS: tuple[str, ...] = ("exact", "choice", "number", "regex", "json_schema", "sql", "python")
