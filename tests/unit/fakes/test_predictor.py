"""The fake predictor keeps the contract of the real one."""

from __future__ import annotations

import pytest

from tests.fakes.predictor import FakePredictor

HELLO = (("user", "hello"),)


def test_it_says_what_it_was_given_in_the_shapes_of_the_contract() -> None:
    predictor = FakePredictor({"small": 0.6, "large": 0.98}, output_tokens={"large": 200})
    prediction = predictor.predict(HELLO)
    assert predictor.models == ("small", "large")
    assert prediction.quality.tolist() == [0.6, 0.98]
    assert prediction.output_tokens.tolist() == [50, 200]
    assert prediction.quality_interval.shape == prediction.output_tokens_interval.shape == (2, 2)
    assert prediction.quality_interval[1].tolist() == pytest.approx([0.93, 1.0])
    assert (prediction.unfamiliar, predictor.asked) == (False, [HELLO])


def test_a_glance_has_numbers_of_its_own() -> None:
    assert FakePredictor({"small": 0.6}).speeds == {"transformer"}
    predictor = FakePredictor({"small": 0.6}, seen={"small": 0.5})
    predictor.unfamiliar = frozenset({"static"})
    glanced = predictor.glance(HELLO)
    assert predictor.speeds == {"static", "transformer"}
    assert (glanced.quality.tolist(), glanced.unfamiliar) == ([0.5], True)
    assert (len(predictor.glanced), len(predictor.asked)) == (1, 0)


def test_it_fails_when_told() -> None:
    predictor = FakePredictor({"small": 0.6})
    predictor.fails = RuntimeError("no")
    with pytest.raises(RuntimeError, match="no"):
        predictor.predict(HELLO)
    predictor.glance_fails = ValueError("neither")
    with pytest.raises(ValueError, match="neither"):
        predictor.glance(HELLO)
