"""Every panel and every rule has data in a real run: real workers, load and faults, a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Workers
from tests.fakes.observed import Callers, inject_faults, observed
from tests.fakes.prometheus import CONFIG, Prometheus, expressions, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=f"this machine has no {missing()}"),
]

RATES_OVER = "10s"
"""What Grafana makes of `$__rate_interval` when it looks this closely."""


def test_every_alert_fires_when_it_should_and_none_when_all_is_well() -> None:
    for path in sorted((CONFIG / "tests").glob("*.yml")):
        run = subprocess.run(("promtool", "test", "rules", path), capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_has_such_a_test() -> None:
    tests = yaml.safe_load((CONFIG / "tests" / "alerts.yml").read_text())["tests"]
    for test in tests:
        assert [each["alertname"] for each in test["alert_rule_test"]] == [each["alert"] for each in _rules("alert")]


def test_prometheus_takes_our_configuration() -> None:
    run = subprocess.run(("promtool", "check", "config", CONFIG / "prometheus.yml"), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.vllm
async def test_every_expression_returns_data_in_a_real_run(
    tmp_path: Path, demo_workers: Workers, full_size: bool
) -> None:
    async with observed(tmp_path, demo_workers) as there:
        callers = Callers(there.url)
        await asyncio.gather(callers.ask_for(60 if full_size else 22), inject_faults(there, callers))
        await asyncio.sleep(3)
        empty = await asyncio.to_thread(_empty, there.prometheus)
        requests = there.prometheus.value("sum(thalamus_requests_total)")
    asked = list(_expressions("1s"))
    print(f"\n{json.dumps({'requests': requests, 'expressions': len(asked), 'empty': empty})}")
    assert empty == []


def _empty(prometheus: Prometheus) -> list[str]:
    """Expressions without a number, and metrics that they read and that nobody has."""
    expressions_ = dict.fromkeys(_expressions(f"{int(time.time() - prometheus.began_at) + 1}s"))
    metrics = dict.fromkeys(name for each in expressions_ for name in re.findall(r"(?:thalamus_|vllm:)\w+", each))
    return [each for each in (*expressions_, *metrics) if not prometheus.finite(each)]


def _expressions(whole_run: str) -> Iterator[str]:
    """Of all panels and rules; of alerts without the threshold."""
    filled = {"$__rate_interval": RATES_OVER, "$__range": whole_run, "$profile": ".*", "$model": ".*"}
    for expression in expressions():
        yield re.sub("|".join(map(re.escape, filled)), lambda found: filled[found[0]], expression)
    for rule in _rules("record"):
        yield rule["record"]
    for rule in _rules("alert"):
        yield re.sub(r" (==|<|>) [\d.]+$", "", rule["expr"].strip())


def _rules(kind: str) -> list[Mapping[str, Any]]:
    return [
        rule
        for path in sorted((CONFIG / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    ]
