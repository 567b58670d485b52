"""How well a strong and a weak model are told apart on RouteLLM's data: MMLU and GSM8K, GPT-4 Turbo and Mixtral 8x7B.

    python -m router_models.studies.pairs --data DIR [--artifact A] [--json]

How it works: K random prompts of a benchmark are labelled with the scores of both models, a pair router is fitted to
them, and all other prompts of the benchmark are ordered by its gain; five draws. Beside it stand a random order, the
length of the prompt (what is used without any label), the figures of the text alone, and an oracle that knows the
scores. Prompts of RouteLLM's own list of contaminated ones are left out. Without an artifact there are neither
embeddings nor items.

Legend of array suffixes: B prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from router_models.outcomes.dataset import OutcomesDataset, read_outcomes
from router_models.predictor import ArtifactPredictor
from router_models.reading.conversation import Conversation
from router_models.storage.artifact import load_artifact
from router_models.studies.pair_router import LengthRouter, PairFeatures, fit_pair, pair_features

STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"
# Labels per benchmark. RouteLLM's best MMLU row used 1,500; GSM8K has 1,307 prompts.
LABELS = {"mmlu": 1500, "gsm8k": 600}
SEEDS = 5
SHARES = np.linspace(0, 1, 101)

Features = Callable[[Sequence[Conversation]], PairFeatures]


@dataclass(frozen=True)
class Scores:
    """What both models scored on the same prompts [B]."""

    strong: np.ndarray
    weak: np.ndarray

    def take(self, rows: np.ndarray) -> Scores:
        """The prompts with these indices."""
        return Scores(self.strong[rows], self.weak[rows])


@dataclass(frozen=True)
class Row:
    """One policy on one benchmark: means over the draws; shares of strong calls in [0, 1]."""

    dataset: str
    policy: str
    labels: int
    tested: int
    apgr: float
    apgr_sd: float
    apgr_draws: tuple[float, ...]
    cpt50: float
    cpt80: float


def recovered(gain_B: np.ndarray, scores: Scores, seed: int = 0) -> np.ndarray:
    """Performance gap recovered at each of `SHARES`, by asking the strong model where the gain is largest [101].

    PGR(p) = (Q(p) - Q_weak) / (Q_strong - Q_weak) (Ong et al. 2024, eq. 5). Equal gains are ordered at random.

    Raises:
        ValueError: both models score the same on average, so there is no gap.
    """
    order_B = np.lexsort((np.random.default_rng(seed).random(len(gain_B)), -gain_B))
    won = np.concatenate([[0.0], np.cumsum((scores.strong - scores.weak)[order_B])])
    if abs(won[-1]) < 1e-9:
        raise ValueError("both models score the same on average: there is no gap to recover")
    shares: np.ndarray = won[np.round(SHARES * len(gain_B)).astype(int)] / won[-1]
    return shares


def apgr(recovered_101: np.ndarray) -> float:
    """Mean of the performance gap recovered over all shares; 0.5 is a random order."""
    return float(recovered_101.mean())


def call_share(recovered_101: np.ndarray, percent: float) -> float:
    """CPT(x): the least share of strong calls that recovers x percent of the gap, by scan; curves may dip."""
    return float(SHARES[np.argmax(recovered_101 >= percent / 100 - 1e-9)])


def study(dataset: OutcomesDataset, features: Features, labels: Mapping[str, int], seeds: int = SEEDS) -> list[Row]:
    """Rows for every benchmark in `labels` that the dataset holds.

    Raises:
        OutcomesError: the dataset has no split `eval`.
    """
    dataset = dataset.split("eval")
    names = np.array(dataset.prompts["dataset"].to_pylist(), dtype=str)
    rows: list[Row] = []
    for name, count in labels.items():
        part = dataset.select(names == name)
        score_B2 = part.matrix("score", (STRONG, WEAK))
        rows += benchmark(name, features(part.conversations()), Scores(*score_B2.T), count, seeds)
    return rows


def benchmark(name: str, features: PairFeatures, scores: Scores, labels: int, seeds: int = SEEDS) -> list[Row]:
    """Every policy on one benchmark, on the same draws."""
    draws = [_draw(features, scores, labels, seed) for seed in range(seeds)]
    return [
        _row(name, policy, labels, len(scores.strong) - labels, [draw[policy] for draw in draws]) for policy in draws[0]
    ]


def _draw(features: PairFeatures, scores: Scores, labels: int, seed: int) -> Mapping[str, np.ndarray]:
    """The recovered gap of each policy on the prompts that were not drawn."""
    rng = np.random.default_rng(seed)
    shuffled_B = rng.permutation(len(scores.strong))
    drawn, rest = shuffled_B[:labels], shuffled_B[labels:]
    known, new, answers = features.take(drawn), features.take(rest), scores.take(drawn)
    gains = {
        "random": rng.random(len(rest)),
        "prompt length (no labels)": LengthRouter().gain(new),
        "figures of the text": _learned(_only_figures(known), answers, _only_figures(new)),
        "embedding and figures": _learned(_without_items(known), answers, _without_items(new)),
        "pair router": _learned(known, answers, new),
        "oracle": scores.strong[rest] - scores.weak[rest],
    }
    if not known.items.shape[1]:
        del gains["embedding and figures"]
    return {policy: recovered(gain_B, scores.take(rest), seed) for policy, gain_B in gains.items()}


def _learned(known: PairFeatures, answers: Scores, new: PairFeatures) -> np.ndarray:
    return fit_pair(known, answers.strong, answers.weak).gain(new)


def _only_figures(features: PairFeatures) -> PairFeatures:
    none_B0 = features.figures[:, :0]
    return PairFeatures(none_B0, features.figures, none_B0)


def _without_items(features: PairFeatures) -> PairFeatures:
    return PairFeatures(features.embedding, features.figures, features.items[:, :0])


def _row(name: str, policy: str, labels: int, tested: int, curves: Sequence[np.ndarray]) -> Row:
    areas = tuple(apgr(curve) for curve in curves)
    shares = {percent: float(np.mean([call_share(curve, percent) for curve in curves])) for percent in (50, 80)}
    spread = float(np.std(areas, ddof=1)) if len(areas) > 1 else 0.0
    return Row(name, policy, labels, tested, float(np.mean(areas)), spread, areas, shares[50], shares[80])


def artifact_features(folder: Path) -> Features:
    """Features with the embeddings and predicted qualities of an artifact.

    Raises:
        ArtifactError: the folder holds none that works.
    """
    predictor = ArtifactPredictor(load_artifact(folder))

    def features(conversations: Sequence[Conversation]) -> PairFeatures:
        return pair_features(
            conversations, predictor.encoder.encode(conversations), predictor.predict(conversations).quality
        )

    return features


def as_table(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = Table("benchmark", "policy", "labels", "tested", "APGR", "CPT(50 %)", "CPT(80 %)")
    for row in rows:
        area, shares = f"{row.apgr:.3f} ± {row.apgr_sd:.3f}", (f"{row.cpt50:.0%}", f"{row.cpt80:.0%}")
        table.add_row(row.dataset, row.policy, str(row.labels), str(row.tested), area, *shares)
    return table


def main(arguments: Sequence[str] | None = None, labels: Mapping[str, int] = LABELS) -> None:
    """Print the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds routellm_pair/")
    parser.add_argument("--artifact", type=Path, help="artifact folder whose embeddings and predictions are used")
    parser.add_argument("--json", action="store_true", help="print figures for programs")
    asked = parser.parse_args(arguments)
    features = artifact_features(asked.artifact) if asked.artifact else pair_features
    rows = study(read_outcomes(asked.data / "routellm_pair"), features, labels)
    if asked.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        Console().print(as_table(rows))


if __name__ == "__main__":
    main()
