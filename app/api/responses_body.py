"""The body of a call of the Responses API: the closed table of its fields.

Nothing is stored here, so that whatever refers to an earlier response or a conversation is refused, and so are the
tools that a provider runs itself. vLLM's extras for sampling are those of the other completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.api.checks import Check, boolean, closed, either, integer, json_bytes, list_of, one_of, text
from app.api.parameters import (
    MAX_SCHEMA_BYTES,
    MAX_TOKENS,
    MAX_TOOLS,
    Parameter,
    is_function,
    shared,
)

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_INCLUDABLE = ("message.output_text.logprobs", "reasoning.encrypted_content")
_NOT_STORED = "left out: no response is stored here, so send the whole conversation as input"


def _tool(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("type") != "function":
        return False
    return is_function({name: item for name, item in value.items() if name != "type" and item is not None})


def _tool_choice(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("none", "auto", "required")
    return closed(value, type=one_of("function"), name=text(64)) and len(value) == 2


def _format(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if value.get("type") in ("text", "json_object"):
        return len(value) == 1
    fields: dict[str, Check] = {"name": text(64), "schema": lambda schema: isinstance(schema, dict)}
    optional: dict[str, Check] = {"description": text(MAX_SCHEMA_BYTES), "strict": either(boolean, _absent)}
    return (
        fields.keys() <= value.keys()
        and closed(value, type=one_of("json_schema"), **fields, **optional)
        and "type" in value
        and json_bytes(value) <= MAX_SCHEMA_BYTES
    )


def _text_config(value: Any) -> bool:
    return closed(value, format=either(_format, _absent), verbosity=either(one_of("low", "medium", "high"), _absent))


def _reasoning(value: Any) -> bool:
    summary = either(one_of("auto", "concise", "detailed"), _absent)
    return closed(value, effort=either(one_of(*_EFFORTS), _absent), summary=summary, generate_summary=summary)


def _absent(value: Any) -> bool:
    return value is None


def _never(_: Any) -> bool:
    return False


def _is_input(value: Any) -> bool:
    return isinstance(value, str | list)


_OWN = (
    Parameter("input", "a text, or a list of items", _is_input),
    Parameter("instructions", "a text", lambda value: isinstance(value, str)),
    Parameter("max_output_tokens", f"a whole number from 1 to {MAX_TOKENS}", integer(1, MAX_TOKENS)),
    Parameter(
        "tools",
        f"a list of at most {MAX_TOOLS} tools of the type function, each with a name and parameters of at most "
        f"{MAX_SCHEMA_BYTES} bytes",
        list_of(_tool, MAX_TOOLS),
    ),
    Parameter("tool_choice", '"none", "auto", "required", or one function of the tools', _tool_choice),
    Parameter(
        "text",
        'an object with a format of the type "text", "json_object" or "json_schema", the latter with a name and a '
        f"schema of at most {MAX_SCHEMA_BYTES} bytes",
        _text_config,
    ),
    Parameter("reasoning", f"an object with an effort, one of {', '.join(_EFFORTS)}", _reasoning),
    Parameter("include", f"a list of {' and '.join(_INCLUDABLE)}", list_of(one_of(*_INCLUDABLE), len(_INCLUDABLE))),
    Parameter("truncation", '"auto" or "disabled"', one_of("auto", "disabled")),
    Parameter("background", "false: an answer is sent on the call that asked for it", lambda value: value is False),
    Parameter("store", "false: nothing is stored", lambda value: value is False, forwarded=False),
    Parameter(
        "stream_options",
        'an object such as {"include_obfuscation": false}',
        lambda value: closed(value, include_obfuscation=boolean),
        forwarded=False,
    ),
    Parameter("previous_response_id", _NOT_STORED, _never),
    Parameter("conversation", _NOT_STORED, _never),
)
_SHARED = (
    "model routing stream user metadata service_tier safety_identifier prompt_cache_key temperature top_p top_logprobs "
    "parallel_tool_calls frequency_penalty presence_penalty logit_bias seed stop top_k min_p repetition_penalty "
    "ignore_eos stop_token_ids include_stop_str_in_output skip_special_tokens include_reasoning structured_outputs "
    "chat_template_kwargs"
)

TABLE: Mapping[str, Parameter] = {**shared(*_SHARED.split()), **{one.name: one for one in _OWN}}
