"""Programs of a command start, are waited for, and leave nothing behind."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import psutil
import pytest

from app.cli.processes import Children
from app.errors import UsageError

SERVER = """
import http.server, subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


def test_a_child_is_ready_when_it_answers_and_gone_with_all_it_started_afterwards(tmp_path: Path, port: int) -> None:
    with Children(tmp_path) as children:
        child = children.start("web", [sys.executable, "-c", SERVER, str(port)], f"http://127.0.0.1:{port}/")
        children.wait_until_ready(20)
        family = [psutil.Process(child.process.pid), *psutil.Process(child.process.pid).children(recursive=True)]
        assert len(family) == 2

    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_a_child_that_ends_is_named_with_the_last_line_of_its_log(tmp_path: Path, port: int) -> None:
    with Children(tmp_path) as children:
        children.start("web", [sys.executable, "-c", "raise SystemExit('no such model')"], f"http://127.0.0.1:{port}/")
        with pytest.raises(UsageError, match=r"web ended with status 1: .*no such model"):
            children.wait_until_ready(20)


def test_a_child_that_never_answers_is_given_up_in_time(tmp_path: Path, port: int) -> None:
    with Children(tmp_path) as children:
        children.start("web", [sys.executable, "-c", "import time; time.sleep(60)"], f"http://127.0.0.1:{port}/")
        with pytest.raises(UsageError, match="web was not ready within 0 s"):
            children.wait_until_ready(0)


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken, Children(tmp_path) as children:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port} is in use, and web wants it"):
            children.start("web", [sys.executable, "-c", "raise SystemExit(3)"], f"http://127.0.0.1:{port}/")
