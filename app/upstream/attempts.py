"""What was tried for one request, and who hears of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from app.domain.decision import Candidate, Decision
from app.domain.frozen import frozen
from app.domain.models import Model
from app.domain.request import Request
from app.errors import UpstreamBroken, UpstreamError, UpstreamRateLimited
from app.upstream.fleet.replica import Replica
from app.upstream.http.deadline import Deadline

# A request that broke two workers is taken for the cause.
MAX_BROKEN = 2


@frozen
class Target:
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
    limited: set[tuple[Replica, str]] = field(default_factory=set)
    """Those that are over the rate limit of a model, by its backend's name, and may have others that are not."""

    @property
    def is_poison(self) -> bool:
        return len(self.broken) >= MAX_BROKEN

    @property
    def counted(self) -> int:
        """How many attempts it has had. What one account refuses for its rate limits is one, whatever it was asked for:
        a second model of it must not cost the try of another backend."""
        return len(self.tried) - len(self.limited) + len({replica.backend.name for replica, _ in self.limited})

    def failed(self, target: Target, error: UpstreamError) -> None:
        """An attempt on it failed."""
        replica = target.replica
        if isinstance(error, UpstreamBroken):
            self.broken.add(replica)
        elif isinstance(error, UpstreamRateLimited) and replica.backend.kind == "openai":
            self.limited.add((replica, target.candidate.model.served_as))

    def tried_for(self, model: Model) -> Collection[Replica]:
        """Replicas that are not to be tried for a model, as it was tried there, or another one that did not merely
        reach its limit."""
        if not self.tried:
            return ()
        asked = [(target.replica, target.candidate.model.served_as) for target in self.tried]
        return [one[0] for one in asked if one[1] == model.served_as or one not in self.limited]
