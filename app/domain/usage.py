"""Tokens that an answer took, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.domain.models import TOKENS_PER_PRICE, TokenPrice


@dataclass(frozen=True, slots=True)
class Usage:
    """What was read and written for one answer."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    """Part of `input_tokens`."""
    counted: bool = False
    """True where the backend reported nothing and the gateway counted what passed."""

    @classmethod
    def parse(cls, reported: object) -> Usage | None:
        """Read the `usage` object of an answer; None where it is absent or makes no sense."""
        if not isinstance(reported, dict):
            return None
        details = reported.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        read, written = _count(reported.get("prompt_tokens")), _count(reported.get("completion_tokens", 0))
        if read is None or written is None:
            return None
        return cls(read, written, min(_count(cached) or 0, read))

    def cost_usd(self, price: TokenPrice | None) -> float | None:
        """The price of these tokens; None where the model states no price."""
        if price is None:
            return None
        cached_price = price.input_usd_per_m if price.cached_input_usd_per_m is None else price.cached_input_usd_per_m
        fresh_tokens = self.input_tokens - self.cached_input_tokens
        usd_times_million = (
            fresh_tokens * price.input_usd_per_m
            + self.cached_input_tokens * cached_price
            + self.output_tokens * price.output_usd_per_m
        )
        return usd_times_million / TOKENS_PER_PRICE


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
