"""The name server of a rehearsal: it knows what the hosts file says, and that it knows nothing else."""

from __future__ import annotations

import struct

import pytest

from tests.fakes.engine_names import read_hosts, reply

KNOWN = read_hosts("127.0.0.1 localhost\n172.31.250.15 door-cpu worker-base\n172.31.203.10 door-cpu\n")


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34" + struct.pack("!5H", 0x0100, 1, 0, 0, 1) + labels + b"\0" + struct.pack("!HH", kind, 1) + b"more"


@pytest.mark.parametrize(
    ("name", "kind", "code", "addresses"),
    [
        ("worker-base", 1, 0, [b"\xac\x1f\xfa\x0f"]),
        ("Door-CPU", 1, 0, [b"\xac\x1f\xfa\x0f", b"\xac\x1f\xcb\x0a"]),
        ("worker-base", 28, 0, []),
        ("worker-base.example.com", 1, 3, []),
        ("gateway-1", 1, 3, []),
    ],
)
def test_names_have_the_addresses_of_the_hosts_file(name: str, kind: int, code: int, addresses: list[bytes]) -> None:
    said = reply(query(name, kind), KNOWN)
    number, flags, questions, answers, *_ = struct.unpack_from("!6H", said)
    assert (number, flags & 0xF, questions, answers) == (0x1234, code, 1, len(addresses))
    assert [said[-16 * (left + 1) :][12:16] for left in reversed(range(answers))] == addresses
