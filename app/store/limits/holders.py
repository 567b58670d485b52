"""How many processes share the limits, for the time that Redis does not say it.

How it works: the number is kept in `state_dir`, so that a start without Redis knows it too. A larger one counts at
once, and a smaller one when there were no more for a minute: gateways that are restarted one after the other are few
for a moment only. Time in which nothing was told is no such minute: they come back to Redis one after the other, too.
Where none was ever told, there are at least the processes of this gateway.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

from app.domain.clock import Clock

FILE = "holders"
# Longer than a gateway takes to drain and to start again.
FEWER_AFTER_S = 60.0
# Some beats: who hears nothing for longer was alone.
HEARD_WITHIN_S = 5.0


class Holders:
    """The number, as one process knows it."""

    def __init__(self, folder: Path, at_least: int, clock: Clock) -> None:
        """`at_least` so many there are, whatever the file says."""
        self._path, self._at_least, self._clock = folder / FILE, at_least, clock
        self._kept = self._read()
        self._were_there_at = self._heard_at = clock()

    @property
    def number(self) -> int:
        return max(self._kept, self._at_least)

    def hear(self, number: int) -> None:
        """Redis says that there are so many."""
        now = self._clock()
        if number >= self._kept or now - self._heard_at > HEARD_WITHIN_S:
            self._were_there_at = now
        self._heard_at = now
        if number > self._kept or (number < self._kept and now - self._were_there_at >= FEWER_AFTER_S):
            self._kept, self._were_there_at = number, now
            self._write(number)

    def _read(self) -> int:
        try:
            return int(self._path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def _write(self, number: int) -> None:
        """As a whole or not at all. A disk that takes nothing is told of by who keeps more there."""
        beside = self._path.with_name(f".{FILE}-{secrets.token_hex(4)}")
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                beside.write_text(f"{number}\n", encoding="ascii")
                beside.replace(self._path)
            finally:
                beside.unlink(missing_ok=True)
