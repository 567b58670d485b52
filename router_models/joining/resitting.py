"""An exam is taken out of an artifact, so that the models that sat it join again, together with others.

How it works: a model that joined is columns and nothing else, and an exam is its prompts' calibration rows. Without
both, an artifact is as if its other models alone had joined.

Legend of array suffixes: N calibration rows, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from router_models.heads.joined import joined_count, tensors_of
from router_models.joining.exam import exam_name, without_exam
from router_models.storage.artifact import Artifact
from router_models.storage.calibration import Calibration


def before_exam(artifact: Artifact, name: str) -> Artifact:
    """Without the prompts of this exam and the models that joined by it; those that joined otherwise stay."""
    joined, exam = artifact.about.get("joined", ()), exam_name(name)
    gone = {row["model"] for row in joined if row["exam"] == exam}
    kept_M = np.array([model not in gone for model in artifact.models])
    about = {**without_exam(artifact), "joined": [row for row in joined if row["model"] not in gone]}
    return replace(
        artifact,
        models=tuple(model for model in artifact.models if model not in gone),
        heads=tensors_of(artifact.heads, kept_M[len(kept_M) - joined_count(artifact.heads) :]),
        calibration=_rows_before(artifact.calibration, exam, kept_M),
        about=about if about["joined"] else {key: value for key, value in about.items() if key != "joined"},
        aliases={other: model for other, model in artifact.aliases.items() if model not in gone},
        fingerprint="",
    )


def _rows_before(rows: Calibration, exam: str, kept_M: np.ndarray) -> Calibration:
    """Calibration rows without those of an exam, in columns that are kept."""
    kept_N = _outside(rows, exam)
    number = int(rows.dataset[~kept_N].min(initial=len(rows.datasets)))
    columns = ("quality", "score", "output_tokens", "real_output_tokens", "input_tokens")
    return Calibration(
        **{column: getattr(rows, column)[kept_N][:, kept_M] for column in columns},
        dataset=rows.dataset[kept_N] - (rows.dataset[kept_N] > number),
        datasets=tuple(each for each in rows.datasets if each != exam),
        kind=rows.kind[kept_N],
    )


def with_scores_of(artifact: Artifact, earlier: Artifact, name: str, models: Sequence[str]) -> Artifact:
    """With what these models scored in `earlier` on prompts outside of this exam, which they joined by anew.

    `artifact` was made from what `before_exam` says of `earlier`, so its rows begin with the same prompts.
    """
    rows, before = artifact.calibration, earlier.calibration
    kept_N = _outside(before, exam_name(name))
    columns = {}
    for column in ("score", "real_output_tokens", "input_tokens"):
        columns[column] = getattr(rows, column).copy()
        for model in models:
            theirs_N = getattr(before, column)[kept_N, earlier.models.index(model)]
            columns[column][: len(theirs_N), artifact.models.index(model)] = theirs_N
    return replace(artifact, calibration=replace(rows, **columns))


def _outside(rows: Calibration, exam: str) -> np.ndarray:
    """Whether each calibration row is no prompt of an exam [N]."""
    outside_N: np.ndarray = rows.dataset != (rows.datasets.index(exam) if exam in rows.datasets else -1)
    return outside_N
