"""Generated keys as calls find them: made, ended, exchanged, out of time, and while their store is silent."""

from __future__ import annotations

import datetime as dt
import io
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.errors import Overloaded, UsageError
from app.forms.grants import grant_of, new_grant, read_key
from app.store.keys.credentials import PepperFile, issue, parsed
from app.store.keys.issuer import Issued, Issuer, UnknownKey
from app.store.keys.key import Key, Secret, StaticKeys
from app.store.keys.key_ring import READ_EVERY_S, AllKeys, KeyRing
from app.telemetry.logging import EventLog
from tests.fakes.clock import FakeClock
from tests.fakes.keys import MemoryKeys


@dataclass
class World:
    """A store, one who makes keys in it, and one gateway that finds them."""

    pepper: Path
    store: MemoryKeys = field(default_factory=MemoryKeys)
    clock: FakeClock = field(default_factory=FakeClock)
    wall_clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.issuer = Issuer(self.store, PepperFile(self.pepper), self.wall_clock)
        self.ring = self.gateway(self.pepper)

    def gateway(self, pepper: Path) -> KeyRing:
        return KeyRing(self.store, PepperFile(pepper), read_key, self.clock, self.wall_clock)

    async def made(self, **stated: Any) -> Issued:
        # Of a clock that is not the machine's, so that some of them end long before now.
        grant = grant_of({**new_grant().plain(), **stated})
        issued = await self.issuer.create("name", grant.plain(), "me")
        await self.ring.refresh()
        return issued

    def find(self, issued: Issued) -> Key | None:
        return self.ring.find(issued.secret.reveal())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "pepper")


async def test_a_key_is_found_by_its_secret_with_all_that_it_grants(world: World) -> None:
    issued = await world.made(models=["small"], requests_per_minute=None, routing={"min_quality": 0.6})
    key = world.find(issued)
    assert key == world.ring.keys[0]
    assert (key.id, key.models, key.requests_per_minute) == (issued.record.id, ("small",), None)
    assert key.routing.limits == {"min_quality": 0.6}


async def test_with_the_id_of_another_key_a_secret_is_worth_nothing(world: World) -> None:
    one, other = (await world.made()).secret.reveal(), (await world.made()).record.id
    text, _ = issue("live")
    assert world.ring.find(text) is None
    assert world.ring.find(one.replace(one[8:20], other)) is None


async def test_an_ended_key_and_one_of_which_only_the_digest_is_known_are_unknown(world: World) -> None:
    issued = await world.made()
    await world.issuer.revoke(issued.record.id, "me")
    assert world.find(issued) is not None
    await world.ring.refresh()
    assert world.find(issued) is None
    assert world.ring.find(issued.record.digests[0].digest) is None


async def test_an_exchanged_secret_is_good_for_its_time_and_the_clocks_differences(world: World) -> None:
    old = await world.made()
    new = await world.issuer.rotate(old.record.id, "me", grace_s=100)
    await world.ring.refresh()
    assert world.find(old) == world.find(new) is not None
    world.wall_clock.advance(159)
    assert world.find(old) is not None
    world.wall_clock.advance(2)
    assert world.find(old) is None
    assert world.find(new) is not None


async def test_a_secret_that_is_exchanged_without_time_ends_at_once(world: World) -> None:
    lost = await world.made()
    new = await world.issuer.rotate(lost.record.id, "me", grace_s=0)
    await world.ring.refresh()
    assert world.find(lost) is None
    assert world.find(new) is not None


async def test_of_a_key_that_was_exchanged_twice_the_first_secret_ends_at_once(world: World) -> None:
    first = await world.made()
    second = await world.issuer.rotate(first.record.id, "me", grace_s=100)
    await world.issuer.rotate(first.record.id, "me", grace_s=100)
    await world.ring.refresh()
    assert world.find(first) is None
    assert world.find(second) is not None


@pytest.mark.parametrize("change", ["revoke", "rotate"])
async def test_an_unknown_key_cannot_be_changed(world: World, change: str) -> None:
    more = {"grace_s": 1.0} if change == "rotate" else {}
    with pytest.raises(UnknownKey, match="there is no key 'x'"):
        await getattr(world.issuer, change)("x", "me", **more)


async def test_an_ended_key_stays_ended(world: World) -> None:
    key_id = (await world.made()).record.id
    ended = await world.issuer.revoke(key_id, "me")
    world.wall_clock.advance(10)
    assert await world.issuer.revoke(key_id, "me") == ended
    with pytest.raises(UnknownKey, match="was revoked"):
        await world.issuer.rotate(key_id, "me", grace_s=1)


async def test_a_key_whose_time_is_over_gets_no_other_secret(world: World) -> None:
    end = dt.datetime.fromtimestamp(world.wall_clock() + 10, dt.UTC)
    key_id = (await world.made(expires_at=end)).record.id
    await world.issuer.rotate(key_id, "me", grace_s=1)
    world.wall_clock.advance(10)
    with pytest.raises(UnknownKey, match="has expired"):
        await world.issuer.rotate(key_id, "me", grace_s=1)


async def test_each_write_is_in_the_audit_once_with_digests_that_fit_together(world: World) -> None:
    key_id = (await world.made()).record.id
    await world.issuer.rotate(key_id, "somebody", grace_s=1)
    await world.issuer.revoke(key_id, "me")
    await world.issuer.revoke(key_id, "me")
    audit = await world.issuer.audit()
    assert [(entry["what"], entry["by"]) for entry in audit] == [
        ("created", "me"),
        ("rotated", "somebody"),
        ("revoked", "me"),
    ]
    assert [entry["before"] for entry in audit] == [None, *(entry["after"] for entry in audit[:-1])]


async def test_what_is_kept_and_told_holds_no_secret(world: World) -> None:
    issued = await world.made()
    credential = parsed(issued.secret.reveal())
    assert credential is not None
    known = (world.store.texts, world.store.lines, issued, issued.record.told(), vars(world.ring))
    assert credential.secret not in repr(known)


async def test_nothing_is_read_while_nothing_changes_but_now_and_then(world: World) -> None:
    await world.made()
    before = world.store.reads
    for _ in range(29):
        world.clock.advance(1)
        await world.ring.refresh()
    assert world.store.reads == before
    world.clock.advance(2)
    await world.ring.refresh()
    assert world.store.reads == before + 1


async def test_changes_are_told_to_who_wants_to_follow_them(world: World) -> None:
    heard: list[int] = []
    world.ring.changed = lambda: heard.append(len(world.ring.keys))
    issued = await world.made()
    await world.ring.refresh()
    await world.issuer.revoke(issued.record.id, "me")
    await world.ring.refresh()
    assert heard == [1, 0]


async def test_a_key_whose_time_is_over_gives_up_its_places(world: World) -> None:
    expires_at = dt.datetime.fromtimestamp(world.wall_clock() + 100, dt.UTC)
    await world.made(expires_at=expires_at)
    living = await world.made()
    seen: list[list[str]] = []
    world.ring.changed = lambda: seen.append([key.id for key in world.ring.keys])
    for seconds in (159, 2, 100):
        world.wall_clock.advance(seconds)
        world.clock.advance(READ_EVERY_S + 1)
        await world.ring.refresh()
    assert seen == [[living.record.id]], "told once, when others can believe it too"


async def test_while_the_store_is_silent_known_keys_are_good_for_five_minutes(world: World) -> None:
    issued, (unknown, _) = await world.made(), issue("live")
    world.store.down = True
    world.clock.advance(4)
    assert world.ring.find(unknown) is None
    world.clock.advance(2)
    with pytest.raises(Overloaded) as caught:
        world.ring.find(unknown)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 5)
    assert world.find(issued) is not None
    world.clock.advance(295)
    with pytest.raises(Overloaded):
        world.find(issued)


async def test_keys_of_the_configuration_and_garbage_never_depend_on_the_store(world: World) -> None:
    keys = AllKeys(StaticKeys([(Secret("sk-a"), Key("a"))]), world.ring)
    found = keys.find("sk-a")
    assert found is not None
    assert found.id == "a"
    assert keys.find("sk-b") is None
    assert keys.find("rk_live_") is None
    with pytest.raises(Overloaded):
        keys.find(issue("live")[0])


async def test_a_gateway_with_another_pepper_says_so(world: World, tmp_path: Path) -> None:
    await world.made()
    stranger = tmp_path / "other"
    with pytest.raises(UsageError, match="other: is missing; it must be the one"):
        await world.gateway(stranger).refresh()
    PepperFile(stranger).create()
    with pytest.raises(UsageError, match="other: is another pepper than the one that the keys"):
        await world.gateway(stranger).refresh()
    with pytest.raises(UsageError, match="is another pepper"):
        await Issuer(world.store, PepperFile(stranger)).create("", {}, "me")


def _write(pepper: Path, *lines: str) -> None:
    pepper.chmod(0o600)
    pepper.write_text("\n".join(lines))
    pepper.chmod(0o400)


async def test_a_pepper_is_exchanged_key_by_key(world: World) -> None:
    old = await world.made()
    lines = [secrets.token_hex(32), world.pepper.read_text().strip()]
    _write(world.pepper, *lines)
    new = await world.issuer.rotate(old.record.id, "me", grace_s=100)
    await world.ring.refresh()
    assert world.find(old) == world.find(new) is not None
    _write(world.pepper, lines[0])
    world.clock.advance(31)
    await world.ring.refresh()
    assert world.find(old) is None
    assert world.find(new) is not None


async def test_a_pepper_can_go_when_no_key_that_lives_needs_it(world: World) -> None:
    expires_at = dt.datetime.fromtimestamp(world.wall_clock() + 100, dt.UTC)
    expired, living = await world.made(expires_at=expires_at), await world.made()
    lines = [secrets.token_hex(32), world.pepper.read_text().strip()]
    _write(world.pepper, *lines)
    rotated = await world.issuer.rotate(living.record.id, "me", grace_s=0)
    _write(world.pepper, lines[0])
    world.wall_clock.advance(159)
    with pytest.raises(UsageError, match=f"lacks the pepper of keys that live: {expired.record.id}; put its line"):
        await world.gateway(world.pepper).refresh()
    world.wall_clock.advance(2)
    ring = world.gateway(world.pepper)
    await ring.refresh()
    assert ring.find(rotated.secret.reveal())
    assert ring.find(expired.secret.reveal()) is None


async def test_of_many_keys_whose_pepper_is_gone_some_are_named(world: World) -> None:
    ids = sorted([(await world.made()).record.id for _ in range(8)])
    lines = [secrets.token_hex(32), world.pepper.read_text().strip()]
    _write(world.pepper, *lines)
    await world.made()
    _write(world.pepper, lines[0])
    with pytest.raises(UsageError, match=f"that live: {', '.join(ids[:5])} and 3 more; put its line back"):
        await world.gateway(world.pepper).refresh()


async def test_a_record_of_a_later_release_is_nobodys_key(world: World) -> None:
    issued = await world.made()
    world.store.texts[issued.record.id] = issued.record.text().replace('"models"', '"shapes"')
    world.store.texts["x"] = "{}"
    world.clock.advance(31)
    await world.ring.refresh()
    assert world.find(issued) is None


async def test_beside_a_record_of_a_later_release_others_are_listed_and_ended(world: World) -> None:
    later, own = await world.made(), await world.made()
    text = later.record.text()[:-1] + ',"suspended_at":1.0}'
    world.store.texts[later.record.id] = text
    assert [record.id for record in await world.issuer.list()] == [own.record.id]
    assert await world.issuer.count() == 2
    await world.issuer.revoke(own.record.id, "me")
    for change in (world.issuer.revoke(later.record.id, "me"), world.issuer.rotate(later.record.id, "me", 60)):
        with pytest.raises(UsageError, match=f"{later.record.id} was written by a later release; change it with that"):
            await change
    assert world.store.texts[later.record.id] == text


async def test_keys_that_only_a_later_release_can_read_are_told_of_once(world: World) -> None:
    issued = await world.made()
    log = io.StringIO()
    world.ring.log = EventLog(log)
    world.store.texts[issued.record.id] = issued.record.text().replace('"models"', '"shapes"')
    for _ in range(2):
        world.clock.advance(31)
        await world.ring.refresh()
        world.ring.report_unread()
    (told,) = map(json.loads, log.getvalue().splitlines())
    assert (told["event"], told["keys"], told["count"]) == ("keys.unread", [issued.record.id], 1)
