"""The model that the router names is the one that the dispatcher asks first, whatever its replicas are like."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from app.domain.decision import Decision
from app.domain.models import Backend, Catalog, Model
from app.domain.preferences import Profile
from app.domain.request import Preferences, Request
from app.domain.sessions import Session
from app.errors import NoEligibleModel, UpstreamBroken
from app.routing.candidates import CandidateTable
from app.routing.record import describe
from app.routing.router import Learned, Router
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.dispatcher import Dispatcher, DispatchLimits
from app.upstream.fleet.fleet_view import FLEET_IS_FRESH_S
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.replicas import Replicas
from app.upstream.http.deadline import Deadline
from tests.fakes.clock import FakeClock
from tests.fakes.routing import FakeQualityPredictor
from tests.fakes.upstream import FakeUpstream
from tests.fakes.world import model, request

REQUIRED = Preferences(limits={"require_parameters": True})
BETTER = Preferences(limits={"min_quality": 0.8})
QUALITY = {"small": 0.9, "large": 0.5}


class World:
    """`small` is the better one."""

    def __init__(self, upstream: FakeUpstream, **rename: str | None) -> None:
        models = tuple(replace(model(name), predicted_as=name) for name in QUALITY)
        self.catalog = Catalog(models, tuple(_backend(one, rename) for one in models))
        self.clock, self.upstream = FakeClock(), upstream
        telemetry = Telemetry(log=EventLog(io.StringIO()))
        self.replicas = Replicas(self.catalog, self.clock, telemetry)
        self.dispatcher = Dispatcher(upstream, self.replicas, DispatchLimits(), self.clock, telemetry)
        learned = Learned(FakeQualityPredictor(QUALITY, {}))
        self.router = Router(CandidateTable(self.catalog, tuple(QUALITY)), learned, {"default": Profile()})

    def fails_often(self, name: str) -> Replica:
        """Every third of its requests, so never all in a row."""
        (replica,) = self.replicas.of(f"{name}-backend")
        for turn in range(40):
            if turn % 3 == 2:
                self.replicas.failed(replica, UpstreamBroken("no"))
            else:
                self.replicas.succeeded(replica)
        self.clock.advance(2 * FLEET_IS_FRESH_S)
        assert replica.ejected_until is not None
        assert not replica.is_dead
        return replica

    async def decide(self, asked: Request, session: Session | None = None) -> Decision:
        return await self.router.route(asked, self.replicas.fleet(), session)

    async def serve(self, asked: Request) -> Any:
        return await self.dispatcher.dispatch(asked, await self.decide(asked), Deadline.after(60, self.clock))


def _backend(of: Model, rename: dict[str, str | None]) -> Backend:
    url = f"http://127.0.0.1:9000/{of.name}"
    return Backend(of.backend, "vllm", (url,), rename=rename if of.name == "small" else {})


async def test_a_model_that_only_a_last_resort_serves_comes_after_those_that_are_up() -> None:
    world = World(FakeUpstream(small=b"hi", large=b"hello"))
    world.fails_often("small")

    served = await world.serve(request())

    assert (served.decision.chosen.model.name, served.candidate.model.name) == ("large", "large")
    assert (served.reason, served.attempts) == ("best", 1)
    assert served.decision.why.startswith("small fails too often at the moment, so it is tried last; ")
    record = describe(served.decision)
    assert (record["ranking"], record["counterfactual"]) == (["large", "small"], None)


async def test_it_is_still_tried_where_the_others_fail() -> None:
    world = World(FakeUpstream(small=b"hi", large=UpstreamBroken("no")))
    world.fails_often("small")
    served = await world.serve(request())
    assert (served.candidate.model.name, served.reason, served.attempts) == ("small", "fallback", 2)


@pytest.mark.parametrize("asked", [request(model="small"), request(preferences=BETTER)])
async def test_it_is_chosen_where_nothing_else_is_left(asked: Request) -> None:
    world = World(FakeUpstream(small=b"hi", large=b"hello"))
    world.fails_often("small")
    served = await world.serve(asked)
    assert (served.decision.chosen.model.name, served.candidate.model.name) == ("small", "small")
    assert "tried last" not in served.decision.why


async def test_no_session_stays_with_a_model_that_would_not_be_asked() -> None:
    world = World(FakeUpstream(small=b"hi", large=b"hello"))
    asked = request(conversation=(("user", "a"), ("assistant", ""), ("tool", "b")), in_tool_call=True)
    session = Session.after(asked, "large")
    before = await world.decide(asked, session)
    world.fails_often("large")
    after = await world.decide(asked, session)
    assert [each.chosen.model.name for each in (before, after)] == ["large", "small"]
    assert [each.reason for each in (before, after)] == ["session", "best"]


async def test_under_require_parameters_a_model_that_is_spared_one_of_them_is_no_candidate() -> None:
    world = World(FakeUpstream(small=b"hi", large=b"hello"), temperature=None)
    asked = request(body={"messages": [], "temperature": 0.5}, preferences=REQUIRED)

    served = await world.serve(asked)

    assert (served.decision.chosen.model.name, served.candidate.model.name) == ("large", "large")
    assert (served.reason, served.attempts) == ("only", 1)
    assert [(each["constraint"], each["message"]) for each in describe(served.decision)["excluded"]] == [
        ("require_parameters", "ignores temperature")
    ]
    for other in (request(body={"messages": []}, preferences=REQUIRED), replace(asked, preferences=Preferences())):
        assert (await world.serve(other)).candidate.model.name == "small"


async def test_where_no_model_honours_a_parameter_the_router_says_so() -> None:
    world = World(FakeUpstream(small=b"hi", large=b"hello"), temperature=None)
    asked = request(model="small", body={"messages": [], "temperature": 0.5}, preferences=REQUIRED)
    with pytest.raises(NoEligibleModel, match="require_parameters"):
        await world.decide(asked)
