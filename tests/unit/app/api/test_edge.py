"""The outermost ring of the control routes, without sockets: who is let in, and what every answer carries."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from app.api import Plane, admin_plane, data_plane
from app.api.edge import Edge
from app.api.policy import PUBLIC, Policy, needs
from app.errors import UpstreamBroken
from app.store.keys.key import SCOPES, Key
from app.telemetry.logging import EventLog
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from tests.fakes.asgi import Reply, ask, receiving
from tests.fakes.gateway import Bench, bench
from tests.fakes.listener import SECRET, UNLIMITED, FakeRunning, doors, keys
from tests.fakes.upstream import FakeUpstream
from tests.fakes.world import catalog, model

CATALOG = catalog(model("small"), model("large"))
NARROW = Key("narrow", models=("small",), profiles=("default",), scopes=frozenset({"models:read"}), **UNLIMITED)


def world() -> Bench:
    return bench(CATALOG, FakeUpstream(small=b"hello", large=b"hello"))


def plane(a_bench: Bench | None = None) -> Plane:
    return data_plane(doors(a_bench or world(), CATALOG, keys(sk_narrow=NARROW)))


CHAT = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}).encode()
ROUTES = [
    (method, str(getattr(route, "path")), route)  # noqa: B009 - the base class has none
    for each in (plane(), admin_plane(doors(world(), CATALOG), plane(), FakeRunning()))
    for route in each.app.routes
    for method in route.methods  # type: ignore[attr-defined]
]


@pytest.mark.parametrize("disguise", ["{}", "/{}", "{}/", "{}/.", "{}?x", "{};x", "{}%2f", "/v1/..{}"])
@pytest.mark.parametrize(("method", "path", "route"), ROUTES, ids=[f"{method} {path}" for method, path, _ in ROUTES])
async def test_without_a_key_no_route_is_open_but_health(method: str, path: str, route: Any, disguise: str) -> None:
    if path in ("/metrics", "/openapi.json"):
        return
    reply = await ask(plane().app, method, disguise.format(path), CHAT, {"authorization": ""})
    is_open = route.endpoint.needed_scope == PUBLIC and disguise == "{}"
    assert (reply.status == 200) is is_open
    assert reply.status in (200, 401, 404)


async def test_a_body_to_explain_that_is_read_and_refused_takes_a_request() -> None:
    key = Key("asks", models=("*",), **{**UNLIMITED, "requests_per_minute": 3})
    app = data_plane(doors(world(), CATALOG, keys(sk_asks=key))).app
    path, headers = "/v1/routing/explain", {"authorization": "Bearer sk-asks"}
    kinds = {"content-type": "text/plain"}
    assert (await ask(app, "POST", path, CHAT, headers | kinds)).status == 415, "which is not read"
    bodies = (b"no JSON", b'{"model": "auto"}', CHAT, CHAT)
    assert [(await ask(app, "POST", path, body, headers)).status for body in bodies] == [400, 400, 200, 429]


async def test_feedback_that_is_read_and_refused_counts_as_feedback() -> None:
    app = plane().app
    answers = [(await ask(app, "POST", "/v1/routing/feedback", b"no JSON")).status for _ in range(62)]
    assert answers[:60] == [400] * 60
    assert answers[-1] == 429


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "CONNECT"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/healthz"])
async def test_other_methods_are_refused_with_those_allowed(method: str, path: str) -> None:
    reply = await ask(plane().app, method, path)
    assert (reply.status, reply.json["error"]["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] in ("POST", "GET")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/v1/models/none", "/v1/chat/completions"])
async def test_head_is_answered_as_get_is(path: str) -> None:
    asked, got = [await ask(plane().app, method, path) for method in ("HEAD", "GET")]
    assert asked.status == got.status
    assert asked.headers.keys() == got.headers.keys()
    assert asked.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(("method", "path", "route"), ROUTES, ids=[f"{method} {path}" for method, path, _ in ROUTES])
def test_every_route_declares_its_scope(method: str, path: str, route: Any) -> None:
    assert route.endpoint.needed_scope in SCOPES | {PUBLIC}


@pytest.mark.parametrize("scope", [None, "everything"])
def test_a_route_without_a_known_scope_cannot_be_started(scope: str | None) -> None:
    routes = APIRouter()

    async def secrets() -> None:
        """Something that nobody thought about."""

    routes.get("/secrets")(needs(scope)(secrets) if scope else secrets)
    with pytest.raises(TypeError, match="/secrets declares no scope"):
        Policy(routes.routes)


@pytest.mark.parametrize("host", ["evil.example/v1/models?x=", "x/healthz#", "a@b"])
async def test_a_forged_host_decides_nothing(host: str) -> None:
    reply = await ask(plane().app, "GET", "/v1/models", headers={"host": host, "authorization": ""})
    assert reply.status == 401


async def test_a_key_sees_and_uses_its_own_models_only() -> None:
    headers = {"authorization": "Bearer sk-narrow"}
    listed = await ask(plane().app, "GET", "/v1/models", headers=headers)
    assert [entry["id"] for entry in listed.json["data"]] == ["auto", "small"]
    assert (await ask(plane().app, "GET", "/v1/models/small", headers=headers)).status == 200
    hidden = await ask(plane().app, "GET", "/v1/models/large", headers=headers)
    unknown = await ask(plane().app, "GET", "/v1/models/nope!", headers=headers)
    assert hidden.status == unknown.status == 404
    assert hidden.body.replace(b"large", b"nope!") == unknown.body
    assert (await ask(plane().app, "POST", "/v1/routing/explain", CHAT, headers)).status == 403


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("abc-DEF_123", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("a\nb", False),
        ("é", False),
        ("", False),
    ],
)
async def test_a_request_id_is_kept_if_it_is_harmless(asked: str, kept: bool) -> None:
    reply = await ask(plane().app, "GET", "/healthz", headers={"x-request-id": asked})
    assert (reply.headers["x-request-id"] == asked) is kept
    assert len(reply.headers["x-request-id"]) >= 11


async def test_every_answer_forbids_caches_and_guesses() -> None:
    for method, path in (("GET", "/healthz"), ("GET", "/nowhere"), ("POST", "/v1/routing/explain")):
        reply = await ask(plane().app, method, path, CHAT)
        assert reply.headers["cache-control"] == "private, no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"


async def test_a_bug_is_a_500_that_tells_an_id_and_nothing_else() -> None:
    a_bench = world()

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("canary: what somebody wrote")

    edge = Edge(broken, Policy(plane().app.routes), doors(a_bench, CATALOG))
    reply = await ask(edge, "GET", "/v1/models", headers={"x-request-id": "id-1"})
    assert (reply.status, reply.json["error"]["code"]) == (500, "internal")
    assert "id-1" in reply.json["error"]["message"]
    assert b"canary" not in reply.body
    (event,) = a_bench.events("request.crashed")
    assert event["request_id"] == "id-1"
    assert event["where"].startswith("RuntimeError at ")
    assert "canary" not in a_bench.log.getvalue()


async def test_a_bug_after_the_answer_began_does_not_begin_a_second_one() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    edge = Edge(broken, Policy(plane().app.routes), doors(world(), CATALOG))
    reply = await ask(edge, "GET", "/v1/models")
    assert [message["type"] for message in reply.messages] == ["http.response.start"]


async def test_web_sockets_are_closed() -> None:
    reply = Reply()
    await plane().app({"type": "websocket", "path": "/v1/models", "headers": []}, receiving([]), reply.send)
    assert reply.messages == [{"type": "websocket.close", "code": 1008}]


async def test_readiness_follows_the_gateway_and_says_no_more() -> None:
    a_bench = world()
    assert (await ask(plane(a_bench).app, "GET", "/readyz", headers={"authorization": ""})).json == {"status": "ok"}
    a_bench.admission.gate.leaving = True
    reply = await ask(plane(a_bench).app, "GET", "/readyz", headers={"authorization": ""})
    assert (reply.status, reply.json) == (503, {"status": "draining"})
    assert reply.headers["retry-after"] == "2"
    assert (await ask(plane(a_bench).app, "GET", "/healthz", headers={"authorization": ""})).status == 200


async def test_a_gateway_whose_replicas_are_all_out_is_not_ready_and_says_why() -> None:
    a_bench = world()
    for replica in a_bench.replicas.all:
        for _ in range(FAILURES_TO_EJECT):
            a_bench.replicas.failed(replica, UpstreamBroken("no"))
    reply = await ask(plane(a_bench).app, "GET", "/readyz", headers={"authorization": ""})
    assert (reply.status, reply.json) == (503, {"status": "no backend"})


async def test_metrics_are_on_the_admin_plane_only() -> None:
    admin = admin_plane(doors(world(), CATALOG), plane(), FakeRunning())
    assert b"thalamus_requests_in_flight" in (await ask(admin.app, "GET", "/metrics")).body
    assert (await ask(plane().app, "GET", "/metrics")).status == 404


async def test_the_document_has_every_path_and_every_parameter() -> None:
    admin = admin_plane(doors(world(), CATALOG), plane(), FakeRunning())
    written = (await ask(admin.app, "GET", "/openapi.json")).json
    paths = written["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/routing/explain"} <= paths.keys()
    schema = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"messages", "routing", "temperature", "tools"} <= schema["properties"].keys()
    assert "prompt" not in schema["properties"]
    assert {"/v1/responses", "/v1/embeddings"} <= paths.keys()
    assert (await ask(plane().app, "GET", "/openapi.json")).status == 404


OPERATOR = Key("operator", scopes=frozenset({"admin:config"}))


def admin(running: FakeRunning) -> FastAPI:
    return admin_plane(doors(world(), CATALOG, keys(sk_operator=OPERATOR)), plane(), running).app


async def ask_admin(
    running: FakeRunning, method: str, path: str, secret: str = "sk-operator", query: str = ""
) -> Reply:
    headers = {"authorization": f"Bearer {secret}"}
    return await ask(admin(running), method, path, headers=headers, query_string=query.encode())


async def test_an_operator_reloads_and_hears_the_version() -> None:
    running = FakeRunning()
    reply = await ask_admin(running, "POST", "/admin/reload")
    assert (reply.status, reply.json, running.reloads) == (200, {"config": "v1"}, 1)


async def test_a_configuration_that_is_wrong_is_told_line_by_line() -> None:
    reply = await ask_admin(FakeRunning(problems=("a: b", "c: d")), "POST", "/admin/reload")
    assert (reply.status, reply.json["error"]["code"]) == (422, "config_rejected")
    assert reply.json["error"]["details"] == {"problems": ["a: b", "c: d"]}


async def test_an_operator_drains_and_takes_it_back() -> None:
    running = FakeRunning()
    assert (await ask_admin(running, "POST", "/admin/drain")).status == 200
    assert running.leaving
    assert (await ask_admin(running, "DELETE", "/admin/drain")).status == 200
    assert not running.leaving


async def test_an_operator_ejects_a_replica_and_takes_it_back() -> None:
    lines = io.StringIO()
    running = FakeRunning()
    running.issuer.log = EventLog(lines)
    for method, ejected in (("POST", ["10.0.0.5:8000"]), ("DELETE", [])):
        asked = {"method": method, "path": "/admin/eject", "query": "replica=10.0.0.5:8000"}
        reply = await ask_admin(running, **asked)
        assert (reply.status, reply.json) == (200, {"ejected": ejected})
        assert (await ask_admin(running, **asked, secret=SECRET)).status == 403
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["what"], line["replica"], line["by"]) for line in said] == [
        (what, "10.0.0.5:8000", "operator") for what in ("eject", "uneject")
    ]


async def test_the_log_says_who_operates() -> None:
    lines = io.StringIO()
    running = FakeRunning()
    running.issuer.log = EventLog(lines)
    for method, path in (("POST", "/admin/reload"), ("POST", "/admin/drain"), ("DELETE", "/admin/drain")):
        await ask_admin(running, method, path)
        assert (await ask_admin(running, method, path, SECRET)).status == 403
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["event"], line["what"], line["by"]) for line in said] == [
        ("admin.asked", what, "operator") for what in ("reload", "drain", "undrain")
    ]


@pytest.mark.parametrize(("method", "path"), [("POST", "/admin/reload"), ("POST", "/admin/drain")])
@pytest.mark.parametrize(("secret", "status"), [("", 401), ("sk-nobody", 401), (SECRET, 403)])
async def test_nobody_else_operates(method: str, path: str, secret: str, status: int) -> None:
    running = FakeRunning()
    assert (await ask_admin(running, method, path, secret)).status == status
    assert (running.reloads, running.leaving) == (0, False)
