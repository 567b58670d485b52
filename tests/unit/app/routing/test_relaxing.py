"""What a refused caller is advised to change is his to change, and helps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.access import Access
from app.api.bodies.parsing import parse_chat
from app.domain.decision import Decision
from app.domain.models import Catalog, Speed, TokenPrice
from app.domain.preferences import Profile, parse_body
from app.errors import NoEligibleModel
from app.routing.candidates import CandidateTable
from app.routing.router import Learned, Router
from app.store.keys.key import Key
from tests.fakes.call import FakeCall
from tests.fakes.routing import FakeQualityPredictor, fleet_of, llm, world_of

MODELS = (
    llm("tiny", parameters_b=1, price=TokenPrice(0.1, 0.1), security="public_api", regions={"eu", "us"}),
    llm("small", parameters_b=9, price=None, license="mit", released=None),
    llm("large", parameters_b=70, price=TokenPrice(9.0, 9.0), speed=Speed(100.0, 0.03), security="isolated"),
    llm("far", regions={"us"}, capabilities={"chat", "json_schema"}, released="2023-01-01"),
)
QUALITY = {"tiny": 0.31415, "small": 0.6, "large": 0.9, "far": 0.7}
NAMES = [one.name for one in MODELS]
SCOPES = frozenset({"inference", "route:upgrade"})
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
KEY = Key("k", models=("*",), scopes=SCOPES)


def send(
    body: Mapping[str, Any], headers: Mapping[str, str], key: Key = KEY, profile: Mapping[str, Any] | None = None
) -> Decision:
    """The decision for a chat with this body, under a profile and a key with limits of their own."""
    catalog = Catalog(MODELS, ())
    profiles = {"default": Profile(parse_body(profile).preferences)}
    request = parse_chat({"messages": MESSAGES, **body}, FakeCall(key, headers, Access(catalog, profiles)))
    predictor = FakeQualityPredictor(QUALITY, {"tiny": 123.456, "large": 700.0})
    router = Router(CandidateTable(catalog, tuple(QUALITY)), Learned(predictor), profiles)
    return asyncio.run(router.route(request, fleet_of(*MODELS)))


def limited(**limits: Any) -> Key:
    return replace(KEY, routing=parse_body(limits).preferences)


def refusal(*args: Any, **more: Any) -> NoEligibleModel:
    with pytest.raises(NoEligibleModel) as caught:
        send(*args, **more)
    return caught.value


def advice(error: NoEligibleModel) -> Mapping[str, Any] | None:
    assert error.details is not None
    relaxation: Mapping[str, Any] | None = error.details["relaxation"]
    return relaxation


def test_nobody_is_told_to_relax_what_his_key_limits() -> None:
    error = refusal({"model": "auto"}, {}, limited(max_cost_usd=1e-6))
    assert advice(error) is None
    assert error.message == (
        "no model is eligible: max_cost_usd excludes 4 of 4; no change of routing admits one, as this key itself "
        "limits max_cost_usd"
    )
    assert error.details is not None
    told = error.details["excluded"][0]
    assert told["relaxation"] is None
    assert told["message"].endswith(", and this key limits max_cost_usd itself")


def test_the_nearest_model_is_named_that_the_key_admits() -> None:
    key = limited(exclude=["tiny"])
    error = refusal({"model": "auto", "routing": {"max_size_b": 0.5}}, {}, key)
    assert error.message.endswith("to admit far, set routing.max_size_b to 8")
    assert send({"model": "auto", "routing": {"max_size_b": 8}}, {}, key).chosen.model.name == "far"


def test_who_may_not_set_a_field_is_not_told_to() -> None:
    key = replace(limited(max_size_b=0.5), may_set=frozenset({"regions"}))
    assert advice(refusal({"model": "auto"}, {}, key)) is None


def test_a_limit_of_the_profile_is_left_by_asking_for_a_model_by_name() -> None:
    profile = {"max_size_b": 0.5}
    relaxation = advice(refusal({"model": "auto"}, {}, profile=profile))
    words = "ask for tiny by its name, for which limits of a profile do not hold"
    assert relaxation == {"model": "tiny", "changes": [words], "routing": {}, "by_name": True}
    assert send({"model": "tiny"}, {}, profile=profile).reason == "named"


def test_no_name_helps_where_the_key_excludes_it_as_well() -> None:
    error = refusal({"model": "auto"}, {}, limited(max_size_b=0.2), {"max_size_b": 0.5})
    assert advice(error) is None


def test_a_limit_in_a_header_is_changed_there() -> None:
    header = {"x-thalamus-max-size-b": "0.5"}
    relaxation = advice(refusal({"model": "auto"}, header))
    words = "set the header x-thalamus-max-size-b to 1"
    changed: dict[str, Any] = {"routing": {}, "headers": {"x-thalamus-max-size-b": "1"}}
    assert relaxation == {"model": "tiny", "changes": [words], **changed}


def test_what_a_key_excludes_by_name_is_not_told_with_what_its_caller_does() -> None:
    error = refusal({"model": "auto", "routing": {"exclude": ["tiny", "far"]}}, {}, limited(exclude=["small", "large"]))
    relaxation = advice(error)
    assert relaxation is not None
    assert (relaxation["model"], relaxation["routing"]) == ("tiny", {"exclude": ["far"]})


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"max_tokens": 16, "routing": {"max_output_tokens": 16}}, KEY),
        ({"max_tokens": 16, "routing": {"max_output_tokens": 20}}, KEY),
        ({"max_tokens": 16, "routing": {"max_output_tokens": 16.5}}, KEY),
        ({"routing": {"max_output_tokens": 60}}, replace(KEY, max_tokens=50)),
        ({"max_tokens": 16}, limited(max_output_tokens=20)),
    ],
)
def test_nobody_is_refused_for_a_length_that_no_answer_can_have(body: dict[str, Any], key: Key) -> None:
    decision = send({"model": "auto", **body}, {}, key)
    assert {each.model.name for each in decision.candidates} == set(NAMES)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"routing": {"max_output_tokens": 20}}, KEY),
        ({"max_tokens": 500, "routing": {"max_output_tokens": 20}}, KEY),
        ({"max_tokens": 500}, limited(max_output_tokens=20)),
    ],
)
def test_who_would_be_cut_is_left_out(body: dict[str, Any], key: Key) -> None:
    error = refusal({"model": "auto", **body}, {}, key)
    assert error.details is not None
    assert {each["constraint"] for each in error.details["excluded"]} == {"max_output_tokens"}


def test_a_limit_on_the_length_holds_of_answers_whose_length_is_not_predicted() -> None:
    untested = llm("untested", tested=False)
    world = world_of(untested)
    assert world.order({"max_output_tokens": 20}, max_tokens=20, own_max_tokens=20) == ["untested"]
    with pytest.raises(NoEligibleModel, match="max_output_tokens excludes 1"):
        world.order({"max_output_tokens": 20})


def test_what_a_higher_cap_on_the_answer_would_cost_is_part_of_the_advice() -> None:
    tight = {"max_output_tokens": 20, "max_cost_usd": 5e-6, "models": ["tiny"]}
    error = refusal({"model": "auto", "routing": tight}, {})
    relaxation = advice(error)
    assert relaxation is not None
    assert relaxation["routing"] == {"max_output_tokens": 123.5, "max_cost_usd": 1.355e-05}
    assert error.details is not None
    messages = {each["constraint"]: each["message"] for each in error.details["excluded"] if each["model"] == "tiny"}
    assert messages["max_cost_usd"] == "once it may write that much, is expected to cost 1.355e-05 USD"
    admitted = {"model": "auto", "routing": {**tight, **relaxation["routing"]}}
    assert send(admitted, {}).chosen.model.name == "tiny"
    # Who asks for less himself would not write more.
    assert send({"model": "auto", "max_tokens": 10, "routing": tight}, {}).chosen.model.name == "tiny"


def test_what_is_expected_of_a_model_is_part_of_the_advice_where_its_card_excludes_it_as_well() -> None:
    routing = {"max_size_b": 0.5, "max_cost_usd": 1e-9, "min_quality": 0.99, "models": ["tiny"]}
    relaxation = advice(refusal({"model": "auto", "routing": routing}, {}))
    assert relaxation is not None
    assert set(relaxation["routing"]) == {"max_size_b", "max_cost_usd", "min_quality"}
    assert send({"model": "auto", "routing": {**routing, **relaxation["routing"]}}, {}).chosen.model.name == "tiny"


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_cost_usd": st.floats(1e-6, 0.01),
        "max_latency_s": st.floats(0.5, 30.0),
        "max_output_tokens": st.integers(1, 900),
        "max_size_b": st.floats(0.5, 80.0),
        "min_quality": st.floats(0.2, 0.95),
        "released_after": st.sampled_from(["2022-06-01", "2024-01-01", "2025-06-01"]),
        "min_security": st.sampled_from(["public_api", "self_hosted", "isolated"]),
        "regions": st.lists(st.sampled_from(["eu", "us", "uk"]), min_size=1),
        "licenses": st.lists(st.sampled_from(["mit", "apache-2.0"]), min_size=1),
        "models": st.lists(st.sampled_from(NAMES), min_size=1),
        "exclude": st.lists(st.sampled_from(NAMES), min_size=1),
        "require_parameters": st.booleans(),
    },
)


@given(profile=LIMITS, key=LIMITS, header=LIMITS, body=LIMITS)
def test_who_does_as_advised_is_never_refused_again(
    profile: dict[str, Any], key: dict[str, Any], header: dict[str, Any], body: dict[str, Any]
) -> None:
    """Whoever set which limits."""
    headers = {f"x-thalamus-{name.replace('_', '-')}": _text(value) for name, value in header.items()}
    asked: dict[str, Any] = {"model": "auto", "response_format": {"type": "json_object"}, "routing": body}
    try:
        send(asked, headers, limited(**key), profile)
        return
    except NoEligibleModel as error:
        relaxation = advice(error)
    if relaxation is None:
        return
    asked = {**asked, "routing": {**asked["routing"], **relaxation["routing"]}}
    if relaxation.get("by_name"):
        asked["model"] = relaxation["model"]
    changed = {**headers, **relaxation.get("headers", {})}
    decided = send(asked, {name: text for name, text in changed.items() if text}, limited(**key), profile)
    assert relaxation["model"] in [candidate.model.name for candidate in decided.candidates]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)
