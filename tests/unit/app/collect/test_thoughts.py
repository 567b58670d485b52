"""What of a reply is graded: what is said after thinking."""

import pytest

from app.collect.thoughts import spoken


@pytest.mark.parametrize(
    ("text", "said"),
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
def test_thoughts_before_an_answer_are_not_a_part_of_it(text: str, said: str) -> None:
    assert spoken(text) == said
