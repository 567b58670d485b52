"""A stand-in for a model server, much cheaper than any gateway in front of it: `python -m tests.load.bench.stand_in`.

It says "<name> says t0 t1 ..." to whatever it is asked, whole or as a stream, and reports what it used. It is not a
model of anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from typing import cast

import uvloop

END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STREAMED = re.compile(rb'"stream": ?true')
WANTS_USAGE = re.compile(rb'"include_usage": ?true')


def said_by(name: str, tokens: int) -> list[str]:
    """The pieces of every answer."""
    return [f"{name} says", *(f" t{number}" for number in range(tokens))]


class Voice:
    """What one stand-in answers, made once."""

    def __init__(self, name: str, tokens: int, gap_s: float) -> None:
        self.gap_s = gap_s
        pieces = said_by(name, tokens)
        usage = {"prompt_tokens": 9, "completion_tokens": len(pieces), "total_tokens": 9 + len(pieces)}
        head = {"id": "chatcmpl-bench", "created": 0, "model": name}
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.whole = _answer(
            b"application/json",
            json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}).encode(),
        )
        chunk = {**head, "object": "chat.completion.chunk"}

        def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
            return _event(json.dumps({**chunk, "choices": choices}).encode())

        self.events = [event({"role": "assistant", "content": ""}), *(event({"content": one}) for one in pieces)]
        self.events.append(event({}, "stop"))
        self.usage = _event(json.dumps({**chunk, "choices": [], "usage": usage}).encode())
        self.listed = _answer(
            b"application/json", json.dumps({"object": "list", "data": [{"id": name, "object": "model"}]}).encode()
        )


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
GAUGES = b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"


def _answer(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)


def _event(data: bytes) -> bytes:
    line = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(line), line)


class Connection(asyncio.Protocol):
    """Answers requests one after the other."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._pending = b""
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write

    def connection_lost(self, exc: Exception | None) -> None:
        if self._streaming:
            self._streaming.cancel()

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (end := self._pending.find(END)) >= 0:
            length = LENGTH.search(self._pending, 0, end + 2)
            whole = end + len(END) + (int(length[1]) if length else 0)
            if len(self._pending) < whole:
                return
            head, body = self._pending[:end], self._pending[end + len(END) : whole]
            self._pending = self._pending[whole:]
            self._reply(head, body)

    def _reply(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST"):
            if STREAMED.search(body):
                self._streaming = asyncio.ensure_future(self._stream(WANTS_USAGE.search(body) is not None))
            else:
                self._write(self._voice.whole)
        elif b"/models" in head.partition(b"\r\n")[0]:
            self._write(self._voice.listed)
        else:
            self._write(_answer(b"text/plain; version=0.0.4", GAUGES))

    async def _stream(self, wants_usage: bool) -> None:
        self._write(STREAM_HEAD)
        for number, event in enumerate(self._voice.events):
            self._write(event)
            if self._voice.gap_s:
                await asyncio.sleep(self._voice.gap_s)
            elif number % 8 == 7:  # as a busy server's socket would deliver it: some events at a time
                await asyncio.sleep(0)
        self._write((self._voice.usage if wants_usage else b"") + _event(b"[DONE]") + b"0\r\n\r\n")


async def serve(port: int, voice: Voice) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(voice), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--name", required=True)
    options.add_argument("--tokens", type=int, default=32)
    options.add_argument("--gap-ms", type=float, default=0.0)
    given = options.parse_args()
    uvloop.run(serve(given.port, Voice(given.name, given.tokens, given.gap_ms / 1000)))
