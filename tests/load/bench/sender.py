"""Sends requests from so many connections at a time, and checks every answer to the byte."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.load.bench.stand_in import END, LENGTH, said_by

WORDS = [
    "explain",
    "prove",
    "write",
    "solve",
    "list",
    "compare",
    "translate",
    "why",
    "how",
    "integral",
    "river",
    "history",
]


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent."""

    requests: int
    connections: int = 32
    stream: bool = False
    words: int = 24
    """Of each prompt; no prompt comes twice."""
    warm_up: int = 200


@dataclass(slots=True)
class Sent:
    """What came back."""

    answers: Counter[str] = field(default_factory=Counter)
    """By `ok`, or what was wrong."""
    latency_ms: list[float] = field(default_factory=list)


class Sender(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("the connection was lost"))

    async def ask(self, request: bytes) -> bytes:
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)  # type: ignore[attr-defined]
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(END)
        if end < 0 or self._answer is None:
            return
        length = LENGTH.search(self._received, 0, end + 2)
        if length:
            whole = len(self._received) >= end + len(END) + int(length[1])
        else:
            whole = self._received.endswith(b"\r\n0\r\n\r\n")
        if whole and not self._answer.done():
            self._answer.set_result(bytes(self._received))


def requests_of(load: Load, port: int, model: str, key: str, seed: int) -> list[bytes]:
    """Whole requests, each with a prompt of its own."""
    rng = random.Random(seed)
    made = []
    for number in range(load.warm_up + load.requests):
        prompt = f"{number} " + " ".join(rng.choices(WORDS, k=load.words - 1))
        body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        if load.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        payload = json.dumps(body).encode()
        made.append(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (port, key.encode(), len(payload), payload)
        )
    return made


async def send(requests: list[bytes], port: int, load: Load, tokens: int) -> Sent:
    """Send these, `load.connections` at a time."""
    sent, pending = Sent(), iter(requests)

    async def connection() -> None:
        loop = asyncio.get_running_loop()
        transport, sender = await loop.create_connection(Sender, "127.0.0.1", port)
        for request in pending:
            began_at = time.perf_counter()
            try:
                answer = await asyncio.wait_for(sender.ask(request), 60)
            except (OSError, TimeoutError) as exc:
                sent.answers[type(exc).__name__] += 1
                transport.abort()
                transport, sender = await loop.create_connection(Sender, "127.0.0.1", port)
                continue
            sent.latency_ms.append((time.perf_counter() - began_at) * 1e3)
            sent.answers[verdict(answer, stream=load.stream, tokens=tokens)] += 1
            if b"connection: close" in answer.partition(END)[0].lower():
                transport.abort()
                transport, sender = await loop.create_connection(Sender, "127.0.0.1", port)
        transport.close()

    await asyncio.gather(*(connection() for _ in range(load.connections)))
    return sent


def verdict(answer: bytes, *, stream: bool, tokens: int) -> str:
    """`ok` for an answer that is exactly what one stand-in says; else what is wrong with it."""
    head, _, body = answer.partition(END)
    status = head.split(b" ", 2)[1].decode()
    if status != "200":
        return f"status {status}"
    try:
        name, text = _streamed(_unchunked(head, body)) if stream else _whole(_unchunked(head, body))
    except (ValueError, KeyError, IndexError):
        return "unreadable"
    says = text.partition(" ")[0]
    return "ok" if text == "".join(said_by(says, tokens)) and name else "wrong text"


def _unchunked(head: bytes, body: bytes) -> bytes:
    if b"chunked" not in head.lower():
        return body
    whole, position = b"", 0
    while size := int(body[position : (end := body.index(b"\r\n", position))], 16):
        whole += body[end + 2 : end + 2 + size]
        position = end + 4 + size
    return whole


def _whole(body: bytes) -> tuple[str, str]:
    answer = json.loads(body)
    return answer["model"], answer["choices"][0]["message"]["content"]


def _streamed(body: bytes) -> tuple[str, str]:
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    if lines.pop() != b"[DONE]":
        raise ValueError("the stream has no end")
    chunks = [json.loads(line) for line in lines]
    texts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    return chunks[-1]["model"], "".join(texts)
