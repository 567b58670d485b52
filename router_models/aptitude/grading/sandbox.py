"""Runs code that a model wrote: Python expressions in a process of their own, SELECTs in an in-memory SQLite.

Patterns that an operator wrote run in such a process too: on the wrong text one can take for ever.

How it works. A Python expression first passes an allow-list over its syntax tree: expressions only, listed builtins and
methods, no name or string with a double underscore. Then many of them run one after the other in one child,
`python -I -S` with an empty environment, a temporary working directory and limits on CPU time, memory, processes and
written files; each gets fresh globals. What kills the child (memory, a long-running C call) costs that expression only:
a new child goes on with the next one. SQL runs here, under an authorizer that knows nothing but reading, with a bound
on steps, rows and value sizes.

The allow-list is what makes it safe; the limits are there for what is harmless but large. Whole programs are not its
business.
"""

import ast
import json
import os
import selectors
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_EXPRESSION_CHARS = 600
MAX_SQL_CHARS = 2000
MAX_ROWS = 1000
# A SELECT over a table of some twenty rows takes a few thousand virtual-machine steps.
MAX_SQL_STEPS = 2_000_000
# Wall time without a result after which the child is killed; its own CPU limit of two seconds usually strikes first.
SILENT_AFTER_S = 5.0

_BUILTINS = tuple(
    """
    abs all any bool chr dict divmod enumerate filter float frozenset int isinstance len list map max min ord pow range
    reversed round set sorted str sum tuple zip
    """.split()  # noqa: SIM905 - one word per line would be forty lines
)
_METHODS = frozenset(
    """
    append capitalize casefold center copy count difference endswith extend find get index insert intersection isalnum
    isalpha isdigit islower isspace isupper items join keys lower lstrip partition pop remove removeprefix removesuffix
    replace reverse rfind rindex rpartition rsplit rstrip sort split splitlines startswith strip swapcase title union
    upper values zfill
    """.split()  # noqa: SIM905 - one word per line would be forty lines
)
_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Store, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Starred,
    ast.UnaryOp, ast.UAdd, ast.USub, ast.Not, ast.Invert, ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.cmpop,
    ast.BinOp, ast.operator, ast.IfExp, ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Slice,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.Lambda, ast.arguments, ast.arg,
)  # fmt: skip

# Runs in the child. Reads all jobs, then closes its input; writes one line of JSON per job.
_CHILD = """
import json, re, resource, sys
def limit(what, soft, hard):
    resource.setrlimit(what, (soft, hard))
jobs = json.loads(sys.stdin.buffer.read())
sys.stdin.close()
builtins = {name: __builtins__.__dict__[name] for name in jobs["builtins"]}
limit(resource.RLIMIT_AS, 512 << 20, 512 << 20)
limit(resource.RLIMIT_FSIZE, 0, 0)
limit(resource.RLIMIT_NPROC, 0, 0)
limit(resource.RLIMIT_CORE, 0, 0)
limit(resource.RLIMIT_NOFILE, 3, 3)
hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
def plain(value, depth=0):
    if depth > 6:
        raise ValueError("nested too deeply")
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((plain(v, depth + 1) for v in value), key=repr)}
    if isinstance(value, dict):
        return {"dict": [[plain(k, depth + 1), plain(v, depth + 1)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [plain(v, depth + 1) for v in value]}
    if isinstance(value, list):
        return [plain(v, depth + 1) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError("not a plain value")
def run(job):
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, int(spent.ru_utime + spent.ru_stime) + 2, hard)
    if "pattern" in job:
        return json.dumps(re.search(job["pattern"], job["text"]) is not None)
    code = compile(job["source"], "answer", "eval")
    results = []
    for value in job["values"]:
        results.append(plain(eval(code, {"__builtins__": builtins, job["variable"]: value})))
    line = json.dumps(results)
    if len(line) > 20000:
        raise ValueError("too long")
    return line
for job in jobs["jobs"]:
    try:
        line = run(job)
    except BaseException:
        line = "null"
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()
"""


class Refused(ValueError):
    """The code is not of the allowed kind; the message says what is not."""


@dataclass(frozen=True)
class Trial:
    """One expression to evaluate once per value of its variable."""

    source: str
    variable: str
    values: Sequence[object]


def check_expression(source: str, variable: str) -> None:
    """Raises Refused unless this is a single expression made of allowed parts over `variable`."""
    if len(source) > MAX_EXPRESSION_CHARS:
        raise Refused(f"longer than {MAX_EXPRESSION_CHARS} characters")
    try:
        tree = ast.parse(source.strip(), mode="eval")
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise Refused("not an expression") from exc
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    known = {variable, *_BUILTINS, *bound}
    for node in nodes:
        _check_node(node, known)


def is_expression(source: str, variable: str) -> bool:
    """Whether `check_expression` lets it pass."""
    try:
        check_expression(source, variable)
    except Refused:
        return False
    return True


def _check_node(node: ast.AST, known: set[str]) -> None:
    if not isinstance(node, _NODES):
        raise Refused(f"{type(node).__name__} is not allowed")
    if isinstance(node, ast.Name) and (node.id not in known or "__" in node.id):
        raise Refused(f"unknown name {node.id}")
    if isinstance(node, ast.Attribute) and node.attr not in _METHODS:
        raise Refused(f"attribute {node.attr} is not allowed")
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "__" in node.value:
        raise Refused("double underscore in a string")


def run_expressions(trials: Sequence[Trial]) -> list[list[object] | None]:
    """The values of every expression, in plain JSON form; None where it was refused, failed or broke a limit."""
    allowed = [position for position, trial in enumerate(trials) if is_expression(trial.source, trial.variable)]
    jobs = [
        {"source": trial.source.strip(), "variable": trial.variable, "values": list(trial.values)}
        for trial in map(trials.__getitem__, allowed)
    ]
    results: list[list[object] | None] = [None] * len(trials)
    for position, result in zip(allowed, _run(jobs), strict=True):
        results[position] = result
    return results


def search_all(searches: Sequence[tuple[str, str]]) -> list[bool | None]:
    """Whether each pattern is found in its text; None where that took too long. The patterns compile."""
    return _run([{"pattern": pattern, "text": text} for pattern, text in searches])


def _run(jobs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What comes of each job; None where it failed or broke a limit."""
    results: list[Any] = [None] * len(jobs)
    waiting = list(range(len(jobs)))
    while waiting:
        lines = _run_child([jobs[position] for position in waiting])
        for position, line in zip(waiting, lines, strict=False):
            results[position] = json.loads(line)
        # Whichever came next took the child down with it, or all are done.
        waiting = waiting[len(lines) + 1 :]
    return results


def _run_child(jobs: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Result lines until the child ended, by itself or because it fell silent."""
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, tempfile.TemporaryFile() as jobs_file:
        jobs_file.write(json.dumps({"builtins": _BUILTINS, "jobs": list(jobs)}).encode())
        jobs_file.seek(0)
        child = subprocess.Popen(  # noqa: S603 - our own interpreter on our own source
            [sys.executable, "-I", "-S", "-c", _CHILD],
            stdin=jobs_file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        with child:
            try:
                return _read_lines(child)
            finally:
                child.kill()


def _read_lines(child: subprocess.Popen[bytes]) -> list[bytes]:
    """Whole lines of the child's output, until it ends or says nothing for SILENT_AFTER_S."""
    assert child.stdout is not None  # noqa: S101 - for the type checker: it was opened with a pipe
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while selector.select(timeout=SILENT_AFTER_S):
            chunk = os.read(child.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            output += chunk
    return output.split(b"\n")[:-1]


_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


def _authorize(action: int, _first: str | None, name: str | None, _base: str | None, _via: str | None) -> int:
    if action not in _READING or (action == sqlite3.SQLITE_FUNCTION and name == "load_extension"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


class Database:
    """One in-memory table that SELECTs may read."""

    def __init__(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
        self._connection = sqlite3.connect(":memory:")
        names = ", ".join(f'"{column}"' for column in columns)
        self._connection.execute(f'CREATE TABLE "{table}" ({names})')
        places = ", ".join("?" for _ in columns)
        self._connection.executemany(f'INSERT INTO "{table}" VALUES ({places})', rows)  # noqa: S608 - names are ours
        self._connection.commit()
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 50)
        self._connection.set_authorizer(_authorize)

    def select(self, query: str) -> list[tuple[object, ...]]:
        """The rows of one SELECT. Raises Refused for anything that fails, writes, or is too large."""
        if len(query) > MAX_SQL_CHARS:
            raise Refused(f"longer than {MAX_SQL_CHARS} characters")
        try:
            rows = self._bounded(query)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as exc:
            raise Refused(f"the query failed: {exc}") from exc
        if len(rows) > MAX_ROWS:
            raise Refused(f"more than {MAX_ROWS} rows")
        return rows

    def accepts(self, query: str) -> bool:
        """Whether `select` would answer."""
        try:
            self.select(query)
        except Refused:
            return False
        return True

    def close(self) -> None:
        """Free the table."""
        self._connection.close()

    def _bounded(self, query: str) -> list[tuple[object, ...]]:
        steps_left = MAX_SQL_STEPS // 1000

        def spend() -> bool:
            nonlocal steps_left
            steps_left -= 1
            return steps_left < 0

        self._connection.set_progress_handler(spend, 1000)
        cursor = self._connection.execute(query)
        if cursor.description is None:
            raise Refused("not a query")
        return cursor.fetchmany(MAX_ROWS + 1)
