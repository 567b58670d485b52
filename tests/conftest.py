"""What all tests share: public outcomes where they are there, the size of slow tests, the demo's real workers."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from app.cli.processes import Child, Children
from tests.fakes.stalls import Repeats
from tests.fakes.yardstick import Machine

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Repeats())


# A machine that stands still for a moment says nothing about an example.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the garbage collector need not look at it in each of the tests."""
    gc.collect()
    gc.freeze()


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked so is skipped below full size, and says it."""
    if os.environ.get("THALAMUS_TEST_SIZE") != "full":
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="at full size only: make test-all"))


@pytest.fixture
def machine() -> Machine:
    """How fast this one is, for tests that bound a time."""
    return Machine()


@pytest.fixture(scope="session")
def made_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps the encoders that the training code makes of the real one; each is made once in a run."""
    return tmp_path_factory.mktemp("encoders")


class Workers:
    """The demo's two real vLLM workers: `base` and `small`."""

    def __init__(self, children: Children) -> None:
        ports = dict(zip(("base", "small"), free_ports(2), strict=True))
        self.urls = {kind: f"http://127.0.0.1:{port}" for kind, port in ports.items()}
        self._children, self._running = children, dict[str, Child]()

    def start(self, kind: str) -> None:
        """Start one that does not run, on its port of before; it is ready when its /health says so."""
        if kind in self._running and self._running[kind].process.poll() is None:
            return
        command = [str(ROOT / "deploy/vllm/serve.sh"), kind, self.urls[kind].rpartition(":")[2]]
        self._running[kind] = self._children.start(f"worker-{kind}", command, f"{self.urls[kind]}/health")

    def group(self, kind: str) -> int:
        """Its process group."""
        return self._running[kind].process.pid

    def wait_until_ready(self, within_s: float = 240.0) -> None:
        ends_at = time.monotonic() + within_s
        while not all(child.is_ready() for child in self._running.values()):
            assert time.monotonic() < ends_at, "a worker does not come up"
            time.sleep(0.1)


@dataclass(frozen=True)
class Stack:
    """A gateway with the demo's configuration before the demo's workers, running."""

    gateway: str
    admin: str
    workers: Workers
    key: str = "sk-demo"


@pytest.fixture(scope="session")
def demo_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Started once in a run, which takes a minute: who ends one starts it again."""
    subprocess.run([ROOT / ".venv-vllm/bin/python", ROOT / "deploy/demo/build_models.py"], check=True, cwd=ROOT)
    with Children(tmp_path_factory.mktemp("workers")) as children:
        workers = Workers(children)
        for kind in workers.urls:
            workers.start(kind)
        yield workers


@pytest.fixture(scope="session")
def demo_stack(demo_workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo, running; shared by all tests that leave it as they find it."""
    with gateway_before(demo_workers, tmp_path_factory.mktemp("demo")) as stack:
        yield stack


@contextmanager
def gateway_before(workers: Workers, folder: Path, **changes: Any) -> Iterator[Stack]:
    """The demo's gateway on free ports, in front of these workers; `changes` replace keys of its file."""
    data, admin = free_ports(2)
    catalog = (ROOT / "configs/demo-catalog.yaml").read_text()
    for fixed, url in zip(("8101", "8102"), workers.urls.values(), strict=True):
        catalog = catalog.replace(f"http://127.0.0.1:{fixed}", url)
    (folder / "demo-catalog.yaml").write_text(catalog)
    demo = (ROOT / "configs/demo.yaml").read_text().replace("../router_models", str(ROOT / "router_models"))
    listen = {"listen": f"127.0.0.1:{data}", "admin_listen": f"127.0.0.1:{admin}"}
    (folder / "demo.yaml").write_text(yaml.safe_dump({**yaml.safe_load(demo), **listen, **changes}))
    workers.wait_until_ready()
    gateway = f"http://127.0.0.1:{data}"
    with Children(folder / "log") as children:
        serve = [sys.executable, "-m", "app.cli", "serve", "--config", str(folder / "demo.yaml")]
        children.start("gateway", serve, f"{gateway}/readyz")
        children.wait_until_ready(240)
        yield Stack(gateway, f"http://127.0.0.1:{admin}", workers)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
