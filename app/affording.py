"""What a request may cost at most, and what becomes of it when its key's budget cannot pay for that.

How it works: the worst case of a model is every byte of the prompt as a token, and answers as long as they may be, one
for each choice. The worst of the models that may be tried is held back. Where a caller states no limit, the answer may
fill the model's context if a slice of the budget pays for that; else it gets 4,096 tokens, which are then asked for
by name. Where what is left pays for less, the answer is cut to that, as long as it stays of use, and models for
which it is not are left out. A key without a hard budget is never changed in anything.

A model without a price costs nothing known, so no budget stops it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from app.domain.decision import Candidate, Decision
from app.domain.models import TOKENS_PER_PRICE, Model
from app.domain.request import Request
from app.store.budgets import NANO_USD, Account, Budgets, Hold
from app.upstream.payload import dump, expected_choices

# A longer answer is asked for on purpose; and nearly every model can write so much.
UNSTATED_TOKENS = 4_096
# An answer that is cut shorter than this helps nobody, unless no more was asked for.
USEFUL_TOKENS = 256
# Prompts are estimated at four bytes a token, and a byte is the shortest token.
TOKENS_PER_ESTIMATED = 4
# What a chat template adds of its own: a default system prompt, how tools are called.
TEMPLATE_TOKENS = 256
# Models that are tried at most before the rest; dearer ones after them are not waited for.
FIRST = 3

_READ = frozenset({"response_format", "structured_outputs", "text", "suffix", "chat_template_kwargs"})


class WorstCase(NamedTuple):
    """What one model may cost for one request."""

    prompt_usd: float
    usd_per_token: float
    """For each token that the answer may have, of all choices."""
    context_tokens: int

    @classmethod
    def of(cls, model: Model, prompt_tokens: int, choices: int) -> WorstCase:
        price, context_tokens = model.price, model.card.context_tokens
        if price is None:
            return cls(0.0, 0.0, context_tokens)
        input_price = max(price.input_usd_per_m, price.cached_input_usd_per_m or 0.0)
        prompt_usd = prompt_tokens * input_price / TOKENS_PER_PRICE
        return cls(prompt_usd, price.output_usd_per_m * choices / TOKENS_PER_PRICE, context_tokens)

    def usd(self, tokens: int | None) -> float:
        """With an answer of so many tokens, or as many as the context has."""
        limit = self.context_tokens if tokens is None else min(tokens, self.context_tokens)
        return self.prompt_usd + self.usd_per_token * limit

    def useful_usd(self, tokens: int | None) -> float:
        """With an answer that is just of use."""
        return self.usd(USEFUL_TOKENS if tokens is None else min(tokens, USEFUL_TOKENS))

    def affordable_tokens(self, usd: float) -> int:
        """The longest answer that this pays for, of a model whose answers cost something."""
        return max(1, int((usd - self.prompt_usd) / self.usd_per_token))


@dataclass(frozen=True, slots=True)
class Afforded:
    """What is tried, and what is held back for it."""

    request: Request
    decision: Decision
    hold: Hold


async def afford(budgets: Budgets, account: Account, request: Request, decision: Decision) -> Afforded:
    """Hold back what a request may cost; it is shortened where that is too much.

    Raises:
        BudgetSpent: not even a short answer can be paid for.
        BudgetUnavailable: it cannot be told whether it can.
    """
    if not account.budget.hard:
        return Afforded(request, decision, account.hold(0.0))
    cases = _worst_cases(request, decision.candidates)
    if request.max_tokens is None and _dearest(cases, None) > account.slice_usd:
        request = request.limited_to(_unstated_tokens(request, cases[0]))
    tokens = request.max_tokens
    most_usd = _dearest(cases, tokens)
    hold = budgets.take(account, most_usd)
    if hold is None:
        hold = await budgets.draw(account, most_usd, min(case.useful_usd(tokens) for case in cases))
    if hold.usd + NANO_USD < max(case.usd(tokens) for case in cases):
        return _cut(request, decision, cases, hold)
    return Afforded(request, decision, hold)


def _worst_cases(request: Request, candidates: Sequence[Candidate]) -> list[WorstCase]:
    choices = 0 if request.operation == "embeddings" else expected_choices(request.body)
    unread = _unread_bytes(request.body)
    prompt_tokens = request.input_tokens * TOKENS_PER_ESTIMATED + unread + TEMPLATE_TOKENS
    return [WorstCase.of(candidate.model, prompt_tokens, choices) for candidate in candidates]


def _unread_bytes(body: Mapping[str, Any]) -> int:
    """What models read beside the texts and tools that were estimated: calls of functions, schemas."""
    items = body.get("messages") or body.get("input")
    odd = [item for item in items if type(item) is dict and len(item) > 2] if type(items) is list else ()
    more = [{name: value for name, value in item.items() if name != "content"} for item in odd]
    if not _READ.isdisjoint(body):
        more.append({name: body[name] for name in _READ & body.keys()})
    return len(dump(more)) if more else 0


def _dearest(cases: Sequence[WorstCase], tokens: int | None) -> float:
    return max([case.usd(tokens) for case in cases[:FIRST]])


def _unstated_tokens(request: Request, case: WorstCase) -> int:
    """Prompts are longer than estimated at times, and a backend refuses what goes beyond its context."""
    room = (case.context_tokens - request.input_tokens) // 2
    return max(1, min(UNSTATED_TOKENS, room))


def _cut(request: Request, decision: Decision, cases: Sequence[WorstCase], hold: Hold) -> Afforded:
    """Leave out what cannot be paid for, and ask for no longer an answer than can."""
    paid_usd, asked = hold.usd + NANO_USD, request.max_tokens
    first = next(case for case in cases if case.useful_usd(asked) <= paid_usd)
    tokens = asked if first.usd(asked) <= paid_usd else first.affordable_tokens(paid_usd)
    if asked is None and tokens is not None:
        tokens = min(tokens, _unstated_tokens(request, first))
    if tokens is not None and tokens != asked:
        request = request.limited_to(tokens)
    kept = [number for number, case in enumerate(cases) if case.usd(tokens) <= paid_usd]
    hold.shrink(min(hold.usd, max(cases[number].usd(tokens) for number in kept)))
    return Afforded(request, _narrowed(decision, kept), hold)


def _narrowed(decision: Decision, kept: Sequence[int]) -> Decision:
    if len(kept) == len(decision.candidates):
        return decision
    candidates = [decision.candidates[number] for number in kept]
    return replace(decision, candidates=candidates, reason=decision.reason if 0 in kept else "fallback")
