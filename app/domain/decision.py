"""A decision, which is what was intended, and the record of what then happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from app.domain.frozen import frozen
from app.domain.models import Model

Reason = Literal["named", "best", "only", "session", "explored", "abstained", "default", "fallback"]
Encoder = Literal["static", "transformer"]
"""What read the prompt: a bag of embeddings, at a glance, or a network, with care."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is expected of one candidate for one request. None is unknown, and unknown never passes a limit."""

    quality: float | None
    output_tokens: float | None
    """Of each choice, as the caller lets it be."""
    cost_usd: float | None
    ttft_s: float | None
    latency_s: float | None


@frozen
class Candidate:
    """A model under consideration for one request."""

    model: Model
    quality: float | None
    """Probability that its answer is acceptable; None is unknown."""
    expect: Callable[[], Estimate]
    utility: float | None = None

    @property
    def estimate(self) -> Estimate:
        """All that is expected, worked out when somebody looks."""
        return self.expect()


@dataclass(frozen=True, slots=True)
class Change:
    """What a caller may say differently."""

    words: tuple[str, ...]
    routing: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `routing`; a null one is to be left out."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """The same of headers."""
    by_name: bool = False
    """Whether the model is to be asked for by its name."""
    distance: float = 0.0
    """How far the limits that he would set are from those he did, as a share of these."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why a model is not a candidate, and the smallest change of the request that would admit it."""

    model: str
    constraint: str
    message: str
    change: Change | None = None
    """None where the caller can change nothing about it."""

    @property
    def relaxation(self) -> str | None:
        """The change in words."""
        return " and ".join(self.change.words) if self.change else None


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the replicas look like now, one entry per catalogue model, in its order."""

    available: tuple[bool, ...]
    wait_s: tuple[float, ...]
    """Expected time in the queue of the least loaded replica."""
    s_per_output_token: tuple[float | None, ...]
    """As seen of late; None where nothing was seen yet."""
    limited_for_s: tuple[float | None, ...] = ()
    """How long only a rate limit of its backend makes a model unavailable, else None; empty while all are available."""
    template_tokens: tuple[float, ...] = ()
    """What a model reads of a prompt beyond the estimate, as seen of late; empty before anything was seen."""
    last_resort: tuple[bool, ...] = ()
    """Which of the available models only a replica serves that nobody is sent to who has another choice; empty while
    there is no such model."""
    ttft_s: tuple[float | None, ...] = ()
    """Time to the first token as seen of late, of models whose entries state no speed; empty while there is none."""

    @classmethod
    def idle(cls, models: int) -> Fleet:
        """All models are up, and nobody waits."""
        return cls((True,) * models, (0.0,) * models, (None,) * models)


class Shared(Protocol):
    """What several decisions keep alive together."""

    @property
    def nbytes(self) -> int: ...


@frozen
class Decision:
    """The ranked candidates, most useful first, and why."""

    decision_id: str
    candidates: Sequence[Candidate]
    """In the order in which they are attempted; never empty, and always the same objects."""
    reason: Reason
    explain: Callable[[], str]
    details: Mapping[str, Any] = field(default_factory=dict)
    """For the caller: `predictor_failure`, where an encoder failed."""
    evidence: object = field(default=None, repr=False, compare=False)
    """What `app.routing.record` makes the record from, when somebody asks for it."""
    shared: Shared | None = field(default=None, repr=False, compare=False)
    """The part of the evidence that decisions of about the same time have in common."""

    chosen: Candidate = field(init=False, repr=False, compare=False)
    """The first candidate; every step of a request asks for it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "chosen", self.candidates[0])

    @property
    def why(self) -> str:
        """The reason in plain words, put together when somebody looks."""
        return self.explain()
