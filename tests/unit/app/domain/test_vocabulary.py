"""The one table: what follows from an entry, and that a ninth dimension is one entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from app.domain.constraints import CONSTRAINTS
from app.domain.dimensions import DIMENSIONS, CardField, Dimension, Scale
from app.domain.models import Catalog
from app.domain.preferences import parse_body, parse_flag_line, parse_headers
from app.domain.quantities import POSITIVE
from app.domain.vocabulary import VOCABULARY, Vocabulary
from app.errors import InvalidRequest
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Expected, Question
from app.routing.objective import utility
from tests.fakes.routing import fleet_of, llm
from tests.fakes.world import request

NINTH = Dimension(
    name="carbon",
    word="clean",
    gain="cleaner",
    unit="g CO2 per kWh",
    scale_key="carbon_g",
    scale=Scale(800.0, 0.0),
    stage="card",
    value=lambda columns: columns.cards["carbon_g_per_kwh"],
    source="card.carbon_g_per_kwh",
    card=CardField("carbon_g_per_kwh", "g per kWh", POSITIVE),
)


def test_a_ninth_dimension_is_one_entry() -> None:
    nine = Vocabulary((*DIMENSIONS, NINTH), CONSTRAINTS)

    assert "carbon" in nine.body_schema["properties"]["weights"]["anyOf"][0]["properties"]
    assert parse_body({"weights": {"carbon": 0.5}}, nine).preferences.weights == {"carbon": 0.5}
    assert parse_headers({"x-thalamus-weights": "carbon=0.5"}, nine).preferences.weights == {"carbon": 0.5}
    flags = parse_flag_line("[flag: clean]\nhello", nine)
    assert flags is not None
    assert flags.preferences.weights == {"carbon": 0.3}
    assert nine.card_fields["carbon_g_per_kwh"].parse(40) == 40.0
    assert "`weights.carbon` | `clean` | g CO2 per kWh" in nine.markdown()

    green, grey = llm("green"), llm("grey")
    green.card.values["carbon_g_per_kwh"] = 0.0  # type: ignore[index]  # the fake's own dictionary
    table = CandidateTable(Catalog((green, grey), ()), vocabulary=nine)
    assert _carbon_part(table).tolist() == [0.0, -0.5], "best end, and unknown as the worst"


def _carbon_part(table: CandidateTable) -> np.ndarray:
    """What a weight of 0.5 takes away from a utility."""
    case = Case(table, Question.of(request()), FleetColumns(table, fleet_of(*table.models)))
    expected = Expected(case)
    expected.__dict__["quality"] = np.zeros(2)
    return utility(expected, {"carbon": 0.5})


def test_names_words_and_scale_keys_are_unique() -> None:
    fields = [*VOCABULARY.kinds, "weights"]
    assert len(set(fields)) == len(fields)
    for names in zip(*((each.name, each.word, each.scale_key) for each in DIMENSIONS), strict=True):
        assert len(set(names)) == len(DIMENSIONS)


GOOD: list[dict[str, Any]] = [
    {},
    {"weights": {}},
    {"weights": {"cost": 0.3, "latency": None}, "max_cost_usd": 0.002},
    {"max_quality_loss": 0.01, "max_cost_usd": None},
    {"released_after": "2025-01-01", "min_security": "self_hosted", "regions": ["eu"], "require_parameters": True},
    {"session_id": "s-1", "deadline_s": 30, "priority": "normal", "explain": False},
]
BAD: list[dict[str, Any]] = [
    {"weight": {}},
    {"weights": []},
    {"weights": {"speed": 1}},
    {"weights": {"cost": -1}},
    {"weights": {"cost": 21}},
    {"weights": {"cost": "0.3"}},
    {"max_cost_usd": -1},
    {"max_cost_usd": "0.1"},
    {"min_quality": 1.5},
    {"min_security": "high"},
    {"regions": "eu"},
    {"regions": []},
    {"deadline_s": 0},
    {"priority": "urgent"},
    {"explain": 1},
    {"session_id": "with space"},
]


@pytest.mark.parametrize("body", GOOD)
def test_what_the_schema_takes_is_read(body: dict[str, Any]) -> None:
    jsonschema.validate(body, dict(VOCABULARY.body_schema))
    parse_body(body)


@pytest.mark.parametrize("body", BAD)
def test_what_the_schema_refuses_is_refused_with_the_name_of_the_field(body: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, dict(VOCABULARY.body_schema))
    with pytest.raises(InvalidRequest) as caught:
        parse_body(body)
    field = next(iter(body))
    assert str(caught.value.param).startswith(f"routing.{field}")
    assert f"routing.{field}" in caught.value.message


def test_the_documentation_has_a_row_for_everything() -> None:
    text = VOCABULARY.markdown()
    for dimension in DIMENSIONS:
        assert f"`weights.{dimension.name}` | `{dimension.word}`" in text
    for name in VOCABULARY.kinds:
        assert f"| `{name}` |" in text
    for header in VOCABULARY.headers:
        assert header == "x-thalamus-weights" or f"| `{header}` |" in text


def test_the_reference_is_documented_as_it_is() -> None:
    document = Path(__file__).parents[4] / "deploy/ROUTING.md"
    assert document.read_text(encoding="utf-8").endswith(f"\n\n{VOCABULARY.markdown()}\n")
