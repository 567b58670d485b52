"""The closed table of what a request's body may hold: OpenAI's fields, and vLLM's extras for sampling.

How it works: each `Parameter` has a bound and says it in words. A field that is not in the table is refused by name;
null is the same as absent. Not here on purpose, and so refused: whatever names a file, an address or code to run, or
changes how a worker reads prompts for everybody (`chat_template`, `mm_processor_kwargs`, `prompt_embeds`, LoRA and
KV-transfer fields, raw regular expressions and grammars).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.api.bodies.checks import (
    Check,
    Misfit,
    any_list,
    any_object,
    at_most,
    boolean,
    by_type,
    closed,
    either,
    integer,
    integers,
    list_of,
    null,
    nullable,
    number,
    one_of,
    text,
)
from app.api.bodies.strict_json import parse_object
from app.errors import InvalidRequest, UnsupportedParameter, shown

# OpenAI has no bound; vLLM allows 16,384 choices and advises 64. Each is a whole answer's work.
MAX_N = 4
MAX_STOPS = 4
MAX_LOGIT_BIAS = 300
MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 64 << 10
MAX_PROMPTS = 64
# Longer than any model's context; the context check itself needs the model.
MAX_TOKENS = 10_000_000
MAX_NAME_CHARS = 256
MAX_STOP_CHARS = 1_024
MAX_TOKEN_ID = 1 << 31
INT64 = 1 << 63
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
VERBOSITIES = ("low", "medium", "high")
_TOKEN_ID_TEXT = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of the body."""

    name: str
    expected: str
    """What its value has to be, in words: `must be ...`."""
    check: Check
    operations: frozenset[str] = frozenset({"chat", "completion"})
    forwarded: bool = True


_STREAM_OPTIONS = closed(include_usage=boolean, include_obfuscation=boolean, continuous_usage_stats=boolean)


def _logit_bias() -> Check:
    biases = number(-100, 100)

    def holds(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and len(value) <= MAX_LOGIT_BIAS
            and all(_TOKEN_ID_TEXT.fullmatch(token) and biases.holds(bias) for token, bias in value.items())
        )

    schema = {
        "type": "object",
        "patternProperties": {f"^{_TOKEN_ID_TEXT.pattern}$": biases.schema},
        "additionalProperties": False,
        "maxProperties": MAX_LOGIT_BIAS,
    }
    return Check(holds, schema)


PLAIN_FORMATS = {name: closed(("type",), type=one_of(name)) for name in ("text", "json_object")}


def _response_format() -> Check:
    """Its schema is the caller's own affair, up to its size; patterns in it are compiled by workers only."""
    form = at_most(
        MAX_SCHEMA_BYTES,
        closed(("name",), name=text(), schema=any_object, description=nullable(text()), strict=nullable(boolean)),
    )
    structured = closed(("type", "json_schema"), type=one_of("json_schema"), json_schema=form)
    return by_type(**PLAIN_FORMATS, json_schema=structured)


def _object_as_text() -> Check:
    """A JSON object in a text, which a worker reads: held to what holds for the body that brings it."""
    short = text(MAX_SCHEMA_BYTES)

    def holds(value: Any) -> bool:
        if not short.holds(value):
            return False
        try:
            parse_object(value.encode())
        except InvalidRequest:
            return False
        return True

    return Check(holds, short.schema)


def _structured_outputs() -> Check:
    """A schema or a choice; patterns and grammars can take a worker's time without end."""
    form = at_most(MAX_SCHEMA_BYTES, either(any_object, _object_as_text()))
    return either(closed(("json",), json=form), closed(("choice",), choice=list_of(text(MAX_STOP_CHARS), 256)))


def function_fields() -> dict[str, Check]:
    """Of the description of a function that a model may call; the name is required."""
    return {
        "name": text(64, 1),
        "description": nullable(text()),
        "parameters": nullable(any_object),
        "strict": nullable(boolean),
    }


def _tool() -> Check:
    function = at_most(MAX_SCHEMA_BYTES, closed(("name",), **function_fields()))
    return closed(("type", "function"), type=one_of("function"), function=function)


def _tool_choice() -> Check:
    named = closed(("type", "function"), type=one_of("function"), function=closed(("name",), name=text(64)))
    return either(one_of("none", "auto", "required"), named)


def _small_map(values: Check) -> Check:
    """An object of at most 16 such values."""
    return Check(
        lambda value: isinstance(value, dict) and len(value) <= 16 and all(map(values.holds, value.values())),
        {"type": "object", "additionalProperties": values.schema, "maxProperties": 16},
    )


def _just(value: object) -> Check:
    """This value, and no other that is equal to it in Python."""
    return Check(lambda given: type(given) is type(value) and given == value, {"const": value})


FALSE = _just(False)
# Fields of OpenAI's that nothing here serves, but that some clients send as null. Anything else is refused by name.
_UNSERVED = Check(lambda _: False, null.schema, lambda path, _: Misfit(path, None))


def unserved(name: str, operations: frozenset[str]) -> Parameter:
    """A field that may only be null."""
    return Parameter(name, "left out", _UNSERVED, operations, forwarded=False)


_TOKEN_ID = integer(0, MAX_TOKEN_ID)
TOKEN_IDS = integers(0, MAX_TOKEN_ID, MAX_TOKENS, 1)
_CHAT, _COMPLETION = frozenset({"chat"}), frozenset({"completion"})
_TOKENS = f"a whole number from 1 to {MAX_TOKENS}"
_TRUTH = "true or false"

_MAIN: tuple[Parameter, ...] = (
    # What both have in common.
    Parameter("model", f"a name of 1 to {MAX_NAME_CHARS} characters", text(MAX_NAME_CHARS, 1), forwarded=False),
    Parameter("routing", "an object", any_object, forwarded=False),
    Parameter("stream", _TRUTH, boolean, forwarded=False),
    Parameter("stream_options", 'an object such as {"include_usage": true}', _STREAM_OPTIONS),
    Parameter("temperature", "a number from 0 to 2", number(0, 2)),
    Parameter("top_p", "a number above 0 and at most 1", number(0, 1, above=True)),
    Parameter("n", f"a whole number from 1 to {MAX_N}", integer(1, MAX_N)),
    Parameter(
        "stop",
        f"a text, or a list of at most {MAX_STOPS} texts",
        either(text(MAX_STOP_CHARS), list_of(text(MAX_STOP_CHARS), MAX_STOPS)),
    ),
    Parameter("frequency_penalty", "a number from -2 to 2", number(-2, 2)),
    Parameter("presence_penalty", "a number from -2 to 2", number(-2, 2)),
    Parameter("seed", "a whole number of 64 bits", integer(-INT64, INT64 - 1)),
    Parameter(
        "logit_bias", f"an object of at most {MAX_LOGIT_BIAS} token ids with numbers from -100 to 100", _logit_bias()
    ),
    Parameter("user", f"a text of at most {MAX_NAME_CHARS} characters", text(MAX_NAME_CHARS), forwarded=False),
    # Chat.
    Parameter("messages", "a list of messages", any_list, _CHAT),
    Parameter("max_tokens", _TOKENS, integer(1, MAX_TOKENS), _CHAT),
    Parameter("max_completion_tokens", _TOKENS, integer(1, MAX_TOKENS), _CHAT),
    Parameter("logprobs", _TRUTH, boolean, _CHAT),
    Parameter("top_logprobs", f"a whole number from 0 to {MAX_TOP_LOGPROBS}", integer(0, MAX_TOP_LOGPROBS), _CHAT),
    Parameter(
        "response_format",
        'an object with the type "text", "json_object" or "json_schema", the latter with a json_schema that has a name '
        f"and a schema of at most {MAX_SCHEMA_BYTES} bytes",
        _response_format(),
        _CHAT,
    ),
    Parameter(
        "tools",
        f"a list of at most {MAX_TOOLS} functions, each with a name and parameters of at most {MAX_SCHEMA_BYTES} bytes",
        list_of(_tool(), MAX_TOOLS),
        _CHAT,
    ),
    Parameter("tool_choice", '"none", "auto", "required", or one function of the tools', _tool_choice(), _CHAT),
    Parameter("parallel_tool_calls", _TRUTH, boolean, _CHAT),
    Parameter(
        "reasoning_effort",
        f"one of {', '.join(EFFORTS)}",
        one_of(*EFFORTS),
        _CHAT,
    ),
    Parameter("verbosity", f"one of {', '.join(VERBOSITIES)}", one_of(*VERBOSITIES), _CHAT),
    Parameter("modalities", 'the list ["text"]', _just(["text"]), _CHAT, forwarded=False),
    Parameter("store", "false: nothing is stored", FALSE, _CHAT, forwarded=False),
    Parameter("metadata", "an object of at most 16 short texts", _small_map(text(512)), _CHAT, forwarded=False),
    Parameter("service_tier", '"auto" or "default"', one_of("auto", "default"), _CHAT, forwarded=False),
    Parameter("safety_identifier", "a short text", text(MAX_NAME_CHARS), _CHAT, forwarded=False),
    Parameter("prompt_cache_key", "a short text", text(MAX_NAME_CHARS), _CHAT, forwarded=False),
    Parameter("prompt_cache_retention", "a short text", text(MAX_NAME_CHARS), _CHAT, forwarded=False),
    *(
        unserved(name, _CHAT)
        for name in ("audio", "function_call", "functions", "moderation", "prediction", "web_search_options")
    ),
    # Text completions.
    Parameter(
        "prompt",
        f"a text, a list of token ids, or a list of at most {MAX_PROMPTS} of either",
        either(
            text(),
            list_of(text(), MAX_PROMPTS, 1),
            TOKEN_IDS,
            list_of(TOKEN_IDS, MAX_PROMPTS, 1),
        ),
        _COMPLETION,
    ),
    # None at all is for who has a text echoed, with its log probabilities.
    Parameter("max_tokens", f"a whole number from 0 to {MAX_TOKENS}", integer(0, MAX_TOKENS), _COMPLETION),
    Parameter("best_of", "1", integer(1, 1), _COMPLETION),
    Parameter("echo", _TRUTH, boolean, _COMPLETION),
    Parameter("suffix", "a text", text(), _COMPLETION),
    Parameter("logprobs", f"a whole number from 0 to {MAX_TOP_LOGPROBS}", integer(0, MAX_TOP_LOGPROBS), _COMPLETION),
    # vLLM's own that a model needs a capability for.
    Parameter("prompt_logprobs", f"a whole number from 0 to {MAX_TOP_LOGPROBS}", integer(0, MAX_TOP_LOGPROBS)),
    Parameter(
        "structured_outputs",
        'an object with either "json", a schema (an object of JSON, or its text), or "choice", a list of texts',
        _structured_outputs(),
    ),
)

# vLLM's own that only steer an answer. A few other servers know them; the rest refuse them, or take no notice.
_EXTRAS = (
    Parameter("top_k", "a whole number from -1 to 1000000", integer(-1, 1_000_000)),
    Parameter("min_p", "a number from 0 to 1", number(0, 1)),
    Parameter("repetition_penalty", "a number above 0 and at most 2", number(0, 2, above=True)),
    Parameter("length_penalty", "a number from -2 to 2", number(-2, 2)),
    Parameter("min_tokens", f"a whole number from 0 to {MAX_TOKENS}", integer(0, MAX_TOKENS)),
    Parameter("ignore_eos", _TRUTH, boolean),
    Parameter("stop_token_ids", "a list of at most 64 token ids", list_of(_TOKEN_ID, 64)),
    Parameter("allowed_token_ids", "a list of at most 1024 token ids", list_of(_TOKEN_ID, 1024)),
    Parameter("bad_words", "a list of at most 64 short texts", list_of(text(64), 64)),
    Parameter("include_stop_str_in_output", _TRUTH, boolean),
    Parameter("skip_special_tokens", _TRUTH, boolean),
    Parameter("spaces_between_special_tokens", _TRUTH, boolean),
    Parameter("add_special_tokens", _TRUTH, boolean),
    Parameter("add_generation_prompt", _TRUTH, boolean, _CHAT),
    Parameter("continue_final_message", _TRUTH, boolean, _CHAT),
    Parameter("include_reasoning", _TRUTH, boolean, _CHAT),
    Parameter("truncate_prompt_tokens", f"-1, or {_TOKENS}", either(_just(-1), integer(1, MAX_TOKENS))),
    Parameter("return_token_ids", _TRUTH, boolean),
    Parameter(
        "chat_template_kwargs",
        "an object of at most 16 texts, numbers and truth values, not nested",
        _small_map(either(boolean, text(MAX_NAME_CHARS), number(-INT64, INT64))),
        _CHAT,
    ),
)

TABLE = (*_MAIN, *_EXTRAS)

TABLES: Mapping[str, Mapping[str, Parameter]] = {
    operation: {one.name: one for one in TABLE if operation in one.operations} for operation in ("chat", "completion")
}
"""By operation."""

EXTRAS = tuple(one.name for one in _EXTRAS)
"""vLLM's own parameters whose absence leaves an answer of the kind that was asked for."""


def shared(*names: str) -> dict[str, Parameter]:
    """Parameters of this table by name, for the table of another operation."""
    return {name: TABLES["completion"].get(name) or TABLES["chat"][name] for name in names}


def check_fields(body: Mapping[str, Any], table: Mapping[str, Parameter]) -> dict[str, Any]:
    """The fields of a body that are forwarded as they are, checked; null ones are left out.

    Raises:
        UnsupportedParameter: a field is not in the table.
        InvalidRequest: a value is out of its bounds.
    """
    forwarded: dict[str, Any] = {}
    for name, value in body.items():
        parameter = table.get(name)
        if parameter is None:
            raise unsupported(name)
        if value is None:
            continue
        if not parameter.check.holds(value):
            raise _refusal(parameter, value)
        if parameter.forwarded:
            forwarded[name] = value
    return forwarded


def _refusal(parameter: Parameter, value: Any) -> InvalidRequest | UnsupportedParameter:
    """Names the part of a value that is wrong, where its check can tell."""
    name, find = parameter.name, parameter.check.find
    misfit = find(name, value) if find else None
    if misfit is None:
        return InvalidRequest(f"{name} must be {parameter.expected}", param=name)
    if misfit.wrong is None:
        return unsupported(misfit.path)
    return InvalidRequest(f"{misfit.path} {misfit.wrong}", param=misfit.path)


def unsupported(name: str, known: Sequence[str] = ()) -> UnsupportedParameter:
    param = shown(name)
    among = f"; known are {', '.join(known)}" if known else ""
    return UnsupportedParameter(f"{param} is not a parameter of this API; leave it out{among}", param=param)
