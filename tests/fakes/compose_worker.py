"""A fake worker as a program: `python -m tests.fakes.compose_worker PORT MODEL ...`, on all addresses."""

from __future__ import annotations

import asyncio
import sys

from tests.fakes.backend import FakeBackend


class Worker(FakeBackend):
    """Not on loopback only, because whoever asks is in another network namespace."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "0.0.0.0", self.port, backlog=1024)


async def main(port: int, models: tuple[str, ...]) -> None:
    """Serve until killed."""
    worker = Worker(models=models)
    worker.port = port
    async with worker:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), tuple(sys.argv[2:])))
