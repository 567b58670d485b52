"""Names that callers chose are cut in what they are told, and absent from the log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.api.loggable import loggable
from app.errors import MOST_NAME_CHARS
from tests.fakes.asgi import ask
from tests.fakes.gateway import bench
from tests.fakes.listener import application
from tests.fakes.upstream import FakeUpstream
from tests.fakes.world import catalog, model

CATALOG = catalog(model("small"), model("large"))
LONG = "zq7" * 100_000
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "param",
    [
        None,
        "messages",
        "messages[2047].content[3].image_url.detail",
        "input[0].output",
        "routing.weights.cost",
        "routing.max_cost_usd",
        "x-thalamus-max-cost-usd",
        "x-thalamus-hop",
        "budget.usd",
        "thumbs",
    ],
)
def test_names_of_ours_are_told(param: str | None) -> None:
    assert loggable(param) == param


@pytest.mark.parametrize(
    "param",
    ["secret", "routing.secret", "routing.weights.secret", "messages[0].secret", "messages[4111111111]", "", "."],
)
def test_names_of_callers_are_not(param: str) -> None:
    assert loggable(param) == "other"


@pytest.mark.parametrize(
    "body",
    [
        {LONG: 1},
        {"routing": {LONG: 1}},
        {"routing": {"weights": {LONG: 1}}},
        {"messages": [{**USER, LONG: 1}]},
        {"model": LONG[:256]},
    ],
)
async def test_a_long_name_is_told_in_part_and_logged_not_at_all(body: dict[str, Any]) -> None:
    world = bench(CATALOG, FakeUpstream(small=b"hello", large=b"hello"))
    sent = json.dumps({"model": "auto", "messages": [USER], **body}).encode()
    reply = await ask(application(world, CATALOG).app, "POST", "/v1/routing/explain", sent)
    error = reply.json["error"]
    assert reply.status in (400, 404)
    assert len(error["param"]) <= MOST_NAME_CHARS
    assert "zq7zq7" in error["message"]
    assert len(error["message"]) < 2_000
    (line,) = world.events("request.rejected")
    assert line["param"] in ("other", "model")
    assert "zq7" not in json.dumps(line)


async def test_a_long_name_that_occurs_twice_is_told_in_part() -> None:
    world = bench(CATALOG, FakeUpstream(small=b"hello", large=b"hello"))
    name = b"zq7" * 2_000
    sent = b'{"%b": 1, "%b": 2}' % (name, name)
    reply = await ask(application(world, CATALOG).app, "POST", "/v1/routing/explain", sent)
    assert (reply.status, len(reply.json["error"]["param"])) == (400, MOST_NAME_CHARS)
    assert len(reply.body) < 2_000
    assert [line["param"] for line in world.events("request.rejected")] == ["other"]
