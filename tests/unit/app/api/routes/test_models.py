"""What is listed of the models."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from app.api.access import Access, listed_name
from app.api.routes.models import _entries
from app.domain.models import Card
from app.domain.preferences import Profile, parse_body
from app.store.keys.key import Key
from tests.fakes.call import FREE, FakeCall
from tests.fakes.world import catalog, model


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ("auto", "auto"),
        ("auto:default", "auto"),
        ("auto:", "auto"),
        ("auto:cheap", "auto:cheap"),
        ("auto:no", "auto:no"),
    ],
)
def test_a_virtual_model_is_found_under_every_name_that_it_answers_to(asked: str, listed: str) -> None:
    assert listed_name(asked) == listed


@pytest.mark.parametrize("name", ["small", "small:4b", "automatic", "org/auto:x"])
def test_other_models_have_one_name(name: str) -> None:
    assert listed_name(name) == name


def test_a_virtual_model_can_do_all_but_embeddings_for_which_none_is_chosen() -> None:
    talker, embedder = (
        replace(model(name), card=Card(context_tokens=100, capabilities=frozenset({name})))
        for name in ("responses", "embeddings")
    )
    call: Any = FakeCall(access=Access(catalog(talker, embedder), {"default": Profile()}))
    listed = {entry["id"]: entry["capabilities"] for entry in _entries(call)}
    assert listed == {"auto": ["responses"], "responses": ["responses"], "embeddings": ["embeddings"]}


def test_a_virtual_model_has_no_longer_a_context_than_models_that_may_be_chosen() -> None:
    talker = replace(model("talker"), card=Card(context_tokens=100))
    embedder = replace(model("embedder"), card=Card(context_tokens=900, capabilities=frozenset({"embeddings"})))
    call: Any = FakeCall(access=Access(catalog(talker, embedder), {"default": Profile()}))
    assert {entry["id"]: entry["context_length"] for entry in _entries(call)} == {
        "auto": 100,
        "talker": 100,
        "embedder": 900,
    }
    call = FakeCall(access=Access(catalog(embedder), {"default": Profile()}))
    assert [entry["id"] for entry in _entries(call)] == ["embedder"]


def test_a_virtual_model_can_do_what_models_can_that_its_profile_and_the_key_let_answer() -> None:
    private = Card(context_tokens=100, capabilities=frozenset({"chat"}), regions=frozenset({"eu"}), license="mit")
    paid = Card(
        context_tokens=900, capabilities=frozenset({"chat", "vision"}), regions=frozenset({"us"}), license="mit"
    )
    models = [replace(model("private"), card=private), replace(model("paid"), card=paid)]
    profiles = {
        "default": Profile(),
        "eu": Profile(parse_body({"regions": ["eu"], "max_cost_usd": 1}).preferences),
        "free": Profile(parse_body({"licenses": ["apache-2.0"]}).preferences),
    }
    access = Access(catalog(*models), profiles)

    def listed(key: Key) -> dict[str, tuple[int, list[str]]]:
        call: Any = FakeCall(key, access=access)
        return {entry["id"]: (entry["context_length"], entry["capabilities"]) for entry in _entries(call)}

    real = {"private": (100, ["chat"]), "paid": (900, ["chat", "vision"])}
    assert listed(FREE) == {"auto": (900, ["chat", "vision"]), "auto:eu": (100, ["chat"]), **real}
    held = replace(FREE, routing=parse_body({"exclude": ["paid"]}).preferences)
    assert listed(held) == {"auto": (100, ["chat"]), "auto:eu": (100, ["chat"]), "private": real["private"]}


@pytest.mark.parametrize(
    ("held", "names"),
    [
        ({}, ["private", "paid"]),
        ({"regions": ["eu"]}, ["private"]),
        ({"licenses": ["apache-2.0"]}, ["paid"]),
        ({"max_size_b": 8}, ["private"]),
        ({"released_after": "2025-01-01"}, ["paid"]),
        ({"exclude": ["private"]}, ["paid"]),
        ({"max_cost_usd": 0, "max_output_tokens": 1, "require_parameters": True}, ["private", "paid"]),
    ],
    ids=str,
)
def test_of_real_models_those_are_listed_that_what_holds_for_the_key_admits(
    held: dict[str, Any], names: list[str]
) -> None:
    released = dt.date(2025, 6, 1).toordinal()
    private = Card(100, license="mit", regions=frozenset({"eu"}), values={"parameters_b": 8, "released": 700_000})
    paid = Card(100, license="apache-2.0", regions=frozenset({"us"}), values={"parameters_b": 70, "released": released})
    access = Access(
        catalog(replace(model("private"), card=private), replace(model("paid"), card=paid)), {"default": Profile()}
    )
    call: Any = FakeCall(replace(FREE, routing=parse_body(held).preferences), access=access)
    assert [entry["id"] for entry in _entries(call)] == ["auto", *names]
