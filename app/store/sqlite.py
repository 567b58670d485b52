"""The file in which a gateway keeps its journal and what was spent, where no Redis is shared.

Any number of processes of one machine may have it open: SQLite's write-ahead log lets readers go on while one of them
writes, and a writer waits for its turn. It has the number of its form in it, as the file of generated keys has.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import UsageError

FILE = "journal.sqlite"
# The longest transaction is a batch of some hundred rows and its fsync; on a slow disk that takes a second.
WAIT_S = 10.0
# What gateways keep in files of SQLite, as this release understands it: their `user_version`, where 0 is of the first
# form, too. A release whose forms an older one would misread raises it, and writes it in place of a smaller number.
FORM = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    spool       TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    at          REAL NOT NULL,
    key_id      TEXT NOT NULL,
    decision_id TEXT,
    record      BLOB NOT NULL,
    UNIQUE (spool, seq)
);
CREATE INDEX IF NOT EXISTS records_by_decision ON records (decision_id) WHERE decision_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS feedback (
    decision_id TEXT PRIMARY KEY, key_id TEXT NOT NULL, given_at REAL NOT NULL, feedback BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spools (
    spool TEXT PRIMARY KEY, applied INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    key_id TEXT NOT NULL, period TEXT NOT NULL, usd REAL NOT NULL, PRIMARY KEY (key_id, period)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
    key_id TEXT NOT NULL, period TEXT NOT NULL, holder TEXT NOT NULL, usd REAL NOT NULL, seen_at REAL NOT NULL,
    PRIMARY KEY (key_id, period, holder)
) WITHOUT ROWID;
"""
"""`period` is a day (`2026-11-27`) or a month (`2026-11`) of UTC; a `holder` is a process, by the name of its spool."""


def open_database(folder: Path) -> sqlite3.Connection:
    """The database in this folder, made if need be. A connection is for one thread at a time.

    Raises:
        UsageError: it cannot be opened, or a later release has written there.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Prompts may be in it. SQLite gives the files beside it the same rights.
        path.touch(mode=0o600)
        connection = connected(path, WAIT_S)
        connection.execute("PRAGMA journal_mode = WAL")
        # What is applied leaves the spool, so it has to be on the disk by then.
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA)
        _mark(connection)
    except (OSError, sqlite3.Error) as exc:
        raise _unopened(path, exc) from exc
    return connection


def check_database(folder: Path) -> None:
    """Nothing, where the database in this folder can be opened, or made, as far as it tells who only reads it.

    Raises:
        UsageError: it cannot be opened, or a later release has written there.
    """
    path = folder / FILE
    try:
        if path.exists():
            looked_at(path, WAIT_S).close()
    except (OSError, sqlite3.Error) as exc:
        raise _unopened(path, exc) from exc


def connected(path: Path, wait_s: float) -> sqlite3.Connection:
    """A file of SQLite's that no later release has written. Whoever holds it is waited for so long.

    Raises:
        UsageError: a later release has.
        sqlite3.Error: it cannot be read.
    """
    return _connected(path, "", wait_s)


def looked_at(path: Path, wait_s: float) -> sqlite3.Connection:
    """The same, only to be read: neither it nor what is beside it is written, and nothing is made."""
    # To read what has a log is to read that, too. Where none is left, nobody writes.
    has_log = path.with_name(f"{path.name}-wal").exists()
    return _connected(path, "?mode=ro" if has_log else "?mode=ro&immutable=1", wait_s)


def _connected(path: Path, options: str, wait_s: float) -> sqlite3.Connection:
    address = path.absolute().as_uri() + options
    connection = sqlite3.connect(address, timeout=wait_s, isolation_level=None, check_same_thread=False, uri=True)
    try:
        if form_of(connection) > FORM:
            raise UsageError(f"{path}: a later release has written there; update this gateway")
    except BaseException:
        connection.close()
        raise
    return connection


def _unopened(path: Path, exc: Exception) -> UsageError:
    return UsageError(f"{path}: cannot be opened: {exc}; correct state_dir, or the rights on it")


def form_of(connection: sqlite3.Connection) -> int:
    """The number of the form of what is in there; 0 where nobody has marked it."""
    (form,) = connection.execute("PRAGMA user_version").fetchone()
    return int(form)


def _mark(connection: sqlite3.Connection) -> None:
    """Write our form where there is none."""
    if form_of(connection):
        return
    with transaction(connection):
        # Somebody else may have been quicker, and of another release.
        if not form_of(connection):
            connection.execute(f"PRAGMA user_version = {FORM}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing. It is a writer's from its first line, so nothing it has read can change meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # After some failures SQLite has done this itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
