"""The official SDK against the gateway in front of real vLLM workers."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

QUESTION = "What is 8 + 5?"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def client(demo_stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{demo_stack.gateway}/v1", api_key=demo_stack.key, max_retries=0)


def test_a_plain_answer_comes_from_the_model_it_names(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": QUESTION}], max_tokens=20, temperature=0
    )

    assert answer.model in {model.id for model in client.models.list()}
    assert answer.choices[0].message.content
    assert answer.usage
    assert answer.usage.completion_tokens > 0


def test_a_stream_says_the_same_as_a_plain_answer_and_ends_with_usage(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": QUESTION}], max_tokens=20, temperature=0
    )
    chunks = list(
        client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert {chunk.model for chunk in chunks} == {plain.model}
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def test_the_responses_door_says_what_the_chat_door_says(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": QUESTION}], max_tokens=20, temperature=0
    )
    response = client.responses.create(model="auto", input=QUESTION, max_output_tokens=20, temperature=0)
    with client.responses.stream(model="auto", input=QUESTION, max_output_tokens=20, temperature=0) as stream:
        streamed = stream.get_final_response()

    for one in (response, streamed):
        assert (one.model, one.output_text) == (chat.model, chat.choices[0].message.content)
        assert one.usage is not None
        assert one.usage.output_tokens > 0


def test_the_raw_response_tells_who_answered_and_why(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": QUESTION}], max_tokens=20
    )

    assert raw.headers["x-thalamus-model"] == raw.parse().model
    assert raw.headers["x-thalamus-reason"] == "best"
    assert raw.headers["x-thalamus-attempts"] == "1"
    assert float(raw.headers["x-thalamus-cost-usd"]) > 0


def test_tools_reach_the_worker_and_its_call_comes_back(client: openai.OpenAI) -> None:
    """The name is the tool's; what a model of this size makes up as arguments is its own business."""
    answer = client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "How is the weather in Rome?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        max_tokens=60,
        temperature=0,
    )

    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert calls[0].id
    assert answer.choices[0].message.content in (None, "")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "gpt-17"}, openai.NotFoundError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"extra_body": {"routing": {"max_cost_usd": 1e-12}}}, openai.UnprocessableEntityError),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, openai.BadRequestError),
    ],
)
def test_errors_become_the_sdk_s_own_classes(
    client: openai.OpenAI, change: dict[str, object], error: type[openai.APIStatusError]
) -> None:
    request: Any = {"model": "auto", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, **change}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**request)
    assert caught.value.code


def test_a_wrong_key_is_an_authentication_error(demo_stack: Stack) -> None:
    stranger = openai.OpenAI(base_url=f"{demo_stack.gateway}/v1", api_key="sk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
