"""Accounts of money: one key's day or month as one process sees it, and what it says of it to a bank and hears.

`app.store.money.budgets` says how it works.
"""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from typing import NamedTuple

from app.store.keys.key import Budget

SHARE = 0.05
"""Of what is left of a budget, the most that a process is lent beyond its need."""
SILENT_S = 600.0
"""A holder that says nothing for so long is dead. No request takes longer by default."""
ASKS_UNTIL_RECORDED = 3
"""The journal has on record what was settled once the bank was asked so often, a second apart."""
DAY_S = 86_400.0
NANO_USD = 1e-9
"""Sums of many floats differ by less."""
MILLION = 1_000_000


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
    heard_turn: int
    """The last one that was answered: a bank that knows less has forgotten. 0 where that is long ago."""
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


def slice_of(left_usd: float, most_usd: float, least_usd: float) -> float:
    """What a bank lends to one who wants `most`, out of what is left."""
    if most_usd <= 0.0 or left_usd + NANO_USD < max(least_usd, NANO_USD):
        return 0.0
    return max(0.0, min(max(most_usd, SHARE * left_usd), left_usd))


class Account:
    """One key's money in one day or month, as one process sees it."""

    __slots__ = (
        "asks_left",
        "begins_at",
        "budget",
        "ends_at",
        "heard_turn",
        "held_usd",
        "holds",
        "is_in_doubt",
        "is_used",
        "key_id",
        "known_spent_usd",
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
        self.reserved_usd = self.largest_usd = self.settled_usd = 0.0
        self.known_spent_usd = 0.0
        """By all: no less than what the bank has on record, nor than what was known before and this process has settled
        since."""
        self.holds, self.turn, self.heard_turn, self.asks_left = 0, 0, 0, 0
        self.is_used = self.is_in_doubt = False
        self.told_at = float("-inf")
        self.moving: asyncio.Task[None] | None = None

    @property
    def free_usd(self) -> float:
        return self.held_usd - self.settled_usd - self.reserved_usd

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
            # The bank may take this holder for dead by now.
            self._give_up_the_free()
            self.heard_turn = 0
        known = (self.heard_turn, self.held_usd, self.own_usd, self.spent_usd)
        self.held_usd -= back_usd
        self.own_usd -= back_usd
        return Claim(
            self.key_id, self.period, self.budget.usd, self.turn, *known, most_usd, least_usd, max(0.0, back_usd)
        )

    def heard(self, standing: Standing, now: float) -> None:
        """The bank has answered."""
        self.held_usd, self.own_usd, self.spent_usd, self.lent_usd, _ = standing
        # Of what was held for it, the bank has on record what it lent and this process no longer has.
        recorded_usd = self.held_usd - self.own_usd
        unrecorded_usd = max(0.0, self.settled_usd - recorded_usd)
        # Of what was settled softly nobody can say whether it is in there; so none of it is forgotten, nor added.
        self.known_spent_usd = max(self.known_spent_usd, self.spent_usd + unrecorded_usd)
        self.heard_turn, self.told_at, self.is_in_doubt = self.turn, now, False

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
    """Money held back for one request; under a soft budget it is none, whatever the budget becomes until it is over."""

    __slots__ = ("_account", "_is_hard", "_is_open", "usd")

    def __init__(self, account: Account, usd: float) -> None:
        self._account, self.usd = account, usd
        self._is_hard, self._is_open = account.budget.hard, True

    @property
    def period(self) -> str | None:
        """The day or month of whose slice it is; None where it is of none."""
        return self._account.period if self._is_hard else None

    @property
    def over_usd(self) -> float:
        """How far the key's budget is overdrawn, in whole millionths, rounded up; only a soft one can be."""
        return max(0, math.ceil((-self._account.left_usd - NANO_USD) * MILLION)) / MILLION

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
        account.known_spent_usd += cost_usd
        if self._is_hard:
            account.settled_usd += cost_usd
        else:
            account.asks_left = ASKS_UNTIL_RECORDED
        account.is_used = True


def window_of(budget: Budget, now: float) -> Window:
    """The day or month of UTC that a time is in."""
    at = datetime.fromtimestamp(now, UTC)
    begins = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if budget.period == "day":
        return Window(f"{at:%Y-%m-%d}", begins.timestamp(), begins.timestamp() + DAY_S)
    years, month = divmod(at.month, 12)
    ends = begins.replace(year=at.year + years, month=month + 1, day=1)
    return Window(f"{at:%Y-%m}", begins.replace(day=1).timestamp(), ends.timestamp())
