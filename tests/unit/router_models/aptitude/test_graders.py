"""Graders: what counts as right, a verbose right answer included."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_models.aptitude import GraderError, grade, grade_all

EXTRACT = json.dumps({"expected": {"name": "Anna", "age": 34}})
SCHEMA = json.dumps(
    {"schema": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}}
)
CITY = json.dumps({"answer": "Paris", "options": ["Paris", "Rome", "Berlin"]})
COUNTED = json.dumps({"answer": "Wednesday", "options": ["Tuesday", "Wednesday", "Thursday"], "last": True})
SUM = json.dumps({"value": 75, "given": [28, 47]})
EVENS = json.dumps(
    {"variable": "x", "expression": "sum(i for i in x if i % 2 == 0)", "values": [[1, 2, 4], [3], [10, 7, -2]]}
)
STAFF = json.dumps(
    {
        "table": "staff",
        "columns": {"name": [], "age": [20, 65], "city": ["Rome", "Oslo", "Paris"]},
        "query": "SELECT name FROM staff WHERE age > 40",
        "ordered": False,
    }
)
OLDEST = json.dumps(
    {
        "table": "staff",
        "columns": {"name": [], "age": [20, 65]},
        "query": "SELECT name FROM staff ORDER BY age DESC LIMIT 3",
        "ordered": True,
    }
)


@pytest.mark.parametrize(
    ("grader", "reference", "text", "score"),
    [
        ("exact", "das rote Haus", "das rote Haus", 1),
        ("exact", "das rote Haus", '  "Das rote  Haus." ', 1),
        ("exact", "das rote Haus", "**das rote Haus**", 1),
        ("exact", "das rote Haus", "the red house = das rote Haus", 1),
        ("exact", "das rote Haus", 'In German, it is "das rote Haus".', 1),
        ("exact", "das rote Haus", "der rote Haus", 0),
        ("exact", "das rote Haus", "das rote Haus oder der rote Haus", 0),
        ("exact", "das rote Haus", "a = b = das rote Haus", 0),
        ("exact", "das rote Haus", "das Haus\nit is das rote Haus", 0),
        ("exact", "das rote Haus", "", 0),
        ("exact", "rain, moss, cat", "Rain, moss, cat", 1),
        ("exact", "rain, moss, cat", "cat, moss, rain", 0),
        ("choice", CITY, "Paris", 1),
        ("choice", CITY, "The capital of France is paris.", 1),
        ("choice", CITY, "Between Rome and Paris, the right one is Paris.", 1),
        ("choice", CITY, "Paris, Rome", 0),
        ("choice", CITY, "It is Rome or Paris", 0),
        ("choice", CITY, "Rome", 0),
        ("choice", CITY, "Parisian", 0),
        ("choice", CITY, "", 0),
        ("choice", COUNTED, "1 Tuesday, 2 Wednesday", 1),
        ("choice", COUNTED, "It will be Wednesday, two days after Monday.", 1),
        ("choice", COUNTED, "Wednesday", 1),
        ("choice", COUNTED, "1 Tuesday, 2 Wednesday, 3 Thursday", 0),
        ("choice", COUNTED, "Monday", 0),
        ("number", "42", "42", 1),
        ("number", "42", "The answer is 42.", 1),
        ("number", "42", "42.0", 1),
        ("number", "1234", "1,234 meters", 1),
        ("number", "-5", "It is -5", 1),
        ("number", "5", "12-5", 1),
        ("number", "42", "43", 0),
        ("number", "42", "forty-two", 0),
        ("number", "42", "", 0),
        ("number", SUM, "28 + 47 = 75", 1),
        ("number", SUM, "75 is what 28 and 47 make", 1),
        ("number", SUM, "28 + 47 = 65", 0),
        ("number", SUM, "28 + 47", 0),
        ("number", SUM, "The answer is 75 because 28 + 40 and then 7 more", 1),
        ("number", json.dumps({"value": 6, "given": [12, 6]}), "12 - 6 = 6", 1),
        ("number", json.dumps({"value": 6, "given": [12, 6]}), "12 - 6 = 12", 0),
        ("number", json.dumps({"value": 3.14159, "tolerance": 0.01}), "about 3.14", 1),
        ("regex", r"(?<!\d)2021-03-05(?!\d)", "The date is 2021-03-05.", 1),
        ("regex", r"(?<!\d)2021-03-05(?!\d)", "12021-03-05", 0),
        ("json_schema", EXTRACT, '{"name": "Anna", "age": 34}', 1),
        ("json_schema", EXTRACT, 'Sure! ```json\n{"age": 34.0, "name": "anna"}\n``` Done.', 1),
        ("json_schema", EXTRACT, 'Set {a} then {"name": "Anna", "age": 34}', 1),
        ("json_schema", EXTRACT, '{"name": "Anna", "age": 35}', 0.5),
        ("json_schema", EXTRACT, '{"name": "Anna"}', 0.5),
        ("json_schema", EXTRACT, '{"name": "Anna", "age": 34, "city": "Rome", "job": "nurse"}', 0.5),
        ("json_schema", EXTRACT, '{"name": "Anna", "age": "34"}', 0.5),
        ("json_schema", EXTRACT, '{"name": "Anna", "age": 34', 0),
        ("json_schema", EXTRACT, "[" * 5000, 0),
        ("json_schema", EXTRACT, '{"a":' * 5000, 0),
        ("json_schema", SCHEMA, 'n: {"n": 3}', 1),
        ("json_schema", SCHEMA, '{"n": 0}', 0),
        ("json_schema", SCHEMA, '{"n": "3"}', 0),
        ("json_schema", json.dumps({"expected": {"ok": True}}), '{"ok": 1}', 0),
        ("python", EVENS, "sum(i for i in x if i % 2 == 0)", 1),
        ("python", EVENS, "sum([n for n in x if not n % 2])", 1),
        ("python", EVENS, "sum(filter(lambda n: n % 2 == 0, x))", 1),
        ("python", EVENS, "result = sum(i for i in x if i % 2 == 0)\nprint(result)", 1),
        ("python", EVENS, "print(sum(i for i in x if i % 2 == 0))", 1),
        ("python", EVENS, "Use this:\n```python\nsum(i for i in x if i % 2 == 0)\n```", 1),
        ("python", EVENS, "Use `sum(i for i in x if i % 2 == 0)` for that.", 1),
        ("python", EVENS, "sum(x)", 0),
        ("python", EVENS, "6", 0),
        ("python", EVENS, "x / 0", 0),
        ("python", EVENS, "[i for i in x if i % 2 == 0]", 0),
        ("python", EVENS, "", 0),
        ("sql", STAFF, "SELECT name FROM staff WHERE age > 40", 1),
        ("sql", STAFF, "select s.name from staff as s where not s.age <= 40 order by 1;", 1),
        ("sql", STAFF, "To select the names:\n```sql\nSELECT `name` FROM `staff` WHERE `age` > 40;\n```\nDone.", 1),
        ("sql", STAFF, "With this you select the names:\n\nSELECT name FROM staff WHERE age > 40", 1),
        ("sql", STAFF, "SELECT name FROM staff WHERE age >= 20", 0),
        ("sql", STAFF, "SELECT name, age FROM staff WHERE age > 40", 0),
        ("sql", STAFF, "SELECT name FROM people", 0),
        ("sql", STAFF, "DELETE FROM staff", 0),
        ("sql", STAFF, "", 0),
        ("sql", OLDEST, "SELECT name FROM staff ORDER BY age DESC LIMIT 3", 1),
        ("sql", OLDEST, "SELECT name FROM (SELECT * FROM staff ORDER BY age DESC LIMIT 3) ORDER BY age", 0),
    ],
)
def test_a_grader_gives_each_answer_its_due(grader: str, reference: str, text: str, score: float) -> None:
    assert math.isclose(grade(grader, reference, text), score)


def test_a_batch_scores_like_its_cases_one_by_one() -> None:
    cases = [("number", "1", "1"), ("python", EVENS, "sum(x)"), ("exact", "a", "A"), ("python", EVENS, "x.pop()")]

    assert grade_all(cases) == [grade(*case) for case in cases] == [1, 0, 1, 0]


CODE_LIKE = st.text(st.sampled_from("xSELECT name FROM staff;{}[]()\"'`:=, 0123456789.-\n\\_"), max_size=80)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=60), CODE_LIKE), min_size=1, max_size=12))
def test_whatever_a_model_says_is_a_score_and_never_an_error(texts: list[str]) -> None:
    references = {"exact": "a", "choice": CITY, "number": SUM, "regex": "a+", "json_schema": EXTRACT, "sql": STAFF}

    scores = grade_all([(grader, reference, text) for grader, reference in references.items() for text in texts])
    scores += grade_all([("json_schema", SCHEMA, text) for text in texts])
    scores += grade_all([("python", EVENS, text) for text in texts])

    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.parametrize(
    ("grader", "reference", "words"),
    [
        ("poetry", "x", "unknown grader 'poetry'"),
        ("choice", "Paris", "not JSON"),
        ("choice", "[]", "must be a JSON object with answer, options"),
        ("number", "many", "not a number"),
        ("regex", "(", "not a regular expression"),
        ("json_schema", "{}", '"schema" or "expected"'),
        ("json_schema", '{"schema": {"type": "poem"}}', "not a JSON schema"),
        ("python", '{"variable": "x", "expression": "open(x)", "values": [1]}', "the reference's expression fails"),
        ("sql", '{"table": "t", "columns": {"a": []}, "query": "DROP TABLE t"}', "the reference's query fails"),
    ],
)
def test_a_reference_that_cannot_be_used_is_an_error_not_a_zero(grader: str, reference: str, words: str) -> None:
    with pytest.raises(GraderError, match=words):
        grade(grader, reference, '{"n": 1} x SELECT 1')
