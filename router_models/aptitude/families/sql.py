"""A question about one small table, answered by a single SELECT that is judged by running it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording

_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "Table {schema}. Write SQL: {question}.",
        "Given the table {schema}, write a query for {question}.",
        "SQL for {schema}: {question}",
        "Write one SELECT on {schema} that returns {question}.",
        "Schema: {schema}. Query {question}.",
        "Convert to SQL, using {schema}: {question}.",
        "{schema} is a table. Select {question}.",
        "List with a SQL statement {question}. Table: {schema}",
        "Use SQL on {schema} to get {question}.",
    ),
    "unseen": (
        "My database stores {schema}. How do I look up {question}?",
        "A colleague wants {question}; everything sits in {schema}. What should she type into SQLite?",
        "{schema} lives in Postgres. Fetch {question}.",
        "Which statement would make the database {schema} show {question}?",
        "As an analyst with access to {schema}, I would retrieve {question} like this:",
    ),
}


@dataclass(frozen=True)
class _Table:
    """A table with one label, groups it can be split by (with their values), and numbers."""

    name: str
    label: str
    groups: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, tuple[int, int]]


_TABLES = (
    _Table(
        "staff",
        "name",
        {"city": ("Rome", "Oslo", "Paris", "Lima"), "team": ("sales", "legal", "design")},
        {"age": (20, 65), "salary": (20, 90)},
    ),
    _Table(
        "books",
        "title",
        {"author": ("Kafka", "Woolf", "Austen", "Borges"), "genre": ("novel", "poetry", "drama")},
        {"year": (1900, 2020), "price": (5, 60)},
    ),
    _Table(
        "pets",
        "name",
        {"species": ("dog", "cat", "bird", "fish"), "color": ("black", "white", "brown")},
        {"age": (1, 30), "weight": (1, 80)},
    ),
    _Table(
        "orders",
        "product",
        {"customer": ("Anna", "Ben", "Carla", "David"), "status": ("open", "paid", "sent")},
        {"amount": (1, 50), "price": (5, 500)},
    ),
    _Table(
        "players",
        "name",
        {"team": ("Reds", "Blues", "Lions", "Bears"), "country": ("Spain", "Italy", "Chile")},
        {"goals": (0, 60), "age": (17, 40)},
    ),
    _Table(
        "cars",
        "model",
        {"brand": ("Fiat", "Volvo", "Honda", "Tesla"), "color": ("red", "blue", "green")},
        {"year": (1990, 2024), "price": (4, 90)},
    ),
)


@dataclass(frozen=True)
class _Query:
    """A kind of SELECT and how its question is put. Placeholders: label, group, value, number, bound, table, k."""

    level: int
    select: str
    asked: Mapping[Wording, tuple[str, ...]]
    ordered: bool = False


_QUERIES = (
    _Query(
        1,
        "SELECT {label} FROM {table} WHERE {group} = '{value}'",
        {
            "seen": ("the {label} where {group} is {value}", "the {label} of all {table} with {group} {value}"),
            "unseen": (
                "every {label} that has {value} for its {group}",
                "the {label} of whatever has {value} as {group}",
            ),
        },
    ),
    _Query(
        1,
        "SELECT {label} FROM {table} WHERE {number} > {bound}",
        {
            "seen": (
                "the {label} where {number} is over {bound}",
                "the {label} of {table} with {number} above {bound}",
            ),
            "unseen": ("every {label} whose {number} exceeds {bound}", "each {label} past {bound} in {number}"),
        },
    ),
    _Query(
        1,
        "SELECT {label} FROM {table} WHERE {number} < {bound}",
        {
            "seen": (
                "the {label} where {number} is under {bound}",
                "the {label} of {table} with {number} below {bound}",
            ),
            "unseen": (
                "every {label} whose {number} stays short of {bound}",
                "each {label} not yet at {bound} in {number}",
            ),
        },
    ),
    _Query(
        2,
        "SELECT COUNT(*) FROM {table} WHERE {group} = '{value}'",
        {
            "seen": ("the number of {table} where {group} is {value}", "the count of {table} with {group} {value}"),
            "unseen": ("how many entries have {value} as {group}", "how often {value} occurs as {group}"),
        },
    ),
    _Query(
        2,
        "SELECT MAX({number}) FROM {table} WHERE {group} = '{value}'",
        {
            "seen": (
                "the maximum {number} where {group} is {value}",
                "the highest {number} of {table} with {group} {value}",
            ),
            "unseen": (
                "the top {number} among those with {value} for {group}",
                "the biggest {value} {number} by {group}",
            ),
        },
    ),
    _Query(
        2,
        "SELECT AVG({number}) FROM {table}",
        {
            "seen": ("the average {number}", "the average {number} of all {table}"),
            "unseen": ("the mean {number} overall", "what {number} is typical, as a mean"),
        },
    ),
    _Query(
        2,
        "SELECT SUM({number}) FROM {table} WHERE {group} = '{value}'",
        {
            "seen": (
                "the sum of {number} where {group} is {value}",
                "the total {number} of {table} with {group} {value}",
            ),
            "unseen": (
                "all {number} put together when {value} is the {group}",
                "{number} added up for {group} {value}",
            ),
        },
    ),
    _Query(
        3,
        "SELECT {group}, COUNT(*) FROM {table} GROUP BY {group}",
        {
            "seen": ("the number of {table} per {group}", "each {group} with its count of {table}"),
            "unseen": ("how many entries every {group} has, next to that {group}", "a tally by {group}, {group} first"),
        },
    ),
    _Query(
        3,
        "SELECT {group}, AVG({number}) FROM {table} GROUP BY {group}",
        {
            "seen": ("each {group} with its average {number}", "the {group} and average {number} per {group}"),
            "unseen": (
                "every {group} beside the mean {number} it has",
                "mean {number} broken down by {group}, {group} first",
            ),
        },
    ),
    _Query(
        3,
        "SELECT {label} FROM {table} ORDER BY {number} DESC LIMIT {k}",
        {
            "seen": (
                "the {label} of the {k} {table} with the highest {number}, highest first",
                "the {label} of the top {k} {table} by {number}",
            ),
            "unseen": (
                "the {k} leading {label}s in {number}, best first",
                "who is ahead in {number}: {k} {label}s, descending",
            ),
        },
        ordered=True,
    ),
    _Query(
        3,
        "SELECT {label} FROM {table} WHERE {group} = '{value}' AND {number} > {bound}",
        {
            "seen": (
                "the {label} where {group} is {value} and {number} is over {bound}",
                "the {label} of {table} with {group} {value} and {number} above {bound}",
            ),
            "unseen": (
                "every {label} that has {value} for its {group} while its {number} exceeds {bound}",
                "each {label} past {bound} in {number}, provided {value} is its {group}",
            ),
        },
    ),
)


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """A schema, a question and its SELECT; the reference also describes the databases it is judged on."""
    table = rng.choice(_TABLES)
    query = rng.choice([query for query in _QUERIES if query.level == level])
    group, number = rng.choice(list(table.groups)), rng.choice(list(table.numbers))
    low, high = table.numbers[number]
    words = {
        "table": table.name,
        "label": table.label,
        "group": group,
        "value": rng.choice(table.groups[group]),
        "number": number,
        # Bounds from the middle of the range, so that some rows pass and some do not.
        "bound": rng.randint(low + (high - low) // 4, high - (high - low) // 4),
        "k": rng.randint(2, 4),
    }
    others = [column for column in (*table.groups, *table.numbers) if column not in (group, number)]
    shown = [group, number, *rng.sample(others, rng.randint(0, 1))]
    columns = [table.label, *rng.sample(shown, len(shown))]
    select = query.select.format(**words)
    return Draft(
        prompt=rng.choice(_FRAMES[wording]).format(
            schema=f"{table.name}({', '.join(columns)})", question=rng.choice(query.asked[wording]).format(**words)
        ),
        answer=select,
        grader="sql",
        reference=json.dumps(
            {
                "table": table.name,
                "columns": {
                    column: list(table.groups[column])
                    if column in table.groups
                    else list(table.numbers.get(column, ()))
                    for column in columns
                },
                "query": select,
                "ordered": query.ordered,
            }
        ),
    )


SQL = Family("sql", "sql", "Answer a question about one table with a SELECT.", _FRAMES, make)
