"""From a body to a request: what decides, what is forwarded, and who had a say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.access import Access
from app.api.bodies.messages import MESSAGES_SCHEMA
from app.api.bodies.parameters import MAX_TOKENS
from app.api.bodies.parsing import parse_chat, parse_completion, parse_responses
from app.domain.preferences import Profile
from app.domain.request import Preferences, Request
from app.errors import CallerError, InvalidRequest, NotAllowed, UnknownModel
from app.store.keys.key import Key
from tests.fakes.call import FREE, FakeCall
from tests.fakes.world import catalog, model

CATALOG = catalog(model("small"), model("large"), model("org/other"))
PROFILES = {
    "default": Profile(),
    "cheap": Profile(Preferences(weights={"cost": 0.5, "latency": 0.1})),
    "careful": Profile(Preferences(max_quality_loss=0.01)),
    "private": Profile(Preferences(limits={"min_security": 2.0})),
}


def call(key: Key = FREE, headers: Mapping[str, str] | None = None) -> FakeCall:
    return FakeCall(key, headers or {}, Access(CATALOG, PROFILES))


def chat(
    *messages: Mapping[str, Any], key: Key = FREE, headers: Mapping[str, str] | None = None, **fields: Any
) -> Request:
    said = list(messages) or [{"role": "user", "content": "hi"}]
    return parse_chat({"model": "auto", "messages": said, **fields}, call(key, headers))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auto", (None, "default")),
        ("auto:cheap", (None, "cheap")),
        ("small", ("small", "default")),
        ("org/other", ("org/other", "default")),
    ],
)
def test_a_model_is_named_or_left_to_a_profile(name: str, expected: tuple[str | None, str]) -> None:
    request = parse_chat({"model": name, "messages": [user("hi")]}, call())
    assert (request.model, request.profile) == expected


@pytest.mark.parametrize("name", ["auto:", "AUTO", "auto:nope", "large ", "smal"])
def test_other_names_do_not_exist(name: str) -> None:
    if name == "auto:":
        assert parse_chat({"model": name, "messages": [user("hi")]}, call()).profile == "default"
        return
    with pytest.raises(UnknownModel):
        parse_chat({"model": name, "messages": [user("hi")]}, call())


def test_the_conversation_is_what_was_said_by_whom_and_the_tools_names() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    request = chat(
        {"role": "system", "content": "Be kind."},
        user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        tools=[tool, tool],
    )
    assert request.conversation == (
        ("system", "Be kind."),
        ("user", "one\ntwo"),
        ("assistant", ""),
        ("tool", "3"),
        ("tools", "add add"),
    )


@pytest.mark.parametrize(
    ("fields", "needs", "uses"),
    [
        ({}, {"chat"}, set()),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"chat", "tools"}, set()),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}, {"chat"}, {"tools"}),
        ({"tools": []}, {"chat"}, set()),
        ({"response_format": {"type": "text"}}, {"chat"}, set()),
        ({"response_format": {"type": "json_object"}}, {"chat"}, {"json_schema"}),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, {"chat", "json_schema"}, set()),
        ({"structured_outputs": {"choice": ["a"]}}, {"chat", "json_schema"}, set()),
        ({"logprobs": True}, {"chat", "logprobs"}, set()),
        ({"logprobs": False}, {"chat"}, set()),
        ({"prompt_logprobs": 0}, {"chat", "logprobs"}, set()),
    ],
)
def test_what_a_request_needs_follows_from_its_parameters(
    fields: dict[str, Any], needs: set[str], uses: set[str]
) -> None:
    request = chat(**fields)
    assert request.needs == needs
    assert request.uses == needs | uses


@pytest.mark.parametrize(("logprobs", "needed"), [(0, True), (1, True), (None, False)])
def test_the_probability_of_the_chosen_token_alone_is_asked_for_with_zero(logprobs: int | None, needed: bool) -> None:
    request = parse_completion({"model": "auto", "prompt": "hi", "logprobs": logprobs}, call())
    assert ("logprobs" in request.needs) is needed


def test_values_of_the_newest_client_are_forwarded() -> None:
    picture = {"url": "data:image/png;base64,AAAA", "detail": "original"}
    asked = user([{"type": "image_url", "image_url": picture}])
    request = chat(asked, reasoning_effort="max", verbosity="low")
    assert request.body == {"messages": [asked], "reasoning_effort": "max", "verbosity": "low"}
    jsonschema.validate(request.body["messages"], MESSAGES_SCHEMA)


def test_a_picture_needs_eyes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    request = chat(user([{"type": "text", "text": "What is it?"}, picture]))
    assert request.needs == {"chat", "vision"}
    assert (request.images, request.input_tokens > 1000) == (1, True)


def test_a_prompts_length_is_estimated_from_its_bytes() -> None:
    assert chat(user("x" * 400)).input_tokens == 104
    assert chat(user("é" * 400)).input_tokens == 204
    assert parse_completion({"model": "auto", "prompt": "x" * 401}, call()).input_tokens == 101
    assert parse_completion({"model": "small", "prompt": [1, 2, 3]}, call()).input_tokens == 3
    assert parse_completion({"model": "small", "prompt": [[1, 2], [3]]}, call()).input_tokens == 3


CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "x" * 4000}}
SCHEMA = {"name": "x", "schema": {"description": "x" * 4000}}


@pytest.mark.parametrize(
    "answer",
    [
        {"content": None, "tool_calls": [CALL]},
        {"tool_calls": [CALL]},
        {"content": "3", "reasoning": "x" * 4000},
        {"content": "3", "reasoning_content": "x" * 4000},
        {"content": None, "refusal": "x" * 4000},
        {"content": [{"type": "refusal", "refusal": "x" * 4000}]},
    ],
    ids=str,
)
def test_what_a_model_said_beside_its_text_is_read_as_well(answer: dict[str, Any]) -> None:
    request = chat(user("1 + 2?"), {"role": "assistant", **answer}, user("So?"))
    assert 1000 < request.input_tokens < 1060


SAID = {"role": "assistant", "content": "3"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
PART = {"type": "text", "text": "3"}
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "1 + 2 is 3."}], "closed": True}
SIGNED = {**CALL, "extra_content": {"google": {"thought_signature": "abc", "unknown": None}}}
COPIED: dict[str, Any] = {
    **PART,
    "role": "assistant",
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": [],
    "reasoning": "Hm",
    "reasoning_content": "Hm",
    "prefix": False,
}
SEEN = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}


@pytest.mark.parametrize(
    ("echo", "told"),
    [
        ({**SAID, "refusal": None, "audio": None, "function_call": None, "tool_calls": None, "new": None}, SAID),
        ({**SAID, "annotations": [{"type": "url_citation"}], "parsed": {"x": None}}, SAID),
        ({**CALLED, "refusal": None, "name": None, "annotations": None}, CALLED),
        ({**CALLED, "tool_calls": [{**CALL, "index": 0, "custom": None}]}, CALLED),
        ({**CALLED, "tool_calls": [{**CALL, "function": {**CALL["function"], "parsed_arguments": {}}}]}, CALLED),  # type: ignore[dict-item]
        ({**CALLED, "tool_calls": [{**CALL, "function": {**CALL["function"], "id": None}}]}, CALLED),  # type: ignore[dict-item]
        ({**SAID, "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}], "images": [{}]}, SAID),
        ({**SAID, "prefix": False, "provider_specific_fields": {"refusal": None}, "thinking_blocks": [{}]}, SAID),
        ({**SAID, "prefix": None, "extra_content": {"google": {"thought": True}}}, SAID),
        ({**CALLED, "prefix": False, "images": [], "provider_specific_fields": {}}, CALLED),
        ({**CALLED, "tool_calls": [{**CALL, "provider_specific_fields": {}, "extra_content": None}]}, CALLED),
        (
            {**CALLED, "tool_calls": [{**CALL, "function": {**CALL["function"], "provider_specific_fields": {}}}]},  # type: ignore[dict-item]
            CALLED,
        ),
        ({**CALLED, "tool_calls": [{**SIGNED, "index": 0}]}, {**CALLED, "tool_calls": [SIGNED]}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": None}),
        ({**CALLED, "tool_calls": []}, {**CALLED, "tool_calls": []}),
        ({**CALLED, "content": []}, {**CALLED, "content": []}),
        ({**SAID, "content": [THOUGHT, PART]}, {**SAID, "content": [PART]}),
        ({**SAID, "content": [THOUGHT]}, {**SAID, "content": None}),
        ({**CALLED, "content": [THOUGHT]}, CALLED),
        ({**SAID, "content": [COPIED]}, {**SAID, "content": [PART]}),
        ({"role": "user", "content": "hi", "name": None}, {"role": "user", "content": "hi"}),
        ({**SEEN, "content": [{**SEEN["content"][0], "text": None}]}, SEEN),  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_null_is_absent_and_what_is_the_clients_own_is_not_told(echo: dict[str, Any], told: dict[str, Any]) -> None:
    body = {"model": "auto", "messages": [user("hi"), echo]}
    jsonschema.validate(body["messages"], MESSAGES_SCHEMA)
    assert parse_chat(body, call()).body["messages"][1] == told


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({**SAID, "audio": {"id": "1"}}, r"messages\[1\].audio is not a parameter of this API"),
        ({**SAID, "function_call": {"name": "f", "arguments": ""}}, r"messages\[1\].function_call is not a parameter"),
        ({"role": "assistant"}, r"messages\[1\].content is missing"),
        ({"role": "assistant", "tool_calls": []}, r"messages\[1\].content is missing"),
        ({"role": "assistant", "content": []}, r"messages\[1\].content must be a text or a list of parts"),
        ({"role": "user", "content": None}, r"messages\[1\].content is missing"),
        (
            {"role": "user", "content": [{"type": "thinking", "thinking": []}]},
            r"messages\[1\].content\[0\].type must be",
        ),
        ({"role": "user", "content": "hi", "annotations": []}, r"messages\[1\].annotations is not a parameter"),
        ({**CALLED, "tool_calls": [{**CALL, "type": None}]}, r"messages\[1\].tool_calls\[0\] must have an id"),
        ({**CALLED, "tool_calls": [{**CALL, "new": 1}]}, r"messages\[1\].tool_calls\[0\] must have an id"),
        ({**CALLED, "tool_calls": [{**CALL, "extra_content": "abc"}]}, r"messages\[1\].tool_calls\[0\] must have an"),
        ({**SAID, "prefix": True}, r"messages\[1\].prefix is not a parameter of this API"),
        ({**SAID, "prefix": 0}, r"messages\[1\].prefix is not a parameter of this API"),
        ({"role": "user", "content": "hi", "prefix": False}, r"messages\[1\].prefix is not a parameter"),
        ({"role": "user", "content": "hi", "images": []}, r"messages\[1\].images is not a parameter"),
        (user([{"type": "text", "text": "hi", "cache_control": {}}]), r"content\[0\].cache_control is not a parameter"),
        (
            user([SEEN["content"][0] | {"cache_control": {}}]),  # type: ignore[operator]
            r"messages\[1\].content\[0\].cache_control is not a parameter of this API",
        ),
        ({**SAID, "content": [{**COPIED, "tool_calls": [CALL]}]}, r"messages\[1\].content\[0\]"),
        ({"role": "user", "content": [{**PART, "role": "user"}]}, r"messages\[1\].content\[0\]"),
    ],
    ids=str,
)
def test_other_messages_are_refused_with_a_reason(answer: dict[str, Any], says: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([answer], MESSAGES_SCHEMA)
    with pytest.raises(InvalidRequest, match=says):
        chat(user("hi"), answer)


def test_schemas_are_read_as_well() -> None:
    asked = chat(response_format={"type": "json_schema", "json_schema": SCHEMA})
    assert 1000 < asked.input_tokens < 1040
    bodies = {"prompt": "hi", "suffix": "x" * 4000}, {"prompt": "hi", "structured_outputs": {"json": SCHEMA}}
    for body in bodies:
        assert 1000 < parse_completion({"model": "auto", **body}, call()).input_tokens < 1040


def test_what_is_read_beside_several_prompts_is_read_with_the_longest() -> None:
    alone = parse_completion({"model": "auto", "prompt": ["x" * 400, "x"]}, call())
    asked = parse_completion({"model": "auto", "prompt": ["x" * 400, "x"], "suffix": "x" * 4000}, call())
    assert (alone.input_tokens, alone.longest_prompt_tokens) == (101, 100)
    assert asked.longest_prompt_tokens == asked.input_tokens - 1 > 1100


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_four_times_the_estimate_is_no_fewer_than_the_bytes(arguments: str) -> None:
    called = {**CALL, "function": {"name": "f", "arguments": arguments}}
    tokens = chat(user("hi"), {"role": "assistant", "content": None, "tool_calls": [called]}).input_tokens
    assert 4 * tokens >= len(json.dumps(called, separators=(",", ":"), ensure_ascii=False).encode())


@pytest.mark.parametrize(
    ("fields", "choices"),
    [({}, 1), ({"n": 3}, 3), ({"prompt": ["a", "b"]}, 2), ({"prompt": ["a", "b"], "n": 2}, 4), ({"prompt": [1, 2]}, 1)],
)
def test_every_choice_for_every_prompt_is_counted(fields: dict[str, Any], choices: int) -> None:
    assert parse_completion({"model": "small", "prompt": "a", **fields}, call()).choices == choices


@pytest.mark.parametrize(
    ("fields", "least_tokens"),
    [
        ({}, 0),
        ({"min_tokens": 50}, 50),
        ({"max_tokens": 100, "min_tokens": 50}, 50),
        ({"max_tokens": 100, "ignore_eos": True}, 100),
        ({"max_tokens": 100, "ignore_eos": False}, 0),
        ({"ignore_eos": True, "routing": {"max_output_tokens": 70}}, 70),
        ({"ignore_eos": True}, MAX_TOKENS),
    ],
    ids=str,
)
def test_an_answer_has_at_least_what_is_asked_for(fields: dict[str, Any], least_tokens: int) -> None:
    assert chat(**fields).least_tokens == least_tokens


def test_only_what_is_for_the_backend_is_forwarded() -> None:
    body = chat(stream=True, routing={"weights": {"cost": 1}}, temperature=0, user="me", stop=None).body
    assert body == {"messages": [user("hi")], "temperature": 0}


def test_the_most_explicit_source_has_the_last_word_on_weights_and_limits_of_all_hold() -> None:
    request = parse_chat(
        {
            "model": "auto:cheap",
            "messages": [user("[flag: cheap=0.7, fast=0.2, small]\nhi")],
            "routing": {"weights": {"latency": 0.9}, "max_size_b": 14},
        },
        call(headers={"x-thalamus-weights": "cost=0.6", "x-thalamus-max-size-b": "8"}),
    )
    assert request.preferences.weights == {"cost": 0.6, "latency": 0.9, "size": 0.3}
    assert request.preferences.limits == {"max_size_b": 8.0}


def test_a_weight_on_cost_replaces_an_inherited_loss_and_the_reverse() -> None:
    assert chat(model="auto:careful").preferences.max_quality_loss == 0.01
    weighted = chat(model="auto:careful", routing={"weights": {"cost": 0.2}}).preferences
    assert (weighted.max_quality_loss, weighted.weights) == (None, {"cost": 0.2})
    lossy = chat(model="auto:cheap", routing={"max_quality_loss": 0.05}).preferences
    assert (lossy.max_quality_loss, lossy.weights) == (0.05, {"latency": 0.1})


def test_a_profiles_limits_are_for_its_choice_and_a_keys_for_every_call() -> None:
    assert chat(model="auto:private").preferences.limits == {"min_security": 2.0}
    assert chat(model="small").preferences.limits == {}
    bound = Key("bound", models=("*",), routing=Preferences(limits={"max_size_b": 10.0}))
    assert chat(key=bound, model="small").preferences.limits == {"max_size_b": 10.0}


FLAGGED = "[flag: cheap]\nWhat is 2+2?"


def test_flags_are_taken_out_of_the_last_user_message() -> None:
    request = chat(user("[flag: fast]\nfirst"), {"role": "assistant", "content": "ok"}, user(FLAGGED))
    assert request.preferences.weights == {"cost": 0.3}
    assert [message["content"] for message in request.body["messages"]] == ["[flag: fast]\nfirst", "ok", "What is 2+2?"]
    assert request.conversation[-1] == ("user", "What is 2+2?")
    parts = chat(user([{"type": "text", "text": FLAGGED}, {"type": "text", "text": "[flag: fast]\n"}]))
    assert parts.body["messages"][0]["content"] == [
        {"type": "text", "text": "What is 2+2?"},
        {"type": "text", "text": "[flag: fast]\n"},
    ]


@pytest.mark.parametrize("role", ["system", "developer", "assistant", "tool"])
def test_flags_in_other_messages_are_plain_text(role: str) -> None:
    request = chat(user("hi"), {"role": role, "content": FLAGGED})
    assert request.preferences.weights == {}
    assert request.body["messages"][1]["content"] == FLAGGED


def test_flags_are_plain_text_unless_the_key_allows_them() -> None:
    request = chat(user(FLAGGED), key=Key("plain", models=("*",)))
    assert request.preferences.weights == {}
    assert request.body["messages"][0]["content"] == FLAGGED


@pytest.mark.parametrize(
    ("may_set", "reads"), [(None, True), ({"weights"}, True), ({"max_cost_usd"}, False), ((), False)]
)
def test_flags_set_nothing_that_the_callers_of_a_key_may_not_set(may_set: Any, reads: bool) -> None:
    key = Key("k", models=("*",), may_set=None if may_set is None else frozenset(may_set), flags_in_prompt=True)
    request = chat(user(FLAGGED), key=key)
    assert bool(request.preferences.weights) is reads
    assert (request.body["messages"][0]["content"] == FLAGGED) is not reads


def test_what_a_key_may_not_set_is_refused() -> None:
    bound = Key("bound", models=("*",), may_set=frozenset({"max_cost_usd"}))
    assert chat(key=bound, routing={"max_cost_usd": 1}).preferences.limits == {"max_cost_usd": 1.0}
    with pytest.raises(NotAllowed, match=r"routing\.weights"):
        chat(key=bound, routing={"weights": {"cost": 1}})
    with pytest.raises(NotAllowed, match=r"routing\.max_size_b"):
        chat(key=bound, headers={"x-thalamus-max-size-b": "3"})


CONTEXT = {"session_id": "s1", "deadline_s": 30, "priority": "low", "explain": True}


@pytest.mark.parametrize(("name", "value"), CONTEXT.items())
def test_what_a_key_may_not_set_of_the_request_itself_is_refused(name: str, value: Any) -> None:
    bound, free = (Key("k", models=("*",), may_set=frozenset(fields)) for fields in (CONTEXT.keys() - {name}, {name}))
    header = {f"x-thalamus-{name.replace('_', '-')}": str(value).lower()}
    for asked in ({"routing": {name: value}}, {"headers": header}):
        assert getattr(chat(key=free, **asked), name) == value
        with pytest.raises(NotAllowed, match=rf"may not set routing\.{name}; leave it out"):
            chat(key=bound, **asked)
    assert chat(key=bound, routing={name: None}, headers={"x-session-id": "s2"}).session_id == "s2"


@pytest.mark.parametrize(
    ("fields", "forwarded", "max_tokens"),
    [
        ({}, {}, None),
        ({"max_tokens": 100}, {"max_tokens": 100}, 100),
        ({"max_completion_tokens": 100}, {"max_completion_tokens": 100}, 100),
        ({"max_tokens": 9, "max_completion_tokens": 9}, {"max_tokens": 9, "max_completion_tokens": 9}, 9),
        ({"routing": {"max_output_tokens": 50}}, {"max_tokens": 50}, 50),
        ({"max_tokens": 100, "routing": {"max_output_tokens": 50}}, {"max_tokens": 50}, 50),
        ({"max_tokens": 20, "routing": {"max_output_tokens": 50}}, {"max_tokens": 20}, 20),
        ({"max_completion_tokens": 100, "routing": {"max_output_tokens": 50}}, {"max_completion_tokens": 50}, 50),
        ({"min_tokens": 90, "routing": {"max_output_tokens": 50}}, {"max_tokens": 50, "min_tokens": 50}, 50),
        ({"min_tokens": 30, "routing": {"max_output_tokens": 50}}, {"max_tokens": 50, "min_tokens": 30}, 50),
        (
            {"max_tokens": 100, "max_completion_tokens": 100, "routing": {"max_output_tokens": 50}},
            {"max_completion_tokens": 50},
            50,
        ),
    ],
)
def test_no_model_may_write_more_than_was_asked_for(
    fields: dict[str, Any], forwarded: dict[str, Any], max_tokens: int | None
) -> None:
    request = chat(**fields)
    assert {name: value for name, value in request.body.items() if name != "messages"} == forwarded
    assert request.max_tokens == max_tokens


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, 40),
        ({"max_tokens": 100}, 40),
        ({"max_tokens": 30}, 30),
        ({"routing": {"max_output_tokens": 50}}, 40),
        ({"routing": {"max_output_tokens": 20}, "max_tokens": 30}, 20),
    ],
)
def test_no_answer_is_longer_than_the_key_allows(fields: dict[str, Any], max_tokens: int) -> None:
    request = chat(key=Key("short", models=("*",), max_tokens=40), **fields)
    assert request.max_tokens == request.body["max_tokens"] == max_tokens
    assert request.preferences.limits.get("max_output_tokens") == fields.get("routing", {}).get("max_output_tokens")


@pytest.mark.parametrize(
    ("fields", "is_capped"),
    [
        ({}, True),
        ({"routing": {"max_output_tokens": 20}}, True),
        ({"max_tokens": None}, True),
        ({"max_tokens": 100}, False),
        ({"max_completion_tokens": 30}, False),
        ({"routing": {"max_output_tokens": 20}, "max_tokens": 30}, False),
    ],
    ids=str,
)
def test_what_others_allow_at_most_is_not_asked_for(fields: dict[str, Any], is_capped: bool) -> None:
    assert chat(key=Key("short", models=("*",), max_tokens=40), **fields).is_capped is is_capped


def test_without_a_limit_nothing_is_capped() -> None:
    assert not chat().is_capped


def test_context_comes_from_body_and_headers_and_priority_is_at_most_the_keys() -> None:
    request = chat(
        routing={"session_id": "s1", "deadline_s": 30, "priority": "high", "explain": True},
        headers={"x-thalamus-deadline-s": "5", "x-thalamus-hop": "2"},
    )
    assert (request.session_id, request.deadline_s, request.priority, request.explain, request.hops) == (
        "s1",
        5.0,
        "high",
        True,
        2,
    )
    plain = chat()
    assert (plain.session_id, plain.deadline_s, plain.priority, plain.explain, plain.hops) == (
        None,
        None,
        "normal",
        False,
        0,
    )
    assert chat(key=Key("low", models=("*",), max_priority="low")).priority == "low"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "tool", "system"]) | _JSON,
            "content": st.text(max_size=9)
            | st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "type": st.sampled_from(["text", "image_url", "refusal"]),
                        "text": _JSON,
                        "image_url": _JSON,
                    },
                )
                | _JSON,
                max_size=3,
            )
            | _JSON,
            "tool_calls": _JSON,
            "name": _JSON,
        },
    )
    | _JSON,
    max_size=3,
)
_BODIES = st.fixed_dictionaries(
    {"model": st.just("auto") | _JSON, "messages": _MESSAGES | _JSON},
    optional=dict.fromkeys(
        (
            "tools",
            "response_format",
            "stop",
            "routing",
            "max_tokens",
            "logit_bias",
            "seed",
            "tool_choice",
            "structured_outputs",
            "stream",
            "stream_options",
            "metadata",
        ),
        _JSON,
    ),
)


@given(_BODIES)
def test_any_body_is_a_request_or_the_callers_error(body: dict[str, Any]) -> None:
    failure: CallerError | None = None
    try:
        request = parse_chat(body, call())
    except CallerError as exc:
        failure = exc
    if failure is None:
        assert request.body["messages"]
    else:
        assert failure.message
        assert failure.status in (400, 403, 404)


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        (TRACE, True),
        ("01" + TRACE[2:], True),
        ("ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        (TRACE + "-00", False),
        (TRACE + "\n", False),
        (f"{TRACE},{TRACE}", False),
        (TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), False),
        (TRACE.replace("b7ad6b7169203331", "0" * 16), False),
        (TRACE.replace("0af", "０af"), False),
        ("", False),
    ],
)
def test_a_trace_is_passed_on_only_if_it_is_well_formed(sent: str, passed_on: bool) -> None:
    assert chat(headers={"traceparent": sent}).traceparent == (sent if passed_on else None)


@pytest.mark.parametrize(
    ("fields", "key", "max_tokens"),
    [
        ({}, FREE, 16),
        ({"max_tokens": None}, FREE, 16),
        ({"max_tokens": 100}, FREE, 100),
        ({"routing": {"max_output_tokens": 400}}, FREE, 16),
        ({"routing": {"max_output_tokens": 4}}, FREE, 4),
        ({}, Key("short", models=("*",), max_tokens=2000), 16),
    ],
)
def test_a_text_completion_has_sixteen_tokens_where_nobody_asks_for_more(
    fields: dict[str, Any], key: Key, max_tokens: int
) -> None:
    request = parse_completion({"model": "auto", "prompt": "once", **fields}, call(key))
    assert request.max_tokens == request.body["max_tokens"] == max_tokens
    assert not request.is_capped


@pytest.mark.parametrize(
    ("name", "ids", "nothing"),
    [
        ("prompt", [1, 2], "text"),
        ("prompt", [[1, 2], [3]], ["text", "more"]),
        ("logit_bias", {"12": 1}, {}),
        ("allowed_token_ids", [1], []),
        ("stop_token_ids", [1], []),
    ],
)
def test_token_ids_are_for_a_model_that_is_named(name: str, ids: Any, nothing: Any) -> None:
    asked = {"prompt": "once", name: ids}
    with pytest.raises(InvalidRequest, match="one model only: name it") as caught:
        parse_completion({"model": "auto", **asked}, call())
    assert caught.value.param == name
    assert parse_completion({"model": "small", **asked}, call()).body[name] == ids
    assert parse_completion({"model": "auto", **asked, name: nothing}, call()).body[name] == nothing


def test_who_reads_calls_of_tools_must_be_able_to_make_them() -> None:
    called = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    asking = {"role": "assistant", "content": None, "tool_calls": [called]}
    returned = {"role": "tool", "content": "3", "tool_call_id": "1"}
    assert chat(user("hi"), asking, returned).needs == chat(user("hi"), returned).needs == {"chat", "tools"}
    assert chat(user("hi"), {**asking, "content": "", "tool_calls": []}).needs == {"chat"}

    def responses(*items: Mapping[str, Any]) -> Request:
        return parse_responses({"model": "auto", "input": [user("hi"), *items]}, call())

    call_item = {"type": "function_call", "call_id": "1", "name": "add", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "1", "output": "3"}
    assert responses(call_item).needs == responses(output).needs == {"responses", "tools"}
    assert responses().needs == {"responses"}


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({}, None),
        ({"truncate_prompt_tokens": None}, None),
        ({"truncate_prompt_tokens": 50}, 50),
        ({"truncate_prompt_tokens": 5000}, 104),
        ({"truncate_prompt_tokens": -1}, 0),
    ],
)
def test_a_prompt_that_may_be_shortened_takes_no_more_of_a_context(fields: dict[str, Any], longest: int | None) -> None:
    request = chat(user("x" * 400), **fields)
    assert (request.input_tokens, request.longest_prompt_tokens) == (104, longest)


@pytest.mark.parametrize(("truncation", "longest"), [("auto", 0), ("disabled", None)])
def test_an_input_that_may_be_shortened_fits_any_context(truncation: str, longest: int | None) -> None:
    body = {"model": "auto", "input": "x" * 400, "truncation": truncation}
    assert parse_responses(body, call()).longest_prompt_tokens == longest


def test_of_several_prompts_that_may_be_shortened_each_takes_no_more() -> None:
    body = {"model": "auto", "prompt": ["x" * 400, "x" * 80], "truncate_prompt_tokens": 50}
    assert parse_completion(body, call()).longest_prompt_tokens == 50


@pytest.mark.parametrize("key", [FREE, Key("short", models=("*",), max_tokens=2000)])
def test_a_prompt_may_be_scored_without_an_answer(key: Key) -> None:
    body = {"model": "auto", "prompt": "once", "max_tokens": 0, "echo": True, "logprobs": 1}
    request = parse_completion({**body, "routing": {"max_output_tokens": 50}}, call(key))
    assert request.max_tokens == request.body["max_tokens"] == 0
    assert not request.is_capped
