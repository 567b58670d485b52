"""Where a stream goes: a caller who reads at once, and keeps all of it."""

from __future__ import annotations


class Paper:
    """A caller who reads at once."""

    is_full = False

    def __init__(self) -> None:
        self.written = b""

    def write_piece(self, piece: bytes, *, last: bool) -> None:
        self.written += piece

    async def writable(self) -> None:
        pass
