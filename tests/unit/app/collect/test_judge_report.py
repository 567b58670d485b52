"""What is said of a judge is right: simulated judges whose errors are known."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from app.collect.graders import Graded
from app.collect.judge_report import Rate, Report, error_rate, rates, remarks, report_of, write_report
from tests.fakes.judge import MockJudge, judged, right_or_wrong, shown

COMPARISONS = 2000
# One of the two is right, in turn.
ANSWERS = {"ref": ["right", "wrong"] * (COMPARISONS // 2), "m": ["wrong", "right"] * (COMPARISONS // 2)}


def gold_of(answers: dict[str, list[str]]) -> Graded:
    return Graded(
        {(f"p{n}", model): float(text == "right") for model, texts in answers.items() for n, text in enumerate(texts)}
    )


def reported(folder: Path, judge: MockJudge, answers: dict[str, list[str]] | None = None, name: str = "j") -> Report:
    answers = answers or ANSWERS
    with judged(folder, answers, judge.verdict, judge=name) as judging:
        return report_of(judging, judging.rulings(), gold_of(answers))


def value(rate: Rate) -> float:
    assert rate.value is not None
    return rate.value


def holds(rate: Rate, truth: float) -> bool:
    assert rate.low is not None
    assert rate.high is not None
    return rate.low <= truth <= rate.high


@pytest.mark.parametrize("truth", [0.05, 0.15, 0.3])
def test_both_estimates_of_a_known_error_rate_are_right_within_three_points(tmp_path: Path, truth: float) -> None:
    report = reported(tmp_path, MockJudge(right_or_wrong, truth))

    assert report.gold is not None
    assert value(report.error_rate) == pytest.approx(truth, abs=0.03)
    assert value(report.gold.error_rate) == pytest.approx(truth, abs=0.03)
    assert (report.comparisons, report.verdicts, report.gold.comparisons) == (2000, 4000, 2000)
    assert value(report.first_position) == pytest.approx(0.5, abs=0.03)


def test_the_interval_of_the_error_rate_holds_it_nine_times_in_ten() -> None:
    random.seed(7)
    truth, held = 0.15, 0
    for _ in range(400):
        agreed = [(random.random() < truth) == (random.random() < truth) for _ in range(300)]
        mean = sum(agreed) / 300
        half = 1.645 * (mean * (1 - mean) / 300) ** 0.5
        held += holds(error_rate(Rate(mean, mean - half, mean + half, 300)), truth)

    assert 0.86 <= held / 400 <= 0.94


def test_with_a_preferred_position_the_estimate_is_what_the_formula_says_and_above_the_mean(tmp_path: Path) -> None:
    report = reported(tmp_path, MockJudge(right_or_wrong, error_rate=0.05, second_error_rate=0.45))

    assert report.gold is not None
    estimate, mean, half_gap = value(report.error_rate), 0.25, 0.2
    assert estimate * (1 - estimate) == pytest.approx(mean * (1 - mean) + half_gap**2, abs=0.015)
    assert estimate > mean + 0.04
    assert value(report.gold.error_rate) == pytest.approx(mean, abs=0.03)
    assert value(report.first_position) == pytest.approx(0.7, abs=0.03)
    assert any("prefers a position" in remark for remark in remarks(report))


def test_errors_repeated_in_both_orders_show_against_gold_only(tmp_path: Path) -> None:
    def stubborn(text: str) -> str:
        question, first, _ = shown(text)
        wrong_headed = random.Random(question).random() < 0.3
        return "A" if (first == "right") != wrong_headed else "B"

    with judged(tmp_path, ANSWERS, stubborn) as judging:
        report = report_of(judging, judging.rulings(), gold_of(ANSWERS))

    assert report.gold is not None
    assert value(report.error_rate) == 0
    assert value(report.gold.error_rate) == pytest.approx(0.3, abs=0.03)
    assert any("repeats errors in both orders" in remark for remark in remarks(report))


def test_a_judge_that_always_says_a_is_called_a_coin(tmp_path: Path) -> None:
    report = reported(tmp_path, MockJudge(right_or_wrong, error_rate=0.0, second_error_rate=1.0))

    assert value(report.first_position) == 1
    assert value(report.error_rate) == 0.5
    assert any("j cannot be told from a coin against gold and by its" in remark for remark in remarks(report))


def test_ties_and_unreadable_verdicts_are_counted_and_decide_nothing(tmp_path: Path) -> None:
    answers = {"ref": ["right"] * 3, "m": ["wrong", "wrong", "right"]}
    with judged(tmp_path, answers, lambda text: "TIE" if "question 0" in text else "well, well") as judging:
        report = report_of(judging, judging.rulings(), gold_of(answers))

    assert (report.comparisons, report.alike, report.verdicts, report.ties, report.unreadable) == (2, 1, 4, 2, 2)
    assert value(report.agreement) == 1
    assert report.error_rate == Rate(None, None, None, 0)
    assert report.gold is not None
    assert (report.gold.comparisons, report.gold.undecided) == (1, 1)
    assert report.gold.agreement.value is None


def test_requests_without_an_answer_are_counted(tmp_path: Path) -> None:
    with judged(tmp_path, ANSWERS, say=None) as judging:
        report = report_of(judging, judging.rulings(), gold_of(ANSWERS))

    assert (report.verdicts, report.unanswered, report.gold) == (0, 4000, None)


def test_a_liking_for_length_shows(tmp_path: Path) -> None:
    answers = {"ref": ["right"] * 100, "m": ["quite another answer"] * 100}
    with judged(tmp_path, answers, lambda text: "A" if len(shown(text)[1]) > len(shown(text)[2]) else "B") as judging:
        report = report_of(judging, judging.rulings(), gold_of(answers))

    assert value(report.longer) == 1
    assert value(report.first_position) == 0.5


def test_bias_is_what_a_model_gets_above_what_gold_implies(tmp_path: Path) -> None:
    answers = {"ref": ["right", "wrong"] * 50, "liked": ["wrong", "liked"] * 50, "fair": ["right", "right"] * 50}

    def fond(text: str) -> str:
        _, first, second = shown(text)
        if "liked" in (first, second):
            return "A" if first == "liked" else "B"
        return MockJudge(right_or_wrong).verdict(text)

    with judged(tmp_path, answers, fond) as judging:
        report = report_of(judging, judging.rulings(), gold_of(answers))

    assert report.gold is not None
    liked, fair = report.gold.bias
    # Half of its answers lose; the other half is as wrong as the reference's and wins all the same.
    assert (liked.model, liked.judged, liked.gold, liked.bias.value) == ("liked", 0.5, 0.25, 0.25)
    assert (fair.judged, fair.gold, fair.bias.value, fair.bias.of) == (0.75, 0.75, 0.0, 100)


def test_without_gold_nothing_is_said_of_it(tmp_path: Path) -> None:
    with judged(tmp_path, ANSWERS, MockJudge(right_or_wrong).verdict) as judging:
        report = report_of(judging, judging.rulings(), Graded())

    assert report.gold is None
    assert all("gold" not in name for name, _ in rates(report))


def test_a_judge_among_the_judged_is_said(tmp_path: Path) -> None:
    report = reported(tmp_path, MockJudge(right_or_wrong), name="m")

    assert report.judges_itself
    assert remarks(report)[-1] == "m is one of the models it judges; a model tends to prefer its own answers."


def test_the_report_is_written_as_json(tmp_path: Path) -> None:
    report = reported(tmp_path, MockJudge(right_or_wrong, 0.1), {"ref": ["right"] * 9, "m": ["wrong"] * 9})

    write_report(tmp_path, report)

    assert json.loads((tmp_path / "judge.json").read_text()) == json.loads(json.dumps(asdict(report)))


def test_the_mock_judge_errs_as_often_as_it_is_told(tmp_path: Path) -> None:
    mock = MockJudge(right_or_wrong, error_rate=0.0, second_error_rate=0.4)
    reported(tmp_path, mock)
    erred_on = [shown(text)[1:] for text, erred in mock.errors.items() if erred]

    assert len(mock.errors) == 4000
    assert set(erred_on) == {("wrong", "right")}
    assert len(erred_on) / 2000 == pytest.approx(0.4, abs=0.03)
