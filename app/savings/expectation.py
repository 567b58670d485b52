"""What a catalogue is expected to save and to lose, profile by profile, on an artifact's calibration rows.

How it works: a profile's limits about cards leave the models that it may choose among. Its weight on cost, or the one
that its `max_quality_loss` allows among them, and its weights about cards choose one in every row, as the router does.
What that brings is held against the best single model, and against always each of them, on the rows on which that one
was measured. Where the choice was not, it is worth what is predicted. What follows from estimates of the moment
(latency, a budget for one request) is left out, and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.assembly.router_model import CalibrationCurve
from app.domain.decision import Fleet
from app.domain.dimensions import Floats, Truths
from app.domain.models import Model
from app.domain.request import Preferences
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Expected, Question
from app.routing.filters import CardFilter
from app.settings import Settings
from router_models.operating.comparison import Comparison, Interval, compare
from router_models.operating.curve import Outlook, Predicted, outlook
from router_models.operating.reference import LEAST_SHARE

INCOMPARABLE = "nothing to compare: no two of its models were measured on the same prompts"


@dataclass(frozen=True, slots=True)
class Against:
    """Choosing, against always one model."""

    model: str
    prompts: Mapping[str, int]
    """Those that count and on which it was measured, by dataset; all that follows is about these."""
    priced_prompts: int
    """Those of them on which both costs are known."""
    chosen: float
    """The share of them for which it is the choice; NaN without any."""
    gain: Interval
    """Of quality; 95 %, as is the next."""
    cost_ratio: Interval
    """Dollars spent of those that this model costs."""

    @property
    def prompt_count(self) -> int:
        return sum(self.prompts.values())


@dataclass(frozen=True, slots=True)
class Expectation:
    """What choosing among a profile's models would have done, against the best single one of them."""

    prompts: int
    priced_prompts: int
    """Those of them on which the costs of both are known."""
    datasets: tuple[str, ...]
    best_model: str
    max_quality_loss: float | None
    cost_weight: float | None
    """As given, or what `max_quality_loss` became; None: the best single model answers."""
    least_loss: float | None
    """The smallest `max_quality_loss` that becomes a weight, where that of the profile does not; None if none does."""
    hardly_measured: tuple[str, ...]
    """Models that were measured on fewer than half of these prompts."""
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
    predicted_share: float
    """Of these prompts, those on which the chosen model was not measured, and is worth what is predicted."""
    against: tuple[Against, ...]
    """Always each of the profile's models, in the catalogue's order."""
    elsewhere: Predicted
    """Calibration prompts on which the best single model was not measured beside another one."""
    left_out: tuple[str, ...]
    """Weights and limits of the profile that are not in these figures."""

    def as_json(self) -> Mapping[str, Any]:
        """With the sentence, and without NaN, which JSON has not."""
        return {**_known(asdict(self)), "sentence": self.sentence()}

    def sentence(self) -> str:
        """What it would save and lose, in words."""
        always = f"always {self.best_model}"
        if self.cost_weight is None:
            words = (
                f"nothing to gain: no weight on cost keeps the loss within {self.max_quality_loss:g} with confidence "
                f"and costs less{_could_be(self.least_loss)}; the best single model, {self.best_model}, answers"
            )
        elif self.chosen == (self.best_model,):
            words = f"nothing to gain: {self.best_model}, the best single model, is chosen for every prompt"
        else:
            words = f"{_saving(self.cost_ratio, always)} at {in_points(self.gain)} points"
        priced = f", costs known on {self.priced_prompts:,}" if 0 < self.priced_prompts < self.prompts else ""
        predicted = f", quality only predicted on {self.predicted_share:.0%}" if self.predicted_share >= 0.005 else ""
        words += f" on {_listed(self.datasets)} ({self.prompts:,} calibration prompts{priced}{predicted})"
        if self.elsewhere.tells:
            words += (
                f"; {_cheaper(self.elsewhere.cost_ratio)} at {100 * self.elsewhere.gain:+.1f} points on "
                f"{self.elsewhere.rows:,} others, by prediction alone"
            )
        if self.cost_weight is None and self.hardly_measured:
            words += (
                f"; fewer than half of them were given to {_listed(self.hardly_measured)}: models are comparable once "
                "all have sat the same exam (see `thalamus onboard`)"
            )
        return words + (f"; without its {_listed(self.left_out)}" if self.left_out else "")


class Prospect:
    """A catalogue on the calibration rows of its artifact: what preferences would have chosen there."""

    def __init__(self, settings: Settings, curve: CalibrationCurve) -> None:
        self.curve = curve
        self.profiles = {name: profile.preferences for name, profile in settings.profiles.items()}
        self._table = CandidateTable(settings.catalog, curve.models, settings.scales)
        self._cards = CardFilter(self._table)

    def models(self, preferences: Preferences) -> list[Model]:
        """Those that were tested and whose cards keep the limits."""
        return self._named(self._eligible(self._expected(preferences)))

    def outlook(self, preferences: Preferences) -> Outlook | None:
        """What choosing among these models would have done; None where no two were measured on the same rows."""
        expected = self._expected(preferences)
        eligible_M = self._eligible(expected)
        models = self._named(eligible_M)
        if not models:
            return None
        weight = self._cost_weight(preferences, models)
        against_M = _held_against(expected, preferences)[eligible_M]
        return outlook(self.curve.priced(models), self.curve.scale, weight, against_M)

    def expectation(self, preferences: Preferences) -> Expectation | None:
        """The same in names and numbers."""
        found = self.outlook(preferences)
        if found is None:
            return None
        models, compared = self.models(preferences), found.compared
        names = np.array([model.name for model in models])
        prompts = self._prompts(compared)
        return Expectation(
            prompts=sum(prompts.values()),
            priced_prompts=int(compared.priced_N.sum()),
            datasets=tuple(prompts),
            best_model=models[found.reference.best].name,
            max_quality_loss=preferences.max_quality_loss,
            cost_weight=found.weight,
            least_loss=self.curve.tabulate(models).least_loss if found.weight is None else None,
            hardly_measured=tuple(names[found.measured_M < LEAST_SHARE].tolist()),
            best_quality=found.best_quality,
            best_cost_usd=found.best_cost_usd,
            quality=found.quality,
            cost_usd=found.cost_usd,
            gain=compared.gain,
            cost_ratio=compared.cost_ratio,
            chosen=tuple(names[found.share_M > 0].tolist()),
            never_chosen=tuple(names[found.share_M == 0].tolist()),
            predicted_share=compared.predicted_share,
            against=tuple(self._against(found, number, name) for number, name in enumerate(names.tolist())),
            elsewhere=found.elsewhere,
            left_out=tuple(_left_out(self._table, preferences)),
        )

    def expectations(self) -> dict[str, Expectation | None]:
        """By profile; None where no two of its models were measured on the same prompts."""
        return {name: self.expectation(preferences) for name, preferences in self.profiles.items()}

    def unused(self, expected: Mapping[str, Expectation | None]) -> list[str]:
        """Models that were measured, and that no profile ever chooses.

        `expected` are theirs. Where nothing is compared, any model that the profile allows may be chosen.
        """
        used: set[str] = set()
        for profile, found in expected.items():
            used.update(found.chosen if found else (model.name for model in self.models(self.profiles[profile])))
        tested = self._named(self._table.tested_M)
        measured_M = np.isfinite(self.curve.priced(tested).score).any(0)
        return [model.name for model, known in zip(tested, measured_M, strict=True) if known and model.name not in used]

    def _against(self, found: Outlook, number: int, name: str) -> Against:
        compared = compare(found.answers, found.reference.always(number))
        chosen = (found.model_K == number)[compared.known_N[found.reference.counts_N]]
        share = float(chosen.mean()) if len(chosen) else math.nan
        prompts, priced = self._prompts(compared), int(compared.priced_N.sum())
        return Against(name, prompts, priced, share, compared.gain, compared.cost_ratio)

    def _prompts(self, compared: Comparison) -> dict[str, int]:
        """How many rows were compared, by dataset."""
        count_D = np.bincount(self.curve.dataset_N[compared.known_N], minlength=len(self.curve.datasets))
        counts = zip(self.curve.datasets, count_D.tolist(), strict=True)
        return {name: count for name, count in counts if count}

    def _expected(self, preferences: Preferences) -> Expected:
        """What is known of the models of a chat whose prompt is not known, all of them idle."""
        question = Question(None, "", 0, None, frozenset({"chat"}), frozenset(), preferences, None)
        return Expected(Case(self._table, question, FleetColumns(self._table, Fleet.idle(len(self._table)))))

    def _eligible(self, expected: Expected) -> Truths:
        return self._cards.passing(expected.case).models_M & self._table.tested_M

    def _named(self, which_M: Truths) -> list[Model]:
        return [self._table.models[number] for number in which_M.nonzero()[0]]

    def _cost_weight(self, preferences: Preferences, models: Sequence[Model]) -> float | None:
        if preferences.max_quality_loss is not None:
            return self.curve.tabulate(models).cost_weight(preferences.max_quality_loss)
        return preferences.weights.get("cost", 0.0)


def sentence(found: Expectation | None) -> str:
    """What a profile would save and lose, in words."""
    return found.sentence() if found else INCOMPARABLE


def alike(expected: Mapping[str, Expectation | None]) -> list[tuple[list[str], Expectation | None]]:
    """Profiles of which the same is expected, together."""
    groups: list[tuple[list[str], Expectation | None]] = []
    for name, found in expected.items():
        names = next((names for names, other in groups if other == found), None)
        if names is None:
            groups.append(([name], found))
        else:
            names.append(name)
    return groups


def in_points(gain: Interval) -> str:
    """A difference of quality in hundredths, with its interval."""
    return _with_interval(gain, lambda value: f"{100 * value:+.1f}".replace("-0.0", "+0.0"))


def as_ratio(ratio: Interval) -> str:
    """With its interval."""
    return _with_interval(ratio, lambda value: f"{value:.2f}" if value >= 0.095 or not value else f"{value:.1g}")


def _with_interval(interval: Interval, form: Callable[[float], str]) -> str:
    if not math.isfinite(interval.mean):
        return "not known"
    if not math.isfinite(interval.high):
        return f"{form(interval.mean)} [not known]"
    return f"{form(interval.mean)} [{form(interval.low)}, {form(interval.high)}]"


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


def _could_be(least_loss: float | None) -> str:
    """Rounded up, so that what it says is kept."""
    if least_loss is None or least_loss >= 1:
        return ""
    return f" (one of {max(math.ceil(least_loss * 1000), 0) / 1000:g} could be kept)"


def _cheaper(ratio: float) -> str:
    """The same without an interval, and without saying than what."""
    if not math.isfinite(ratio):
        return "at an unknown cost"
    percent = round(100 * (1 - ratio))
    return f"{abs(percent)} % {'cheaper' if percent > 0 else 'dearer'}" if percent else "as dear"


def _saving(ratio: Interval, always: str) -> str:
    """The cost of choosing, beside that of `always`."""
    if not math.isfinite(ratio.mean):
        return f"at a cost that is not known, against {always},"
    mean = round(100 * (1 - ratio.mean))
    if not mean:
        return f"as dear as {always}"
    if not math.isfinite(ratio.high):
        interval = "not known"
    else:
        ends = sorted(round(100 * (1 - share)) * (1 if mean > 0 else -1) for share in (ratio.high, ratio.low))
        interval = f"{ends[0]}, {ends[1]}"
    return f"{abs(mean)} % [{interval}] {'cheaper' if mean > 0 else 'dearer'} than {always}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _known(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
