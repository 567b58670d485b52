"""How fast the models answered of late, how long one would wait for them, and what they read beside the prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.domain.models import Model
from app.domain.request import Request
from app.upstream.answers.answer import Answer

# Observed speeds say nothing about now after so long.
SPEED_IS_FRESH_S = 300.0
# A wait that was seen fades, or a model that was slow once would never be asked again.
WAIT_FADES_S = 30.0
NEWEST_WEIGHS = 0.2
# Fewer tokens than this say more about the first token than about speed.
MIN_TOKENS_FOR_SPEED = 8
# What a chat template adds shows where the prompt is short; of a long one the estimate itself is off by more.
MOST_TOKENS_FOR_TEMPLATE = 256
# No template adds more to a short prompt. What does was not seen when the prompt was estimated, and all keys pay for
# what is learned of the prompts of one.
MOST_TEMPLATE_TOKENS = 4 * MOST_TOKENS_FOR_TEMPLATE


class Picture(NamedTuple):
    """What was seen of late, one entry per model; see `Fleet`."""

    wait_s: tuple[float, ...]
    s_per_output_token: tuple[float | None, ...]
    template_tokens: tuple[float, ...]
    ttft_s: tuple[float | None, ...]


@dataclass(slots=True)
class Attempted:
    """What one attempt asked for, and when."""

    model: Model
    input_tokens: int
    stream: bool
    started_at: float
    choices: int = 1
    is_plain: bool = True
    """Whether it is one prompt without pictures, tools or schemas, to which a template adds what it adds to most."""

    @classmethod
    def of(cls, request: Request, model: Model, started_at: float) -> Attempted:
        is_plain = len(request.uses) < 2 and request.longest_prompt_tokens is None
        return cls(model, request.input_tokens, request.stream, started_at, request.choices, is_plain)


@dataclass(slots=True)
class Seen:
    """How one model answered of late: moving averages, None before the first answer."""

    ttft_s: float | None = None
    excess_s: float | None = None
    """Time to the first token beyond the prefill that the card promises."""
    s_per_output_token: float | None = None
    template_tokens: float | None = None
    """Read beyond what was estimated of short prompts."""
    duration_s: float | None = None
    ttft_at: float = -math.inf
    speed_at: float = -math.inf
    duration_at: float = -math.inf

    def wait_s(self, rounds: float | None, now: float) -> float:
        """Expected time in a queue where so many rounds of answers pass before one's turn; None is not known."""
        if rounds is not None:
            return rounds * (self.duration_s or 0.0)
        return self.faded(now) or 0.0

    def faded(self, now: float) -> float | None:
        if self.excess_s is None:
            return None
        return self.excess_s * math.exp(-(now - self.ttft_at) / WAIT_FADES_S)

    def learn(self, attempted: Attempted, answer: Answer, first_at: float, now: float) -> None:
        usage, started_at, stream = answer.usage, attempted.started_at, attempted.stream
        tokens = answer.counted_tokens if usage is None else usage.output_tokens
        self._forget_what_is_old(now)
        self.duration_s, self.duration_at = _average(self.duration_s, now - started_at), now
        ttft_s = first_at - started_at
        if stream:
            speed = attempted.model.speed
            prefill_s = attempted.input_tokens / speed.prefill_tokens_per_s if speed else 0.0
            self.ttft_s = _average(self.ttft_s, ttft_s)
            self.excess_s = _average(self.faded(now), max(0.0, ttft_s - prefill_s))
            self.ttft_at = now
        # Several choices are written at the same time, each at a speed that their sum does not show.
        if tokens >= MIN_TOKENS_FOR_SPEED and attempted.choices == 1:
            # A plain answer shows no first token, so what is known from streams is taken off its whole duration.
            began_s = ttft_s if stream else min(self.ttft_s or 0.0, 0.5 * ttft_s)
            writing_s = now - started_at - began_s
            self.s_per_output_token = _average(self.s_per_output_token, max(0.0, writing_s) / (tokens - 1))
            self.speed_at = now
        if usage is not None and attempted.is_plain and attempted.input_tokens <= MOST_TOKENS_FOR_TEMPLATE:
            more_tokens = usage.input_tokens - attempted.input_tokens
            if more_tokens <= MOST_TEMPLATE_TOKENS:
                self.template_tokens = _average(self.template_tokens, more_tokens)

    def _forget_what_is_old(self, now: float) -> None:
        """What says nothing about now has no part in new averages either."""
        if now - self.duration_at >= SPEED_IS_FRESH_S:
            self.duration_s = None
        if now - self.ttft_at >= SPEED_IS_FRESH_S:
            self.ttft_s = None
        if now - self.speed_at >= SPEED_IS_FRESH_S:
            self.s_per_output_token = None


class Speeds:
    """Of models that answered; the others cost nothing, however many the catalogue has."""

    def __init__(self, models: Sequence[Model], before: Speeds | None = None) -> None:
        """What `before` knows of those of these models that the same backend still serves is kept."""
        self._models = models
        self._position = {model.name: number for number, model in enumerate(models)}
        self._seen: dict[str, Seen] = before._seen_of(models) if before else {}

    def _seen_of(self, models: Sequence[Model]) -> dict[str, Seen]:
        """What was seen of these models, where it was they that were seen."""
        ours = {name: self._models[self._position[name]] for name in self._seen}
        return {
            model.name: self._seen[model.name]
            for model in models
            if (one := ours.get(model.name)) and (one.backend, one.served_as) == (model.backend, model.served_as)
        }

    def learn(self, attempted: Attempted, answer: Answer, first_at: float, now: float) -> None:
        """Learn from a complete answer how fast its model is."""
        seen = self._seen.get(attempted.model.name)
        if seen is None:
            seen = self._seen[attempted.model.name] = Seen()
        seen.learn(attempted, answer, first_at, now)

    def s_per_output_token(self, model: Model, now: float) -> float | None:
        """As seen of late; None where nothing was."""
        seen = self._seen.get(model.name)
        return seen.s_per_output_token if seen is not None and now - seen.speed_at < SPEED_IS_FRESH_S else None

    def picture(self, rounds: Mapping[str, float | None], now: float) -> Picture:
        """What is known of all models; `rounds` by backend, see `Seen.wait_s`."""
        wait_s, template_tokens = [0.0] * len(self._models), [0.0] * len(self._models)
        s_per_output_token: list[float | None] = [None] * len(self._models)
        ttft_s: list[float | None] = []
        for name, seen in self._seen.items():
            number = self._position[name]
            wait_s[number] = seen.wait_s(rounds.get(self._models[number].backend), now)
            # An estimate that is too high may be so for the prompts of now only.
            template_tokens[number] = max(0.0, seen.template_tokens or 0.0)
            if now - seen.speed_at < SPEED_IS_FRESH_S:
                s_per_output_token[number] = seen.s_per_output_token
            if self._models[number].speed is None and now - seen.ttft_at < SPEED_IS_FRESH_S:
                ttft_s = ttft_s or [None] * len(self._models)
                ttft_s[number] = seen.ttft_s
        return Picture(tuple(wait_s), tuple(s_per_output_token), tuple(template_tokens), tuple(ttft_s))


def _average(so_far: float | None, newest: float) -> float:
    return newest if so_far is None else (1 - NEWEST_WEIGHS) * so_far + NEWEST_WEIGHS * newest
