"""Answers to anchors are graded by the rule of the set that they are from."""

from __future__ import annotations

import pytest

from router_models.aptitude import GraderError, grade_anchor


@pytest.mark.parametrize(
    ("pool", "grader", "reference", "text", "score"),
    [
        ("mmlu_pro", "choice", "C", "Power is current times voltage. The answer is (C).", 1),
        ("mmlu_pro", "choice", "C", "The answer is C. Not (D).", 1),
        ("mmlu_pro", "choice", "C", "Answer: C", 1),
        ("mmlu_pro", "choice", "C", "It could be B, yet I choose C", 1),
        ("mmlu_pro", "choice", "C", "The answer is (D), though C is near", 0),
        ("mmlu_pro", "choice", "C", "", 0),
        ("llmrouter_nim9", "choice", "A", "(B) is wrong, hence (A)", 1),
        ("llmrouter_nim9", "choice", "A", "(a)", 1),
        ("llmrouter_nim9", "choice", "A", "A", 0),
        ("llmrouter_nim9", "number", "1080", "5 * 8 = 40 seats; they pay $1,080.00", 1),
        ("llmrouter_nim9", "number", "1080", "1080, not 1081", 0),
        ("llmrouter_nim9", "number", "-3", "so x = -3.", 1),
        ("llmrouter_nim9", "number", "3", "none", 0),
        ("zeroeval", "exact", "'ZN KGD'", '{"reasoning": "upper", "answer": "ZN KGD"}', 1),
        ("zeroeval", "exact", "'ZN KGD'", '```json\n{"reasoning": "a \\"b\\"", "answer": "\'ZN KGD\'"}\n```', 1),
        ("zeroeval", "exact", "[1, 2]", '{"answer": "[1, 2]"}', 1),
        ("zeroeval", "exact", "4", '{"answer": 4}', 1),
        ("zeroeval", "exact", "'ZN KGD'", "ZN KGD", 0),
        ("zeroeval", "number", "12", '{"reasoning": "7 + 5", "answer": "12 apples"}', 1),
        ("zeroeval", "number", "12", '{"reasoning": "12", "answer": "13"}', 0),
    ],
)
def test_the_rule_of_its_set_decides(pool: str, grader: str, reference: str, text: str, score: float) -> None:
    assert grade_anchor(pool, grader, reference, text) == score


def test_a_long_answer_is_read_to_its_end() -> None:
    assert grade_anchor("mmlu_pro", "choice", "A", "thinking " * 5_000 + "The answer is (A).") == 1


def test_other_sets_are_graded_by_our_own_graders() -> None:
    assert grade_anchor("mine", "exact", "Paris", "paris.") == 1
    with pytest.raises(GraderError, match="unknown grader"):
        grade_anchor("mine", "math", "1", "1")
