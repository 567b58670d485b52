"""Real answers in which something is odd, each through a whole gateway: none of them is a bug of ours, or stays."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any

import pytest

from app.api.bodies.parsing import parse_chat, parse_completion, parse_embeddings, parse_responses
from app.domain.request import Request
from app.errors import GatewayError
from app.upstream.answers.base_answer import Answer
from tests.fakes.backend import Script
from tests.fakes.gateway import Bench, bench, client_of
from tests.fakes.odd_answers import OddBackend
from tests.fakes.paper import Paper
from tests.fakes.world import catalog, model
from tests.integration.app.test_odd_numbers import CALL, KEY

pytestmark = [pytest.mark.slow, pytest.mark.timing]

OWN = "org/own-name"
SCRIPTS = (Script(), Script(tool_call={"name": "look", "arguments": '{"a": 1}'}), Script(reasoning=("Hm", ".")))
CODES = {"bad_upstream", "upstream_disconnected", "no_backend"}


def asked() -> list[Request]:
    """One of each kind, with the record of its decision and without."""
    chat = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    bodies: list[Request] = []
    for more in ({}, {"routing": {"explain": True}}):
        for stream in (False, True):
            told = {"stream": stream, **more}
            bodies += [
                parse_chat({**chat, "logprobs": True, **told}, CALL),
                parse_completion({"model": "small", "prompt": "hi", "max_tokens": 10, **told}, CALL),
                parse_responses({"model": "small", "input": "hi", **told}, CALL),
            ]
        bodies.append(parse_embeddings({"model": "small", "input": ["hi", "ho"], **more}, CALL))
    return bodies


async def sent(answer: Answer, number: int) -> bytes:
    """What the caller gets, in one of the ways in which it is passed on."""
    if not answer.form.stream:
        return await answer.whole()
    if number % 2:
        return b"".join([piece async for piece in answer])
    paper = Paper()
    await answer.relay(paper)
    return paper.written


class Fields(dict[str, Any]):
    """An object that knows what it says twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs

    def all(self, name: str) -> list[Any]:
        return [value for each, value in self.pairs if each == name]


def refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_strictly(data: bytes) -> Fields:
    """JSON as callers read it; whichever field they read, the model has its public name."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)  # not all callers are written in Python
    try:
        parsed: Fields = json.loads(data, parse_constant=refuse, object_pairs_hook=Fields)
    finally:
        sys.setrecursionlimit(limit)
    for one in (parsed, *parsed.all("response")):
        assert not isinstance(one, Fields) or set(one.all("model")) <= {"small"}
    return parsed


def check(request: Request, answer: Answer, body: bytes) -> None:
    """What a caller got has the form of an answer, or of a begun answer with one error at its end."""
    if not request.stream:
        assert read_strictly(body)["model"] == "small"
        return
    data = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    events = [read_strictly(one) for one in data if one != b"[DONE]"]
    errors = [event["error"]["code"] for event in events if event.get("error")]
    if answer.error:
        assert errors == [answer.error.code]
        assert "error" in events[-1]
        return
    assert (errors, answer.complete) == ([], True)
    assert data[-1] == b"[DONE]" or events[-1]["type"] in ("response.completed", "response.incomplete")


async def ask(world: Bench, request: Request, number: int) -> str:
    """How it ended."""
    try:
        served = await world.gateway.complete(request, KEY)
    except GatewayError as exc:
        return exc.code
    try:
        served.headers()
        body = await sent(served.answer, number)
    except GatewayError as exc:
        return exc.code
    finally:
        served.answer.close()
    check(request, served.answer, body)
    return served.answer.error.code if served.answer.error else "ok"


@pytest.mark.parametrize("changes", [1, 3])
async def test_odd_answers_are_passed_on_or_told_as_the_backends_failure(
    full_size: bool, changes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds, outcomes, began_at = 500 if full_size else 40, Counter[str](), time.process_time()
    async with OddBackend(changes, SCRIPTS, changes) as backend:
        the_catalog = catalog(model("small", backend="small", served_as=OWN), urls={"small": (backend.url,)})
        async with client_of(the_catalog) as client:
            world = bench(the_catalog, client)
            for number in range(rounds):
                for request in asked():
                    try:
                        outcomes[await ask(world, request, number)] += 1
                    except Exception as exc:
                        exc.add_note(f"{request.operation} {request.stream} {backend.last[:3000]!r}")
                        raise
                    assert world.in_flight == (0, 0, 0)
            total = sum(outcomes.values())
            assert backend.calls >= total, "each was asked for"
    told = {"test": "odd answers", "changes": changes, **outcomes, "cpu_s": round(time.process_time() - began_at, 1)}
    with capsys.disabled():
        print(json.dumps(told))
    assert set(outcomes) <= {"ok", *CODES}
    assert len(world.completed) == total
    assert [world.events(name) for name in ("answer.unread", "request.untold")] == [[], []]
    assert outcomes["ok"] > total / 4
    assert outcomes["bad_upstream"] > 0
