"""Metrics of what was promised of answers and what came: estimates, limits, one model for all, what callers say."""

from __future__ import annotations

from itertools import islice, product
from typing import Literal

from app.telemetry.names import MOST_EXPECTED, Known, Names
from app.telemetry.series import Declared

Quantity = Literal["cost_usd", "output_tokens", "latency_s", "ttft_s"]
"""What is predicted of an answer and seen when it is over."""
LIMITS = ("max_cost_usd", "max_latency_s", "max_ttft_s", "max_output_tokens", "deadline_s")
"""What a caller may ask for whose keeping is only known in the end; of a region or a licence it is known before."""
# A quarter to ten times of what was predicted; within a tenth of it is as good as right.
RATIOS = (0.25, 0.5, 0.75, 0.9, 1.1, 1.333, 2.0, 4.0, 10.0)
QUALITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BANDS = ("0.0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1.0")
"""Predicted qualities, for a look at whether they come true."""
UNPREDICTED = "unpredicted"

_LIMITS = Known(LIMITS)
Kept = Literal["kept", "missed"]


class PromiseMetrics:
    """Counted once for each request, when it is over."""

    def __init__(self, declared: Declared, names: Names) -> None:
        count, distribution = declared.count, declared.distribution
        self._names = names
        self._quality = distribution(
            "predicted_quality",
            "Predicted quality of the model that answered.",
            ("model",),
            QUALITIES,
        )
        self._ratio = distribution(
            "realised_to_predicted_ratio", "What came over what was predicted.", ("quantity", "model"), RATIOS
        )
        by_quantity = ("quantity", "model")
        self._predicted = count("predicted_sum", "What was predicted, where it is known what came.", by_quantity)
        self._realised = count("realised_sum", "What came, where something was predicted.", by_quantity)
        self._attained = count(
            "limit_attainment",
            "Limits that callers asked for, by whether they got it.",
            ("limit", "profile", "outcome"),
        )
        by_profile, by_baseline = ("profile",), ("baseline", "profile")
        self._routed_usd = count("routed_cost_usd", "Realised cost of what was routed and compared.", by_profile)
        self._baseline_usd = count("baseline_cost_usd", "The same tokens at the baseline's prices.", by_baseline)
        self._compared = count("quality_compared", "Routed requests with a prediction for both.", by_baseline)
        self._routed_quality = count("routed_quality", "Predicted quality of who answered these.", by_baseline)
        self._baseline_quality = count("baseline_quality", "Predicted quality of the baseline for these.", by_baseline)
        by_band = ("model", "predicted")
        self._judged = count("feedback", "Answers that callers judged, by what was predicted.", by_band)
        self._judged_quality = count("feedback_quality", "Sum of these judgements, each in [0, 1].", by_band)
        self._promised_quality = count("feedback_predicted_quality", "Sum of what was predicted of these.", by_band)

    def expect_limits(self) -> None:
        """Tell of every limit that a caller of the profiles may set, kept and missed, before one does."""
        self._attained.expect(*islice(product(LIMITS, self._names.profiles, ("kept", "missed")), MOST_EXPECTED))

    def chose(self, model: str, quality: float | None) -> None:
        """A decision led to a model of which this is predicted."""
        if quality is not None:
            self._quality.observe(quality, self._names.models[model])

    def compared(self, quantity: Quantity, model: str, promised: float | None, came: float | None) -> None:
        """What was predicted of an answer and what came; what is not known of both says nothing."""
        if promised and came is not None:
            name = self._names.models[model]
            self._ratio.observe(came / promised, quantity, name)
            self._predicted.values[quantity, name] += promised
            self._realised.values[quantity, name] += came

    def attained(self, limit: str, profile: str, outcome: Kept) -> None:
        """A caller asked for this much, and got it or not."""
        self._attained.values[_LIMITS[limit], self._names.profiles[profile], outcome] += 1.0

    def cost_compared(self, profile: str, cost_usd: float, baseline: str, baseline_usd: float) -> None:
        """What a routed answer cost, and what its tokens would have cost from the baseline."""
        name = self._names.profiles[profile]
        self._routed_usd.values[(name,)] += cost_usd
        self._baseline_usd.values[self._names.models[baseline], name] += baseline_usd

    def quality_compared(self, profile: str, quality: float, baseline: str, baseline_quality: float) -> None:
        """What was predicted of who answered, and of the baseline, for the same prompt."""
        labels = self._names.models[baseline], self._names.profiles[profile]
        self._compared.values[labels] += 1.0
        self._routed_quality.values[labels] += quality
        self._baseline_quality.values[labels] += baseline_quality

    def judged(self, model: str, predicted_quality: float | None, quality: float) -> None:
        """A caller said how good an answer was, in [0, 1]."""
        labels = self._names.models[model], _band(predicted_quality)
        self._judged.inc(*labels)
        self._judged_quality.inc(*labels, amount=quality)
        if predicted_quality is not None:
            self._promised_quality.inc(*labels, amount=predicted_quality)


def _band(quality: float | None) -> str:
    return UNPREDICTED if quality is None else BANDS[min(int(quality * len(BANDS)), len(BANDS) - 1)]
