"""Keys for operators, on the admin listener, with a key of the scope `admin:keys`.

What may be said of a key is a closed list, and nobody gives more than they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from app.api.call import call_of
from app.api.policy import needs
from app.api.routes.admin import running
from app.errors import InvalidRequest, NotAllowed, Overloaded, UsageError, shown
from app.forms.grants import exceeded, new_grant, read_key
from app.store.keys.credentials import ENVIRONMENT, NAME
from app.store.keys.issuer import Issuer, Record
from app.store.keys.key import Key
from app.store.redis_client import StoreDown

routes = APIRouter()

DEFAULT_GRACE_S, MOST_GRACE_S = 86_400.0, 30 * 86_400.0


@routes.post("/admin/keys", name="create_key")
@needs("admin:keys")
async def create(http_request: HttpRequest) -> JSONResponse:
    """A new key; its secret is in this answer and nowhere else."""
    call = call_of(http_request)
    body = await call.json()
    name, environment = _text(body, "name", ""), _text(body, "environment", "live")
    if not ENVIRONMENT.fullmatch(environment):
        raise InvalidRequest("environment must be a word such as live or test", param="environment")
    grant = new_grant(**body)
    if too_much := exceeded(grant.key("new"), call.key):
        raise NotAllowed(f"this key may not give more than it has: {', '.join(too_much)}", param=too_much[0])
    with _kept(http_request) as issuer:
        issued = await issuer.create(name, grant.plain(), call.key.id, environment)
    return JSONResponse(issued.told(), 201)


@routes.get("/admin/keys", name="list_keys")
@needs("admin:keys")
async def list_keys(http_request: HttpRequest) -> JSONResponse:
    """The generated keys that the caller may change, those that have ended too; no secrets."""
    held = call_of(http_request).key
    with _kept(http_request) as issuer:
        records = [record for record in await issuer.list() if not _exceeded(record, held)]
    return JSONResponse({"data": [record.told() for record in records]})


@routes.delete("/admin/keys/{key_id}", name="revoke_key")
@needs("admin:keys")
async def revoke(http_request: HttpRequest) -> JSONResponse:
    """End a key: everywhere within two seconds."""
    with _kept(http_request) as issuer:
        record = await _within(issuer, http_request)
        return JSONResponse((await issuer.revoke(record.id, call_of(http_request).key.id)).told())


@routes.post("/admin/keys/{key_id}/rotate", name="rotate_key")
@needs("admin:keys")
async def rotate(http_request: HttpRequest) -> JSONResponse:
    """A new secret for a key; the old one is good for `grace_s` more."""
    call = call_of(http_request)
    body = await call.json()
    if others := body.keys() - {"grace_s"}:
        raise InvalidRequest("a rotation takes grace_s only", param=shown(min(others)))
    grace_s = body.get("grace_s", DEFAULT_GRACE_S)
    if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s <= MOST_GRACE_S:
        raise InvalidRequest(f"grace_s must be a number from 0 to {MOST_GRACE_S:.0f}", param="grace_s")
    with _kept(http_request) as issuer:
        record = await _within(issuer, http_request)
        issued = await issuer.rotate(record.id, call.key.id, grace_s)
    return JSONResponse(issued.told())


async def _within(issuer: Issuer, http_request: HttpRequest) -> Record:
    """The key that a call is about: whoever holds less than it has nothing to say about it.

    Raises:
        UnknownKey: there is no such key.
        UsageError: a later release wrote it.
        NotAllowed: it has more than the caller's.
    """
    found = await issuer.find(http_request.path_params["key_id"])
    if too_much := _exceeded(found, call_of(http_request).key):
        raise NotAllowed(f"that key has more than this one: {', '.join(too_much)}")
    return found


def _exceeded(record: Record, held: Key) -> list[str]:
    """In what a kept key has more than the caller's; what another release has written counts as more."""
    try:
        return exceeded(read_key(record.id, record.grant), held)
    except ValueError:
        return ["what this release does not know"]


def _text(body: dict[str, Any], name: str, default: str) -> str:
    """Take a short text out of a body."""
    value = body.pop(name, default)
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidRequest(f"{name} must be one printable line of at most 64 characters", param=name)
    return value


@contextmanager
def _kept(http_request: HttpRequest) -> Iterator[Issuer]:
    """A block in which keys are read and written, and a store that fails is an answer."""
    try:
        yield running(http_request).issuer
    except StoreDown as exc:
        raise Overloaded("the store of the keys does not answer; try again in a few seconds") from exc
    except UsageError as exc:
        raise Overloaded(str(exc)) from exc
