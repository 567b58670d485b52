"""Whether adapting an artifact to somebody's own prompts helped, in figures and in words; see `judging`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LEAST_PROMPTS = 50
"""Different ones, of each model; with fewer nothing is said."""
LEAST_MODELS = 2


@dataclass(frozen=True)
class LengthVerdict:
    """What adapting lengths did on prompts held back."""

    prompts: int
    real_tokens: float
    """Mean length, as are the next two."""
    tokens_before: float
    tokens_after: float
    deviance_gain_interval: tuple[float, float]
    """90 %, by prompt; of a gamma distribution, which is least where the mean is right."""
    helps: bool

    def words(self) -> str:
        told = f"{self.tokens_before:.3g} tokens predicted before, {self.tokens_after:.3g} after"
        what = "lengths are adapted" if self.helps else "lengths stay as they were"
        return f"{what}: {told}, {self.real_tokens:.3g} real"


@dataclass(frozen=True)
class QualityVerdict:
    """What adapting qualities did on prompts held back that leave a choice: two models or more have scores on them."""

    prompts: int
    models: tuple[str, ...]
    """Those compared."""
    brier_before: float
    brier_after: float
    brier_gain_interval: tuple[float, float]
    """90 %, by prompt."""
    quality_before: float
    """Mean score of the model with the highest predicted quality."""
    quality_after: float
    quality_gain_interval: tuple[float, float]
    best_single: float | None
    """Highest mean score of one model on the prompts that all of them have scores on; None if those are few."""
    best_single_prompts: int
    helps: bool

    def words(self) -> str:
        return (
            f"Brier score {self.brier_before:.4f} before, {self.brier_after:.4f} after; quality of the chosen "
            f"{self.quality_before:.3f} before, {self.quality_after:.3f} after "
            f"(always the best one: {self._best_single()})"
        )

    def _best_single(self) -> str:
        if self.best_single is None:
            return f"-, for only {self.best_single_prompts} have scores of all models"
        of_some = f" on the {self.best_single_prompts} with scores of all models"
        return f"{self.best_single:.3f}{of_some if self.best_single_prompts < self.prompts else ''}"


@dataclass(frozen=True)
class Verdict:
    """What adapting did on prompts held back; no two of them ask the same question."""

    prompts: int
    models: tuple[str, ...]
    """Those with enough scores."""
    with_choice: int
    """Prompts that two of these models or more have scores on."""
    unfamiliar_before: float
    """Share of the prompts that went to the default order."""
    qualities: QualityVerdict | None
    """None where too few prompts leave a choice."""
    lengths: LengthVerdict | None
    """None where too few are known."""

    @property
    def helps(self) -> bool:
        """Whether to choose; lengths are apart."""
        return self.qualities is not None and self.qualities.helps

    @property
    def is_kept(self) -> bool:
        """Whether any part of it helps."""
        return self.helps or (self.lengths is not None and self.lengths.helps)

    def as_json(self) -> Mapping[str, Any]:
        return {**asdict(self), "helps": self.helps}

    def sentence(self) -> str:
        """In words, with what follows."""
        lengths = self.lengths.words() if self.lengths else "lengths stay as they were, for too few are known"
        return f"{self._outcome()}: {self._told()}; {lengths}"

    def _outcome(self) -> str:
        if self.helps:
            return "it helps"
        why = "choices were not compared" if self.qualities is None else "it does not help"
        if self.is_kept:
            return f"{why}{'' if self.qualities is None else ' to choose'}, so qualities stay as they were"
        return f"{why}, so the old heads stay"

    def _told(self) -> str:
        if self.qualities is None:
            return (
                f"only {self.with_choice} of {self.prompts} prompts held back have outcomes of two models, and each "
                f"needs {LEAST_PROMPTS} of those; ask two models the same prompts, as `thalamus collect` does"
            )
        some = "" if self.qualities.prompts == self.prompts else f" of {self.prompts}, with outcomes of two models,"
        return f"on {self.qualities.prompts} prompts{some} held back in turn: {self.qualities.words()}{self._others()}"

    def _others(self) -> str:
        """Models that could not be compared."""
        compared = self.qualities.models if self.qualities else ()
        others = [model for model in self.models if model not in compared]
        return f"; too few of them have scores of {', '.join(others)}" if others else ""
