"""Which session a call belongs to, under the names that clients know, and whether it is in the middle of a tool call.

`routing.session_id` and its header come first. Other gateways' headers for the same follow, which coding agents send of
themselves, and OpenAI's `prompt_cache_key`. That one may stand for all conversations that share a prefix, so with it
conversations are told apart by how they begin. Not taken for a session: `user` and `safety_identifier`, which name a
person with many conversations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from app.domain.request import Conversation, Operation

HEADERS = ("x-session-id", "x-session-affinity")
FIELD = "prompt_cache_key"


def session_id(
    stated: str | None, headers: Mapping[str, str], body: Mapping[str, Any], conversation: Conversation
) -> str | None:
    """What was stated, else what an alias says; None where nobody says anything."""
    if stated is not None:
        return stated
    for header in HEADERS:
        if named := headers.get(header):
            return named
    shared = body.get(FIELD)
    return f"{shared} {_beginning(conversation)}" if shared else None


def in_tool_call(operation: Operation, body: Mapping[str, Any]) -> bool:
    """Whether a model has called a tool and has not yet read, or answered to, all that it returned."""
    if operation == "chat":
        return _in_call_of_messages(body["messages"])
    if operation == "responses" and not isinstance(body["input"], str):
        return _in_call_of_items(body["input"])
    return False


def has_tool_calls(operation: Operation, body: Mapping[str, Any]) -> bool:
    """Whether a model has called a tool so far, which only one that can do so can read."""
    if operation == "chat":
        return any(message["role"] == "tool" or message.get("tool_calls") for message in body["messages"])
    if operation == "responses" and not isinstance(body["input"], str):
        return any(item.get("type") in ("function_call", "function_call_output") for item in body["input"])
    return False


def _beginning(conversation: Conversation) -> str:
    """A digest of all up to the first user message, which stays while a conversation grows."""
    digest = blake2b(digest_size=8)
    for role, text in conversation:
        digest.update(f"{role}:{len(text)}:{text}".encode(errors="surrogatepass"))
        if role == "user":
            break
    return digest.hexdigest()


def _in_call_of_messages(messages: Sequence[Mapping[str, Any]]) -> bool:
    if messages[-1]["role"] == "tool":
        return True
    answered: set[Any] = set()
    for message in reversed(messages):
        if message["role"] == "tool":
            answered.add(message.get("tool_call_id"))
        elif message["role"] == "assistant":
            return any(call["id"] not in answered for call in message.get("tool_calls") or ())
    return False


def _in_call_of_items(items: Sequence[Mapping[str, Any]]) -> bool:
    if items[-1].get("type") == "function_call_output":
        return True
    answered = {item["call_id"] for item in items if item.get("type") == "function_call_output"}
    return any(item["call_id"] not in answered for item in items if item.get("type") == "function_call")
