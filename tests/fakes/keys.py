"""A store of keys in memory, that can be told not to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.store.redis_client import StoreDown


class MemoryKeys:
    """See `KeyStore`."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.lines: list[str] = []
        self.noted: set[str] = set()
        self.down = False
        self.reads = 0
        self._version = 0

    async def version(self) -> str:
        self._answer()
        return str(self._version)

    async def records(self) -> Mapping[str, str]:
        self._answer()
        self.reads += 1
        return dict(self.texts)

    async def put(self, key_id: str, text: str, before: str, audit: str) -> bool:
        self._answer()
        if self.texts.get(key_id, "") != before:
            return False
        self.texts[key_id] = text
        self.lines.append(audit)
        self._version += 1
        return True

    async def audits(self, count: int) -> Sequence[str]:
        self._answer()
        return self.lines[-count:]

    async def peppers(self) -> frozenset[str]:
        self._answer()
        return frozenset(self.noted)

    async def admit_pepper(self, fingerprint: str, known: Sequence[str]) -> bool:
        self._answer()
        if self.noted and not self.noted & {fingerprint, *known}:
            return False
        self.noted.add(fingerprint)
        return True

    async def aclose(self) -> None:
        """Nothing is open."""

    def _answer(self) -> None:
        if self.down:
            raise StoreDown("told to be down")
