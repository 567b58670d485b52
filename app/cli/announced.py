"""How it is said, before anything is sent, what it will take and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.collect.plan import Estimate

COLUMNS = ("input tokens, about", "output tokens, at most", "USD, about", "USD, at most")


def cells(estimate: Estimate) -> tuple[str, ...]:
    """Of one model, below the columns."""
    tokens = f"{estimate.input_tokens:,}", f"{estimate.max_output_tokens:,}"
    if estimate.about_usd is None or estimate.max_usd is None:
        return *tokens, "no price", "no price"
    return *tokens, f"{estimate.about_usd:.4f}", upwards(estimate.max_usd)


def in_all(estimates: Sequence[Estimate], done: int) -> str:
    """In one sentence; `done` requests were answered before."""
    priced = [estimate.max_usd for estimate in estimates if estimate.max_usd is not None]
    about = sum(estimate.about_usd or 0.0 for estimate in estimates)
    unpriced = len(estimates) - len(priced)
    usd = f"at most {upwards(sum(priced))} USD, about {about:.4f}" if priced else "no price known"
    beside = f" beside the {unpriced} models without a price" if priced and unpriced else ""
    done_already = f"; {done:,} are done already" if done else ""
    lost = " Attempts that are lost may be charged too; --max-usd bounds all of it." if priced else ""
    return f"{sum(estimate.requests for estimate in estimates):,} requests, {usd}{beside}{done_already}.{lost}"


def upwards(usd: float) -> str:
    """Rounded up, for it is said to be the most."""
    return f"{math.ceil(round(usd * 1e4, 6)) / 1e4:.4f}"
