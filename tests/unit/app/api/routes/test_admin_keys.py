"""Keys on the admin listener: who may make, see, exchange and end which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter

from app.api import admin_plane, data_plane
from app.api.policy import Policy, needs
from app.forms.grants import new_grant, read_key
from app.store.keys.credentials import PepperFile, parsed
from app.store.keys.issuer import Issuer
from app.store.keys.key import ADMIN_SCOPES, DEFAULT_SCOPES, SCOPES, Budget, Key
from app.store.keys.key_ring import AllKeys, KeyRing
from tests.fakes.asgi import Reply, ask
from tests.fakes.gateway import bench
from tests.fakes.keys import MemoryKeys
from tests.fakes.listener import FakeRunning, doors, keys
from tests.fakes.upstream import FakeUpstream
from tests.fakes.world import catalog, model

CATALOG = catalog(model("small"), model("large"))
ADMIN = Key("admin", models=("*",), scopes=DEFAULT_SCOPES | {"admin:keys"}, budget=Budget(20.0))
ALL = Key("all", models=("*",), scopes=SCOPES, budget=None)
ACME = Key("acme", models=("*",), scopes=ADMIN.scopes, budget=ADMIN.budget, tenant="acme")
OPERATOR = Key("operator", models=("*",), scopes=frozenset({"admin:config"}))


@dataclass
class World:
    """An admin plane over a store in memory, and the ring that both listeners would ask."""

    folder: Path
    store: MemoryKeys = field(default_factory=MemoryKeys)

    def __post_init__(self) -> None:
        peppers = PepperFile(self.folder / "pepper")
        self.issuer = Issuer(self.store, peppers)
        self.ring = KeyRing(self.store, peppers, read_key)
        self.issuer.changed = self.ring.refresh
        known = AllKeys(keys(sk_admin=ADMIN, sk_all=ALL, sk_acme=ACME, sk_operator=OPERATOR), self.ring)
        self.bench = bench(CATALOG, FakeUpstream(small=b"hello", large=b"hello"))
        self.issuer.log = self.bench.admission.ledger.telemetry.log
        shared = doors(self.bench, CATALOG, known)
        self.data = data_plane(shared)
        self.admin = admin_plane(shared, self.data, FakeRunning(issuer=self.issuer))

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, secret: str = "sk-admin"
    ) -> Reply:
        headers = {"authorization": f"Bearer {secret}"}
        return await ask(self.admin.app, method, path, json.dumps(body or {}).encode(), headers)

    async def create(self, **stated: Any) -> dict[str, Any]:
        reply = await self.ask("POST", "/admin/keys", stated)
        assert reply.status == 201, reply.json
        made: dict[str, Any] = reply.json
        return made


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_key_that_is_made_is_good_at_once(world: World) -> None:
    made = await world.create(name="ann", models=["small"])
    found = world.ring.find(made["key"])
    assert found is not None
    assert (found.id, found.models, found.budget) == (made["id"], ("small",), Budget(10.0))
    assert (made["name"], made["created_by"], "digests" in made) == ("ann", "admin", False)
    (event,) = world.bench.events("key.created")
    assert (event["by"], event["key"]) == ("admin", made["id"])
    listed = (await world.ask("GET", "/admin/keys")).json["data"]
    assert [one["id"] for one in listed] == [made["id"]]
    credential = parsed(made["key"])
    assert credential is not None
    assert credential.secret not in json.dumps(listed)


async def test_a_key_is_exchanged_and_ended(world: World) -> None:
    made = await world.create()
    rotated = (await world.ask("POST", f"/admin/keys/{made['id']}/rotate", {"grace_s": 60})).json
    assert world.ring.find(made["key"]) == world.ring.find(rotated["key"]) is not None
    ended = await world.ask("DELETE", f"/admin/keys/{made['id']}")
    assert (ended.status, ended.json["revoked_at"] is None) == (200, False)
    assert world.ring.find(made["key"]) is world.ring.find(rotated["key"]) is None
    assert [json.loads(line)["what"] for line in world.store.lines] == ["created", "rotated", "revoked"]


@pytest.mark.parametrize(
    ("stated", "param"),
    [
        ({"scopes": ["admin:config"]}, "scopes"),
        ({"scopes": ["inference", "route:upgrade"]}, "scopes"),
        ({"budget": None}, "budget"),
        ({"budget": {"usd": 21}}, "budget"),
        ({"requests_per_minute": None}, "requests_per_minute"),
        ({"expires_at": None}, None),
        ({"flags_in_prompt": True}, "flags_in_prompt"),
    ],
)
async def test_nobody_gives_more_than_they_have(world: World, stated: dict[str, Any], param: str | None) -> None:
    reply = await world.ask("POST", "/admin/keys", stated)
    assert reply.status == (403 if param else 201)
    assert param is None or reply.json["error"]["param"] == param
    assert len(world.store.texts) == (0 if param else 1)


@pytest.mark.parametrize(
    "stated",
    [
        {"id": "x"},
        {"secret": "x"},
        {"digests": []},
        {"revoked_at": 1},
        {"name": 7},
        {"name": "\n"},
        {"environment": "L!"},
        {"models": "small"},
        {"routing": {"min_quality": 2}},
        {"concurrency": -1},
    ],
)
async def test_only_what_a_key_has_can_be_written(world: World, stated: dict[str, Any]) -> None:
    reply = await world.ask("POST", "/admin/keys", stated)
    assert (reply.status, world.store.texts) == (400, {})


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"budget": 5}, "budget: expected an object with fields such as usd, per, hard"),
        ({"models": "*"}, 'models: expected a list, such as ["one", "another"]'),
        ({"expires_at": "2027-01-01T00:00"}, "expires_at: expected a time with its zone, such as 2027-01-01T00:00:00Z"),
        ({"max_priority": "urgent"}, "max_priority: expected 'low', 'normal' or 'high'"),
        ([], 'the body must be a JSON object, such as {"name": "value"}'),
    ],
)
async def test_a_refusal_says_what_is_expected_and_nothing_of_how_it_is_checked(
    world: World, stated: Any, says: str
) -> None:
    reply = await ask(
        world.admin.app,
        "POST",
        "/admin/keys",
        json.dumps(stated).encode(),
        {"authorization": "Bearer sk-admin"},
    )
    assert (reply.status, reply.json["error"]["message"]) == (400, says)


@pytest.mark.parametrize("body", [{"grace_s": -1}, {"grace_s": True}, {"grace_s": "1"}, {"grace_s": 1e9}, {"x": 1}])
async def test_a_rotation_says_how_long_and_nothing_else(world: World, body: dict[str, Any]) -> None:
    made = await world.create()
    assert (await world.ask("POST", f"/admin/keys/{made['id']}/rotate", body)).status == 400


async def test_whoever_has_less_than_a_key_has_no_say_in_it(world: World) -> None:
    strong = await world.issuer.create("strong", new_grant(scopes=["admin:config"], budget=None).plain(), "me")
    for method, path in (("DELETE", ""), ("POST", "/rotate")):
        reply = await world.ask(method, f"/admin/keys/{strong.record.id}{path}")
        assert (reply.status, reply.json["error"]["code"]) == (403, "not_allowed")
    assert world.ring.find(strong.secret.reveal()) is not None
    assert (await world.ask("DELETE", f"/admin/keys/{strong.record.id}", secret="sk-all")).status == 200


async def test_whoever_has_less_than_a_key_does_not_see_it(world: World) -> None:
    for tenant in ("acme", "globex"):
        await world.issuer.create(f"of {tenant}", new_grant(tenant=tenant).plain(), "me")
    await world.issuer.create("strong", new_grant(budget=None).plain(), "me")
    unreadable = await world.issuer.create("of a later release", {**new_grant().plain(), "later": 1}, "me")

    async def seen(secret: str) -> list[str]:
        return sorted(one["name"] for one in (await world.ask("GET", "/admin/keys", secret=secret)).json["data"])

    assert await seen("sk-acme") == ["of acme"]
    assert await seen("sk-admin") == ["of acme", "of globex"]
    assert await seen("sk-all") == ["of acme", "of globex", "strong"]
    assert (await world.ask("DELETE", f"/admin/keys/{unreadable.record.id}")).status == 403


async def test_an_unknown_key_is_told(world: World) -> None:
    for method, path in (("DELETE", ""), ("POST", "/rotate")):
        reply = await world.ask(method, f"/admin/keys/nobody{path}")
        assert (reply.status, reply.json["error"]["code"]) == (404, "key_not_found")


@pytest.mark.parametrize(("secret", "status"), [("", 401), ("sk-x", 401), ("sk-test", 403), ("sk-operator", 403)])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/admin/keys"), ("GET", "/admin/keys"), ("DELETE", "/admin/keys/x"), ("POST", "/admin/keys/x/rotate")],
)
async def test_nobody_else_has_a_say(world: World, method: str, path: str, secret: str, status: int) -> None:
    assert (await world.ask(method, path, secret=secret)).status == status
    assert (await ask(world.data.app, method, path, headers={"authorization": "Bearer sk-all"})).status == 404


async def test_a_store_that_is_down_is_a_503(world: World) -> None:
    world.store.down = True
    for method, path in (("POST", "/admin/keys"), ("GET", "/admin/keys"), ("DELETE", "/admin/keys/x")):
        reply = await world.ask(method, path)
        assert (reply.status, reply.json["error"]["code"]) == (503, "overloaded")


@pytest.mark.parametrize("scope", sorted(ADMIN_SCOPES))
def test_a_route_for_operators_cannot_be_started_on_the_callers_listener(scope: str) -> None:
    routes = APIRouter()

    async def secrets() -> None:
        """Something for operators."""

    routes.get("/secrets")(needs(scope)(secrets))
    Policy(routes.routes)
    with pytest.raises(TypeError, match="/secrets declares no scope that counts here"):
        Policy(routes.routes, (), SCOPES - ADMIN_SCOPES)
