"""Several models sit one exam: those of a backend one after the other, backends side by side, one budget for all.

Answers of each model are kept in a folder of its own, so that models may be added later and nothing is asked twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import aiohttp

from app.collect.client import ChatClient, Patience
from app.collect.dataset import build_dataset
from app.collect.graders import Graded
from app.collect.plan import Estimate, Plan, Target
from app.collect.progress import FILE_NAME, Progress, replies_in, spent_in
from app.collect.runner import Budget, spent_usd
from app.errors import UsageError
from app.exam.paper import Paper
from app.exam.sitting import Sat, Sitting, Standing, remembered, standing_of
from router_models.joining.exam import LEAST_SHOTS, Questions
from router_models.outcomes.dataset import OutcomesDataset

# Three waits of 0.5 to 2 s pass over a restart; an endpoint that is down is told apart within a minute.
PATIENCE = Patience(attempts=4)


@dataclass(frozen=True)
class Candidate:
    """A model that sits the exam, and how much it can read."""

    target: Target
    context_tokens: int | None
    has_sat: bool = False
    """In an earlier run: its answers are taken from there, and it is not asked again."""


@dataclass(frozen=True)
class Watch:
    """Who hears of the exam: of every request of a model, and of every standing."""

    advance: Callable[[str], object]
    look: Callable[[str, Standing], object]


@dataclass(frozen=True)
class Hall:
    """The paper, who sits it, and what bounds it."""

    paper: Paper
    questions: Questions
    candidates: Sequence[Candidate]
    folder: Path
    concurrency: int
    precision: float
    anew: Set[str] = frozenset()
    """Models whose answers so far do not count."""

    def begun_anew(self) -> Hall:
        """With the answers so far of those that sit anew set aside; what they cost stays spent."""
        for candidate in self._sitting():
            place = self._place(candidate)
            if candidate.target.model in self.anew and replies_in(place):
                self._set_aside(candidate)
        return replace(self, anew=frozenset())

    def _set_aside(self, candidate: Candidate) -> None:
        place, spent = self._place(candidate), self._spent_usd(candidate)
        tries = (place.with_name(f"{place.name}.before-{number}") for number in itertools.count(1))
        place.rename(next(path for path in tries if not path.exists()))
        with self._progress(candidate, self._plan(candidate)) as progress:
            progress.add_earlier(spent)

    def answered(self) -> Mapping[str, tuple[int, str]]:
        """Of models that sit now and have answers already: how many count, and the day of the last one."""
        found = {}
        for candidate in self._sitting():
            place = self._place(candidate)
            if candidate.target.model not in self.anew and (replies := replies_in(place)):
                day = datetime.fromtimestamp((place / FILE_NAME).stat().st_mtime, UTC)
                found[candidate.target.model] = (len(replies), f"{day:%Y-%m-%d}")
        return found

    def estimates(self) -> list[Estimate]:
        """What the whole paper would still send to each model that sits now, and cost at most."""
        found = []
        for candidate in self._sitting():
            plan = self._plan(candidate)
            with self._progress(candidate, plan) as progress:
                found += plan.estimates(() if candidate.target.model in self.anew else progress.replies)
        return found

    def spent_usd(self) -> float:
        """What all exams have cost so far, those of models that have joined since too."""
        return sum(map(self._spent_usd, self.candidates))

    def _spent_usd(self, candidate: Candidate) -> float:
        if candidate.has_sat:
            # Its plan may be another by now, so that only the log says what its answers cost.
            return spent_in(self._place(candidate))
        plan = self._plan(candidate)
        with self._progress(candidate, plan) as progress:
            return spent_usd(plan, progress)

    def kept(self) -> int:
        """How many answers there are of those who sit now."""
        return sum(len(replies_in(self._place(candidate))) for candidate in self._sitting())

    def forgotten(self) -> list[str]:
        """Models that have sat, of whose answers too few are left."""
        known = {prompt.prompt_id for prompt in self.paper.counted()}
        has_sat = [candidate for candidate in self.candidates if candidate.has_sat]
        left = {
            one.target.model: {reply.prompt_id for reply in replies_in(self._place(one))} & known for one in has_sat
        }
        return [model for model, found in left.items() if len(found) < LEAST_SHOTS]

    def _sitting(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if not candidate.has_sat]

    async def hold(self, max_usd: float | None, watch: Watch) -> list[Sat]:
        """All exams, in the order of the candidates; `max_usd` bounds what they cost together, with earlier runs."""
        budget = Budget(max_usd, self.spent_usd())
        backends: dict[str, list[Candidate]] = {}
        for candidate in self.candidates:
            backends.setdefault(candidate.target.backend, []).append(candidate)
        # Bounded by the sittings; redirects and the environment's proxies stay unused.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            client = ChatClient(session, PATIENCE)
            done = await asyncio.gather(*(self._one_by_one(each, client, budget, watch) for each in backends.values()))
        by_model = {sat.model: sat for group in done for sat in group}
        return [by_model[candidate.target.model] for candidate in self.candidates]

    async def _one_by_one(
        self, candidates: Sequence[Candidate], client: ChatClient, budget: Budget, watch: Watch
    ) -> list[Sat]:
        return [await self._sit(candidate, client, budget, watch) for candidate in candidates]

    async def _sit(self, candidate: Candidate, client: ChatClient, budget: Budget, watch: Watch) -> Sat:
        model = candidate.target.model
        if candidate.has_sat:
            replies, counted = replies_in(self._place(candidate)), self.paper.counted()
            sat = remembered(
                candidate.target, self.paper.prompts, replies, lambda sat: standing_of(sat, self.questions, counted)
            )
            return replace(sat, spent_usd=self._spent_usd(candidate))
        plan = self._plan(candidate)
        with self._progress(candidate, plan) as progress:
            for _ in progress.replies:
                watch.advance(model)
            sitting = Sitting(
                sat=Sat(candidate.target, plan.prompts),
                progress=progress,
                client=client,
                budget=budget,
                concurrency=self.concurrency,
                questions=self.questions,
                paper=self.paper,
                precision=self.precision,
                advance=lambda: watch.advance(model),
                look=lambda standing: watch.look(model, standing),
            )
            return await sitting.run()

    def _plan(self, candidate: Candidate) -> Plan:
        prompts = self.paper.fitting(candidate.context_tokens)
        if not prompts:
            raise UsageError(f"{candidate.target.model} has a context of {candidate.context_tokens} tokens: too short")
        return Plan(prompts, (candidate.target,))

    def _progress(self, candidate: Candidate, plan: Plan) -> Progress:
        place = self._place(candidate)
        try:
            return Progress(place, plan.header())
        except UsageError as exc:
            if "another --output" not in str(exc):
                raise
            raise UsageError(
                f"{place} has answers of {candidate.target.model} under another served_as or context; delete "
                "that folder to let it sit anew"
            ) from exc

    def _place(self, candidate: Candidate) -> Path:
        return self.folder / quote(candidate.target.model, safe="")


def outcomes_of(paper: Paper, sats: Sequence[Sat]) -> OutcomesDataset:
    """What the models scored on the prompts that count; lengths are estimated where nothing is said of them."""
    prompts = tuple(paper.counted())
    known = {prompt.prompt_id for prompt in prompts}
    replies = {
        reply.key: replace(reply, output_tokens=round(sat.output_tokens(prompt_id) or 0))
        for sat in sats
        for prompt_id, reply in sat.replies.items()
        if prompt_id in known
    }
    scores = {
        (prompt_id, sat.model): score for sat in sats for prompt_id, score in sat.scores.items() if prompt_id in known
    }
    return build_dataset(Plan(prompts, tuple(sat.target for sat in sats)), replies, Graded(scores))
