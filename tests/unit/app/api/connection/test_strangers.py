"""Addresses that keep calling without a valid key."""

from __future__ import annotations

import pytest

from app.api.connection import strangers as module
from app.api.connection.strangers import FAILURES, LONG_CHARS, Strangers
from app.errors import RateLimited
from app.store.keys.credentials import issue
from tests.fakes.clock import FakeClock


def fail(strangers: Strangers, times: int, address: str = "10.0.0.1") -> int:
    """How many of so many calls without a valid key are told to wait."""
    told = 0
    for _ in range(times):
        try:
            strangers.let_in(address, None)
        except RateLimited:
            told += 1
    return told


def test_after_twenty_in_a_minute_they_wait_for_one() -> None:
    clock = FakeClock()
    strangers = Strangers(clock)
    assert fail(strangers, FAILURES) == 0
    with pytest.raises(RateLimited) as caught:
        strangers.let_in("10.0.0.1", None)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 60)
    clock.advance(59)
    assert fail(strangers, 3) == 3
    clock.advance(2)
    assert fail(strangers, FAILURES + 1) == 1


def test_who_fails_seldom_never_waits() -> None:
    clock = FakeClock()
    strangers = Strangers(clock)
    for _ in range(100):
        assert fail(strangers, 1) == 0
        clock.advance(3.3)


def test_each_address_counts_for_itself_and_of_ipv6_each_network() -> None:
    strangers = Strangers(FakeClock())
    assert fail(strangers, FAILURES + 5) == 5
    assert fail(strangers, FAILURES, "10.0.0.2") == 0
    for host in range(FAILURES):
        assert fail(strangers, 1, f"2001:db8::{host:x}") == 0
    assert fail(strangers, 1, "2001:db8::ffff") == 1
    assert fail(strangers, 1, "2001:db8:0:1::1") == 0
    assert fail(strangers, 1, "::ffff:10.0.0.1") == 1


def test_a_right_key_is_refused_like_a_wrong_one_unless_it_has_called_from_there_before() -> None:
    strangers = Strangers(FakeClock())
    strangers.let_in("10.0.0.1", "known")
    assert fail(strangers, FAILURES + 1) == 1
    strangers.let_in("10.0.0.1", "known")
    with pytest.raises(RateLimited):
        strangers.let_in("10.0.0.1", "guessed")
    strangers.let_in("10.0.0.2", "guessed")


def test_a_key_that_cannot_be_found_by_trying_never_waits() -> None:
    strangers = Strangers(FakeClock())
    assert fail(strangers, FAILURES + 1) == 1
    strangers.let_in("10.0.0.1", "long", "x" * LONG_CHARS)
    strangers.let_in("10.0.0.1", "generated", issue("live")[0])
    for key_id, secret in (("short", "x" * (LONG_CHARS - 1)), (None, "x" * LONG_CHARS)):
        with pytest.raises(RateLimited):
            strangers.let_in("10.0.0.1", key_id, secret)


def test_the_tables_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ADDRESSES", 50)
    strangers = Strangers(FakeClock())
    for number in range(200):
        strangers.let_in(f"10.0.1.{number}", None)
        strangers.let_in(f"10.0.2.{number}", "key")
    assert (len(strangers._failures), len(strangers._known)) == (50, 50)
