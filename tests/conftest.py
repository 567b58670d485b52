"""What all tests share: public outcomes where they are there, the size of slow tests, the demo's real workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli.processes import Children
from tests.fakes.stalls import Repeats

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Repeats())


@pytest.fixture(scope="session")
def public_outcomes() -> Path:
    """The folder of published outcomes of real models; it is not part of the project."""
    folder = Path(os.environ.get("THALAMUS_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").exists():
        pytest.skip(f"no public outcomes in {folder}; set THALAMUS_DATA to where they are")
    return folder


@pytest.fixture(scope="session")
def full_size() -> bool:
    """Whether slow tests run at their full size (`make test-all`)."""
    return os.environ.get("THALAMUS_TEST_SIZE") == "full"


@pytest.fixture(scope="session")
def made_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps the encoders that the training code makes of the real one; each is made once in a run."""
    return tmp_path_factory.mktemp("encoders")


@dataclass(frozen=True)
class Stack:
    """The demo's workers and gateway, running."""

    gateway: str
    admin: str
    workers: Mapping[str, str]
    """Address by kind: base, small."""
    pids: dict[str, int]
    """Process group by kind."""
    start_worker: Callable[[str], None]
    """Start the worker of a kind, which has ended, on its port of before; it is ready when its /health says so."""
    key: str = "sk-demo"


@pytest.fixture(scope="session")
def demo_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo, running; shared by all tests that leave it as they find it."""
    with running_demo(tmp_path_factory.mktemp("demo")) as stack:
        yield stack


@contextmanager
def running_demo(folder: Path, **changes: Any) -> Iterator[Stack]:
    """Real vLLM workers with the demo's models, and the gateway in front of them, on free ports.

    `changes` replace keys of the gateway's file.
    """
    ports = dict(zip(("8080", "8081", "8101", "8102"), map(str, free_ports(4)), strict=True))
    for name in ("demo.yaml", "demo-catalog.yaml"):
        text = (ROOT / "configs" / name).read_text().replace("../router_models", str(ROOT / "router_models"))
        for fixed, free in ports.items():
            text = text.replace(f"127.0.0.1:{fixed}", f"127.0.0.1:{free}")
        (folder / name).write_text(text)
    config = folder / "demo.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **changes}))
    subprocess.run([ROOT / ".venv-vllm/bin/python", ROOT / "deploy/demo/build_models.py"], check=True, cwd=ROOT)
    gateway, admin, base, small = (f"http://127.0.0.1:{port}" for port in ports.values())
    workers, pids = {"base": base, "small": small}, dict[str, int]()
    with Children(folder / "log") as children:

        def start_worker(kind: str) -> None:
            url = workers[kind]
            command = [str(ROOT / "deploy/vllm/serve.sh"), kind, url.rpartition(":")[2]]
            pids[kind] = children.start(f"worker-{kind}", command, f"{url}/health").process.pid

        for kind in workers:
            start_worker(kind)
        children.wait_until_ready(240)
        serve = [sys.executable, "-m", "app.cli", "serve", "--config", str(config)]
        children.start("gateway", serve, f"{gateway}/readyz")
        children.wait_until_ready(240)
        yield Stack(gateway, admin, workers, pids, start_worker)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
