"""The router model as the gateway wants it: at the speeds that the operator chose, with the best single model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.assembly.router_model import CalibrationCurve, create_predictor
from app.domain.vocabulary import VOCABULARY
from app.errors import UsageError
from app.settings import load_settings
from router_models.storage.calibration import Calibration
from tests.fakes.deployment import write_config
from tests.fakes.predictor import FakePredictor
from tests.fakes.routing import llm

TWO_SPEEDS = FakePredictor({"small": 0.5}, seen={"small": 0.4})
TRANSFORMER_ONLY = FakePredictor({"small": 0.5})


def static_only() -> FakePredictor:
    predictor = FakePredictor({"small": 0.5}, seen={"small": 0.4})
    predictor.speeds = frozenset({"static"})
    return predictor


@pytest.mark.parametrize(
    ("encoder", "predictor", "asked"),
    [
        ("auto", TWO_SPEEDS, {"static", "transformer"}),
        ("static", TWO_SPEEDS, {"static"}),
        ("transformer", TWO_SPEEDS, {"transformer"}),
        ("auto", TRANSFORMER_ONLY, {"transformer"}),
        ("auto", static_only(), {"static"}),
        ("static", static_only(), {"static"}),
    ],
)
def test_the_operator_chooses_among_the_encoders_there_are(
    tmp_path: Path, encoder: str, predictor: FakePredictor, asked: set[str]
) -> None:
    settings = load_settings(write_config(tmp_path, {"small": "http://127.0.0.1:1"}, encoder=encoder))
    wanted = create_predictor(settings, predictor)
    assert set(wanted.speeds) == asked
    wanted.close()


@pytest.mark.parametrize(
    ("encoder", "predictor", "says"),
    [
        ("static", TRANSFORMER_ONLY, "has no static encoder; write auto or transformer"),
        ("transformer", static_only(), "has no transformer encoder; write auto or static"),
    ],
)
def test_an_encoder_that_is_not_there_is_said_with_what_to_write(
    tmp_path: Path, encoder: str, predictor: FakePredictor, says: str
) -> None:
    settings = load_settings(write_config(tmp_path, {"small": "http://127.0.0.1:1"}, encoder=encoder))
    with pytest.raises(UsageError, match=rf"gateway.yaml: encoder: this artifact {says}$"):
        create_predictor(settings, predictor)


def rows_of(score_NM: list[list[float]], dataset_N: list[int]) -> Calibration:
    score = np.array(score_NM)
    flat = np.full_like(score, 0.5)
    return Calibration(
        flat, score, flat * 100, flat * 100, flat * 100, np.array(dataset_N), ("one", "two"), np.ones((len(flat), 1))
    )


def test_the_best_single_model_is_the_best_where_models_were_measured_side_by_side() -> None:
    nan = np.nan
    rows = rows_of([[0.3, 0.2, nan], [nan, 0.9, 0.8]], [0, 1])
    curve = CalibrationCurve(("a", "b", "c"), rows, VOCABULARY.dimension["cost"].scale)
    assert curve.tabulate([llm("a"), llm("b"), llm("c")]).best_model == "a"
    assert curve.tabulate([llm("b"), llm("c")]).best_model == "b"
    assert curve.tabulate([llm("c")]).best_model == "c"
    assert curve.tabulate([llm("a"), llm("c")]).best_model is None
    assert curve.tabulate([llm("unheard of")]).best_model is None
