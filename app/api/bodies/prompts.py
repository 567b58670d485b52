"""Prompts that are texts or token ids, one or several: what they say and how long they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.api.bodies.messages import estimate_tokens


@dataclass(frozen=True, slots=True)
class Prompts:
    """A list of prompts, each read by itself."""

    texts: list[str]
    """Of those that are texts."""
    tokens: list[int]
    """The length of each, estimated for texts."""

    @classmethod
    def of(cls, value: Any) -> Prompts:
        """From a text, a list of token ids, or a list of either, checked before."""
        several = value if isinstance(value, list) and not (value and isinstance(value[0], int)) else [value]
        texts = [one for one in several if isinstance(one, str)]
        return cls(texts, [estimate_tokens([one]) if isinstance(one, str) else len(one) for one in several])

    @property
    def longest_tokens(self) -> int | None:
        """Of several; None where there is one."""
        return max(self.tokens) if len(self.tokens) > 1 else None
