"""Tokens that an answer took, and what they cost."""

from __future__ import annotations

from app.domain.frozen import frozen
from app.domain.models import TOKENS_PER_PRICE, TokenPrice

# A hundred times the longest context that a model has. Who counts more has lost count, and a number of hundreds of
# digits, which JSON allows, cannot even be multiplied by a price.
MOST_TOKENS = 10**9

_NAMES = ("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details")
_NAMES_OF_RESPONSES = ("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")


@frozen
class Usage:
    """What was read and written for one answer."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    """Part of `input_tokens`."""
    counted: bool = False
    """True where the backend did not report all of it and the gateway counted what passed."""

    @classmethod
    def parse(cls, reported: object, *, has_output: bool = True) -> Usage | None:
        """Read the `usage` object of an answer; None where it is absent, leaves out what was written, or makes no
        sense.

        The Responses API has other names for the same. Embeddings have no output, so theirs may leave it out.
        """
        if not isinstance(reported, dict):
            return None
        names = _NAMES if "prompt_tokens" in reported else _NAMES_OF_RESPONSES
        read, written, details, details_of_written = map(reported.get, names)
        if written is None and not has_output:
            written = 0
        # No truth value is taken for a number, as `isinstance` would.
        if not (type(read) is type(written) is int and 0 <= read <= MOST_TOKENS and 0 <= written <= MOST_TOKENS):
            return None
        if type(details_of_written) is dict:
            written += _beside(written, details_of_written.get("reasoning_tokens"), reported.get("total_tokens"), read)
        cached = details.get("cached_tokens") if type(details) is dict else None
        return cls(read, written, min(cached, read) if type(cached) is int and cached > 0 else 0)

    def at_least(self, counted_tokens: int) -> Usage:
        """The usage of an answer that was cut after so many tokens of output: what was reported by then may be old."""
        if counted_tokens <= self.output_tokens:
            return self
        return Usage(self.input_tokens, counted_tokens, self.cached_input_tokens, counted=True)

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


def _beside(written: int, reasoning: object, total: object, read: int) -> int:
    """Tokens of reasoning that a backend counts beside what was written, as xAI does, and not as a part of that.

    The total tells: what is missing in it is reasoning.
    """
    if not (type(reasoning) is type(total) is int):
        return 0
    missing = total - read - written
    return missing if 0 < missing <= reasoning <= MOST_TOKENS else 0
