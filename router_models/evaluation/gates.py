"""The gates a router model passes before it is released, as far as one evaluation can judge them.

How it works: every gate compares one figure with its bound. Gates on sets hold for every set alike, however few prompts
it has: the figure itself decides, and its interval is shown beside it, because on a small set the interval says how
little one figure is worth. A figure at its bound passes, also where arithmetic left it a last digit beside it, as
1 - 0.95 is above 0.05. One that is not there is "not measured", which is no pass. Neither is one of choices where most
prompts have an outcome of one model alone, for then every policy chooses that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from router_models.evaluation.robustness import TYPOS

PASSED, FAILED, NOT_MEASURED = "passed", "FAILED", "not measured"
LEARNED_FROM = "trained_on_these_prompts"
"""Whether an artifact was trained on the prompts of a set, in its figures."""
LEAST_CHOICE = 0.5
"""Share of the prompts that need outcomes of two models or more."""
MOST_LOSS = 0.005
MOST_ABSTAINED = 0.10
MOST_ECE = 0.03
MOST_FLIPS = 0.05
MOST_P99_MS = 10.0
# Of doubles about 1: a thousand times what a few steps of arithmetic lose, and a thousandth of the smallest bound.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Gate:
    """One figure against its bound."""

    name: str
    about: str
    """The set, `pooled`, or what else it is measured on."""
    figure: float | None
    bound: float
    at_least: bool
    """Whether the figure must reach the bound, instead of staying at or below it."""
    note: str = ""

    @property
    def verdict(self) -> str:
        """`passed`, `FAILED` or `not measured`."""
        if self.figure is None:
            return NOT_MEASURED
        short = self.bound - self.figure if self.at_least else self.figure - self.bound
        return PASSED if short <= ROUNDING else FAILED

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "verdict": self.verdict}


def gates(report: Mapping[str, Any]) -> list[Gate]:
    """All gates on an evaluation's report."""
    found = [gate for name, figures in report["sets"].items() for gate in _of_set(name, figures)]
    return [*found, *_of_all(report)]


def failed(judged: list[Gate]) -> bool:
    """Whether any gate was measured and not passed."""
    return any(gate.verdict == FAILED for gate in judged)


def without_choice(figures: Mapping[str, Any]) -> str | None:
    """What is wrong where too few prompts leave a choice to compare."""
    prompts, several = figures["prompts"], figures["prompts_with_a_choice"]
    if several >= LEAST_CHOICE * prompts:
        return None
    return f"only {several} of {prompts} prompts have outcomes of two models, so choices were not compared"


def _of_set(name: str, figures: Mapping[str, Any]) -> Iterator[Gate]:
    if figures.get(LEARNED_FROM):
        yield Gate(
            "prompts it was trained on", name, figures["prompts"], 0, at_least=False, note="no other gate counts"
        )
    missing = without_choice(figures)
    difference = None if missing else figures["quality_minus_best_single"]
    note = missing or _said(difference)
    yield Gate("quality minus best single model", name, _part(difference, 1), -MOST_LOSS, at_least=True, note=note)
    yield Gate("share of prompts abstained on", name, figures["abstained"], MOST_ABSTAINED, at_least=False)
    yield Gate("expected calibration error", name, figures["ece"], MOST_ECE, at_least=False)
    typos = figures["robustness"][TYPOS]
    flips = None if missing else 1 - typos["unchanged_by_quality"]
    note = missing or f"{typos['prompts']} prompts"
    yield Gate("decisions changed by 5 % typos", name, flips, MOST_FLIPS, at_least=False, note=note)


def _of_all(report: Mapping[str, Any]) -> Iterator[Gate]:
    pooled, latency = report["pooled"], report["latency_ms"]
    missing = without_choice(pooled)
    difference, daiq = (None if missing else pooled[name] for name in ("quality_minus_best_single", "daiq"))
    yield Gate(
        "quality minus best single model, lower bound",
        "pooled",
        _part(difference, 0),
        -MOST_LOSS,
        at_least=True,
        note=missing or _said(difference),
    )
    # Above 0, not at it: a router that only tosses coins between single models has exactly 0.
    yield Gate(
        "AIQ minus the Zero router's, lower bound", "pooled", _part(daiq, 0), 1e-9, at_least=True,
        note=missing or _said(daiq),
    )  # fmt: skip
    yield Gate(
        "p99 of one prediction in ms of one core", "latency", latency["cpu_p99"], MOST_P99_MS, at_least=False,
        note=f"on the clock of this machine {latency['p99']:.1f}",
    )  # fmt: skip
    yield Gate(
        "quality on held-out tasks minus default model", "held-out tasks", None, -MOST_LOSS, at_least=True,
        note="needs an artifact trained without those tasks",
    )  # fmt: skip


def _part(value: list[float] | None, place: int) -> float | None:
    return None if value is None else value[place]


def _said(value: list[float] | None) -> str:
    return "no such figure in these sets" if value is None else f"{value[1]:+.4f} [{value[0]:+.4f}, {value[2]:+.4f}]"
