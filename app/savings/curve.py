"""Quality over cost of a whole catalogue: every weight on cost, always each model, and each profile, in one picture.

How it works: all models that were tested may be chosen, whatever a profile's limits say. Each way to choose is held
against the best single model on the rows on which both are known, and placed by that difference and that ratio: models
that were measured in different datasets cannot be compared by their means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from app.domain.request import Preferences
from app.savings.expectation import Prospect
from router_models.operating.comparison import Interval, compare
from router_models.operating.curve import WEIGHTS, Outlook
from router_models.operating.reference import Answers, Reference


@dataclass(frozen=True, slots=True)
class Place:
    """One way to choose, in the picture."""

    name: str
    quality: Interval
    """Ends are those of its difference from the best single model; 95 %, as are the next."""
    cost_usd: Interval
    """A request, on average."""


@dataclass(frozen=True, slots=True)
class SavingsCurve:
    """All that there is to draw. What has no known cost is in none of these."""

    weights: tuple[Place, ...]
    """Of the weight on cost, rising."""
    models: tuple[Place, ...]
    profiles: tuple[Place, ...]
    """Those that choose alike are one."""
    measured: Mapping[str, tuple[int, int]]
    """Prompts that count, and models measured on any of them, by dataset."""


def savings_curve(prospect: Prospect) -> SavingsCurve | None:
    """None where no two models were measured on the same rows."""
    whole = prospect.outlook(Preferences())
    if whole is None:
        return None
    frame, models = _Frame(whole.reference), prospect.models(Preferences())
    weights: list[Place] = []
    for weight in WEIGHTS:
        weights += frame.chosen(f"weight {weight:g}", prospect.outlook(Preferences(weights={"cost": weight})))
    always: list[Place] = []
    for number, model in enumerate(models):
        always += frame.place(model.name, whole.reference.always(number))
    return SavingsCurve(
        tuple(weights),
        tuple(always),
        tuple(_profiles(prospect, frame)),
        _measured(prospect, whole.reference),
    )


class _Frame:
    """What all places are relative to: the best single model."""

    def __init__(self, reference: Reference) -> None:
        self._standing = reference.standing
        usd_N = self._standing.usd[np.isfinite(self._standing.usd)]
        self._quality = float(np.nanmean(self._standing.score))
        self._cost_usd = float(usd_N.mean()) if len(usd_N) else 0.0

    def chosen(self, name: str, found: Outlook | None) -> Iterator[Place]:
        return iter(()) if found is None else self.place(name, found.answers)

    def place(self, name: str, answers: Answers) -> Iterator[Place]:
        """One, or none where its cost is not known."""
        compared = compare(answers, self._standing)
        gain, ratio = compared.gain, compared.cost_ratio
        if np.isfinite([gain.mean, ratio.mean]).all():
            quality = Interval(*(self._quality + end for end in (gain.mean, gain.low, gain.high)))
            yield Place(name, quality, Interval(*(self._cost_usd * end for end in (ratio.mean, ratio.low, ratio.high))))


def _profiles(prospect: Prospect, frame: _Frame) -> Iterator[Place]:
    names: dict[tuple[Interval, Interval], list[str]] = {}
    for name, preferences in prospect.profiles.items():
        found = prospect.outlook(preferences)
        for place in frame.chosen(name, found):
            names.setdefault((place.quality, place.cost_usd), []).append(name)
    for (quality, cost_usd), alike in names.items():
        yield Place(", ".join(alike), quality, cost_usd)


def _measured(prospect: Prospect, reference: Reference) -> dict[str, tuple[int, int]]:
    known_KM = np.isfinite(reference.rows.score)
    found = {}
    for number in np.unique(reference.dataset_K):
        own_K = reference.dataset_K == number
        found[prospect.curve.datasets[number]] = (int(own_K.sum()), int(known_KM[own_K].any(0).sum()))
    return found
