"""Who answered, and how it came to that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.decision import Candidate, Decision
from app.upstream.answer import Answer


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
        return self.decision.reason if self.candidate is self.decision.chosen else "fallback"

    def cost_usd(self) -> float | None:
        """Realised cost as far as the backend reported what was used; None where it did not, or there is no price."""
        usage = self.answer.usage
        return None if usage is None else usage.cost_usd(self.candidate.model.price)

    def headers(self) -> dict[str, str]:
        """The answer's kind, `x-thalamus-*` and `x-ratelimit-*`; the cost only where it is known before the body."""
        headers = {
            "content-type": self.answer.content_type,
            **self.left,
            "x-thalamus-decision-id": self.decision.decision_id,
            "x-thalamus-model": self.candidate.model.name,
            "x-thalamus-reason": self.reason,
            "x-thalamus-attempts": str(self.attempts),
            "x-thalamus-overhead-ms": f"{self.overhead_s * 1e3:.2f}",
        }
        cost_usd = None if self.answer.form.stream else self.cost_usd()
        if cost_usd is not None:
            headers["x-thalamus-cost-usd"] = f"{cost_usd:.10f}".rstrip("0").rstrip(".")
        return headers
