"""Start programs that belong to a command, wait until they answer, and stop them with everything they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from app.errors import UsageError

STOP_WITHIN_S = 5.0
"""Then what is left is killed: workers take up to 16 s to end by themselves, and nobody waits for these answers."""


@dataclass
class Child:
    """One running program, its log and the address that says when it is ready."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_url: str

    def is_ready(self) -> bool:
        """Whether the address answers 2xx.

        Raises:
            UsageError: the program has ended; the message quotes the end of its log.
        """
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise UsageError(
                f"{self.name} ended with status {self.process.returncode}: {''.join(tail)} (see {self.log})"
            )
        try:
            with urlopen(self.ready_url, timeout=2) as answer:  # noqa: S310  # our own loopback address
                return answer.status == 200  # type: ignore[no-any-return]  # typed loosely upstream
        except (URLError, OSError):
            return False


class Children:
    """Programs in start order; leaving the context stops them, last first."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], ready_url: str, env: Mapping[str, str] | None = None) -> Child:
        """Start a program in a session of its own, so that Ctrl-C reaches only us and we stop it in order.

        Raises:
            UsageError: something else listens on its port already.
        """
        refuse_taken_port(name, ready_url)
        self._log_folder.mkdir(parents=True, exist_ok=True)
        log = self._log_folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  # the command is this project's own
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        child = Child(name, process, log, ready_url)
        self._children.append(child)
        return child

    def wait_until_ready(self, timeout_s: float) -> None:
        """Block until every program answers.

        Raises:
            UsageError: one has ended or is not ready in time.
        """
        end = time.monotonic() + timeout_s
        waiting = list(self._children)
        while waiting := [child for child in waiting if not child.is_ready()]:
            if time.monotonic() > end:
                raise UsageError(f"{waiting[0].name} was not ready within {timeout_s:.0f} s; see {waiting[0].log}")
            time.sleep(0.1)

    def ended(self) -> Child | None:
        """A program that is no longer running, if any."""
        return next((child for child in self._children if child.process.poll() is not None), None)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Only the program itself is asked to end: it takes its own helpers down in the right order.
        for child in reversed(self._children):
            child.process.terminate()
        end = time.monotonic() + STOP_WITHIN_S
        for child in reversed(self._children):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, end - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()


def refuse_taken_port(name: str, url: str) -> None:
    """Raise UsageError when the address is in use."""
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    with socket.socket() as probe:
        if probe.connect_ex(address) == 0:
            raise UsageError(f"{address[0]}:{address[1]} is in use, and {name} wants it: stop what listens there")
