"""Long lists of names are cut to those of the catalogue, and decide what they decided."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.access import Access
from app.api.bodies.parsing import parse_chat
from app.api.names import MOST_NAMES, Names
from app.domain.models import Catalog
from app.domain.preferences import Profile
from app.domain.quantities import NAMES
from app.domain.request import Preferences, Request
from app.domain.vocabulary import VOCABULARY
from app.errors import NoEligibleModel
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Expected, Question
from tests.fakes.call import FakeCall
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import catalog, request

MODELS = (
    llm("small"),
    llm("large", license="mit", regions={"eu", "us"}),
    llm("abroad", license="mit", regions={"us"}),
    llm("silent", license=None, regions=()),
)
NAMES_OF = Names(MODELS)
LISTS = [each.name for each in VOCABULARY.constraints if each.kind is NAMES]
KNOWN = ["small", "large", "abroad", "silent", "apache-2.0", "mit", "eu", "us"]
STRANGERS = [f"nobody-{number}" for number in range(MOST_NAMES + 1)]
WORLD = world_of(*MODELS, quality={each.name: 0.5 for each in MODELS})


def asked(routing: Mapping[str, Any], **headers: str) -> Request:
    access = Access(catalog(*MODELS), {"default": Profile()})
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "routing": routing}
    return parse_chat(body, FakeCall(access=access, headers=headers))


def order(routing: Mapping[str, Any]) -> list[str]:
    decision = asyncio.run(WORLD.router.route(asked(routing), fleet_of(*MODELS)))
    return sorted(each.model.name for each in decision.candidates)


def test_every_list_says_what_of_a_model_it_lists() -> None:
    assert LISTS == ["regions", "licenses", "models", "exclude"]
    assert [each.name for each in VOCABULARY.constraints if each.listed is not None] == LISTS


def test_a_long_list_keeps_what_the_catalogue_has() -> None:
    routing = {
        "models": ["small", "large", *STRANGERS],
        "exclude": ["large", *STRANGERS],
        "licenses": ["apache-2.0", *STRANGERS],
        "regions": ["eu", *STRANGERS],
        "max_cost_usd": 1.0,
    }
    assert asked(routing).preferences.limits == {
        "models": {"small", "large"},
        "exclude": {"large"},
        "licenses": {"apache-2.0"},
        "regions": {"eu"},
        "max_cost_usd": 1.0,
    }


def test_a_header_is_cut_as_well() -> None:
    request = asked({}, **{"x-thalamus-models": ",".join(["small", *STRANGERS])})
    assert request.preferences.limits == {"models": {"small"}}


def test_a_few_long_names_are_a_long_list() -> None:
    assert asked({"exclude": ["large", *("x" * 255 + letter for letter in "abcd")]}).preferences.limits == {
        "exclude": {"large"}
    }


@pytest.mark.parametrize("name", LISTS)
def test_a_short_list_stays_as_it_was_sent(name: str) -> None:
    """Whoever misspelt a name finds it in the record."""
    assert asked({name: ["smal", "large"]}).preferences.limits == {name: {"smal", "large"}}


def test_what_is_left_of_a_list_is_as_strict() -> None:
    assert order({"models": ["small", *STRANGERS]}) == ["small"]
    assert order({"exclude": ["small", *STRANGERS]}) == ["abroad", "large", "silent"]
    assert order({"licenses": ["mit", *STRANGERS]}) == ["abroad", "large"]
    assert order({"regions": ["eu", *STRANGERS]}) == ["small"]
    assert order({"exclude": STRANGERS}) == sorted(each.name for each in MODELS)


@pytest.mark.parametrize("name", ["models", "licenses", "regions"])
def test_a_list_of_which_nothing_is_left_still_admits_nobody_and_refuses_in_few_words(name: str) -> None:
    strangers = [f"{number}".ljust(250, "x") for number in range(10_000)]
    with pytest.raises(NoEligibleModel) as refused:
        order({name: strangers})
    details = refused.value.details
    assert details is not None
    assert len(refused.value.message) + len(json.dumps(details)) < 10_000
    relaxed = details["relaxation"]["routing"]
    assert order(relaxed) == [details["relaxation"]["model"]]


def test_licences_and_regions_are_the_same_in_any_case_and_stay_as_they_were_written() -> None:
    assert order({"licenses": ["MIT"], "regions": ["US"]}) == ["abroad"]
    assert order({"licenses": ["MIT", *STRANGERS], "regions": ["Us", *STRANGERS]}) == ["abroad"]
    assert asked({"licenses": ["MIT"]}).preferences.limits == {"licenses": {"MIT"}}
    assert asked({"licenses": ["MIT", *STRANGERS]}).preferences.limits == {"licenses": {"mit"}}
    assert order({"models": ["Small", "large"]}) == ["large"], "names of models are what they are"
    both = asked({"regions": ["EU", "US"]}, **{"x-thalamus-regions": "us,asia"}).preferences.limits
    assert {name.casefold() for name in both["regions"]} == {"us"}


def test_what_to_set_is_said_in_the_words_of_the_catalogue() -> None:
    shouted = world_of(llm("one", license="MIT", regions={"EU", "us"}))
    with pytest.raises(NoEligibleModel) as refused:
        shouted.decide({"regions": ["eu"], "licenses": ["Apache-2.0"]})
    assert refused.value.details is not None
    assert refused.value.details["relaxation"]["routing"] == {
        "regions": ["EU", "us"],
        "licenses": ["Apache-2.0", "MIT"],
    }


@given(name=st.sampled_from(LISTS), listed=st.sets(st.sampled_from([*KNOWN, "MIT", "EU"])), strangers=st.booleans())
def test_no_list_passes_others_for_being_cut(name: str, listed: set[str], strangers: bool) -> None:
    table = CandidateTable(Catalog(MODELS, ()))
    columns = Expected(Case(table, Question.of(request()), FleetColumns(table, fleet_of(*MODELS))))
    whole = frozenset(listed | set(STRANGERS if strangers else ()))
    cut = NAMES_OF.without_strangers(Preferences({name: whole})).limits[name]
    passes = VOCABULARY.constraint[name].passes
    assert cut <= {*KNOWN, *listed}
    np.testing.assert_array_equal(passes(columns, cut), passes(columns, whole))
