"""R21: whatever happens to a gateway in whatever order, its books are right. Prints how many steps were taken.

A real gateway with its stores, on real sockets in front of a scripted backend: keys are made, rotated and ended, money
is spent, files are read again, backends fail, callers leave. After every step nothing is in flight that should not be,
and no key has spent more than it may; at the end each admitted request has one record, and the money adds up.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.store.limits.ratings import PER_MINUTE
from tests.fakes.backend import Script
from tests.fakes.deployment import FIRST_KEYS, GATEWAY, SECRET, Deployment, deployed

pytestmark = pytest.mark.slow

OPERATOR = "sk-operator"
ALL_SCOPES = ["inference", "embeddings", "models:read", "route:explain", "route:feedback", "admin:keys", "admin:config"]
# Who gives no more than they have must have much.
KEYS = [
    {**FIRST_KEYS[0], "budget": None},
    {**FIRST_KEYS[0], "id": "operator", "secret": OPERATOR, "budget": None, "scopes": ALL_SCOPES},
]
# Of what one answer of the small model costs here at most: $0.00004.
BUDGETS_USD = (0.0, 0.00002, 0.0001, 0.001)
FAULTS = {
    "none": Script(),
    "503": Script(status=503, headers={"retry-after": "0"}),
    "500": Script(status=500),
    "400": Script(status=400, error={"message": "no", "type": "invalid_request_error", "param": None, "code": "x"}),
    "cut": Script(cut_after=3),
    "garbage": Script(garbage_after=2),
    "reset": Script(reset=True),
    "no usage": Script(usage=None),
    "says nothing more": Script(hang_after=2),
}
# What each status may mean here: nobody sends anything malformed.
EXPECTED = {200, 400, 401, 404, 422, 429, 502, 503, 504}
IDLE_WITHIN_S = 10.0
# After twenty in a minute an address has to wait, and all callers here have one.
MOST_STRANGE_CALLS = 15

taken = Counter[str]()


class Machine(RuleBasedStateMachine):
    """One gateway's life."""

    keys: Bundle[tuple[str, str]] = Bundle("keys")

    @initialize(target=keys)
    def begin(self) -> Any:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.folder = Path(tempfile.mkdtemp())
        self._run(self._open())
        self.asked = Counter[str]()
        self.ended_secrets, self.strange_calls, self.ratings = set[str](), 0, 0
        self.decisions: list[str] = []
        return multiple(*(self._make_key(usd, hard=True, concurrency=None) for usd in BUDGETS_USD))

    @rule(target=keys, usd=st.sampled_from(BUDGETS_USD), hard=st.booleans(), concurrency=st.sampled_from((None, 1)))
    def make_key(self, usd: float, hard: bool, concurrency: int | None) -> tuple[str, str]:
        return self._make_key(usd, hard=hard, concurrency=concurrency)

    def _make_key(self, usd: float, *, hard: bool, concurrency: int | None) -> tuple[str, str]:
        grant = {"budget": {"usd": usd, "hard": hard} if usd else None, "concurrency": concurrency}
        made = self._operate("POST", "/admin/keys", {**grant, "requests_per_minute": None, "tokens_per_minute": None})
        return made["id"], made["key"]

    @rule(target=keys, key=consumes(keys), grace_s=st.sampled_from((0, 600)))
    def rotate(self, key: tuple[str, str], grace_s: float) -> tuple[str, str]:
        made = self._operate("POST", f"/admin/keys/{key[0]}/rotate", {"grace_s": grace_s})
        if not grace_s:
            self.ended_secrets.add(key[1])
        return key[0], made["key"]

    @rule(key=consumes(keys))
    def revoke(self, key: tuple[str, str]) -> None:
        self._operate("DELETE", f"/admin/keys/{key[0]}")
        self.ended_secrets.add(key[1])

    @rule(name=st.sampled_from(sorted(FAULTS)))
    def break_the_backend(self, name: str) -> None:
        self.deployment.backends["small"].script = FAULTS[name]

    @rule(
        key=keys,
        stream=st.booleans(),
        max_tokens=st.sampled_from((None, 1, 200)),
        routing=st.sampled_from(({}, {"max_cost_usd": 1e-9}, {"weights": {"cost": 0.5}}, {"session_id": "one"})),
        model=st.sampled_from(("auto", "auto:cheap", "small", "nobody")),
    )
    def ask(self, key: tuple[str, str], stream: bool, max_tokens: int | None, routing: Any, model: str) -> None:
        self._run(self._ask(key[1], self._body(stream=stream, max_tokens=max_tokens, routing=routing, model=model)))

    @rule(key=keys, count=st.integers(2, 6))
    def ask_at_once(self, key: tuple[str, str], count: int) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._ask(key[1], self._body(stream=number % 2 == 0)) for number in range(count)))

        self._run(all_of_them())

    @rule(key=keys, pieces=st.integers(0, 3))
    def ask_and_leave(self, key: tuple[str, str], pieces: int) -> None:
        self.deployment.backends["small"].script = Script(event_delay_s=0.02)
        self._run(self._ask(key[1], self._body(stream=True), leave_after=pieces))
        self.deployment.backends["small"].script = Script()

    @precondition(lambda self: self.ended_secrets and self.strange_calls < MOST_STRANGE_CALLS)
    @rule()
    def ask_with_a_key_that_ended(self) -> None:
        self.strange_calls += 1
        assert self._run(self._ask(max(self.ended_secrets), self._body())) == 401

    @rule(weight=st.sampled_from((0.1, 0.7)), sound=st.booleans())
    def read_the_files_again(self, weight: float, sound: bool) -> None:
        path = self.folder / "gateway.yaml"
        content = yaml.safe_load(path.read_text())
        content["profiles"]["cheap"] = {"weights": {"cost" if sound else "charm": weight}}
        path.write_text(yaml.safe_dump(content))
        status, _ = self._run(self._call(self.deployment.admin_url, "POST", "/admin/reload"))
        assert status == (200 if sound else 422)

    @precondition(lambda self: self.decisions and self.ratings < PER_MINUTE)
    @rule(score=st.sampled_from((0.0, 1.0)))
    def rate_what_another_asked(self, score: float) -> None:
        self.ratings += 1
        body = {"decision_id": self.decisions[-1], "score": score}
        status, _ = self._run(self._call(self.deployment.url, "POST", "/v1/routing/feedback", body, SECRET))
        assert status == 404

    @invariant()
    def the_books_are_right(self) -> None:
        if hasattr(self, "deployment"):
            taken["steps"] += 1
            self._nothing_is_in_flight()
            self._nobody_has_spent_more_than_they_may()

    def _nothing_is_in_flight(self) -> None:
        live, metrics = self.deployment.application.live, self.deployment.application.telemetry.metrics
        self._until_idle()
        assert live.in_flight == 0
        assert sum(metrics.in_flight.values.values()) == 0

    def _nobody_has_spent_more_than_they_may(self) -> None:
        for told in self.deployment.application.stores.budgets.told():
            assert told.reserved_usd == 0
            assert told.spent_usd >= 0
            assert told.spent_usd <= told.budget.usd + 1e-12 or not told.budget.hard, told

    def teardown(self) -> None:
        if not hasattr(self, "deployment"):
            return
        self._run(self.stack.aclose())
        self.runner.close()
        self._balance()
        shutil.rmtree(self.folder)

    def _balance(self) -> None:
        """Each request that was admitted has one record, and what they cost is what was spent."""
        with sqlite3.connect(f"file:{self.folder}/state/journal.sqlite?mode=ro", uri=True) as journal:
            records = [json.loads(row[0]) for row in journal.execute("SELECT record FROM records")]
            spent = dict(journal.execute("SELECT key_id, usd FROM spent WHERE length(period) = 10"))
        recorded = Counter(record["request_id"] for record in records)
        assert all(count == 1 for count in recorded.values())
        assert set(self.asked) <= set(recorded), "an answer without a record"
        owed: dict[str, float] = defaultdict(float)
        for record in records:
            owed[record["key"]] += record["end"].get("cost_usd") or 0.0
        for key_id, usd in spent.items():
            assert usd == pytest.approx(owed[key_id], abs=1e-9)
        taken["records"] += len(records)

    async def _open(self) -> None:
        upstream = {**GATEWAY["upstream"], "idle_timeout_s": 0.2, "max_attempts": 2}
        made = deployed(self.folder, "small", keys=KEYS, upstream=upstream, state_dir="state")
        self.deployment: Deployment = await self.stack.enter_async_context(made)
        self.session = await self.stack.enter_async_context(aiohttp.ClientSession())

    def _run(self, work: Any) -> Any:
        return self.runner.run(work)

    def _until_idle(self) -> None:
        """A caller that has left is noticed within milliseconds."""

        async def wait() -> None:
            ends_at = time.monotonic() + IDLE_WITHIN_S
            while self.deployment.application.live.in_flight and time.monotonic() < ends_at:
                await asyncio.sleep(0.002)

        self._run(wait())

    def _operate(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self._run(self._call(self.deployment.admin_url, method, path, body))
        assert status in (200, 201), answer
        return answer

    async def _call(
        self, url: str, method: str, path: str, body: Any = None, secret: str = OPERATOR
    ) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {secret}"}
        async with self.session.request(method, url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    def _body(self, model: str = "auto", **fields: Any) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}

    async def _ask(self, secret: str, body: Any, leave_after: int | None = None) -> int:
        headers = {"authorization": f"Bearer {secret}"}
        async with self.session.post(
            f"{self.deployment.url}/v1/chat/completions", json=body, headers=headers
        ) as answer:
            status = answer.status
            if decision := answer.headers.get("x-thalamus-decision-id"):
                self.asked[answer.headers["x-request-id"]] += 1
                self.decisions.append(decision)
            if leave_after is None:
                await answer.read()
            else:
                for _ in range(leave_after):
                    await answer.content.readany()
                answer.close()
        assert status in EXPECTED
        taken[str(status)] += 1
        return status


@pytest.mark.timeout(3_600)
def test_the_books_are_right_whatever_happens(full_size: bool) -> None:
    examples, steps = (120, 100) if full_size else (8, 40)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not full_size,
            # A shorter way to the same failure would take a hundred more lives.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(json.dumps({"test": "R21", **taken}))
    assert taken["200"]
    assert taken["429"]
    assert taken["401"]
