"""What a backend is sent: the caller's body, fitted to the model that gets it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.domain.models import Backend, Catalog
from app.domain.request import Operation, Request
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.telemetry.metrics import Metrics
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.replicas import Replicas
from app.upstream.forwarding import body_for
from tests.fakes.world import model, request

# Its context has 4,096 tokens.
SMALL = model("small", backend="vllm")


def replica(**more: Any) -> Replica:
    backend = Backend(name="vllm", kind="vllm", urls=("http://127.0.0.1:9000",), **more)
    telemetry = Telemetry(Metrics(["small"], ["default"], ["vllm"]), EventLog(io.StringIO()))
    return Replicas(Catalog((SMALL,), (backend,)), time.monotonic, telemetry).of("vllm")[0]


def sent(asked: Request, rename: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(body_for(asked, replica(rename=rename or {}), SMALL))
    return body


def limited(max_tokens: int, **more: Any) -> Request:
    asked = request(max_tokens=max_tokens, **more)
    return replace(asked, body={**asked.body, "max_tokens": max_tokens})


@pytest.mark.parametrize(
    ("input_tokens", "cap", "max_tokens"),
    [
        (12, 8_192, 4_096 - 2 * 12 - 256),
        (12, 3_000, 3_000),
        (3_000, 8_192, (4_096 - 3_000) // 2),
        (4_096, 8_192, 4_096 // 64),
        (5_000, 8_192, 4_096 // 64),
    ],
)
def test_a_cap_is_lowered_to_what_the_models_context_has_room_for(input_tokens: int, cap: int, max_tokens: int) -> None:
    asked = limited(cap, input_tokens=input_tokens, is_capped=True)
    assert sent(asked)["max_tokens"] == max_tokens
    assert asked.body["max_tokens"] == cap, "another model may have more room"


def test_what_a_body_asks_for_is_sent_as_it_is() -> None:
    assert sent(limited(8_192, input_tokens=12))["max_tokens"] == 8_192


def test_of_several_prompts_the_longest_takes_the_room() -> None:
    asked = limited(8_192, input_tokens=3_000, longest_prompt_tokens=100, is_capped=True)
    assert sent(asked)["max_tokens"] == 4_096 - 2 * 100 - 256


def test_no_more_than_the_room_is_demanded() -> None:
    asked = limited(8_192, input_tokens=12, is_capped=True)
    asked = replace(asked, body={**asked.body, "min_tokens": 8_000})
    assert sent(asked)["min_tokens"] == 4_096 - 2 * 12 - 256


def test_a_limit_that_a_budget_sets_is_lowered_too_but_for_one_that_was_asked_for() -> None:
    assert sent(request(input_tokens=12).limited_to(8_192))["max_tokens"] == 4_096 - 2 * 12 - 256
    assert sent(limited(9_000, input_tokens=12).limited_to(8_192))["max_tokens"] == 8_192


@pytest.mark.parametrize(
    ("operation", "prompt", "name"),
    [
        ("chat", {"messages": []}, "max_completion_tokens"),
        ("completion", {"prompt": "1"}, "max_tokens"),
    ],
)
def test_a_name_that_only_chats_know_is_given_to_fields_of_chats_only(
    operation: Operation, prompt: dict[str, Any], name: str
) -> None:
    body = {**prompt, "max_tokens": 7, "temperature": 0}
    asked = replace(request(), operation=operation, body=body)
    told = sent(asked, {"max_tokens": "max_completion_tokens", "temperature": None})
    assert told == {**prompt, "model": SMALL.served_as, "stream": False, name: 7}
