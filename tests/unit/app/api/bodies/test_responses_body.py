"""Bodies of the Responses API: what is let in, what decides, and what is forwarded."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.bodies.parsing import parse_responses
from app.api.bodies.responses_body import TABLE
from app.api.bodies.responses_input import INPUT_SCHEMA
from app.domain.request import Request
from app.errors import CallerError, InvalidRequest, NotAllowed, UnsupportedParameter
from app.store.keys.key import Key
from tests.fakes.call import FREE, FakeCall


def parsed(key: Key = FREE, /, **fields: Any) -> Request:
    return parse_responses({"model": "auto", "input": "hi", **fields}, FakeCall(key))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


FUNCTION = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": None}
SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}
BARE = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
PICTURE = {**BARE, "detail": "auto"}
CALLED = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
RETURNED = {"type": "function_call_output", "call_id": "c"}


def test_a_text_is_one_message_of_the_user() -> None:
    request = parsed(instructions="Be kind.", max_output_tokens=5)
    assert (request.operation, request.conversation) == ("responses", (("system", "Be kind."), ("user", "hi")))
    assert (request.max_tokens, request.stream) == (5, False)
    assert request.needs == {"responses"}
    assert request.body == {"input": "hi", "instructions": "Be kind.", "max_output_tokens": 5, "store": False}


def test_the_conversation_is_what_was_said_by_whom_and_what_functions_returned() -> None:
    answer: dict[str, Any] = {"type": "output_text", "text": "three?", "annotations": [], "logprobs": None}
    request = parsed(
        input=[
            {"role": "developer", "content": "Be brief."},
            user([{"type": "input_text", "text": "one"}, PICTURE, {"type": "input_text", "text": "two"}]),
            {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [answer]},
            {"type": "function_call", "id": "f", "call_id": "c", "name": "add", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "3"},
        ],
        tools=[FUNCTION],
    )
    assert request.conversation == (
        ("developer", "Be brief."),
        ("user", "one\ntwo"),
        ("assistant", "three?"),
        ("assistant", ""),
        ("tool", "3"),
        ("tools", "add"),
    )
    assert request.needs == {"responses", "tools", "vision"}
    assert (request.images, request.input_tokens > 1000) == (1, True), "a picture is long"


def test_a_picture_that_a_function_returned_is_passed_on_to_a_model_that_can_see() -> None:
    output = [{"type": "input_text", "text": "the screen"}, PICTURE]
    items = [user("look"), {**CALLED, "name": "screenshot"}, {**RETURNED, "output": output}]
    body = {"model": "auto", "input": [*items, user("What do you see?")]}
    jsonschema.validate(body["input"], INPUT_SCHEMA)
    request = parse_responses(body, FakeCall(FREE))
    assert request.body["input"] == [*items, user("What do you see?")]
    assert request.needs == {"responses", "tools", "vision"}
    assert (request.images, request.input_tokens > 1000) == (1, True)
    assert request.conversation[2] == ("tool", "the screen")


@pytest.mark.parametrize("item", [user([BARE]), {**RETURNED, "output": [BARE]}], ids=["message", "output"])
def test_backends_are_told_the_default_detail_of_a_picture(item: dict[str, Any]) -> None:
    """vLLM refuses pictures without one in what functions return."""
    (told,) = parsed(input=[item]).body["input"]
    assert (told.get("content") or told["output"]) == [PICTURE]


THOUGHT = {"type": "reasoning_text", "text": "x" * 4000}
LONG_REFUSAL = {"type": "refusal", "refusal": "x" * 4000}


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "x" * 4000},
        {"type": "function_call_output", "call_id": "c", "output": "x" * 4000},
        {"type": "function_call_output", "call_id": "c", "output": [LONG_REFUSAL]},
        {"type": "reasoning", "summary": [], "content": [THOUGHT]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x" * 4000}]},
        {"type": "message", "role": "assistant", "content": [LONG_REFUSAL]},
    ],
    ids=str,
)
def test_what_is_no_text_of_a_message_is_read_as_well(item: dict[str, Any]) -> None:
    assert 1000 < parsed(input=[user("1 + 2?"), item]).input_tokens < 1050


def test_a_schema_is_read_as_well() -> None:
    schema = {**SCHEMA, "schema": {"description": "x" * 4000}}
    assert 1000 < parsed(text={"format": schema}).input_tokens < 1050


@pytest.mark.parametrize(
    ("fields", "needs", "uses"),
    [
        ({"tools": [FUNCTION]}, {"tools"}, set()),
        ({"tools": [FUNCTION], "tool_choice": "none"}, set(), {"tools"}),
        ({"text": {"format": SCHEMA}}, {"json_schema"}, set()),
        ({"text": {"format": {"type": "json_object"}}}, set(), {"json_schema"}),
        ({"text": {"format": None, "verbosity": "low"}}, set(), set()),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs"}, set()),
        ({"include": ["reasoning.encrypted_content"]}, set(), set()),
    ],
)
def test_a_model_has_to_do_what_is_asked_for(fields: dict[str, Any], needs: set[str], uses: set[str]) -> None:
    request = parsed(**fields)
    assert request.needs == {"responses", *needs}
    assert request.uses == {"responses", *needs, *uses}


FINE: list[dict[str, Any]] = [
    {"tool_choice": {"type": "function", "name": "add"}, "tools": [FUNCTION]},
    {"tools": [{**FUNCTION, "parameters": None, "description": None, "output_schema": None, "allowed_callers": None}]},
    {"reasoning": {"effort": "high", "summary": "auto"}},
    {"reasoning": {"effort": None}},
    {"store": False, "background": False, "truncation": "auto", "previous_response_id": None},
    {"conversation": None, "prompt": None, "max_tool_calls": None, "context_management": None, "moderation": None},
    {"metadata": {"a": "b"}, "service_tier": "auto", "user": "me", "prompt_cache_key": "k"},
    {"stream": True, "stream_options": {"include_obfuscation": False}},
    {"client_metadata": {"x": {"y": [1]}}, "prompt_cache_retention": "24h"},
    {"client_metadata": None, "prompt_cache_retention": None},
    {"top_k": 5, "seed": 1, "stop": ["x"], "chat_template_kwargs": {"enable_thinking": False}},
    {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "3"}]}]},
]


@pytest.mark.parametrize("fields", FINE, ids=str)
def test_these_are_fine(fields: dict[str, Any]) -> None:
    assert parsed(**fields).body["store"] is False


def test_metadata_is_forwarded_as_a_response_says_it_again() -> None:
    assert parsed(metadata={"a": "b"}).body["metadata"] == {"a": "b"}


SAID: dict[str, Any] = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "3", "annotations": []}],
}
THOUGHT_OF = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}


@pytest.mark.parametrize(
    ("echo", "told"),
    [
        ({**CALLED, "async": None, "async_": None, "caller": None, "namespace": None, "id": None}, CALLED),
        ({**CALLED, "parsed_arguments": {"x": None}}, CALLED),
        ({**SAID, "phase": None, "id": None, "new": None}, SAID),
        ({**SAID, "content": [{**SAID["content"][0], "logprobs": None, "parsed": {"x": 1}}]}, SAID),
        ({**THOUGHT_OF, "content": None, "encrypted_content": None, "status": None}, THOUGHT_OF),
        ({**THOUGHT_OF, "summary": [{"type": "summary_text", "text": "Hm.", "id": None}]}, THOUGHT_OF),
        ({"type": None, **user([{**PICTURE, "file_id": None}])}, user([PICTURE])),
    ],
    ids=str,
)
def test_null_is_absent_and_what_is_the_clients_own_is_not_told(echo: dict[str, Any], told: dict[str, Any]) -> None:
    body = {"model": "auto", "input": [user("hi"), echo]}
    jsonschema.validate(body["input"], INPUT_SCHEMA)
    assert parse_responses(body, FakeCall(FREE)).body["input"][1] == told


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "store must be false: nothing is stored"),
    ({"previous_response_id": "resp_1"}, "previous_response_id must be left out: no response is stored here"),
    ({"conversation": "conv_1"}, "conversation must be left out"),
    ({"prompt": {"id": "p_1"}}, "prompt is not a parameter of this API; leave it out"),
    ({"max_tool_calls": 3}, "max_tool_calls is not a parameter of this API; leave it out"),
    ({"background": True}, "background must be false"),
    ({"tools": [FUNCTION, {"type": "web_search"}]}, r'tools\[1\].type must be "function"'),
    ({"tools": [{"type": "function"}]}, r"tools\[0\].name is missing"),
    ({"tools": [{**FUNCTION, "name": "x" * 65}]}, r"tools\[0\].name must be a text of 1 to 64 characters"),
    ({"tool_choice": {"type": "mcp"}}, 'tool_choice.type must be "function"'),
    ({"text": "json"}, "text must be an object with a format"),
    ({"text": {"format": "json"}}, "text.format must be an object$"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.name is missing"),
    ({"text": {"format": {**SCHEMA, "type": None}}}, 'text.format.type must be "text" or "json_object" or'),
    ({"text": {"format": {**SCHEMA, "schema": {"x": "y" * 70_000}}}}, "text.format must be at most 65536 bytes"),
    ({"reasoning": {"effort": "much"}}, 'reasoning.effort must be "none" or "minimal" or'),
    ({"include": ["file_search_call.results"]}, "include must be"),
    ({"max_output_tokens": 0}, "max_output_tokens must be"),
    ({"temperature": 3}, "temperature must be"),
    ({"input": None}, "input is missing"),
    ({"input": []}, "input is missing"),
    ({"input": 7}, "input must be a text, or a list of items"),
    ({"input": [user("x")] * 2049}, "more than 2048 items"),
    (
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        r"input\[0\] must be left out: no response is stored here, .*; clients that shorten it to references stop that",
    ),
    ({"input": ["hi"]}, r"input\[0\].type must be one of message"),
    ({"input": [{"type": "web_search_call", "id": "1"}]}, r"input\[0\].type must be one of message"),
    ({"input": [{"type": ["message"]}]}, r"input\[0\].type must be one of message"),
    ({"input": [{"role": "tool", "content": "x"}]}, r"input\[0\].role must be one of user"),
    ({"input": [{"role": "user"}]}, r"input\[0\].content must be a text or a list of parts"),
    ({"input": [{**user("x"), "extra": 1}]}, r"input\[0\].extra is not a parameter of this API"),
    ({"input": [{**user("x"), "status": "new"}]}, r"input\[0\] must be a message"),
    (
        {"input": [{**CALLED, "namespace": "n"}]},
        r"input\[0\].namespace is not .* known are arguments, call_id",
    ),
    ({"input": [user([{"type": "input_text", "text": "x", "cache": 1}])]}, r"input\[0\].content\[0\].cache is not a"),
    ({"input": [user([])]}, r"input\[0\].content must be"),
    ({"input": [user([{"type": "text", "text": "x"}])]}, r"input\[0\].content\[0\].type must be"),
    ({"input": [user([{"type": "input_text"}])]}, r"input\[0\].content\[0\] must be an object"),
    ({"input": [user([{"type": "input_file", "file_id": "f"}])]}, r"content\[0\].type must be"),
    ({"input": [user([{**PICTURE, "image_url": "http://x/y.png"}])]}, "image_url must be a data: URL"),
    ({"input": [user([{"type": "input_image", "file_id": "f"}])]}, r"content\[0\].file_id is not .* image_url"),
    ({"input": [{"role": "system", "content": [PICTURE]}]}, "into user messages and function_call_output items"),
    ({"input": [{**RETURNED, "output": [{"type": "input_file", "file_id": "f"}]}]}, r"output\[0\].type must be"),
    ({"input": [{**RETURNED, "output": [{**BARE, "detail": 1}]}]}, r"output\[0\].detail must be one of auto"),
    ({"input": [{"type": "function_call", "name": "f"}]}, r"input\[0\] must be a function_call with a call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": 3}]}, "must be a function_call_output"),
    ({"input": [{"type": "reasoning", "summary": ["x"]}]}, "must be a reasoning"),
]


@pytest.mark.parametrize(("fields", "says"), REFUSED, ids=lambda value: str(value)[:60])
def test_these_are_refused_with_a_reason(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parsed(**fields)


@pytest.mark.parametrize("name", ["messages", "max_tokens", "prompt", "n", "request_id", "max_tool_calls", "priority"])
def test_other_fields_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedParameter, match=f"{name} is not a parameter"):
        parsed(**{name: 1})


def test_what_a_client_says_of_itself_and_of_the_cache_is_not_told() -> None:
    body = parsed(client_metadata={"x": "y"}, prompt_cache_retention="24h").body
    assert body.keys().isdisjoint({"client_metadata", "prompt_cache_retention"})
    with pytest.raises(InvalidRequest, match="client_metadata must be an object"):
        parsed(client_metadata="x")


def test_template_arguments_are_for_keys_that_may_set_them() -> None:
    with pytest.raises(NotAllowed, match="chat_template_kwargs"):
        parsed(Key("k", models=("*",)), chat_template_kwargs={"enable_thinking": True})


def test_no_model_writes_more_than_its_limit() -> None:
    request = parsed(max_output_tokens=50, routing={"max_output_tokens": 20})
    assert (request.max_tokens, request.body["max_output_tokens"]) == (20, 20)
    assert "max_tokens" not in request.body


@pytest.mark.parametrize(
    "asked",
    ["[flag: cheap]\nhi", [user("[flag: cheap]\nhi")], [user([{"type": "input_text", "text": "[flag: cheap]\nhi"}])]],
)
def test_flags_are_read_and_taken_out_of_the_last_message_of_the_user(asked: Any) -> None:
    request = parsed(input=asked)
    assert (request.preferences.weights, request.conversation) == ({"cost": 0.3}, (("user", "hi"),))
    assert "flag" not in str(request.body)


def test_flags_stay_where_a_key_does_not_allow_them() -> None:
    bound = Key("k", models=("*",), flags_in_prompt=True, may_set=frozenset({"max_cost_usd"}))
    for key in (Key("k", models=("*",)), bound):
        assert parsed(key, input="[flag: cheap]\nhi").body["input"] == "[flag: cheap]\nhi"


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "x", "message", "input_text", "user", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "output", "summary", "format", "name", "image_url"]),
            inner,
        )
    ),
    max_leaves=8,
)
_PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image"]) | _JSON},
    optional={"text": _JSON, "refusal": _JSON, "image_url": _JSON, "annotations": _JSON, "detail": _JSON},
)
_ITEM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]) | _JSON,
        "role": st.sampled_from(["user", "assistant", "system"]) | _JSON,
        "content": st.text(max_size=3) | st.lists(_PART, max_size=2) | _JSON,
        "call_id": st.just("c") | _JSON,
        "name": st.just("f") | _JSON,
        "arguments": st.just("{}") | _JSON,
        "output": st.just("3") | st.lists(_PART, max_size=2) | _JSON,
        "summary": st.just([]) | _JSON,
    },
)
_FIELDS = st.dictionaries(st.sampled_from([*TABLE, "nonsense"]), _JSON, max_size=3)


@given(st.text(max_size=3) | st.lists(_ITEM, max_size=3) | _JSON, _FIELDS)
def test_any_body_is_a_request_or_the_callers_error(asked: Any, fields: dict[str, Any]) -> None:
    assert status({"model": "auto", "input": asked, **fields}) in (200, 400, 404)


def status(body: dict[str, Any]) -> int:
    try:
        parse_responses(body, FakeCall())
    except CallerError as exc:
        return exc.status
    return 200
