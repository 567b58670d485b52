"""What is made of what endpoints say: keys and their owners, replicas, networks, speeds, facts and names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import Speed
from app.errors import UsageError
from app.forms.catalog_file import NAME
from app.setup.draft import DraftModel, Fact
from app.setup.drafting import model_name, unused
from app.setup.facts import Around, add_facts, known_as
from app.setup.measure import Answer, Measured, speed_of
from app.setup.probe import (
    Endpoint,
    Given,
    Keys,
    Served,
    _Found,
    _served,
    _with_bare_key,
    _with_context_of_parents,
    by_endpoint,
    networks,
    replicas,
)

ONE, TWO = "http://one:8000", "https://two.example/v1"
DAY = date(2026, 11, 27)
HERE = Around(DAY, is_public=False, kind="vllm", columns=("qwen2.5-7b-it",))
OUTSIDE = Around(DAY, is_public=True, kind="openai")
QWEN = Served("Qwen/Qwen2.5-7B-Instruct", 8192, "max_model_len")


def endpoint(url: str, *names: str, addresses: tuple[str, ...] = (), **more: Any) -> Endpoint:
    models = {name: Served(name) for name in names}
    return Endpoint(Given(url, **more), "vllm", models, tuple(map(ip_address, addresses)))


def found(url: str, *, wants_key: bool) -> _Found:
    return _Found(Given(url), wants_key=wants_key)


def test_options_are_for_one_endpoint_or_for_none_in_particular() -> None:
    stated = ["https://two.example=PAID", "KEY"]
    assert by_endpoint("--key-env", stated, [ONE, TWO]) == ({TWO: "PAID"}, ("KEY",))
    with pytest.raises(
        UsageError, match=r"--key-env http://three=KEY: http://three is none of the endpoints: http://one"
    ):
        by_endpoint("--key-env", ["http://three=KEY"], [ONE])


def test_a_variable_that_is_not_set_is_named_and_keys_are_not_shown() -> None:
    with pytest.raises(UsageError, match="the environment has no KEY; set it to the endpoint's key"):
        Keys.parse(["KEY"], [ONE], {})
    assert "sk-secret" not in repr(Keys.parse(["KEY"], [ONE], {"KEY": "sk-secret"}))


@pytest.mark.parametrize(
    ("wants", "expected"),
    [({ONE: False, TWO: True}, {ONE: None, TWO: "KEY"}), ({TWO: False}, {TWO: "KEY"})],
    ids=["the one that refuses", "the only one"],
)
def test_a_bare_key_goes_to_the_endpoint_it_is_meant_for(
    wants: Mapping[str, bool], expected: Mapping[str, str | None]
) -> None:
    keys = Keys({"KEY": "x"}, bare=("KEY",))
    asked = _with_bare_key([Given(url) for url in wants], [found(url, wants_key=it) for url, it in wants.items()], keys)
    assert {one.url: one.key_env for one in asked} == expected


@pytest.mark.parametrize(
    ("wants", "says"),
    [
        ({ONE: True, TWO: True}, "http://one:8000 and https://two.example/v1 want keys; say whose it is"),
        ({ONE: False, TWO: False}, "none of several endpoints refuses without a key; say whose it is"),
    ],
)
def test_a_bare_key_is_sent_nowhere_where_its_owner_is_not_clear(wants: Mapping[str, bool], says: str) -> None:
    keys = Keys({"KEY": "x"}, bare=("KEY",))
    with pytest.raises(UsageError, match=says):
        _with_bare_key([Given(url) for url in wants], [found(url, wants_key=it) for url, it in wants.items()], keys)


def test_endpoints_that_list_the_same_models_are_replicas_unless_their_keys_differ() -> None:
    a, b, other = endpoint("http://a", "m", "n"), endpoint("http://b", "n", "m"), endpoint("http://c", "m")
    keyed = endpoint("http://d", "m", "n", key_env="KEY")
    assert replicas([a, other, b, keyed]) == [[a, b], [other], [keyed]]


@pytest.mark.parametrize(
    ("url", "addresses", "expected"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1",), []),
        ("https://api.example.com", ("93.184.215.14",), []),
        ("http://10.0.0.11:8000", ("10.0.0.11",), ["10.0.0.11/32"]),
        ("http://gpu.internal:8000", ("10.0.0.11",), ["10.0.0.0/8"]),
        ("http://[fd12::1]:8000", ("fd12::1",), ["fd12::1/128"]),
        ("http://nowhere", (), []),
    ],
)
def test_private_addresses_are_listed_and_others_need_no_list(
    url: str, addresses: tuple[str, ...], expected: list[str]
) -> None:
    assert networks([endpoint(url, "m", addresses=addresses)]) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"max_model_len": 4096, "root": "m", "parent": None}, Served("m", 4096, "max_model_len")),
        ({"root": "/models/x", "parent": "base"}, Served("m", None, "", "/models/x", "base")),
        ({"context_length": 9, "context_window": 8}, Served("m", 9, "context_length")),
        ({"max_model_len": None, "context_window": "8"}, Served("m")),
        ({"max_model_len": 10**308, "context_length": True, "context_window": 8}, Served("m", 8, "context_window")),
        ({"max_model_len": 10**4299, "context_length": math.inf, "context_window": -1}, Served("m")),
    ],
)
def test_what_a_list_says_of_a_model(entry: Mapping[str, Any], expected: Served) -> None:
    assert _served("m", entry) == expected


def answer(took_s: float, read: int, written: int) -> Answer:
    return Answer(took_s, read, written, tells_usage=True, has_logprobs=False, calls_tool=False)


def test_speed_is_without_the_way_there_and_back() -> None:
    short, many, long = answer(0.5, 20, 1), answer(1.5, 20, 51), answer(0.7, 1020, 1)
    speed = speed_of(short, many, long)
    assert speed.s_per_output_token == pytest.approx(0.02)
    assert speed.prefill_tokens_per_s == pytest.approx(5000)


def test_times_that_differ_by_nothing_give_a_speed_that_is_too_slow_rather_than_too_fast() -> None:
    same = answer(0.5, 20, 6)
    assert speed_of(same, same, same) == Speed(prefill_tokens_per_s=40, s_per_output_token=0.5 / 6)


def filled(served: Served, around: Around, measured: Measured | None, **stated: Fact) -> DraftModel:
    model = DraftModel("m", served.name, "b", card=stated)
    add_facts(model, served, around, known_as(served), measured)
    return model


def test_measured_and_listed_facts_are_no_guesses_and_known_ones_are() -> None:
    measured = Measured({"chat", "tools", "json_schema"}, speed=Speed(1234.5, 0.012345), tokens_per_s=987.6)
    model = filled(QWEN, HERE, measured)
    assert {name for name, fact in model.card.items() if not fact.is_guess} == {"context_tokens", "capabilities"}
    assert model.speed == Fact(
        {"prefill_tokens_per_s": 1230, "s_per_output_token": 0.0123}, "measured 2026-11-27, one request at a time"
    )
    assert model.predicted_as == Fact("qwen2.5-7b-it", "by its name, Qwen/Qwen2.5-7B-Instruct", is_guess=True)
    seen = "988 tokens/s were measured, 8 at once"
    assert model.open == [
        "regions: not known; a limit on them excludes it",
        f"price: what does an hour of its machine cost ({seen})? Until then its cost counts as the worst",
    ]


def test_what_was_stated_stays() -> None:
    model = filled(QWEN, HERE, None, parameters_b=Fact(8, "ours"), capabilities=Fact(["chat"], "ours"))
    assert (model.card["parameters_b"].value, model.card["capabilities"].value) == (8, ["chat"])


def test_a_capability_that_the_endpoint_refuses_is_not_stated() -> None:
    model = filled(QWEN, HERE, Measured(refused={"tools", "logprobs"}))
    assert model.card["capabilities"].value == ["chat", "json_schema"]


def test_an_adapter_reads_as_much_as_the_model_that_it_adapts() -> None:
    base, adapter = Served("base", 2048, "max_model_len"), Served("sql", None, "", "/adapters/sql", "base")

    told = _with_context_of_parents({"base": base, "sql": adapter, "stray": Served("stray", parent="gone")})

    assert (told["sql"].context_tokens, told["sql"].context_source) == (2048, "max_model_len of base")
    assert told["base"] == base
    assert told["stray"].context_tokens is None


def test_an_adapter_has_the_size_of_its_model_and_neither_its_name_nor_its_column() -> None:
    served = Served("sql", 8192, "max_model_len", "/adapters/sql", "Qwen/Qwen2.5-7B-Instruct")
    model = DraftModel("sql", "sql", "b")
    add_facts(model, served, HERE, known_as(QWEN), None)
    assert model.card["parameters_b"].value == 7.61
    assert "released" not in model.card
    assert model.predicted_as is None


def test_a_model_by_another_name_is_recognised_by_its_weights() -> None:
    known = known_as(Served("default", weights="Qwen/Qwen2.5-7B-Instruct"))
    assert known
    assert known.name == "qwen2.5-7b-it"


def test_list_prices_are_for_public_addresses_only() -> None:
    paid = Served("gpt-4o-mini")
    outside, here = filled(paid, OUTSIDE, None), filled(paid, HERE, None)
    assert outside.price
    assert outside.price.is_guess
    assert here.price is None
    assert (outside.card["security"].value, here.card["security"].value) == ("public_api", "self_hosted")


def test_an_hour_of_a_gpu_prices_what_was_measured() -> None:
    around = Around(DAY, is_public=False, kind="vllm", usd_per_gpu_hour=1.5)
    model = filled(QWEN, around, Measured(tokens_per_s=250.0))
    assert model.price
    assert model.price.value == {"self_hosted": {"usd_per_gpu_hour": 1.5, "gpus": 1, "tokens_per_s": 250}}
    assert model.price.is_guess


@pytest.mark.parametrize(
    ("price", "is_told"),
    [
        ({"self_hosted": {"usd_per_gpu_hour": 0.0, "gpus": 1, "tokens_per_s": 250}}, True),
        ({"input_usd_per_m": 0, "output_usd_per_m": 0}, True),
        ({"input_usd_per_m": 0.1, "output_usd_per_m": 0}, False),
        ({"self_hosted": {"usd_per_gpu_hour": 1.5, "gpus": 1, "tokens_per_s": 250}}, False),
    ],
    ids=str,
)
def test_a_price_of_zero_is_told_of_since_no_budget_stops_what_costs_nothing(
    price: dict[str, Any], is_told: bool
) -> None:
    model = DraftModel("m", QWEN.name, "b", price=Fact(price, "ours"))
    add_facts(model, QWEN, HERE, known_as(QWEN), None)
    told = "price: zero, so no budget stops it; write what it costs, such as the rent of its machine"
    assert (told in model.open) is is_told


def test_nothing_is_known_of_an_unknown_model_that_was_not_asked() -> None:
    model = filled(Served("x"), OUTSIDE, None)
    assert model.open == [
        "parameters_b, released, license, regions: not known; a limit on them excludes it",
        "context_tokens: neither its endpoint nor its name says; a small one is assumed",
        "price: not known; take it from its provider's list. Until then its cost counts as the worst",
        "speed: not measured, no requests were made; it is learned from what is served",
        "capabilities: whether it chats, or serves /v1/responses, was not asked",
    ]


@pytest.mark.parametrize(
    ("served", "name"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
        ("llama3.1:8b", "llama3.1-8b"),
        ("/models/mine/", "mine"),
        ("auto", "model-auto"),
        ("模型", "model"),
    ],
)
def test_names_in_the_catalogue(served: str, name: str) -> None:
    assert model_name(served) == name


@given(st.text())
def test_every_name_fits_the_catalogue(served: str) -> None:
    name = model_name(served)
    assert NAME.fullmatch(name)
    assert name != "auto"


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert [unused("a", ()), unused("a", {"a"}), unused("a", {"a", "a-2"})] == ["a", "a-2", "a-3"]
