"""A transaction is all of it or nothing, also where it is the end of it that fails."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from app.store.sqlite import transaction


def test_a_transaction_that_cannot_be_completed_leaves_nothing_behind() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE b (of INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(sqlite3.IntegrityError), transaction(connection):
            connection.execute("INSERT INTO b VALUES (1)")
        with transaction(connection):
            assert connection.execute("SELECT count(*) FROM b").fetchone() == (0,)
