"""Which attempts are made, in which order, and what the caller hears when none succeeds."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from app.api.bodies.parameters import TABLE
from app.domain.models import Model
from app.errors import (
    AnswerTooLarge,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.answers.answer import MAX_ANSWER_BYTES
from app.upstream.dispatcher import MIN_ATTEMPT_S, Dispatcher, DispatchLimits, begins_within_s
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.replicas import Replicas
from app.upstream.fleet.rests import MAX_REST_S, REST_WHEN_FULL_S
from app.upstream.http.deadline import Deadline, OutOfTime, Timeouts
from app.upstream.http.faults import NoAnswer
from app.upstream.retries import BASE_S, SAVED_AT_MOST, Backoff
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import Does, FakeExchange, FakeUpstream, chunk, event, texts
from tests.fakes.world import REQUEST, catalog, decision, model, request

WHOLE = b'{"choices": [{"message": {"content": "x"}}], "model": "small"}'
SMALL, LARGE, THIRD, FOURTH = model("small"), model("large"), model("third"), model("fourth")


class World:
    def __init__(self, upstream: FakeUpstream, *models: Model, **urls: tuple[str, ...]) -> None:
        self.clock = FakeClock()
        self.upstream = upstream
        self.models = models or (SMALL, LARGE)
        self.log = io.StringIO()
        self.telemetry = Telemetry(log=EventLog(self.log))
        self.replicas = Replicas(catalog(*self.models, urls=urls), self.clock, self.telemetry)
        self.slept_s: list[float] = []
        self.chance = 0.5
        self.limit(DispatchLimits(backoff=Backoff(lambda: self.chance, self._sleep)))

    def limit(self, limits: DispatchLimits) -> None:
        self.dispatcher = Dispatcher(self.upstream, self.replicas, limits, self.clock, self.telemetry)

    async def _sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)

    async def dispatch(self, the_request: Any = REQUEST, seconds: float = 60) -> Any:
        return await self.dispatcher.dispatch(the_request, decision(*self.models), Deadline.after(seconds, self.clock))


@pytest.mark.parametrize(
    "failure", [UpstreamUnreachable("no"), UpstreamTimeout("no"), UpstreamBroken("no"), UpstreamBusy("no")]
)
async def test_a_failed_candidate_falls_back_to_the_next(failure: UpstreamError) -> None:
    world = World(FakeUpstream(small=failure, large=b"hello"))

    served = await world.dispatch(request(stream=True))

    assert texts(b"".join([piece async for piece in served.answer])) == "hello"
    assert (served.candidate.model.name, served.attempts, served.reason) == ("large", 2, "fallback")
    assert world.upstream.asked == ["small", "large"]


async def test_the_first_candidate_answers_alone_when_it_can() -> None:
    world = World(FakeUpstream(small=b"hi", large=b"hello"))
    served = await world.dispatch()
    assert (world.upstream.asked, served.attempts, served.reason) == (["small"], 1, "best")


async def test_another_replica_of_the_same_model_comes_before_another_model() -> None:
    failing = FakeUpstream(small=UpstreamUnreachable("no"), large=b"hello")
    world = World(failing, **{"small-backend": ("http://127.0.0.1:1", "http://127.0.0.1:2")})
    served = await world.dispatch()
    assert world.upstream.asked == ["small", "small", "large"]
    assert served.attempts == 3


async def test_a_replica_that_failed_is_not_asked_again_for_another_of_its_models() -> None:
    one, two = model("one", "shared"), model("two", "shared")
    world = World(FakeUpstream(one=UpstreamUnreachable("no"), two=b"x", large=b"hello"), one, two, LARGE)
    await world.dispatch()
    assert world.upstream.asked == ["one", "large"]


async def test_a_rejected_request_is_not_tried_elsewhere() -> None:
    world = World(FakeUpstream(small=UpstreamRejected("bad", status=400), large=b"hello"))
    with pytest.raises(UpstreamRejected):
        await world.dispatch()
    assert world.upstream.asked == ["small"]


async def test_an_answer_of_a_size_that_the_caller_chose_is_no_failure_of_its_replicas() -> None:
    """Such as a thousand embeddings: another model may have shorter ones, asked again the same is as large."""
    pieces = [b"x" * (1 << 20)] * (1 + (MAX_ANSWER_BYTES >> 20))
    small: list[Does] = [FakeExchange(pieces) for _ in range(FAILURES_TO_EJECT)]
    large: list[Does] = [FakeExchange(pieces) for _ in range(FAILURES_TO_EJECT)]
    world = World(FakeUpstream(small=small, large=large))
    for _ in range(FAILURES_TO_EJECT):
        with pytest.raises(AnswerTooLarge, match="ask for less") as caught:
            await world.dispatch()
    assert world.upstream.asked == ["small", "large"] * FAILURES_TO_EJECT
    assert (caught.value.status, caught.value.headers()) == (502, {"x-should-retry": "false"})
    assert all(replica.ejected_until is None for replica in world.replicas.all)


async def test_no_more_than_three_attempts_are_made() -> None:
    unreachable = UpstreamUnreachable("no")
    upstream = FakeUpstream(small=unreachable, large=unreachable, third=unreachable, fourth=b"x")
    world = World(upstream, SMALL, LARGE, THIRD, FOURTH)
    with pytest.raises(UpstreamUnreachable) as caught:
        await world.dispatch()
    assert world.upstream.asked == ["small", "large", "third"]
    assert (caught.value.status, caught.value.retry_after_s, caught.value.may_retry) == (503, 1, True)


async def test_no_attempt_begins_with_less_than_fifty_milliseconds_left() -> None:
    world = World(FakeUpstream(small=b"x"), SMALL)
    with pytest.raises(OutOfTime) as caught:
        await world.dispatch(seconds=0.04)
    assert (world.upstream.asked, caught.value.status) == ([], 504)


async def test_a_callers_own_short_limit_says_nothing_against_a_replica() -> None:
    """Even where the timer is early, and the clock has not come to the deadline: here it stands still."""
    world = World(FakeUpstream(small=FakeExchange(hangs=True)), SMALL)
    for _ in range(FAILURES_TO_EJECT):
        with pytest.raises(OutOfTime):
            await world.dispatch(seconds=MIN_ATTEMPT_S + 0.001)
    assert world.upstream.asked == ["small"] * FAILURES_TO_EJECT
    assert not world.replicas.ejections.all_out


async def test_a_replica_that_takes_longer_than_the_gateways_own_limit_has_failed() -> None:
    world = World(FakeUpstream(small=FakeExchange(hangs=True)), SMALL)
    world.limit(DispatchLimits(Timeouts(first_byte_s=0.01)))
    with pytest.raises(UpstreamTimeout, match="did not begin") as caught:
        await world.dispatch(request(stream=True))
    assert not isinstance(caught.value, OutOfTime)


async def test_the_backend_is_told_how_long_it_has_at_each_attempt() -> None:
    world = World(FakeUpstream(small=UpstreamBusy("full"), large=b"hello"))
    await world.dispatch(seconds=7)
    assert [message.deadline_s for message in world.upstream.messages] == [7, 7]


async def test_the_backend_is_told_the_callers_trace_at_each_attempt() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    world = World(FakeUpstream(small=UpstreamBusy("full"), large=b"hello"))
    await world.dispatch(request(traceparent=trace))
    assert [message.traceparent for message in world.upstream.messages] == [trace, trace]


async def test_retries_stop_when_their_budget_is_spent() -> None:
    requests = 1000
    small: list[Does] = [UpstreamBusy("full") for _ in range(3 * requests)]
    large: list[Does] = [UpstreamBusy("full") for _ in range(3 * requests)]
    world = World(FakeUpstream(small=small, large=large))
    for _ in range(requests):
        world.clock.advance(REST_WHEN_FULL_S + 0.01)
        with pytest.raises(UpstreamBusy) as caught:
            await world.dispatch()
    earned = (REST_WHEN_FULL_S + 0.01) * requests
    assert requests + SAVED_AT_MOST < len(world.upstream.asked) <= requests + SAVED_AT_MOST + earned
    assert not caught.value.may_retry, "the caller's client should not do what the gateway would not"


async def test_nothing_is_retried_while_all_replicas_are_out() -> None:
    world = World(FakeUpstream(small=UpstreamUnreachable("no"), large=UpstreamUnreachable("no")))
    for _ in range(FAILURES_TO_EJECT):
        with pytest.raises(UpstreamUnreachable):
            await world.dispatch()
    assert world.replicas.ejections.all_out
    world.upstream.asked.clear()
    for _ in range(10):
        with pytest.raises(UpstreamUnreachable):
            await world.dispatch()
    assert len(world.upstream.asked) == 10


@pytest.mark.parametrize("failure", [NoAnswer("closed"), UpstreamBusy("full")])
async def test_the_only_replica_is_asked_again_after_a_moment_when_its_failure_may_be_over(
    failure: UpstreamError,
) -> None:
    world = World(FakeUpstream(small=[failure, b"hi"]), SMALL)
    served = await world.dispatch()
    assert (served.attempts, served.reason, world.upstream.asked) == (2, "best", ["small", "small"])
    assert world.slept_s == [0.5 * BASE_S]


async def test_nobody_waits_for_a_moment_that_his_time_does_not_allow() -> None:
    world = World(FakeUpstream(small=UpstreamBusy("full")), SMALL)
    world.chance = 0.999
    with pytest.raises(UpstreamBusy):
        await world.dispatch(seconds=MIN_ATTEMPT_S + 0.9 * BASE_S)
    assert (world.upstream.asked, world.slept_s) == (["small"], [])


@pytest.mark.parametrize(
    "failure",
    [
        UpstreamBusy("full", retry_after_s=2),
        UpstreamRateLimited("no"),
        UpstreamUnreachable("no"),
        UpstreamTimeout("no"),
        UpstreamBroken("status 500"),
    ],
)
async def test_the_only_replica_is_not_asked_again_when_waiting_a_moment_is_no_help(failure: UpstreamError) -> None:
    world = World(FakeUpstream(small=failure), SMALL)
    with pytest.raises(type(failure)):
        await world.dispatch()
    assert (world.upstream.asked, world.slept_s) == (["small"], [])


async def test_a_replica_that_said_when_to_come_back_is_asked_by_nobody_before() -> None:
    world = World(FakeUpstream(small=[UpstreamBusy("full", retry_after_s=2) for _ in range(99)]), SMALL)
    asked_at = []
    for _ in range(50):
        asked = len(world.upstream.asked)
        with pytest.raises(UpstreamError) as caught:
            await world.dispatch()
        assert caught.value.headers()["retry-after"] in ("1", "2")
        if len(world.upstream.asked) > asked:
            asked_at.append(world.clock())
        world.clock.advance(0.1)
    assert len(asked_at) >= 2
    assert min(later - before for before, later in pairwise(asked_at)) >= 2 - 1e-6


async def test_a_replica_that_fails_too_often_is_used_where_there_is_no_other() -> None:
    world = World(FakeUpstream(small=b"hi", large=b"hello"))
    (small,) = world.replicas.of("small-backend")
    for number in range(40):
        if number % 2:
            world.replicas.failed(small, UpstreamBroken("now and then"))
        else:
            world.replicas.succeeded(small)
    assert small.ejected_until is not None
    assert (await world.dispatch()).candidate.model.name == "large"
    named = await world.dispatcher.dispatch(REQUEST, decision(SMALL), Deadline.after(60, world.clock))
    assert named.candidate.model.name == "small"


async def test_poison_is_not_to_be_sent_again_by_the_caller_either() -> None:
    broken = UpstreamBroken("status 500")
    world = World(FakeUpstream(small=broken, large=broken, third=b"x"), SMALL, LARGE, THIRD)
    with pytest.raises(UpstreamBroken) as caught:
        await world.dispatch()
    assert world.upstream.asked == ["small", "large"]
    assert caught.value.headers()["x-should-retry"] == "false"


async def test_a_replica_that_breaks_twice_is_no_sign_of_poison() -> None:
    world = World(FakeUpstream(small=[NoAnswer("closed"), NoAnswer("closed"), b"hi"]), SMALL)
    assert (await world.dispatch()).attempts == 3


async def test_a_session_stays_with_its_replica_and_is_another_one_under_another_key() -> None:
    urls = tuple(f"http://127.0.0.1:{number}" for number in range(9001, 9005))
    world = World(FakeUpstream(small=b"hi"), SMALL, **{"small-backend": urls})

    async def replica_of(session: str, caller: str) -> str:
        served = await world.dispatcher.dispatch(
            request(session_id=session), decision(SMALL), Deadline.after(60, world.clock), caller
        )
        served.answer.close()
        return str(served.replica)

    homes = {name: {await replica_of(name, "tester") for _ in range(5)} for name in map(str, range(40))}
    assert all(len(home) == 1 for home in homes.values())
    assert len(set.union(*homes.values())) == 4
    others = [await replica_of(name, "somebody") for name in homes]
    assert 0 < sum(other in homes[name] for name, other in zip(homes, others, strict=True)) < 25


@pytest.mark.parametrize("busy", [UpstreamBusy, UpstreamRateLimited])
async def test_when_nobody_can_be_tried_the_caller_hears_why_and_when_to_come_back(busy: type[UpstreamBusy]) -> None:
    world = World(FakeUpstream(small=busy("no", retry_after_s=9)), SMALL)
    with pytest.raises(busy):
        await world.dispatch()
    with pytest.raises(UpstreamError) as caught:
        await world.dispatch()
    assert (caught.value.status, caught.value.code) == (busy.status, busy.code)
    assert caught.value.retry_after_s == 9
    assert world.upstream.asked == ["small"]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "small is bad", "param": "n"}}, (400, "invalid_request", "shown is bad")),
        (400, {"error": {"message": "maximum context length is 512"}}, (400, "context_length_exceeded", "maximum")),
        (
            400,
            {"error": {"message": "The prompt (length 9) is longer than the maximum model length of 8.", "code": 400}},
            (400, "context_length_exceeded", "The prompt (length 9) is longer than"),
        ),
        (400, {"error": {"message": "hate", "code": "content_filter"}}, (400, "invalid_request", "hate")),
        (404, {"detail": "Not Found"}, (404, "model_not_found", "the backend of shown refuses this request")),
        (413, {"error": {"message": "too big"}}, (413, "too_large", "too big")),
        (422, {"error": {"message": "cannot"}}, (422, "invalid_request", "cannot")),
        (401, {"error": "Unauthorized"}, (502, "bad_upstream", "the backend does not accept this gateway's key")),
        (500, {"error": {"message": "trace at host-7"}}, (502, "bad_upstream", "the backend answered with status 500")),
        (302, {}, (502, "bad_upstream", "the backend answered with status 302")),
        (503, {}, (503, "no_backend", "the backend is busy")),
        (502, {}, (503, "no_backend", "the server in front of the backend cannot reach it")),
        (429, {}, (429, "rate_limit_exceeded", "the backend's rate limit is reached")),
    ],
)
async def test_each_status_has_its_meaning(status: int, body: object, expected: tuple[int, str, str]) -> None:
    exchange = FakeExchange([json.dumps(body).encode()], status=status, content_type="application/json")
    world = World(FakeUpstream(small=exchange), model("shown", served_as="small"))
    with pytest.raises(UpstreamError) as caught:
        await world.dispatch()
    error = caught.value
    assert (error.status, error.code) == expected[:2]
    assert error.message.startswith(expected[2])
    assert exchange.closed


OURS = "the backend failed while it answered"


def late(error: dict[str, Any], kind: str) -> FakeExchange:
    """A backend that finds out what is wrong when its status is sent."""
    told: dict[str, Any] = {"error": error}
    before: dict[str, Any] = chunk("")
    if kind == "response":
        told, before = {"type": "error", **told}, {"type": "response.created", "response": {}}
    if "choice" in kind:
        told = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "error", **told}]}
    if "flat" in kind:
        told = {"object": "error", **error}
    if "plain" in kind:
        return FakeExchange([json.dumps(told).encode()], content_type="application/json")
    return FakeExchange([event(before), event(told), event(b"[DONE]")])


KINDS = ["plain", "plain choice", "flat plain", "stream", "streamed choice", "flat stream", "response"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (400, (400, "invalid_request", "shown is bad")),
        ("400", (400, "invalid_request", "shown is bad")),
        (404, (404, "model_not_found", "shown is bad")),
        (413, (413, "too_large", "shown is bad")),
        (422, (422, "invalid_request", "shown is bad")),
        (401, (502, "bad_upstream", "the backend does not accept this gateway's key")),
        (403, (502, "bad_upstream", "the backend does not accept this gateway's key")),
        (429, (429, "rate_limit_exceeded", "the backend's rate limit is reached")),
        (503, (503, "no_backend", "the backend is busy")),
        (529, (503, "no_backend", "the backend is busy")),
        (402, (429, "rate_limit_exceeded", "the gateway's account at the backend has no quota left")),
        (500, (502, "bad_upstream", OURS)),
        (502, (502, "bad_upstream", OURS)),
        ("server_error", (502, "bad_upstream", OURS)),
        ("４００", (502, "bad_upstream", OURS)),
        (True, (502, "bad_upstream", OURS)),
        (400.0, (502, "bad_upstream", OURS)),
        (200, (502, "bad_upstream", OURS)),
        (10**400, (502, "bad_upstream", OURS)),
        (None, (502, "bad_upstream", OURS)),
    ],
)
async def test_an_error_in_a_200_means_what_its_code_says(
    code: object, expected: tuple[int, str, str], kind: str
) -> None:
    error = {"message": "small is bad", "param": "n", "code": code}
    exchanges: list[Does] = [late(error, kind) for _ in range(9)]
    world = World(FakeUpstream(small=exchanges), model("shown", served_as="small"))
    asked = request(stream="plain" not in kind, operation="responses" if kind == "response" else "chat")
    with pytest.raises(UpstreamError) as caught:
        await world.dispatch(asked)
    raised = caught.value
    assert (raised.status, raised.code) == expected[:2]
    assert raised.message.startswith(expected[2])
    assert raised.param == ("n" if raised.message == "shown is bad" else None)


async def test_a_request_that_is_refused_in_a_200_ejects_nobody_and_is_not_tried_elsewhere() -> None:
    error = {"message": "out-of-vocab token ids", "code": 400}
    small: list[Does] = [late(error, kind) for kind in ("plain", "stream") * FAILURES_TO_EJECT]
    world = World(FakeUpstream(small=small, large=b"hello"))
    for stream in (False, True) * FAILURES_TO_EJECT:
        with pytest.raises(UpstreamRejected, match="out-of-vocab"):
            await world.dispatch(request(stream=stream))
    assert set(world.upstream.asked) == {"small"}
    assert all(replica.ejected_until is None for replica in world.replicas.all)


async def test_an_error_in_a_200_that_is_too_long_is_told_in_our_words() -> None:
    world = World(FakeUpstream(small=late({"message": "x" * (1 << 17), "code": 400}, "plain")))
    with pytest.raises(UpstreamRejected, match="the backend of small refuses this request"):
        await world.dispatch()


async def test_the_body_carries_the_backends_names() -> None:
    renamed = model("shown", served_as="org/Served")
    upstream = FakeUpstream(**{"org/Served": b"x"})
    world = World(upstream, renamed)
    (replica,) = world.replicas.all
    object.__setattr__(replica.backend, "rename", {"max_tokens": "max_completion_tokens"})
    body = {"messages": [], "max_tokens": 5, "stream_options": {"continuous_usage_stats": True}}
    await world.dispatch(request(body=body, stream=True))
    sent = json.loads(upstream.messages[0].body)
    assert sent == {
        "messages": [],
        "max_completion_tokens": 5,
        "model": "org/Served",
        "stream": True,
        "stream_options": {"continuous_usage_stats": True, "include_usage": True},
    }
    assert upstream.messages[0].path == "/chat/completions"


def renaming(world: World, names: dict[str, str | None], backend: str = "small-backend") -> None:
    for replica in world.replicas.of(backend):
        replica.backend = replace(replica.backend, rename=names)


FORWARDED = [one for one in TABLE if one.forwarded and one.name not in ("messages", "prompt")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", sorted({one.name for one in FORWARDED}))
async def test_every_parameter_can_be_renamed_and_left_out(name: str, stream: bool) -> None:
    world = World(FakeUpstream(small=b"x"), SMALL)
    value = {"include_usage": True} if name == "stream_options" else 1
    asked = request(body={"messages": [], name: value}, stream=stream)
    for theirs in ("theirs", None):
        renaming(world, {name: theirs})
        await world.dispatch(asked)
    renamed, without = (json.loads(message.body) for message in world.upstream.messages)
    assert (renamed["theirs"], name in renamed) == (value, False)
    assert not {name, "theirs"} & without.keys()


async def test_a_bound_that_a_caller_gives_in_the_new_form_reaches_a_backend_that_knows_the_old_one() -> None:
    world = World(FakeUpstream(small=b"x"), SMALL)
    renaming(world, {"max_completion_tokens": "max_tokens"})
    for body in ({"max_completion_tokens": 5}, {"max_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}):
        await world.dispatch(request(body={"messages": [], **body}, max_tokens=5))
        sent = json.loads(world.upstream.messages[-1].body)
        assert (sent["max_tokens"], "max_completion_tokens" in sent) == (5, False)


@pytest.mark.parametrize(("kind", "second"), [("openai", "large"), ("vllm", "small")])
async def test_a_backend_that_grants_no_more_requests_rests_until_it_does(kind: Any, second: str) -> None:
    world = World(FakeUpstream(small=FakeExchange([WHOLE], content_type="application/json", used_up_s=9), large=b"y"))
    (replica,) = world.replicas.of("small-backend")
    replica.backend = replace(replica.backend, kind=kind)
    assert (await world.dispatch()).candidate.model.name == "small"
    world.upstream.answers["small"] = b"x"
    assert (await world.dispatch()).candidate.model.name == second
    world.clock.advance(9.1)
    assert (await world.dispatch()).candidate.model.name == "small"


ONE, TWO = model("one", "shared"), model("two", "shared")


def paid(upstream: FakeUpstream, *others: Model) -> World:
    """Two models of a service that is paid for, and others elsewhere."""
    world = World(upstream, ONE, TWO, *others)
    for replica in world.replicas.of("shared"):
        replica.backend = replace(replica.backend, kind="openai")
    return world


def limited(wait_s: int | None = None) -> UpstreamRateLimited:
    return UpstreamRateLimited("slow down", retry_after_s=wait_s)


@pytest.mark.parametrize("wait_s", [None, 60])
async def test_a_model_that_is_over_its_limit_gives_way_to_another_of_its_backend(wait_s: int | None) -> None:
    world = paid(FakeUpstream(one=limited(wait_s), two=b"x", large=b"y"), LARGE)
    served = await world.dispatch()
    assert (served.candidate.model.name, served.attempts, served.reason) == ("two", 2, "fallback")
    assert (await world.dispatch()).candidate.model.name == "two"
    assert world.upstream.asked == ["one", "two", "two"], "nobody asks for it while it rests"


EMPTY = {"error": {"message": "check your plan", "type": "insufficient_quota", "code": "insufficient_quota"}}


def spent(pieces: list[bytes | Exception], status: int = 429, **more: Any) -> FakeExchange:
    return FakeExchange(pieces, status=status, content_type="application/json", **more)


@pytest.mark.parametrize(
    ("status", "told"), [(429, json.dumps(EMPTY).encode()), (402, b'{"error": {"message": "pay"}}')]
)
async def test_an_account_without_money_rests_whole_and_for_long_and_the_operator_hears_why(
    status: int, told: bytes
) -> None:
    world = paid(FakeUpstream(one=spent([told], status), two=b"x", large=b"y"), LARGE)
    served = await world.dispatch()
    assert (served.candidate.model.name, served.attempts) == ("large", 2)
    world.clock.advance(MAX_REST_S - 1)
    await world.dispatch()
    assert world.upstream.asked == ["one", "large", "large"], "no other model of the account is asked meanwhile"
    (line,) = [line for line in map(json.loads, world.log.getvalue().splitlines()) if line["event"] == "quota.spent"]
    assert (line["backend"], line["model"]) == ("shared", "one")


async def test_where_only_an_account_without_money_could_answer_the_caller_hears_so() -> None:
    world = paid(FakeUpstream(one=spent([json.dumps(EMPTY).encode()], retry_after_s=1)))
    for words in ("no quota left", "or its account has no quota left"):
        with pytest.raises(UpstreamRateLimited, match=words) as caught:
            await world.dispatch()
        assert (caught.value.code, caught.value.retry_after_s) == ("rate_limit_exceeded", MAX_REST_S)


@pytest.mark.parametrize(
    "exchange",
    [
        spent([b'{"error": {"code": "rate_limit_exceeded"}}']),
        spent([b"slow down"]),
        spent([b'{"error": ', UpstreamUnreachable("cut")]),
        spent([b'{"error": '], hangs=True),
    ],
)
async def test_a_429_that_does_not_speak_of_money_is_a_rate_limit(exchange: FakeExchange) -> None:
    world = paid(FakeUpstream(one=exchange, two=b"x"))
    assert (await world.dispatch()).candidate.model.name == "two"
    assert "quota.spent" not in world.log.getvalue()
    assert exchange.closed


async def test_a_model_that_used_up_its_quota_gives_way_to_another_of_its_backend() -> None:
    last = FakeExchange([WHOLE], content_type="application/json", used_up_s=9)
    world = paid(FakeUpstream(one=[last, b"x"], two=b"x", large=b"y"), LARGE)
    for _ in range(2):
        await world.dispatch()
    world.clock.advance(9.1)
    await world.dispatch()
    assert world.upstream.asked == ["one", "two", "one"]


@pytest.mark.parametrize("max_attempts", [2, 3])
async def test_an_account_that_is_over_its_limit_gives_way_to_another_backend(max_attempts: int) -> None:
    world = paid(FakeUpstream(one=limited(), two=limited(60), large=b"y"), LARGE)
    world.limit(DispatchLimits(max_attempts=max_attempts))
    served = await world.dispatch()
    assert (served.candidate.model.name, served.attempts) == ("large", 3), "the account has refused once"
    world.clock.advance(59)
    await world.dispatch()
    assert world.upstream.asked == ["one", "two", "large", "large"]


async def test_another_backend_is_asked_only_as_often_as_is_allowed() -> None:
    world = paid(FakeUpstream(one=limited(), two=limited(), large=UpstreamBroken("no"), small=b"y"), LARGE, SMALL)
    world.limit(DispatchLimits(max_attempts=2))
    with pytest.raises(UpstreamBroken):
        await world.dispatch()
    assert world.upstream.asked == ["one", "two", "large"]


async def test_a_model_is_not_asked_for_where_another_one_failed_for_another_reason() -> None:
    world = paid(FakeUpstream(one=UpstreamUnreachable("no"), two=b"x", large=b"y"), LARGE)
    await world.dispatch()
    assert world.upstream.asked == ["one", "large"]


@pytest.mark.parametrize(("waits_s", "told_s"), [((60, 20), 20), ((5, 20), 20), ((None, 20), 20)])
async def test_where_the_account_is_limited_the_caller_hears_when_it_may_be_asked_again(
    waits_s: tuple[int | None, int | None], told_s: int
) -> None:
    world = paid(FakeUpstream(one=limited(waits_s[0]), two=limited(waits_s[1])))
    for _ in range(2):
        with pytest.raises(UpstreamRateLimited) as caught:
            await world.dispatch()
        assert caught.value.retry_after_s == told_s
    assert world.upstream.asked == ["one", "two"]


async def test_where_each_model_has_used_up_its_own_quota_the_caller_hears_the_shortest_wait() -> None:
    one, two = (FakeExchange([WHOLE], content_type="application/json", used_up_s=wait_s) for wait_s in (60, 20))
    world = paid(FakeUpstream(one=one, two=two))
    for _ in range(2):
        await world.dispatch()
    with pytest.raises(UpstreamRateLimited) as caught:
        await world.dispatch()
    assert (caught.value.retry_after_s, world.upstream.asked) == (20, ["one", "two"])


async def test_a_worker_that_is_over_its_limit_is_not_asked_for_another_of_its_models() -> None:
    world = World(FakeUpstream(one=limited(60), two=b"x", large=b"y"), ONE, TWO, LARGE)
    for _ in range(2):
        await world.dispatch()
    assert world.upstream.asked == ["one", "large", "large"]


@pytest.mark.parametrize(("status", "wait_s", "told_s"), [(429, 0.2, 1), (503, 2.5, 3), (529, 2.0, 2), (429, 1e5, 1e5)])
async def test_a_part_of_a_second_is_waited_for_whole(status: int, wait_s: float, told_s: int) -> None:
    world = World(FakeUpstream(small=FakeExchange(status=status, retry_after_s=wait_s)), SMALL)
    with pytest.raises(UpstreamBusy) as caught:
        await world.dispatch()
    assert caught.value.retry_after_s == told_s
    assert world.replicas.rests.retry_after_s([SMALL]) == min(told_s, MAX_REST_S)


@pytest.mark.parametrize(
    ("stream", "max_tokens", "expected_s"),
    [(True, None, 30), (False, 100, 32), (False, 10**6, 600), (False, None, 600)],
)
def test_a_plain_answer_may_take_as_long_as_writing_it_takes(
    stream: bool, max_tokens: int | None, expected_s: float
) -> None:
    asked = request(stream=stream, max_tokens=max_tokens)
    assert begins_within_s(Timeouts(), asked, SMALL) == pytest.approx(expected_s, rel=1e-3)


@pytest.mark.parametrize(("seen_s", "expected_s"), [(None, 32), (0.001, 32), (0.06, 42)])
def test_a_plain_answer_of_a_busy_model_may_take_as_long_as_others_took_of_late(
    seen_s: float | None, expected_s: float
) -> None:
    asked = request(stream=False, max_tokens=100)
    assert begins_within_s(Timeouts(), asked, SMALL, lambda _: seen_s) == pytest.approx(expected_s, rel=1e-3)
