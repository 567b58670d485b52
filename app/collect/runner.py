"""Asks every model every prompt that is not answered yet, so many at a time per backend.

Models that share a backend share its concurrency and are asked one after the other: a worker that serves adapters is
fastest when its batch needs only one of them. Under a budget every prompt goes to all of them before the next does, and
no backend gets further ahead of another than its concurrency, so that what was paid for compares the models. The budget
counts the worst case of what is in flight, so it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field

from app.collect.client import AddressUnusable, AskFailed, AskStopped, ChatClient
from app.collect.plan import Plan, Prompt, Target
from app.collect.progress import Progress, Reply
from app.collect.together import one_reason
from app.errors import UsageError

SYNC_EVERY_S = 1.0
# So many requests in a row, each given up after all its attempts: the model or its backend is down, and so will be the
# rest. Under a budget the models of a backend take turns, so one that answers must not hide another.
DOWN_AFTER = 20

Ask = tuple[int, Target, Prompt]
"""The prompt with its place among all."""


class Stopped(UsageError):
    """The collection ended early; what is done is kept and the same command goes on."""

    def __init__(self, reason: str, models: tuple[str, ...] = (), urls: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.models = models
        """Without which it would go on."""
        self.urls = urls
        """Where nothing is taken, of whatever model."""


@dataclass
class _Charge:
    """What a request cost in the end."""

    usd: float


class Budget:
    """USD that may be spent, None for any amount; requests in flight count at their worst case."""

    def __init__(self, limit_usd: float | None, spent_usd: float = 0.0) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self._in_flight_usd = 0.0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def reserve(self, worst_usd: float) -> AsyncIterator[_Charge]:
        """Hold `worst_usd` while asking, then book what the charge says; waits for others where that makes it fit.

        First come, first served: else whoever is done takes what it freed for its next, and those before it never ask.

        Raises:
            Stopped: it would not fit even if nothing else were in flight.
        """
        async with self._turn, self._freed:
            await self._freed.wait_for(lambda: self._fits(worst_usd) or not self._in_flight_usd)
            if not self._fits(worst_usd):
                raise Stopped(
                    f"spent {self.spent_usd:.6f} of {self.limit_usd:.6f} USD, and the next request may cost "
                    f"{worst_usd:.6f}; raise --max-usd and run the same command to go on"
                )
            self._in_flight_usd += worst_usd
        charge = _Charge(worst_usd)
        try:
            yield charge
        finally:
            self.spent_usd += charge.usd
            self._in_flight_usd -= worst_usd
            # Sums of floats leave dust; with nothing in flight the wait above must see zero.
            if self._in_flight_usd < 1e-12:
                self._in_flight_usd = 0.0
            async with self._freed:
                self._freed.notify_all()

    def _fits(self, worst_usd: float) -> bool:
        return self.limit_usd is None or self.spent_usd + self._in_flight_usd + worst_usd <= self.limit_usd


class _Abreast:
    """Backends that go through the same prompts, none more than `lead` of them ahead of the last one with work left."""

    def __init__(self, backends: Iterable[str], lead: int) -> None:
        self._places = dict.fromkeys(backends, 0)
        self._lead = lead
        self._moved = asyncio.Condition()

    async def come_to(self, backend: str, place: int) -> None:
        """Return once the others are near this place."""
        self._places[backend] = place
        async with self._moved:
            self._moved.notify_all()
            # The last one never waits, so some backend always moves.
            await self._moved.wait_for(lambda: place <= min(self._places.values(), default=place) + self._lead)

    async def leave(self, backend: str) -> None:
        """Nobody waits for this backend any more."""
        self._places.pop(backend, None)
        async with self._moved:
            self._moved.notify_all()


@dataclass
class Runner:
    """One run of a plan, on from its progress. `on_done` hears of every request: model, and whether it was answered."""

    plan: Plan
    progress: Progress
    client: ChatClient
    concurrency: int
    budget: Budget
    on_done: Callable[[str, bool], None]
    down_after: int = DOWN_AFTER
    _failed_in_a_row: Counter[str] = field(default_factory=Counter)
    """Requests by model."""
    _failed_at: dict[str, list[str]] = field(default_factory=dict)
    """By backend, the models of the requests in a row that failed there."""

    async def run(self) -> None:
        """Ask what is missing.

        Raises:
            Stopped: the budget is spent, a backend is down, or an endpoint rejects everything.
            OSError: the log cannot be written.
        """
        self.client.has_answered.update(model for _, model in self.progress.replies)
        syncing = asyncio.create_task(self._sync())
        try:
            with one_reason():
                backends = list(dict.fromkeys(target.backend for target in self.plan.targets))
                abreast = _Abreast(backends, self.concurrency)
                async with asyncio.TaskGroup() as tasks:
                    for backend in backends:
                        missing = self._missing(backend)
                        for _ in range(self.concurrency):
                            tasks.create_task(self._work(backend, missing, abreast))
        finally:
            syncing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await syncing

    def _missing(self, backend: str) -> Iterator[Ask]:
        """What one backend has yet to answer; all its workers draw from this one iterator."""
        targets = [each for each in self.plan.targets if each.backend == backend]
        prompts = list(enumerate(self.plan.prompts))
        if self.budget.limit_usd is None:
            asks = ((place, target, prompt) for target in targets for place, prompt in prompts)
        else:
            asks = ((place, target, prompt) for place, prompt in prompts for target in targets)
        return (ask for ask in asks if (ask[2].prompt_id, ask[1].model) not in self.progress.replies)

    async def _work(self, backend: str, missing: Iterator[Ask], abreast: _Abreast) -> None:
        for place, target, prompt in missing:
            if self.budget.limit_usd is not None:
                await abreast.come_to(backend, place)
            await self._ask(target, prompt)
        await abreast.leave(backend)

    async def _ask(self, target: Target, prompt: Prompt) -> None:
        bound_usd = target.bound_usd(prompt)
        async with self.budget.reserve(bound_usd * self.client.patience.attempts) as charge:
            try:
                reply = await self.client.ask(target, prompt)
            except AskFailed as failed:
                charge.usd = failed.lost_attempts * bound_usd
                self.progress.add_failure((prompt.prompt_id, target.model), str(failed), charge.usd)
                self.on_done(target.model, False)
                self._note_failure(target, failed)
            except AskStopped as stopped:
                charge.usd = stopped.lost_attempts * bound_usd
                self.progress.add_stopped((prompt.prompt_id, target.model), charge.usd)
                raise
            except AddressUnusable as exc:
                raise self._unusable(target, exc) from exc
            except UsageError as exc:
                raise Stopped(str(exc), (target.model,)) from exc
            else:
                charge.usd = charge_usd(target, bound_usd, reply)
                self.progress.add_reply(reply, charge.usd)
                self.on_done(target.model, True)
                self._failed_in_a_row[target.model] = 0
                self._failed_at[target.backend] = []

    def _note_failure(self, target: Target, failed: AskFailed) -> None:
        if not failed.exhausted:
            return
        self._failed_in_a_row[target.model] += 1
        failed_there = self._failed_at.setdefault(target.backend, [])
        failed_there.append(target.model)
        if self._failed_in_a_row[target.model] >= self.down_after:
            raise self._down((target.model,), target, failed)
        if len(failed_there) >= self.down_after:
            raise self._down(tuple(dict.fromkeys(failed_there)), target, failed)

    def _down(self, models: tuple[str, ...], last: Target, failed: AskFailed) -> Stopped:
        return Stopped(
            f"{self.down_after} requests in a row got no answer from {', '.join(models)} at {last.backend}, the last "
            f"one: {failed}; see to it and run the same command to go on",
            self._models_at(last) if failed.unreachable else models,
            last.urls if failed.unreachable else (),
        )

    def _unusable(self, target: Target, exc: AddressUnusable) -> Stopped:
        there = self._models_at(target)
        others = f"; all models at that address fail by their {exc.wrong}: {', '.join(there)}" if there[1:] else ""
        return Stopped(f"{exc}{others}", there, target.urls)

    def _models_at(self, target: Target) -> tuple[str, ...]:
        """All models of its backend."""
        return tuple(each.model for each in self.plan.targets if each.backend == target.backend)

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            await asyncio.to_thread(self.progress.sync)


def spent_usd(plan: Plan, progress: Progress) -> float:
    """What earlier runs of this plan have cost, the worst case where it is not known."""
    targets = {target.model: target for target in plan.targets}
    prompts = {prompt.prompt_id: prompt for prompt in plan.prompts}
    total = progress.other_usd
    for reply in progress.replies.values():
        target, bound_usd = targets[reply.model], targets[reply.model].bound_usd(prompts[reply.prompt_id])
        total += charge_usd(target, bound_usd, reply)
    return total


def charge_usd(target: Target, bound_usd: float, reply: Reply) -> float:
    """What a reply cost with its lost attempts; `bound_usd` for each of which that is not known."""
    cost_usd = target.cost_usd(reply.input_tokens, reply.output_tokens)
    return reply.lost_attempts * bound_usd + (bound_usd if cost_usd is None else cost_usd)
