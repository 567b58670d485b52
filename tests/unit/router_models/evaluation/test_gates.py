"""Gates on reports whose figures are just inside, just outside, or missing."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from router_models.evaluation.gates import FAILED, NOT_MEASURED, PASSED, failed, gates
from router_models.evaluation.robustness import TYPOS

GOOD: dict[str, Any] = {
    "sets": {
        "small": {
            "prompts": 213,
            "prompts_with_a_choice": 213,
            "quality_minus_best_single": [-0.03, -0.004, 0.02],
            "abstained": 0.10,
            "ece": 0.03,
            "robustness": {TYPOS: {"unchanged_by_quality": 0.96, "prompts": 213}},
        }
    },
    "pooled": {
        "prompts": 213,
        "prompts_with_a_choice": 213,
        "quality_minus_best_single": [-0.004, 0.01, 0.02],
        "daiq": [0.001, 0.01, 0.02],
    },
    "latency_ms": {"p99": 30.0, "cpu_p99": 9.9},
}


def verdicts(report: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(gate.name, gate.about): gate.verdict for gate in gates(report)}


def changed(*path: str, value: object) -> dict[str, Any]:
    report = copy.deepcopy(GOOD)
    inner = report
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return report


def test_a_report_inside_all_bounds_passes_and_held_out_tasks_stay_unmeasured() -> None:
    found = verdicts(GOOD)

    assert [verdict for verdict in found.values() if verdict != PASSED] == [NOT_MEASURED]
    assert found["quality on held-out tasks minus default model", "held-out tasks"] == NOT_MEASURED
    assert not failed(gates(GOOD))


@pytest.mark.parametrize(
    ("path", "value", "gate"),
    [
        (("sets", "small", "quality_minus_best_single"), [-0.02, -0.006, 0.02], "quality minus best single model"),
        (("sets", "small", "abstained"), 0.11, "share of prompts abstained on"),
        (("sets", "small", "ece"), 0.031, "expected calibration error"),
        (
            ("sets", "small", "robustness"),
            {TYPOS: {"unchanged_by_quality": 0.94, "prompts": 9}},
            "decisions changed by 5 % typos",
        ),
        (
            ("pooled", "quality_minus_best_single"),
            [-0.006, 0.01, 0.02],
            "quality minus best single model, lower bound",
        ),
        (("pooled", "daiq"), [-0.001, 0.01, 0.02], "AIQ minus the Zero router's, lower bound"),
        (("pooled", "daiq"), [0.0, 0.0, 0.0], "AIQ minus the Zero router's, lower bound"),
        (("latency_ms", "cpu_p99"), 10.1, "p99 of one prediction in ms of one core"),
    ],
)
def test_one_figure_outside_its_bound_fails_its_gate_and_no_other(
    path: tuple[str, ...], value: object, gate: str
) -> None:
    report = changed(*path, value=value)

    assert [name for (name, _), verdict in verdicts(report).items() if verdict == FAILED] == [gate]
    assert failed(gates(report))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sets", "small", "quality_minus_best_single"), [-0.02, 0.7 - 0.705, 0.02]),
        (("sets", "small", "abstained"), 0.3 - 0.2 + 1e-16),
        (("sets", "small", "ece"), 0.1 + 0.2 - 0.27),
        (("sets", "small", "robustness"), {TYPOS: {"unchanged_by_quality": 76 / 80, "prompts": 80}}),
        (("pooled", "quality_minus_best_single"), [0.7 - 0.705, 0.01, 0.02]),
        (("latency_ms", "cpu_p99"), 10.000000000000002),
    ],
)
def test_a_figure_at_its_bound_passes_also_where_arithmetic_left_it_beside(
    path: tuple[str, ...], value: object
) -> None:
    assert FAILED not in verdicts(changed(*path, value=value)).values()


CHOICES = {
    ("quality minus best single model", "small"),
    ("decisions changed by 5 % typos", "small"),
    ("quality minus best single model, lower bound", "pooled"),
    ("AIQ minus the Zero router's, lower bound", "pooled"),
}


@pytest.mark.parametrize(("several", "unmeasured"), [(106, CHOICES), (107, set())])
def test_where_most_prompts_were_sent_to_one_model_no_gate_on_choices_is_passed(
    several: int, unmeasured: set[tuple[str, str]]
) -> None:
    report = copy.deepcopy(GOOD)
    for figures in (report["sets"]["small"], report["pooled"]):
        figures["prompts_with_a_choice"] = several

    missing = {gate for gate, verdict in verdicts(report).items() if verdict == NOT_MEASURED}
    assert missing - {("quality on held-out tasks minus default model", "held-out tasks")} == unmeasured
    notes = [gate.note for gate in gates(report) if (gate.name, gate.about) in unmeasured]
    assert all(note.startswith("only 106 of 213 prompts have outcomes of two models") for note in notes)


def test_prompts_it_was_trained_on_fail_the_gates_though_all_figures_are_good() -> None:
    report = changed("sets", "small", value=GOOD["sets"]["small"] | {"trained_on_these_prompts": True, "prompts": 213})

    assert [name for (name, _), verdict in verdicts(report).items() if verdict == FAILED] == [
        "prompts it was trained on"
    ]
    assert failed(gates(report))


def test_without_costs_the_area_is_not_measured_and_not_passed() -> None:
    report = changed("pooled", "daiq", value=None)

    assert verdicts(report)["AIQ minus the Zero router's, lower bound", "pooled"] == NOT_MEASURED
    assert not failed(gates(report))


def test_a_gate_says_its_interval_and_bound() -> None:
    gate = gates(GOOD)[0].as_dict()

    assert gate["note"] == "-0.0040 [-0.0300, +0.0200]"
    assert (gate["bound"], gate["at_least"], gate["verdict"]) == (-0.005, True, PASSED)
