"""From the name of a backend's host to its addresses.

The system's resolver may block for as long as a minute, and a thread that waits for it cannot be cancelled. So each
name takes one thread at most, however many wait for it or have ceased to, and a name that is found slowly keeps no
other backend's waiting. Nothing is remembered: whether and for how long is for the system's resolver to say.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

# More names than this are not found slowly at once. No thread is made before it is needed.
LOOKUPS_AT_ONCE = 32

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""All addresses of a name.

Raises:
    OSError: there is none.
"""


def system_addresses(host: str) -> Sequence[str]:
    """What the system's resolver says, which may take long; an address may occur more than once."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(address[0]) for *_, address in found]


class Lookups:
    """See `Resolve`. Who asks for a name that is already being looked up waits for that."""

    def __init__(self, look_up: Callable[[str], Sequence[str]] = system_addresses) -> None:
        self._look_up = look_up
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, "lookup")
        self._pending: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def __call__(self, host: str) -> Sequence[str]:
        pending = self._pending.get(host)
        if pending is None:
            pending = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, host)
            self._pending[host] = pending
            pending.add_done_callback(lambda _: self._pending.pop(host))
        # A thread cannot be cancelled: who waits no longer leaves it to the others.
        return list(dict.fromkeys(await asyncio.shield(pending)))
