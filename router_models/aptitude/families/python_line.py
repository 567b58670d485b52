"""One Python expression over a named variable, judged by running it: builtins, then filters, then both together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording

_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "{x} is a {kind}. Give a Python expression for {task}.",
        "Write a Python expression for {task}, where {x} is a {kind}.",
        "Python: {task}. The variable {x} is a {kind}.",
        "Given the {kind} {x}, write one line of Python for {task}.",
        "In Python, compute {task} from the {kind} {x}.",
        "One line of Python on the {kind} {x}: {task}.",
        "Convert to Python code: {task}, with {x} a {kind}.",
        "Which Python expression returns {task}? {x} is a {kind}.",
        "{x} holds a {kind}, not a table. Use Python to get {task}.",
    ),
    "unseen": (
        "Suppose {x} refers to some {kind}. How would a Python programmer obtain {task}?",
        "My script has the {kind} {x} and I am after {task}. Code, Python?",
        "Type what the Python prompt needs to show {task}, {x} being a {kind}.",
        "Help me code this in Python 3: {task}. My {kind} is named {x}.",
        "In a notebook cell, {x} was set to a {kind}. Produce {task} (Python).",
    ),
}
_VARIABLES = {
    "list of integers": ("x", "nums", "values", "data", "numbers"),
    "string": ("s", "text", "line", "name"),
    "list of strings": ("words", "names", "items"),
}
_STRINGS = ("banana split", "The quick brown fox", "a", "hello world again", "Mississippi river")
_WORD_LISTS = (["apple", "fig", "banana"], ["to", "be", "or", "not"], ["Zoe"], ["kiwi", "pear", "plum", "cherry"])


@dataclass(frozen=True)
class _Task:
    """An expression in {x} and {k}, and how it is asked for."""

    level: int
    kind: str
    expression: str
    asked: Mapping[Wording, tuple[str, ...]]


def _task(level: int, kind: str, expression: str, seen: str, unseen: str) -> _Task:
    return _Task(level, kind, expression, {"seen": (seen,), "unseen": (unseen,)})


_INTS, _STRING, _STRINGS_KIND = "list of integers", "string", "list of strings"
_TASKS = (
    _task(1, _INTS, "sum({x})", "the sum of its items", "everything in it added up"),
    _task(1, _INTS, "max({x})", "its largest item", "the biggest entry"),
    _task(1, _INTS, "min({x})", "its smallest item", "the lowest entry"),
    _task(1, _INTS, "len({x})", "the number of items", "how many entries it has"),
    _task(1, _INTS, "{x}[0]", "its first item", "the entry at the front"),
    _task(1, _INTS, "{x}[-1]", "its last item", "the entry at the very end"),
    _task(1, _INTS, "sorted({x})", "its items in sorted order", "the same entries from low to high"),
    _task(1, _INTS, "{x}[::-1]", "the reversed list", "the entries back to front"),
    _task(1, _STRING, "{x}.upper()", "it in upper case", "it in capitals"),
    _task(1, _STRING, "{x}.lower()", "it in lower case", "it without any capitals"),
    _task(1, _STRING, "len({x})", "its length", "how many characters it has"),
    _task(1, _STRING, "{x}[::-1]", "it reversed", "its characters back to front"),
    _task(1, _STRING, "{x}.split()", "the list of its words", "it cut at whitespace"),
    _task(2, _INTS, "[i for i in {x} if i > {k}]", "the items greater than {k}", "only entries beyond {k}"),
    _task(2, _INTS, "[i for i in {x} if i < {k}]", "the items less than {k}", "only entries short of {k}"),
    _task(2, _INTS, "[i * {k} for i in {x}]", "each item times {k}", "all entries scaled by {k}"),
    _task(2, _INTS, "[i + {k} for i in {x}]", "each item plus {k}", "all entries raised by {k}"),
    _task(2, _INTS, "{x}.count({k})", "the count of {k}", "how often {k} occurs"),
    _task(2, _INTS, "{x}[:{k}]", "its first {k} items", "the leading {k} entries"),
    _task(2, _INTS, "{x}[-{k}:]", "its last {k} items", "the final {k} entries"),
    _task(2, _INTS, "[i for i in {x} if i % 2 == 0]", "its even items", "only entries divisible by two"),
    _task(2, _INTS, "[i for i in {x} if i % 2 == 1]", "its odd items", "entries that two does not divide"),
    _task(2, _STRING, "{x}.count('{c}')", "the count of '{c}' in it", "how often '{c}' occurs in it"),
    _task(2, _STRING, "{x}.replace('{c}', '')", "it without the letter '{c}'", "it with every '{c}' deleted"),
    _task(2, _STRING, "{x}[:{k}]", "its first {k} characters", "the leading {k} characters"),
    _task(3, _INTS, "sum(i for i in {x} if i > {k})", "the sum of items over {k}", "entries past {k} added up"),
    _task(3, _INTS, "sum(i * i for i in {x})", "the sum of the squares", "all entries squared, then added up"),
    _task(3, _INTS, "len([i for i in {x} if i > {k}])", "the number of items over {k}", "how many entries pass {k}"),
    _task(3, _INTS, "max({x}) - min({x})", "its maximum minus its minimum", "the gap from lowest to biggest entry"),
    _task(3, _INTS, "len(set({x}))", "the number of distinct items", "how many different entries occur"),
    _task(
        3,
        _INTS,
        "sorted({x}, reverse=True)[:{k}]",
        "its {k} largest items, largest first",
        "the top {k} entries, descending",
    ),
    _task(
        3,
        _INTS,
        "[i * {k} for i in {x} if i % 2 == 0]",
        "each even item times {k}",
        "entries divisible by two, scaled by {k}",
    ),
    _task(
        3,
        _STRINGS_KIND,
        "[w for w in {x} if len(w) > {k}]",
        "the strings longer than {k} characters",
        "only entries beyond {k} letters",
    ),
    _task(3, _STRINGS_KIND, "[w.upper() for w in {x}]", "each string in upper case", "every entry in capitals"),
    _task(3, _STRINGS_KIND, "' '.join({x})", "the strings joined by spaces", "one string, entries spaced apart"),
    _task(3, _STRINGS_KIND, "max({x}, key=len)", "its longest string", "the entry with most letters"),
)


def _values(rng: Random, kind: str, k: int) -> list[list[int] | str | list[str]]:
    """Values on which right and nearly right expressions differ."""
    if kind == _STRING:
        return list(_STRINGS)
    if kind == _STRINGS_KIND:
        return list(_WORD_LISTS)
    lists: list[list[int] | str | list[str]] = [[k, k + 1, k - 1, 2, 7, k, 12], [9, 4, 4, 1, 8]]
    return [*lists, [rng.randint(-9, 30) for _ in range(rng.randint(5, 9))]]


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """A variable and what to compute from it; the reference has the values it is tried on."""
    task = rng.choice([task for task in _TASKS if task.level == level])
    x, k, c = rng.choice(_VARIABLES[task.kind]), rng.randint(2, 9), rng.choice("aeinorst")
    expression = task.expression.format(x=x, k=k, c=c)
    asked = rng.choice(task.asked[wording]).format(k=k, c=c)
    return Draft(
        prompt=rng.choice(_FRAMES[wording]).format(x=x, kind=task.kind, task=asked),
        answer=expression,
        grader="python",
        reference=json.dumps({"variable": x, "expression": expression, "values": _values(rng, task.kind, k)}),
    )


PYTHON_LINE = Family("python_line", "python", "Write one Python expression over a variable.", _FRAMES, make)
