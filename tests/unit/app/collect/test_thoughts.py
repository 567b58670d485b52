"""What of a reply is graded: what is said after thinking."""

from typing import Any

import pytest

from app.collect.thoughts import NoText, answered, said, spoken


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
        ([{"type": "refusal", "refusal": "No."}], "No."),
        ([{"type": "text", "text": None}], None),
        (["4"], None),
        ({"type": "text", "text": "4"}, None),
        (4, None),
    ],
)
def test_of_an_answer_in_parts_those_that_are_no_thought_are_said(content: Any, text: str | None) -> None:
    assert said(content) == text


@pytest.mark.parametrize("kind", ["image_url", "audio", "x" * 1000])
def test_a_part_that_is_no_text_is_named(kind: str) -> None:
    with pytest.raises(NoText, match=f"a part that is no text, of type '{kind[:40]}'"):
        said([{"type": "text", "text": "4"}, {"type": kind}])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "4", "refusal": "No.", "tool_calls": [{}]}, "4"),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": "", "refusal": "No."}, "No."),
        ({"content": None, "refusal": None, "tool_calls": []}, ""),
        ({"content": [THOUGHT], "refusal": 5}, ""),
        ({"content": 4, "refusal": "No."}, None),
        ({}, ""),
    ],
)
def test_a_refusal_is_what_is_said_where_nothing_else_is(message: dict[str, Any], text: str | None) -> None:
    assert answered(message) == text


@pytest.mark.parametrize(
    "calls", [{"tool_calls": [{}]}, {"function_call": {}, "tool_calls": [{}]}, {"function_call": {"name": "f"}}]
)
def test_a_call_of_a_tool_is_no_text(calls: dict[str, Any]) -> None:
    with pytest.raises(NoText, match="calls a tool and says nothing"):
        answered({"content": None, **calls})
