"""A real Redis of one test's own, with the faults that one has."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from app.store.money.redis_bank import MARK
from tests.conftest import free_ports

READY_WITHIN_S = 20.0


class RedisServer:
    """Keeps its data in a folder, so what it has answered to is there again after any end of the process."""

    def __init__(self, folder: Path, *, tcp: bool = False) -> None:
        """It listens on a socket in the folder, or with `tcp` on a free port; on the same one after each start."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_ports(1)[0] if tcp else 0
        self.url = f"redis://127.0.0.1:{self.port}/0" if tcp else f"unix://{folder}/redis.sock"

    @property
    def pid(self) -> int:
        assert self._process, "it is not running"
        return self._process.pid

    def start(self) -> None:
        """Return when it answers."""
        at = ("--port", str(self.port), "--bind", "127.0.0.1")
        at = at if self.port else ("--port", "0", "--unixsocket", f"{self._folder}/redis.sock")
        kept = ("--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "no", "--save", "")
        log = ("--logfile", f"{self._folder}/redis.log")
        self._process = subprocess.Popen(("redis-server", *at, *kept, *log))
        ends_at = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            assert time.monotonic() < ends_at, "it does not answer"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it as an operator does; nothing happens when it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """From now on it takes connections and commands, and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def run_out_of_memory(self) -> None:
        """From now on every write fails with `OOM`."""
        self.do("CONFIG", "SET", "maxmemory", "1")

    def become_read_only(self) -> None:
        """From now on every write fails with `READONLY`: it is a replica, of nobody."""
        self.do("REPLICAOF", "127.0.0.1", str(free_ports(1)[0]))

    def recover(self) -> None:
        """Take writes again."""
        self.do("CONFIG", "SET", "maxmemory", "0")
        self.do("REPLICAOF", "NO", "ONE")

    def be_known(self) -> None:
        """As if a gateway had spoken to it just now: the next one lends at once. On an empty Redis it waits six seconds
        for others to come back."""
        self.do("HSET", MARK, "epoch", "known", "heard", time.time(), "count", 1, "closed_until", 0)

    def copy(self) -> dict[bytes, tuple[int, bytes]]:
        """What it has now, as a replica that will hear nothing more of it."""
        return {name: (max(0, self.do("PTTL", name)), self.do("DUMP", name)) for name in self.do("KEYS", "*")}

    def go_back(self, copy: dict[bytes, tuple[int, bytes]]) -> None:
        """From now on it has that, and nothing that came later, as after the end of a primary."""
        with Redis.from_url(self.url, socket_timeout=5.0) as client, client.pipeline(transaction=True) as pipeline:
            pipeline.flushall()
            for name, (ttl_ms, value) in copy.items():
                pipeline.restore(name, ttl_ms, value)
            pipeline.execute()

    def do(self, *command: Any) -> Any:
        """One command, over a connection of its own."""
        with Redis.from_url(self.url, socket_timeout=5.0) as client:
            return client.execute_command(*command)

    def _answers(self) -> bool:
        try:
            return bool(self.do("PING"))
        except (RedisError, OSError):
            return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(READY_WITHIN_S)
        self._process = None


@contextmanager
def running_redis(folder: Path, *, tcp: bool = False, known: bool = False) -> Iterator[RedisServer]:
    """One that runs and is empty but for what makes it `known`, for as long as the block runs."""
    server = RedisServer(folder, tcp=tcp)
    server.start()
    try:
        if known:
            server.be_known()
        yield server
    finally:
        server.kill()
