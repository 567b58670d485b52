"""Generated keys in a file and in a real Redis: the same for both, seen by two gateways."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.assembly.generated_keys import GeneratedKeys, connected, opened_keys, watched_keys
from app.errors import Overloaded, UsageError
from app.forms.grants import new_grant
from app.store.keys.credentials import Credential, issue, reissued
from app.store.keys.key import Secret
from app.store.keys.key_store import RedisKeys, SqliteKeys
from app.store.redis_client import StoreDown
from app.store.sqlite import FORM, form_of
from tests.fakes.redis_server import RedisServer, running_redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@dataclass(frozen=True)
class Place:
    """What a gateway's file says of where things are."""

    store: str | None
    state_dir: Path
    pepper_file: Path
    store_password: Secret | None = None


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, redis: RedisServer, tmp_path: Path) -> Place:
    redis.do("FLUSHALL")
    return Place(redis.url if request.param == "redis" else None, tmp_path, tmp_path / "pepper")


@pytest.fixture
async def gateways(place: Place) -> AsyncIterator[Callable[[], object]]:
    """Opens gateways on one store; they do not watch it by themselves."""
    async with AsyncExitStack() as stack:

        async def opened() -> GeneratedKeys:
            client = await stack.enter_async_context(connected(place))
            return await stack.enter_async_context(opened_keys(place, client))

        yield opened


async def test_a_store_keeps_texts_versions_and_an_audit(place: Place) -> None:
    async with connected(place) as client:
        store = RedisKeys(client) if client else SqliteKeys(place.state_dir / "keys.sqlite")
        assert (await store.version(), await store.records(), await store.audits(9)) == ("0", {}, [])
        assert await store.put("a", "one", "", "line 1")
        versions = [await store.version()]
        assert not await store.put("a", "two", "", "line 2")
        assert not await store.put("a", "two", "else", "line 2")
        assert not await store.put("b", "two", "one", "line 2")
        assert await store.version() == versions[0] != "0"
        assert await store.put("a", "zwei é", "one", "line 2")
        assert await store.put("b", "drei", "", "line 3")
        assert await store.version() not in versions
        assert await store.records() == {"a": "zwei é", "b": "drei"}
        assert (await store.audits(9), await store.audits(1)) == (["line 1", "line 2", "line 3"], ["line 3"])
        await store.aclose()


async def test_peppers_are_let_in_by_who_knows_one_that_is_there(place: Place) -> None:
    async with connected(place) as client:
        store = RedisKeys(client) if client else SqliteKeys(place.state_dir / "keys.sqlite")
        assert await store.peppers() == frozenset()
        assert await store.admit_pepper("first", ())
        assert await store.admit_pepper("first", ())
        assert not await store.admit_pepper("strange", ("stranger",))
        assert await store.admit_pepper("second", ("second", "first"))
        assert await store.peppers() == {"first", "second"}
        await store.aclose()


async def test_of_many_who_change_a_key_at_once_none_is_lost(place: Place) -> None:
    async with connected(place) as client:
        store = RedisKeys(client) if client else SqliteKeys(place.state_dir / "keys.sqlite")
        await store.put("a", "0", "", "made")

        async def add_one() -> None:
            while True:
                before = (await store.records())["a"]
                if await store.put("a", str(int(before) + 1), before, "changed"):
                    return

        await asyncio.gather(*(add_one() for _ in range(20)))
        assert await store.records() == {"a": "20"}
        assert len(await store.audits(99)) == 21
        await store.aclose()


async def test_what_one_gateway_does_another_sees(gateways: Callable[[], object]) -> None:
    one, other = await gateways(), await gateways()  # type: ignore[misc]  # each call opens one
    issued = await one.issuer.create("ann", new_grant().plain(), "me")
    secret = issued.secret.reveal()
    assert one.ring.find(secret) is not None
    await other.ring.refresh()
    assert other.ring.find(secret) == one.ring.find(secret)
    new = await other.issuer.rotate(issued.record.id, "you", grace_s=60)
    await one.ring.refresh()
    assert one.ring.find(new.secret.reveal()) == one.ring.find(secret) is not None
    await one.issuer.revoke(issued.record.id, "me")
    await other.ring.refresh()
    assert other.ring.find(secret) is other.ring.find(new.secret.reveal()) is None
    assert [entry["what"] for entry in await other.issuer.audit()] == ["created", "rotated", "revoked"]


async def test_a_gateway_that_watches_sees_a_change_within_two_seconds(place: Place) -> None:
    async with (
        connected(place) as mine,
        connected(place) as theirs,
        watched_keys(place, mine) as one,
        opened_keys(place, theirs) as other,
    ):
        issued = await other.issuer.create("ann", new_grant().plain(), "me")
        seen_s = await _until(lambda: one.ring.find(issued.secret.reveal()) is not None)
        await other.issuer.revoke(issued.record.id, "me")
        gone_s = await _until(lambda: one.ring.find(issued.secret.reveal()) is None)
    print(json.dumps({"key seen after_s": round(seen_s, 2), "gone after_s": round(gone_s, 2)}))
    assert max(seen_s, gone_s) < 5


async def test_a_dump_of_the_store_holds_no_secret(place: Place, redis: RedisServer) -> None:
    async with connected(place) as client, opened_keys(place, client) as keys:
        issued = [await keys.issuer.create("ann", new_grant().plain(), "me") for _ in range(5)]
        issued += [await keys.issuer.rotate(one.record.id, "me", 60) for one in issued]
    secrets = [one.secret.reveal().encode() for one in issued]
    if place.store:
        dumped = b"".join(redis.do("DUMP", key) for key in redis.do("KEYS", "*"))
    else:
        dumped = b"".join(path.read_bytes() for path in place.state_dir.glob("keys.sqlite*"))
    assert issued[0].record.digests[0].digest.encode() in dumped or place.store
    assert not [secret for secret in secrets if secret in dumped or secret[21:64] in dumped]
    async with connected(place) as client, opened_keys(place, client) as keys:
        await keys.ring.refresh()
        digests = [one.record.digests[0].digest for one in issued]
        assert [keys.ring.find(digest) for digest in digests] == [None] * 10
        forged = [_forged(one.record.id, one.record.digests[0].digest) for one in issued]
        assert [keys.ring.find(text) for text in forged] == [None] * 10


def _forged(key_id: str, digest: str) -> str:
    """A well-formed key whose secret is what the store knows."""
    return reissued("live", Credential(key_id, digest[:43]))


async def test_a_gateway_with_another_pepper_does_not_start(place: Place, tmp_path: Path) -> None:
    async with connected(place) as client, opened_keys(place, client) as keys:
        await keys.issuer.create("ann", new_grant().plain(), "me")
    elsewhere = Place(place.store, place.state_dir, tmp_path / "other" / "pepper")
    async with connected(elsewhere) as client:
        with pytest.raises(UsageError, match="copy it from the other gateways"):
            async with watched_keys(elsewhere, client):
                raise AssertionError
        with pytest.raises(UsageError, match="copy it from the other gateways"):
            async with opened_keys(elsewhere, client) as keys:
                await keys.issuer.create("ann", new_grant().plain(), "me")


async def test_a_file_is_made_with_the_first_key_and_only_its_user_reads_it(tmp_path: Path) -> None:
    place = Place(None, tmp_path / "state", tmp_path / "state" / "pepper")
    async with watched_keys(place, None) as keys:
        assert not place.state_dir.exists()
        await keys.issuer.create("ann", new_grant().plain(), "me")
        assert stat.S_IMODE(place.state_dir.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.state_dir.iterdir()}
    assert modes.pop("pepper") == 0o400
    assert set(modes.values()) == {0o600}
    assert "keys.sqlite" in modes


async def test_a_file_that_is_none_is_a_store_that_is_down(tmp_path: Path) -> None:
    (tmp_path / "keys.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreDown, match="not a database"):
        await SqliteKeys(tmp_path / "keys.sqlite").version()


async def test_a_gateway_does_not_start_on_a_file_of_a_later_release(tmp_path: Path) -> None:
    place, path = Place(None, tmp_path, tmp_path / "pepper"), tmp_path / "keys.sqlite"
    async with opened_keys(place, None) as keys:
        await keys.issuer.create("ann", new_grant().plain(), "me")
    with closing(sqlite3.connect(path)) as later:
        assert form_of(later) == FORM
        later.execute(f"PRAGMA user_version = {FORM + 1}")
    with pytest.raises(UsageError) as refused:
        async with watched_keys(place, None):
            raise AssertionError
    assert str(refused.value) == f"{path}: a later release has written there; update this gateway"
    async with opened_keys(place, None) as keys:
        with pytest.raises(UsageError, match="a later release has written there"):
            await keys.issuer.create("bob", new_grant().plain(), "me")


async def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    store = SqliteKeys(tmp_path / "keys.sqlite")
    await store.put("a", "one", "", "made")
    with sqlite3.connect(tmp_path / "keys.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.put("a", "two", "one", "changed"))
        await asyncio.sleep(0.1)
        assert await SqliteKeys(tmp_path / "keys.sqlite").records() == {"a": "one"}
        other.execute("COMMIT")
        assert await writing
    await store.aclose()


async def test_while_redis_is_down_known_keys_are_found_and_it_is_found_again(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        place = Place(server.url, tmp_path, tmp_path / "pepper")
        async with connected(place) as client, watched_keys(place, client) as keys:
            issued = await keys.issuer.create("ann", new_grant().plain(), "me")
            server.pause()
            unknown, (known,) = issue("live")[0], keys.ring.keys
            await _until(lambda: _is_unknowable(keys, unknown))
            assert keys.ring.find(issued.secret.reveal()) == known
            with pytest.raises(StoreDown):
                await keys.issuer.create("bob", new_grant().plain(), "me")
            server.resume()
            assert await _until(lambda: not _is_unknowable(keys, unknown)) < 10
            await keys.issuer.revoke(issued.record.id, "me")
            assert keys.ring.find(issued.secret.reveal()) is None


async def test_a_gateway_starts_without_its_redis_and_finds_the_keys_when_it_comes(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        place = Place(server.url, tmp_path, tmp_path / "pepper")
        async with connected(place) as client, opened_keys(place, client) as keys:
            issued = await keys.issuer.create("ann", new_grant().plain(), "me")
        server.kill()
        async with connected(place) as client, watched_keys(place, client) as keys:
            assert _is_unknowable(keys, issued.secret.reveal())
            server.start()
            await _until(lambda: not _is_unknowable(keys, issued.secret.reveal()))
            assert keys.ring.find(issued.secret.reveal()) is not None


async def _until(is_so: Callable[[], bool]) -> float:
    """Seconds that it took."""
    began_at = time.monotonic()
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)
    return time.monotonic() - began_at


def _is_unknowable(keys: GeneratedKeys, secret: str) -> bool:
    try:
        keys.ring.find(secret)
    except Overloaded:
        return True
    return False
