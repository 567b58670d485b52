"""What excludes a model, what is said about it, and that the stated relaxation would admit it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.domain.models import Catalog, Model, Speed, TokenPrice
from app.domain.request import Preferences
from app.domain.vocabulary import VOCABULARY
from app.errors import ContextLengthExceeded, NoEligibleModel, NotAllowed, UpstreamUnreachable
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Question
from app.routing.filters import MOST_LISTED, REMEMBERED, CardFilter
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import request

# For every constraint: a limit, a model that keeps it, one that does not, one of which the number is unknown.
CASES: dict[str, tuple[Any, Model, Model, Model | None]] = {
    "max_cost_usd": (0.0002, llm("kept"), llm("broken", price=TokenPrice(1.0, 7.0)), llm("unknown", price=None)),
    "max_latency_s": (1.1, llm("kept"), llm("broken", speed=Speed(1000, 0.05)), llm("unknown", speed=None)),
    "max_ttft_s": (0.02, llm("kept"), llm("broken", speed=Speed(100, 0.01)), llm("unknown", speed=None)),
    "max_size_b": (14, llm("kept"), llm("broken", parameters_b=32.8), llm("unknown", parameters_b=None)),
    "max_output_tokens": (150, llm("kept"), llm("broken"), llm("unknown", tested=False)),
    "min_quality": (0.5, llm("kept"), llm("broken"), llm("unknown", tested=False)),
    "released_after": ("2024-06-01", llm("kept"), llm("broken", released="2023-12-31"), llm("unknown", released=None)),
    "min_security": ("private_api", llm("kept"), llm("broken", security="public_api"), llm("unknown", security=None)),
    "regions": (["eu", "uk"], llm("kept"), llm("broken", regions={"eu", "us"}), llm("unknown", regions=())),
    "licenses": (["apache-2.0"], llm("kept"), llm("broken", license="mit"), llm("unknown", license=None)),
    "models": (["kept", "nobody"], llm("kept"), llm("broken"), None),
    "exclude": (["broken"], llm("kept"), llm("broken"), None),
    "require_parameters": (True, llm("kept", capabilities={"chat", "logprobs"}), llm("broken"), None),
}
QUALITY = {"kept": 0.9, "broken": 0.3141592}
TOKENS = {"kept": 100.0, "broken": 271.8281828}
USES = frozenset({"logprobs"})


def test_every_constraint_has_a_case() -> None:
    assert set(CASES) == set(VOCABULARY.constraint)


@pytest.mark.parametrize("name", CASES)
def test_a_limit_keeps_who_is_known_to_keep_it(name: str) -> None:
    limit, *models = CASES[name]
    world = world_of(*(each for each in models if each), quality=QUALITY, output_tokens=TOKENS)
    assert world.order({name: limit}, uses=USES) == ["kept"]
    assert set(world.order(uses=USES)) == {each.name for each in models if each}


@pytest.mark.parametrize("name", CASES)
def test_the_relaxation_admits_the_model_and_no_less_would(name: str) -> None:
    limit, _, broken, _ = CASES[name]
    world = world_of(broken, quality=QUALITY, output_tokens=TOKENS)
    with pytest.raises(NoEligibleModel) as caught:
        world.decide({name: limit}, uses=USES)
    details = caught.value.details
    assert details is not None
    assert [(each["model"], each["constraint"]) for each in details["excluded"]] == [("broken", name)]
    relaxed = details["relaxation"]["routing"]
    assert list(relaxed) == [name]
    assert world.order(relaxed, uses=USES) == ["broken"]
    assert f"routing.{name}" in caught.value.message


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[3] is not None])
def test_the_unknown_never_passes_and_only_leaving_the_limit_out_helps(name: str) -> None:
    limit, _, _, unknown = CASES[name]
    assert unknown is not None
    world = world_of(unknown, quality=QUALITY)
    with pytest.raises(NoEligibleModel) as caught:
        world.decide({name: limit}, uses=USES)
    assert caught.value.details is not None
    assert caught.value.details["relaxation"]["routing"] == {name: None}
    assert f"leave out routing.{name}" in caught.value.message


def test_a_model_for_another_kind_of_request_is_not_said_to_ignore_it() -> None:
    world = world_of(llm("embedder", capabilities={"embeddings", "logprobs"}), llm("talker", capabilities={"chat"}))
    chat = frozenset({"chat"})
    with pytest.raises(NoEligibleModel) as caught:
        world.decide({"require_parameters": True}, needs=chat, uses=chat | USES)
    assert caught.value.details is not None
    assert {each["model"]: each["message"] for each in caught.value.details["excluded"]} == {
        "embedder": "cannot do chat",
        "talker": "ignores logprobs",
    }


def test_of_models_with_as_many_reasons_the_nearest_limit_is_named() -> None:
    world = world_of(llm("unknown", parameters_b=None), llm("far", parameters_b=70), llm("near", parameters_b=32.8))
    with pytest.raises(NoEligibleModel, match=r"to admit near, set routing.max_size_b to 32.8"):
        world.decide({"max_size_b": 14})


def test_the_smallest_relaxation_is_of_the_model_with_the_fewest_reasons() -> None:
    world = world_of(llm("far", parameters_b=70, license="mit"), llm("near", parameters_b=32.8))
    with pytest.raises(NoEligibleModel) as caught:
        world.decide({"max_size_b": 14, "licenses": ["apache-2.0"]})
    error = caught.value
    assert error.message == (
        "no model is eligible: max_size_b excludes 2, licenses excludes 1 of 2; to admit near, "
        "set routing.max_size_b to 32.8"
    )
    assert error.details is not None
    assert error.details["relaxation"] == {
        "model": "near",
        "changes": ["set routing.max_size_b to 32.8"],
        "routing": {"max_size_b": 32.8},
    }
    assert [(each["model"], each["constraint"], each["message"]) for each in error.details["excluded"]] == [
        ("far", "max_size_b", "has 70 billion parameters"),
        ("far", "licenses", "has the licence mit"),
        ("near", "max_size_b", "has 32.8 billion parameters"),
    ]


def test_what_a_request_needs_excludes_who_cannot_do_it() -> None:
    world = world_of(llm("plain"), llm("handy", capabilities={"chat", "tools"}))
    assert world.order(needs=frozenset({"tools"})) == ["handy"]
    with pytest.raises(NoEligibleModel, match=r"capabilities excludes 2 of 2; to admit .*does not need vision"):
        world.decide(needs=frozenset({"vision"}))


@pytest.mark.parametrize("capabilities", [{"embeddings"}, {"embeddings", "tools"}])
def test_nobody_is_advised_how_to_admit_a_model_for_another_kind_of_request(capabilities: set[str]) -> None:
    embedder = llm("embedder", capabilities=capabilities)
    world = world_of(embedder, llm("large", parameters_b=70, license="mit"))
    needs = frozenset({"chat", "tools"})
    with pytest.raises(
        NoEligibleModel, match="to admit large, send a request that does not need tools and set"
    ) as caught:
        world.decide({"max_size_b": 14}, needs=needs)
    assert caught.value.details is not None
    assert [each["relaxation"] for each in caught.value.details["excluded"] if each["model"] == "embedder"] == [None]
    with pytest.raises(NoEligibleModel, match="no change of routing admits one, as none is for this kind") as caught:
        world_of(embedder).decide(needs=needs)
    assert caught.value.details is not None
    assert caught.value.details["relaxation"] is None


def test_only_what_fits_whatever_the_tokenizer_is_excluded_by_its_context() -> None:
    """A prompt of so many tokens may have a quarter of them, and pictures next to none."""
    world = world_of(llm("short", context_tokens=100), llm("long", context_tokens=1000))
    assert world.order(input_tokens=240, max_tokens=41) == ["long"]
    assert set(world.order(input_tokens=240, max_tokens=40)) == {"short", "long"}
    assert set(world.order(input_tokens=4240, images=4, max_tokens=40)) == {"short", "long"}
    assert world.order(input_tokens=240, max_tokens=40, model="short") == ["short"]
    with pytest.raises(ContextLengthExceeded, match="about 4004 tokens of prompt do not fit") as caught:
        world.decide(input_tokens=4004)
    assert (caught.value.status, caught.value.param) == (400, "messages")
    with pytest.raises(
        ContextLengthExceeded, match=r"^prompt is too long: this model's maximum context length is 1000 "
    ):
        world.decide(input_tokens=4004, model="long")


@pytest.mark.parametrize(
    ("asked", "input_tokens", "max_tokens", "param", "advice"),
    [
        ({"operation": "chat"}, 4004, None, "messages", "shorten messages"),
        ({"operation": "chat"}, 4004, 9, "messages", "shorten messages or lower max_tokens"),
        (
            {"operation": "chat", "body": {"max_completion_tokens": 1001}},
            4,
            1001,
            "max_completion_tokens",
            "lower max_completion_tokens",
        ),
        ({"operation": "completion"}, 4004, 0, "prompt", "shorten prompt"),
        ({"operation": "completion"}, 4, 1001, "max_tokens", "lower max_tokens"),
        ({"operation": "responses"}, 4, 1001, "max_output_tokens", "lower max_output_tokens"),
        ({"operation": "responses"}, 804, 900, "input", "shorten input or lower max_output_tokens"),
        ({"operation": "embeddings"}, 4004, 0, "input", "shorten input"),
    ],
)
def test_what_is_too_long_is_called_what_its_caller_calls_it(
    asked: dict[str, Any], input_tokens: int, max_tokens: int | None, param: str, advice: str
) -> None:
    with pytest.raises(ContextLengthExceeded, match=rf" do not fit; {advice}$") as caught:
        world_of(llm("long", context_tokens=1000)).decide(input_tokens=input_tokens, max_tokens=max_tokens, **asked)
    assert caught.value.param == param


@pytest.mark.parametrize("context_tokens", [100, 100_000])
def test_a_prompt_is_too_long_whatever_models_hold_that_do_not_talk(context_tokens: int) -> None:
    embedder = llm("embedder", context_tokens=context_tokens, capabilities={"embeddings"})
    world = world_of(llm("short", context_tokens=100), embedder)
    with pytest.raises(ContextLengthExceeded, match="maximum context length is 100 tokens"):
        world.decide(input_tokens=4004, needs=frozenset({"chat"}))
    with pytest.raises(NoEligibleModel):
        world.decide(input_tokens=4004, needs=frozenset({"completion"}))


def test_a_cap_that_nobody_asks_to_reach_need_not_fit_the_context() -> None:
    world = world_of(llm("short", context_tokens=100), llm("long", context_tokens=1000))
    assert world.order(input_tokens=50, max_tokens=8000, is_capped=True) == ["short", "long"]
    assert world.order(input_tokens=404, max_tokens=8000, is_capped=True) == ["long"]
    with pytest.raises(ContextLengthExceeded, match=r"4004 tokens of prompt do not fit.*; shorten messages$"):
        world.decide(input_tokens=4004, max_tokens=8000, is_capped=True)


def test_of_several_prompts_each_must_fit_by_itself() -> None:
    world = world_of(llm("short", context_tokens=100), llm("long", context_tokens=1000))
    assert world.order(input_tokens=5000, longest_prompt_tokens=50, max_tokens=0) == ["short", "long"]
    assert world.order(input_tokens=5000, longest_prompt_tokens=404, max_tokens=0) == ["long"]
    with pytest.raises(ContextLengthExceeded, match="about 4004 tokens of prompt do not fit"):
        world.decide(input_tokens=5000, longest_prompt_tokens=4004, max_tokens=0)


def test_what_a_prompt_may_not_fit_into_is_tried_after_what_it_surely_fits_into() -> None:
    """Digits have two bytes a token, so a prompt of so many tokens may have twice as many."""
    world = world_of(
        llm("short", context_tokens=100),
        llm("long", context_tokens=1000),
        quality={"short": 0.9, "long": 0.5},
        order=("short", "long"),
    )
    assert world.order(input_tokens=50) == ["short", "long"]
    assert world.order(input_tokens=30, max_tokens=40) == ["short", "long"]
    decision = world.decide(input_tokens=51)
    assert [each.model.name for each in decision.candidates] == ["long", "short"]
    assert decision.why.startswith("short may be too small for this prompt, so it is tried last; ")
    assert world.order(input_tokens=30, max_tokens=41) == ["long", "short"]
    assert world.order(input_tokens=600) == ["long"]
    assert world.order({"models": ["short"]}, input_tokens=51) == ["short"]


def test_what_fails_is_tried_after_what_may_be_too_small() -> None:
    models = [llm("failing", context_tokens=1000), llm("short", context_tokens=100), llm("both", context_tokens=100)]
    world = world_of(*models)
    fleet = replace(fleet_of(*models), last_resort=(True, False, True))
    assert world.order(fleet=fleet, input_tokens=51) == ["short", "failing", "both"]


def test_where_nothing_is_written_a_limit_on_cost_needs_no_prediction() -> None:
    world = world_of(llm("cheap", price=TokenPrice(1.0, 9.0), tested=False), llm("dear", price=TokenPrice(3.0, 9.0)))
    assert world.order({"max_cost_usd": 0.002}, input_tokens=1000, max_tokens=0) == ["cheap"]


def test_load_alone_is_a_503_and_not_the_callers_fault() -> None:
    world = world_of(llm("up", parameters_b=70), llm("down"))
    fleet = fleet_of(*world.models, down={"down"})
    assert world.order(fleet=fleet) == ["up"]
    with pytest.raises(UpstreamUnreachable) as caught:
        world.decide({"max_size_b": 14}, fleet)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 2)


def test_models_of_other_keys_are_neither_chosen_nor_mentioned() -> None:
    world = world_of(llm("mine", parameters_b=70), llm("secret"))
    mine = frozenset({"mine"})
    assert world.order(allowed_models=mine) == ["mine"]
    with pytest.raises(NoEligibleModel) as caught:
        world.decide({"max_size_b": 14}, allowed_models=mine)
    assert "secret" not in str((caught.value.message, caught.value.details))
    with pytest.raises(NotAllowed):
        world.decide(allowed_models=frozenset())


def test_repeated_questions_get_the_same_answer_as_first_ones() -> None:
    world = world_of(llm("small", parameters_b=1), llm("large", parameters_b=70))
    for _ in range(2):
        assert world.order({"max_size_b": 10}) == ["small"]
        assert world.order({"max_size_b": 100}) == ["small", "large"]
        assert world.order({"max_size_b": 100}, allowed_models=frozenset({"large"})) == ["large"]
        assert world.order({"max_size_b": 100, "exclude": ["small"]}) == ["large"]


@pytest.mark.parametrize(
    ("listed", "remembered"), [(1, REMEMBERED), (100, MOST_LISTED // 100), (5_000, MOST_LISTED // 5_000)]
)
def test_filters_are_remembered_for_as_long_as_all_their_lists_are_short(listed: int, remembered: int) -> None:
    table = CandidateTable(Catalog((llm("small"),), ()))
    fleet, card_filter = FleetColumns(table, fleet_of(llm("small"))), CardFilter(table)

    def case(number: int) -> Case:
        names = frozenset(f"{number}.{place}" for place in range(listed))
        return Case(table, Question.of(request(preferences=Preferences({"exclude": names}))), fleet)

    made = [card_filter.passing(case(number)) for number in range(remembered + 3)]

    assert all(card_filter.passing(case(number)) is made[number] for number in range(3, len(made)))
    assert card_filter.passing(case(0)) is not made[0]
