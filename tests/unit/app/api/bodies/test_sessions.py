"""Which session a call belongs to, and whether it is in the middle of a tool call."""

from __future__ import annotations

from typing import Any

import pytest

from app.api.bodies.parsing import parse_chat, parse_completion, parse_responses
from app.domain.request import Request
from tests.fakes.call import FakeCall

CALL = {"id": "c-1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
OTHER = {**CALL, "id": "c-2"}
USER, DONE = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "it rains"}


def calls(*which: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(which)}


def answer(call: dict[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call["id"], "content": "rain"}


def chat(*messages: dict[str, Any], headers: dict[str, str] | None = None, **fields: Any) -> Request:
    body = {"model": "auto", "messages": list(messages) or [dict(USER)], **fields}
    return parse_chat(body, FakeCall(headers=headers or {}))


@pytest.mark.parametrize(
    ("fields", "headers", "expected"),
    [
        ({"routing": {"session_id": "a"}}, {"x-thalamus-session-id": "b"}, "a"),
        ({"prompt_cache_key": "e"}, {"x-thalamus-session-id": "b", "x-session-id": "c"}, "b"),
        ({"prompt_cache_key": "e"}, {"x-session-id": "c", "x-session-affinity": "d"}, "c"),
        ({"prompt_cache_key": "e"}, {"x-session-affinity": "d"}, "d"),
        ({"prompt_cache_key": ""}, {"x-session-id": ""}, None),
        ({"user": "ann", "safety_identifier": "ann"}, {}, None),
    ],
)
def test_the_most_explicit_name_of_a_session_counts(
    fields: dict[str, Any], headers: dict[str, str], expected: str | None
) -> None:
    request = chat(headers=headers, **fields)
    assert request.session_id == expected
    assert request.body.keys() == {"messages"}, "no name of a session is sent to a backend"


def test_conversations_under_one_prompt_cache_key_are_sessions_of_their_own() -> None:
    begun, grown = (
        chat(dict(USER), prompt_cache_key="e"),
        chat(dict(USER), dict(DONE), dict(USER), prompt_cache_key="e"),
    )
    assert begun.session_id == grown.session_id != chat({**USER, "content": "ho"}, prompt_cache_key="e").session_id
    assert begun.session_id != chat(dict(USER), prompt_cache_key="f").session_id
    assert begun.body.keys() == {"messages"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER], False),
        ([USER, calls(CALL)], True),
        ([USER, calls(CALL), answer(CALL)], True),
        ([USER, calls(CALL, OTHER), answer(CALL), USER], True),
        ([USER, calls(CALL), answer(CALL), USER], False),
        ([USER, calls(CALL), answer(CALL), DONE, USER], False),
        ([USER, calls(CALL), DONE, USER], False),
    ],
)
def test_a_tool_call_of_a_chat_is_open_until_the_model_has_answered_to_all(
    messages: list[dict[str, Any]], expected: bool
) -> None:
    assert chat(*messages, prompt_cache_key="s").in_tool_call == expected
    assert not chat(*messages).in_tool_call, "nobody looks where there is no session"


ITEM = {"type": "function_call", "call_id": "c-1", "name": "look_up", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c-1", "output": "rain"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hi", False),
        ([USER], False),
        ([USER, ITEM], True),
        ([USER, ITEM, OUTPUT], True),
        ([USER, ITEM, USER], True),
        ([USER, ITEM, OUTPUT, DONE, USER], False),
    ],
)
def test_a_tool_call_of_a_response_is_open_until_the_model_has_answered_to_all(given: Any, expected: bool) -> None:
    body = {"model": "auto", "input": given, "prompt_cache_key": "s"}
    request = parse_responses(body, FakeCall())
    assert request.in_tool_call == expected
    assert str(request.session_id).startswith("s ")


def test_a_text_completion_has_no_tools() -> None:
    request = parse_completion({"model": "auto", "prompt": "hi"}, FakeCall(headers={"x-session-id": "s"}))
    assert (request.session_id, request.in_tool_call) == ("s", False)
