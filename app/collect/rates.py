"""Rates with their intervals."""

from __future__ import annotations

import math

from router_models.prediction import Z_90


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 90 % interval of a rate of `count` outcomes (Wilson 1927); a little wide where they lie in between."""
    spread = Z_90**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z_90 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)
