"""Who answered, and how it came to that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.decision import Candidate, Decision
from app.upstream.answers.answer import Answer


def reason_of(decision: Decision, candidate: Candidate) -> str:
    """Why this one was asked."""
    return decision.reason if candidate is decision.chosen else "fallback"


def decision_headers(decision: Decision, asked: Candidate | None, attempts: int) -> dict[str, str]:
    """The `x-thalamus-*` that hold of an error, too: `asked` is who was asked last, if anybody was."""
    headers = {"x-thalamus-decision-id": decision.decision_id, "x-thalamus-attempts": str(attempts)}
    if asked is None:
        return headers
    return headers | {"x-thalamus-model": asked.model.name, "x-thalamus-reason": reason_of(decision, asked)}


@dataclass(slots=True)
class Served:
    """An answer that has begun, and what came before it."""

    decision: Decision
    candidate: Candidate
    attempts: int
    answer: Answer
    replica: str
    upstream_s: float
    """Time spent in attempts, failed ones included."""
    overhead_s: float = 0.0
    """Time that the gateway took besides, before the answer began; known when the answer is handed over."""
    left: Mapping[str, str] = field(default_factory=dict)
    """Headers that say what the caller's key has left; known when the answer is handed over."""

    @property
    def reason(self) -> str:
        return reason_of(self.decision, self.candidate)

    def cost_usd(self) -> float | None:
        """Realised cost as far as the backend reported what was used; None where it did not, or there is no price."""
        usage = self.answer.usage
        return None if usage is None else usage.cost_usd(self.candidate.model.price)

    def headers(self) -> dict[str, str]:
        """The answer's kind, `x-thalamus-*` and `x-ratelimit-*`; the cost only where it is known before the body."""
        headers = {
            "content-type": self.answer.content_type,
            **self.left,
            **decision_headers(self.decision, self.candidate, self.attempts),
            "x-thalamus-overhead-ms": f"{self.overhead_s * 1e3:.2f}",
        }
        cost_usd = None if self.answer.form.stream else self.cost_usd()
        if cost_usd is not None:
            headers["x-thalamus-cost-usd"] = f"{cost_usd:.10f}".rstrip("0").rstrip(".")
        return headers
