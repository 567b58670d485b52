"""A transaction is all of it or nothing, what is too old goes whatever the clock said, and statements are few."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import UsageError
from app.store.journal.kept import DAY_S, Batch, Ended, Keep
from app.store.journal.sqlite_journal import INSERTED_AT_ONCE, TRIMMED_AT_ONCE, SqliteJournal
from app.store.sqlite import FILE, FORM, check_database, form_of, open_database, transaction


def test_a_transaction_that_cannot_be_completed_leaves_nothing_behind() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE b (of INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(sqlite3.IntegrityError), transaction(connection):
            connection.execute("INSERT INTO b VALUES (1)")
        with transaction(connection):
            assert connection.execute("SELECT count(*) FROM b").fetchone() == (0,)


def test_a_file_says_of_which_form_it_is(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)) as connection:
        assert form_of(connection) == FORM


def test_a_file_without_a_form_is_of_the_first_one(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)) as connection:
        connection.execute("INSERT INTO spent VALUES ('tester', '2026-11', 2.5)")
        connection.execute("PRAGMA user_version = 0")
    with closing(open_database(tmp_path)) as connection:
        assert connection.execute("SELECT usd FROM spent").fetchone() == (2.5,)
        assert form_of(connection) == FORM


def test_a_file_of_a_later_release_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with closing(sqlite3.connect(path)) as later:
        later.execute("CREATE TABLE spent (nano_usd INTEGER)")
        later.execute(f"PRAGMA user_version = {FORM + 1}")
    written = path.read_bytes()
    with pytest.raises(UsageError) as refused:
        open_database(tmp_path)
    assert str(refused.value) == f"{path}: a later release has written there; update this gateway"
    assert path.read_bytes() == written


def test_a_folder_is_checked_without_writing_there(tmp_path: Path) -> None:
    folder = tmp_path / "a ?#%"
    check_database(folder)
    assert not folder.exists()
    open_database(folder).close()
    check_database(folder)
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_database_that_is_no_good_is_refused_in_the_same_words_by_who_checks(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, and long enough that nobody takes it for one" * 20)
    with pytest.raises(UsageError) as refused:
        open_database(tmp_path)
    with pytest.raises(UsageError) as found:
        check_database(tmp_path)
    assert str(found.value) == str(refused.value)


@pytest.mark.parametrize("is_open", [True, False])
def test_a_file_of_a_later_release_is_found_by_who_checks(tmp_path: Path, is_open: bool) -> None:
    """Also where its form is only in the log so far, because a gateway has it open."""
    later = open_database(tmp_path)
    later.execute(f"PRAGMA user_version = {FORM + 1}")
    if not is_open:
        later.close()
    with closing(later):
        # Readers note in the third file what they read.
        there = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".sqlite-shm"}
        assert (f"{FILE}-wal" in there) == is_open
        with pytest.raises(UsageError, match="a later release has written there; update this gateway"):
            check_database(tmp_path)
        assert {name: (tmp_path / name).read_bytes() for name in there} == there
        assert len([*tmp_path.iterdir()]) == (3 if is_open else 1)


async def test_records_of_a_wrong_clock_do_not_keep_those_that_came_after_them(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    journal = SqliteJournal(tmp_path, Keep(30.0, None))
    ahead, old, new = now + 365 * DAY_S, now - 40 * DAY_S, now - 1.0
    times = [*[ahead] * TRIMMED_AT_ONCE, old, new, now + 3_600.0]
    rows = [Ended(seq, seq, at, "k", None, 0.0, b"{}") for seq, at in enumerate(times, start=1)]
    await journal.apply(Batch("spool", len(rows), rows))
    await journal.trim(now)
    kept = [int(place) for place, _ in await journal.after(None, len(rows))]
    await journal.aclose()
    assert kept == [len(rows) - 1, len(rows)]


async def test_batches_of_all_lengths_are_inserted_by_eight_statements(tmp_path: Path) -> None:
    """What is prepared for a statement stays: 100 of them took 8 MiB."""
    inserted = set[int]()

    def traced(statement: str) -> None:
        if statement.startswith("INSERT INTO records"):
            inserted.add(statement.count("'spool'"))

    journal = SqliteJournal(tmp_path)
    journal._connection.set_trace_callback(traced)
    seq = 0
    for length in range(2 * INSERTED_AT_ONCE + 1):
        rows = [Ended(seq + row, seq + row, 1.0, "k", None, 0.0, b"{}") for row in range(1, length + 1)]
        seq += length
        await journal.apply(Batch("spool", seq, rows))
    kept = await journal.after(None, seq + 1)
    await journal.aclose()
    assert len(kept) == seq
    assert inserted == {1, 2, 4, 8, 16, 32, 64, 128}
