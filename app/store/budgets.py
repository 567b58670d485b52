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
bank that has lost its data learns from its purses what was spent and lent before it lends again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from app.errors import BudgetSpent, BudgetUnavailable
from app.store.keys import Budget
from app.store.limits import Clock
from app.store.redis_client import StoreDown

SHARE = 0.05
"""Of what is left of a budget, the most that a process is lent beyond its need."""
SILENT_S = 600.0
"""A holder that says nothing for so long is dead. No request takes longer by default."""
TEND_EVERY_S = 1.0
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
DAY_S = 86_400.0
NANO_USD = 1e-9
"""Sums of many floats differ by less."""


class Window(NamedTuple):
    """A day or month of UTC: its name, and its ends by wall clock."""

    period: str
    begins_at: float
    ends_at: float


class Claim(NamedTuple):
    """What a holder knows of an account, and what it wants."""

    key_id: str
    period: str
    """`2026-11-27` or `2026-11`, in UTC."""
    limit_usd: float
    turn: int
    """Grows with each exchange: what arrives late is recognised."""
    held_usd: float
    """Lent to this holder in all, less what it gave back."""
    own_usd: float
    """Of that what was not recorded as spent, when the bank last said so."""
    spent_usd: float
    most_usd: float = 0.0
    """What it wants to be lent."""
    least_usd: float = 0.0
    """With less than this it can do nothing."""
    back_usd: float = 0.0
    """What it gives back."""


class Standing(NamedTuple):
    """What a bank says of an account."""

    held_usd: float
    own_usd: float
    spent_usd: float
    lent_usd: float
    """To all holders."""
    lends: bool = True
    """False while it waits for holders to say what it has forgotten."""


class Bank(Protocol):
    """Lends what is left of budgets. All of it may raise `StoreDown`."""

    async def hello(self) -> float:
        """Say that this holder lives; returns the seconds for which nothing will be lent."""
        ...

    async def exchange(self, claim: Claim) -> Standing: ...

    async def aclose(self) -> None: ...


def slice_of(left_usd: float, most_usd: float, least_usd: float) -> float:
    """What a bank lends to one who wants `most`, out of what is left."""
    if most_usd <= 0.0 or left_usd + NANO_USD < max(least_usd, NANO_USD):
        return 0.0
    return max(0.0, min(max(most_usd, SHARE * left_usd), left_usd))


class Account:
    """One key's money in one day or month, as one process sees it."""

    __slots__ = (
        "_recorded_usd",
        "begins_at",
        "budget",
        "ends_at",
        "held_usd",
        "holds",
        "is_in_doubt",
        "is_used",
        "key_id",
        "largest_usd",
        "lent_usd",
        "moving",
        "own_usd",
        "period",
        "reserved_usd",
        "settled_usd",
        "spent_usd",
        "told_at",
        "turn",
    )

    def __init__(self, key_id: str, budget: Budget, window: Window) -> None:
        self.key_id, self.budget = key_id, budget
        self.period, self.begins_at, self.ends_at = window
        self.held_usd = self.own_usd = self.spent_usd = self.lent_usd = 0.0
        self.settled_usd = self.reserved_usd = self.largest_usd = self._recorded_usd = 0.0
        self.holds, self.turn = 0, 0
        self.is_used = self.is_in_doubt = False
        self.told_at = float("-inf")
        self.moving: asyncio.Task[None] | None = None

    @property
    def free_usd(self) -> float:
        return self.held_usd - self.settled_usd - self.reserved_usd

    @property
    def known_spent_usd(self) -> float:
        """By all, with what this process has settled and the bank has not heard of."""
        return self.spent_usd + max(0.0, self.settled_usd - self._recorded_usd)

    @property
    def left_usd(self) -> float:
        """What is not spent, as far as is known; below zero where a soft budget is overdrawn."""
        return self.budget.usd - self.known_spent_usd

    @property
    def slice_usd(self) -> float:
        return SHARE * self.left_usd

    @property
    def unlent_usd(self) -> float:
        """What the bank had left when it was last heard of."""
        return self.budget.usd - self.spent_usd - self.lent_usd

    def hold(self, usd: float) -> Hold:
        self.reserved_usd += usd
        self.holds += 1
        self.is_used = True
        self.largest_usd = max(self.largest_usd, usd)
        return Hold(self, usd)

    def claim(self, most_usd: float, least_usd: float, back_usd: float, now: float) -> Claim:
        """What goes back is out of reach from now on, whether or not an answer comes."""
        self.turn += 1
        if now - self.told_at > SILENT_S / 2:
            self._give_up_the_free()
        known = (self.held_usd, self.own_usd, self.spent_usd)
        self.held_usd -= back_usd
        return Claim(
            self.key_id, self.period, self.budget.usd, self.turn, *known, most_usd, least_usd, max(0.0, back_usd)
        )

    def heard(self, standing: Standing, settled_usd: float, now: float) -> None:
        """The bank has answered; `settled_usd` is what was settled when it was asked."""
        self.held_usd, self.own_usd, self.spent_usd, self.lent_usd, _ = standing
        # Of what this process has settled, the bank has on record what it was lent and no longer has.
        self._recorded_usd = self.held_usd - self.own_usd if self.budget.hard else settled_usd
        self.told_at, self.is_in_doubt = now, False

    def surplus_usd(self) -> float:
        """What is better given back: all that lies idle, or what is more than a slice and than any request needs."""
        kept_usd = max(SHARE * self.unlent_usd, self.largest_usd) if self.is_used else 0.0
        return max(0.0, self.free_usd - kept_usd)

    def _give_up_the_free(self) -> None:
        """The bank may have lent it to others by now; if not, it will say so."""
        free_usd = max(0.0, self.free_usd)
        self.held_usd -= free_usd
        self.own_usd -= free_usd


class Hold:
    """Money held back for one request."""

    __slots__ = ("_account", "_is_open", "usd")

    def __init__(self, account: Account, usd: float) -> None:
        self._account, self.usd, self._is_open = account, usd, True

    @property
    def over_usd(self) -> float:
        """How far the key's budget is overdrawn; only a soft one can be."""
        return max(0.0, -self._account.left_usd)

    def shrink(self, usd: float) -> None:
        """The request needs no more than this."""
        self._account.reserved_usd -= self.usd - usd
        self.usd = usd

    def settle(self, cost_usd: float) -> None:
        """The request is over and cost so much; once."""
        if not self._is_open:
            return
        self._is_open, account = False, self._account
        account.holds -= 1
        account.reserved_usd = account.reserved_usd - self.usd if account.holds else 0.0
        account.settled_usd += cost_usd
        account.is_used = True


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


class Purse:
    """The budgets of one process. Use it as a context: on leaving it gives everything back."""

    def __init__(
        self,
        bank: Bank,
        clock: Clock = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        may_record: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_record` says whether what is spent can be written down; while it cannot, hard budgets are closed."""
        self._bank, self._clock, self._wall_clock, self._may_record = bank, clock, wall_clock, may_record
        self._accounts: dict[str, Account] = {}
        self._past: list[Account] = []
        """Of days and months that are over, while requests of them are not."""
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

    async def tend(self) -> None:
        """Say that this process lives, give back what lies idle, and hear what others have spent."""
        with suppress(StoreDown):
            has_lost = await self._greet() > 0.0
            await asyncio.gather(*self._tended(has_lost))

    def _open(self, key_id: str, budget: Budget, window: Window) -> Account:
        """The account of another day or month than the one in use, or under another budget."""
        known = self._accounts.get(key_id)
        for one in (known, *self._past):
            if one and (one.key_id, one.period) == (key_id, window.period):
                one.budget = budget
                return one
        account = Account(key_id, budget, window)
        if known and known.begins_at > window.begins_at:
            self._past.append(account)
            return account
        if known:
            self._past.append(known)
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
        asked_at, settled_usd = self._clock(), account.settled_usd
        try:
            standing = await self._bank.exchange(account.claim(most_usd, least_usd, back_usd, asked_at))
            account.heard(standing, settled_usd, self._clock())
            self._trust(asked_at, standing.lends)
        except StoreDown:
            account.is_in_doubt = True
            raise
        finally:
            account.moving = None

    async def _greet(self) -> float:
        asked_at = self._clock()
        wait_s = await self._bank.hello()
        self._trust(asked_at, not wait_s)
        return wait_s

    def _trust(self, asked_at: float, lends: bool) -> None:
        self._trusted_until = max(self._trusted_until, asked_at + TRUST_S) if lends else float("-inf")

    def _tended(self, has_lost: bool) -> Iterator[asyncio.Task[None]]:
        """Exchanges for accounts of which there is something to say; for all, where the bank has lost what it knew."""
        kept_after = self._wall_clock() - PAST_KEPT_S
        self._past = [one for one in self._past if one.holds or one.ends_at > kept_after]
        for key_id, account in tuple(self._accounts.items()):
            is_of_use = account.is_used or account.is_in_doubt or account.held_usd - account.settled_usd > NANO_USD
            if account.moving is None and (is_of_use or has_lost):
                debt_usd = max(0.0, -account.free_usd) if account.budget.hard else 0.0
                back_usd, account.is_used, account.largest_usd = account.surplus_usd(), False, 0.0
                yield self._move(account, debt_usd, 0.0, back_usd)
            elif account.ends_at <= kept_after and not account.holds:
                del self._accounts[key_id]

    async def _tend_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TEND_EVERY_S)
            await self.tend()


def window_of(budget: Budget, now: float) -> Window:
    """The day or month of UTC that a time is in."""
    at = datetime.fromtimestamp(now, UTC)
    begins = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if budget.period == "day":
        return Window(f"{at:%Y-%m-%d}", begins.timestamp(), begins.timestamp() + DAY_S)
    years, month = divmod(at.month, 12)
    ends = begins.replace(year=at.year + years, month=month + 1, day=1)
    return Window(f"{at:%Y-%m}", begins.replace(day=1).timestamp(), ends.timestamp())


def _unavailable() -> BudgetUnavailable:
    return BudgetUnavailable("what is left of this key's budget cannot be told now; try again", retry_after_s=2)


def _retrieve(task: asyncio.Task[None]) -> None:
    """What went wrong is told to whoever waits, if anybody does."""
    if not task.cancelled():
        task.exception()
