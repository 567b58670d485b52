"""What all connections of a listener share, and the timer that looks through them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from app.api.call import BODY_WITHIN_S
from app.api.connection.doors import Doors
from app.api.operations import Operation

# A connection is at most this much later closed than it is overdue.
SWEEP_EVERY_S = 0.5
# Who has just come is about to send: a round trip round the world takes less.
SPARED_S = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that the parts of a connection may take."""

    head_s: float = 10.0
    body_s: float = BODY_WITHIN_S
    idle_s: float = 75.0
    """Between calls. Front proxies keep connections for 60 s; who closes first risks a call that meets the closing."""
    stranger_idle_s: float = 5.0
    """The same where no valid key was seen: health checks need no connection that stays, and keys no longer one."""
    unread_s: float = 60.0
    """For a caller who reads nothing of what is written to him."""


class Connection(Protocol):
    """What the timer looks at."""

    due_at: float
    """When its present phase has taken too long, in the loop's time."""

    def overdue(self) -> None:
        """It has."""

    def give_way(self) -> None:
        """Close for somebody else."""


@dataclass(slots=True, eq=False)
class Front:
    """What all connections of a listener share."""

    doors: Doors
    operations: Mapping[str, Operation]
    """What is answered without the control routes, by path."""
    patience: Patience = field(default_factory=Patience)
    max_connections: int = 1 << 20
    connections: set[Connection] = field(default_factory=set)
    _waiting: dict[Connection, float] = field(default_factory=dict)
    """Those that wait for a call and have shown no valid key, the longest first; and when they may be closed."""
    _next_sweep: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        return len(self.connections) > self.max_connections

    @property
    def is_overfull(self) -> bool:
        """Whether there is no room even for those who are refused."""
        return len(self.connections) > self.max_connections + max(1, self.max_connections // 10)

    def join(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Look after a connection until it leaves."""
        self.connections.add(connection)
        if self._next_sweep is None:
            self._next_sweep = loop.call_later(SWEEP_EVERY_S, self._sweep, loop)

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._waiting.pop(connection, None)

    def waits(self, connection: Connection, spared_until: float) -> None:
        """It waits for a call, and has shown no valid key."""
        self._waiting[connection] = spared_until

    def goes_on(self, connection: Connection) -> None:
        """It does not wait any more."""
        self._waiting.pop(connection, None)

    def make_room(self, now: float) -> bool:
        """Close the connection that waits longest without a key, if one may be."""
        longest = next((one for one, spared_until in self._waiting.items() if spared_until <= now), None)
        if longest is None:
            return False
        self.leave(longest)
        longest.give_way()
        return True

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next_sweep = None
        now = loop.time()
        for connection in tuple(self.connections):
            if connection.due_at <= now:
                connection.overdue()
        if self.connections:
            self._next_sweep = loop.call_later(SWEEP_EVERY_S, self._sweep, loop)
