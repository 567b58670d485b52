"""Dollars of a dataset: what was paid, the prices behind it, and what a request is expected to cost.

Legend of array suffixes: B prompts, M models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from router_models.operating.rows import TOKENS_PER_PRICE
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError

# Prices found from costs are believed when they explain them to this relative error.
PRICE_ERROR = 0.02
# Of English text; for rows that do not say how many tokens a prompt has.
CHARS_PER_TOKEN = 4.0

Price = tuple[float, float]
"""USD per million input tokens and output tokens; NaN where unknown."""


@dataclass(frozen=True)
class Prices:
    """USD per million tokens [M]; NaN where unknown."""

    input_usd_per_m: np.ndarray
    output_usd_per_m: np.ndarray

    @classmethod
    def of(cls, listed: Mapping[str, Price], models: Sequence[str]) -> Prices:
        """Listed prices in the order of `models`."""
        pairs = np.array([listed.get(model, (np.nan, np.nan)) for model in models], dtype=float).reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1])


def read_prices(folder: Path, names: Mapping[str, str]) -> dict[str, Price]:
    """From `prices.json` beside a dataset: {model: [USD per million input tokens, output tokens, source]}; {} without.

    `names` makes names canonical; the prices of one model's several names are averaged.

    Raises:
        OutcomesError: the file has another form.
    """
    path = folder / "prices.json"
    if not path.is_file():
        return {}
    by_model: dict[str, list[Price]] = {}
    try:
        for model, entry in json.loads(path.read_text(encoding="utf-8")).items():
            if entry is not None:
                by_model.setdefault(names.get(model, model), []).append((_usd(entry[0]), _usd(entry[1])))
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as exc:
        raise OutcomesError(f"{path} is not {{model: [USD per 1M input tokens, output tokens, source]}}") from exc
    means = {model: np.mean(prices, axis=0) for model, prices in by_model.items()}
    return {model: (float(mean[0]), float(mean[1])) for model, mean in means.items()}


def _usd(price: float | None) -> float:
    return np.nan if price is None else float(price)


def charges_input_only(dataset: OutcomesDataset) -> bool:
    """Whether nothing is known of what answers cost: no recorded cost, and no output tokens to price."""
    unknown = (dataset.matrix(name, dataset.models) for name in ("cost_usd", "output_tokens"))
    return not any(np.isfinite(values).any() for values in unknown)


def paid_usd(dataset: OutcomesDataset, models: Sequence[str], listed: Prices) -> np.ndarray:
    """What each outcome cost [B, M]: as recorded; where none of them is, from listed prices and tokens; else NaN.

    A cost that is missing among recorded ones is unknown, whatever is listed: of a model that thinks unseen, tokens at
    list prices are a fraction of it. Where a dataset has no output tokens at all, input tokens alone are charged.
    """
    recorded_BM = dataset.matrix("cost_usd", models)
    if np.isfinite(recorded_BM).any():
        return recorded_BM
    output_tokens_BM = dataset.matrix("output_tokens", models)
    if not np.isfinite(output_tokens_BM).any():
        output_tokens_BM = np.zeros_like(output_tokens_BM)
    input_usd_BM = dataset.matrix("input_tokens", models) * listed.input_usd_per_m
    paid_BM: np.ndarray = (input_usd_BM + output_tokens_BM * listed.output_usd_per_m) / TOKENS_PER_PRICE
    return paid_BM


def prices_behind(dataset: OutcomesDataset, models: Sequence[str], listed: Prices) -> Prices:
    """Each model's prices: found from recorded costs and tokens by least squares, else as listed; NaN if neither."""
    cost_BM = dataset.matrix("cost_usd", models)
    tokens_BM2 = np.stack([dataset.matrix(name, models) for name in ("input_tokens", "output_tokens")], axis=2)
    found_M2 = np.array([_least_squares(cost_BM[:, m], tokens_BM2[:, m]) for m in range(len(models))])
    listed_M2 = np.stack([listed.input_usd_per_m, listed.output_usd_per_m], axis=1)
    price_M2 = np.where(np.isfinite(found_M2), found_M2, listed_M2)
    return Prices(price_M2[:, 0], price_M2[:, 1])


def _least_squares(cost_B: np.ndarray, tokens_B2: np.ndarray) -> Price:
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

    A model without prices or lengths is expected to cost its mean `mean_usd_M`.
    """
    input_usd_BM = input_tokens_BM * prices.input_usd_per_m
    priced_BM = (input_usd_BM + output_tokens_BM * prices.output_usd_per_m) / TOKENS_PER_PRICE
    return np.where(np.isfinite(priced_BM), priced_BM, mean_usd_M)


def prompt_tokens(input_tokens_BM: np.ndarray, characters_B: np.ndarray) -> np.ndarray:
    """Input tokens, estimated from the prompt's characters where a row does not have them [B, M]."""
    estimated_B1 = np.maximum(characters_B, 1)[:, None] / CHARS_PER_TOKEN
    return np.where(np.isfinite(input_tokens_BM), input_tokens_BM, estimated_B1)
