"""What of a reply is graded: what is said after thinking."""

from typing import Any

import pytest

from app.collect.thoughts import said, spoken


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("4", "4"),
        ("", ""),
        ("<think>5? No.</think>\n4", "\n4"),
        ("\n<think>\n5?\nNo.\n</think>4", "4"),
        ("5? No.\n</think>\n\n4", "\n\n4"),
        ("<think>5?</think>4 </think> 6", "4 </think> 6"),
        ("<think>it must be 5", ""),
        ("Write <think> first, then </think>.", "Write <think> first, then </think>."),
        ("Write <think> first.", "Write <think> first."),
    ],
)
def test_thoughts_before_an_answer_are_not_a_part_of_it(text: str, answer: str) -> None:
    assert spoken(text) == answer


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "5? No."}]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("4", "4"),
        (None, ""),
        ([], None),
        ([THOUGHT, {"type": "text", "text": "4"}], "4"),
        ([{"type": "text", "text": "It is "}, THOUGHT, {"type": "text", "text": "4."}], "It is 4."),
        ([THOUGHT], ""),
        ([{"type": "reasoning", "text": "5? No."}, {"type": "output_text", "text": "4"}], "4"),
        ([{"text": "4"}], "4"),
        ([{"type": "refusal", "refusal": "No."}], None),
        ([{"type": "text", "text": "4"}, {"type": "image_url"}], None),
        ([{"type": "text", "text": None}], None),
        (["4"], None),
        ({"type": "text", "text": "4"}, None),
        (4, None),
    ],
)
def test_of_an_answer_in_parts_those_that_are_no_thought_are_said(content: Any, text: str | None) -> None:
    assert said(content) == text
