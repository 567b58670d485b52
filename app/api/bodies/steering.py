"""What was asked of a decision by everybody: the profile, the key, the prompt, the headers, the body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.api.access import Access
from app.domain.dimensions import Source
from app.domain.preferences import (
    NO_CONTEXT,
    NOTHING_ASKED,
    Context,
    FlagLine,
    Policy,
    merged,
    narrow,
    parse_body,
    parse_headers,
    permit,
)
from app.domain.quantities import PRIORITIES, Priority
from app.domain.request import Origins, Preferences
from app.errors import InvalidRequest, NotAllowed
from app.store.keys.key import Key

# Gateways like this one that a call may pass; more means that two of them send it round and round.
MAX_HOPS = 3
HOP_HEADER = "x-thalamus-hop"
# https://www.w3.org/TR/trace-context/#traceparent-header: a version that is not ff, ids that are not all zeros. What a
# later version appends to its fields is not known to be harmless.
_TRACE = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_DIGITS = frozenset("0123456789")
_NO_PREFERENCES = Preferences()


class Call(Protocol):
    """Who calls, as far as a request depends on it."""

    @property
    def key(self) -> Key: ...
    @property
    def access(self) -> Access: ...
    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        ...

    @property
    def request_id(self) -> str: ...


@dataclass(slots=True)
class Steering:
    """What was asked, combined and checked."""

    model: str | None
    profile: str
    preferences: Preferences
    context: Context


def steer(body: Mapping[str, Any], call: Call, flags: FlagLine | None) -> Steering:
    """Combine what profile, key, prompt, headers and body say, in this order.

    Raises:
        CallerError: one of them says something impossible, or that it may not say.
    """
    name, key = body.get("model"), call.key
    if not name:
        raise InvalidRequest('model is missing; send "auto", or a name from GET /v1/models', param="model")
    model, profile = call.access.resolve(name, key)
    # Who names a model has made the choice that a profile is about; what holds for the key holds for him too.
    in_profile = _NO_PREFERENCES if model else call.access.preferences(profile)
    held = merged(in_profile, key.routing)
    in_headers, in_body = parse_headers(call.headers), parse_body(body.get("routing"))
    if in_headers is in_body is NOTHING_ASKED and flags is None:
        signed = _signed(held, in_profile, key.routing, _NO_PREFERENCES, _NO_PREFERENCES)
        return Steering(model, profile, signed, NO_CONTEXT)
    for said in (in_headers, in_body):
        permit(key.may_set, said.context)
    policy = Policy(held, key.scopes, key.may_set, key.reads_flags)
    if flags:
        policy = narrow(policy, Source.PROMPT, flags.preferences)
    names = call.access.names
    header, asked = names.without_strangers(in_headers.preferences), names.without_strangers(in_body.preferences)
    policy = narrow(narrow(policy, Source.HEADER, header), Source.BODY, asked)
    signed = _signed(policy.preferences, in_profile, key.routing, header, asked)
    return Steering(model, profile, signed, in_body.context.over(in_headers.context))


def _signed(asked: Preferences, *by: Preferences) -> Preferences:
    """The same, saying what of it profile, key, headers and body set, unless that was the body alone."""
    profile, key, header, body = by
    if not (profile.limits or key.limits or header.limits):
        return asked
    origins = Origins(profile.limits, key.limits, header.limits, body.limits)
    return Preferences(asked.limits, asked.weights, asked.max_quality_loss, origins)


def allowed_priority(asked: Priority | None, key: Key) -> Priority:
    """What was asked for, else normal, as far as the key goes.

    Raises:
        NotAllowed: more was asked for than the key allows.
    """
    if asked is None:
        return "low" if key.max_priority == "low" else "normal"
    if PRIORITIES.index(asked) > PRIORITIES.index(key.max_priority):
        raise NotAllowed(f"routing.priority is at most {key.max_priority} for this key", param="routing.priority")
    return asked


def count_hops(headers: Mapping[str, str]) -> int:
    """Gateways like this one that a call has passed.

    Raises:
        InvalidRequest: too many, or it does not say.
    """
    passed = headers.get(HOP_HEADER, "0")
    if passed == "0":
        return 0
    if not (passed and set(passed) <= _DIGITS and len(passed) < 3):
        raise InvalidRequest(f"the header {HOP_HEADER} must be a number; leave it out", param=HOP_HEADER)
    if int(passed) >= MAX_HOPS:
        raise InvalidRequest(
            f"this call has passed {passed} gateways, at most {MAX_HOPS} may be; does a backend lead back here?",
            param=HOP_HEADER,
        )
    return int(passed)


def trace_of(headers: Mapping[str, str]) -> str | None:
    """The caller's trace context, where it is well formed; what is not is left out, as its standard wants."""
    trace = headers.get("traceparent")
    return trace if trace and _TRACE.fullmatch(trace) else None
