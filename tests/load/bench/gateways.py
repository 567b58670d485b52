"""The gateways that are compared, each installed into a folder of its own when it is first asked for.

They are never a dependency of the project. Where one cannot be installed or started, the table says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-bench"
NAMES = ("mock-a", "mock-b")


class Unavailable(Exception):
    """A gateway cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a gateway is to stand."""

    folder: Path
    port: int
    admin_port: int
    workers: Sequence[str]
    """Base URLs of the stand-ins, in the order of `NAMES`."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One that is compared."""

    name: str
    command: Callable[[Site], Sequence[str]]
    """Installs what is missing, writes its configuration, and returns how to start it."""
    ready_path: str = "/health"
    model: str = NAMES[0]
    environment: Mapping[str, str] = field(default_factory=dict)
    header: str = ""


def thalamus(site: Site, **changes: object) -> Sequence[str]:
    """This gateway, with the artifact and the catalogue of configs/bench.yaml."""
    config = yaml.safe_load((ROOT / "configs/bench.yaml").read_text())
    catalog = yaml.safe_load((ROOT / "configs/bench-catalog.yaml").read_text())
    for backend, url in zip(catalog["backends"], site.workers, strict=True):
        backend["urls"] = [url]
    artifact = str((ROOT / "configs" / config["artifact"]).resolve())
    config |= {
        "listen": f"127.0.0.1:{site.port}",
        "admin_listen": f"127.0.0.1:{site.admin_port}",
        "catalog": "catalog.yaml",
        "artifact": artifact,
        "state_dir": "state",
        **changes,
    }
    (site.folder / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    (site.folder / "gateway.yaml").write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "app.cli", "serve", "--config", str(site.folder / "gateway.yaml")]


def thalamus_transformer(site: Site) -> Sequence[str]:
    return thalamus(site, encoder="transformer", predictor_limit_s=1.0)


def nginx(site: Site) -> Sequence[str]:
    program = shutil.which("nginx")
    if program is None:
        raise Unavailable("install the Debian package nginx-light")
    upstreams = "".join(f"server {url.removeprefix('http://')};" for url in site.workers)
    (site.folder / "nginx.conf").write_text(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; upstream workers {{ {upstreams} keepalive 128; }}\n"
        f"server {{ listen 127.0.0.1:{site.port}; client_max_body_size 8m; location / {{ proxy_pass http://workers;\n"
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }\n'
    )
    return [program, "-p", str(site.folder), "-c", "nginx.conf"]


def smg(site: Site) -> Sequence[str]:
    program = python_package("smg==1.13.0", "smg")
    return [program, "launch", "--worker-urls", *site.workers, *_listening(site), "--log-level", "error"]


def vllm_router(site: Site) -> Sequence[str]:
    program = python_package("vllm-router==0.1.17", "vllm-router")
    return [program, "--worker-urls", *site.workers, *_listening(site)]


def litellm(site: Site) -> Sequence[str]:
    program = python_package("litellm[proxy]==1.106.2", "litellm")
    models = [
        {"model_name": NAMES[0], "litellm_params": {"model": f"openai/{name}", "api_base": f"{url}/v1", "api_key": "x"}}
        for name, url in zip(NAMES, site.workers, strict=True)
    ]
    settings = {"model_list": models, "general_settings": {"master_key": KEY}}
    (site.folder / "litellm.yaml").write_text(yaml.safe_dump(settings))
    return [program, "--config", str(site.folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(site.port)]


def portkey(site: Site) -> Sequence[str]:
    folder = ROOT / "var/bench/portkey"
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise Unavailable("install node and npm")
    server = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not server.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run([npm, "install", "--silent", "--prefix", str(folder), "@portkey-ai/gateway@1.15.2"])
    return [node, str(server), f"--port={site.port}", "--headless"]


def portkey_header(site: Site) -> str:
    """Portkey is told per request where to go."""
    target = {"strategy": {"mode": "loadbalance"}, "targets": [_target(url) for url in site.workers]}
    return f"x-portkey-config: {json.dumps(target)}\r\n"


def python_package(requirement: str, program: str) -> str:
    """The path of a program from PyPI, installed into an environment of its own."""
    folder = ROOT / "var/bench" / program
    if not (folder / "bin" / program).exists():
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin/pip"), "install", "--quiet", requirement])
    return str(folder / "bin" / program)


def _listening(site: Site) -> Sequence[str]:
    return ["--policy", "round_robin", "--host", "127.0.0.1", "--port", str(site.port)]


def _target(url: str) -> dict[str, object]:
    return {"provider": "openai", "api_key": "x", "custom_host": f"{url}/v1"}


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {' '.join(done.stderr.split())[-200:]}")


GATEWAYS: Mapping[str, Gateway] = {
    each.name: each
    for each in (
        Gateway("nginx", nginx),
        Gateway("vllm-router", vllm_router),
        Gateway("smg", smg),
        Gateway("portkey", portkey, ready_path="/"),
        Gateway("litellm", litellm, ready_path="/health/liveliness"),
        Gateway("thalamus", thalamus, ready_path="/readyz", model="auto"),
        Gateway("thalamus, model named", thalamus, ready_path="/readyz", model=NAMES[0]),
        Gateway("thalamus, transformer", thalamus_transformer, ready_path="/readyz", model="auto"),
    )
}
BASELINE = "smg"
