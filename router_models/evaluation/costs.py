"""Dollars of a dataset: what was paid, the prices behind it, and what a request is expected to cost.

Legend of array suffixes: B prompts, M models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from router_models.operating_curve import TOKENS_PER_PRICE
from router_models.outcomes import OutcomesDataset, OutcomesError

# Prices found from costs are believed when they explain them to this relative error.
PRICE_ERROR = 0.02


@dataclass(frozen=True)
class Prices:
    """USD per million tokens [M]; NaN where unknown."""

    input_usd_per_m: np.ndarray
    output_usd_per_m: np.ndarray


def listed_prices(folder: Path, models: Sequence[str]) -> Prices | None:
    """From `prices.json` beside the dataset: {model: [USD per million input tokens, output tokens, source]}."""
    path = folder / "prices.json"
    if not path.is_file():
        return None
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        pairs = [listed.get(model) or (np.nan, np.nan) for model in models]
        columns = [np.array([np.nan if p[side] is None else float(p[side]) for p in pairs]) for side in (0, 1)]
    except (ValueError, TypeError, IndexError, AttributeError) as exc:
        raise OutcomesError(f"{path} is not {{model: [USD per 1M input tokens, output tokens, source]}}") from exc
    return Prices(columns[0], columns[1])


def paid_usd(dataset: OutcomesDataset, models: Sequence[str], listed: Prices | None) -> np.ndarray:
    """What each outcome cost [B, M]: as recorded; else from listed prices and tokens; else NaN.

    Where a dataset has no output tokens at all, input tokens alone are charged.
    """
    recorded_BM = dataset.matrix("cost_usd", models)
    if np.isfinite(recorded_BM).any() or listed is None:
        return recorded_BM
    output_tokens_BM = dataset.matrix("output_tokens", models)
    if not np.isfinite(output_tokens_BM).any():
        output_tokens_BM = np.zeros_like(output_tokens_BM)
    input_usd_BM = dataset.matrix("input_tokens", models) * listed.input_usd_per_m
    paid_BM: np.ndarray = (input_usd_BM + output_tokens_BM * listed.output_usd_per_m) / TOKENS_PER_PRICE
    return paid_BM


def prices_behind(dataset: OutcomesDataset, models: Sequence[str], listed: Prices | None) -> Prices:
    """Each model's prices: as listed, else found from recorded costs and tokens by least squares; NaN if neither."""
    cost_BM = dataset.matrix("cost_usd", models)
    tokens_BM2 = np.stack([dataset.matrix(name, models) for name in ("input_tokens", "output_tokens")], axis=2)
    found_M2 = np.array([_least_squares(cost_BM[:, m], tokens_BM2[:, m]) for m in range(len(models))])
    if listed is None:
        return Prices(found_M2[:, 0], found_M2[:, 1])
    listed_M2 = np.stack([listed.input_usd_per_m, listed.output_usd_per_m], axis=1)
    price_M2 = np.where(np.isfinite(found_M2), found_M2, listed_M2)
    return Prices(price_M2[:, 0], price_M2[:, 1])


def _least_squares(cost_B: np.ndarray, tokens_B2: np.ndarray) -> tuple[float, float]:
    known_B = np.isfinite(cost_B) & np.isfinite(tokens_B2).all(1) & (cost_B > 0)
    if known_B.sum() < 3:
        return float("nan"), float("nan")
    price_2 = np.linalg.lstsq(tokens_B2[known_B], cost_B[known_B], rcond=None)[0]
    error = np.abs(tokens_B2[known_B] @ price_2 - cost_B[known_B]) / cost_B[known_B]
    if np.median(error) > PRICE_ERROR or (price_2 < 0).any():
        return float("nan"), float("nan")
    return float(price_2[0] * TOKENS_PER_PRICE), float(price_2[1] * TOKENS_PER_PRICE)


def expected_usd(
    prices: Prices, input_tokens_BM: np.ndarray, output_tokens_BM: np.ndarray, mean_usd_M: np.ndarray
) -> np.ndarray:
    """What each answer would cost [B, M]: prices times the prompt's tokens and the predicted length.

    A model without prices or lengths is expected to cost its mean on the training rows.
    """
    input_usd_BM = input_tokens_BM * prices.input_usd_per_m
    priced_BM = (input_usd_BM + output_tokens_BM * prices.output_usd_per_m) / TOKENS_PER_PRICE
    without_output_BM = np.where(np.isfinite(output_tokens_BM), priced_BM, input_usd_BM / TOKENS_PER_PRICE)
    expected_BM = priced_BM if np.isfinite(output_tokens_BM).any() else without_output_BM
    return np.where(np.isfinite(expected_BM), expected_BM, mean_usd_M)
