"""Headers from outside end here, and so do a backend's own: what is sent on is built from nothing. Prints JSON."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.fakes.backend import Script
from tests.fakes.caller import hear, session_to
from tests.fakes.deployment import FIRST_KEYS, SECRET, deployed
from tests.fakes.hostile import INTERNAL

CANARY = "canary-7f3a"
TO_BACKENDS = {
    "host",
    "accept",
    "content-type",
    "content-length",
    "x-request-id",
    "x-thalamus-hop",
    "x-thalamus-deadline-ms",
    "traceparent",
}
OTHERS = ("x-api-key", "openai-organization", "x-session-id", "user-agent", "origin", "x-custom", "accept-language")
FROM_BACKENDS = (
    "x-thalamus-model",
    "x-thalamus-cost-usd",
    "set-cookie",
    "server",
    "x-powered-by",
    "openai-processing-ms",
)


async def test_no_header_from_outside_reaches_a_backend_and_none_of_a_backend_s_a_caller(
    tmp_path: Path, full_size: bool
) -> None:
    requests = 10_000 if full_size else 1_000
    rng, leaked = random.Random(13), []
    async with deployed(tmp_path, "small", keys=FIRST_KEYS) as running, session_to(running.url) as session:
        backend = running.backends["small"]
        for _ in range(requests):
            backend.script = Script(headers=dict.fromkeys(rng.sample(FROM_BACKENDS, 3), CANARY))
            sent = {name: f"{CANARY}-{name}" for name in rng.sample([*INTERNAL, *OTHERS], 6)}
            heard = await hear(session, sent, stream=rng.random() < 0.5, routing={"priority": "high"})
            assert heard.status == 200, heard.body
            assert heard.headers["x-thalamus-model"] == "small"
            (received,) = backend.requests
            backend.requests.clear()
            told = json.dumps([dict(received.headers), dict(received.body), dict(heard.headers)])
            unknown = {name.lower() for name in received.headers} - TO_BACKENDS
            leaked += [told] * (CANARY in told or SECRET in told or bool(unknown))
    print(json.dumps({"property": "S11 headers", "requests": requests, "leaked": len(leaked)}))
    assert leaked == []
