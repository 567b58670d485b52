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
from typing import Protocol

from app.domain.preferences import Priority
from app.domain.request import Preferences

SCOPES = frozenset(
    {"inference", "embeddings", "models:read", "route:explain", "route:feedback", "route:upgrade", "metrics:read"}
    | {"admin:config"}
)
"""The last ones count on the admin listener only."""
DEFAULT_SCOPES = frozenset({"inference", "embeddings", "models:read", "route:explain", "route:feedback"})
# Of a key that states none: enough for one person's tools, and a runaway loop is noticed. More is set on purpose.
REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, CONCURRENCY = 60.0, 100_000.0, 8

ANYBODY = "anonymous"
"""The id of every caller where there are no keys."""
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high")


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
    """Whether the text of a prompt may set soft weights."""
    chat_template_kwargs: bool = False
    """Whether its callers may pass arguments to a model's chat template."""
    routing: Preferences = field(default_factory=Preferences)
    """What always holds for this key, whatever is asked."""
    max_priority: Priority = "normal"
    requests_per_minute: float | None = REQUESTS_PER_MINUTE
    tokens_per_minute: float | None = TOKENS_PER_MINUTE
    concurrency: int | None = CONCURRENCY

    def may_use(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def may_ask_for(self, profile: str) -> bool:
        return any(fnmatchcase(profile, pattern) for pattern in self.profiles)


class Keys(Protocol):
    """Finds keys."""

    def find(self, secret: str) -> Key | None:
        """The key with this secret; None for one that is unknown, or no longer valid."""
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


class OpenToAll:
    """No keys at all, for a gateway that only this machine can reach: every caller is the same one."""

    def __init__(self, key: Key | None = None) -> None:
        self._key = key or Key(ANYBODY, models=("*",))

    def find(self, secret: str) -> Key | None:  # noqa: ARG002 - every secret will do
        return self._key
