"""Reading workers' queues from their metrics pages."""

from __future__ import annotations

import io
import json
import time

import pytest

from app.errors import AnswerTooLarge, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.answers.refusals import RefusedPage, refused_key
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.replicas import Replicas
from app.upstream.poller import Poller, parse_gauges
from tests.fakes.clock import FakeClock
from tests.fakes.world import catalog, model

PAGE = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="x"} 2.0
vllm:num_requests_running{engine="1",model_name="x"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="x"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="x",reason="capacity"} 4.0
"""


class FakePages:
    def __init__(self, page: bytes | Exception) -> None:
        self.page = page
        self.asked: list[str] = []

    async def fetch(self, backend: str, url: str, timeout_s: float) -> bytes:
        self.asked.append(url)
        if isinstance(self.page, Exception):
            raise self.page
        return self.page


def test_gauges_are_summed_over_engines() -> None:
    assert parse_gauges(PAGE) == {"running": 3, "waiting": 4}


def test_a_page_of_something_else_says_nothing() -> None:
    assert parse_gauges(b"<html>") == {}
    assert parse_gauges(b"vllm:num_requests_running NaN\nvllm:num_requests_waiting Inf\n") == {}


@pytest.mark.parametrize("value", [b"1e308", b"1" * 60, b"9" * 5000, b"-3", b"1e7", b"inf", b"nan", b"0x10", b"many"])
def test_more_requests_than_any_worker_takes_are_not_believed(value: bytes) -> None:
    """The load of a replica is a number to reckon with: two of 1e308 would be one that no float can hold."""
    lines = b'vllm:num_requests_running{engine="0"} %b\n' % value
    assert parse_gauges(2 * lines + b"vllm:num_requests_waiting 4.0\n") == {"waiting": 4}


def test_a_page_of_labels_without_an_end_is_read_once() -> None:
    """A quarter of what may be fetched; searched to its end for each line, it took a minute."""
    page = b"vllm:num_requests_running{\n" * (9 << 10)
    began_s = time.process_time()
    assert parse_gauges(page) == {}
    assert time.process_time() - began_s < 0.5


async def test_what_pages_say_reaches_the_replicas() -> None:
    the_catalog = catalog(model("small", "pool"), urls={"pool": ("http://127.0.0.1:1/v1/",)})
    replicas = Replicas(the_catalog, FakeClock(), Telemetry(log=EventLog(io.StringIO())))
    pages = FakePages(PAGE)
    poller = Poller(pages, replicas)
    (replica,) = replicas.all

    await poller.poll(replicas.all)
    assert pages.asked == ["http://127.0.0.1:1/metrics"]
    assert (replica.running, replica.waiting) == (3, 4)

    pages.page = UpstreamTimeout("slow")
    for _ in range(FAILURES_TO_EJECT):
        await poller.poll(replicas.all)
    assert replica.ejected_until is None, "a page that is slow says nothing about answers"

    pages.page = UpstreamUnreachable("gone")
    for _ in range(FAILURES_TO_EJECT):
        await poller.poll(replicas.all)
    assert replica.ejected_until is not None


@pytest.mark.parametrize(
    ("unread", "why"),
    [
        (AnswerTooLarge("too large"), "it is too large"),
        (refused_key(), "the gateway's key is not accepted there"),
        (RefusedPage("status 404"), "status 404"),
        (b"http_requests_total 5\n", "it has none of vLLM's gauges, or none that can be read"),
        (b"", "it has none of vLLM's gauges, or none that can be read"),
    ],
    ids=str,
)
async def test_a_page_that_cannot_be_read_is_told_of_once_and_takes_no_worker_out(
    unread: UpstreamError | bytes, why: str
) -> None:
    log = io.StringIO()
    the_catalog = catalog(model("small", "pool"), urls={"pool": ("http://127.0.0.1:1/v1",)})
    replicas = Replicas(the_catalog, FakeClock(), Telemetry(log=EventLog(log)))
    pages = FakePages(unread)
    poller = Poller(pages, replicas)
    (replica,) = replicas.all

    for _ in range(2 * FAILURES_TO_EJECT):
        await poller.poll(replicas.all)
    assert (replica.ejected_until, replica.is_away) == (None, False)
    (told,) = map(json.loads, log.getvalue().splitlines())
    assert (told["event"], told["backend"], told["replica"]) == ("page.unread", "pool", replica.url)
    assert told["why"] == why

    for page in (PAGE, unread):
        pages.page = page
        await poller.poll(replicas.all)
    assert log.getvalue().count("page.unread") == 2, "it was read in between"
