"""What a request may cost at most, and what becomes of it when its key's budget cannot pay for that.

How it works: the worst case of a model is every byte of the prompt as a token, the largest pictures that it reads, and
answers as long as they may be, one for each choice. The worst of the models that may be tried is held back; one that
would be tried late and needs far more than those before it is not tried. Where a caller states no limit, the answer may
fill the model's context if a slice of the budget pays for that; else it gets 4,096 tokens, or as many as all that may
be tried have room for, which are then asked for by name. Where what is left pays for less, the answer is cut to that,
as long as it stays of use, and models for which it is not are ruled out. A key without a hard budget is never changed
in anything.

A model without a price costs nothing known, so no budget stops it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from app.domain.decision import Candidate, Decision
from app.domain.models import TOKENS_PER_PRICE, Model, TokenPrice
from app.domain.request import TOKENS_PER_IMAGE, Request
from app.routing.narrowing import narrowed
from app.store.money.accounts import NANO_USD, SHARE, Account, Hold
from app.store.money.budgets import Budgets
from app.upstream.forwarding import TEMPLATE_TOKENS, room_tokens

# A longer answer is asked for on purpose; and nearly every model can write so much.
UNSTATED_TOKENS = 4_096
# A fallback with a small context does not cut answers shorter than this, which few exceed: it is left out instead.
SHORT_TOKENS = 1_024
# An answer that is cut shorter than this helps nobody, unless no more was asked for.
USEFUL_TOKENS = 256
# Prompts are estimated at four bytes a token, and a byte is the shortest token.
TOKENS_PER_ESTIMATED = 4
# Models that are tried at most before the rest.
FIRST = 3
# Dearer ones after them are held for as well up to this share of what is left: four hundred requests at once have room.
MODEST = 0.05 * SHARE


class Size(NamedTuple):
    """How much there is to pay for."""

    text_tokens: int
    images: int
    choices: int

    @classmethod
    def of(cls, request: Request) -> Size:
        text_tokens = request.input_tokens - request.images * TOKENS_PER_IMAGE
        return cls(text_tokens * TOKENS_PER_ESTIMATED + TEMPLATE_TOKENS, request.images, request.choices)

    def usd(self, model: Model, tokens: int | None) -> float:
        """What a model may cost, with answers of so many tokens, or as many as its context has."""
        price, context = model.price, model.card.context_tokens
        if price is None:
            return 0.0
        written = self.choices * (context if tokens is None or tokens > context else tokens)
        read = self.text_tokens + min(self.images * model.card.tokens_per_image, context)
        return (read * _input_price(price) + written * price.output_usd_per_m) / TOKENS_PER_PRICE

    def useful_usd(self, model: Model, tokens: int | None) -> float:
        """What it may cost with an answer that is just of use."""
        return self.usd(model, USEFUL_TOKENS if tokens is None else min(tokens, USEFUL_TOKENS))

    def affordable_tokens(self, model: Model, usd: float) -> int:
        """The longest answer that this pays for, of a model whose answers cost something."""
        return max(1, int((usd - self.usd(model, 0)) / (self.usd(model, 1) - self.usd(model, 0))))


def _input_price(price: TokenPrice) -> float:
    fresh, cached = price.input_usd_per_m, price.cached_input_usd_per_m
    return cached if cached is not None and cached > fresh else fresh


class Afforded(NamedTuple):
    """What is tried, and what is held back for it."""

    request: Request
    decision: Decision
    hold: Hold
    unpaid: int = 0
    """Models that the budget does not pay for. Others that are not tried are still candidates in the record."""


async def afford(budgets: Budgets, account: Account, request: Request, decision: Decision) -> Afforded:
    """Hold back what a request may cost; it is shortened where that is too much.

    Raises:
        BudgetSpent: not even a short answer can be paid for.
        BudgetUnavailable: it cannot be told whether it can.
    """
    if not account.budget.hard:
        return Afforded(request, decision, account.hold(0.0))
    size = Size.of(request)
    candidates = decision.candidates
    if request.max_tokens is None and _dearest(size, candidates, None) > account.slice_usd:
        request, candidates = _stated(request, candidates)
    tokens = request.max_tokens
    costs = [size.usd(candidate.model, tokens) for candidate in candidates]
    most_usd = _most_usd(costs, account.left_usd)
    hold = budgets.take(account, most_usd)
    if hold is None:
        least_usd = min([size.useful_usd(candidate.model, tokens) for candidate in candidates])
        hold = await budgets.draw(account, most_usd, least_usd)
    if hold.usd + NANO_USD < most_usd:
        return _cut(request, decision, candidates, size, hold)
    if hold.usd + NANO_USD < max(costs):
        candidates = [each for each, usd in zip(candidates, costs, strict=True) if usd <= hold.usd + NANO_USD]
    if len(candidates) == len(decision.candidates):
        return Afforded(request, decision, hold)
    return _tried(request, decision, candidates, size, hold, account.left_usd)


def _most_usd(costs: Sequence[float], left_usd: float) -> float:
    """What the dearest costs that is held for."""
    most_usd = max(costs[:FIRST])
    if most_usd < max(costs):
        modest_usd = MODEST * left_usd
        most_usd = max([most_usd, *[usd for usd in costs[FIRST:] if usd <= modest_usd]])
    return most_usd


def _dearest(size: Size, candidates: Sequence[Candidate], tokens: int | None) -> float:
    return max([size.usd(candidate.model, tokens) for candidate in candidates[:FIRST]])


def _stated(request: Request, candidates: Sequence[Candidate]) -> tuple[Request, Sequence[Candidate]]:
    """A limit where none was stated, and the models that have room for it."""
    models = [candidate.model for candidate in candidates]
    tokens = _unstated_tokens(request, models)
    kept = [each for each in candidates if each is candidates[0] or _has_room(request, each.model, tokens)]
    return request.limited_to(tokens), kept


def _unstated_tokens(request: Request, models: Sequence[Model]) -> int:
    """What all that may be tried have room for, those aside that have next to none."""
    rooms = [room_tokens(request, model) for model in models[:FIRST]]
    return min([UNSTATED_TOKENS, *(room for room in rooms if room >= min(rooms[0], SHORT_TOKENS))])


def _has_room(request: Request, model: Model, tokens: int | None) -> bool:
    return tokens is None or request.longest_input_tokens + tokens <= model.card.context_tokens


def _tried(
    request: Request, decision: Decision, tried: Sequence[Candidate], size: Size, hold: Hold, left_usd: float
) -> Afforded:
    """Try these alone, the first one among them. Of the others, the budget rules out those it could never pay for."""
    tokens = UNSTATED_TOKENS if request.max_tokens is None else request.max_tokens
    places = range(len(decision.candidates))
    names = {each.model.name for each in tried}
    payable = [
        place
        for place, each in zip(places, decision.candidates, strict=True)
        if each.model.name in names or size.usd(each.model, tokens) <= left_usd + NANO_USD
    ]
    unpaid = len(places) - len(payable)
    if unpaid:
        decision = narrowed(decision, payable)
    kept = tuple(each for each in decision.candidates if each.model.name in names)
    return Afforded(request, replace(decision, candidates=kept), hold, unpaid)


def _cut(request: Request, decision: Decision, candidates: Sequence[Candidate], size: Size, hold: Hold) -> Afforded:
    """Rule out what cannot be paid for, and ask for no longer an answer than can."""
    models, paid_usd, asked = [each.model for each in candidates], hold.usd + NANO_USD, request.max_tokens
    useful = [model for model in models if size.useful_usd(model, asked) <= paid_usd]
    first = useful[0]
    tokens = asked if size.usd(first, asked) <= paid_usd else size.affordable_tokens(first, hold.usd)
    if asked is None and tokens is not None:
        tokens = min(tokens, _unstated_tokens(request, useful))
    if tokens is not None and tokens != asked:
        request = request.limited_to(tokens)
    kept = [number for number, model in enumerate(models) if size.usd(model, tokens) <= paid_usd]
    if asked is None:
        kept = [number for number in kept if models[number] is first or _has_room(request, models[number], tokens)]
    hold.shrink(min(hold.usd, max(size.usd(models[number], tokens) for number in kept)))
    names = {models[number].name for number in kept}
    places = [place for place, each in enumerate(decision.candidates) if each.model.name in names]
    unpaid = len(decision.candidates) - len(places)
    return Afforded(request, narrowed(decision, places) if unpaid else decision, hold, unpaid)
