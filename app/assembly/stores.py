"""What a gateway keeps and shares: opened as one before anything is served, closed after everything else.

`store: embedded` is this process and the files in `state_dir`; an address is Redis, which any number of gateways share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from app.assembly.generated_keys import GeneratedKeys, Place, watched_keys
from app.errors import UsageError
from app.routing.outline import Outlines
from app.settings import Settings
from app.store.journal import redis_journal
from app.store.journal.journal import Journal, RecentDecisions
from app.store.journal.kept import KEEP, JournalStore, Keep
from app.store.journal.recorder import Recorder
from app.store.journal.recording import RecordedJournal
from app.store.journal.spool import Spool
from app.store.journal.sqlite_journal import SqliteJournal
from app.store.keys.issuer import NoLog
from app.store.limits.holders import Holders
from app.store.limits.limits import Limits, MemoryLimits
from app.store.limits.redis_limits import RedisLimits
from app.store.money.budgets import Budgets, Purse
from app.store.money.redis_bank import RedisBank
from app.store.money.sqlite_bank import SqliteBank
from app.store.redis_client import PATIENCE_S, RedisClient, StoreDown
from app.store.redis_memory import evicts_by
from app.store.results import Results
from app.store.sessions import MemorySessions, RedisSessions, Sessions
from app.telemetry import Telemetry
from app.telemetry.kept_metrics import FEATURES, BudgetState

# How long a start waits for what dead processes left. 64 MiB of it may take longer: hard budgets are closed until then.
SWEEP_WITHIN_S = 2.0
# How answers begin that only another password, other rights, or another release mend.
NOT_LET_IN = ("WRONGPASS", "NOAUTH", "NOPERM", "ERR AUTH", "LATER")


@dataclass(frozen=True)
class Stores:
    """Everything that outlives a request."""

    limits: Limits
    budgets: Budgets
    keys: GeneratedKeys
    journal: Journal = field(default_factory=RecentDecisions)
    redis: RedisClient | None = None
    """None where the store is embedded."""
    spool: Spool | None = None
    """Of this process; its name is also what it holds parts of budgets under."""
    sessions: Sessions = field(default_factory=MemorySessions)
    shared_limits: RedisLimits | None = None
    """`limits`, where Redis keeps them."""
    results: Results = field(default_factory=lambda: Results(NoLog()))

    def up(self) -> Mapping[str, bool]:
        """Whether what each feature needs of the store can be had, for the metrics.

        A spool that is stopped is not the store's fault, and has a metric of its own.
        """
        answers = self.redis is None or not self.redis.is_down
        limits = self.shared_limits is None or self.shared_limits.is_shared
        is_stopped = self.spool is not None and self.spool.is_stopped
        kept = {name: answers and (is_stopped or self.results.is_well(name)) for name in ("budgets", "journal")}
        keys = answers and not self.keys.ring.is_stale
        return {**dict.fromkeys(FEATURES, answers), **kept, "keys": keys, "limits": limits}

    def budget_states(self) -> Iterator[BudgetState]:
        """What keys have left, for the metrics."""
        for told in self.budgets.told():
            budget = told.budget
            yield BudgetState(told.key_id, budget.period, budget.usd, budget.usd - told.spent_usd)


@asynccontextmanager
async def open_stores(
    settings: Settings,
    telemetry: Telemetry,
    limits: Limits | None = None,
    sessions: MemorySessions | None = None,
    processes: int = 1,
) -> AsyncIterator[Stores]:
    """`limits` and `sessions` are those that this process shares with others of its gateway, if any.

    There are so many `processes` of it.

    Raises:
        UsageError: a store cannot be opened; the message is one line.
    """
    async with AsyncExitStack() as stack:
        redis, shared, shared_limits, results = None, None, None, Results(telemetry.log)
        limits = limits or MemoryLimits(settings.limits.in_flight, time.monotonic)
        if settings.store:
            redis = _redis(settings.store, settings, PATIENCE_S)
            stack.push_async_callback(redis.aclose)
            shared = RedisSessions(redis)
            stack.push_async_callback(shared.aclose)
            holders = Holders(settings.state_dir, processes, time.monotonic)
            limits = shared_limits = RedisLimits(redis, limits, time.monotonic, holders)
            stack.push_async_callback(shared_limits.aclose)
            await shared_limits.start()
            if policy := await evicts_by(redis):
                telemetry.log.write("store.evicts", policy=policy)
        keys = await stack.enter_async_context(watched_keys(settings, redis))
        spool = _spool(settings)
        store = await stack.enter_async_context(journal_store(settings, settings.journal))
        heard = partial(results.hear, "journal")
        recorder = Recorder(spool, store, telemetry, time.monotonic, time.time, heard)
        stack.push_async_callback(recorder.aclose)
        recorder.start()
        # What it gives back when it is closed is not what the recorder has yet to record, so it may be closed first.
        bank = RedisBank(redis, spool.id) if redis else _sqlite_bank(settings, spool)
        # What a dead process spent is known to no bank before it is recorded.
        purse = Purse(
            bank,
            may_record=lambda: recorder.has_swept and not spool.is_stopped,
            heard=partial(results.hear, "budgets"),
        )
        await stack.enter_async_context(purse)
        await _first_sweep(recorder)
        yield Stores(
            limits,
            purse,
            keys,
            RecordedJournal(spool, store, Outlines(), time.time),
            redis=redis,
            spool=spool,
            sessions=shared or sessions or MemorySessions(),
            shared_limits=shared_limits,
            results=results,
        )


@asynccontextmanager
async def journal_store(place: Place, keep: Keep = KEEP) -> AsyncIterator[JournalStore]:
    """Where the journal is kept; also for those who only read it.

    Raises:
        UsageError: it cannot be opened.
    """
    async with AsyncExitStack() as stack:
        if place.store is None:
            store: JournalStore = SqliteJournal(place.state_dir, keep)
        else:
            # Of its own: a large batch must not hold up what callers wait for.
            client = _redis(place.store, place, redis_journal.PATIENCE_S)
            stack.push_async_callback(client.aclose)
            store = redis_journal.RedisJournal(client, keep)
        stack.push_async_callback(store.aclose)
        yield store


async def eviction_policy(place: Place) -> str | None:
    """By which the shared store drops keys when its memory is full; None where it drops none, or none is shared.

    Raises:
        StoreDown: it does not let the gateway in; the message says why. One that is not there says nothing.
    """
    if place.store is None:
        return None
    client = _redis(place.store, place, redis_journal.PATIENCE_S)
    try:
        await client.ask("PING")
        return await evicts_by(client)
    except StoreDown as exc:
        if str(exc).startswith(NOT_LET_IN):
            raise
        return None
    finally:
        await client.aclose()


async def _first_sweep(recorder: Recorder) -> None:
    """Wait until it is over, but not for long: all but hard budgets can do without."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SWEEP_WITHIN_S):
            while not recorder.has_swept:  # noqa: ASYNC110 - most starts find nothing, and wait for one step
                await asyncio.sleep(0.005)


def _redis(url: str, place: Place, patience_s: float) -> RedisClient:
    password = place.store_password
    return RedisClient(url, password.reveal() if password else None, time.monotonic, patience_s)


def _sqlite_bank(settings: Settings, spool: Spool) -> SqliteBank:
    return SqliteBank(settings.state_dir, spool.id, has_spool=lambda holder: (spool.path.parent / holder).exists())


def _spool(settings: Settings) -> Spool:
    folder = settings.state_dir / "spool"
    try:
        return Spool(folder)
    except OSError as exc:
        raise UsageError(
            f"{folder}: cannot be written: {exc.strerror}; correct state_dir, or the rights on it"
        ) from exc
