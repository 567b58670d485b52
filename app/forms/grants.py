"""What a key may use, as operators write it: in the gateway's file, on the command line, to the admin listener.

The form is closed, so it is the list of all that may be said. Nobody grants more than they hold: `exceeded` names what
would be more.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from app.domain.preferences import Context, merged, parse_body
from app.domain.quantities import MOST, PRIORITIES, Priority
from app.domain.request import Preferences
from app.domain.vocabulary import VOCABULARY
from app.errors import CallerError, InvalidRequest, shown
from app.forms.catalog_file import Count, Form, Positive, Usd
from app.forms.expected import expected
from app.forms.yaml_files import dotted
from app.store.keys.credentials import NAME
from app.store.keys.key import (
    ADMIN_SCOPES,
    BUDGET,
    CONCURRENCY,
    DEFAULT_SCOPES,
    REQUESTS_PER_MINUTE,
    SCOPES,
    TOKENS_PER_MINUTE,
    Budget,
    Key,
    Network,
    Period,
)

DAYS_IN_A_MONTH = 31
LEAST_PER_MINUTE = 1e-5
"""One in ten weeks: who is to have less is to have nothing."""
NUMBERS: Mapping[str, tuple[float, float]] = {
    "requests_per_minute": (LEAST_PER_MINUTE, MOST),
    "tokens_per_minute": (LEAST_PER_MINUTE, MOST),
    "concurrency": (1, MOST),
    "max_tokens": (1, MOST),
}
"""The bounds of a key's limits. Beyond them are waits that nobody lives to see the end of, and numbers that no store
keeps; whoever states such a limit in a file or an earlier release has the nearest one."""
NEW_KEY_DAYS = 90
"""How long a key is good that says nothing about it."""


def preferences(routing: object) -> Preferences:
    """What always holds, from an object like `routing` in a request.

    Raises:
        ValueError: it is wrong, or about a single request.
    """
    try:
        asked = parse_body(routing)
    except CallerError as exc:
        raise ValueError(exc.message) from exc
    if asked.context != Context():
        raise ValueError("expected limits and weights only; the rest of routing is about single requests")
    return asked.preferences


def _scope(value: str) -> str:
    if value not in SCOPES:
        raise ValueError(f"expected one of {', '.join(sorted(SCOPES))}")
    return value


def _network(value: object, parse: ValidatorFunctionWrapHandler) -> Network:
    wanted = "expected a network such as 10.0.0.0/8, with nothing after its prefix; got"
    if not isinstance(value, str):
        raise ValueError(f"{wanted} something else")
    try:
        network: Network = parse(value)
    except ValidationError as exc:
        raise ValueError(f"{wanted} {value:.100}") from exc
    return network


def _routing(value: dict[str, Any]) -> dict[str, Any]:
    preferences(value)
    return value


Scope = Annotated[str, AfterValidator(_scope)]
Cidr = Annotated[Network, WrapValidator(_network)]


class _BudgetForm(Form):
    usd: Usd
    per: Period = "day"
    hard: bool = True


class Grant(Form):
    """All that a key may be given. Limits that are absent have their defaults; null is no limit."""

    models: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ("*",)
    scopes: frozenset[Scope] = DEFAULT_SCOPES
    may_set: frozenset[str] | None = None
    flags_in_prompt: bool = False
    chat_template_kwargs: bool = False
    routing: Annotated[dict[str, Any], AfterValidator(_routing)] = Field(default_factory=dict)
    max_priority: Priority = "normal"
    requests_per_minute: Positive | None = REQUESTS_PER_MINUTE
    tokens_per_minute: Positive | None = TOKENS_PER_MINUTE
    concurrency: Count | None = CONCURRENCY
    max_tokens: Count | None = None
    budget: _BudgetForm | None = _BudgetForm(usd=BUDGET.usd)
    tenant: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    expires_at: AwareDatetime | None = None
    source_cidrs: tuple[Cidr, ...] = ()
    keeps_bodies: bool = False

    def key(self, key_id: str) -> Key:
        fields = {name: getattr(self, name) for name in Grant.model_fields}
        budget, expires_at = self.budget, self.expires_at
        fields["budget"] = Budget(min(budget.usd, MOST), budget.per, budget.hard) if budget else None
        for name, (least, most) in NUMBERS.items():
            fields[name] = None if fields[name] is None else min(max(fields[name], least), int(most))
        fields["expires_at"] = expires_at.timestamp() if expires_at else None
        fields["routing"] = preferences(self.routing)
        return Key(key_id, **fields)

    def plain(self) -> dict[str, Any]:
        """As JSON, with all defaults, so that later ones do not change a key that was given out."""
        fields = self.model_dump(mode="json", include=set(Grant.model_fields))
        sets = {name: sorted(fields[name]) for name in ("scopes", "may_set") if fields[name]}
        return fields | sets


def new_grant(**stated: Any) -> Grant:
    """A grant of all models, for 90 days, but for what is stated otherwise, in the types of JSON.

    Raises:
        InvalidRequest: as `grant_of`; the key could do nothing or has ended already, a value is of another type than
            it should be or out of bounds, or its tenant's name cannot be printed.
    """
    now = dt.datetime.now(dt.UTC)
    expires_at = (now + dt.timedelta(days=NEW_KEY_DAYS)).replace(microsecond=0)
    whole = json.dumps({"models": ["*"], "expires_at": expires_at, **stated}, default=dt.datetime.isoformat)
    grant = _understood(lambda: Grant.model_validate_json(whole, strict=True))
    # Kept keys are not held to this, or one that an earlier release wrote would stop to work.
    if not NAME.fullmatch(grant.tenant or ""):
        raise InvalidRequest("tenant: expected one line that can be printed", param="tenant")
    for name in ["scopes", *(["models", "profiles"] if grant.scopes - ADMIN_SCOPES else [])]:
        if not getattr(grant, name):
            said = "expected at least one, or the key could do nothing; leave it out for what is usual"
            raise InvalidRequest(f"{name}: {said}", param=name)
    if grant.expires_at and grant.expires_at <= now:
        raise InvalidRequest("expires_at: expected a time to come, or the key could do nothing", param="expires_at")
    for name in _out_of_bounds(grant):
        least, most = NUMBERS.get(name, (0, MOST))
        smallest = f"{least:.5f}".rstrip("0").rstrip(".")
        raise InvalidRequest(f"{name}: expected a number from {smallest} to {most:.0f}", param=name)
    return grant


def _out_of_bounds(grant: Grant) -> Iterator[str]:
    if grant.budget and grant.budget.usd > MOST:
        yield "budget.usd"
    for name, (least, most) in NUMBERS.items():
        if not least <= (getattr(grant, name) or least) <= most:
            yield name


def described(key: Key, models: Sequence[str], profiles: Sequence[str]) -> list[str]:
    """What a key grants, in lines for people; `models` and `profiles` are all that there are."""
    limits = [
        _limit(key.requests_per_minute, "requests a minute"),
        _limit(key.tokens_per_minute, "tokens a minute"),
        _limit(key.concurrency, "requests at a time"),
        *([f"{key.max_tokens} tokens an answer"] if key.max_tokens else []),
    ]
    expires = dt.datetime.fromtimestamp(key.expires_at, dt.UTC) if key.expires_at else None
    lines = {
        "models": ", ".join(name for name in models if key.may_use(name)) or "none",
        "profiles": ", ".join(name for name in profiles if key.may_ask_for(name)) or "none",
        "scopes": ", ".join(sorted(key.scopes)),
        "limits": ", ".join(limits),
        "budget": _budget(key.budget),
        "always": ", ".join(f"{name} {limit}" for name, limit in key.routing.limits.items()),
        "from": ", ".join(map(str, key.source_cidrs)),
        "tenant": key.tenant or "",
        "expires": f"{expires:%Y-%m-%d %H:%M} UTC" if expires else "never",
    }
    return [f"{name:<9} {value}" for name, value in lines.items() if value]


def _limit(most: float | None, of: str) -> str:
    return f"any number of {of}" if most is None else f"{most:,g} {of}"


def _budget(budget: Budget | None) -> str:
    if budget is None:
        return "none: nothing limits what it may cost"
    return f"{budget.usd:g} USD a {budget.period}, {'hard' if budget.hard else 'soft: more is served and told'}"


def grant_of(stated: Mapping[str, Any]) -> Grant:
    """
    Raises:
        InvalidRequest: it says something that is wrong, or that a key has not; `param` is the field.
    """
    return _understood(lambda: Grant.model_validate(stated))


def _understood(validate: Callable[[], Grant]) -> Grant:
    try:
        grant = validate()
    except ValidationError as exc:
        (first, *_) = exc.errors(include_url=False)
        where = shown(dotted(first["loc"]))
        said = "is not a field of a key" if first["type"] == "extra_forbidden" else expected(first, Grant)
        raise InvalidRequest(f"{where}: {said}", param=where) from exc
    for problem in may_set_problems(grant.may_set):
        raise InvalidRequest(problem, param="may_set")
    return grant


def read_key(key_id: str, stated: Mapping[str, Any]) -> Key:
    """The key of a grant that was kept.

    Raises:
        ValueError: it is not one that this release understands.
    """
    return Grant.model_validate(stated).key(key_id)


def may_set_problems(may_set: frozenset[str] | None) -> Iterator[str]:
    """What is wrong with the fields that callers may set."""
    fields = {"weights", *VOCABULARY.kinds}
    for name in sorted((may_set or frozenset()) - fields):
        yield f"may_set: there is no {shown(name)!r}; known are {', '.join(sorted(fields))}"


def exceeded(asked: Key, held: Key) -> list[str]:
    """Fields in which a key would be given more than its giver has."""
    within = {
        "scopes": asked.scopes <= held.scopes,
        "models": _patterns_within(asked.models, held.models),
        "profiles": _patterns_within(asked.profiles, held.profiles),
        "may_set": held.may_set is None or (asked.may_set is not None and asked.may_set <= held.may_set),
        "flags_in_prompt": asked.flags_in_prompt <= held.flags_in_prompt,
        "chat_template_kwargs": asked.chat_template_kwargs <= held.chat_template_kwargs,
        "keeps_bodies": asked.keeps_bodies <= held.keeps_bodies,
        "max_priority": PRIORITIES.index(asked.max_priority) <= PRIORITIES.index(held.max_priority),
        "routing": merged(asked.routing, Preferences(held.routing.limits)).limits == asked.routing.limits,
        "budget": _budget_within(asked.budget, held.budget),
        "tenant": held.tenant in (None, asked.tenant),
        "source_cidrs": _networks_within(asked.source_cidrs, held.source_cidrs),
    }
    limits = ("requests_per_minute", "tokens_per_minute", "concurrency", "max_tokens", "expires_at")
    within |= {name: _at_most(getattr(asked, name), getattr(held, name)) for name in limits}
    return [name for name, is_within in within.items() if not is_within]


def _at_most(asked: float | None, held: float | None) -> bool:
    return held is None or (asked is not None and asked <= held)


def _patterns_within(asked: Sequence[str], held: Sequence[str]) -> bool:
    """Whether each pattern is one of the others, or a plain name that one of them means."""
    plain = [pattern for pattern in asked if not set(pattern) & set("*?[")]
    if "*" in held:
        return True
    return all(p in held or (p in plain and any(fnmatchcase(p, other) for other in held)) for p in asked)


def _budget_within(asked: Budget | None, held: Budget | None) -> bool:
    if held is None:
        return True
    if asked is None or asked.hard < held.hard:
        return False
    days = DAYS_IN_A_MONTH if (asked.period, held.period) == ("day", "month") else 1
    return asked.usd * days <= held.usd


def _networks_within(asked: Sequence[Network], held: Sequence[Network]) -> bool:
    if not held:
        return True
    return bool(asked) and all(any(_is_subnet(one, other) for other in held) for one in asked)


def _is_subnet(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]  # of one version
