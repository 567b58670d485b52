"""Endpoints that answer without a model behind them, or with one held back, are told from weak models."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from app.collect.plan import Prompt
from app.collect.progress import Reply
from app.exam.faults import LEAST_ANSWERS, Fault, Sample, faults_in
from router_models.aptitude.families.family import words

ROOM = 200
OWN_ROOM = 16
WORDS = words("the model of a small town was built by two people in the year it burned down again because nobody paid")


def sample(
    answer: Callable[[int], str],
    finish_reason: Callable[[int], str] = lambda _: "stop",
    output_tokens: Callable[[int], int | None] = lambda _: 12,
    count: int = 40,
    failures: int = 0,
    attempts: int = 1,
    latency_s: float = 0.3,
    own: int = 0,
) -> Sample:
    """Answers of one model; the first `own` questions have the room that the known models had."""
    prompts = {
        f"p{n}": Prompt(f"p{n}", f"question {n}", "exact", "x", OWN_ROOM if n < own else ROOM) for n in range(count)
    }
    replies = [
        Reply(f"p{n}", "m", answer(n), finish_reason(n), 10, output_tokens(n), latency_s, None, attempts)
        for n in range(count)
    ]
    return Sample(prompts, replies, ["status 500: oh"] * failures, {f"p{n}" for n in range(own)})


def rambling(number: int) -> str:
    """What a weak model says: wrong, and of any length."""
    chance = Random(number)
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 30))) + "."


def terse(number: int) -> str:
    """Answers to multiple choice, always in one form."""
    return f"The answer is ({'ABCDEFGHIJ'[number % 10]})."


def sums(number: int) -> str:
    """Sixteen tokens of digits and signs."""
    return f"{number:02}+{number + 7:02}={2 * number + 7:03}, {number:03}+"


def cut_after(tokens: int | None) -> Callable[[int], int | None]:
    return lambda _: tokens


def fatal(faults: list[Fault]) -> list[str]:
    return [fault.name for fault in faults if fault.is_fatal]


@pytest.mark.parametrize("answer", [rambling, terse, lambda n: f"{n}", lambda n: ("yes", "no")[n % 2]])
def test_a_weak_or_terse_model_has_no_fault(answer: Callable[[int], str]) -> None:
    assert faults_in(sample(answer)) == []


@pytest.mark.parametrize(
    ("broken", "name", "sentence"),
    [
        (sample(lambda n: "A" if n % 3 else "B"), "constant", "answers 'A' to 26 of 40"),
        (sample(lambda n: "I'm sorry, but I can't." if n % 2 else rambling(n)), "refusing", "refuses 20 of 40"),
        (sample(lambda n: "As an AI, I am not able to." if n % 4 == 0 else rambling(n)), "refusing", "10 of 40"),
        (sample(lambda n: (rambling(n) * 9)[:37] + "x"), "truncating", "end after exactly 38 characters"),
        (sample(rambling, lambda _: "length"), "truncating", "before the room that was asked for"),
        (sample(rambling, lambda _: "length", lambda _: None), "truncating", "before the room"),
        (sample(lambda _: ""), "empty", "says nothing in 40 of 40"),
        (sample(lambda _: "", lambda _: "length", lambda _: ROOM), "empty", "more with --max-tokens"),
        (sample(lambda n: f"<think>\n{rambling(n)}", lambda _: "length", lambda _: ROOM), "empty", "with --max-tokens"),
        (sample(lambda n: f"<think>{n}</think>\n", lambda _: "length", lambda _: ROOM), "empty", "with --max-tokens"),
        (sample(lambda n: rambling(n) * 20, lambda _: "length", lambda _: ROOM), "long-winded", "--max-tokens"),
        (sample(rambling, failures=20), "failing", "20 of 60 requests got no answer, most often: status 500"),
    ],
)
def test_a_broken_endpoint_is_named(broken: Sample, name: str, sentence: str) -> None:
    faults = faults_in(broken)

    assert name in fatal(faults)
    assert any(sentence in fault.sentence for fault in faults)


def test_an_endpoint_without_an_answer_only_fails() -> None:
    assert [fault.name for fault in faults_in(sample(rambling, count=0, failures=40))] == ["failing"]


@pytest.mark.parametrize(
    ("peculiar", "name"),
    [
        (sample(rambling, output_tokens=lambda _: None), "no usage"),
        (sample(rambling, attempts=2), "reluctant"),
        (sample(rambling, latency_s=90.0), "slow"),
        (
            sample(lambda n: rambling(n) * 20, lambda n: "length" if n % 3 == 0 else "stop", lambda _: ROOM),
            "long-winded",
        ),
    ],
)
def test_a_peculiar_endpoint_is_named_and_may_go_on(peculiar: Sample, name: str) -> None:
    faults = faults_in(peculiar)

    assert name in [fault.name for fault in faults]
    assert fatal(faults) == []


@pytest.mark.parametrize("answer", [rambling, sums, lambda _: "Sure, I am happy to help you with that question. The"])
@pytest.mark.parametrize("tokens", [OWN_ROOM, None])
def test_who_runs_out_of_the_room_that_known_models_had_goes_on_without_advice(
    answer: Callable[[int], str], tokens: int | None
) -> None:
    spent = sample(lambda n: answer(n).ljust(OWN_ROOM, "."), lambda _: "length", cut_after(tokens), own=40)
    faults = [fault for fault in faults_in(spent) if fault.name != "no usage"]

    assert [(fault.name, fault.is_fatal) for fault in faults] == [("long-winded", False)]
    assert "40 of 40 answers did not end within the room that the known models had too" in faults[0].sentence
    assert "--max-tokens" not in faults[0].sentence


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (sample(rambling, lambda _: "length", lambda _: OWN_ROOM - 2, own=40), "truncating"),
        (sample(lambda n: rambling(n)[:9], lambda _: "length", lambda _: None, own=40), "truncating"),
        (sample(lambda n: (rambling(n) * 9)[:37] + "x", own=40), "truncating"),
        (sample(lambda n: f"<think>{rambling(n)}", lambda _: "length", lambda _: OWN_ROOM, own=40), "empty"),
        (sample(lambda _: "A", own=40), "constant"),
    ],
)
def test_a_small_room_hides_no_broken_endpoint(broken: Sample, name: str) -> None:
    assert name in fatal(faults_in(broken))


def test_questions_with_ample_room_are_judged_by_themselves() -> None:
    spent = sample(
        lambda n: rambling(n) * 20,
        lambda _: "length",
        lambda n: OWN_ROOM if n < 60 else ROOM,
        count=80,
        own=60,
    )

    assert fatal(faults_in(spent)) == ["long-winded"]
    assert [fault.sentence.split(" answers")[0] for fault in faults_in(spent)] == ["20 of 20", "60 of 60"]


def test_few_answers_are_no_evidence() -> None:
    assert faults_in(sample(lambda _: "A", count=LEAST_ANSWERS - 1)) == []
