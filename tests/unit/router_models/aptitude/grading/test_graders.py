"""Graders: what counts as right, a verbose right answer included."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_models.aptitude import GraderError, grade, grade_all, grade_each

EXTRACT = json.dumps({"expected": {"name": "Anna", "age": 34}})
SCHEMA = json.dumps(
    {"schema": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}}
)
CITY = json.dumps({"answer": "Paris", "options": ["Paris", "Rome", "Berlin"]})
SPAM, NOT_SPAM, LAST_NOT_SPAM = (
    json.dumps({"answer": answer, "options": ["spam", "not spam"], "last": last})
    for answer, last in (("spam", False), ("not spam", False), ("not spam", True))
)
DISPUTE = json.dumps({"answer": "billing dispute", "options": ["billing", "billing dispute", "login"]})
HR, LAST_HR, IT = (
    json.dumps({"answer": answer, "options": ["IT", "HR", "Sales"], "last": last})
    for answer, last in (("HR", False), ("HR", True), ("IT", False))
)
COUNTED = json.dumps({"answer": "Wednesday", "options": ["Tuesday", "Wednesday", "Thursday"], "last": True})
LETTER_A, LETTER_B = (json.dumps({"answer": answer, "options": list("ABCD")}) for answer in "AB")
LETTER_I = json.dumps({"answer": "I", "options": list("ABCDEFGHI")})
LAST_LETTER_B = json.dumps({"answer": "B", "options": list("ABCD"), "last": True})
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
        ("choice", NOT_SPAM, "not spam", 1),
        ("choice", NOT_SPAM, "This is not spam.", 1),
        ("choice", NOT_SPAM, "Not spam", 1),
        ("choice", NOT_SPAM, "spam", 0),
        ("choice", NOT_SPAM, "spam or not spam", 0),
        ("choice", LAST_NOT_SPAM, "spam? No: not spam", 1),
        ("choice", LAST_NOT_SPAM, "not spam? No: spam", 0),
        ("choice", SPAM, "spam", 1),
        ("choice", SPAM, "not spam", 0),
        ("choice", DISPUTE, "billing dispute", 1),
        ("choice", DISPUTE, "billing", 0),
        ("choice", HR, "I would assign it to HR.", 1),
        ("choice", HR, "IT or HR", 0),
        ("choice", LAST_HR, "HR should handle it.", 1),
        ("choice", LAST_HR, "HR, then IT", 0),
        ("choice", IT, "Assign it to IT.", 1),
        ("choice", IT, "it", 1),
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
        ("number", json.dumps({"value": 0.005, "tolerance": 0.01}), "0.00502", 1),
        ("number", json.dumps({"value": 0.005, "tolerance": 0.01}), "0.012", 0),
        ("number", json.dumps({"value": 0, "tolerance": 0.01}), "0", 1),
        ("choice", LETTER_A, "I am not a lawyer.", 0),
        ("choice", LETTER_A, "Sorry, that is a question I cannot answer.", 0),
        ("choice", LETTER_B, "B) A mammal.", 1),
        ("choice", LETTER_B, "B, as it is a mammal.", 1),
        ("choice", LETTER_B, "The answer is B because a whale breathes air.", 1),
        ("choice", LETTER_B, "b", 1),
        ("choice", LETTER_B, "b)", 1),
        ("choice", LETTER_B, "b.", 1),
        ("choice", LETTER_A, "a", 1),
        ("choice", LETTER_A, "A", 1),
        ("choice", LETTER_A, "A.", 1),
        ("choice", LETTER_A, "A) B is a letter", 1),
        ("choice", LETTER_B, "(B)", 1),
        ("choice", LETTER_B, "**B**", 1),
        ("choice", LETTER_B, "**B) A mammal**", 1),
        ("choice", LETTER_B, "The answer is (b).", 1),
        ("choice", LETTER_B, "Answer: **B**", 1),
        ("choice", LETTER_B, "The correct option is B, not A.", 1),
        ("choice", LETTER_A, "The answer is A mammal", 0),
        ("choice", LETTER_A, "A mammal is it.", 0),
        ("choice", LETTER_A, "A or B", 0),
        ("choice", LETTER_A, "The answer is A or B.", 0),
        ("choice", LETTER_B, "The answer is A. Wait, no: the answer is B.", 1),
        ("choice", LETTER_A, "A, B", 0),
        ("choice", LETTER_B, "A, B", 0),
        ("choice", LETTER_B, "B: A whale", 1),
        ("choice", LETTER_B, "Option B", 1),
        ("choice", LETTER_B, "I choose B.", 1),
        ("choice", LETTER_A, "I choose A.", 1),
        ("choice", LETTER_A, "Option A", 1),
        ("choice", LETTER_A, "A is right.", 1),
        ("choice", LETTER_B, "\\boxed{B}", 1),
        ("choice", LETTER_B, "$\\boxed{\\text{B}}$", 1),
        ("choice", LETTER_B, '{"answer": "B"}', 1),
        ("choice", LETTER_B, "A cat is wrong, hence\nB", 1),
        ("choice", LETTER_B, "A) no\nB) yes\nC) no\nThe answer is B", 1),
        ("choice", LETTER_A, "A) B) C) D)", 0),
        ("choice", LETTER_A, "", 0),
        ("choice", LETTER_A, "A cat sat. It is big.", 0),
        ("choice", LETTER_A, "grade a", 0),
        ("choice", LETTER_B, "It is B", 1),
        ("choice", LETTER_B, "d", 0),
        ("choice", LETTER_A, "The answer is a.", 1),
        ("choice", LETTER_A, "The answer is a cat.", 0),
        ("choice", LETTER_B, "B - A mammal", 1),
        ("choice", LETTER_B, "The answer is:\n\nB) A mammal", 1),
        ("choice", LETTER_B, "The correct answer is **B. A mammal**.", 1),
        ("choice", LETTER_A, "The answer is A: it has a spine", 1),
        ("choice", LETTER_A, "A) or B)", 0),
        ("choice", LETTER_A, "It is (A) or (B)", 0),
        ("choice", LETTER_I, "I, as an AI, cannot answer.", 0),
        ("choice", LETTER_I, "I", 1),
        ("choice", LETTER_I, "I)", 1),
        ("choice", LETTER_I, "I am sure it is B", 0),
        ("choice", LETTER_I, "The answer is I.", 1),
        ("choice", LETTER_I, "The answer is I think B.", 0),
        ("choice", LAST_LETTER_B, "First A, then B", 1),
        ("choice", LAST_LETTER_B, "B, then A.", 0),
        ("choice", LAST_LETTER_B, "I think a lot: B", 1),
        ("choice", LAST_LETTER_B, "", 0),
        ("choice", LAST_LETTER_B, "b", 1),
        ("number", "-5", "\u22125", 1),
        ("number", "5", "\u22125", 0),
        ("number", "-5", "\u20135", 1),
        ("number", "10", "pages 5\u201310", 1),
        ("number", "5", "12\u22125", 1),
        ("number", "5", "10 \u2013 5 = 5", 1),
        ("number", "-5", "x = - 5", 1),
        ("number", "-5", "x = \u2212 5", 1),
        ("number", "1234.5", "\\boxed{1{,}234.5}", 1),
        ("number", "1234.5", "1\u202f234.5", 1),
        ("number", "1234567.5", "1\u00a0234\u00a0567.5", 1),
        ("number", "0.75", ".75", 1),
        ("number", "0.75", "= .75", 1),
        ("number", "-0.75", "-.75", 1),
        ("number", "42", "5 \\times 8 = 40; 40 + 2 = \\boxed{42}", 1),
        ("number", "42", "\\boxed{42} since 5*8 = 40", 1),
        ("number", "42", "First 5*8 = 40. Then adding 2 gives **42**.", 1),
        ("number", "42", "The answer is **42**, because 21*2 = 42 and 20*2 = 40.", 1),
        ("number", "1500", "There are 1500 m, since 1 km = 1000 m.", 1),
        ("number", "40", "The answer is 5 * 8 = 40", 1),
        ("number", "3000", "The answer is 3 km = 3000 m", 1),
        ("number", "40", "Answer: 5 * 8. So 5*8 = 40", 1),
        ("number", "42", "Answer:\n\n5 * 8 = 40\n40 + 2 = 42", 1),
        ("number", "42", "Answer:\n1. Multiply 5 * 8 = 40\n2. Add 40 + 2 = 42", 1),
        ("number", "5", "**2 apples** + **3 apples** = 5", 1),
        ("number", "60", "**12** boxes with 5 each: 12*5 = 60", 1),
        ("number", "42", "**42**\n\n21*2 = 42 and 20*2 = 40", 1),
        ("number", "42", "5*8 = 40. There are 42, since 40 + 2 = 42.", 1),
        ("number", "40", "So for 5 boxes we need more, since 5*8 = 40.", 1),
        ("number", "42", "42 since 42 = 40 + 2", 0),
        ("number", "42", "The answer is 42 (21*2 = 42, 20*2 = 40).", 1),
        ("number", "123456", "= 1,23,456", 1),
        ("number", "1234", "\\boxed{1\\,234}", 1),
        ("number", "42", "**Answer:** 42 apples", 1),
        ("number", "42", '{"answer": 42, "n": 3}', 1),
        ("number", "42", "**42** apples, from 5 boxes of 8 plus 2", 1),
        ("number", "3.5", "The answer is 3.5. That is 7 / 2.", 1),
        ("number", "1", "The answer is 1. It is odd, as 2*0 + 1 = 1.", 1),
        ("number", "\u22125", "-5", 1),
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
    scores += grade_all([("choice", LETTER_A, text) for text in texts])
    scores += grade_all([("choice", LAST_LETTER_B, text) for text in texts])
    scores += grade_all([("json_schema", SCHEMA, text) for text in texts])
    scores += grade_all([("python", EVENS, text) for text in texts])

    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.parametrize(
    ("grader", "reference", "words"),
    [
        ("poetry", "x", "unknown grader 'poetry'"),
        ("choice", "Paris", "not JSON"),
        ("choice", "[]", "must be a JSON object with answer, options"),
        ("choice", '{"answer": "A", "options": ["A"], "last": true}', "must have another option than the answer"),
        ("choice", '{"answer": "A", "options": ["A", ""]}', "none that is empty"),
        ("choice", '{"answer": "A", "options": 4}', '"options" must be a list of texts'),
        ("choice", '{"answer": "A", "options": "AB"}', '"options" must be a list of texts'),
        ("choice", '{"answer": ["A"], "options": ["A", "B"]}', '"answer" one of them'),
        ("choice", '{"answer": "A", "options": [null, "A"]}', '"options" must be a list of texts'),
        ("number", "many", "not a number"),
        ("number", '{"value": 5, "given": 5}', "not a number"),
        *(("number", text, "not a number") for text in ("NaN", "Infinity", "-inf", "1e999", '{"value": 1e999}')),
        ("number", '{"value": 5, "tolerance": -1}', "a negative tolerance"),
        ("regex", "(", "not a regular expression"),
        ("json_schema", "{}", '"schema" or "expected"'),
        ("json_schema", '{"schema": {"type": "poem"}}', "not a JSON schema"),
        ("json_schema", '{"schema": {"properties": {"zip": {"pattern": "[0-9"}}}}', "not a JSON schema"),
        ("json_schema", '{"schema": {"$ref": "#/definitions/nowhere"}}', "refers to what is not in it"),
        ("json_schema", '{"schema": {"items": {"$ref": "https://example.com/s"}}}', "refers to what is not in it"),
        ("json_schema", '{"schema": 5}', '"schema" must be an object'),
        ("json_schema", '{"expected": [1]}', '"expected" must be an object'),
        ("python", '{"variable": "x", "expression": "open(x)", "values": [1]}', "the reference's expression fails"),
        ("python", '{"variable": "x", "expression": "x", "values": 5}', '"values" must be a list'),
        ("python", '{"variable": 1, "expression": "x", "values": [5]}', '"variable" must be a text'),
        ("python", '{"variable": "x", "expression": ["x"], "values": [5]}', '"expression" must be a text'),
        ("sql", '{"table": "t", "columns": {"a": []}, "query": "DROP TABLE t"}', "the reference's query fails"),
        ("sql", '{"table": "t", "columns": ["a"], "query": "SELECT a FROM t"}', '"columns" must be an object'),
        ("sql", '{"table": "t", "columns": {}, "query": "SELECT 1"}', "at least one column"),
        ("sql", '{"table": "t", "columns": {"a": 5}, "query": "SELECT a FROM t"}', "column 'a' must be"),
        ("sql", '{"table": "t", "columns": {"a": [1, "b"]}, "query": "SELECT a FROM t"}', "column 'a' must be"),
        ("sql", '{"table": "t", "columns": {"a": [5]}, "query": "SELECT a FROM t"}', "column 'a' must be"),
        ("sql", '{"table": "t", "columns": {"a": [], "A": []}, "query": "SELECT a FROM t"}', "duplicate column"),
        ("sql", '{"table": 1, "columns": {"a": []}, "query": "SELECT a FROM t"}', '"table" must be a text'),
        ("sql", '{"table": "t", "columns": {"a": []}, "query": 5}', '"query" must be a text'),
    ],
)
def test_a_reference_that_cannot_be_used_is_an_error_not_a_zero(grader: str, reference: str, words: str) -> None:
    for answer in ('{"n": 1} x SELECT 1', ""):
        with pytest.raises(GraderError, match=words):
            grade(grader, reference, answer)


def test_a_pattern_that_does_not_end_costs_its_answer_only() -> None:
    for_ever = r"^(\w+\s?)+\.$"
    schema = json.dumps({"schema": {"properties": {"city": {"pattern": for_ever}}}})
    texts = ("Paris.", "It is of course the city that is on the river Seine, Paris (France)", "no (dot)")
    cases = [("regex", for_ever, text) for text in texts]
    cases += [("json_schema", schema, json.dumps({"city": text})) for text in texts]

    scores = grade_each(cases)

    for first, slow, last in (scores[:3], scores[3:]):
        assert (first, last) == (1.0, 0.0)
        assert "too long" in str(slow)
