"""Small catalogues, requests and decisions to test with, and a router that always decides as told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from app.domain.decision import Candidate, Decision, Estimate, Fleet, Reason
from app.domain.models import Backend, Card, Catalog, Model, Speed, TokenPrice
from app.domain.request import Preferences, Request
from app.domain.sessions import Session
from app.routing.tally import NOBODY, Tally
from app.store.keys.key import Budget

UNKNOWN = Estimate(None, None, None, None, None)

REQUEST = Request(
    request_id="req-1",
    operation="chat",
    model=None,
    profile="default",
    body={"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    stream=False,
    conversation=(("user", "What is the capital of France?"),),
    input_tokens=12,
    max_tokens=None,
    needs=frozenset(),
    preferences=Preferences(),
)


def request(**changes: Any) -> Request:
    return replace(REQUEST, **changes)


def model(name: str, backend: str | None = None, served_as: str | None = None, **more: Any) -> Model:
    """A model on a backend of its own, unless said otherwise."""
    return Model(
        name=name,
        served_as=served_as or name,
        backend=backend or f"{name}-backend",
        card=Card(context_tokens=4096),
        price=TokenPrice(1.0, 2.0),
        speed=Speed(prefill_tokens_per_s=1000, s_per_output_token=0.01),
        **more,
    )


def catalog(
    *models: Model, urls: Mapping[str, tuple[str, ...]] | None = None, kind: Literal["vllm", "openai"] = "vllm"
) -> Catalog:
    """These models, and for each backend that they name one of this kind, with one replica."""
    names = tuple(dict.fromkeys(one.backend for one in models))
    backends = tuple(
        Backend(name=name, kind=kind, urls=(urls or {}).get(name, (f"http://127.0.0.1:{9000 + number}",)))
        for number, name in enumerate(names)
    )
    return Catalog(models, backends)


def decision(*models: Model | str, reason: Reason = "best", quality: float | None = 0.9) -> Decision:
    """A decision for these models, in this order."""
    estimate = replace(UNKNOWN, quality=quality)
    candidates = tuple(
        Candidate(one if isinstance(one, Model) else model(one), quality, lambda: estimate) for one in models
    )
    return Decision("dec-1", candidates, reason, lambda: "it was asked for")


@dataclass(frozen=True)
class FakeKey:
    """A key without limits."""

    id: str = "tester"
    scopes: frozenset[str] = frozenset({"inference", "route:explain"})
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None
    budget: Budget | None = None
    tenant: str | None = None
    keeps_bodies: bool = False


@dataclass
class FakeRouter:
    """Decides for these models in this order, each time with an id of its own."""

    models: tuple[Model, ...]
    decided: int = field(default=0)

    async def route(
        self, request: Request, fleet: Fleet, session: Session | None = None, tally: Tally = NOBODY
    ) -> Decision:
        self.decided += 1
        return replace(decision(*self.models), decision_id=f"dec-{self.decided}")
