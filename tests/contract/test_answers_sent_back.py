"""Conversations as users of the official client keep them: what they send back are its own objects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, pydantic_function_tool
from pydantic import BaseModel

from tests.fakes.backend import TOKENS, FakeBackend, Script
from tests.fakes.deployment import SECRET, Deployment, deployed

pytestmark = pytest.mark.timing


class City(BaseModel):
    """The weather somewhere."""

    name: str


TEXT, NAMED = "".join(TOKENS), '{"name":"Paris"}'
SAYS_CITY = Script(tokens=(NAMED,))
CALLS = Script(tool_call={"name": "City", "arguments": NAMED})
TOOL: Any = pydantic_function_tool(City)
FUNCTION: Any = {"type": "function", **TOOL["function"]}
ASKED: Any = {"role": "user", "content": "How is the weather in Paris?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "City", "arguments": NAMED}}


@pytest.fixture(scope="module")
def built_types() -> None:
    """The client makes its types at the first answer of each kind, for a second in which a gateway on the same event
    loop would find itself full."""
    asyncio.run(_build_types())


async def _build_types() -> None:
    async with FakeBackend(Script()) as backend, AsyncOpenAI(base_url=f"{backend.url}/v1", api_key="none") as client:
        for answering in (created, parsed, streamed, created_response, parsed_response, streamed_response):
            await answering(client)
        backend.script = CALLS
        for answering in (streamed, streamed_response):
            await answering(client, tools=[TOOL if answering is streamed else FUNCTION])


@pytest.fixture
async def deployment(built_types: None, tmp_path: Path) -> AsyncIterator[Deployment]:
    async with deployed(tmp_path, "small") as running:
        yield running


@pytest.fixture
def backend(deployment: Deployment) -> FakeBackend:
    return deployment.backends["small"]


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key=SECRET, max_retries=0) as client:
        yield client


async def created(client: AsyncOpenAI, **asked: Any) -> Any:
    answer = await client.chat.completions.create(model="small", messages=[ASKED], **asked)
    return answer.choices[0].message


async def parsed(client: AsyncOpenAI, **asked: Any) -> Any:
    answer = await client.chat.completions.parse(model="small", messages=[ASKED], **asked)
    return answer.choices[0].message


async def streamed(client: AsyncOpenAI, **asked: Any) -> Any:
    async with client.chat.completions.stream(model="small", messages=[ASKED], **asked) as stream:
        return (await stream.get_final_completion()).choices[0].message


def as_object(answer: Any) -> Any:
    return answer


def as_dict(answer: Any) -> Any:
    return answer.model_dump()


Answering = Callable[..., Awaitable[Any]]
answered = pytest.mark.parametrize("answered", [created, parsed, streamed])
kept = pytest.mark.parametrize("kept", [as_object, as_dict])


@answered
@kept
async def test_a_call_of_a_function_is_sent_back_with_its_result(
    client: AsyncOpenAI, backend: FakeBackend, answered: Answering, kept: Callable[[Any], Any]
) -> None:
    backend.script = CALLS
    message = await answered(client, tools=[TOOL])

    backend.script = Script()
    result: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    answer = await client.chat.completions.create(model="small", messages=[ASKED, kept(message), result], tools=[TOOL])

    assert answer.choices[0].message.content == TEXT
    told = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert backend.requests[1].body["messages"] == [ASKED, told, result]


@answered
@kept
async def test_a_text_is_sent_back(
    client: AsyncOpenAI, backend: FakeBackend, answered: Answering, kept: Callable[[Any], Any]
) -> None:
    message = await answered(client)
    await client.chat.completions.create(model="small", messages=[ASKED, kept(message), ASKED])
    assert backend.requests[1].body["messages"] == [ASKED, {"role": "assistant", "content": TEXT}, ASKED]


# The client does not know the type of what it made itself.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("answered", [parsed, streamed])
@kept
async def test_a_text_that_became_an_object_is_sent_back_as_a_text(
    client: AsyncOpenAI, backend: FakeBackend, answered: Answering, kept: Callable[[Any], Any]
) -> None:
    backend.script = SAYS_CITY
    message = await answered(client, response_format=City)
    assert message.parsed == City(name="Paris")

    await client.chat.completions.create(model="small", messages=[ASKED, kept(message), ASKED])
    assert backend.requests[1].body["messages"][1] == {"role": "assistant", "content": NAMED}


@pytest.mark.parametrize("answered", [created, streamed])
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_thoughts_are_sent_back(
    client: AsyncOpenAI, backend: FakeBackend, answered: Answering, name: str
) -> None:
    backend.script = Script(reasoning=("Hm", "m."), reasoning_name=name)
    message = await answered(client)
    await client.chat.completions.create(model="small", messages=[ASKED, message, ASKED])
    assert backend.requests[1].body["messages"][1] == {"role": "assistant", "content": TEXT, name: "Hmm."}


@pytest.mark.parametrize(
    "said",
    [
        {"content": TEXT, "refusal": None, "annotations": []},
        {"content": None, "refusal": "I will not say."},
        {"content": None, "reasoning": "It took too long to th", "tool_calls": None},
    ],
    ids=["OpenAI's", "a refusal", "a thought that was cut off"],
)
async def test_other_messages_are_sent_back(client: AsyncOpenAI, backend: FakeBackend, said: dict[str, Any]) -> None:
    backend.script = whole(**said)
    message = await created(client)
    await client.chat.completions.create(model="small", messages=[ASKED, message, ASKED])
    sent = backend.requests[1].body["messages"][1]
    assert sent == {"role": "assistant", "content": None, **{name: value for name, value in said.items() if value}}


THOUGHT = {"type": "reasoning.text", "text": "Hm", "format": "unknown", "index": 0}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CITED = {"type": "url_citation", "url_citation": {"url": "https://x", "title": "x", "start_index": 0, "end_index": 1}}


def whole(**said: Any) -> Script:
    choice = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": "stop"}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "org/small", "choices": [choice]}
    return Script(body=json.dumps(answer).encode())


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_details": [THOUGHT], "images": [PICTURE], "annotations": [CITED]},
        {"prefix": False},
        {"provider_specific_fields": {"refusal": None}, "thinking_blocks": [{"type": "thinking", "thinking": "Hm"}]},
        {"extra_content": {"google": {"thought": False}}},
    ],
    ids=["OpenRouter", "Mistral", "LiteLLM", "Gemini"],
)
@kept
async def test_what_only_one_backend_says_is_not_told_to_the_next(
    client: AsyncOpenAI, backend: FakeBackend, more: dict[str, Any], kept: Callable[[Any], Any]
) -> None:
    backend.script = whole(content=TEXT, **more)
    message = await created(client)
    assert more.keys() <= message.model_dump().keys()
    await client.chat.completions.create(model="small", messages=[ASKED, kept(message), ASKED])
    assert backend.requests[1].body["messages"][1] == {"role": "assistant", "content": TEXT}


@kept
async def test_a_call_is_sent_back_with_its_signature(
    client: AsyncOpenAI, backend: FakeBackend, kept: Callable[[Any], Any]
) -> None:
    signed = {**CALL, "extra_content": {"google": {"thought_signature": "abc"}}}
    backend.script = whole(content=None, tool_calls=[{**signed, "provider_specific_fields": {"thought": "x"}}])
    message = await created(client, tools=[TOOL])
    result: Any = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    await client.chat.completions.create(model="small", messages=[ASKED, kept(message), result], tools=[TOOL])
    assert backend.requests[1].body["messages"][1]["tool_calls"] == [signed]


async def test_a_message_copied_into_its_text_is_sent_back(client: AsyncOpenAI, backend: FakeBackend) -> None:
    message = (await created(client)).model_dump()
    copied: Any = {"type": "text", "text": message.pop("content"), **message, "tool_calls": [], "reasoning": "Hm"}
    kept: Any = {"role": "assistant", "content": [copied]}
    await client.chat.completions.create(model="small", messages=[ASKED, kept, ASKED])
    told = {"role": "assistant", "content": [{"type": "text", "text": TEXT}]}
    assert backend.requests[1].body["messages"] == [ASKED, told, ASKED]


async def created_response(client: AsyncOpenAI, **asked: Any) -> Any:
    return await client.responses.create(model="small", input=[ASKED], **asked)


async def parsed_response(client: AsyncOpenAI, **asked: Any) -> Any:
    return await client.responses.parse(model="small", input=[ASKED], **asked)


async def streamed_response(client: AsyncOpenAI, **asked: Any) -> Any:
    async with client.responses.stream(model="small", input=[ASKED], **asked) as stream:
        return await stream.get_final_response()


responded = pytest.mark.parametrize("responded", [created_response, parsed_response, streamed_response])


@responded
@kept
async def test_a_call_in_a_response_is_sent_back_with_its_result(
    client: AsyncOpenAI, backend: FakeBackend, responded: Answering, kept: Callable[[Any], Any]
) -> None:
    backend.script = CALLS
    response = await responded(client, tools=[FUNCTION])

    backend.script = Script()
    result = {"type": "function_call_output", "call_id": response.output[0].call_id, "output": "sunny"}
    asked = [ASKED, *map(kept, response.output), result]
    answer = await client.responses.create(model="small", input=asked, tools=[FUNCTION])

    assert answer.output_text == TEXT
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "status": "completed"}
    told = {**call, "name": "City", "arguments": NAMED}
    assert backend.requests[1].body["input"] == [ASKED, told, result]


@responded
@kept
async def test_a_message_of_a_response_is_sent_back(
    client: AsyncOpenAI, backend: FakeBackend, responded: Answering, kept: Callable[[Any], Any]
) -> None:
    response = await responded(client)
    await client.responses.create(model="small", input=[ASKED, *map(kept, response.output), ASKED])
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    told = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    assert backend.requests[1].body["input"] == [ASKED, told, ASKED]


@pytest.mark.parametrize("responded", [parsed_response, streamed_response])
@kept
async def test_a_response_that_became_an_object_is_sent_back_as_a_text(
    client: AsyncOpenAI, backend: FakeBackend, responded: Answering, kept: Callable[[Any], Any]
) -> None:
    backend.script = SAYS_CITY
    response = await responded(client, text_format=City)
    assert response.output_parsed == City(name="Paris")

    await client.responses.create(model="small", input=[ASKED, *map(kept, response.output), ASKED])
    assert backend.requests[1].body["input"][1]["content"] == [
        {"type": "output_text", "text": NAMED, "annotations": []}
    ]


@kept
async def test_a_response_that_thought_first_is_sent_back(
    client: AsyncOpenAI, backend: FakeBackend, kept: Callable[[Any], Any]
) -> None:
    thought = {"id": "rs_1", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    unset = dict.fromkeys(("encrypted_content", "status"))
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "model": "org/small", "status": "completed"}
    output = [{**thought, **unset}]
    backend.script = Script(body=json.dumps({**whole, "output": output, "tools": [], "usage": None}).encode())
    response = await created_response(client)
    await client.responses.create(model="small", input=[ASKED, *map(kept, response.output), ASKED])
    assert backend.requests[1].body["input"] == [ASKED, thought, ASKED]
