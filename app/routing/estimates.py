"""What is expected of every model for one request, computed when it is first asked for. Missing stays NaN.

    output   = predicted tokens, no fewer and no more than asked for
    cost     = (input tokens + those of the template, as seen of late) · price + output tokens · choices · price
    ttft     = wait + prefill
    latency  = ttft + output tokens · time per token (as seen of late, else as the card says)

All choices are written at the same time, and so are those of several prompts.
What the session's model has in its cache it reads at the price of cached input, in no time.

Legend of array suffixes: M models of the catalogue, C columns of the artifact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from app.domain.decision import Estimate
from app.domain.dimensions import Floats, Labels, Truths
from app.domain.frozen import frozen
from app.domain.quantities import Priority
from app.domain.request import MOST_OVERESTIMATED, MOST_UNDERESTIMATED, TOKENS_PER_IMAGE, Preferences, Request
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.lazily import lazily


class Prediction(Protocol):
    """What a router model says about one conversation, per column of its artifact."""

    @property
    def quality(self) -> npt.NDArray[np.floating]:
        """Probability that the answer is acceptable [C]."""
        ...

    @property
    def quality_interval(self) -> npt.NDArray[np.floating]:
        """Ends of a 90 % interval [C, 2]."""
        ...

    @property
    def output_tokens(self) -> npt.NDArray[np.floating]:
        """Mean length of the answer [C]."""
        ...

    @property
    def output_tokens_interval(self) -> npt.NDArray[np.floating]:
        """[C, 2]."""
        ...

    @property
    def unfamiliar(self) -> bool:
        """Whether the prompt is unlike all that was learned from, so that these numbers are not to be trusted."""
        ...


_Positions = npt.NDArray[np.intp]
NONE_REQUIRED: frozenset[str] = frozenset()


@frozen
class Question:
    """What a request asks for, without its text; kept with the decision."""

    model: str | None
    profile: str
    input_tokens: int
    max_tokens: int | None
    needs: frozenset[str]
    uses: frozenset[str]
    preferences: Preferences
    allowed_models: frozenset[str] | None
    own_max_tokens: int | None = None
    """`max_tokens` without the limit `max_output_tokens`."""
    prompt_tokens: int = 0
    """The longest of the prompts that are read one by one, estimated."""
    asked_tokens: int = 0
    """The answer that the caller wants room for."""
    choices: int = 1
    least_tokens: int = 0
    """Of each choice."""
    parameters: frozenset[str] = NONE_REQUIRED
    """Their names, where the request requires that all are honoured; else none."""
    images: int = 0
    prompt_field: str = "messages"
    """What callers call the prompt, to tell them what to change."""
    length_field: str = "max_tokens"
    deadline_s: float | None = None
    """This and what follows decides nothing here, but was asked for as well."""
    priority: Priority = "normal"
    in_session: bool = False
    """Whether it said of which session it is, in the caller's words."""

    @property
    def context_tokens(self) -> int:
        """What a context has to hold: the longest prompt, and as much of an answer as the caller asks for."""
        return self.prompt_tokens + self.asked_tokens

    @property
    def least_context_tokens(self) -> int:
        """What it has to hold whatever the tokenizer: what has less refuses the request for sure."""
        text_tokens = self.prompt_tokens - self.images * TOKENS_PER_IMAGE
        return text_tokens // MOST_OVERESTIMATED + self.asked_tokens

    @property
    def most_context_tokens(self) -> int:
        """What holds the request for sure, or nearly."""
        return self.prompt_tokens * MOST_UNDERESTIMATED + self.asked_tokens

    @classmethod
    def of(cls, request: Request) -> Question:
        return cls(
            model=request.model,
            profile=request.profile,
            input_tokens=request.input_tokens,
            max_tokens=request.max_tokens,
            own_max_tokens=request.own_max_tokens,
            needs=request.needs,
            uses=request.uses,
            preferences=request.preferences,
            allowed_models=request.allowed_models,
            prompt_tokens=request.longest_input_tokens,
            asked_tokens=0 if request.is_capped else request.max_tokens or 0,
            choices=request.choices,
            least_tokens=request.least_tokens,
            parameters=_required(request) if request.preferences.limits else NONE_REQUIRED,
            images=request.images,
            prompt_field=request.prompt_field,
            length_field=request.length_field,
            deadline_s=request.deadline_s,
            priority=request.priority,
            in_session=request.session_id is not None,
        )


def _required(request: Request) -> frozenset[str]:
    return frozenset(request.body) if request.preferences.limits.get("require_parameters") else NONE_REQUIRED


class Warmth(NamedTuple):
    """What one model has of a request already."""

    model: int
    """Its position in the catalogue."""
    tokens: int
    """Of the prompt, in its cache."""
    in_tool_call: bool
    """Whether it is in the middle of one."""


@frozen
class Case:
    """All that a decision follows from. Small: what is expected is computed from it again when it is asked for."""

    table: CandidateTable
    question: Question
    fleet: FleetColumns
    prediction: Prediction | None = None
    warmth: Warmth | None = None
    """Of the session's model; None without a session."""

    def seen_by(self, prediction: Prediction | None) -> Case:
        """The same, with what was predicted."""
        return Case(self.table, self.question, self.fleet, prediction, self.warmth)

    @property
    def without_session(self) -> Case:
        """The same, with nothing in any cache."""
        return self if self.warmth is None else Case(self.table, self.question, self.fleet, self.prediction)

    def as_tried(self, order: _Positions) -> _Positions:
        """The same order, but what is there as a last resort only comes last, and what may be too small before it."""
        late_M = self._late
        return order if late_M is None else order[late_M[order].argsort(kind="stable")]

    def peers(self, order: _Positions) -> _Positions:
        """The beginning of such an order, without what would be tried after it whatever was expected."""
        late_M = self._late
        if late_M is None:
            return order
        late_E = late_M[order]
        peers: _Positions = order[late_E == late_E[:1]]
        return peers

    @property
    def _late(self) -> npt.NDArray[np.integer] | None:
        """How late each model is tried, whatever is expected of it [M]; None where that is the same for all."""
        last_M, tight_M = self.fleet.last_resort_M, self._tight
        if tight_M is None:
            return None if last_M is None else last_M.astype(np.int8)
        return tight_M.astype(np.int8) if last_M is None else tight_M + 2 * last_M

    @property
    def _tight(self) -> Truths | None:
        """Models into which the request may well not fit [M]; None where there is none.

        The one that waits for what a tool returns is none of them: it has read most of the prompt before.
        """
        most = self.question.most_context_tokens
        if most <= self.table.shortest_context_tokens:
            return None
        tight_M: Truths = self.table.context_tokens_M < most
        if self.warmth is not None and self.warmth.in_tool_call:
            tight_M[self.warmth.model] = False
        return tight_M


class Expected:
    """What is known and expected of all models: the `Columns` that dimensions and constraints read."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.table, self.question, self.fleet = case.table, case.question, case.fleet
        self.prediction, self._warmth = case.prediction, case.warmth
        self._shares: dict[str, Floats] = {}

    @property
    def cards(self) -> Mapping[str, Floats]:
        return self.table.cards

    @property
    def input_tokens(self) -> int:
        return self.question.input_tokens

    @property
    def names(self) -> Labels:
        return self.table.names

    @property
    def licenses(self) -> Labels:
        return self.table.licenses

    @property
    def regions(self) -> Labels:
        return self.table.regions

    @property
    def capabilities(self) -> Labels:
        return self.table.capabilities

    @property
    def uses(self) -> frozenset[str]:
        return self.question.uses

    @property
    def spared(self) -> Labels:
        return self.table.spared

    @property
    def parameters(self) -> frozenset[str]:
        return self.question.parameters

    @lazily
    def quality(self) -> Floats:
        return self._unknown if self.prediction is None else self.table.spread(self.prediction.quality)

    @lazily
    def uncut_tokens(self) -> Floats:
        question = self.question
        if question.max_tokens == 0:
            return np.zeros(len(self.table))
        if self.prediction is None:
            return self._unknown
        return self._as_asked(self.table.spread(self.prediction.output_tokens), question.own_max_tokens)

    @lazily
    def output_tokens(self) -> Floats:
        most = self.question.max_tokens
        if most is None or most == self.question.own_max_tokens:
            return self.uncut_tokens
        return np.minimum(self.uncut_tokens, most)

    @property
    def most_uncut_tokens(self) -> float:
        most = self.question.own_max_tokens
        return math.nan if most is None else most

    @lazily
    def written_tokens(self) -> Floats:
        choices = self.question.choices
        return self.output_tokens if choices == 1 else self.output_tokens * choices

    @lazily
    def cost_usd(self) -> Floats:
        cost_M = self.written_tokens * self.table.output_usd_M
        if self.table.free_answers_M is not None:
            cost_M[self.table.free_answers_M] = 0.0
        cost_M += self.table.input_usd_M * self.question.input_tokens
        cost_M += self.fleet.template_usd_M
        if (warmth := self._warmth) is not None:
            cost_M[warmth.model] -= self.table.cached_saves_usd_M[warmth.model] * warmth.tokens
        return cost_M

    @lazily
    def ttft_s(self) -> Floats:
        ttft_s_M = self.fleet.s_per_input_token_M * self.question.input_tokens + self.fleet.wait_s_M
        if (warmth := self._warmth) is not None:
            ttft_s_M[warmth.model] -= self.fleet.s_per_input_token_M[warmth.model] * warmth.tokens
        return ttft_s_M

    @lazily
    def latency_s(self) -> Floats:
        return self.output_tokens * self.fleet.s_per_output_token_M + self.ttft_s

    @lazily
    def quality_interval(self) -> Floats:
        """[M, 2]."""
        return self._no_interval if self.prediction is None else self.table.spread(self.prediction.quality_interval)

    @lazily
    def output_tokens_interval(self) -> Floats:
        """[M, 2]."""
        if self.question.max_tokens == 0:
            return np.zeros((len(self.table), 2))
        if self.prediction is None:
            return self._no_interval
        return self._as_asked(self.table.spread(self.prediction.output_tokens_interval), self.question.max_tokens)

    def share(self, dimension: str) -> Floats:
        """How far each model is from the best end of a dimension's scale, in [0, 1]."""
        share_M = self._shares.get(dimension)
        if share_M is None:
            entry = self.table.vocabulary.dimension[dimension]
            if entry.stage == "card":
                share_M = self.table.card_share(entry, lambda: entry.value(self))
            else:
                share_M = self.table.scales[dimension].share(entry.value(self))
            self._shares[dimension] = share_M
        return share_M

    def of(self, model: int) -> Estimate:
        """Everything about one model, but for intervals, which take longer than all of it."""
        return Estimate(
            quality=known(self.quality.item(model)),
            output_tokens=known(self.output_tokens.item(model)),
            cost_usd=known(self.cost_usd.item(model)),
            ttft_s=known(self.ttft_s.item(model)),
            latency_s=known(self.latency_s.item(model)),
        )

    def _as_asked(self, tokens: Floats, most: int | None) -> Floats:
        """Predicted lengths [M, ...] as a request lets them be: none ends before the least that is asked for, unless
        with its context, and none goes beyond the most."""
        if least := self.question.least_tokens:
            tokens = np.minimum(np.maximum(tokens, least).T, self.table.context_tokens_M).T
        return tokens if most is None else np.minimum(tokens, most)

    @property
    def _unknown(self) -> Floats:
        return np.full(len(self.table), math.nan)

    @property
    def _no_interval(self) -> Floats:
        return np.full((len(self.table), 2), math.nan)


class Prospect:
    """What is expected in one case, for as long as somebody may soon want it again.

    Decisions are kept for longer than arrays over the catalogue should be: once let go of, they are worked out anew.
    """

    __slots__ = ("_case", "_expected", "_last")

    def __init__(self, expected: Expected) -> None:
        self._case = expected.case
        self._expected: Expected | None = expected
        self._last: tuple[int, Estimate] | None = None
        """Who was asked about last, which is mostly the chosen model."""

    @property
    def expected(self) -> Expected:
        return self._expected or Expected(self._case)

    def of(self, model: int) -> Estimate:
        """Everything about one model, by its position in the catalogue."""
        if self._last is None or self._last[0] != model:
            self._last = model, self.expected.of(model)
        return self._last[1]

    def let_go(self, chosen: int) -> None:
        """Nobody is expected to ask soon, but about the chosen model, once it has answered."""
        self.of(chosen)
        self._expected = None


def known(value: float) -> float | None:
    """A number, or None for NaN."""
    return value if value == value else None
