"""How it is said, before anything is sent, what it will take and cost, and asked whether to."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import typer
from rich.table import Table

from app.cli.screen import WholeTable
from app.collect.plan import Estimate
from app.errors import UsageError

_COLUMNS = ("input tokens, about", "output tokens, at most", "USD, about", "USD, at most")


def announced(requests: str, estimates: Sequence[Estimate]) -> Table:
    """A row per model; `requests` is what they are called."""
    table = WholeTable("model", requests, *_COLUMNS)
    for estimate in estimates:
        table.add_row(estimate.model, f"{estimate.requests:,}", *_cells(estimate))
    return table


def _cells(estimate: Estimate) -> tuple[str, ...]:
    tokens = f"{estimate.input_tokens:,}", f"{estimate.max_output_tokens:,}"
    if estimate.about_usd is None or estimate.max_usd is None:
        return *tokens, "no price", "no price"
    return *tokens, f"{estimate.about_usd:.4f}", _upwards(estimate.max_usd)


def in_all(estimates: Sequence[Estimate], done: int) -> str:
    """In one sentence; `done` requests were answered before."""
    priced = [estimate.max_usd for estimate in estimates if estimate.max_usd is not None]
    about = sum(estimate.about_usd or 0.0 for estimate in estimates)
    unpriced = len(estimates) - len(priced)
    usd = f"at most {_upwards(sum(priced))} USD, about {about:.4f}" if priced else "no price known"
    beside = f" beside the {unpriced} models without a price" if priced and unpriced else ""
    done_already = f"; {done:,} are done already" if done else ""
    lost = " Attempts that are lost may be charged too; --max-usd bounds all of it." if priced else ""
    return f"{sum(estimate.requests for estimate in estimates):,} requests, {usd}{beside}{done_already}.{lost}"


def _upwards(usd: float) -> str:
    """Rounded up, for it is said to be the most."""
    return f"{math.ceil(round(usd * 1e4, 6)) / 1e4:.4f}"


def refuse_unpriced(estimates: Sequence[Estimate], max_usd: float | None) -> None:
    """Raise where a budget could not be held, because a model has no price."""
    unpriced = [estimate.model for estimate in estimates if estimate.max_usd is None]
    if max_usd is not None and unpriced:
        raise UsageError(f"--max-usd needs the price of every model; {unpriced[0]} has none")


def confirm(estimates: Sequence[Estimate], *, agreed: bool, up_to: str = "") -> None:
    """Ask whether to send that, unless it is agreed to or nothing; `up_to` where it may end earlier.

    Raises:
        UsageError: it is not to be sent, or there is nobody to ask.
    """
    requests = sum(estimate.requests for estimate in estimates)
    if agreed or not requests:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"add --yes to send {up_to}{requests} requests: there is no terminal to ask on")
    if not typer.confirm(f"Send {up_to}{requests} requests?", err=True):
        raise UsageError("nothing was sent")
