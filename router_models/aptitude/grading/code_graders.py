"""Graders of code: it is right where it computes the same as the reference's, however it is written.

How it works: what may be code is looked for in fences, in backticks and in the text as it is. An expression runs on all
values of the reference, those of a whole batch in one sandbox. A query runs on several generated databases, the same
ones for the same reference.
"""

import contextlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from router_models.aptitude.grading.equality import same
from router_models.aptitude.grading.reference import GraderError, check_kinds, fields_of
from router_models.aptitude.grading.sandbox import Database, Refused, Trial, is_expression, run_expressions

# Several databases, so that a query is not right by coincidence.
_DATABASES = 3
_ROWS = 18


def grade_python(cases: Sequence[tuple[str, str]]) -> list[float | GraderError]:
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
        scores[position] = fails if wanted is None else float(found is not None and same(found, wanted))
    return scores


def grade_sql(reference: str, text: str) -> float:
    """Reference: {"table", "columns": {name: values | [low, high] | []}, "query", "ordered"}.

    An empty list makes a label that differs from row to row, strings a group, two numbers a range of distinct integers.
    """
    fields = fields_of(reference, "table", "columns", "query")
    check_kinds(fields, str, "a text", "table", "query")
    check_kinds(fields, dict, "an object", "columns")
    _check_columns(fields["columns"])
    query: str | None = None
    for number in range(_DATABASES):
        with contextlib.closing(_database(fields, Random(f"{reference}/{number}"))) as database:
            # The first database decides which of several candidates in the text is a query at all.
            query = query or next(filter(database.accepts, _queries_in(text)), None)
            if not _same_answer(database, query or "", fields):
                return 0.0
    return 1.0


def _trials(reference: str, text: str) -> tuple[Trial, Trial]:
    """The expression of the reference, and that of the answer."""
    fields = fields_of(reference, "variable", "expression", "values")
    check_kinds(fields, str, "a text", "variable", "expression")
    check_kinds(fields, list, "a list", "values")
    variable, values = fields["variable"], fields["values"]
    found = _expression_in(text, variable)
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


def _check_columns(columns: Mapping[str, object]) -> None:
    if not columns:
        raise GraderError('"columns" must have at least one column')
    for name, pool in columns.items():
        kinds = [type(value) for value in pool] if isinstance(pool, list) else [type(None)]
        if not (set(kinds) <= {str} or kinds == [int, int]):
            raise GraderError(f"column {name!r} must be [], a list of texts or two whole numbers")


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


def _same_rows(found: list[tuple[object, ...]], wanted: list[tuple[object, ...]], ordered: bool) -> bool:
    def rounded(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
        return [tuple(round(v, 6) if isinstance(v, float) else v for v in row) for row in rows]

    left, right = rounded(found), rounded(wanted)
    return left == right if ordered else sorted(left, key=repr) == sorted(right, key=repr)


def _code_parts(text: str) -> list[str]:
    """Where code may stand, likeliest first: fences, then backticks, then the text as it is."""
    fenced = re.findall(r"```[\w+-]*\n?(.*?)(?:```|\Z)", text, re.DOTALL)
    quoted = re.findall(r"`([^`\n]+)`", text)
    return [*fenced, *quoted, text]
