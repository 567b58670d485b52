"""Whether decisions survive what does not change the question: typos, politeness, words that sound like another task.

How it works: up to 400 prompts of a set, drawn by seed, are asked again with their last user message changed. Compared
are the choices among the same candidates, by predicted quality alone and at an operating point: the smallest linear
weight on cost at which no model gets more than 80 % of the prompts. Prompts flagged as unfamiliar are decided like the
others here: a flag that comes and goes is reported by itself.

Legend of array suffixes: B prompts, M models.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from router_models.evaluation.bootstrap import SEED
from router_models.evaluation.frontier import LINEAR, SETTINGS
from router_models.reading.conversation import Conversation

MOST_PROMPTS = 400
MOST_OF_TOP_MODEL = 0.8
TYPO_SHARE = 0.05

_POLITE = (
    "Hello! I hope you are doing well. Could you please help me with the following? Thank you very much in advance. "
)
_TRIGGER = (
    "def solve(matrix): return integral; theorem, lemma, proof, eigenvalue, derivative, recursion, pointer, compile, "
    "asymptotic complexity O(n log n). "
)
TYPOS, POLITE, TRIGGER = "5 % typos", "polite prefix", "code and maths prefix"


def with_typos(text: str, rng: np.random.Generator) -> str:
    """5 % of the letters dropped, doubled, replaced, or swapped with the next character."""
    letters = list(text)
    hit = np.flatnonzero(rng.random(len(letters)) < TYPO_SHARE)
    for place in hit:
        if letters[place].isalpha():
            letters[place] = _typo(letters, int(place), int(rng.integers(4)), rng)
    return "".join(letters)


def _typo(letters: list[str], place: int, kind: int, rng: np.random.Generator) -> str:
    if kind == 0:
        return ""
    if kind == 1:
        return letters[place] * 2
    if kind == 2 or place + 1 == len(letters):
        return string.ascii_lowercase[int(rng.integers(26))]
    letters[place + 1], swapped = letters[place], letters[place + 1]
    return swapped


def _before(prefix: str) -> Callable[[str, np.random.Generator], str]:
    return lambda text, _: prefix + text


PERTURBATIONS: Mapping[str, Callable[[str, np.random.Generator], str]] = {
    TYPOS: with_typos,
    POLITE: _before(_POLITE),
    TRIGGER: _before(_TRIGGER),
}


def perturbed(
    conversation: Conversation, change: Callable[[str, np.random.Generator], str], rng: np.random.Generator
) -> Conversation:
    """The conversation with its last user message changed; the last message where no user spoke."""
    asking = [place for place, (role, _) in enumerate(conversation) if role == "user"] or [len(conversation) - 1]
    return tuple(
        (role, change(text, rng) if place == asking[-1] else text) for place, (role, text) in enumerate(conversation)
    )


def drawn(prompts: int) -> np.ndarray:
    """Which prompts are asked again, in their order."""
    order = np.random.default_rng(SEED).permutation(prompts)
    return np.sort(order[:MOST_PROMPTS])


def operating_weight(column_WB: np.ndarray) -> float:
    """The smallest linear weight at which no model is chosen for more than 80 %; else the one that spreads most.

    `column_WB` has the choices for each of `SETTINGS`.
    """
    linear = [place for place, (form, _) in enumerate(SETTINGS) if form == LINEAR]
    most = [float(np.unique(column_WB[place], return_counts=True)[1].max() / column_WB.shape[1]) for place in linear]
    spread = [place for place, share in zip(linear, most, strict=True) if share <= MOST_OF_TOP_MODEL]
    return SETTINGS[spread[0] if spread else linear[int(np.argmin(most))]][1]


@dataclass(frozen=True)
class Shaken:
    """Choices before and after one perturbation, per prompt [B]."""

    same_by_quality: np.ndarray
    same: np.ndarray
    """At the operating point, like what follows."""
    quality_before: np.ndarray
    quality_after: np.ndarray
    cost_before: np.ndarray
    cost_after: np.ndarray
    """As multiples of the best single model's; NaN where costs are unknown."""
    unfamiliar: np.ndarray
    """Whether the changed prompt is flagged."""

    @classmethod
    def joined(cls, parts: Sequence[Shaken]) -> Shaken:
        """The prompts of several sets."""
        names = cls.__dataclass_fields__
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def figures(self) -> dict[str, Any]:
        """Shares of unchanged choices, and what the changed ones did to quality and spending."""
        return {
            "prompts": len(self.same),
            "unchanged_by_quality": float(self.same_by_quality.mean()),
            "unchanged": float(self.same.mean()),
            "quality_ratio": _ratio(self.quality_after, self.quality_before),
            "spend_ratio": _ratio(self.cost_after, self.cost_before),
            "unfamiliar": float(self.unfamiliar.mean()),
        }


def _ratio(after_B: np.ndarray, before_B: np.ndarray) -> float | None:
    known = np.isfinite(after_B) & np.isfinite(before_B)
    total = float(before_B[known].sum()) if known.any() else 0.0
    return float(after_B[known].sum()) / total if total else None
