"""One model sits the exam: asked in rounds, graded after each, until enough is known of it or something is wrong.

How it works: answers go into a log as they come, so an exam that is interrupted goes on where it was and pays
nothing twice. After each round faults of the endpoint are looked for, and the model's description is made anew; the
exam ends when the interval of its mean quality is narrow enough, or another hundred answers would hardly narrow it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.collect.client import ChatClient
from app.collect.plan import CHARS_PER_TOKEN, Plan, Prompt, Target
from app.collect.progress import Progress, Reply
from app.collect.runner import Budget, Runner, Stopped, spent_usd
from app.collect.thoughts import spoken
from app.errors import UsageError
from app.exam.faults import Fault, Sample, faults_in
from app.exam.paper import FRESH, Paper
from router_models.aptitude import grade_all, grade_anchor
from router_models.joining.exam import LEAST_SHOTS, Questions

ROUND = 24
# Fewer answers than these never end an exam early: an interval can be narrow by luck.
LEAST_COUNTED = 60
LEAST_FRESH_OF_FAMILY = 5
FLAT_OVER, FLAT_SHARE = 100, 0.9
DOWN_AFTER = 6


@dataclass(frozen=True)
class Standing:
    """What is known of a model at some point of its exam."""

    counted: int
    mean: float
    interval: tuple[float, float]

    @property
    def half_width(self) -> float:
        return (self.interval[1] - self.interval[0]) / 2


@dataclass
class Sat:
    """One model's exam, as far as it came."""

    target: Target
    prompts: tuple[Prompt, ...]
    replies: dict[str, Reply] = field(default_factory=dict)
    """By prompt_id, as are the scores."""
    scores: dict[str, float] = field(default_factory=dict)
    standings: list[Standing] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    problem: str | None = None
    """Why nothing is to be written of the model."""
    spent_usd: float = 0.0

    @property
    def model(self) -> str:
        return self.target.model

    def output_tokens(self, prompt_id: str) -> float | None:
        """As its endpoint says, or estimated from the text where it says nothing."""
        reply = self.replies.get(prompt_id)
        if reply is None:
            return None
        return reply.output_tokens if reply.output_tokens is not None else len(reply.answer) / CHARS_PER_TOKEN


StandingOf = Callable[[Sat], Standing]


@dataclass
class Sitting:
    """One model, one paper, one log. `advance` hears of every request, `look` of every standing."""

    sat: Sat
    progress: Progress
    client: ChatClient
    budget: Budget
    concurrency: int
    questions: Questions
    paper: Paper
    """Whole; `sat.prompts` are those of it that fit the model's context."""
    precision: float
    """The half width of the 90 % interval at which the exam ends; 0 asks everything."""
    advance: Callable[[], object]
    look: Callable[[Standing], object]

    async def run(self) -> Sat:
        """The exam; what went wrong stands in the result."""
        try:
            await self._greet()
            for begin in range(0, len(self.sat.prompts), ROUND):
                await self._round(begin)
                if self.sat.problem or self._is_enough():
                    break
            self._refuse_too_few()
        except UsageError as exc:
            self.sat.problem = str(exc)
        finally:
            plan = Plan(self.sat.prompts, (self.sat.target,))
            self.sat.spent_usd = spent_usd(plan, self.progress)
        return self.sat

    async def _greet(self) -> None:
        """Ask the first question alone: an endpoint that is none is not asked a second."""
        if self.progress.replies:
            return
        first = self.sat.prompts[:1]
        await self._runner(first).run()
        if reason := self.progress.failures.get((first[0].prompt_id, self.sat.model)):
            raise UsageError(f"does not chat: {reason}")

    async def _round(self, begin: int) -> None:
        """Ask what is missing among the next questions; one that failed is asked again by the next run only."""
        prompts = self.sat.prompts[: begin + ROUND]
        stopped: Stopped | None = None
        try:
            await self._runner(prompts[begin:]).run()
        except Stopped as exc:
            stopped = exc
        await self._grade(prompts)
        self._judge(prompts)
        if stopped is not None and self.sat.problem is None:
            raise stopped

    def _runner(self, prompts: tuple[Prompt, ...]) -> Runner:
        plan = Plan(prompts, (self.sat.target,))
        return Runner(plan, self.progress, self.client, self.concurrency, self.budget, self._heard, DOWN_AFTER)

    def _heard(self, _model: str, _answered: bool) -> None:
        self.advance()

    async def _grade(self, prompts: Sequence[Prompt]) -> None:
        replies = {key[0]: reply for key, reply in self.progress.replies.items()}
        fresh = [p for p in prompts if p.prompt_id in replies and p.prompt_id not in self.sat.scores]
        cases = [(prompt, replies[prompt.prompt_id].answer) for prompt in fresh]
        self.sat.replies |= {prompt.prompt_id: replies[prompt.prompt_id] for prompt in fresh}
        self.sat.scores |= await asyncio.to_thread(_scores, cases)
        standing = await asyncio.to_thread(self._standing)
        self.sat.standings.append(standing)
        self.look(standing)

    def _standing(self) -> Standing:
        return standing_of(self.sat, self.questions, self.paper.counted())

    def _judge(self, prompts: Sequence[Prompt]) -> None:
        # Those of an earlier run that were not asked again yet say nothing of the endpoint as it is now.
        reasons = [self.progress.failures.get((prompt.prompt_id, self.sat.model)) for prompt in prompts]
        failures = [reason for reason in reasons if reason is not None]
        known = {prompt.prompt_id: prompt for prompt in prompts}
        sample = Sample(known, list(self.sat.replies.values()), failures, self.paper.own_room, self.paper.more_room)
        self.sat.faults = faults_in(sample)
        fatal = [fault for fault in self.sat.faults if fault.is_fatal]
        if fatal:
            self.sat.problem = "; ".join(fault.sentence for fault in fatal)

    def _refuse_too_few(self) -> None:
        counted = self.sat.standings[-1].counted
        if self.sat.problem is None and counted < LEAST_SHOTS:
            self.sat.problem = f"{counted} answers count, and {LEAST_SHOTS} are needed: raise --items"

    def _is_enough(self) -> bool:
        now = self.sat.standings[-1]
        if not self.precision or now.counted < LEAST_COUNTED or self._fewest_fresh() < LEAST_FRESH_OF_FAMILY:
            return False
        before = [each for each in self.sat.standings if each.counted <= now.counted - FLAT_OVER]
        is_flat = bool(before) and now.half_width > FLAT_SHARE * before[-1].half_width
        return now.half_width <= self.precision or is_flat

    def _fewest_fresh(self) -> int:
        """Answers in the family with the fewest; of no family nothing is wanted."""
        asked = dict.fromkeys((prompt.task for prompt in self.sat.prompts if prompt.dataset == FRESH), 0)
        for prompt in self.sat.prompts:
            if prompt.dataset == FRESH and prompt.prompt_id in self.sat.scores:
                asked[prompt.task] += 1
        return min(asked.values(), default=LEAST_FRESH_OF_FAMILY)


def scores_of(sat: Sat, prompts: Sequence[Prompt]) -> np.ndarray:
    """Its scores on these prompts [K], NaN where it was not asked."""
    return np.array([sat.scores.get(prompt.prompt_id, np.nan) for prompt in prompts], dtype=float)


def remembered(target: Target, prompts: Sequence[Prompt], replies: Sequence[Reply], standing: StandingOf) -> Sat:
    """An exam of an earlier run, from its answers: nobody is asked."""
    known = {prompt.prompt_id: prompt for prompt in prompts}
    kept = {reply.prompt_id: reply for reply in replies if reply.prompt_id in known}
    asked = [prompt for prompt in prompts if prompt.prompt_id in kept]
    sat = Sat(target, tuple(prompts), kept, dict(_scores([(p, kept[p.prompt_id].answer) for p in asked])))
    sat.standings.append(standing(sat))
    return sat


def standing_of(sat: Sat, questions: Questions, counted: Sequence[Prompt]) -> Standing:
    """What its scores so far say of a model."""
    score_K = scores_of(sat, counted)
    mean, interval = questions.expected_quality(questions.described(score_K))
    return Standing(int(np.isfinite(score_K).sum()), mean, interval)


def _scores(answered: Sequence[tuple[Prompt, str]]) -> Mapping[str, float]:
    """By prompt_id, of what was said after thinking; fresh items all at once, for some run in a sandbox."""
    cases = [(prompt, spoken(text)) for prompt, text in answered]
    fresh = [(prompt, text) for prompt, text in cases if prompt.dataset == FRESH]
    graded = grade_all([(prompt.grader or "", prompt.reference or "", text) for prompt, text in fresh])
    scores = {prompt.prompt_id: score for (prompt, _), score in zip(fresh, graded, strict=True)}
    for prompt, text in cases:
        if prompt.dataset != FRESH:
            scores[prompt.prompt_id] = grade_anchor(prompt.dataset, prompt.grader or "", prompt.reference or "", text)
    return scores
