"""The fault matrix, as far as backends and requests are concerned: what a caller sees of each, and what is done.

Each row is tried twice: where nobody else could answer, and where another backend can.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from tests.fakes.backend import TOKENS, Script
from tests.fakes.caller import Heard, hear, session_to
from tests.fakes.deployment import GATEWAY, Deployment, deployed
from tests.fakes.event_faults import EventFaults
from tests.fakes.fault_proxy import Toxics
from tests.fakes.process import until

pytestmark = pytest.mark.timing

UPSTREAM = {
    "connect_timeout_s": 0.2,
    "first_byte_timeout_s": 0.4,
    "idle_timeout_s": 0.3,
    "total_timeout_s": 1.1,
    "max_attempts": 3,
}
TEXT = "".join(TOKENS)
NOTHING, NO_TOXICS = Script(), Toxics()
ENGINE_DIED = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
BODY = {"message": "the prompt is wrong", "type": "BadRequestError", "param": "messages", "code": 400}


@dataclass(frozen=True)
class Row:
    """One fault of the backend that is tried first."""

    name: str
    status: int
    code: str | None
    """None: the caller is answered."""
    stream: bool = True
    script: Script = NOTHING
    up: Toxics = NO_TOXICS
    down: Toxics = NO_TOXICS
    events: EventFaults | None = None
    refuses: bool = False
    said: str = ""
    """What the caller got before it, at least."""
    retry_after: str | None = None
    should_retry: str | None = None
    calls: int = 1
    """That reach the backend."""
    again: int = 0
    """More calls that reach it, after a moment each, where nobody else could answer."""
    elsewhere: bool = True
    """Whether another backend is asked."""
    counts: bool = True
    """Whether it speaks against the backend: five in a row take it out."""

    @property
    def outcome(self) -> str | None:
        """What the record says: a quota of the backend's is not a limit of the key's."""
        return "upstream_rate_limited" if self.status == 429 else self.code

    @property
    def id(self) -> str:
        return f"{self.name}, {'stream' if self.stream else 'plain'}"


def both(name: str, status: int, code: str | None, **more: Any) -> list[Row]:
    return [Row(name, status, code, stream, **more) for stream in (True, False)]


def begun(name: str, code: str, said: str = "Par", **more: Any) -> Row:
    """A fault after the caller has got something: the status stays, nobody else is asked."""
    return Row(name, 200, code, said=said, elsewhere=False, counts=False, **more)


ROWS = [
    *both("refuses connections", 503, "no_backend", refuses=True, retry_after="1", calls=0),
    *both("resets connections", 502, "bad_upstream", up=Toxics(reset_after_s=0), calls=0),
    *both("closes instead of answering", 502, "bad_upstream", up=Toxics(limit_bytes=0), calls=0),
    *both("says 502", 503, "no_backend", script=Script(status=502), retry_after="1"),
    *both("says 504", 503, "no_backend", script=Script(status=504), retry_after="1"),
    *both("says 503", 503, "no_backend", script=Script(status=503), retry_after="1", counts=False, again=2),
    *both(
        "says 503, and for how long",
        503,
        "no_backend",
        script=Script(status=503, headers={"retry-after": "7"}),
        retry_after="7",
        counts=False,
    ),
    *both("says 500", 502, "bad_upstream", script=Script(status=500)),
    *both(
        "says 429",
        429,
        "rate_limit_exceeded",
        script=Script(status=429, headers={"retry-after": "3"}),
        retry_after="3",
        counts=False,
    ),
    *(
        row
        for status, code in ((400, "invalid_request"), (404, "model_not_found"), (413, "too_large"))
        for row in both(
            f"says {status}", status, code, script=Script(status=status, error=BODY), elsewhere=False, counts=False
        )
    ),
    *both("says 422", 422, "invalid_request", script=Script(status=422, error=BODY), elsewhere=False, counts=False),
    *both("says 401", 502, "bad_upstream", script=Script(status=401), elsewhere=False, counts=False),
    *both("says 403", 502, "bad_upstream", script=Script(status=403), elsewhere=False, counts=False),
    Row("never answers", 504, "upstream_timeout", script=Script(hang=True)),
    Row("is half open", 504, "upstream_timeout", down=Toxics(timeout_s=0)),
    Row("drips a byte a second", 504, "upstream_timeout", down=Toxics(bandwidth_bytes_per_s=1)),
    Row("sends a head, and is reset", 502, "bad_upstream", script=Script(head_then_reset=True)),
    Row("ends before it said anything", 502, "bad_upstream", events=EventFaults(cut_after=1)),
    Row("brings an error first", 502, "bad_upstream", script=Script(error_after=1)),
    Row("sends no JSON first", 502, "bad_upstream", script=Script(garbage_after=0)),
    Row("cuts its body", 502, "bad_upstream", stream=False, script=Script(cut_after=1)),
    Row("resets in its body", 502, "bad_upstream", stream=False, script=Script(head_then_reset=True)),
    Row("sends no JSON", 502, "bad_upstream", stream=False, script=Script(body=b"oops")),
    *both(
        "refuses in a 200",
        400,
        "invalid_request",
        script=Script(error=BODY, error_after=0),
        elsewhere=False,
        counts=False,
    ),
    *both(
        "is over its rate in a 200",
        429,
        "rate_limit_exceeded",
        script=Script(error={**ENGINE_DIED, "code": 429}, error_after=1),
        retry_after="1",
        counts=False,
    ),
    *both(
        "is full in a 200",
        503,
        "no_backend",
        script=Script(error={**ENGINE_DIED, "code": 503}, error_after=1),
        retry_after="1",
        counts=False,
        again=2,
    ),
    Row("brings an error in a 200", 502, "bad_upstream", stream=False, script=Script(error=ENGINE_DIED)),
    begun("falls silent", "upstream_timeout", script=Script(hang_after=2)),
    begun("closes", "upstream_disconnected", events=EventFaults(cut_after=2)),
    begun("resets", "upstream_disconnected", events=EventFaults(cut_after=2, cut_with="RST")),
    begun("ends its body early", "upstream_disconnected", events=EventFaults(cut_after=2, cut_with="end")),
    begun("breaks off in an event", "upstream_disconnected", events=EventFaults(corrupt=3, corrupt_as="truncated")),
    begun("sends broken JSON", "bad_upstream", events=EventFaults(corrupt=3)),
    begun("sends broken UTF-8", "bad_upstream", events=EventFaults(corrupt=3, corrupt_as="utf8")),
    begun("sends an event of over 1 MiB", "bad_upstream", script=Script(("Par", "x" * (1 << 20)))),
    begun("brings an error", "bad_upstream", script=Script(error_after=2)),
    begun("refuses", "bad_upstream", script=Script(error=BODY, error_after=2)),
    begun("never ends", "upstream_timeout", ".", script=Script((".",) * 99, event_delay_s=0.2)),
]


@asynccontextmanager
async def broken(tmp_path: Path, row: Row, *names: str) -> AsyncIterator[Deployment]:
    async with deployed(tmp_path, *names, proxied=True, upstream=UPSTREAM) as deployment:
        backend, proxy = deployment.backends["small"], deployment.proxies["small"]
        backend.script, proxy.up, proxy.down, proxy.events = row.script, row.up, row.down, row.events
        if row.refuses:
            await proxy.stop()
        yield deployment


async def asked(deployment: Deployment, row: Row, model: str) -> Heard:
    async with session_to(deployment.url) as session:
        return await hear(session, model=model, stream=row.stream)


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


def assert_seen(heard: Heard, row: Row) -> None:
    """The status contract, whichever way it went wrong."""
    assert (heard.status, heard.code, heard.whole, heard.done) == (row.status, row.code, True, 0)
    assert heard.headers.get("retry-after") == row.retry_after
    assert heard.headers.get("x-should-retry") == row.should_retry
    if row.status == 200:
        assert heard.text.startswith(row.said)
        assert "".join(row.script.tokens).startswith(heard.text)
    assert set(heard.errors[0]) == {"message", "type", "param", "code"}
    assert "EngineCore" not in heard.errors[0]["message"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_each_fault_is_told_logged_and_counted_as_its_row_says(
    tmp_path: Path, row: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    async with broken(tmp_path, row, "small") as deployment:
        backend = deployment.backends["small"]
        heard = await asked(deployment, row, "small")

        assert_seen(heard, row)
        assert backend.calls == row.calls + row.again
        await until(lambda: backend.in_flight, 0)
        (record,) = [line for line in logged(capsys) if line["event"] == "request.completed"]
        assert (record["outcome"], record.get("model")) == (row.outcome, "small" if row.status == 200 else None)

        await asyncio.gather(*(asked(deployment, row, "small") for _ in range(FAILURES_TO_EJECT - 1)))
        events = [line["event"] for line in logged(capsys)]
        assert ("replica.ejected" in events) == row.counts
        assert ("replica.refused_key" in events) == (row.script.status in (401, 403))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_another_model_answers_where_the_row_says_so(
    tmp_path: Path, row: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    async with broken(tmp_path, row, "small", "large") as deployment:
        heard = await asked(deployment, row, "auto")

        other = deployment.backends["large"]
        assert deployment.backends["small"].calls == row.calls
        (record,) = [line for line in logged(capsys) if line["event"] == "request.completed"]
        if row.elsewhere:
            assert (heard.status, heard.text, heard.done) == (200, TEXT, row.stream)
            assert (heard.headers["x-thalamus-model"], heard.headers["x-thalamus-attempts"]) == ("large", "2")
            assert (record["outcome"], record["reason"], record["attempts"]) == ("ok", "fallback", 2)
            assert other.calls == 1
        else:
            assert_seen(heard, row)
            assert (record["outcome"], record["attempts"], other.calls) == (row.outcome, 1, 0)


async def test_a_stream_without_done_but_with_a_reason_is_whole(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small") as deployment:
        deployment.backends["small"].script = Script(done=False)
        heard = await asked(deployment, Row("", 200, None), "small")
        assert (heard.status, heard.text, heard.done, heard.errors) == (200, TEXT, 1, [])
        registry = deployment.application.telemetry.metrics.registry
        assert registry.get_sample_value("thalamus_done_added_total", {"backend": "small"}) == 1


async def test_a_body_of_over_16_mib_is_not_read_to_its_end(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small", "large") as deployment:
        deployment.backends["small"].script = Script(body=b" " * (16 << 20) + b"{}")
        row = Row("", 502, "bad_upstream", stream=False, should_retry="false")
        alone, helped = await asked(deployment, row, "small"), await asked(deployment, row, "auto")
    assert_seen(alone, row)
    assert (helped.status, helped.headers["x-thalamus-model"], helped.text) == (200, "large", TEXT)


@contextmanager
def taking_no_connections() -> Iterator[str]:
    """An address whose queue of connections is full: what is sent there is neither answered nor refused."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("fault", ["takes no connection", "has a name that nobody knows"])
async def test_a_backend_that_cannot_be_connected_to(tmp_path: Path, fault: str, stream: bool) -> None:
    with taking_no_connections() as full:
        url = full if fault == "takes no connection" else "http://nowhere.invalid:80"
        async with deployed(tmp_path, "small", "large", urls={"small": url}, upstream=UPSTREAM) as deployment:
            row = Row("", 503, "no_backend", stream)
            alone, helped = await asked(deployment, row, "small"), await asked(deployment, row, "auto")
    assert (alone.status, alone.code, alone.headers["retry-after"]) == (503, "no_backend", "1")
    assert alone.took_s < UPSTREAM["connect_timeout_s"] + 0.2
    assert (helped.status, helped.headers["x-thalamus-model"], helped.text) == (200, "large", TEXT)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_a_request_that_breaks_two_workers_is_not_given_to_a_third(tmp_path: Path, stream: bool) -> None:
    async with deployed(tmp_path, "small", "large", "huge", upstream=UPSTREAM) as deployment:
        for backend in deployment.backends.values():
            backend.script = Script(status=500)
        heard = await asked(deployment, Row("", 502, "bad_upstream", stream), "auto")
        assert (heard.status, heard.code, heard.headers["x-should-retry"]) == (502, "bad_upstream", "false")
        assert [backend.calls for backend in deployment.backends.values()] == [1, 1, 0]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_when_all_are_over_their_rate_the_shortest_wait_is_told(tmp_path: Path, stream: bool) -> None:
    async with deployed(tmp_path, "small", "large", upstream=UPSTREAM) as deployment:
        for wait_s, backend in zip((9, 4), deployment.backends.values(), strict=True):
            backend.script = Script(status=429, headers={"retry-after": str(wait_s)})
        heard = await asked(deployment, Row("", 429, "rate_limit_exceeded", stream), "auto")
        assert (heard.status, heard.code, heard.headers["retry-after"]) == (429, "rate_limit_exceeded", "4")


async def test_while_all_wait_for_their_rate_the_next_caller_is_told_the_same(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small", "large", upstream=UPSTREAM) as deployment:
        for backend in deployment.backends.values():
            backend.script = Script(status=429, headers={"retry-after": "9"})
        heard = [await asked(deployment, Row("", 429, "rate_limit_exceeded"), "auto") for _ in range(2)]
        assert [one.headers["retry-after"] for one in heard] == ["9", "9"]
        assert [one.code for one in heard] == ["rate_limit_exceeded"] * 2
        assert [backend.calls for backend in deployment.backends.values()] == [1, 1]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_a_request_that_no_model_may_answer_costs_no_call(tmp_path: Path, stream: bool) -> None:
    async with deployed(tmp_path, "small") as deployment, session_to(deployment.url) as session:
        heard = await hear(session, stream=stream, routing={"max_size_b": 1})
    assert (heard.status, json.loads(heard.body)["error"]["code"]) == (422, "no_eligible_model")
    assert "max_size_b" in heard.body.decode()
    assert deployment.backends["small"].calls == 0


async def test_who_is_over_a_limit_is_told_when_to_come_back(tmp_path: Path) -> None:
    limited = {**GATEWAY["keys"][0], "requests_per_minute": 2}
    async with deployed(tmp_path, "small", keys=[limited]) as deployment, session_to(deployment.url) as session:
        heard = [await hear(session, model="small") for _ in range(4)]
    refused = [one for one in heard if one.status == 429]
    assert {one.code for one in refused} == {"rate_limit_exceeded"}
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert deployment.backends["small"].calls == 4 - len(refused) < 4
