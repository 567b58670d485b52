"""The page on what a catalogue would save: all that is known is on it, safely, and what is not known is said."""

from __future__ import annotations

import datetime as dt
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from app.assembly.router_model import CalibrationCurve
from app.domain.vocabulary import VOCABULARY
from app.savings.expectation import Prospect
from app.savings.page import Savings, differences, page
from app.settings import load_settings
from router_models.storage.calibration import Calibration
from tests.fakes.deployment import write_config

DAY = dt.date(2026, 11, 27)
MODELS = ("small", "large", "huge")


def savings(
    folder: Path,
    right: tuple[float, ...],
    default: dict[str, Any],
    *,
    rows: int = 400,
    unpriced: str = "",
    alone: dict[str, Any] | None = None,
) -> Savings:
    """Of models that are right on such a share of the prompts; NaN was never measured."""
    profiles = {"default": default} | ({"alone": alone} if alone else {})
    path = write_config(folder, dict.fromkeys(MODELS, "http://127.0.0.1:1"), predicted=True, profiles=profiles)
    catalog = yaml.safe_load((folder / "catalog.yaml").read_text())
    for model in catalog["models"]:
        if model["name"] == unpriced:
            del model["price"]
    (folder / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    settings = load_settings(path)
    rng = np.random.default_rng(2)
    quality = np.clip(rng.normal(np.nan_to_num(right), 0.2, (rows, 3)), 0.01, 0.99)
    score = np.where(np.isnan(right), math.nan, rng.random((rows, 3)) < quality)
    flat = np.full((rows, 3), 100.0)
    calibration = Calibration(
        quality, score, flat, flat, flat, np.zeros(rows, np.int32), ("made <up>",), np.ones((rows, 1))
    )
    prospect = Prospect(settings, CalibrationCurve(MODELS, calibration, VOCABULARY.dimension["cost"].scale))
    expected = prospect.expectations()
    return Savings(settings, "tiny-v1@0123456789ab", prospect, expected, tuple(prospect.unused(expected)), ("new",))


def test_a_page_names_its_sources_and_is_safe_to_open(tmp_path: Path) -> None:
    shown = page(savings(tmp_path, (0.4, 0.6, 0.8), {}), DAY)
    assert "tiny-v1@0123456789ab" in shown
    assert "2026-11-27" in shown
    assert "catalog.yaml@" in shown
    assert "made &lt;up&gt;" in shown
    assert "<up>" not in shown
    assert "<script" not in shown


def test_models_that_nobody_needs_and_untested_ones_are_named(tmp_path: Path) -> None:
    shown = page(savings(tmp_path, (0.1, 0.5, 0.9), {"weights": {"cost": 20}}), DAY)
    assert "Chosen by no profile on any of these prompts: large, huge. They could be switched off, unless" in shown
    assert "in none of these figures: new." in shown
    needed = page(savings(tmp_path, (0.6, 0.6, 0.6), {}), DAY)
    assert "Each model that was measured is chosen by some profile for some prompt." in needed


def test_what_is_not_in_the_figures_is_said(tmp_path: Path) -> None:
    hurried, alone = {"weights": {"latency": 0.2}}, {"limits": {"max_size_b": 10}}
    shown = page(savings(tmp_path, (0.4, 0.6, 0.8), hurried, unpriced="huge", alone=alone), DAY)
    assert "Of profile default: weights.latency, which depend on the request." in shown
    assert "Profile alone: nothing to compare" in shown
    assert "The cost of huge: the catalogue states no price. What they cost is not known, never 0." in shown
    nothing = page(savings(tmp_path, (0.4, 0.6, 0.8), {}), DAY)
    assert "Nothing that these profiles ask for." in nothing
    unmeasured = page(savings(tmp_path, (0.4, 0.6, math.nan), {}), DAY)
    assert "In the curve: huge, which were not measured" in unmeasured


def test_a_page_without_anything_to_compare_says_so(tmp_path: Path) -> None:
    shown = page(savings(tmp_path, (0.4, math.nan, math.nan), {}), DAY)
    assert "There is no curve" in shown
    assert "No two models were measured on the same prompts." in shown
    assert "<svg" not in shown


@pytest.mark.parametrize(("rows", "prompts"), [(400, "400"), (60, "60 (few)")])
def test_rows_of_the_table_are_short(tmp_path: Path, rows: int, prompts: str) -> None:
    (found,) = savings(tmp_path, (0.4, 0.6, math.nan), {}, rows=rows, unpriced="large").expected.values()
    assert found is not None
    table = {row[0]: row[1:] for row in differences(found)}
    assert list(table) == ["small", "large", "huge"]
    assert table["huge"] == ("-", "not known", "not known", "0")
    assert table["large"][2:] == ("not known", prompts)
    assert re.fullmatch(r"[0-9.]+ \[[0-9.]+, [0-9.]+\] on [0-9]+", table["small"][2])
