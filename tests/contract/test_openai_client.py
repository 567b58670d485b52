"""The official OpenAI client against the gateway: what it sends is understood, what it gets it understands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.fakes.backend import TOKENS, Script
from tests.fakes.deployment import PLAIN_SECRET, SECRET, Deployment, deployed
from tests.fakes.process import until

pytestmark = pytest.mark.timing

TEXT = "".join(TOKENS)
MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather somewhere.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with deployed(tmp_path, "small", "large") as running:
        yield running


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[AsyncOpenAI]:
    async with _client(deployment) as client:
        yield client


def _client(deployment: Deployment, secret: str = SECRET, retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key=secret, max_retries=retries)


async def test_a_plain_answer(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="auto", messages=MESSAGES, temperature=0, max_tokens=50)
    assert answer.choices[0].message.content == TEXT
    assert answer.model == "small"
    assert answer.usage
    assert answer.usage.total_tokens == 13


async def test_an_answer_in_the_form_of_responses(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model="auto", input="What is the capital of France?", store=False)
    assert (answer.output_text, answer.model, answer.status) == (TEXT, "small", "completed")


async def test_a_stream_in_the_form_of_responses(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="auto", input="What is it?", stream=True, store=False)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert events[-1].type == "response.completed"
    assert events[-1].response.model == "small"


async def test_a_cut_stream_in_the_form_of_responses_raises(deployment: Deployment, client: AsyncOpenAI) -> None:
    deployment.backends["small"].script = Script(cut_after=6)
    with pytest.raises(openai.APIError):
        _ = [event async for event in await client.responses.create(model="small", input="Hi", stream=True)]


async def test_vectors_of_texts(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="small", input=["one", "two"])
    assert [one.index for one in answer.data] == [0, 1]
    assert all(one.embedding for one in answer.data)
    assert answer.model == "small"


async def test_vectors_need_a_model_by_name(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="name a model"):
        await client.embeddings.create(model="auto", input="one")


async def test_a_stream_with_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="auto:cheap", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == TEXT
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 6
    assert {chunk.model for chunk in chunks} == {"small"}


async def test_the_helper_for_streams_has_usage_and_record(client: AsyncOpenAI, deployment: Deployment) -> None:
    asked: Any = {"model": "auto", "messages": MESSAGES, "extra_body": {"routing": {"explain": True}}}
    async with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        told: list[Any] = [event.chunk async for event in stream if event.type == "chunk"]
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == TEXT
    assert answer.usage
    assert answer.usage.completion_tokens == 6
    assert [chunk.thalamus["model"] for chunk in told if hasattr(chunk, "thalamus")] == ["small"]


async def test_a_text_completion(client: AsyncOpenAI, deployment: Deployment) -> None:
    answer = await client.completions.create(model="large", prompt="The capital of France is", echo=True)
    assert (answer.choices[0].text, answer.model) == (TEXT, "large")
    sent = deployment.backends["large"].requests[0].body
    assert (sent["model"], sent["prompt"], sent["echo"]) == ("org/large", "The capital of France is", True)


async def test_the_raw_response_has_the_headers(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=MESSAGES, extra_headers={"x-request-id": "my-id-1"}
    )
    assert raw.headers["x-request-id"] == "my-id-1"
    assert raw.headers["x-thalamus-model"] == "small"
    assert raw.headers["x-thalamus-reason"] == "default"
    assert raw.headers["x-thalamus-attempts"] == "1"
    assert float(raw.headers["x-thalamus-overhead-ms"]) < 1000
    assert float(raw.headers["x-thalamus-cost-usd"]) > 0
    assert raw.headers["x-thalamus-decision-id"]
    assert raw.headers["cache-control"] == "private, no-store"
    assert raw.headers["x-content-type-options"] == "nosniff"
    assert "server" not in raw.headers
    assert raw.parse().choices[0].message.content == TEXT


async def test_tools_are_passed_to_the_worker_and_its_calls_come_back(
    client: AsyncOpenAI, deployment: Deployment
) -> None:
    call = {"name": "get_weather", "arguments": '{"city":"Paris"}'}
    deployment.backends["small"].script = Script(tool_call=call)
    answer = await client.chat.completions.create(
        model="auto", messages=MESSAGES, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False
    )
    made = (answer.choices[0].message.tool_calls or [])[0]
    assert (made.type, answer.choices[0].finish_reason) == ("function", "tool_calls")
    sent = deployment.backends["small"].requests[0].body
    assert (sent["tools"], sent["tool_choice"], sent["parallel_tool_calls"]) == ([WEATHER], "auto", False)

    deployment.backends["small"].script = Script()
    told = [
        *MESSAGES,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": made.id, "content": "sunny"},
    ]
    answer = await client.chat.completions.create(model="auto", messages=told, tools=[WEATHER])
    assert answer.choices[0].message.content == TEXT
    assert deployment.backends["small"].requests[1].body["messages"][2]["content"] == "sunny"


async def test_routing_is_understood_and_not_forwarded(client: AsyncOpenAI, deployment: Deployment) -> None:
    answer: Any = await client.chat.completions.create(
        model="auto",
        messages=MESSAGES,
        extra_body={"routing": {"exclude": ["small"], "explain": True, "deadline_s": 5}, "top_k": 3},
        extra_headers={"x-thalamus-max-size-b": "100"},
    )
    assert answer.model == "large"
    assert answer.thalamus["model"] == "large"
    received = deployment.backends["large"].requests[0]
    assert "routing" not in received.body
    assert received.body["top_k"] == 3
    ours = {name for name in received.headers if name.startswith("x-thalamus")}
    assert ours <= {"x-thalamus-hop", "x-thalamus-deadline-ms"}


async def test_models_are_listed_and_found(client: AsyncOpenAI) -> None:
    listed: dict[str, Any] = {model.id: model async for model in client.models.list()}
    assert list(listed) == ["auto", "auto:cheap", "auto:small", "small", "large"]
    assert listed["auto"].context_length == 4096
    assert "tools" in listed["small"].capabilities
    assert (await client.models.retrieve("large")).id == "large"
    assert (await client.models.retrieve("auto:default")).id == "auto"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("enormous")


@pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
async def test_head_has_no_body_and_leaves_the_connection_for_more(deployment: Deployment, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", deployment.port)
    key = f"host: x\r\nauthorization: Bearer {SECRET}\r\n"
    writer.write(f"HEAD {path} HTTP/1.1\r\n{key}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.write(f"GET {path} HTTP/1.1\r\n{key}connection: close\r\n\r\n".encode())
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (Script(status=400, error={"message": "no", "type": "BadRequestError"}), openai.BadRequestError),
        (Script(status=422, error={"message": "no"}), openai.UnprocessableEntityError),
        (Script(status=429, headers={"retry-after": "3"}), openai.RateLimitError),
        (Script(status=500), openai.InternalServerError),
        (Script(status=503), openai.InternalServerError),
        (Script(body=b"oops"), openai.InternalServerError),
    ],
)
async def test_what_a_backend_does_wrong_is_the_right_exception(
    client: AsyncOpenAI, deployment: Deployment, script: Script, kind: type[openai.APIStatusError]
) -> None:
    deployment.backends["large"].script = script
    with pytest.raises(kind) as caught:
        await client.chat.completions.create(model="large", messages=MESSAGES)
    assert set(caught.value.body or ()) >= {"message", "type", "param", "code"}  # type: ignore[call-overload]
    if caught.value.status_code in (429, 503):
        assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("script", "tries"),
    [
        (Script(status=400, error={"message": "no"}), 1),
        (Script(status=404, error={"message": "no"}), 1),
        (Script(status=413, error={"message": "no"}), 1),
        (Script(status=422, error={"message": "no"}), 1),
        (Script(status=500), 3),
        (Script(status=502), 3),
        (Script(body=b"oops"), 3),
        (Script(hang=True), 3),
    ],
    ids=["400", "404", "413", "422", "500", "502", "no JSON", "never answers"],
)
async def test_the_client_repeats_by_itself_what_may_go_better_the_next_time(
    tmp_path: Path, script: Script, tries: int
) -> None:
    """Its own rule is to repeat 408, 409, 429 and all from 500 on, twice."""
    timeouts = {"first_byte_timeout_s": 0.2}
    async with deployed(tmp_path, "large", upstream=timeouts) as alone, _client(alone, retries=2) as patient:
        alone.backends["large"].script = script
        with pytest.raises(openai.APIStatusError):
            await patient.chat.completions.create(model="large", messages=MESSAGES, max_tokens=1)
        assert alone.backends["large"].calls == tries


@pytest.mark.parametrize("status", [429, 503])
async def test_the_client_comes_back_when_it_was_told_to(deployment: Deployment, status: int) -> None:
    backend = deployment.backends["large"]
    backend.script = Script(status=status, headers={"retry-after": "1"})
    async with _client(deployment, retries=1) as patient:
        began_at = time.monotonic()
        call = asyncio.ensure_future(patient.chat.completions.create(model="large", messages=MESSAGES))
        await until(lambda: backend.calls, 1)
        backend.script = Script()
        answer = await call
    assert answer.choices[0].message.content == TEXT
    assert 1.0 <= time.monotonic() - began_at < 2.5
    assert backend.calls == 2


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script(cut_after=3), "upstream_disconnected"),
        (Script(cut_after=3, cut_with_reset=True), "upstream_disconnected"),
        (Script(garbage_after=3), "bad_upstream"),
        (Script(error_after=3), "bad_upstream"),
        (Script(hang_after=3), "upstream_timeout"),
    ],
    ids=["FIN", "RST", "broken JSON", "engine died", "silence"],
)
async def test_a_begun_stream_that_breaks_raises_its_code_after_what_came_and_is_not_repeated(
    tmp_path: Path, script: Script, code: str
) -> None:
    async with deployed(tmp_path, "small", upstream={"idle_timeout_s": 0.2}) as alone, _client(alone, retries=2) as one:
        alone.backends["small"].script = script
        stream = await one.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        said = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
        with pytest.raises(openai.APIError) as caught:
            await anext(stream)
        assert (said, caught.value.code, alone.backends["small"].calls) == (["", "Par", "is"], code, 1)


async def test_what_a_caller_does_wrong_is_the_right_exception(client: AsyncOpenAI, deployment: Deployment) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="enormous", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await client.chat.completions.create(model="auto", messages=MESSAGES, temperature=7)
    with pytest.raises(openai.UnprocessableEntityError) as impossible:
        await client.chat.completions.create(model="auto", messages=MESSAGES, extra_body={"routing": {"max_size_b": 1}})
    assert impossible.value.code == "no_eligible_model"
    async with _client(deployment, "sk-wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="auto", messages=MESSAGES)
    async with _client(deployment, PLAIN_SECRET) as plain:
        with pytest.raises(openai.PermissionDeniedError):
            await plain.models.list()
        with pytest.raises(openai.NotFoundError):
            await plain.chat.completions.create(model="large", messages=MESSAGES)


async def test_the_client_does_not_repeat_a_request_that_broke_two_workers(deployment: Deployment) -> None:
    for backend in deployment.backends.values():
        backend.script = Script(status=500)
    async with _client(deployment, retries=2) as patient:
        with pytest.raises(openai.InternalServerError) as caught:
            await patient.chat.completions.create(model="auto", messages=MESSAGES)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert sum(backend.calls for backend in deployment.backends.values()) == 2
