"""Templates around questions: that the question comes out bare, and that a plain text comes out whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.reading.boilerplate import EDGE_CHARS, split_question

JSON_TEMPLATE = """
## Question:

What is 3 + 4?


## Instruction

Please answer this question by first reasoning and then providing your answer.
Present your reasoning and solution in the following json format.

```json
{"reasoning": "___", "answer": "___"}
```
"""

FIVE_SHOT = """The following are multiple choice questions (with answers) about physics.

Question:
What pulls an apple down?
Options:
A. gravity
B. wind
Answer: Let's think step by step. It falls in still air.

So it is gravity. The answer is (A).

Question:
What turns a compass?
Options:
A. wind
B. magnetism
Answer: Let's think step by step."""

HEADLESS = """The following are multiple choice questions (with answers) about law.

Who makes law?
A. parliament
B. a shop
Answer: A

Who judges?
A. a court
B. a shop
Answer:"""

JUDGE = """Is the answer right?

Question: What is the capital of Australia?
Answer: It is Sydney, the largest city of the country."""

PROGRAMMING = """Given a list of numbers, return the two that add up to a target.

Input: [2, 7, 11], 9
Output: [0, 1]"""

PASSAGES = """Answer yes or no.

Passage: Cats sleep all day.
Question: Do cats sleep?
Answer: yes

Passage: Dogs eat meat.
Question: Do dogs eat hay?
Answer:"""

CODE = "Fix this:\n```python\ndef f(a):\n    return a[0]\n```\nIt fails for an empty list."


@pytest.mark.parametrize(
    ("text", "instruction", "question"),
    [
        ("Answer with one word.\n\n    Question: Who wrote Emma?\n  ", "Answer with one word.", "Who wrote Emma?"),
        ("**Question 3:** Who wrote Emma?\n**Answer:**", "", "Who wrote Emma?"),
        ("Q: 2+2?\nA: 4\n\nQ: 3*5?\nA:", "", "3*5?"),
        ("Translate.\n\nInput: oui\nOutput: yes\n\nInput: non\nOutput:", "Translate.", "non"),
        ("Problem:\nFind x.\n\nSolution:\nx = 1\n\nProblem:\nFind y.\n\nSolution:", "", "Find y."),
        (PASSAGES, "Answer yes or no.", "Passage: Dogs eat meat.\n Do dogs eat hay?"),
        (
            FIVE_SHOT,
            "The following are multiple choice questions (with answers) about physics.",
            "What turns a compass?\nA. wind\nB. magnetism",
        ),
        (
            HEADLESS,
            "The following are multiple choice questions (with answers) about law.",
            "Who judges?\nA. a court\nB. a shop",
        ),
        (
            "## Instructions:\nBe brief.\n\n## Question:\nWho?\n\n## Response:",
            "## Instructions:\nBe brief.",
            "Who?",
        ),
    ],
)
def test_the_question_comes_out_of_its_template(text: str, instruction: str, question: str) -> None:
    assert split_question(text) == (instruction, question)


def test_a_section_below_the_question_is_the_instruction_where_none_stands_above() -> None:
    instruction, question = split_question(JSON_TEMPLATE)

    assert question == "What is 3 + 4?"
    assert instruction.startswith("Please answer this question by first reasoning")


def test_instructions_below_the_input_are_what_is_asked() -> None:
    passage = "Revenue grew by four percent. " * 40
    for asked in ("Prove that there are infinitely many primes.", "Translate it to French."):
        text = f"You are careful.\n\n## Input\n{passage}\n\n## Instructions\n{asked}\n\n## Response\n"
        instruction, question = split_question(text)
        assert instruction == ""
        assert question.endswith(asked)
        assert "Revenue" in question


def test_instructions_above_and_below_a_question_stay_together() -> None:
    below = "Question: What is 2 + 2?\n\nInstructions: Say it in French.\n\nAnswer format: one word\n"
    assert split_question(f"Be brief.\n\n{below}") == ("Be brief.\nSay it in French.", "What is 2 + 2?")


def test_questions_in_a_row_are_asked_together() -> None:
    instruction, question = split_question("Be brief.\nQuestion 1: Who?\nQuestion 2: When?")

    assert instruction == "Be brief."
    assert "Who?" in question
    assert "When?" in question


def test_a_long_passage_above_a_question_stays_with_it() -> None:
    instruction, question = split_question("Five friends sit in a row. " * 30 + "\nQuestion: Who sits left?")

    assert instruction == ""
    assert question.startswith("Five friends")
    assert question.endswith("Who sits left?")


@pytest.mark.parametrize("text", [JUDGE, PROGRAMMING, CODE, "Hello!", "a: 1\nb: 2", "Which?\nA: one\nB: two\nC: three"])
def test_a_text_without_an_open_question_comes_out_whole(text: str) -> None:
    assert split_question(text) == ("", text)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Find x.\nPlease reason step by step, and put your final answer within \\boxed{}.", "Find x."),
        ("Let's think step by step. Find x.", "Find x."),
        ("Find x. Let's think step by step.", "Find x."),
        ("Compute the area of the field and put your final answer in metres.", "Compute the area of the field and"),
        ("Sort it.\nYour final solution in the following format: ```python\n\n```", "Sort it."),
        ("Sort it. Use the following JSON format.\n```json\n{}\n```\nIt is long.", "Sort it. It is long."),
        ("You are an expert programmer, and here is your task: Sort it.", "Sort it."),
        ("Answer the following question: Why is it so?", "Why is it so?"),
        ("Find x.\nAnswer:", "Find x."),
        ("Summary: it rains.\n\nWill it stop?\nAnswer:", "Summary: it rains. Will it stop?"),
        ("Write a step-by-step guide. The final answer matters.", None),
        ("\\boxed{}", None),
        ("İ put your final answer", None),
    ],
)
def test_sentences_about_the_form_go_and_the_question_stays(text: str, question: str | None) -> None:
    assert " ".join(split_question(text)[1].split()) == (text if question is None else question)


FRAGMENTS = ["\n", "Q:", "A:", "Input:", "Answer: ", "## ", "\\boxed{}", ". ", "x", " ", "```", "following json format"]


@given(st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_no_text_loses_its_question_altogether(text: str) -> None:
    assert bool(split_question(text)[1]) == bool(text)


@given(st.text(min_size=1, max_size=50), st.integers(1, 5_000))
def test_both_parts_are_bounded(text: str, times: int) -> None:
    instruction, question = split_question(text * times)

    assert len(question) <= 2 * EDGE_CHARS + 1
    assert len(instruction) <= 6_002
