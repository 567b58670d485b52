"""Who may call: keys, what each may use, and how one is found by its secret.

A secret is compared by a digest under a pepper that this process drew at its start, so neither the time of a look-up
nor a dump of the table says anything about a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Literal, Protocol

from app.domain.quantities import Priority
from app.domain.request import Preferences

ADMIN_SCOPES = frozenset({"admin:keys", "admin:config"})
"""They count on the admin listener only."""
SCOPES = ADMIN_SCOPES | {"inference", "embeddings", "models:read", "route:explain", "route:feedback", "route:upgrade"}
DEFAULT_SCOPES = frozenset({"inference", "embeddings", "models:read", "route:explain", "route:feedback"})
# Of a key that states none: enough for one person's tools, and a runaway loop is noticed. More is set on purpose.
REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, CONCURRENCY = 60.0, 100_000.0, 8

Period = Literal["day", "month"]
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Budget:
    """What a key may cost in a day or a month of UTC."""

    usd: float
    period: Period = "day"
    hard: bool = True
    """Whether requests above it are refused; else they are only counted and told."""


BUDGET = Budget(10.0)
"""Of a key that states none."""
SKEW_S = 60.0
"""How far the clocks of gateways may be apart: an expired key is refused no sooner than that."""


class Secret:
    """A string that does not show itself: not in logs, tracebacks, or the repr of what holds it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Key:
    """What the callers with one secret may use. None is no limit."""

    id: str
    models: tuple[str, ...] = ()
    """Patterns of model names, such as `qwen3-*`; none of them is none."""
    profiles: tuple[str, ...] = ("*",)
    """Patterns of profiles that may be asked for."""
    scopes: frozenset[str] = DEFAULT_SCOPES
    may_set: frozenset[str] | None = None
    """Fields of `routing` that its callers may set; None is all, as far as the scopes go."""
    flags_in_prompt: bool = False
    """Whether the text of a prompt may set soft weights, as far as `may_set` goes."""
    chat_template_kwargs: bool = False
    """Whether its callers may pass arguments to a model's chat template."""
    routing: Preferences = field(default_factory=Preferences)
    """What always holds for this key, whatever is asked."""
    max_priority: Priority = "normal"
    requests_per_minute: float | None = REQUESTS_PER_MINUTE
    tokens_per_minute: float | None = TOKENS_PER_MINUTE
    concurrency: int | None = CONCURRENCY
    max_tokens: int | None = None
    """The longest answer that its callers may ask for, and what they get who ask for none."""
    budget: Budget | None = BUDGET
    tenant: str | None = None
    """Whose key it is, where several parties share a gateway."""
    expires_at: float | None = None
    """Wall clock, in seconds."""
    source_cidrs: tuple[Network, ...] = ()
    """Where its callers may come from; none of them is anywhere."""
    keeps_bodies: bool = False
    """Whether records of its requests may hold the text of prompts."""

    def lets_in(self, address: str, at: float) -> bool:
        """Whether callers from this address may use it at this time of the wall clock."""
        if self.expires_at is not None and at > self.expires_at + SKEW_S:
            return False
        return not self.source_cidrs or _is_inside(address, self.source_cidrs)

    @property
    def reads_flags(self) -> bool:
        """Whether flags in a prompt count: they set weights, and what callers may not set no prompt of theirs does."""
        return self.flags_in_prompt and (self.may_set is None or "weights" in self.may_set)

    def may_use(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def may_ask_for(self, profile: str) -> bool:
        return any(fnmatchcase(profile, pattern) for pattern in self.profiles)


@lru_cache(maxsize=4096)
def _is_inside(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)


class Keys(Protocol):
    """Finds keys."""

    def find(self, secret: str) -> Key | None:
        """The key with this secret; None for one that is unknown, or was revoked.

        Raises:
            Overloaded: it cannot be known now.
        """
        ...


class StaticKeys:
    """The keys of a configuration file."""

    def __init__(self, keys: Iterable[tuple[Secret, Key]]) -> None:
        self._pepper = secrets.token_bytes(32)
        self._by_digest: Mapping[bytes, Key] = {self._digest(secret.reveal()): key for secret, key in keys}

    def find(self, secret: str) -> Key | None:
        return self._by_digest.get(self._digest(secret))

    def _digest(self, secret: str) -> bytes:
        # Its own mode for keys makes BLAKE2 a MAC, for a tenth of what HMAC costs.
        return hashlib.blake2b(secret.encode(errors="surrogatepass"), digest_size=32, key=self._pepper).digest()
