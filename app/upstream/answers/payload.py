"""The JSON of bodies and answers: read, checked, renamed, and written again only where that is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeGuard

import orjson

from app.errors import GatewayError, UpstreamBroken, UpstreamDisconnected
from app.upstream.answers.json_outline import Things, has_more
from app.upstream.answers.told import ToldFailure, check_told


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


# About four bytes of English are a token; nearly all single tokens of a vocabulary are shorter than 16.
BYTES_PER_TOKEN, ONE_TOKEN_BYTES = 4, 16

# Servers write -9999 for a token that cannot be. What is further from 0 is no log-probability, nor can it be summed up:
# infinity, or a number of hundreds of digits.
UTMOST_LOGPROB = 1e6

# A longer name of a model is no name; nothing is remembered of it.
LONGEST_NAME = 256

# Larger JSON is not read before it is clear that it is not made of very many small things: `{}` takes 3 bytes, and 90
# in memory. The densest real answer tells the 20 likeliest tokens for each of its own, with an object and a list of
# bytes for each: 19 bytes for a bracket at the very least, where all of them are empty.
LARGE_BYTES, BYTES_PER_BRACKET = 256 << 10, 16
# What is read all the same takes a tenth of a second at most: log-probabilities of 84,000 tokens, each with four keys,
# five texts and three brackets, or of 4,000 with the 20 likeliest ones; of embeddings, as many numbers as the largest
# answer has room for.
MOST_THINGS = Things(texts=430_000, brackets=260_000, values=1_400_000, keys=340_000)

# Names that a field of this meaning has in bodies of chats, and nowhere else.
CHAT_ONLY = frozenset({"max_completion_tokens"})

_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object in these bytes.

    Raises:
        UpstreamBroken: they hold something else, or so many small things that reading them would stop everybody.
    """
    if len(data) > LARGE_BYTES:
        _refuse_crumbs(data)
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        parsed = _parse_leniently(data)
    if type(parsed) is not dict:
        raise UpstreamBroken("the backend's answer is not a JSON object")
    return parsed


def _refuse_crumbs(data: bytes) -> None:
    brackets = min(MOST_THINGS.brackets, len(data) // BYTES_PER_BRACKET)
    if has_more(data, MOST_THINGS._replace(brackets=brackets)):
        raise UpstreamBroken("the backend's answer is made of too many small things")


def _parse_leniently(data: bytes) -> Any:
    """Half of a UTF-16 pair has no form of its own in UTF-8, but servers that cut texts send them escaped."""
    try:
        return _decoder.decode(data.decode())
    except (ValueError, RecursionError) as exc:
        raise UpstreamBroken("the backend's answer is not JSON") from exc


def dump(value: object) -> bytes:
    """Compact JSON in UTF-8; what has no UTF-8 form is passed on escaped.

    Raises:
        UpstreamBroken: it came from a backend, and has no such form at all.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return _dump_leniently(value)


def _dump_leniently(value: object) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise UpstreamBroken("the backend's answer cannot be passed on: numbers or nesting without an end") from exc


def choices_of(parsed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The choices of an answer or a chunk that have the form of one."""
    choices = parsed.get("choices")
    return [choice for choice in choices if type(choice) is dict] if type(choices) is list else []


def sound_choices(parsed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The choices of a payload in which no failure is reported.

    Raises:
        ToldFailure: a 200 brought an error object, or a choice that ended in one.
        UpstreamDisconnected: the backend gave up on the answer.
    """
    check_told(parsed)
    choices = choices_of(parsed)
    for choice in choices:
        reason, told = choice.get("finish_reason"), choice.get("error")
        if reason == "abort":
            raise UpstreamDisconnected("the backend stopped before the answer was complete")
        if told or reason == "error":
            raise ToldFailure(told)
    return choices


def count_text_tokens(text: str) -> int:
    """About how many tokens a piece of streamed text has, which is none only if it is empty."""
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return size // BYTES_PER_TOKEN if size > ONE_TOKEN_BYTES else int(size > 0)


def says_something(choice: Mapping[str, Any]) -> bool:
    """Whether a streamed choice brings output, as opposed to a role or a finish reason."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return bool(choice.get("text"))
    return bool(delta.get("content")) or any(value for name, value in delta.items() if name != "role")


def logprobs_of(choice: Mapping[str, Any]) -> list[float]:
    """Log-probabilities of a choice's tokens, in the form of chats or of completions; empty where there are none."""
    told = choice.get("logprobs")
    if type(told) is not dict:
        return []
    found = told.get("token_logprobs")
    if found is None:
        content = told.get("content")
        found = [token.get("logprob") for token in content if type(token) is dict] if type(content) is list else []
    return [one for one in found if is_logprob(one)] if type(found) is list else []


def is_logprob(value: object) -> TypeGuard[float]:
    """Whether it is a number that can be one."""
    return (type(value) is float or type(value) is int) and -UTMOST_LOGPROB <= value <= UTMOST_LOGPROB


def count_tokens(parsed: Mapping[str, Any]) -> int:
    """About how many tokens a plain answer has, where the backend does not say."""
    return sum(_said_bytes(_said(choice)) for choice in choices_of(parsed)) // BYTES_PER_TOKEN


def count_streamed_tokens(choice: Mapping[str, Any]) -> int:
    """About how many tokens a streamed choice that says something brings: one with vLLM, several elsewhere."""
    size = _said_bytes(_said(choice))
    return 1 if size <= ONE_TOKEN_BYTES else size // BYTES_PER_TOKEN


def _said(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("delta", "message"):
        said = choice.get(name)
        if isinstance(said, dict):
            return said
    return {"content": choice.get("text")}


def _said_bytes(said: Mapping[str, Any]) -> int:
    """Length in UTF-8 of text, reasoning, refusal, and calls of functions."""
    # Reasoning has two names, and servers in transition send it under both.
    texts = [said.get("content"), said.get("reasoning_content") or said.get("reasoning"), said.get("refusal")]
    calls = said.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        texts += [function.get("name"), function.get("arguments")] if isinstance(function, dict) else []
    return sum(len(text.encode(errors="replace")) for text in texts if isinstance(text, str))


def renamed(body: Mapping[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    """A body under a backend's names of its fields, without those whose name is None: the backend refuses them."""
    if "messages" not in body:
        names = {ours: theirs for ours, theirs in names.items() if theirs not in CHAT_ONLY}
    return {theirs: value for ours, value in body.items() if (theirs := names.get(ours, ours)) is not None}


def error_object(error: GatewayError) -> dict[str, Any]:
    """An error as OpenAI's clients know it."""
    return {"message": error.message, "type": error.type, "param": error.param, "code": error.code}


def error_event(error: GatewayError) -> bytes:
    """The one event that ends a begun stream; OpenAI's client raises at it."""
    return b"data: %b\n\n" % dump({"error": error_object(error)})


@lru_cache(maxsize=256)
def _fields(name: str) -> tuple[bytes, bytes]:
    """The field with the name of a model in the two ways in which servers write it."""
    shown = dump(name)
    return b'"model":' + shown, b'"model": ' + shown


def names_of_models(data: bytes) -> int:
    """How many fields of this JSON, wherever in it, may be `model`: no server escapes a letter of it without a reason.

    Inside a JSON string the quotes would be escaped.
    """
    return data.count(b'"model"') + data.count(b"\\u006")


class Renamer:
    """Puts the caller's name of the model in place of the backend's, by replacing bytes where that is safe.

    `"model":"x"` cannot occur inside a JSON string, whose quotes are escaped; so where there is no other field of that
    name, it is the field itself. The chunks of a stream mostly begin alike up to this field, so that one comparison
    finds it again.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._seen: object = None
        self._head = self._new_head = b""

    def rename(self, data: bytes, parsed: dict[str, Any], holder: dict[str, Any] | None = None) -> bytes:
        """The same JSON under the caller's name, in one line; `holder` is the object that has it, if not the whole."""
        holder = parsed if holder is None else holder
        name = holder.get("model")
        if b"\n" not in data and names_of_models(data) == 1:
            if name == self._shown:
                return data
            for field in _fields(name) if type(name) is str and len(name) <= LONGEST_NAME else ():
                if field in data:
                    return self._replace(data, field, name)
        holder["model"] = self._shown
        return dump(parsed)

    def event(self, data: bytes, parsed: dict[str, Any]) -> bytes:
        """The event with this data, under the caller's name."""
        if (
            self._head
            and data.startswith(self._head)
            and parsed.get("model") == self._seen
            and b"\n" not in data
            and names_of_models(data) == 1
        ):
            return self._new_head + data[len(self._head) :] + b"\n\n"
        return b"data: " + self.rename(data, parsed) + b"\n\n"

    def _replace(self, data: bytes, field: bytes, name: object) -> bytes:
        before, _, after = data.partition(field)
        shown, _ = _fields(self._shown)
        self._seen, self._head, self._new_head = name, before + field, b"data: " + before + shown
        return before + shown + after
