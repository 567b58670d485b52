"""What is held back for a request, and how one is shortened that its key cannot pay for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admission.affording import UNSTATED_TOKENS, USEFUL_TOKENS, Afforded, afford
from app.domain.models import Card, Model, TokenPrice
from app.domain.request import Request
from app.domain.usage import Usage
from app.errors import BudgetSpent
from app.routing.record import describe
from app.store.keys.key import Budget
from app.store.money.budgets import Purse
from app.upstream.forwarding import TEMPLATE_TOKENS
from tests.fakes.bank import MemoryBank
from tests.fakes.routing import llm, world_of
from tests.fakes.world import decision, model, request

PROMPT_TOKENS = 4 * 12 + TEMPLATE_TOKENS
CONTEXT = 32_768


def _model(name: str, usd_per_m: float | None = 1.0, context: int = CONTEXT, input_usd_per_m: float = 0.0) -> Model:
    price = None if usd_per_m is None else TokenPrice(input_usd_per_m, usd_per_m)
    return replace(model(name), price=price, card=Card(context_tokens=context))


async def _afford(asked: Request, *models: Model, usd: float = 1.0, hard: bool = True) -> Afforded:
    purse = Purse(MemoryBank())
    return await afford(purse, purse.account("k", Budget(usd, hard=hard)), asked, decision(*models))


def _names(afforded: Afforded) -> list[str]:
    return [candidate.model.name for candidate in afforded.decision.candidates]


@pytest.mark.parametrize("choices", [1, 3])
async def test_the_worst_case_counts_every_choice(choices: int) -> None:
    asked = request(max_tokens=1000, choices=choices)
    afforded = await _afford(asked, _model("small", input_usd_per_m=2.0))
    assert afforded.hold.usd == pytest.approx((2 * PROMPT_TOKENS + choices * 1000) * 1e-6)
    assert afforded.request == asked


@pytest.mark.parametrize(
    ("images", "card", "expected"),
    [
        (1, {}, 16_384),
        (3, {"tokens_per_image": 1_500}, 4_500),
        (3, {}, CONTEXT),
        (3, {"context_tokens": 4_096}, 4_096),
    ],
)
async def test_the_worst_case_counts_the_largest_pictures_that_the_context_takes(
    images: int, card: dict[str, Any], expected: int
) -> None:
    reader = _model("reader", 0.0, input_usd_per_m=2.0)
    reader = replace(reader, card=replace(reader.card, **card))
    afforded = await _afford(request(input_tokens=12 + 1_000 * images, images=images, max_tokens=10), reader)
    assert afforded.hold.usd == pytest.approx(2e-6 * (PROMPT_TOKENS + expected))


async def test_embeddings_cost_their_input_alone() -> None:
    asked = request(operation="embeddings", max_tokens=0, body={"input": ["a"] * 9})
    afforded = await _afford(asked, _model("e", 99.0, input_usd_per_m=1.0))
    assert afforded.hold.usd == pytest.approx(PROMPT_TOKENS * 1e-6)


async def test_the_dearest_model_that_may_be_tried_is_held_back_for() -> None:
    afforded = await _afford(request(max_tokens=1000), _model("small", 1.0), _model("large", 10.0))
    assert afforded.hold.usd == pytest.approx(1000 * 10e-6)
    assert _names(afforded) == ["small", "large"]


async def test_a_fourth_model_that_is_dearer_than_the_first_three_is_held_for_where_there_is_plenty() -> None:
    models = (_model("a"), _model("b"), _model("c"), _model("d", 2.0), _model("e"))
    afforded = await _afford(request(max_tokens=1000), *models)
    assert afforded.hold.usd == pytest.approx(2e-3)
    assert _names(afforded) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(("usd_per_m", "unpaid"), [(50.0, 0), (990.0, 0), (1100.0, 1)])
async def test_a_fourth_model_that_is_far_dearer_is_not_tried_and_the_budget_is_blamed_only_if_it_never_paid_for_it(
    usd_per_m: float, unpaid: int
) -> None:
    models = (_model("a"), _model("b"), _model("c"), _model("d", usd_per_m), _model("e"))
    afforded = await _afford(request(max_tokens=1000), *models)
    assert afforded.hold.usd == pytest.approx(1e-3)
    assert _names(afforded) == ["a", "b", "c", "e"]
    assert afforded.unpaid == unpaid


async def test_a_fallback_without_room_for_a_limit_that_nobody_asked_for_is_not_blamed_on_the_budget() -> None:
    models = (_model("roomy", 10.0), _model("tight", 1.0, context=4096))
    afforded = await _afford(request(input_tokens=4000), *models)
    assert (_names(afforded), afforded.unpaid) == (["roomy"], 0)


async def test_what_a_spent_budget_rules_out_is_counted() -> None:
    afforded = await _afford(request(max_tokens=20_000), _model("small", 1.0), _model("large", 100.0))
    assert (_names(afforded), afforded.unpaid) == (["small"], 1)


async def test_an_answer_of_any_length_is_left_alone_where_a_slice_pays_for_the_whole_context() -> None:
    afforded = await _afford(request(), _model("small"))
    assert afforded.hold.usd == pytest.approx(CONTEXT * 1e-6)
    assert (afforded.request.max_tokens, "max_tokens" in afforded.request.body) == (None, False)


@pytest.mark.parametrize(
    ("operation", "body", "name"),
    [
        ("chat", {}, "max_tokens"),
        ("completion", {"prompt": "a"}, "max_tokens"),
        ("responses", {"input": "a"}, "max_output_tokens"),
    ],
)
async def test_an_answer_of_any_length_gets_a_limit_where_its_context_is_dear(
    operation: Any, body: dict[str, Any], name: str
) -> None:
    afforded = await _afford(request(operation=operation, body=body), _model("large", 10.0))
    assert afforded.request.body[name] == afforded.request.max_tokens == UNSTATED_TOKENS
    assert afforded.hold.usd == pytest.approx(UNSTATED_TOKENS * 10e-6)


async def test_a_limit_that_nobody_asked_for_stays_well_within_the_context() -> None:
    afforded = await _afford(request(input_tokens=3000), _model("dear", 1000.0, context=4096))
    assert afforded.request.max_tokens == (4096 - 3000) // 2


async def test_where_a_prompt_fits_only_if_it_is_shorter_than_estimated_its_answer_has_a_little_room() -> None:
    afforded = await _afford(request(input_tokens=5000), _model("dear", 1000.0, context=4096))
    assert afforded.request.max_tokens == 4096 // 64


async def test_a_limit_that_nobody_asked_for_stays_well_within_the_contexts_of_all_that_may_be_tried() -> None:
    models = (_model("roomy", 1000.0), _model("tight", 1000.0, context=8000), _model("close", 1000.0, context=5000))
    afforded = await _afford(request(input_tokens=4000), *models, usd=10.0)
    assert (_names(afforded), afforded.request.max_tokens) == (["roomy", "tight"], (8000 - 4000) // 2)


async def test_a_fallback_with_next_to_no_room_is_left_out_rather_than_cut_everybodys_answer_to_that() -> None:
    models = (_model("roomy", 10.0), _model("tight", 1.0, context=4096), _model("other", 1.0))
    afforded = await _afford(request(input_tokens=4000), *models)
    assert (_names(afforded), afforded.request.max_tokens) == (["roomy", "other"], UNSTATED_TOKENS)


async def test_prompts_that_are_read_one_by_one_each_have_the_context_to_themselves() -> None:
    asked = request(operation="completion", input_tokens=9000, longest_prompt_tokens=3000, choices=3, body={})
    afforded = await _afford(asked, _model("dear", 1000.0, context=4096), usd=100.0)
    assert afforded.request.max_tokens == (4096 - 3000) // 2


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_is_cut_to_what_is_left(name: str) -> None:
    asked = request(max_tokens=30_000, least_tokens=20_000, body={name: 30_000, "min_tokens": 20_000})
    afforded = await _afford(asked, _model("large", 100.0))
    assert afforded.request.body == {name: 10_000, "min_tokens": 10_000}
    assert (afforded.request.max_tokens, afforded.request.least_tokens) == (10_000, 10_000)
    assert afforded.hold.usd == pytest.approx(1.0)


async def test_models_that_cannot_give_a_useful_answer_are_left_out() -> None:
    models = (_model("huge", 9000.0), _model("small", 1.0), _model("large", 100.0))
    afforded = await _afford(request(max_tokens=20_000), *models)
    assert (_names(afforded), afforded.request.max_tokens) == (["small"], 20_000)
    assert afforded.decision.reason == "best", "what answers is no fallback: nothing was tried before it"
    assert afforded.hold.usd == pytest.approx(20_000e-6)


async def test_a_fallback_that_cannot_pay_for_the_whole_answer_is_left_out() -> None:
    afforded = await _afford(request(max_tokens=20_000), _model("small", 1.0), _model("large", 100.0))
    assert (_names(afforded), afforded.decision.reason) == (["small"], "best")
    assert afforded.request.max_tokens == 20_000


async def test_no_answer_of_use_is_refused() -> None:
    with pytest.raises(BudgetSpent):
        await _afford(request(max_tokens=USEFUL_TOKENS), _model("huge", 4000.0))
    short = await _afford(request(max_tokens=USEFUL_TOKENS - 10), _model("huge", 4000.0))
    assert short.request.max_tokens == USEFUL_TOKENS - 10


async def test_a_soft_budget_changes_nothing() -> None:
    asked = request(max_tokens=20_000)
    afforded = await _afford(asked, _model("huge", 9000.0), hard=False)
    assert (afforded.request, afforded.hold.usd) == (asked, 0.0)


async def test_a_model_without_a_price_costs_nothing_known() -> None:
    asked = request(max_tokens=20_000)
    afforded = await _afford(asked, _model("own", None), usd=0.0)
    assert (afforded.request, afforded.hold.usd) == (asked, 0.0)


CONTEXTS = st.sampled_from((40, 300, 1000, 4096, CONTEXT))
PRICES = st.one_of(st.none(), st.floats(0.0, 500.0))


@given(
    prices=st.lists(st.tuples(PRICES, st.floats(0.0, 500.0), CONTEXTS), min_size=1, max_size=6),
    tokens=st.none() | st.integers(1, CONTEXT),
    choices=st.integers(1, 4),
    usd=st.floats(0.0, 20.0),
)
async def test_what_is_held_back_pays_for_every_model_that_is_tried_and_what_is_asked_for_fits(
    prices: list[tuple[float | None, float, int]], tokens: int | None, choices: int, usd: float
) -> None:
    models = [_priced(number, price) for number, price in enumerate(prices)]
    body = {} if tokens is None else {"max_tokens": tokens}
    try:
        afforded = await _afford(request(max_tokens=tokens, choices=choices, body=body), *models, usd=usd)
    except BudgetSpent:
        return
    assert afforded.hold.usd <= usd + 1e-6
    assert afforded.decision.candidates
    limit = afforded.request.body.get("max_tokens")
    assert limit == afforded.request.max_tokens
    for candidate in afforded.decision.candidates:
        price = candidate.model.price
        context = candidate.model.card.context_tokens
        written = choices * (context if limit is None else min(limit, context))
        assert tokens or request().input_tokens + (limit or 0) <= context
        cost_usd = 0.0 if price is None else Usage(PROMPT_TOKENS, written).cost_usd(price) or 0.0
        assert cost_usd <= afforded.hold.usd + 2e-9


def _priced(number: int, price: tuple[float | None, float, int]) -> Model:
    return _model(str(number), price[0], input_usd_per_m=price[1], context=price[2])


def test_a_model_that_is_not_tried_for_what_it_would_hold_is_still_a_candidate_in_the_record() -> None:
    llms = [llm(name, price=TokenPrice(1.0, usd)) for name, usd in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("far", 50.0))]
    decided = world_of(*llms, quality={"a": 0.9, "b": 0.8, "c": 0.7, "far": 0.6}).decide({})
    purse = Purse(MemoryBank())
    afforded = asyncio.run(afford(purse, purse.account("k", Budget(1.0)), request(max_tokens=1000), decided))
    record = describe(afforded.decision)
    assert _names(afforded) == ["a", "b", "c"]
    assert [each["model"] for each in record["candidates"]] == ["a", "b", "c", "far"]
    assert record["excluded"] == []
    assert "budget" not in record["why"]


async def test_where_nothing_is_written_no_answer_is_held_back_for() -> None:
    asked = request(operation="completion", max_tokens=0, body={"prompt": "a", "max_tokens": 0})
    afforded = await _afford(asked, _model("dear", 1000.0))
    assert (afforded.request, afforded.hold.usd) == (asked, 0)
