"""The closed table of parameters: each has a bound, in words and in fact."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from app.api.bodies.parameters import TABLE, TABLES, check_fields
from app.domain.request import Operation
from app.errors import InvalidRequest, UnsupportedParameter

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
BARE_TOOL = {"type": "function", "function": {"name": "now", "description": None, "parameters": None, "strict": None}}
SCHEMA = {"name": "answer", "schema": {"type": "object"}}
BARE_SCHEMA = {"name": "answer", "description": None, "strict": None}

# For each field: values that pass, values that do not.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "model": (["auto"], [1, "x" * 257]),
    "routing": ([{}], ["cheap"]),
    "stream": ([True], ["true", 1]),
    "stream_options": ([{"include_usage": True}], [{"usage": True}, {"include_usage": 1}, True]),
    "max_tokens": ([1, 4096], [0, -1, 1.5, "5", True, 10**8]),
    "temperature": ([0, 0.7, 2], [-0.1, 2.1, "1", True]),
    "top_p": ([0.1, 1], [0, 1.1]),
    "n": ([1, 4], [0, 5, 1_000_000, 2.0]),
    "stop": (["end", ["a", "b"]], [["a"] * 5, 3, [1]]),
    "frequency_penalty": ([-2, 2], [3]),
    "presence_penalty": ([0], [-3]),
    "seed": ([0, -5, 2**63 - 1], [2**63, "1"]),
    "logit_bias": ([{"50256": -100}], [{"x": 1}, {"1": 101}, {str(token): 1 for token in range(301)}]),
    "user": (["me"], [{}]),
    "messages": ([[{}]], ["hello"]),
    "max_completion_tokens": ([10], [0]),
    "logprobs": ([True, 5], ["yes"]),
    "top_logprobs": ([20], [21]),
    "response_format": (
        [
            {"type": "text"},
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": SCHEMA},
            {"type": "json_schema", "json_schema": BARE_SCHEMA},
        ],
        [
            {"type": "xml"},
            {"type": "json_schema"},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": "x" * 70_000}}},
            "json",
        ],
    ),
    "tools": (
        [[TOOL], [BARE_TOOL]],
        [[TOOL] * 129, [{"type": "retrieval"}], [{"type": "function", "function": {}}], TOOL],
    ),
    "tool_choice": (
        ["auto", "none", "required", {"type": "function", "function": {"name": "add"}}],
        ["any", {"type": "function"}],
    ),
    "parallel_tool_calls": ([False], [0]),
    "reasoning_effort": (["low", "max"], ["maximal"]),
    "verbosity": (["low"], ["max"]),
    "modalities": ([["text"]], [["audio"]]),
    "store": ([False], [True]),
    "metadata": ([{"a": "b"}], [{"a": 1}]),
    "service_tier": (["auto"], ["flex"]),
    "safety_identifier": (["a"], [1]),
    "prompt_cache_key": (["a"], [1]),
    "prompt_cache_retention": (["24h"], [1]),
    "prompt": (["text", ["a", "b"], [1, 2], [[1], [2, 3]]], [{}, ["a"] * 65, [1.5], [None]]),
    "best_of": ([1], [2]),
    "echo": ([True], ["true"]),
    "suffix": (["."], [1]),
    "top_k": ([-1, 50], [1.5]),
    "min_p": ([0.1], [2]),
    "repetition_penalty": ([1.1], [0]),
    "length_penalty": ([1], [5]),
    "min_tokens": ([0], [-1]),
    "ignore_eos": ([True], [1]),
    "stop_token_ids": ([[2]], [[-1], list(range(65))]),
    "allowed_token_ids": ([[2]], [["2"]]),
    "bad_words": ([["darn"]], [["x" * 65]]),
    "include_stop_str_in_output": ([True], [1]),
    "skip_special_tokens": ([True], [1]),
    "spaces_between_special_tokens": ([True], [1]),
    "add_special_tokens": ([True], [1]),
    "add_generation_prompt": ([True], [1]),
    "continue_final_message": ([True], [1]),
    "include_reasoning": ([True], [1]),
    "prompt_logprobs": ([0], [21]),
    "truncate_prompt_tokens": ([10, -1], [0, -2, -1.0]),
    "return_token_ids": ([True], [1]),
    "structured_outputs": (
        [{"choice": ["yes", "no"]}, {"json": {"type": "object"}}, {"json": '{"type": "object"}'}],
        [
            {"regex": "(a+)+"},
            {"grammar": "root ::= x"},
            {"choice": ["a"], "json": {}},
            {},
            {"json": "no JSON"},
            {"json": "[1]"},
            {"json": '{"type": "object", "type": "array"}'},
            {"json": '{"minimum": NaN}'},
            {"json": '{"a":' * 33 + "1" + "}" * 33},
            {"json": '{"a":"%s"}' % ("x" * (64 << 10))},
        ],
    ),
    "chat_template_kwargs": ([{"enable_thinking": False}], [{"a": {"b": 1}}, {"a": [1]}]),
}


@pytest.mark.parametrize("name", sorted({parameter.name for parameter in TABLE if parameter.expected != "left out"}))
def test_each_parameter_is_checked(name: str) -> None:
    good, bad = VALUES[name]
    for parameter in (one for one in TABLE if one.name == name):
        (operation, *_) = sorted(parameter.operations)
        if name == "max_tokens" and operation == "completion":
            good, bad = [0, 1, 4096], [-1, 1.5, "5", True, 10**8]
        if name == "logprobs":
            good, bad = ([True], [5]) if operation == "chat" else ([5], [True, 21])
        for value in good:
            assert parameter.check.holds(value), value
            jsonschema.validate(value, parameter.check.schema)
        for value in bad:
            with pytest.raises(InvalidRequest, match=name) as caught:
                check_fields({name: value}, TABLES[operation])
            if caught.value.param == name:
                assert parameter.expected in caught.value.message or " entries; at most " in caught.value.message
            else:
                assert parameter.check.find
                assert str(caught.value.param).startswith(name)
                assert caught.value.message.startswith(str(caught.value.param))


@pytest.mark.parametrize("operation", ["chat", "completion"])
@pytest.mark.parametrize(
    "name",
    [
        "chat_template",
        "mm_processor_kwargs",
        "prompt_embeds",
        "lora_request",
        "kv_transfer_params",
        "guided_regex",
        "guided_grammar",
        "cache_salt",
        "priority",
        "frobnicate",
    ],
)
def test_what_is_not_in_the_table_is_refused_by_name(name: str, operation: Operation) -> None:
    with pytest.raises(UnsupportedParameter, match=name) as caught:
        check_fields({name: None}, TABLES[operation])
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio", {"voice": "alloy", "format": "mp3"}),
        ("function_call", "auto"),
        ("functions", []),
        ("moderation", {"model": "x"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
    ],
)
def test_what_openai_has_and_nothing_here_serves_may_be_null_and_nothing_else(name: str, value: Any) -> None:
    assert check_fields({name: None}, TABLES["chat"]) == {}
    with pytest.raises(UnsupportedParameter, match=f"^{name} is not a parameter of this API; leave it out$") as caught:
        check_fields({name: value}, TABLES["chat"])
    assert caught.value.param == name
    with pytest.raises(UnsupportedParameter, match=name):
        check_fields({name: None}, TABLES["completion"])


def test_a_parameter_of_the_other_operation_is_refused() -> None:
    with pytest.raises(UnsupportedParameter):
        check_fields({"messages": []}, TABLES["completion"])
    with pytest.raises(UnsupportedParameter):
        check_fields({"prompt": "x"}, TABLES["chat"])


def test_only_what_is_about_the_answer_is_forwarded_and_null_is_nothing() -> None:
    body = {"model": "auto", "routing": {}, "stream": True, "user": "me", "temperature": 0, "stop": None}
    assert check_fields(body, TABLES["chat"]) == {"temperature": 0}


def assert_refused(field: str, value: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_fields({field: value}, TABLES["chat"])
    assert refused.value.param == param
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("tools", "param", "message"),
    [
        ([TOOL] * 129, "tools", "tools has 129 entries; at most 128 are taken"),
        ([TOOL, {**TOOL, "cache_control": {}}], "tools[1].cache_control", "is not a parameter of this API"),
        ([{**TOOL, "type": "web"}], "tools[0].type", 'tools[0].type must be "function"'),
        ([TOOL, {**TOOL, "function": {"name": "x" * 65}}], "tools[1].function.name", "a text of 1 to 64 characters"),
        ([{**TOOL, "function": {"name": "f", "parameters": 1}}], "tools[0].function.parameters", "must be an object"),
        ([{**TOOL, "function": {"name": "f", "strict": 1}}], "tools[0].function.strict", "must be true or false"),
        ([{**TOOL, "function": {"name": "f", "description": 1}}], "tools[0].function.description", "must be a text"),
        ([{**TOOL, "function": {}}], "tools[0].function.name", "is missing"),
        ([{**TOOL, "function": {"name": "f", "description": "x" * 65536}}], "tools[0].function", "at most 65536 bytes"),
        ([1], "tools[0]", "tools[0] must be an object"),
    ],
)
def test_a_wrong_tool_is_named(tools: list[Any], param: str, message: str) -> None:
    assert_refused("tools", tools, param, message)


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ("json", "response_format", "response_format must be an object with the type"),
        ({}, "response_format.type", "response_format.type is missing"),
        ({"type": "xml"}, "response_format.type", 'must be "text" or "json_object" or "json_schema"'),
        ({"type": ["text"]}, "response_format.type", 'must be "text" or "json_object" or "json_schema"'),
        ({"type": "json_object", "json_schema": SCHEMA}, "response_format.json_schema", "is not a parameter"),
        ({"type": "json_schema"}, "response_format.json_schema", "is missing"),
        ({"type": "json_schema", "json_schema": "x"}, "response_format.json_schema", "must be an object"),
        (
            {"type": "json_schema", "json_schema": {**SCHEMA, "strict": "yes"}},
            "response_format.json_schema.strict",
            "must be true or false",
        ),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name", "is missing"),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": 1}},
            "response_format.json_schema.schema",
            "must be an object",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"x": "y" * 65536}}},
            "response_format.json_schema",
            "must be at most 65536 bytes as JSON",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_in_a_format_is_named(asked: Any, param: str, message: str) -> None:
    assert_refused("response_format", asked, param, message)


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ("any", "tool_choice", 'tool_choice must be "none", "auto"'),
        ({"type": "function"}, "tool_choice.function", "is missing"),
        ({"type": "allowed_tools"}, "tool_choice.type", 'must be "function"'),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_choice_of_a_tool_is_named(asked: Any, param: str, message: str) -> None:
    assert_refused("tool_choice", asked, param, message)
