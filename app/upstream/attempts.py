"""What was tried for one request, and who hears of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from app.domain.decision import Candidate, Decision
from app.domain.request import Request
from app.errors import UpstreamError
from app.upstream.deadline import Deadline
from app.upstream.replica import Replica

# A request that broke two workers is taken for the cause.
MAX_BROKEN = 2


class Target(NamedTuple):
    """What an attempt is made on."""

    candidate: Candidate
    replica: Replica


class Witness(Protocol):
    """Hears of the attempts that are made for a request."""

    def attempted(self, candidate: Candidate, since: float) -> None:
        """A backend is asked, for the first time or once more; `since` is by the dispatcher's clock."""

    def failed(self) -> None:
        """One of them has failed, and not for want of time: nobody works on it any more."""


class _Nobody:
    def attempted(self, candidate: Candidate, since: float) -> None: ...

    def failed(self) -> None: ...


NOBODY = _Nobody()


@dataclass(slots=True)
class Call:
    """One request on its way: what was tried so far, and what failed."""

    request: Request
    decision: Decision
    deadline: Deadline
    session: str | None
    began_at: float
    witness: Witness
    tried: list[Target] = field(default_factory=list)
    failures: list[UpstreamError] = field(default_factory=list)
    broken: set[Replica] = field(default_factory=set)
    """Those that broke over it."""

    @property
    def is_poison(self) -> bool:
        return len(self.broken) >= MAX_BROKEN
