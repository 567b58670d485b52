"""What docker-compose.yml starts, without an engine: proxy, two gateways from their image, Redis, Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tests.conftest import ROOT
from tests.fakes.container import TMPFS, confined
from tests.fakes.rehearsal import Network, network, require_namespaces
from tests.integration.conftest import Built

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SECRETS = {"THALAMUS_KEY": "sk-rehearsal", "REDIS_PASSWORD": "correct-horse"}
EXPERTS = tuple(f"smollm2-135m-{name}" for name in ("math", "extract", "sql", "python", "convert", "lists", "german"))
MODELS = {"worker-base": ("smollm2-135m", *EXPERTS), "worker-small": ("smollm2-71m",)}
SHARED = {"/srv/shared": "size=1m,mode=700,uid=65534,gid=65534"}


def test_compose_rehearsed_without_an_engine(built: Built, tmp_path: Path) -> None:
    """A gateway is stopped while callers ask: nobody hears of it."""
    require_namespaces()
    for program in ("haproxy", "redis-server", "prometheus"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin"):
            pytest.skip(f"{program} is not installed")
    tmp_path.chmod(0o755)
    services = {name: one for name, one in COMPOSE["services"].items() if "gpu" not in one.get("profiles", ())}
    with network(tmp_path, services, COMPOSE["networks"]) as net:
        _start(net, built, tmp_path)
        asked = _traffic(net, built, seconds=12)
        time.sleep(4)
        seen = {name: _seen_of_a_gateway(net, name) for name in ("prometheus", *MODELS)}
        net.running["gateway-1"].send_signal(signal.SIGTERM)
        assert asked.wait(60) == 0
        said = net.log("traffic").read_text().splitlines()[-1]
        sums = _query(net, "sum by (instance) (last_over_time(thalamus_decisions_total[5m]))")
        workers = _query(net, 'up{job="vllm"}')
    print(json.dumps({"traffic": said, "decisions": sums}))

    assert seen == {"prometheus": {8080, 8081}, "worker-base": set(), "worker-small": set()}
    assert workers == {"worker-base:8101": 1, "worker-small:8102": 1}
    assert set(re.findall(r"of status (\w+)", said)) <= {"200", "404", "422"}
    assert "of status 200" in said
    assert {"gateway-1:8081", "gateway-2:8081"} == set(sums)
    assert all(count > 0 for count in sums.values())


def _seen_of_a_gateway(net: Network, service: str) -> set[int]:
    """Ports that answer this service, whichever address of the gateway it asks."""
    addresses = [address.partition("/")[0] for address in net.addresses["gateway-1"].values()]
    pages = {8080: "healthz", 8081: "metrics"}
    asked = ((port, f"http://{address}:{port}/{page}") for address in addresses for port, page in pages.items())
    return {port for port, url in asked if net.fetch(url, service)}


def _start(net: Network, built: Built, folder: Path) -> None:
    """As `depends_on` has them start, each once the ones before are well."""
    for name, models in MODELS.items():
        port = COMPOSE["services"][name]["command"][-1]
        worker = (sys.executable, "-m", "tests.fakes.compose_worker", port, *models)
        net.start(name, worker, PYTHONPATH=str(ROOT))
    redis = folder / "redis.conf"
    (folder / "data").mkdir()
    redis.write_text((ROOT / "deploy/redis/redis.conf").read_text().replace("dir /data", f"dir {folder}/data"))
    command = [part.replace("/etc/thalamus-redis.conf", str(redis)) for part in COMPOSE["services"]["redis"]["command"]]
    net.start("redis", [part.replace("$$", "$") for part in command], **SECRETS)
    net.start("door-cpu", ("haproxy", "-db", "-f", str(ROOT / "deploy/haproxy/workers.cfg")))
    for name in ("gateway-1", "gateway-2"):
        net.start(name, _gateway(net, built, name, COMPOSE["services"][name]["command"]))
    config = shutil.copytree(ROOT / "deploy/prometheus", folder / "prometheus")
    watch = (f"--config.file={config}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb")
    net.start("prometheus", ("prometheus", *watch))
    net.start("proxy", ("haproxy", "-db", "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")))
    for name in ("gateway-1", "gateway-2", "proxy"):
        _until(lambda name=name: "ok" in net.fetch(f"http://{name}:8080/readyz"), net.log(name))  # type: ignore[misc]


def _gateway(net: Network, built: Built, name: str, arguments: list[str]) -> tuple[str, ...]:
    arguments = [part.replace("${THALAMUS_CONFIG:-compose.yaml}", "compose.yaml") for part in arguments]
    image = replace(built.gateway, environment=built.gateway.environment | SECRETS)
    mounted = {str(ROOT / "configs"): "/srv/configs", str(net.hosts(name)): "/etc/hosts"}
    return confined(image, arguments, {**TMPFS, **SHARED}, mounted)


def _traffic(net: Network, built: Built, seconds: float) -> Any:
    arguments = [*COMPOSE["services"]["traffic"]["command"], "--per-s", "15", "--seconds", str(seconds)]
    return net.start("traffic", _gateway(net, built, "traffic", arguments))


def _query(net: Network, expression: str) -> dict[str, float]:
    page = f"http://prometheus:9090/api/v1/query?query={quote(expression)}"
    _until(lambda: len(json.loads(net.fetch(page) or '{"data": {"result": []}}')["data"]["result"]) == 2, None)
    found = json.loads(net.fetch(page))["data"]["result"]
    return {one["metric"]["instance"]: float(one["value"][1]) for one in found}


def _until(holds: Callable[[], bool], log: Path | None, within_s: float = 90.0) -> None:
    ends_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends_at, log and log.read_text()[-2000:]
        time.sleep(0.5)
