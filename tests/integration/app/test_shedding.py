"""Four times as many requests as the workers can answer: the gateway goes on answering as many, the urgent ones first.

The gateway, its worker and the callers are processes of their own. The worker answers `SLOTS` at a time, `SERVICE_S`
each, so what it can do at most is known; what is measured is how much of that is left in a crowd.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.admission.shedding import RETRY_WITHIN_S
from app.cli.processes import Children
from tests.conftest import ROOT, free_ports
from tests.fakes.deployment import GATEWAY, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timing]

SLOTS, SERVICE_S, IN_FLIGHT = 16, 0.4, 64
ALL_S = IN_FLIGHT / SLOTS * SERVICE_S
"""The longest that a request waits and is answered, when all places are taken."""
PLENTY = SLOTS / SERVICE_S
PRIORITIES = {"low": 0.3, "normal": 0.6, "high": 0.1}
QUIET, _, CROWD, AFTER = range(4)


@dataclass(frozen=True)
class Sent:
    """What became of one request."""

    phase: int
    due_s: float
    priority: str
    status: int
    took_s: float
    retry_after_s: int
    late_s: float
    """How late it was sent."""

    @property
    def ok(self) -> bool:
        return self.status == 200


@dataclass(frozen=True)
class World:
    url: str
    admin: str
    gateway_pid: int

    def send(self, *phases: tuple[float, float, dict[str, float]]) -> list[Sent]:
        """Send phases of so many requests per second for so many seconds, by priority."""
        command = [sys.executable, "-m", "tests.load.crowd", self.url, json.dumps(phases)]
        done = subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, check=True)
        return [Sent(*row) for row in json.loads(done.stdout)]

    def peak_mib(self) -> float:
        """The most memory that the gateway has had so far."""
        status = Path(f"/proc/{self.gateway_pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@contextmanager
def running(folder: Path) -> Iterator[World]:
    worker, gateway, admin = free_ports(3)
    urls = [f"http://127.0.0.1:{port}" for port in (worker, gateway, admin)]
    key = {**GATEWAY["keys"][0], "max_priority": "high"}
    listen: dict[str, Any] = {"listen": f"127.0.0.1:{gateway}", "admin_listen": f"127.0.0.1:{admin}"}
    config = write_config(folder, {"small": urls[0]}, keys=[key], limits={"in_flight": IN_FLIGHT}, **listen)
    python = [sys.executable, "-m"]
    with Children(folder / "log") as children:
        narrow = ["tests.load.narrow_worker", str(worker), "org/small", str(SLOTS), str(SERVICE_S)]
        children.start("worker", [*python, *narrow], f"{urls[0]}/v1/models", _environment())
        children.wait_until_ready(30)
        serve = ["app.cli", "serve", "--config", str(config)]
        process = children.start("gateway", [*python, *serve], f"{urls[1]}/readyz", _environment()).process
        children.wait_until_ready(30)
        yield World(urls[1], urls[2], process.pid)


class Control:
    """How late a sleep of 10 ms ends in a process that has nothing to do: what the machine itself adds to a wait."""

    def __init__(self) -> None:
        self._late_s: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Control:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def p99_s(self) -> float:
        return at(0.99, self._late_s)

    def _watch(self) -> None:
        began_at = time.monotonic()
        while not self._over.wait(0.01):
            now = time.monotonic()
            self._late_s.append(now - began_at - 0.01)
            began_at = now


def at(share: float, values: Sequence[float]) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else 0.0


def figures(sent: list[Sent], crowd_s: float, steady_s: float) -> dict[str, Any]:
    def phase(number: int) -> list[Sent]:
        return [one for one in sent if one.phase == number]

    def answered(number: int) -> list[float]:
        return [one.took_s for one in phase(number) if one.ok]

    def answers_per_s(began_s: float, seconds: float) -> float:
        return sum(one.ok and began_s <= one.due_s + one.took_s < began_s + seconds for one in sent) / seconds

    crowd, after = phase(CROWD), phase(AFTER)
    began_s = min(one.due_s for one in crowd)
    refused = [one for one in crowd if not one.ok]
    ended_s = min(one.due_s for one in after)
    late = [one.due_s - ended_s for one in after if not one.ok or one.took_s > 2 * at(0.99, answered(QUIET))]
    return {
        "crowd_rps": round(len(crowd) / crowd_s),
        "peak_rps": round(answers_per_s(began_s - steady_s / 2, steady_s / 2), 1),
        "goodput_rps": round(answers_per_s(began_s, crowd_s), 1),
        "base_p99_s": round(at(0.99, answered(QUIET)), 3),
        "accepted_p99_s": round(at(0.99, answered(CROWD)), 3),
        "refused_p99_s": round(at(0.99, [one.took_s for one in refused]), 3),
        "refused_as": sorted({one.status for one in refused}),
        "retry_after_s": sorted({one.retry_after_s for one in refused}),
        "ok": {
            name: round(sum(one.ok for one in crowd if one.priority == name) / _count(crowd, name), 4)
            for name in PRIORITIES
        },
        "normal_after_s": round(max(late, default=0.0), 2),
    }


def _count(sent: list[Sent], priority: str) -> int:
    return sum(one.priority == priority for one in sent)


def test_four_times_what_can_be_answered(tmp_path: Path, full_size: bool) -> None:
    crowd_s, steady_s = (60.0, 10.0) if full_size else (6.0, 3.0)
    everybody = {"normal": 1.0}
    with running(tmp_path) as world:
        quiet = (0.25 * PLENTY, 2.0, everybody)
        before_mib = world.peak_mib()
        with Control() as control:
            sent = world.send(
                quiet,
                (1.5 * PLENTY, steady_s, everybody),
                (4 * PLENTY, crowd_s, PRIORITIES),
                (0.5 * PLENTY, 6.0, everybody),
            )
        found = figures(sent, crowd_s, steady_s) | {"grown_mib": round(world.peak_mib() - before_mib, 1)}
    # The caller, the gateway and the worker each wait for the machine, going and coming; the caller for itself too.
    spare_s = 6 * control.p99_s() + 2 * at(0.99, [one.late_s for one in sent if one.phase == CROWD])
    found["spare_s"] = round(spare_s, 3)
    print(f"\n{json.dumps({'test': 'shedding', 'full': full_size, **found})}")
    assert found["goodput_rps"] >= 0.9 * found["peak_rps"] >= 0.8 * PLENTY
    assert found["accepted_p99_s"] <= 2 * found["base_p99_s"] + ALL_S + spare_s
    assert found["refused_p99_s"] <= 0.05 + spare_s
    assert found["refused_as"] == [503]
    assert found["retry_after_s"] == list(range(1, RETRY_WITHIN_S + 1))
    assert found["ok"]["high"] >= 0.99
    assert found["ok"]["low"] < found["ok"]["normal"]
    assert found["grown_mib"] <= 64
    assert found["normal_after_s"] <= 5
