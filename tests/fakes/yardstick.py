"""How slow this machine is right now beside the one on which budgets were set, so that tests on speed try the code.

How it works: a fixed piece of plain Python with what requests are made of (JSON, dictionaries, small objects, text) is
timed by its processor time, which machines, neighbours and clock rates change as they change the code under test.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

REFERENCE_US = 40.0
"""What `_work` takes on an idle core of the machine on which budgets were set."""
SHARED = 3.0
"""Budgets are those of an idle core: a shared one is given so many times as much before it counts as a regression."""
_ROUNDS, _CALLS = 5, 100
_BODY = json.dumps({"model": "auto", "messages": [{"role": "user", "content": f"line {n}"} for n in range(20)]})


def slowness_now() -> float:
    """How many times the reference's time this machine takes at the moment, in the round that was disturbed least."""
    took_us = []
    for _ in range(_ROUNDS):
        began_at = time.process_time()
        for _ in range(_CALLS):
            _work()
        took_us.append((time.process_time() - began_at) / _CALLS * 1e6)
    return min(took_us) / REFERENCE_US


class Machine:
    """Measured where a test begins, and again where it asks."""

    def __init__(self, measure: Callable[[], float] = slowness_now) -> None:
        self._measure, self._at_first = measure, measure()

    def slowness(self) -> float:
        """At the slower of the two moments; at least one."""
        return max(1.0, self._at_first, self._measure())


@dataclass(frozen=True)
class _Part:
    role: str
    text: str
    index: int = 0


def _work() -> int:
    body = json.loads(_BODY)
    parts = [_Part(message["role"], message["content"]) for message in body["messages"]]
    parts = [replace(part, index=index) for index, part in enumerate(parts)]
    by_text = {part.text.upper(): part for part in parts}
    ordered = sorted(by_text.values(), key=lambda part: (-part.index, part.text))
    return sum(len(part.text.split()) + part.index for part in ordered)
