"""What a catalogue is expected to save and to lose, profile by profile, on an artifact's calibration rows.

How it works: a profile's limits about cards leave the models that it may choose among. Its weight on cost, or the one
that its `max_quality_loss` allows among them, and its weights about cards choose one in every row, as the router does.
What follows from estimates of the moment (latency, a budget for one request) is left out, and named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.domain.decision import Fleet
from app.domain.dimensions import Floats
from app.domain.request import Preferences
from app.router_model import CalibrationCurve
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Expected, Question
from app.routing.filters import CardFilter
from app.settings import Settings
from router_models.operating_curve import Interval, outlook


@dataclass(frozen=True, slots=True)
class Expectation:
    """What choosing among a profile's models would have done, against the best single one of them."""

    prompts: int
    datasets: tuple[str, ...]
    best_model: str
    references: tuple[str, ...]
    """What is compared with: the best model, or the best ones of datasets, where no one model was measured in all."""
    max_quality_loss: float | None
    cost_weight: float | None
    """As given, or what `max_quality_loss` became; None: the best single model answers."""
    best_quality: float
    best_cost_usd: float
    """A request, on average, as are all of these."""
    quality: float
    cost_usd: float
    gain: Interval
    """Of quality; 95 %, as is the next."""
    cost_ratio: Interval
    """Dollars spent of those that the best single model costs."""
    chosen: tuple[str, ...]
    never_chosen: tuple[str, ...]
    """Of the models that were measured."""
    left_out: tuple[str, ...]
    """Weights and limits of the profile that are not in these figures."""

    def as_json(self) -> Mapping[str, Any]:
        """Without NaN, which JSON has not."""
        return {name: _known(value) for name, value in asdict(self).items()}

    def sentence(self) -> str:
        """What it would save and lose, in words."""
        always = f"always {_listed(self.references)}"
        if len(self.references) > 1:
            always = f"always the best model of each dataset ({_listed(self.references)})"
        if self.cost_weight is None:
            words = (
                f"nothing to gain: no weight on cost keeps the loss within {self.max_quality_loss:g} with confidence; "
                f"the best single model, {self.best_model}, answers"
            )
        elif self.chosen == self.references:
            words = f"nothing to gain: {_listed(self.references)}, the best single model, is chosen for every prompt"
        else:
            words = f"{_saving(self.cost_ratio, always)} at {_points(self.gain)} points"
        words += f" on {_listed(self.datasets)} ({self.prompts:,} calibration prompts)"
        return words + (f"; without its {_listed(self.left_out)}" if self.left_out else "")


def expectations(settings: Settings, curve: CalibrationCurve) -> dict[str, Expectation | None]:
    """By profile; None where no two of its models were measured on the same prompts."""
    table = CandidateTable(settings.catalog, curve.models, settings.scales)
    return {name: _expectation(table, curve, profile.preferences) for name, profile in settings.profiles.items()}


def unused(expected: Mapping[str, Expectation | None]) -> list[str]:
    """Models that were measured, and that no profile ever chooses."""
    known = [each for each in expected.values() if each is not None]
    chosen = {model for each in known for model in each.chosen}
    return [model for model in dict.fromkeys(m for each in known for m in each.never_chosen) if model not in chosen]


def _expectation(table: CandidateTable, curve: CalibrationCurve, preferences: Preferences) -> Expectation | None:
    expected = _without_a_prompt(table, preferences)
    eligible_M = CardFilter(table).passing(expected) & table.tested_M
    models = [table.models[number] for number in eligible_M.nonzero()[0]]
    if not models:
        return None
    cost_weight: float | None = preferences.weights.get("cost", 0.0)
    if preferences.max_quality_loss is not None:
        cost_weight = curve.tabulate(models).cost_weight(preferences.max_quality_loss)
    against_M = _held_against(expected, preferences)[eligible_M]
    found = outlook(curve.priced(models), curve.scale, cost_weight, against_M)
    if found is None:
        return None
    names, of = np.array([model.name for model in models]), found.references
    return Expectation(
        prompts=len(of.model_K),
        datasets=tuple(curve.datasets[number] for number in np.unique(of.dataset_K)),
        best_model=models[of.best].name,
        references=tuple(names[np.unique(of.model_K)].tolist()),
        max_quality_loss=preferences.max_quality_loss,
        cost_weight=cost_weight,
        best_quality=found.best_quality,
        best_cost_usd=found.best_cost_usd,
        quality=found.quality,
        cost_usd=found.cost_usd,
        gain=found.gain,
        cost_ratio=found.cost_ratio,
        chosen=tuple(names[found.share_M > 0].tolist()),
        never_chosen=tuple(names[found.share_M == 0].tolist()),
        left_out=tuple(_left_out(table, preferences)),
    )


def _without_a_prompt(table: CandidateTable, preferences: Preferences) -> Expected:
    """What is known of the models of a chat whose prompt is not known, all of them idle."""
    question = Question(None, "", 0, None, frozenset({"chat"}), frozenset(), preferences, None)
    return Expected(Case(table, question, FleetColumns(table, Fleet.idle(len(table)))))


def _held_against(expected: Expected, preferences: Preferences) -> Floats:
    """By how much weights about cards lower each model's utility [M]."""
    against_M = np.zeros(len(expected.table))
    for name, weight in preferences.weights.items():
        if expected.table.vocabulary.dimension[name].stage == "card":
            against_M += weight * expected.share(name)
    return against_M


def _left_out(table: CandidateTable, preferences: Preferences) -> Iterator[str]:
    vocabulary = table.vocabulary
    for name, weight in preferences.weights.items():
        if weight and name != "cost" and vocabulary.dimension[name].stage == "estimate":
            yield f"weights.{name}"
    for name in preferences.limits:
        if vocabulary.constraint[name].stage == "estimate":
            yield name


def _saving(ratio: Interval, always: str) -> str:
    """The cost of choosing, beside that of `always`."""
    if not math.isfinite(ratio.mean):
        return f"at a cost that is not known, against {always},"
    mean, low, high = (round(100 * (1 - share)) for share in (ratio.mean, ratio.high, ratio.low))
    if mean < 0:
        return f"{-mean} % [{-high}, {-low}] dearer than {always}"
    return f"{mean} % [{low}, {high}] cheaper than {always}" if mean else f"as dear as {always}"


def _points(gain: Interval) -> str:
    return f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _known(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
