"""The closed table of what a request's body may hold: OpenAI's fields, and vLLM's extras for sampling.

How it works: each `Parameter` has a bound and says it in words. A field that is not in the table is refused by name;
null is the same as absent. Not here on purpose, and so refused: whatever names a file, an address or code to run, or
changes how a worker reads prompts for everybody (`chat_template`, `mm_processor_kwargs`, `prompt_embeds`, LoRA and
KV-transfer fields, raw regular expressions and grammars).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.api.checks import (
    Check,
    boolean,
    closed,
    either,
    integer,
    integers,
    json_bytes,
    list_of,
    number,
    one_of,
    small_object,
    text,
)
from app.errors import InvalidRequest, UnsupportedParameter

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


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of the body."""

    name: str
    expected: str
    """What its value has to be, in words: `must be ...`."""
    check: Check
    operations: frozenset[str] = frozenset({"chat", "completion"})
    forwarded: bool = True


def _stream_options(value: Any) -> bool:
    return closed(value, include_usage=boolean, include_obfuscation=boolean, continuous_usage_stats=boolean)


def _logit_bias(value: Any) -> bool:
    biases = number(-100, 100)
    return (
        isinstance(value, dict)
        and len(value) <= MAX_LOGIT_BIAS
        and all(
            token.isascii() and token.isdigit() and len(token) < 10 and biases(bias) for token, bias in value.items()
        )
    )


def _response_format(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if value.get("type") in ("text", "json_object"):
        return len(value) == 1
    schema = value.get("json_schema")
    return (
        value.get("type") == "json_schema"
        and len(value) == 2
        and isinstance(schema, dict)
        and isinstance(schema.get("name"), str)
        and isinstance(schema.get("schema", {}), dict)
        and json_bytes(schema) <= MAX_SCHEMA_BYTES
    )


def _structured_outputs(value: Any) -> bool:
    """A schema or a choice; patterns and grammars can take a worker's time without end."""
    choice = list_of(text(MAX_STOP_CHARS), 256)
    schema = either(small_object(MAX_SCHEMA_BYTES), text(MAX_SCHEMA_BYTES))
    return len(value) == 1 and closed(value, json=schema, choice=choice) if isinstance(value, dict) else False


def is_function(value: Any) -> bool:
    """The description of a function that a model may call."""
    return (
        isinstance(value, dict)
        and text(64)(value.get("name"))
        and bool(value["name"])
        and isinstance(value.get("parameters", {}), dict)
        and value.keys() <= {"name", "description", "parameters", "strict"}
        and json_bytes(value) <= MAX_SCHEMA_BYTES
    )


def _tool(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"type", "function"}
        and value["type"] == "function"
        and is_function(value["function"])
    )


def _tool_choice(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("none", "auto", "required")
    return closed(value, type=one_of("function"), function=lambda one: closed(one, name=text(64))) and len(value) == 2


def _metadata(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= 16 and all(map(text(512), value.values()))


def _template_arguments(value: Any) -> bool:
    scalar = either(boolean, text(MAX_NAME_CHARS), number(-INT64, INT64))
    return isinstance(value, dict) and len(value) <= 16 and all(map(scalar, value.values()))


_TOKEN_ID = integer(0, MAX_TOKEN_ID)
TOKEN_IDS = integers(0, MAX_TOKEN_ID, MAX_TOKENS)
_CHAT, _COMPLETION = frozenset({"chat"}), frozenset({"completion"})
_TOKENS = f"a whole number from 1 to {MAX_TOKENS}"
_TRUTH = "true or false"

TABLE: tuple[Parameter, ...] = (
    # What both have in common.
    Parameter("model", f"a name of at most {MAX_NAME_CHARS} characters", text(MAX_NAME_CHARS), forwarded=False),
    Parameter("routing", "an object", lambda value: isinstance(value, dict), forwarded=False),
    Parameter("stream", _TRUTH, boolean, forwarded=False),
    Parameter("stream_options", 'an object such as {"include_usage": true}', _stream_options),
    Parameter("max_tokens", _TOKENS, integer(1, MAX_TOKENS)),
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
        "logit_bias", f"an object of at most {MAX_LOGIT_BIAS} token ids with numbers from -100 to 100", _logit_bias
    ),
    Parameter("user", f"a text of at most {MAX_NAME_CHARS} characters", text(MAX_NAME_CHARS), forwarded=False),
    # Chat.
    Parameter("messages", "a list of messages", lambda value: isinstance(value, list), _CHAT),
    Parameter("max_completion_tokens", _TOKENS, integer(1, MAX_TOKENS), _CHAT),
    Parameter("logprobs", _TRUTH, boolean, _CHAT),
    Parameter("top_logprobs", f"a whole number from 0 to {MAX_TOP_LOGPROBS}", integer(0, MAX_TOP_LOGPROBS), _CHAT),
    Parameter(
        "response_format",
        'an object with the type "text", "json_object" or "json_schema", the latter with a json_schema that has a name '
        f"and a schema of at most {MAX_SCHEMA_BYTES} bytes",
        _response_format,
        _CHAT,
    ),
    Parameter(
        "tools",
        f"a list of at most {MAX_TOOLS} functions, each with a name and parameters of at most {MAX_SCHEMA_BYTES} bytes",
        list_of(_tool, MAX_TOOLS),
        _CHAT,
    ),
    Parameter("tool_choice", '"none", "auto", "required", or one function of the tools', _tool_choice, _CHAT),
    Parameter("parallel_tool_calls", _TRUTH, boolean, _CHAT),
    Parameter(
        "reasoning_effort",
        "one of none, minimal, low, medium, high, xhigh",
        one_of("none", "minimal", "low", "medium", "high", "xhigh"),
        _CHAT,
    ),
    Parameter("modalities", 'the list ["text"]', lambda value: value == ["text"], _CHAT, forwarded=False),
    Parameter("store", "false: nothing is stored", lambda value: value is False, _CHAT, forwarded=False),
    Parameter("metadata", "an object of at most 16 short texts", _metadata, _CHAT, forwarded=False),
    Parameter("service_tier", '"auto" or "default"', one_of("auto", "default"), _CHAT, forwarded=False),
    Parameter("safety_identifier", "a short text", text(MAX_NAME_CHARS), _CHAT, forwarded=False),
    Parameter("prompt_cache_key", "a short text", text(MAX_NAME_CHARS), _CHAT, forwarded=False),
    # Text completions.
    Parameter(
        "prompt",
        f"a text, a list of token ids, or a list of at most {MAX_PROMPTS} of either",
        either(
            lambda value: isinstance(value, str),
            list_of(lambda item: isinstance(item, str), MAX_PROMPTS),
            TOKEN_IDS,
            list_of(TOKEN_IDS, MAX_PROMPTS),
        ),
        _COMPLETION,
    ),
    Parameter("best_of", "1", integer(1, 1), _COMPLETION),
    Parameter("echo", _TRUTH, boolean, _COMPLETION),
    Parameter("suffix", "a text", lambda value: isinstance(value, str), _COMPLETION),
    Parameter("logprobs", f"a whole number from 0 to {MAX_TOP_LOGPROBS}", integer(0, MAX_TOP_LOGPROBS), _COMPLETION),
    # vLLM's extras.
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
    Parameter("prompt_logprobs", f"a whole number from 0 to {MAX_TOP_LOGPROBS}", integer(0, MAX_TOP_LOGPROBS)),
    Parameter("truncate_prompt_tokens", f"a whole number from 1 to {MAX_TOKENS}", integer(1, MAX_TOKENS)),
    Parameter("return_token_ids", _TRUTH, boolean),
    Parameter(
        "structured_outputs",
        'an object with either "json", a schema, or "choice", a list of texts',
        _structured_outputs,
    ),
    Parameter(
        "chat_template_kwargs",
        "an object of at most 16 texts, numbers and truth values, not nested",
        _template_arguments,
        _CHAT,
    ),
)

TABLES: Mapping[str, Mapping[str, Parameter]] = {
    operation: {one.name: one for one in TABLE if operation in one.operations} for operation in ("chat", "completion")
}
"""By operation."""


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
        if not parameter.check(value):
            raise InvalidRequest(f"{name} must be {parameter.expected}", param=name)
        if parameter.forwarded:
            forwarded[name] = value
    return forwarded


def unsupported(name: str, known: Sequence[str] = ()) -> UnsupportedParameter:
    shown = name if len(name) <= 100 else name[:100] + "..."
    among = f"; known are {', '.join(known)}" if known else ""
    return UnsupportedParameter(f"{shown} is not a parameter of this API; leave it out{among}", param=shown)
