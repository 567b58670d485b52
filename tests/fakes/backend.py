"""A real HTTP server on loopback that answers like a vLLM worker, or fails as its script says.

It is written on plain sockets, because the faults that matter (a reset, a body cut in the middle of a chunk, one byte
at a time) are what HTTP libraries keep from happening.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tests.fakes.other_answers import framed, is_response, response_events, whole_embeddings, whole_response

TOKENS = ("Par", "is", " is", " the", " capital", ".")
UNUSED = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
"""What vLLM writes into every message of a plain answer."""
USAGE = {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}


@dataclass(frozen=True, slots=True)
class Script:
    """How a request is answered. Events count from 1; the first one brings the role, as with vLLM."""

    tokens: tuple[str, ...] = TOKENS
    delay_s: float = 0.0
    """Before the head."""
    event_delay_s: float = 0.0
    """Before each event but the first."""
    end_delay_s: float = 0.0
    """Before the last chunk of a stream's body, which says that it is over."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    """The error object of a status other than 200, or inside a 200."""
    hang: bool = False
    """Never answer."""
    reset: bool = False
    """Reset the connection instead of answering."""
    closes_idle: bool = False
    """Close a connection when the next request comes on it, as servers do that find it has been idle for too long."""
    head_then_reset: bool = False
    cut_after: int | None = None
    """Close the connection after so many events, or in the middle of a plain body."""
    cut_with_reset: bool = False
    hang_after: int | None = None
    garbage_after: int | None = None
    """Send an event that is no JSON after so many."""
    error_after: int | None = None
    """Send an error object after so many events, and [DONE], as vLLM does when its engine dies or it refuses late."""
    finish_reason: str | None = "stop"
    done: bool = True
    usage: Mapping[str, Any] | None = field(default_factory=lambda: dict(USAGE))
    drip_bytes: int | None = None
    """Write so many bytes at a time, each as a packet of its own."""
    body: bytes | None = None
    """A plain answer, as it stands."""
    events: bytes | None = None
    """A stream, as it stands."""
    tool_call: Mapping[str, Any] | None = None
    """Answer with this function call: {"name": ..., "arguments": "..."}."""
    reasoning: tuple[str, ...] = ()
    """What is thought before the answer."""
    reasoning_name: str = "reasoning_content"


@dataclass(frozen=True, slots=True)
class Received:
    """One request, as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class _Reset(Exception):
    """The script says so."""


class FakeBackend:
    """Use it as `async with FakeBackend() as backend`; change `backend.script` at any time."""

    def __init__(
        self,
        script: Script | None = None,
        models: tuple[str, ...] = ("small", "large"),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script or Script()
        self.scripts: dict[str, Script] = {}
        """Scripts of single models; the others follow `script`."""
        self.models = models
        self.tls = tls
        self.key: str | None = None
        """When set, requests under /v1 need it."""
        self.requests: list[Received] = []
        """Completions asked for."""
        self.pages: list[str] = []
        """Paths of other requests."""
        self.aborted = 0
        """Requests whose client went away before the answer was complete."""
        self.in_flight = 0
        self.streamed_bytes = 0
        """Of events, as far as the connections took them."""
        self.running = self.waiting = 0
        """What the metrics page says."""
        self.metrics: str | None = None
        """That page, as it stands."""
        self.metrics_status = 200
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def calls(self) -> int:
        return len(self.requests)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; on the port of last time when there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listener and everything that is open, as a killed process does: nobody is told why."""
        if self._server:
            self._server.close()
        for writer in tuple(self._writers):
            _reset(writer)
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server:
            await self._server.wait_closed()
        self._server = None

    def script_for(self, request: Received) -> Script:
        """How this request is answered."""
        return self.scripts.get(request.body.get("model", ""), self.script)

    async def until(self, in_flight: int, within_s: float = 5.0) -> None:
        """Wait until so many requests are in flight."""
        async with asyncio.timeout(within_s):
            while self.in_flight != in_flight:
                await asyncio.sleep(0.001)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        self._writers.add(writer)
        unread, is_used = bytearray(), False
        try:
            while request := await _read_request(reader, unread):
                if is_used and self.script.closes_idle:
                    break
                if not await self._answer(request, _ended(reader, unread), writer):
                    break
                is_used = True
        except _Reset:
            _reset(writer)
        except (OSError, RuntimeError, asyncio.CancelledError):
            pass  # uvloop has a RuntimeError for what is written to a closed connection
        finally:
            self._connections.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, request: Received, ended: Coroutine[Any, Any, None], writer: asyncio.StreamWriter) -> bool:
        """Answer; return whether the connection can be used again. It cannot once the connection has `ended`."""
        if request.method != "POST":
            ended.close()
            self.pages.append(request.path)
            await self._page(request, writer)
            return True
        self.requests.append(request)
        self.in_flight += 1
        work = asyncio.ensure_future(self._complete(self.script_for(request), request, writer))
        gone = asyncio.ensure_future(ended)
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.aborted += 1
                return False
            return work.result()
        finally:
            self.in_flight -= 1
            for one in (work, gone):
                one.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _page(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path == "/v1/models":
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                await _send(writer, 401, b'{"error":"Unauthorized"}')
                return
            listed = [{"id": model, "object": "model", "max_model_len": 1024} for model in self.models]
            await _send(writer, 200, json.dumps({"object": "list", "data": listed}).encode())
        elif request.path == "/metrics":
            labels = '{engine="0",model_name="x"}'
            gauges = (
                f"vllm:num_requests_running{labels} {self.running}.0\n"
                f"vllm:num_requests_waiting{labels} {self.waiting}.0\n"
            )
            await _send(writer, self.metrics_status, (gauges if self.metrics is None else self.metrics).encode())
        elif request.path == "/version":
            await _send(writer, 200, b'{"version":"0.32.0"}')
        else:
            await _send(writer, 200 if request.path == "/health" else 404, b"")

    async def _complete(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(script.delay_s)
        if script.hang:
            await asyncio.Event().wait()
        if script.reset:
            raise _Reset
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            await _send(writer, 401, b'{"error":"Unauthorized"}')
        elif script.status != 200:
            refusal = script.body if script.body is not None else json.dumps({"error": script.error}).encode()
            await _send(writer, script.status, refusal, script.headers)
        elif request.body.get("stream"):
            return await self._stream(script, request, writer)
        else:
            await self._plain(script, request, writer)
        return script.cut_after is None

    async def _plain(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> None:
        body = script.body if script.body is not None else json.dumps(whole_answer(script, request)).encode()
        if script.head_then_reset:
            writer.write(_head(200, "application/json", script.headers, len(body)))
            await writer.drain()
            raise _Reset
        if script.cut_after is not None:
            writer.write(_head(200, "application/json", script.headers, len(body)) + body[: len(body) // 2])
            await writer.drain()
            return
        await _send(writer, 200, body, script.headers)

    async def _stream(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> bool:
        write = _Chunks(writer, script.drip_bytes)
        writer.write(_head(200, "text/event-stream; charset=utf-8", script.headers, None))
        await writer.drain()
        if script.head_then_reset:
            await asyncio.sleep(0.01)
            raise _Reset
        if script.events is not None:
            await write(script.events)
            await write.end()
            return True
        for number, event in enumerate(events_of(script, request)):
            if number:
                await asyncio.sleep(script.event_delay_s)
            if number == script.cut_after:
                # Let what was written arrive: a reset may overtake it.
                await asyncio.sleep(0.02)
                if script.cut_with_reset:
                    raise _Reset
                return False
            if number == script.hang_after:
                await asyncio.Event().wait()
            if number == script.garbage_after:
                event = '{"choices": [{"delta": {"cont'
            if number == script.error_after:
                await write(f"data: {json.dumps({'error': script.error or _ENGINE_DIED})}\n\ndata: [DONE]\n\n".encode())
                break
            data = framed(event, request)
            await write(data)
            self.streamed_bytes += len(data)
        await asyncio.sleep(script.end_delay_s)
        await write.end()
        return True


_ENGINE_DIED = {
    "message": "EngineCore encountered an issue.",
    "type": "InternalServerError",
    "param": None,
    "code": 500,
}


class _Chunks:
    """Writes pieces of a chunked body."""

    def __init__(self, writer: asyncio.StreamWriter, drip_bytes: int | None) -> None:
        self._writer, self._drip_bytes = writer, drip_bytes

    async def __call__(self, data: bytes) -> None:
        step = self._drip_bytes or len(data)
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            self._writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self._writer.drain()
            if self._drip_bytes:
                await asyncio.sleep(0)

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


def events_of(script: Script, request: Received) -> list[str]:
    """What a stream says, event by event."""
    if is_response(request):
        return response_events(script, request)

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        kind = "chat.completion.chunk" if _is_chat(request) else "text_completion"
        head = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": request.body.get("model")}
        return json.dumps({**head, "choices": choices, **more}, separators=(",", ":"))

    def choice(text: str, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
        said = {"delta": {**delta, "content": text}} if _is_chat(request) else {"text": text}
        return {"index": 0, **said, "finish_reason": finish_reason}

    if script.tool_call:
        call = {"index": 0, "id": "call_1", "type": "function", "function": dict(script.tool_call)}
        delta = {"role": "assistant", "tool_calls": [call]}
        events = [chunk([{"index": 0, "delta": delta, "finish_reason": None}])]
        events.append(chunk([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]))
    else:
        last = len(script.tokens) - 1
        events = [chunk([choice("", role="assistant")])] if _is_chat(request) else []
        events += [chunk([choice("", **{script.reasoning_name: thought})]) for thought in script.reasoning]
        events += [
            chunk([choice(token, script.finish_reason if number == last else None)])
            for number, token in enumerate(script.tokens)
        ]
    options = request.body.get("stream_options") or {}
    if script.usage and options.get("include_usage"):
        events.append(chunk([], usage=script.usage))
    return [*events, "[DONE]"] if script.done else events


def whole_answer(script: Script, request: Received) -> dict[str, Any]:
    """A plain answer."""
    if is_response(request):
        return whole_response(script, request)
    if request.path.endswith("/embeddings"):
        return whole_embeddings(script, request)
    if script.error is not None:
        return {"error": script.error}
    text = "".join(script.tokens)
    message: dict[str, Any] = {"role": "assistant", "content": text, **UNUSED}
    if script.reasoning:
        message[script.reasoning_name] = "".join(script.reasoning)
    finish_reason = script.finish_reason
    if script.tool_call:
        call = {"id": "call_1", "type": "function", "function": dict(script.tool_call)}
        message = {"role": "assistant", "content": None, **UNUSED, "tool_calls": [call]}
        finish_reason = "tool_calls"
    said = {"message": message} if _is_chat(request) else {"text": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion" if _is_chat(request) else "text_completion",
        "created": 1,
        "model": request.body.get("model"),
        "choices": [{"index": 0, **said, "finish_reason": finish_reason}],
        "usage": script.usage,
    }


def _is_chat(request: Received) -> bool:
    return request.path.endswith("/chat/completions")


async def _ended(reader: asyncio.StreamReader, unread: bytearray) -> None:
    """Wait until the client has left; the next request, which may come early, is kept in `unread`."""
    while piece := await reader.read(1 << 16):
        unread += piece


async def _read_request(reader: asyncio.StreamReader, unread: bytearray) -> Received | None:
    """The next request; None where the connection ends first. What was read too much stays in `unread`."""
    while (end := unread.find(b"\r\n\r\n")) < 0:
        if not (piece := await reader.read(1 << 16)):
            return None
        unread += piece
    head = unread[:end].decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    total = end + 4 + int(headers.get("content-length", 0))
    while len(unread) < total:
        if not (piece := await reader.read(1 << 16)):
            return None
        unread += piece
    body = bytes(unread[end + 4 : total])
    del unread[:total]
    return Received(method, path, headers, json.loads(body) if body else {})


def _head(status: int, content_type: str, headers: Mapping[str, str], length: int | None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    writer.write(_head(status, "application/json", headers or {}, len(body)) + body)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the peer gets RST, not FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):  # one that is closed already may have no socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
