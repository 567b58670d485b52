"""A bank in memory, for any number of purses of one process; it can be down, slow, or lose what it was told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from app.store.money.accounts import Claim, Standing, slice_of
from app.store.money.budgets import Bank
from app.store.redis_client import StoreDown


@dataclass
class Vault:
    """What several banks share."""

    spent_usd: dict[tuple[str, str], float] = field(default_factory=dict)
    lent_usd: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    """By account and holder."""
    got_usd: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """Lent in all, less what came back; by account and holder."""
    is_down: bool = False
    fails: int = 0
    """How many of the next exchanges fail, with nothing of them done."""
    loses_answers: int = 0
    """How many of the next exchanges are done without anybody hearing of it."""
    exchanges: int = 0

    def bank(self, holder: str) -> Bank:
        return MemoryBank(self, holder)

    def accounts(self) -> set[tuple[str, str]]:
        return {*self.spent_usd, *self.lent_usd}

    def spent(self, account: tuple[str, str]) -> float:
        return self.spent_usd.get(account, 0.0)

    def record(self, holder: str, account: tuple[str, str], usd: float, *, is_held: bool = True) -> None:
        """As the journal does when it applies what a request cost."""
        self.spent_usd[account] = self.spent_usd.get(account, 0.0) + usd
        lent = self.lent_usd.get(account, {})
        if is_held and holder in lent:
            lent[holder] -= usd

    def forget(self, holder: str) -> None:
        """It is dead."""
        for lent in self.lent_usd.values():
            lent.pop(holder, None)
        self.got_usd = {whose: usd for whose, usd in self.got_usd.items() if whose[2] != holder}

    def committed_usd(self, account: tuple[str, str]) -> float:
        """Spent and lent."""
        return self.spent(account) + sum(max(0.0, usd) for usd in self.lent_usd.get(account, {}).values())

    async def aclose(self) -> None:
        """Nothing is open."""


class MemoryBank(Bank):
    """One holder's."""

    forgets = True

    def __init__(self, vault: Vault | None = None, holder: str = "me") -> None:
        self.vault, self._holder = vault or Vault(), holder

    async def hello(self) -> float:
        self._check()
        return 0.0

    async def exchange(self, claim: Claim) -> Standing:
        self._check()
        await asyncio.sleep(0)
        self.vault.exchanges += 1
        if self.vault.fails:
            self.vault.fails -= 1
            raise StoreDown("as told")
        standing = self._exchanged(claim)
        if self.vault.loses_answers:
            self.vault.loses_answers -= 1
            raise StoreDown("as told")
        return standing

    async def aclose(self) -> None:
        """Nothing is open."""

    def _check(self) -> None:
        if self.vault.is_down:
            raise StoreDown("as told")

    def _exchanged(self, claim: Claim) -> Standing:
        account, got = (claim.key_id, claim.period), (claim.key_id, claim.period, self._holder)
        lent, spent_usd = self.vault.lent_usd.setdefault(account, {}), self.vault.spent(account)
        own_usd, held_usd = lent.get(self._holder, claim.own_usd), self.vault.got_usd.get(got, claim.held_usd)
        others_usd = sum(max(0.0, usd) for holder, usd in lent.items() if holder != self._holder)
        left_usd = claim.limit_usd - spent_usd - others_usd - max(0.0, own_usd)
        change_usd = slice_of(left_usd, claim.most_usd, claim.least_usd) - claim.back_usd
        lent[self._holder], self.vault.got_usd[got] = own_usd + change_usd, held_usd + change_usd
        lent_usd = others_usd + max(0.0, own_usd + change_usd)
        return Standing(held_usd + change_usd, own_usd + change_usd, spent_usd, lent_usd)
