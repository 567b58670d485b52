"""What every call passes, whichever way it came in: who calls, may they, and how refusals are counted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from starlette.types import Receive

from app.api.access import Access
from app.api.call import Call, nothing_more
from app.api.connection.guard import REQUEST_ID
from app.api.connection.strangers import Strangers
from app.api.connection.uploads import Uploads
from app.api.loggable import loggable
from app.api.policy import PUBLIC, Rule
from app.domain.clock import Clock
from app.domain.quantities import PRIORITIES
from app.errors import GatewayError, NotAllowed, Unauthorized
from app.gateway import Gateway
from app.store.keys.key import Key, Keys
from app.telemetry import Telemetry
from app.telemetry.logging import where

NOBODY = Key("nobody", scopes=frozenset())
"""Who calls a public route."""


@dataclass(slots=True)
class Doors:
    """What calls are let in by, and what they are let through to.

    A reload changes all of it at once. So a call takes what it needs in one step, and keeps that to its end.
    """

    keys: Keys
    access: Access
    gateway: Gateway
    telemetry: Telemetry
    body_limit_bytes: int
    wall_clock: Clock = time.time
    strangers: Strangers = field(default_factory=Strangers)
    """Stay what they are, whatever else changes."""
    uploads: Uploads = field(default_factory=Uploads)
    """Stay as well, but for their room."""

    def let_in(
        self,
        rule: Rule,
        headers: Mapping[str, str],
        request_id: str,
        receive: Receive = nothing_more,
        address: str = "",
    ) -> Call:
        """The call, once it is known who makes it. Nothing of a body is read before that.

        Raises:
            Unauthorized: there is no valid key.
            RateLimited: too many calls came from this address without one.
            Overloaded: it cannot be looked up at the moment.
            NotAllowed: the key lacks the scope.
        """
        key = NOBODY if rule.scope == PUBLIC else self._authenticated(headers, address)
        if rule.scope != PUBLIC and rule.scope not in key.scopes:
            raise NotAllowed(f"this key may not do that; it needs the scope {rule.scope}")
        return Call(
            gateway=self.gateway,
            access=self.access,
            key=key,
            request_id=request_id,
            headers=headers,
            body_limit_bytes=self.body_limit_bytes,
            receive=receive,
            operation=rule.operation,
            uploads=self.uploads,
        )

    def become(self, other: Doors) -> None:
        """Lead to where the others lead, for all calls from now on."""
        self.keys, self.access, self.gateway = other.keys, other.access, other.gateway
        self.telemetry, self.body_limit_bytes = other.telemetry, other.body_limit_bytes
        self.uploads.room_bytes = other.uploads.room_bytes

    def count(self, error: GatewayError, call: Call | None, request_id: str) -> None:
        """Count a call that never came as far as the gateway, which records all others itself."""
        if call and call.begun:
            return
        operation = call.operation if call else "none"
        self.telemetry.metrics.rejected(operation, error.code)
        self.telemetry.log.write(
            "request.rejected",
            request_id=request_id,
            key=call.key.id if call else None,
            operation=operation,
            code=error.code,
            param=loggable(error.param),
        )

    def crashed(self, error: Exception, request_id: str) -> None:
        """Note a bug of ours."""
        self.telemetry.log.write("request.crashed", request_id=request_id, where=where(error))

    def _authenticated(self, headers: Mapping[str, str], address: str) -> Key:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        key = self.keys.find(secret)
        if key is None or not key.lets_in(address, self.wall_clock()):
            self.strangers.let_in(address, None)
            # The same for keys that are unknown, revoked, expired, or used from elsewhere.
            raise Unauthorized("send a valid key in the header authorization: Bearer KEY")
        self.strangers.let_in(address, key.id, secret)
        return key


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; of a name that occurs twice, the values joined by a comma. Names are in lower case already."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def request_id_of(headers: Mapping[str, str]) -> str:
    """The caller's own id where it is harmless, else a new one."""
    asked = headers.get("x-request-id")
    return asked if asked and REQUEST_ID.fullmatch(asked) else os.urandom(16).hex()


def priority_of(call: Call) -> str:
    """The priority that a call has at most, as far as that is known before its body is read."""
    asked, most = call.headers.get("x-thalamus-priority"), call.key.max_priority
    return min(asked, most, key=PRIORITIES.index) if asked in PRIORITIES else most
