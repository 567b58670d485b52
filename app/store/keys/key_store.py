"""Where generated keys are kept: a file of this gateway, or the Redis that several share.

What is kept of a key is one text, written only if it still is what the writer has read, together with one line of the
audit and the next version of the whole. So whoever mirrors the keys asks for the version, and reads again when it is
another one.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from app.store.redis_client import RedisClient, Script, StoreDown
from app.store.sqlite import FORM, connected, form_of

Found = TypeVar("Found")
MOST_AUDITS = 100_000
RECORDS_AT_ONCE = 500
# A file is written in some milliseconds, and somebody waits at a terminal.
WAIT_S = 5.0


class KeyStore(Protocol):
    """All of it raises StoreDown when the store does not answer."""

    async def version(self) -> str:
        """Another one after each write; "0" before the first."""
        ...

    async def records(self) -> Mapping[str, str]:
        """The text of each key, by its id."""
        ...

    async def put(self, key_id: str, text: str, before: str, audit: str) -> bool:
        """Write a key and a line of the audit; False, and nothing is written, when it is not `before` any more.

        `before` is empty for a new key.
        """
        ...

    async def audits(self, count: int) -> Sequence[str]:
        """The last lines of the audit, oldest first."""
        ...

    async def peppers(self) -> frozenset[str]:
        """Fingerprints of the peppers that keys were made with."""
        ...

    async def admit_pepper(self, fingerprint: str, known: Sequence[str]) -> bool:
        """Note a pepper; False when there are others, and this gateway knows none of them."""
        ...

    async def aclose(self) -> None: ...


_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS keys(id TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS audit(number INTEGER PRIMARY KEY, line TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS peppers(fingerprint TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS version(number INTEGER NOT NULL) STRICT;
INSERT INTO version SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM version);
PRAGMA user_version = {FORM};
COMMIT;
"""  # noqa: S608 - a number of ours


def written(path: Path, wait_s: float) -> sqlite3.Connection:
    """The file, made if need be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = connected(path, wait_s)
    connection.execute("PRAGMA synchronous = FULL")
    if not form_of(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
    return connection


class SqliteKeys:
    """In a file, which is made with the first key: a gateway whose keys are all in its configuration writes nothing.

    All of it raises UsageError where a later release has written the file.
    """

    def __init__(self, path: Path, connect: Callable[[Path, float], sqlite3.Connection] = written) -> None:
        self._path, self._connect = path, connect
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    async def version(self) -> str:
        return await self._read(lambda at: str(at.execute("SELECT number FROM version").fetchone()[0]), "0")

    async def records(self) -> Mapping[str, str]:
        return await self._read(lambda at: dict(at.execute("SELECT id, text FROM keys")), {})

    async def put(self, key_id: str, text: str, before: str, audit: str) -> bool:
        def write(at: sqlite3.Connection) -> bool:
            found = at.execute("SELECT text FROM keys WHERE id = ?", (key_id,)).fetchone()
            if (found[0] if found else "") != before:
                return False
            at.execute("INSERT INTO keys VALUES (?1, ?2) ON CONFLICT(id) DO UPDATE SET text = ?2", (key_id, text))
            at.execute("INSERT INTO audit(line) VALUES (?)", (audit,))
            at.execute("DELETE FROM audit WHERE number <= (SELECT MAX(number) FROM audit) - ?", (MOST_AUDITS,))
            at.execute("UPDATE version SET number = number + 1")
            return True

        return await self._write(write)

    async def audits(self, count: int) -> Sequence[str]:
        query = "SELECT line FROM audit ORDER BY number DESC LIMIT ?"
        return await self._read(lambda at: [line for (line,) in at.execute(query, (count,))][::-1], [])

    async def peppers(self) -> frozenset[str]:
        query = "SELECT fingerprint FROM peppers"
        return await self._read(lambda at: frozenset(one for (one,) in at.execute(query)), frozenset())

    async def admit_pepper(self, fingerprint: str, known: Sequence[str]) -> bool:
        def write(at: sqlite3.Connection) -> bool:
            found = {one for (one,) in at.execute("SELECT fingerprint FROM peppers")}
            if found and not found & {fingerprint, *known}:
                return False
            at.execute("INSERT OR IGNORE INTO peppers VALUES (?)", (fingerprint,))
            return True

        return await self._write(write)

    async def aclose(self) -> None:
        with self._turn:
            if self._connection:
                self._connection.close()
                self._connection = None

    async def _read(self, read: Callable[[sqlite3.Connection], Found], nothing: Found) -> Found:
        return await asyncio.to_thread(self._within, read, nothing)

    async def _write(self, write: Callable[[sqlite3.Connection], Found]) -> Found:
        return await asyncio.to_thread(self._within, write, None)

    def _within(self, work: Callable[[sqlite3.Connection], Any], nothing: Any) -> Any:
        """What a piece of work finds; `nothing` where there is no file, unless that is None."""
        with self._turn:
            try:
                if nothing is not None and self._connection is None and not self._path.exists():
                    return nothing
                connection = self._opened()
                connection.execute("BEGIN" if nothing is not None else "BEGIN IMMEDIATE")
                try:
                    found = work(connection)
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
                return found
            except (sqlite3.Error, OSError) as exc:
                raise StoreDown(f"{self._path}: {exc}") from exc

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect(self._path, WAIT_S)
        return self._connection


_RECORDS, _AUDIT, _PEPPERS = "thalamus:keys", "thalamus:keys:audit", "thalamus:keys:peppers"
_VERSION = "thalamus:keys:version"

# KEYS: records, audit, version. ARGV: the key's id, its text, its text before or nothing, the audit's line, how many
# lines are kept. Says 1 when it was written.
_PUT = Script(
    """
local found = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if found ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('LTRIM', KEYS[2], -ARGV[5], -1)
redis.call('INCR', KEYS[3])
return 1
"""
)

# KEYS: peppers. ARGV: the fingerprint to note, then those that this gateway knows. Says 1 when it was noted.
_ADMIT = Script(
    """
local welcome = redis.call('SCARD', KEYS[1]) == 0
for _, known in ipairs(ARGV) do
  welcome = welcome or redis.call('SISMEMBER', KEYS[1], known) == 1
end
if welcome then redis.call('SADD', KEYS[1], ARGV[1]) end
return welcome and 1 or 0
"""
)


class RedisKeys:
    """In Redis."""

    def __init__(self, client: RedisClient) -> None:
        """The client is somebody else's to close."""
        self._client = client

    async def version(self) -> str:
        found = await self._client.ask("GET", _VERSION)
        return found.decode() if found else "0"

    async def records(self) -> Mapping[str, str]:
        """A part at a time: thousands of keys take longer than one answer may."""
        found: dict[str, str] = {}
        cursor: Any = 0
        while True:
            cursor, part = await self._client.ask("HSCAN", _RECORDS, cursor, "COUNT", RECORDS_AT_ONCE)
            pairs = part.items() if isinstance(part, dict) else zip(part[::2], part[1::2], strict=True)
            found |= {key_id.decode(): text.decode() for key_id, text in pairs}
            if not int(cursor):
                return found

    async def put(self, key_id: str, text: str, before: str, audit: str) -> bool:
        keys = (_RECORDS, _AUDIT, _VERSION)
        return bool(await self._client.run(_PUT, keys, key_id, text, before, audit, MOST_AUDITS))

    async def audits(self, count: int) -> Sequence[str]:
        return [line.decode() for line in await self._client.ask("LRANGE", _AUDIT, -count, -1)]

    async def peppers(self) -> frozenset[str]:
        return frozenset(one.decode() for one in await self._client.ask("SMEMBERS", _PEPPERS))

    async def admit_pepper(self, fingerprint: str, known: Sequence[str]) -> bool:
        return bool(await self._client.run(_ADMIT, (_PEPPERS,), fingerprint, *known))

    async def aclose(self) -> None:
        """Nothing of its own is open."""
