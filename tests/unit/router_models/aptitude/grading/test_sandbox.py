"""The sandbox: refuses what is not an expression over data, and stops what runs away."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router_models.aptitude.grading.sandbox import Database, Refused, Trial, check_expression, run_expressions


def values_of(source: str) -> list[object] | None:
    return run_expressions([Trial(source, "x", [[3, 1, 2]])])[0]


@pytest.mark.parametrize(
    "source",
    [
        "open('/etc/passwd').read()",
        "__import__('os').system('true')",
        "import os",
        "x = 3",
        "(y := x)",
        "eval('1')",
        "getattr(x, 'append')",
        "x.__class__",
        "().__class__.__bases__[0].__subclasses__()",
        "'{0.__class__}'.format(x)",
        "'{0.a}'.format(x)",
        "(i for i in x).gi_frame",
        "[__builtins__ for i in x]",
        "(lambda __class__: __class__)(x)",
        "globals()",
        "type(x)",
        "print(x)",
        "input()",
        "f'{x}'",
        "await x",
        "yield x",
        "1; 2",
        "x" + " + x" * 400,
        "(" * 300 + "x" + ")" * 300,
        "\0",
        "",
        "unknown",
    ],
)
def test_what_is_not_a_plain_expression_is_refused_before_it_runs(source: str) -> None:
    with pytest.raises(Refused):
        check_expression(source, "x")
    assert values_of(source) is None


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("sorted(x, reverse=True)[:2]", [3, 2]),
        ("{i: i * i for i in x}[3]", 9),
        ("set(x)", {"set": [1, 2, 3]}),
        ("tuple(x)", {"tuple": [3, 1, 2]}),
        ("' '.join(str(i) for i in x)", "3 1 2"),
        ("max(x, key=lambda i: -i)", 1),
        ("len(x) / 2", 1.5),
        ("[a + b for a, b in zip(x, x[1:])]", [4, 3]),
    ],
)
def test_plain_expressions_run(source: str, value: object) -> None:
    assert values_of(source) == [value]


@pytest.mark.parametrize(
    "source",
    [
        "[0] * 10**10",
        "'a' * 10**10",
        "'%1000000000d' % 1",
        "'ab'.zfill(10**10)",
        "str(x) * 100000",
        "list(range(10**9))",
        "10 ** 100000",
        "(lambda f: f(f))(lambda f: f(f))",
        "x[99]",
        "max",
        "(i for i in x)",
    ],
)
def test_too_large_too_long_or_failing_gives_nothing(source: str) -> None:
    assert values_of(source) is None


@pytest.mark.slow
@pytest.mark.parametrize("source", ["all(True for _ in range(10**12))", "10 ** 10**9", "sum(range(10**12))"])
def test_an_endless_computation_costs_only_itself(source: str) -> None:
    trials = [Trial(code, "x", [[3, 1, 2]]) for code in ("len(x)", source, "sum(x)", "min(x)")]

    assert run_expressions(trials) == [[3], None, [6], [1]]


def test_one_expression_cannot_change_what_the_next_one_sees() -> None:
    value = [3, 1, 2]

    results = run_expressions([Trial("x.sort()", "x", [value]), Trial("x", "x", [value])])

    assert results == [[None], [[3, 1, 2]]]
    assert value == [3, 1, 2]


def test_the_child_leaves_no_file_behind(tmp_path: Path) -> None:
    program = (
        "from router_models.aptitude.grading.sandbox import Trial, run_expressions;"
        "print(run_expressions([Trial('len(x)', 'x', ['abc']), Trial('[0] * 10**10', 'x', [1])]))"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program], env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == "[[3], None]"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def staff() -> Iterator[Database]:
    database = Database("staff", ["name", "age"], [("Anna", 30), ("Ben", 50), ("Carla", 41)])
    yield database
    database.close()


def test_a_select_returns_its_rows(staff: Database) -> None:
    assert staff.select("SELECT name FROM staff WHERE age > 40 ORDER BY age") == [("Carla",), ("Ben",)]


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO staff VALUES ('x', 1)",
        "DELETE FROM staff",
        "DROP TABLE staff",
        "UPDATE staff SET age = 1",
        "CREATE TABLE t(a)",
        "ATTACH DATABASE '/tmp/x.db' AS y",
        "PRAGMA table_info(staff)",
        "VACUUM INTO '/tmp/x.db'",
        "SELECT load_extension('x')",
        "SELECT readfile('/etc/passwd')",
        "SELECT 1; DROP TABLE staff",
        "SELECT nothing FROM staff",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "SELECT count(*) FROM " + ", ".join(f"staff s{n}" for n in range(16)),
        "SELECT a.age FROM " + ", ".join(f"staff {name}" for name in "abcdefgh"),
        "SELECT length(zeroblob(1000000000))",
        "SELECT " + "(" * 600 + "1" + ")" * 600,
        "SELECT '" + "x" * 3000 + "'",
        "",
        "SELECT '\0'",
        "SELECT '\ud800'",
    ],
)
def test_a_query_that_writes_runs_away_or_fails_is_refused(staff: Database, query: str) -> None:
    with pytest.raises(Refused):
        staff.select(query)
    assert len(staff.select("SELECT * FROM staff")) == 3
