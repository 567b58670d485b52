"""The fake backend does what its script says: faults must be real, or the tests on top of it prove nothing."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.clock import FakeClock

STREAM = {"model": "small", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
PATH = "/v1/chat/completions"


async def ask(backend: FakeBackend, body: dict[str, object]) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.post(backend.url + PATH, json=body) as response:
        return response.status, await response.read()


async def test_it_streams_like_a_worker() -> None:
    async with FakeBackend() as backend:
        status, sent = await ask(backend, STREAM)
        events = [part.removeprefix(b"data: ") for part in sent.split(b"\n\n") if part]
        assert (status, events[-1]) == (200, b"[DONE]")
        assert json.loads(events[0])["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert json.loads(events[-2])["usage"]["completion_tokens"] == 6
        assert (backend.calls, backend.aborted, backend.in_flight) == (1, 0, 0)
        assert backend.requests[0].body == STREAM


@pytest.mark.parametrize("script", [Script(reset=True), Script(head_then_reset=True), Script(cut_after=2)])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_cut_is_seen_as_one(script: Script, stream: bool) -> None:
    async with FakeBackend(script) as backend:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await ask(backend, {**STREAM, "stream": stream})


async def test_a_status_comes_with_its_error_and_headers() -> None:
    async with FakeBackend(Script(status=429, error={"message": "no"})) as backend:
        assert await ask(backend, STREAM) == (429, b'{"error": {"message": "no"}}')


async def test_it_sees_a_client_who_leaves() -> None:
    async with FakeBackend(Script(hang=True)) as backend:
        call = asyncio.ensure_future(ask(backend, STREAM))
        await backend.until(in_flight=1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await backend.until(in_flight=0)
        assert backend.aborted == 1


async def test_a_script_may_be_of_one_model() -> None:
    async with FakeBackend() as backend:
        backend.scripts["small"] = Script(status=503)
        assert (await ask(backend, STREAM))[0] == 503
        assert (await ask(backend, {**STREAM, "model": "large"}))[0] == 200


async def test_after_a_stop_it_refuses_and_after_a_start_it_is_back_on_its_port() -> None:
    async with FakeBackend() as backend:
        await backend.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(backend, STREAM)
        await backend.start()
        assert (await ask(backend, STREAM))[0] == 200


async def test_it_has_the_pages_of_a_worker() -> None:
    async with FakeBackend() as backend, aiohttp.ClientSession() as session:
        backend.running, backend.key = 3, "secret"
        async with session.get(backend.url + "/metrics") as response:
            assert b'vllm:num_requests_running{engine="0",model_name="x"} 3.0' in await response.read()
        async with session.get(backend.url + "/v1/models") as response:
            assert response.status == 401
        assert backend.pages == ["/metrics", "/v1/models"]


def test_a_fake_clock_runs_its_timers_in_order_and_not_the_cancelled_ones() -> None:
    clock = FakeClock(now=0)
    seen: list[tuple[str, float]] = []
    clock.call_later(2, lambda: seen.append(("second", clock())))
    clock.call_later(1, lambda: seen.append(("first", clock())))
    clock.call_later(1.5, lambda: seen.append(("never", clock()))).cancel()
    clock.call_later(9, lambda: seen.append(("later", clock())))
    clock.advance(3)
    assert (seen, clock()) == ([("first", 1), ("second", 2)], 3)


async def test_a_client_that_is_quick_with_its_next_request_has_not_left() -> None:
    """Sent with the first one here: what matters is that it lies there before the first answer is over."""
    body = json.dumps({**STREAM, "stream": False}).encode()
    one = b"POST %b HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
    async with FakeBackend(Script(delay_s=0.02)) as backend:
        reader, writer = await asyncio.open_connection("127.0.0.1", backend.port)
        writer.write(one + one)
        for _ in range(2):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert b"Paris is" in await reader.readuntil(b"}}")
        writer.close()
        assert (backend.calls, backend.aborted) == (2, 0)
