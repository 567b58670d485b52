"""Odd answers: the same ones for a seed, each odd in as many places as was asked for."""

from __future__ import annotations

import json

import pytest

from tests.fakes.backend import Received, Script, whole_answer
from tests.fakes.odd_answers import OddBackend

PLAIN = Received("POST", "/v1/chat/completions", {}, {"model": "small"})
STREAMED = Received("POST", "/v1/chat/completions", {}, {"model": "small", "stream": True})


def answers(seed: int, request: Received, changes: int = 1) -> list[bytes]:
    backend, found = OddBackend(seed, (Script(),), changes), []
    for _ in range(50):
        backend.script_for(request)
        found.append(backend.last)
    return found


@pytest.mark.parametrize("request_", [PLAIN, STREAMED])
def test_a_seed_stands_for_its_answers(request_: Received) -> None:
    assert answers(1, request_) == answers(1, request_) != answers(2, request_)


def test_without_changes_an_answer_is_the_backends_own() -> None:
    assert [json.loads(body) for body in answers(1, PLAIN, 0)] == [whole_answer(Script(), PLAIN)] * 50


def test_nearly_all_answers_are_odd() -> None:
    sound = json.dumps(whole_answer(Script(), PLAIN), separators=(",", ":")).encode()
    assert sum(body != sound for body in answers(1, PLAIN)) > 45
