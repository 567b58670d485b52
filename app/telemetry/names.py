"""What a label may say: names from the configuration and from closed sets, and `other` for everything else.

So nobody who calls can make a series, whatever he invents.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import get_args

from app import errors
from app.domain import constraints
from app.domain.decision import Encoder, Reason
from app.domain.request import NAMED

OTHER = "other"
# Keys that have series of their own; the numbers of all further ones are told together.
MOST_KEYS = 200
# Series of one metric that are told before there is anything to tell. Each takes some 100 bytes of `/metrics`' MiB.
MOST_EXPECTED = 1_000
# Of decisions, whose labels are longer and many: twenty models and four profiles.
MOST_EXPECTED_DECISIONS = 500

REASONS = frozenset(get_args(Reason))
ROUTED: tuple[Reason, ...] = ("best", "only", "default", "session", "abstained", "fallback")
"""Why a model answers for a profile, what is frequent first; for a name it is chosen as `named`."""
ENCODERS = frozenset(get_args(Encoder))
BACKEND_FAULTS = ("no_backend", "upstream_timeout", "bad_upstream", "rate_limit_exceeded")
SERVER_ERRORS = (
    "internal",
    "budget_unavailable",
    "overloaded",
    "no_backend",
    "upstream_timeout",
    "upstream_rate_limited",
    "bad_upstream",
    "upstream_disconnected",
)
"""How a request fails through no fault of its caller. A caller's own deadline is an `upstream_timeout` too, and counted
beside it (`deadline_misses`), so that it can be told apart."""
BUDGET = "budget"
EXCLUDING = ("capabilities", "context_tokens", "availability", BUDGET, *(each.name for each in constraints.CONSTRAINTS))
"""What may exclude a model."""


class Known(dict[str, str]):
    """Names that have series of their own; whatever else it is asked for is `other`."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__({name: name for name in names})

    def __missing__(self, name: str) -> str:
        return OTHER


class Names:
    """All that labels may say. Models and such change with the configuration."""

    def __init__(self) -> None:
        self.codes = Known(_codes(errors.GatewayError) | {"ok", "cancelled"})
        self.reasons, self.encoders, self.constraints = Known(REASONS), Known(ENCODERS), Known(EXCLUDING)
        self.keys = Known()
        self.know((), (), ())

    def know(self, models: Iterable[str], profiles: Iterable[str], backends: Iterable[str]) -> None:
        """Have series of their own for these, and for no others; what was counted before stays."""
        self.models, self.profiles, self.backends = Known(models), Known((*profiles, NAMED)), Known(backends)

    def know_keys(self, ids: Iterable[str]) -> Collection[str]:
        """Have series of their own for these keys, up to a number: of those that are still there, who came first.

        Returns those that had, and are gone.
        """
        there = dict.fromkeys(ids)
        gone = self.keys.keys() - there.keys()
        for name in gone:
            del self.keys[name]
        for name in there:
            if len(self.keys) < MOST_KEYS:
                self.keys[name] = name
        return gone


def _codes(cls: type[errors.GatewayError]) -> set[str]:
    return {cls.code, cls.counted_as or cls.code}.union(*(_codes(child) for child in cls.__subclasses__()))
