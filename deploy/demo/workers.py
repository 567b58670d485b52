"""The demo's running workers as these scripts see them: who serves which model, and one greedy answer from it."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
from layout import BASE, EXPERTS, SMALL

MODELS = (BASE, *EXPERTS, SMALL)
ANSWER_WITHIN_S = 300.0


@dataclass(frozen=True)
class Answer:
    """Text of an answer and what it took."""

    text: str
    output_tokens: int


def open_session() -> aiohttp.ClientSession:
    """A client whose own limits never hold a request back."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    )


async def find_models(session: aiohttp.ClientSession, urls: list[str]) -> dict[str, list[str]]:
    """Model name → the addresses of the workers that serve it."""
    found: dict[str, list[str]] = {}
    for url in urls:
        async with session.get(f"{url}/v1/models") as reply:
            reply.raise_for_status()
            for model in (await reply.json())["data"]:
                found.setdefault(model["id"], []).append(url)
    return found


async def ask(
    session: aiohttp.ClientSession, url: str, model: str, prompt: str, max_tokens: int, **extra: object
) -> Answer:
    """The model's greedy answer to one user message."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, **extra}
    async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
        if reply.status != 200:
            raise RuntimeError(f"{model} at {url} answered {reply.status}: {(await reply.text())[:200]}")
        answer = await reply.json()
    return Answer(answer["choices"][0]["message"]["content"] or "", answer["usage"]["completion_tokens"])
