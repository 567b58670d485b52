"""A fake backend that fails a share of its requests."""

from __future__ import annotations

import random

from tests.fakes.backend import FakeBackend, Script

BROKEN = Script(status=500)


class Moody(FakeBackend):
    """Fails a share of its requests; the others are answered as `script` says."""

    fails = 0.0
    rng = random.Random(7)

    @property
    def script(self) -> Script:
        return BROKEN if self.rng.random() < self.fails else self._script

    @script.setter
    def script(self, script: Script) -> None:
        self._script = script

    @property
    def asked(self) -> int:
        """Callers' requests; probes are nobody's."""
        return sum(not one.headers["x-request-id"].startswith("probe-") for one in self.requests)
