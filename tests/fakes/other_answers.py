"""What the fake backend answers where it is asked for a response or for embeddings, as vLLM does."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fakes.backend import Received, Script

UNUSED = dict.fromkeys(("async", "caller", "namespace"))
"""What vLLM writes into every call of a function."""
VECTOR = (0.25, -0.5, 1.0)


def is_response(request: Received) -> bool:
    return request.path.endswith("/responses")


def response_events(script: Script, request: Received) -> list[str]:
    """The events of a streamed response; the last one is left out where the script has no [DONE]."""
    begun = {"response": {**_response(script, request), "status": "in_progress", "output": [], "usage": None}}
    [item] = _output(script)
    place = {"item_id": item["id"], "output_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", **begun},
        {"type": "response.in_progress", **begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        *(_call_events(script, place) if script.tool_call else _text_events(script, place)),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]
    if script.done:
        kind = "incomplete" if script.finish_reason == "length" else "completed"
        events.append({"type": f"response.{kind}", "response": _response(script, request)})
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return [json.dumps(event, separators=(",", ":")) for event in numbered]


def framed(event: str, request: Received) -> bytes:
    """An event as it is written: those of a response have their type in a line of its own."""
    if not is_response(request):
        return f"data: {event}\n\n".encode()
    kind = event.partition('"type":"')[2].partition('"')[0]
    return f"event: {kind}\ndata: {event}\n\n".encode()


def whole_response(script: Script, request: Received) -> dict[str, Any]:
    return {"error": script.error} if script.error is not None else _response(script, request)


def whole_embeddings(script: Script, request: Received) -> dict[str, Any]:
    """The same vector for each input."""
    if script.error is not None:
        return {"error": script.error}
    asked = request.body.get("input")
    count = len(asked) if isinstance(asked, list) and asked and not isinstance(asked[0], int) else 1
    vector: object = list(VECTOR)
    if request.body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
    return {
        "id": "embd-1",
        "object": "list",
        "created": 1,
        "model": request.body.get("model"),
        "data": [{"index": index, "object": "embedding", "embedding": vector} for index in range(count)],
        "usage": _usage_of_embeddings(script),
    }


def _usage_of_embeddings(script: Script) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0, "prompt_tokens_details": None}
    # What a chat would have used says nothing here, unless it is odd on purpose.
    return {**usage, **script.usage} if script.usage and "prompt_tokens_details" in script.usage else usage


def _response(script: Script, request: Received) -> dict[str, Any]:
    is_cut = script.finish_reason == "length"
    return {
        "id": "resp_1",
        "created_at": 1,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": request.body.get("instructions"),
        "metadata": None,
        "model": request.body.get("model"),
        "object": "response",
        "output": _output(script),
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "status": "incomplete" if is_cut else "completed",
        "usage": _usage(script),
    }


def _output(script: Script) -> list[dict[str, Any]]:
    if script.tool_call:
        call = {"name": script.tool_call["name"], "arguments": script.tool_call["arguments"]}
        return [{"id": "fc_1", "type": "function_call", "call_id": "call_1", "status": "completed", **call, **UNUSED}]
    part: dict[str, Any] = {"type": "output_text", "text": "".join(script.tokens), "annotations": [], "logprobs": None}
    return [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}]


def _text_events(script: Script, place: dict[str, Any]) -> list[dict[str, Any]]:
    where = {**place, "content_index": 0}
    part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    deltas = [
        {"type": "response.output_text.delta", **where, "delta": token, "logprobs": []} for token in script.tokens
    ]
    text = "".join(script.tokens)
    return [
        {"type": "response.content_part.added", **where, "part": part},
        *deltas,
        {"type": "response.output_text.done", **where, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **where, "part": {**part, "text": text}},
    ]


def _call_events(script: Script, place: dict[str, Any]) -> list[dict[str, Any]]:
    assert script.tool_call
    name, arguments = script.tool_call["name"], script.tool_call["arguments"]
    return [
        {"type": "response.function_call_arguments.delta", **place, "delta": arguments},
        {"type": "response.function_call_arguments.done", **place, "name": name, "arguments": arguments},
    ]


def _usage(script: Script) -> dict[str, Any] | None:
    if script.usage is None:
        return None
    return {
        "input_tokens": script.usage["prompt_tokens"],
        "input_tokens_details": script.usage.get("prompt_tokens_details", {"cached_tokens": 0}),
        "output_tokens": script.usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": script.usage.get("total_tokens"),
    }
