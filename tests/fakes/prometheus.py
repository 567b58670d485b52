"""A real Prometheus of one test's own, with our rules, which scrapes what it is told."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import orjson
import yaml

from deploy.grafana import DASHBOARDS
from tests.conftest import ROOT, free_ports

CONFIG = ROOT / "deploy" / "prometheus"
READY_WITHIN_S = 30.0
SCRAPE_EVERY_S = 1


def expressions() -> list[str]:
    """Every expression of our dashboards."""
    return [query.expr for each in DASHBOARDS for row in each.rows for panel in row.panels for query in panel.queries]


class Prometheus:
    """Answers questions about what it has seen since it was started."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log
        self.began_at = time.time()

    def finite(self, expression: str) -> int:
        """How many numbers it has for an expression, at any time of the run; those that are none do not count."""
        now = time.time()
        asked = {"query": expression, "start": self.began_at, "end": now, "step": max(1.0, (now - self.began_at) / 500)}
        series = self._ask("query_range", asked)
        return sum(math.isfinite(float(value)) for one in series for _, value in one["values"])

    def value(self, expression: str) -> float | None:
        """The one number that an expression is now."""
        series = self._ask("query", {"query": expression})
        return float(series[0]["value"][1]) if series else None

    def _ask(self, what: str, asked: dict[str, Any]) -> list[Any]:
        with urlopen(f"{self.url}/api/v1/{what}?{urlencode(asked)}", timeout=20) as answer:
            found: list[Any] = orjson.loads(answer.read())["data"]["result"]
            return found


def missing() -> str | None:
    """What a test needs and this machine does not have."""
    return next((name for name in ("prometheus", "promtool") if not shutil.which(name)), None)


@contextmanager
def running_prometheus(folder: Path, thalamus: Sequence[str], vllm: Sequence[str]) -> Iterator[Prometheus]:
    """Our configuration, at these addresses, looking once a second."""
    shutil.copytree(CONFIG, folder / "config")
    config = yaml.safe_load((folder / "config" / "prometheus.yml").read_text())
    config["global"] = {f"{what}_interval": f"{SCRAPE_EVERY_S}s" for what in ("scrape", "evaluation")}
    for scraped in config["scrape_configs"]:
        scraped.pop("dns_sd_configs", None)
    (folder / "config" / "prometheus.yml").write_text(yaml.safe_dump(config))
    for job, addresses in (("thalamus", thalamus), ("vllm", vllm)):
        (folder / "config" / "targets" / f"{job}.yml").write_text(yaml.safe_dump([{"targets": list(addresses)}]))
    address, log = f"127.0.0.1:{free_ports(1)[0]}", folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            (
                "prometheus",
                f"--config.file={folder}/config/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={address}",
            ),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(process, f"http://{address}", log)
        yield Prometheus(f"http://{address}", log)
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    ends_at = time.monotonic() + READY_WITHIN_S
    while process.poll() is None and time.monotonic() < ends_at:
        try:
            with urlopen(f"{url}/-/ready", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(log.read_text())
