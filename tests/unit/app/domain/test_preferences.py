"""What is asked: read from body, headers and prompt, and narrowed, never widened, source by source."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.dimensions import DIMENSIONS, MOST_WEIGHT, Source
from app.domain.preferences import (
    Context,
    Policy,
    merged,
    narrow,
    parse_body,
    parse_flag_line,
    parse_headers,
)
from app.domain.quantities import SECURITY_LEVELS
from app.domain.request import Preferences
from app.domain.vocabulary import VOCABULARY
from app.errors import GatewayError, InvalidFlag, InvalidRequest, NotAllowed, UnsupportedParameter
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Expected, Question
from app.routing.filters import CardFilter, affordable, reachable
from tests.fakes.routing import FakeQualityPredictor, fleet_of, llm
from tests.fakes.world import catalog, request

# How long an example takes says more about the machine's other work than about this.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
UPGRADING = Policy(scopes=frozenset({"route:upgrade"}), flags_in_prompt=True)


def test_a_body_is_read_whole() -> None:
    asked = parse_body(
        {
            "weights": {"cost": 0.3, "latency": 0},
            "max_cost_usd": 0.002,
            "released_after": "2025-01-01",
            "min_security": "self_hosted",
            "regions": ["eu"],
            "session_id": "s",
            "deadline_s": 30,
            "priority": "low",
            "explain": True,
        }
    )
    assert asked.preferences.weights == {"cost": 0.3, "latency": 0.0}
    assert asked.preferences.limits == {
        "max_cost_usd": 0.002,
        "released_after": dt.date(2025, 1, 1).toordinal(),
        "min_security": SECURITY_LEVELS.index("self_hosted"),
        "regions": frozenset({"eu"}),
    }
    assert asked.context == Context("s", 30.0, "low", True)


def test_headers_say_the_same_as_a_body() -> None:
    headers = {
        "x-thalamus-weights": "cost=0.4, latency=0.1",
        "x-thalamus-max-cost-usd": "0.002",
        "x-thalamus-models": "a, b",
        "x-thalamus-require-parameters": "true",
        "x-thalamus-session-id": "s-1",
        "x-thalamus-whatever": "is ignored",
        "content-type": "application/json",
    }
    body = {
        "weights": {"cost": 0.4, "latency": 0.1},
        "max_cost_usd": 0.002,
        "models": ["a", "b"],
        "require_parameters": True,
        "session_id": "s-1",
    }
    assert parse_headers(headers) == parse_body(body)


@pytest.mark.parametrize(
    ("header", "text", "error"),
    [
        ("x-thalamus-weights", "price=0.4", InvalidFlag),
        ("x-thalamus-weights", "cost=0.4,cost=0.5", InvalidFlag),
        ("x-thalamus-weights", "cost", InvalidRequest),
        ("x-thalamus-weights", "cost=nan", InvalidRequest),
        ("x-thalamus-weights", "cost=-1", InvalidRequest),
        ("x-thalamus-weights", "", InvalidFlag),
        ("x-thalamus-max-cost-usd", "cheap", InvalidRequest),
        ("x-thalamus-max-cost-usd", "-1", InvalidRequest),
        ("x-thalamus-max-cost-usd", "1e999", InvalidRequest),
        ("x-thalamus-explain", "yes", InvalidRequest),
        ("x-thalamus-regions", "", InvalidRequest),
        ("x-thalamus-released-after", "2025-02-30", InvalidRequest),
    ],
)
def test_a_bad_header_is_refused_by_its_name(header: str, text: str, error: type[GatewayError]) -> None:
    with pytest.raises(error) as caught:
        parse_headers({header: text})
    assert type(caught.value) is error
    assert caught.value.param == header
    assert header in caught.value.message


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"max_costs": 1}, UnsupportedParameter, "routing.max_costs"),
        ({"weights": {"price": 1}}, UnsupportedParameter, "routing.weights.price"),
        ({"weights": {"cost": math.nan}}, InvalidRequest, "routing.weights.cost"),
        ({"weights": {"cost": True}}, InvalidRequest, "routing.weights.cost"),
        ({"max_cost_usd": math.nan}, InvalidRequest, "routing.max_cost_usd"),
        ({"max_cost_usd": -0.1}, InvalidRequest, "routing.max_cost_usd"),
        ({"weights": {"cost": 0.1}, "max_quality_loss": 0.1}, InvalidRequest, "routing.max_quality_loss"),
        ([], InvalidRequest, "routing"),
        ("cheap", InvalidRequest, "routing"),
    ],
)
def test_a_bad_body_is_refused_by_the_name_of_its_field(body: object, error: type[GatewayError], param: str) -> None:
    with pytest.raises(error) as caught:
        parse_body(body)
    assert type(caught.value) is error
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("prompt", "weights", "rest"),
    [
        ("[flag: fast]\nhello", {"latency": 0.3}, "hello"),
        ("[flag: small, cheap=0.5]\r\nhello\nworld", {"size": 0.3, "cost": 0.5}, "hello\nworld"),
        ("[flag: green=1]", {"energy": 1.0}, ""),
        ("[flag: brief,readable]\n\nhi", {"verbosity": 0.3, "readability": 0.3}, "\nhi"),
    ],
)
def test_flags_in_a_prompt_are_read_and_taken_out(prompt: str, weights: dict[str, float], rest: str) -> None:
    flags = parse_flag_line(prompt)
    assert flags is not None
    assert (flags.preferences.weights, flags.rest) == (weights, rest)


@pytest.mark.parametrize(
    "prompt",
    [
        "hello",
        "hello\n[flag: fast]",
        " [flag: fast]\nhello",
        "[flag: fast] hello",
        "[flag:fast]\nhello",
        "[Flag: fast]\nhello",
        "[flag: ]\nhello",
        "[flag: quick]\nhello",
        "[flag: fast, fast]\nhello",
        "[flag: fast=-1]\nhello",
        "[flag: fast=21]\nhello",
        "[flag: fast=nan]\nhello",
        "[flag: fast=1e3]\nhello",
        "[flag: max_cost_usd=0.1]\nhello",
        "[flag: fast=0." + "1" * 300 + "]\nhello",
    ],
)
def test_anything_else_in_a_prompt_is_plain_text(prompt: str) -> None:
    assert parse_flag_line(prompt) is None


def test_weights_merge_key_by_key_and_the_more_explicit_source_wins() -> None:
    policy = narrow(UPGRADING, Source.OPERATOR, Preferences(weights={"cost": 0.1, "size": 0.1, "energy": 0.1}))
    policy = narrow(policy, Source.PROMPT, Preferences(weights={"cost": 0.2, "size": 0.2}))
    policy = narrow(policy, Source.HEADER, Preferences(weights={"cost": 0.3}))
    policy = narrow(policy, Source.BODY, Preferences(weights={"latency": 0.4}))
    assert policy.preferences.weights == {"cost": 0.3, "size": 0.2, "energy": 0.1, "latency": 0.4}


def test_a_weight_on_cost_and_a_quality_loss_replace_each_other() -> None:
    loss, weight = Preferences(max_quality_loss=0.01), Preferences(weights={"cost": 0.5})
    assert merged(loss, weight) == weight
    assert merged(weight, loss) == loss
    assert merged(loss, Preferences(weights={"latency": 0.1})).max_quality_loss == 0.01


def test_limits_of_several_sources_all_hold() -> None:
    held = parse_body(
        {"max_cost_usd": 0.002, "regions": ["eu", "us"], "exclude": ["a"], "min_quality": 0.5}
    ).preferences
    asked = parse_body(
        {"max_cost_usd": 0.01, "regions": ["us", "asia"], "exclude": ["b"], "min_quality": 0.7, "max_size_b": 14}
    ).preferences
    assert merged(held, asked).limits == merged(asked, held).limits
    assert merged(held, asked).limits == {
        "max_cost_usd": 0.002,
        "regions": frozenset({"us"}),
        "exclude": frozenset({"a", "b"}),
        "min_quality": 0.7,
        "max_size_b": 14.0,
    }


@pytest.mark.parametrize(
    ("policy", "source", "body", "param"),
    [
        (Policy(), Source.BODY, {"min_quality": 0.5}, "routing.min_quality"),
        (Policy(), Source.HEADER, {"min_quality": 0.5}, "routing.min_quality"),
        (Policy(may_set=frozenset({"max_cost_usd"})), Source.BODY, {"max_latency_s": 1}, "routing.max_latency_s"),
        (Policy(may_set=frozenset({"max_cost_usd"})), Source.BODY, {"weights": {"cost": 1}}, "routing.weights"),
        (Policy(may_set=frozenset()), Source.HEADER, {"max_quality_loss": 0.1}, "routing.max_quality_loss"),
        (UPGRADING, Source.PROMPT, {"max_cost_usd": 1}, "routing.max_cost_usd"),
        (
            Policy(may_set=frozenset({"max_cost_usd"}), flags_in_prompt=True),
            Source.PROMPT,
            {"weights": {"cost": 1}},
            "routing.weights",
        ),
    ],
)
def test_nobody_sets_what_he_may_not(policy: Policy, source: Source, body: dict[str, Any], param: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        narrow(policy, source, parse_body(body).preferences)
    assert caught.value.param == param


def test_a_prompt_says_nothing_unless_the_key_lets_it() -> None:
    flags = Preferences(weights={"cost": 0.5})
    assert narrow(Policy(), Source.PROMPT, flags).preferences == Preferences()
    assert narrow(UPGRADING, Source.PROMPT, flags).preferences == flags


def test_the_body_says_more_about_the_request_than_headers_but_the_earlier_deadline_holds() -> None:
    body, headers = Context("body", 30.0, None, False), Context("header", 10.0, "low", True)
    assert body.over(headers) == Context("body", 10.0, "low", False)
    assert Context().over(headers) == headers


MODELS = (
    llm("small", parameters_b=1, security="public_api", released="2023-05-01", regions={"us"}, license="mit"),
    llm("middle", parameters_b=14, regions={"eu", "us"}, capabilities={"chat", "tools"}),
    llm("large", parameters_b=70, security="isolated", released="2025-08-01", price=None),
    llm("blank", parameters_b=None, released=None, security=None, regions=(), license=None, speed=None),
)
TABLE = CandidateTable(catalog(*MODELS), [model.name for model in MODELS])
PREDICTOR = FakeQualityPredictor(
    {"small": 0.3, "middle": 0.6, "large": 0.9, "blank": 0.8}, {"small": 20.0, "large": 900}
)


def _limits() -> st.SearchStrategy[dict[str, Any]]:
    """Any hard limits that can be written."""
    names = st.lists(st.sampled_from([*(model.name for model in MODELS), "nobody"]), min_size=1)
    written = {
        "max_cost_usd": st.floats(0, 0.002),
        "max_latency_s": st.floats(0, 20),
        "max_ttft_s": st.floats(0, 0.1),
        "max_size_b": st.floats(0, 100),
        "max_output_tokens": st.floats(0, 1000),
        "min_quality": st.floats(0, 1),
        "released_after": st.dates(dt.date(2023, 1, 1), dt.date(2026, 1, 1)).map(dt.date.isoformat),
        "min_security": st.sampled_from(SECURITY_LEVELS),
        "regions": st.lists(st.sampled_from(["eu", "us"]), min_size=1),
        "licenses": st.lists(st.sampled_from(["mit", "apache-2.0"]), min_size=1),
        "models": names,
        "exclude": names,
        "require_parameters": st.booleans(),
    }
    assert set(written) == set(VOCABULARY.constraint), "a new constraint needs values here"
    return st.fixed_dictionaries({}, optional=written)


def _routing() -> st.SearchStrategy[Preferences]:
    weights = st.dictionaries(st.sampled_from([each.name for each in DIMENSIONS]), st.floats(0, MOST_WEIGHT))
    return st.builds(lambda limits, weights: parse_body({**limits, "weights": weights}).preferences, _limits(), weights)


def _eligible(preferences: Preferences) -> set[str]:
    asked = request(preferences=preferences, uses=frozenset({"tools"}))
    fleet = FleetColumns(TABLE, fleet_of(*MODELS))
    case = Case(TABLE, Question.of(asked), fleet, PREDICTOR.row())
    usable_M = reachable(CardFilter(TABLE).passing(case), case)
    return {MODELS[number].name for number in affordable(usable_M, Expected(case)).nonzero()[0]}


@patient
@given(held=_routing(), asked=_routing(), source=st.sampled_from(list(Source)))
def test_every_source_only_narrows(held: Preferences, asked: Preferences, source: Source) -> None:
    policy = Policy(held, UPGRADING.scopes, flags_in_prompt=True)
    try:
        after = narrow(policy, source, asked)
    except NotAllowed:
        assert source is Source.PROMPT
        assert asked.limits
        return
    assert (after.scopes, after.may_set, after.flags_in_prompt) == (policy.scopes, None, True)
    assert _eligible(after.preferences) == _eligible(held) & _eligible(asked)


@patient
@given(st.text(max_size=300) | st.from_regex(r"\[flag: [a-z=0-9., ]*\]\n.*"))
def test_no_text_of_a_prompt_sets_anything_but_weights(prompt: str) -> None:
    flags = parse_flag_line(prompt)
    if flags is not None:
        assert flags.preferences.limits == {}
        assert flags.preferences.max_quality_loss is None
        assert all(0 <= weight <= MOST_WEIGHT for weight in flags.preferences.weights.values())
        assert prompt.startswith("[flag: ")
        assert prompt.endswith(flags.rest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@patient
@given(st.dictionaries(st.sampled_from(["weights", *VOCABULARY.kinds]) | st.text(max_size=8), JSON, max_size=4))
def test_any_body_is_read_or_refused_by_name(body: dict[str, Any]) -> None:
    refusal = _refusal(body)
    assert refusal is None or str(refusal.param).startswith("routing.")


def _refusal(body: dict[str, Any]) -> InvalidRequest | None:
    try:
        parse_body(body)
    except InvalidRequest as exc:
        return exc
    return None
