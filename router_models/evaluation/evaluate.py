"""Router models against every baseline, on several sets: choices, costs, calibration, lengths, robustness, gates.

How it works: for every split of every set the baselines learn from the set's training split, the router model brings
what it knows, and all of them choose on the prompts that are measured (`contest`). What a choice was worth comes from
the outcomes there. Figures are made for each set and for all of them together (`figures`). Several artifacts that
differ in their seed count as one policy: means are over seeds, and intervals of means resample seeds too.

Legend of array suffixes: B prompts measured, M models that the artifact knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from router_models.evaluation import learners
from router_models.evaluation.bootstrap import DRAWS, SEED, Draws
from router_models.evaluation.contest import OURS, Stratum, play
from router_models.evaluation.details import details
from router_models.evaluation.figures import figures
from router_models.evaluation.gates import LEARNED_FROM, gates
from router_models.evaluation.held_out import HALVINGS, PROMISED_LOSS
from router_models.evaluation.latency import latency_ms
from router_models.evaluation.policies import Known
from router_models.evaluation.robustness import PERTURBATIONS, Shaken, drawn
from router_models.evaluation.roster import roster
from router_models.evaluation.sets import Bar, Entrant, Source, Trial, prepare
from router_models.evaluation.shaking import shake
from router_models.operating.rows import CostScale
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, tasks_of
from router_models.prediction import Prediction
from router_models.reading.conversation import Parts, parts

__all__ = ["OURS", "PROMISED_LOSS", "Setting", "evaluate"]

# Of `evaluation.json`; raised when its form changes.
REPORT_FORM = 2
NOTES = {
    "intervals": f"[low, mid, high]: 95 %, paired bootstrap over prompts, `draws` draws, seed {SEED}; hulls are made "
    "anew in each; several seeds of training are resampled in means. Pooled: stratified by set. Prompts are drawn one "
    "by one, also where they share a wording or a text: on other wordings figures may differ by more than that.",
    "pool": "Figures are on models with an outcome on more than 99 % of the prompts, and a cost on as many where there "
    "are costs; else without the cost; else all. A model without an outcome on a prompt is no candidate there, and "
    "where costs count one without a cost is none either.",
    "baselines": "All learn from the training split of the same set; the best single model is chosen there (by "
    "least squares of prompt and model, if not all answered the same prompts). They read the text the router model "
    "reads, and are given the costs it expects.",
    "costs": "As recorded; where a set records none, tokens at list prices, and without output tokens, input tokens "
    "alone. `cost_ratio` and pooled costs are multiples of the mean cost of the set's best single model on the prompts "
    "measured; the interval of `cost_ratio` is that of a ratio of means, both over the same draws of the prompts that "
    "have both. Null where more than 1 % of a policy's choices on a set have no cost; if these are the best single "
    "model's, the set has no figures of cost.",
    "settings": "Costs enter a choice as quality - weight x cost / mean training cost of the best single model "
    "(linear), and as quality - weight x position on the gateway's scale (log); curves and hulls are over both.",
    "aiq": "Area below the rising concave hull over [cheapest, dearest single model], held fixed; the cheapest model "
    "belongs to each hull, and left of a hull its first quality is held. The Zero router has the hull of the single "
    "models, with hindsight. Pooled: average of the sets' areas by prompts.",
    "cost_at": f"Setting chosen on a random half, measured on the other, {HALVINGS} times: [2.5 %, mean, 97.5 %] over "
    "repetitions. Where no setting reaches the target on the first half, the best one is taken.",
    "promise": "Weight chosen by `largest_weight` on a random half, loss against the best single model on the other.",
    "lengths": "Errors of log tokens, as ratios to those of each model's mean log length in training. The 80 % "
    "interval is the 90 % one narrowed in logarithms around its geometric middle by 1.2816 / 1.6449.",
    "robustness": "unchanged_by_quality is without a weight on cost, the rest at the smallest linear weight at which "
    "no model gets more than 80 %; first seed; flags of unfamiliar prompts are ignored.",
}


@dataclass(frozen=True)
class Setting:
    """What is not in an artifact or a dataset."""

    train_split: str = "train"
    scale: CostScale = field(default_factory=lambda: CostScale(worst_usd=0.1, best_usd=1e-7))
    sizes_b: Mapping[str, float] = field(default_factory=dict)
    """Billions of parameters by model, for the trade-off over size; may be empty."""
    size_ends_b: tuple[float, float] = (700.0, 0.05)
    draws: int = DRAWS


def evaluate(
    entrants: Sequence[Entrant], sources: Sequence[Source], setting: Setting, bar: Bar
) -> tuple[dict[str, Any], pa.Table]:
    """All figures as JSON-ready values, and every prediction as a table.

    Raises:
        OutcomesError: the entrants know different models or differ in more than their seed, two of them have the same
            one, or a set has no outcome of any of them.
    """
    first = entrants[0]
    if any(e.predictor.models != first.predictor.models or e.aliases != first.aliases for e in entrants):
        raise OutcomesError("the artifacts have different models; evaluate them one by one")
    _refuse_others(entrants)
    played: list[Stratum] = []
    shaken: list[Mapping[str, Shaken]] = []
    report: dict[str, Any] = {
        "form": REPORT_FORM,
        "artifacts": [_described(entrant) for entrant in entrants],
        "draws": setting.draws,
        "notes": NOTES,
        "sets": {},
    }
    tables = []
    for source in sources:
        lessons = _Lessons(first, source, setting, bar)
        for split in source.splits:
            trial = _prepared(first, source, split, setting)
            stratum, embedding, said = _played(trial, entrants, lessons, setting, len(played), bar)
            asked = drawn(stratum.prompts)
            advance = bar(f"changed prompts of {trial.name}", len(PERTURBATIONS) * len(asked))
            shaken.append(shake(stratum, first.predictor, asked, advance))
            played.append(stratum)
            report["sets"][trial.name] = {
                LEARNED_FROM: any(entrant.learned_from(trial.folder, split) for entrant in entrants),
                **figures([stratum], shaken[-1:]),
                **details(stratum, embedding, setting.sizes_b, CostScale(*setting.size_ends_b)),
            }
            tables.append(_table(trial, entrants, said))
    report["pooled"] = {"sets": list(report["sets"]), **figures(played, shaken)}
    report["latency_ms"] = latency_ms(first.predictor, played[0].trial.conversations)
    report["gates"] = [gate.as_dict() for gate in gates(report)]
    return report, pa.concat_tables(tables)


def _refuse_others(entrants: Sequence[Entrant]) -> None:
    """Means over artifacts and their intervals are over seeds of training, and over nothing else."""
    first, *others = ((entrant.name, _lessons_of(entrant)) for entrant in entrants)
    for name, lessons in others:
        if differing := [what for what, known in lessons.items() if known != first[1][what]]:
            raise OutcomesError(
                f"{name} differs from {first[0]} in more than the seed: {', '.join(differing)}; "
                "evaluate them one by one"
            )
    for (name, seeds), (other, others_seeds) in combinations([(each.name, _seeds_of(each)) for each in entrants], 2):
        if seeds == others_seeds:
            raise OutcomesError(f"{name} and {other} were made with the same seed; name each artifact once")


def _seeds_of(entrant: Entrant) -> list[int | None]:
    """That of its training, and those of the exams of models that joined."""
    return [entrant.about.get("seed"), *(row.get("seed") for row in entrant.about.get("joined", ()))]


def _lessons_of(entrant: Entrant) -> dict[str, Any]:
    """What an artifact learned from, without what its seed decided."""
    adapted, joined = entrant.about.get("adapted", {}), entrant.about.get("joined", ())
    return {
        "the data it was trained on": entrant.about.get("data"),
        "the prompts it was adapted to": {name: value for name, value in adapted.items() if name != "from"},
        "the exams of models that joined": [
            {name: value for name, value in row.items() if name != "seed"} for row in joined
        ],
    }


def _described(entrant: Entrant) -> dict[str, Any]:
    return {
        "name": entrant.name,
        "seed": entrant.about.get("seed"),
        "command": entrant.about.get("command"),
        "manifest_sha256": entrant.fingerprint,
    }


def _prepared(first: Entrant, source: Source, split: str, setting: Setting) -> Trial:
    try:
        found = roster(source.dataset.models, first.predictor.models, first.aliases)
    except OutcomesError as exc:
        raise OutcomesError(f"{source.name}: {exc}") from exc
    return prepare(source, split, found, setting.train_split, first.calibration)


class _Lessons:
    """The training prompts of one set, read once for all of its splits."""

    def __init__(self, first: Entrant, source: Source, setting: Setting, bar: Bar) -> None:
        self._first, self._source, self._setting, self._bar = first, source, setting, bar
        self._read: tuple[np.ndarray, list[Parts], list[str]] | None = None

    def of(self, train: OutcomesDataset) -> tuple[np.ndarray, list[Parts], list[str]]:
        """Embeddings, texts and tasks of the training prompts."""
        if self._read is None:
            conversations = train.conversations()
            advance = self._bar(f"training prompts of {self._source.name}", len(conversations))
            embedding = self._first.predictor.encoder.encode(conversations, advance)
            self._read = embedding, [parts(conversation) for conversation in conversations], tasks_of(train)
        return self._read


def _played(
    trial: Trial, entrants: Sequence[Entrant], lessons: _Lessons, setting: Setting, place: int, bar: Bar
) -> tuple[Stratum, np.ndarray, list[Prediction]]:
    """The set played through, what tells like prompts, and what was predicted for all columns."""
    prompts = len(trial.conversations)
    advance = bar(f"prompts of {trial.name}", prompts * (1 + len(entrants)))
    said = [entrant.predictor.predict(trial.conversations, advance) for entrant in entrants]
    embedding = entrants[0].predictor.encoder.encode(trial.conversations, advance)
    draws = Draws.of(prompts, place, setting.draws)
    calibrations = [entrant.calibration for entrant in entrants]
    stratum = play(trial, said, calibrations, _baselines(trial, lessons, embedding, bar), setting.scale, draws)
    return stratum, embedding, said


def _baselines(
    trial: Trial, lessons: _Lessons, embedding: np.ndarray, bar: Bar
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if trial.train is None:
        return {}, dict.fromkeys(learners.BASELINES, f"{trial.name} has no other split with outcomes to learn from")
    train_embedding, texts, tasks = lessons.of(trial.train)
    known = Known(
        score=trial.train_score,
        tasks=tasks,
        new_tasks=trial.tasks,
        texts=texts,
        new_texts=[parts(conversation) for conversation in trial.conversations],
        embedding=train_embedding,
        new_embedding=embedding,
    )
    return learners.values(known, bar(f"baselines on {trial.name}", len(learners.BASELINES)))


def _table(trial: Trial, entrants: Sequence[Entrant], said: Sequence[Prediction]) -> pa.Table:
    """One row per artifact, prompt and model that it knows."""
    prompt_ids = trial.measured.prompts["prompt_id"].to_pylist()
    models, columns = trial.roster.models, list(trial.roster.columns)
    rows, tables = len(prompt_ids) * len(models), []
    for entrant, prediction in zip(entrants, said, strict=True):
        content: dict[str, Any] = {
            "artifact": pa.array([entrant.name] * rows),
            "seed": pa.array([entrant.about.get("seed")] * rows, pa.int64()),
            "set": pa.array([trial.folder] * rows),
            "split": pa.array([trial.split] * rows),
            "prompt_id": pa.array(np.repeat(np.array(prompt_ids, dtype=object), len(models))),
            "model": pa.array(list(models) * len(prompt_ids)),
            "quality": prediction.quality[:, columns],
            "quality_low": prediction.quality_interval[:, columns, 0],
            "quality_high": prediction.quality_interval[:, columns, 1],
            "output_tokens": prediction.output_tokens[:, columns],
            "output_tokens_low": prediction.output_tokens_interval[:, columns, 0],
            "output_tokens_high": prediction.output_tokens_interval[:, columns, 1],
            "cost_usd": trial.expected_usd(prediction),
            "unfamiliar": np.repeat(prediction.unfamiliar, len(models)),
        }
        numbers = {n: np.ravel(v).astype(float) for n, v in content.items() if getattr(v, "ndim", 1) == 2}
        tables.append(pa.table({**content, **numbers}))
    return pa.concat_tables(tables)
