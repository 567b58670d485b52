"""`python -m tests.load.bench`: measure gateways side by side; writes a table, the figures and a plot.

Rounds alternate over the gateways, and the median of the rounds counts, with the lowest and the highest beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import uvloop

from tests.conftest import free_ports
from tests.load.bench import report
from tests.load.bench.gateways import GATEWAYS, KEY, NAMES, ROOT, Gateway, Site, Unavailable, portkey_header
from tests.load.bench.sender import Load, requests_of, send

TOKENS = 32
# The clock of a process ticks at 10 ms: fewer requests would measure the clock.
PLAIN, STREAMED = 6_000, 2_000


@dataclass(frozen=True, slots=True)
class Case:
    """One way to load a gateway."""

    name: str
    load: Load
    gap_ms: float = 0.0
    """Between two events of a stand-in's stream."""


CASES = (
    Case("plain", Load(PLAIN)),
    Case("stream, saturated", Load(STREAMED, stream=True)),
    Case("stream, 5 ms apart", Load(STREAMED, stream=True), gap_ms=5.0),
    Case("one at a time", Load(1_500, connections=1)),
    Case("prompt of 512 tokens", Load(PLAIN // 2, words=380)),
    Case("prompt of 4k tokens", Load(PLAIN // 4, words=3_000)),
    Case("prompt of 32k tokens", Load(PLAIN // 16, words=24_000, warm_up=50)),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--gateways", default=";".join(GATEWAYS), help="separated by semicolons")
    options.add_argument("--cases", default=";".join(case.name for case in CASES), help="separated by semicolons")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--share", type=float, default=1.0, help="of the requests of each case")
    options.add_argument("--output", type=Path, default=ROOT / "var/bench")
    given = options.parse_args()
    names = [name for name in GATEWAYS if name in given.gateways.split(";")]
    cases = [case for case in CASES if case.name in given.cases.split(";")]
    figures = measure(names, cases, given.rounds, given.share)
    report.write(figures, given.output)
    print((given.output / "gateways.md").read_text())


def measure(names: list[str], cases: list[Case], rounds: int, share: float) -> list[dict[str, Any]]:
    """One row for each gateway, case and round that could be measured; where one could not, the reason."""
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        for gap_ms in sorted({case.gap_ms for case in cases}):
            of_gap = [case for case in cases if case.gap_ms == gap_ms]
            with stand_ins(gap_ms) as workers:
                for name in names:
                    rows += _measured(GATEWAYS[name], of_gap, workers, number, share)
    return rows


def _measured(
    gateway: Gateway, cases: list[Case], workers: list[str], number: int, share: float
) -> list[dict[str, Any]]:
    try:
        with standing(gateway, workers) as (port, pid, header):
            rows = [_figures(gateway, case, port, pid, header, share) for case in cases]
    except Unavailable as exc:
        print(f"{gateway.name}: not measured: {exc}", file=sys.stderr)
        return [{"gateway": gateway.name, "case": case.name, "unavailable": str(exc)} for case in cases]
    return [{**row, "round": number} for row in rows]


def _figures(gateway: Gateway, case: Case, port: int, pid: int, header: str, share: float) -> dict[str, Any]:
    slow = 0.1 if gateway.name == "litellm" else 1.0
    load = Load(
        max(50, int(case.load.requests * share * slow)),
        case.load.connections,
        case.load.stream,
        case.load.words,
        max(20, int(case.load.warm_up * share * slow)),
    )
    made = [
        one.replace(b"\r\n", b"\r\n" + header.encode(), 1) for one in requests_of(load, port, gateway.model, KEY, 7)
    ]
    uvloop.run(send(made[: load.warm_up], port, load, TOKENS))
    cpu_s, began_at = _cpu_s(pid), time.perf_counter()
    sent = uvloop.run(send(made[load.warm_up :], port, load, TOKENS))
    wall_s, spent_s = time.perf_counter() - began_at, _cpu_s(pid) - cpu_s
    row = {
        "gateway": gateway.name,
        "case": case.name,
        "requests": load.requests,
        "cpu_ms": round(spent_s / load.requests * 1e3, 4),
        "p50_ms": round(statistics.median(sent.latency_ms), 3) if sent.latency_ms else None,
        "p99_ms": round(statistics.quantiles(sent.latency_ms, n=100)[98], 3) if sent.latency_ms else None,
        "per_s": round(load.requests / wall_s, 1),
        "rss_mib": round(sum(each.memory_info().rss for each in _tree(pid)) / 2**20, 1),
        "wrong": {kind: count for kind, count in sent.answers.items() if kind != "ok"},
    }
    print(json.dumps(row), file=sys.stderr)
    return row


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _cpu_s(pid: int) -> float:
    total = 0.0
    for each in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def stand_ins(gap_ms: float) -> Iterator[list[str]]:
    """The URLs of two stand-ins that run while the block does."""
    ports = free_ports(len(NAMES))
    commands = [
        [sys.executable, "-m", "tests.load.bench.stand_in", f"--port={port}", f"--name={name}", f"--gap-ms={gap_ms}"]
        for name, port in zip(NAMES, ports, strict=True)
    ]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with _running(commands[0], urls[0] + "/v1/models"), _running(commands[1], urls[1] + "/v1/models"):
        yield urls


@contextmanager
def standing(gateway: Gateway, workers: list[str]) -> Iterator[tuple[int, int, str]]:
    """Port, process and further header of a gateway that runs while the block does."""
    with TemporaryDirectory() as folder:
        port, admin_port = free_ports(2)
        site = Site(Path(folder), port, admin_port, workers)
        command = list(gateway.command(site))
        header = portkey_header(site) if gateway.name == "portkey" else ""
        with _running(command, f"http://127.0.0.1:{site.port}{gateway.ready_path}") as pid:
            if gateway.name in ("smg", "vllm-router"):
                time.sleep(4)  # they take requests before they know their workers
            yield site.port, pid, header


@contextmanager
def _running(command: list[str], ready_url: str, within_s: float = 60.0) -> Iterator[int]:
    log = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True) as process:
        try:
            _until_ready(process, ready_url, within_s)
            yield process.pid
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself, and so have its children
                os.killpg(process.pid, signal.SIGKILL)


def _until_ready(process: subprocess.Popen[bytes], url: str, within_s: float) -> None:
    give_up_at = time.monotonic() + within_s
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise Unavailable(f"it ended with exit code {process.returncode} at its start")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise Unavailable(f"it was not ready within {within_s:g} s")


if __name__ == "__main__":
    main()
