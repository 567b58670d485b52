"""Money that keys may spend: held back before a request is sent, settled with what it cost.

How it works: a bank, shared by all processes, knows what was spent on an account (one key's day or month) and what it
has lent to each process. It lends no more than is left, so that spent + lent never exceeds a hard budget. A process has
a `Purse`: out of what it was lent it holds back the worst case of each request, without asking anybody.

    free = lent in all - given back - settled - held back

The journal moves money from lent to spent at the bank when it applies the record of a request, any time after that was
settled here; since what was settled is no longer free, it makes no difference when. So what the purse gives back is
always still lent, and what it has lent out is enough for all that it may yet record. Only a request that costs more
than its worst case can break a budget, by that much; the next slice makes up for it.

A slice is a twentieth of what is left, or what is needed where that is more, or all that is left where that is enough:
so the last cents go to whoever needs them. Slices that lie idle go back after one or two seconds. The bank forgets what
it lent to a process that was silent for ten minutes. A purse that has not heard of the bank for three seconds trusts
its slices no longer: hard budgets are closed until it hears again, while what is in flight is settled as ever.

Answers may be lost on the way, so a bank says each time how much it has lent in all, and a purse says what it knows: a
bank that has lost its data, or a part of them, learns from its purses what was spent and lent before it lends again.
So that it notices, purses speak of idle accounts too, several times a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple, Protocol

from app.domain.clock import Clock
from app.errors import BudgetSpent, BudgetUnavailable
from app.store.keys.key import Budget
from app.store.money.accounts import ASKS_UNTIL_RECORDED, NANO_USD, Account, Claim, Hold, Standing, Window, window_of
from app.store.redis_client import StoreDown
from app.store.results import Heard, nobody

TEND_EVERY_S = 1.0
# How long a bank that forgets hears nothing of an account that lies idle, and of how many such it hears at a time:
# an exchange takes a process 0.1 ms, and Redis half of that.
TELL_AGAIN_S, TOLD_AT_ONCE = 15.0, 30
# Two ticks may be late or lost.
TRUST_S = 3.0
# How long it is believed that a bank has no more, so that refusals ask nobody.
REFUSED_FOR_S = 0.2
# An answer may be lost because this process was busy; when the bank is known to be down, asking again takes no time.
ATTEMPTS = 3
# A busy SQLite makes others wait; a caller does not wait longer than this.
PATIENCE_S = 1.0
# Longer than any request takes, and than a wall clock is usually corrected by.
PAST_KEPT_S = 7_200.0


class Bank(Protocol):
    """Lends what is left of budgets. All of it may raise `StoreDown`."""

    forgets: bool
    """Whether it may lose a part of what it was told, and so has to be told of all again from time to time."""

    async def hello(self) -> float:
        """Say that this holder lives; returns the seconds for which nothing will be lent."""
        ...

    async def exchange(self, claim: Claim) -> Standing: ...

    async def aclose(self) -> None: ...


class Told(NamedTuple):
    """What is known of a key's budget in its present day or month."""

    key_id: str
    budget: Budget
    spent_usd: float
    reserved_usd: float
    """For requests of this process that have not ended."""


class Budgets(Protocol):
    """Holds money back."""

    def account(self, key_id: str, budget: Budget, at: float | None = None) -> Account:
        """The account of a request that was admitted at this wall-clock time, or now."""
        ...

    def take(self, account: Account, usd: float) -> Hold | None:
        """Hold it back out of what is here; None where that is not enough, or not to be trusted."""
        ...

    async def draw(self, account: Account, most_usd: float, least_usd: float) -> Hold:
        """Hold back `most`, or what is left where that is less, but at least `least`.

        Raises:
            BudgetSpent: there is not so much left.
            BudgetUnavailable: nobody can say how much is left.
        """
        ...

    def told(self) -> list[Told]:
        """Keys that have spent or asked something since this process began."""
        ...

    def adopt(self, budgets: Mapping[str, Budget | None]) -> None:
        """Go on with these, by key: what was spent stays; keys that are gone, or have none, are told no more."""


class Purse:
    """The budgets of one process. Use it as a context: on leaving it gives everything back."""

    def __init__(
        self,
        bank: Bank,
        clock: Clock = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        may_record: Callable[[], bool] = lambda: True,
        heard: Heard = nobody,
    ) -> None:
        """`may_record` says whether what is spent can be written down, and what was spent before it has been; until
        then hard budgets are closed."""
        self._bank, self._clock, self._wall_clock, self._may_record = bank, clock, wall_clock, may_record
        self._heard = heard
        self._accounts: dict[str, Account] = {}
        self._past: list[Account] = []
        """Of days and months that are over, as requests of them may not be."""
        self._trusted_until = float("-inf")
        self._tending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Purse:
        with suppress(StoreDown):
            while wait_s := await self._greet():  # noqa: ASYNC110 - what is waited for happens in other processes
                await asyncio.sleep(wait_s)
        self._tending = asyncio.create_task(self._tend_for_ever(), name="budgets")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._tending:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        moving = [account.moving for account in self._accounts.values() if account.moving]
        await asyncio.gather(*moving, return_exceptions=True)
        for account in self._accounts.values():
            account.is_used = False
        await self.tend()
        await self._bank.aclose()

    def account(self, key_id: str, budget: Budget, at: float | None = None) -> Account:
        account = self._accounts.get(key_id)
        now = self._wall_clock() if at is None else at
        if account and account.budget is budget and account.begins_at <= now < account.ends_at:
            return account
        return self._open(key_id, budget, window_of(budget, now))

    def take(self, account: Account, usd: float) -> Hold | None:
        if not account.budget.hard:
            return account.hold(0.0)
        if account.free_usd + NANO_USD < usd or not self._is_trusted() or not self._may_record():
            return None
        return account.hold(usd)

    async def draw(self, account: Account, most_usd: float, least_usd: float) -> Hold:
        has_asked, attempts = False, ATTEMPTS
        while self._may_record() and attempts:
            free_usd, is_trusted = account.free_usd, self._is_trusted()
            if has_asked and not is_trusted:
                break
            if is_trusted and free_usd + NANO_USD >= (least_usd if has_asked else most_usd):
                return account.hold(min(free_usd, most_usd))
            if is_trusted and self._has_no_more(account, least_usd - free_usd):
                raise self._refusal(account, least_usd)
            try:
                has_asked |= await self._grow(account, most_usd - free_usd, least_usd - free_usd)
            except (StoreDown, TimeoutError):
                attempts -= 1
        raise _unavailable()

    def told(self) -> list[Told]:
        return [
            Told(one.key_id, one.budget, one.known_spent_usd, one.reserved_usd)
            for one in self._accounts.values()
            if self._wall_clock() < one.ends_at
        ]

    def adopt(self, budgets: Mapping[str, Budget | None]) -> None:
        for key_id, account in tuple(self._accounts.items()):
            budget = budgets.get(key_id)
            if budget is None:
                self._past.append(self._accounts.pop(key_id))
            elif budget is not account.budget:
                adopted = self._open(key_id, budget, window_of(budget, self._wall_clock()))
                # What this month had cost before it was asked about, only the bank knows.
                adopted.asks_left = ASKS_UNTIL_RECORDED

    async def tend(self) -> None:
        """Say that this process lives, give back what lies idle, and hear what others have spent."""
        with suppress(StoreDown):
            has_lost = await self._greet() > 0.0
            await asyncio.gather(*self._tended(has_lost))

    def _open(self, key_id: str, budget: Budget, window: Window) -> Account:
        """The account of another day or month than the one in use, or under another budget."""
        known = self._accounts.get(key_id)
        if known and known.period == window.period:
            known.budget = budget
            return known
        account = next((one for one in self._past if (one.key_id, one.period) == (key_id, window.period)), None)
        if account is None:
            account = Account(key_id, budget, window)
            self._past.append(account)
        account.budget = budget
        if window.begins_at <= self._wall_clock() < window.ends_at:
            self._past.remove(account)
            self._past += [known] if known else []
            self._accounts[key_id] = account
        return account

    def _is_trusted(self) -> bool:
        return self._clock() < self._trusted_until

    def _has_no_more(self, account: Account, usd: float) -> bool:
        """Whether the bank said a moment ago that it has less than this."""
        return self._clock() - account.told_at < REFUSED_FOR_S and usd > account.unlent_usd + NANO_USD

    def _refusal(self, account: Account, least_usd: float) -> BudgetSpent:
        per, left_usd = account.budget.period, max(0.0, account.left_usd)
        money = f"${account.budget.usd:.10g} a {per}"
        needs = f"this request may cost ${least_usd:.6f} even with a short answer"
        if left_usd + NANO_USD >= least_usd:
            return BudgetSpent(
                f"what is left of this key's budget of {money} is held for requests in flight; {needs}, so try again "
                "when one of them has ended",
                retry_after_s=1,
            )
        wait_s = max(1, int(account.ends_at - self._wall_clock()) + 1)
        starts = datetime.fromtimestamp(account.ends_at, UTC).isoformat().replace("+00:00", "Z")
        return BudgetSpent(
            f"this key's budget of {money} is spent: ${left_usd:.6f} is left, and {needs}; a new {per} begins {starts}",
            retry_after_s=wait_s,
            may_retry=False,
        )

    async def _grow(self, account: Account, most_usd: float, least_usd: float) -> bool:
        """Wait until this account's exchange is over; returns whether it was this one.

        Raises:
            StoreDown, TimeoutError: there was no answer.
        """
        is_own = account.moving is None and not account.is_in_doubt
        if account.is_in_doubt:
            # Whether the last exchange was done is to be known first.
            most_usd = least_usd = 0.0
        moving = account.moving or self._move(account, most_usd, least_usd)
        async with asyncio.timeout(PATIENCE_S):
            # Who leaves meanwhile takes nothing with him: what is lent arrives here all the same.
            await asyncio.shield(moving)
        return is_own

    def _move(
        self, account: Account, most_usd: float = 0.0, least_usd: float = 0.0, back_usd: float = 0.0
    ) -> asyncio.Task[None]:
        account.moving = task = asyncio.create_task(self._exchange(account, most_usd, least_usd, back_usd))
        task.add_done_callback(_retrieve)
        return task

    async def _exchange(self, account: Account, most_usd: float, least_usd: float, back_usd: float) -> None:
        asked_at = self._clock()
        try:
            standing = await self._bank.exchange(account.claim(most_usd, least_usd, back_usd, asked_at))
            account.heard(standing, self._clock())
            self._trust(asked_at, standing.lends)
            self._heard(None)
        except StoreDown as exc:
            account.is_in_doubt = True
            self._heard(exc)
            raise
        finally:
            account.moving = None

    async def _greet(self) -> float:
        asked_at = self._clock()
        try:
            wait_s = await self._bank.hello()
        except StoreDown as exc:
            self._heard(exc)
            raise
        if not any(account.is_in_doubt for account in self._accounts.values()):
            self._heard(None)
        self._trust(asked_at, not wait_s)
        return wait_s

    def _trust(self, asked_at: float, lends: bool) -> None:
        self._trusted_until = max(self._trusted_until, asked_at + TRUST_S) if lends else float("-inf")

    def _tended(self, has_lost: bool) -> Iterator[asyncio.Task[None]]:
        """Exchanges for accounts of which there is something to say; for all, where the bank has lost what it knew."""
        kept_after = self._wall_clock() - PAST_KEPT_S
        self._past = [one for one in self._past if one.holds or one.ends_at > kept_after]
        accounts = (*self._accounts.values(), *self._past)
        again = self._to_be_told_again(accounts)
        for account in accounts:
            is_of_use = account.is_used or account.is_in_doubt or account.held_usd - account.settled_usd > NANO_USD
            is_of_use, account.asks_left = is_of_use or account.asks_left > 0, max(0, account.asks_left - 1)
            if account.moving is None and (is_of_use or has_lost or account in again):
                debt_usd = max(0.0, -account.free_usd) if account.budget.hard else 0.0
                back_usd, account.is_used, account.largest_usd = account.surplus_usd(), False, 0.0
                yield self._move(account, debt_usd, 0.0, back_usd)
            elif account.ends_at <= kept_after and not account.holds:
                self._accounts.pop(account.key_id, None)

    def _to_be_told_again(self, accounts: Sequence[Account]) -> Collection[Account]:
        told_before = self._clock() - TELL_AGAIN_S
        silent = (one for one in accounts if one.told_at < told_before)
        return set(islice(silent, TOLD_AT_ONCE)) if self._bank.forgets else ()

    async def _tend_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TEND_EVERY_S)
            await self.tend()


def _unavailable() -> BudgetUnavailable:
    return BudgetUnavailable("what is left of this key's budget cannot be told now; try again", retry_after_s=2)


def _retrieve(task: asyncio.Task[None]) -> None:
    """What went wrong is told to whoever waits, if anybody does."""
    if not task.cancelled():
        task.exception()
