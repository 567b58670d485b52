"""What processes that look after the same replicas tell each other about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

What = Literal["out", "dead", "back", "rests", "limited"]


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of a replica."""

    backend: str
    url: str
    what: What
    seconds: float = 0.0
    model: str = ""
    """By its backend's name: only this one is limited there. Gateways of before take it for the whole replica."""


Tell = Callable[[Change], None]
