"""The name server that an engine gives to each container, as a program: `python engine_names.py HOSTS`, for ever."""

from __future__ import annotations

import socket
import struct
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

ADDRESS = "127.0.0.11"
"""Where engines have it."""
_IPV4 = 1
_FLAGS, _NO_SUCH_NAME = 0x8180, 3
_TTL_S = 600
_HEAD_BYTES = 12
# Where the name stands in the question, as records refer to it.
_THAT_NAME = b"\xc0\x0c"


def read_hosts(text: str) -> dict[str, list[bytes]]:
    """Addresses by name, of a hosts file."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for line in text.splitlines():
        address, *names = line.split()
        for name in names:
            found[name].append(socket.inet_aton(address))
    return dict(found)


def reply(query: bytes, known: Mapping[str, Sequence[bytes]]) -> bytes:
    """What it answers; there are addresses of IPv4 only."""
    name, end = _asked(query)
    (kind,) = struct.unpack_from("!H", query, end)
    addresses = known.get(name, ()) if kind == _IPV4 else ()
    flags = _FLAGS if name in known else _FLAGS | _NO_SUCH_NAME
    head = query[:2] + struct.pack("!5H", flags, 1, len(addresses), 0, 0)
    record = _THAT_NAME + struct.pack("!HHIH", _IPV4, 1, _TTL_S, 4)
    return head + query[_HEAD_BYTES : end + 4] + b"".join(record + address for address in addresses)


def _asked(query: bytes) -> tuple[str, int]:
    """The name in a question, and where it ends."""
    labels, at = [], _HEAD_BYTES
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def main(hosts: Path) -> None:
    """Serve until killed."""
    known = read_hosts(hosts.read_text())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((ADDRESS, 53))
        while True:
            query, asker = server.recvfrom(4096)
            server.sendto(reply(query, known), asker)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
