"""An artifact's calibration rows: what was predicted, and what came, of prompts that were not trained on.

How it works: a tensor holds finite numbers only, so a missing score is a 0 beside a mask, and a missing length is -1.

Legend of array suffixes: N rows, M models, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router_models.storage.manifest import Manifest, Unusable

# Lengths of calibration rows are float16, which is exact to 0.1 % and ends here.
MOST_STORED = 60_000.0
_CALIBRATION_SHAPES = {
    "kind_NT": "NT",
    "quality_NM": "NM",
    "score_NM": "NM",
    "score_known_NM": "NM",
    "output_tokens_NM": "NM",
    "real_output_tokens_NM": "NM",
    "input_tokens_NM": "NM",
    "dataset_N": "N",
}


@dataclass(frozen=True)
class Calibration:
    """Predictions and outcomes of all models on N prompts that were not trained on; NaN is missing."""

    quality: np.ndarray
    """Predicted quality [N, M]."""
    score: np.ndarray
    """Graded outcome [N, M]."""
    output_tokens: np.ndarray
    """Predicted answer length [N, M]."""
    real_output_tokens: np.ndarray
    """Length of the answer that was given [N, M]."""
    input_tokens: np.ndarray
    """Length of the prompt in the model's own tokens [N, M]."""
    dataset: np.ndarray
    """Index into `datasets` [N]."""
    datasets: tuple[str, ...]
    kind: np.ndarray
    """How much each prompt looks like each task [N, T]: what a model that joins is described by."""


def calibration_tensors(rows: Calibration) -> dict[str, np.ndarray]:
    """Rows as they are stored."""
    known_NM = np.isfinite(rows.score)
    tensors = {
        "kind_NT": rows.kind.astype(np.float16),
        "quality_NM": rows.quality.astype(np.float16),
        "score_NM": np.where(known_NM, rows.score, 0).astype(np.float16),
        "score_known_NM": known_NM.astype(np.uint8),
        "dataset_N": rows.dataset.astype(np.int32),
    }
    tokens = {
        "output_tokens_NM": rows.output_tokens,
        "real_output_tokens_NM": rows.real_output_tokens,
        "input_tokens_NM": rows.input_tokens,
    }
    return tensors | {
        name: np.where(np.isfinite(t), np.minimum(t, MOST_STORED), -1).astype(np.float16) for name, t in tokens.items()
    }


def calibration_of(rows: Mapping[str, np.ndarray], manifest: Manifest) -> Calibration:
    """Rows from their tensors.

    Raises:
        Unusable: they do not fit together or to what the manifest names, or hold what no outcome is.
    """
    if set(rows) != set(_CALIBRATION_SHAPES):
        raise Unusable(f"calibration.safetensors: tensor {min(set(rows) ^ set(_CALIBRATION_SHAPES))} is not right")
    size = {"N": len(rows["dataset_N"]), "M": len(manifest.models), "T": len(manifest.tasks)}
    for name, letters in _CALIBRATION_SHAPES.items():
        if rows[name].shape != tuple(size[letter] for letter in letters):
            raise Unusable(f"calibration.safetensors: tensor {name} has shape {rows[name].shape}")
    for name in ("kind_NT", "quality_NM", "score_NM"):
        if rows[name].size and not (rows[name].min() >= 0 and rows[name].max() <= 1):
            raise Unusable(f"calibration.safetensors: tensor {name} lies outside 0 to 1")
    if size["N"] and not (rows["dataset_N"].min() >= 0 and rows["dataset_N"].max() < len(manifest.datasets)):
        raise Unusable("calibration.safetensors: dataset_N names a dataset that the manifest does not have")
    return Calibration(
        quality=rows["quality_NM"].astype(np.float32),
        score=np.where(rows["score_known_NM"] > 0, rows["score_NM"].astype(np.float32), np.float32(np.nan)),
        output_tokens=_nan_where_missing(rows["output_tokens_NM"]),
        real_output_tokens=_nan_where_missing(rows["real_output_tokens_NM"]),
        input_tokens=_nan_where_missing(rows["input_tokens_NM"]),
        dataset=rows["dataset_N"],
        datasets=manifest.datasets,
        kind=rows["kind_NT"].astype(np.float32),
    )


def _nan_where_missing(tokens: np.ndarray) -> np.ndarray:
    return np.where(tokens >= 0, tokens.astype(np.float32), np.float32(np.nan))
