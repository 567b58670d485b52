"""The body of a call of the Responses API: the closed table of its fields.

Nothing is stored here, so that whatever refers to an earlier response or a conversation is refused, and so are the
tools that a provider runs itself. vLLM's extras for sampling are those of the other completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from app.api.bodies.checks import (
    Check,
    any_list,
    any_object,
    at_most,
    boolean,
    by_type,
    closed,
    either,
    integer,
    list_of,
    null,
    nullable,
    one_of,
    text,
)
from app.api.bodies.parameters import (
    EFFORTS,
    FALSE,
    MAX_SCHEMA_BYTES,
    MAX_TOKENS,
    MAX_TOOLS,
    PLAIN_FORMATS,
    VERBOSITIES,
    Parameter,
    function_fields,
    shared,
    unserved,
)

_INCLUDABLE = ("message.output_text.logprobs", "reasoning.encrypted_content")
NOT_STORED = "left out: no response is stored here, so send the whole conversation as input"


def _tool() -> Check:
    # OpenAI has two more, which are null where nobody asks for them.
    fields = {**function_fields(), "output_schema": null, "allowed_callers": null}
    return at_most(MAX_SCHEMA_BYTES, closed(("type", "name"), type=one_of("function"), **fields))


def _tool_choice() -> Check:
    named = closed(("type", "name"), type=one_of("function"), name=text(64))
    return either(one_of("none", "auto", "required"), named)


def _format() -> Check:
    form = closed(
        ("type", "name", "schema"),
        type=one_of("json_schema"),
        name=text(64),
        schema=any_object,
        description=nullable(text()),
        strict=nullable(boolean),
    )
    return by_type(**PLAIN_FORMATS, json_schema=at_most(MAX_SCHEMA_BYTES, form))


def _text_config() -> Check:
    return closed(format=nullable(_format()), verbosity=nullable(one_of(*VERBOSITIES)))


def _reasoning() -> Check:
    summary = nullable(one_of("auto", "concise", "detailed"))
    return closed(effort=nullable(one_of(*EFFORTS)), summary=summary, generate_summary=summary)


# Absent, and null is the same.
_NEVER = Check(lambda _: False, null.schema)


_OWN = (
    Parameter("input", "a text, or a list of items", either(text(), any_list)),
    Parameter("instructions", "a text", text()),
    Parameter("max_output_tokens", f"a whole number from 1 to {MAX_TOKENS}", integer(1, MAX_TOKENS)),
    Parameter(
        "tools",
        f"a list of at most {MAX_TOOLS} tools of the type function, each with a name and parameters of at most "
        f"{MAX_SCHEMA_BYTES} bytes",
        list_of(_tool(), MAX_TOOLS),
    ),
    Parameter("tool_choice", '"none", "auto", "required", or one function of the tools', _tool_choice()),
    Parameter(
        "text",
        'an object with a format of the type "text", "json_object" or "json_schema", the latter with a name and a '
        f"schema of at most {MAX_SCHEMA_BYTES} bytes",
        _text_config(),
    ),
    Parameter("reasoning", f"an object with an effort, one of {', '.join(EFFORTS)}", _reasoning()),
    Parameter("include", f"a list of {' and '.join(_INCLUDABLE)}", list_of(one_of(*_INCLUDABLE), len(_INCLUDABLE))),
    Parameter("truncation", '"auto" or "disabled"', one_of("auto", "disabled")),
    Parameter("background", "false: an answer is sent on the call that asked for it", FALSE),
    Parameter("store", "false: nothing is stored", FALSE, forwarded=False),
    Parameter(
        "stream_options",
        'an object such as {"include_obfuscation": false}',
        closed(include_obfuscation=boolean),
        forwarded=False,
    ),
    # Here backends say it again in the response.
    replace(shared("metadata")["metadata"], forwarded=True),
    Parameter("client_metadata", "an object", any_object, forwarded=False),
    Parameter("previous_response_id", NOT_STORED, _NEVER),
    Parameter("conversation", NOT_STORED, _NEVER),
    *(
        unserved(name, frozenset({"responses"}))
        for name in ("context_management", "max_tool_calls", "moderation", "prompt")
    ),
)
_SHARED = (
    "model routing stream user service_tier safety_identifier prompt_cache_key prompt_cache_retention temperature "
    "top_p top_logprobs parallel_tool_calls frequency_penalty presence_penalty logit_bias seed stop top_k min_p "
    "repetition_penalty ignore_eos stop_token_ids include_stop_str_in_output skip_special_tokens include_reasoning "
    "structured_outputs chat_template_kwargs"
)

TABLE: Mapping[str, Parameter] = {**shared(*_SHARED.split()), **{one.name: one for one in _OWN}}
