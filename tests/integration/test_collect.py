"""`collect` against a real endpoint on loopback: retries, budgets, kills, resumption, and what ends in the dataset."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.parquet as pq
import pytest

from app.collect.client import AskFailed, ChatClient, Patience
from app.collect.graders import Command, grade_replies
from app.collect.plan import Plan, Prompt, Target, chat_url
from app.collect.progress import Progress, Reply
from app.collect.rated import write_rated
from app.collect.runner import DOWN_AFTER, Budget, Runner, Stopped, spent_usd
from app.domain.models import TokenPrice
from app.errors import UsageError
from app.store.journal.flat import COLUMNS
from router_models.outcomes.dataset import read_outcomes
from tests.fakes.chat_server import ChatServer, Script, Scripted
from tests.fakes.collecting import finished, start
from tests.fakes.full_disk import files_of_at_most

PRICE = TokenPrice(1.0, 2.0)
COST_USD = (10 * 1.0 + 4 * 2.0) / 1e6


def always(scripted: Scripted) -> Script:
    return lambda text, before, body: scripted


def then_good(*first: Scripted) -> Script:
    """The scripted answers in order, then good ones, counted per prompt."""
    return lambda text, before, body: first[before] if before < len(first) else Scripted()


def prompts(count: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"p{n}", f"question {n}", "exact", "ok", max_tokens=20) for n in range(count))


def target(server: ChatServer, model: str = "m", price: TokenPrice | None = PRICE) -> Target:
    return Target(model, model, server.url, (chat_url(server.url),), None, price)


async def unhurried(_: float) -> None:
    """Stands in for sleeping between attempts."""


class Waits:
    """Notes how long the client would have waited."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []

    async def __call__(self, wait_s: float) -> None:
        self.waited_s.append(wait_s)


async def run(
    plan: Plan,
    progress: Progress,
    *,
    concurrency: int = 4,
    budget: Budget | None = None,
    patience: Patience | None = None,
    sleep: Callable[[float], Any] = unhurried,
) -> None:
    async with aiohttp.ClientSession() as session:
        client = ChatClient(session, patience or Patience(), sleep)
        await Runner(plan, progress, client, concurrency, budget or Budget(None), lambda model, answered: None).run()


async def ask(server: ChatServer, *, sleep: Callable[[float], Any] = unhurried, **patience: Any) -> Reply:
    async with aiohttp.ClientSession() as session:
        return await ChatClient(session, Patience(**patience), sleep).ask(target(server), prompts(1)[0])


async def test_a_reply_carries_text_tokens_latency_and_confidence() -> None:
    async with ChatServer(always(Scripted(text="five", delay_s=0.02))) as server:
        reply = await ask(server)

    assert (reply.answer, reply.finish_reason, reply.input_tokens, reply.output_tokens) == ("five", "stop", 10, 4)
    assert reply.mean_logprob == -1.0
    assert 0.02 <= reply.latency_s < 5
    assert server.bodies[0]["temperature"] == 0
    assert server.bodies[0]["max_tokens"] == 20


def message(**fields: Any) -> Scripted:
    """An answer that is whole, with this message."""
    said = {"message": {"role": "assistant", **fields}, "finish_reason": "stop"}
    return Scripted(
        body=json.dumps({"choices": [said], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()
    )


async def test_a_refusal_in_place_of_content_is_the_answer() -> None:
    async with ChatServer(always(message(content=None, refusal="I cannot help with that."))) as server:
        reply = await ask(server)

    assert (reply.answer, reply.attempts) == ("I cannot help with that.", 1)


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
NO_TEXT = [
    (message(content=None, tool_calls=[CALL]), "the answer calls a tool and says nothing"),
    (
        message(content=[{"type": "image_url", "image_url": {}}]),
        "the answer has a part that is no text, of type 'image_url'",
    ),
]


@pytest.mark.parametrize(("answer", "reason"), NO_TEXT, ids=["tool", "image"])
async def test_an_answer_that_is_no_text_is_missing_and_not_asked_for_again(
    answer: Scripted, reason: str, tmp_path: Path
) -> None:
    async with ChatServer(then_good(Scripted(status=500), answer)) as server:
        plan = Plan(prompts(1), (target(server),))
        with Progress(tmp_path, plan.header()) as progress:
            await run(plan, progress)

    assert sum(server.asked.values()) == 2
    assert progress.failures == {("p0", "m"): reason}
    assert progress.other_usd == pytest.approx(2 * plan.targets[0].bound_usd(plan.prompts[0]))


@pytest.mark.parametrize("odd", ["1" * 400, "1" * 4300, "-1e999", "NaN", "true", '"4"'], ids=lambda odd: odd[:8])
async def test_numbers_that_cannot_be_are_unknown(odd: str) -> None:
    tokens = f'[{{"logprob":-1}},{{"logprob":{odd}}}]'
    choice = f'{{"message":{{"content":"five"}},"logprobs":{{"content":{tokens}}}}}'
    usage = f'{{"prompt_tokens":{odd},"completion_tokens":4}}'
    body = f'{{"choices":[{choice}],"usage":{usage}}}'.encode()
    async with ChatServer(always(Scripted(body=body))) as server:
        reply = await ask(server)

    assert (reply.answer, reply.input_tokens, reply.output_tokens, reply.mean_logprob) == ("five", None, 4, -1.0)


async def test_an_answer_in_parts_is_the_text_without_the_thoughts() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "5? No."}]}
    message = {"role": "assistant", "content": [thought, {"type": "text", "text": "4"}]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    async with ChatServer(always(Scripted(body=body))) as server:
        reply = await ask(server)

    assert (reply.answer, reply.attempts) == ("4", 1)


async def test_reasoning_that_is_counted_beside_the_answer_is_paid_for() -> None:
    beside = '"completion_tokens_details":{"reasoning_tokens":900}'
    usage = f'{{"prompt_tokens":10,"completion_tokens":9,"total_tokens":919,{beside}}}'
    body = f'{{"choices":[{{"message":{{"content":"42"}}}}],"usage":{usage}}}'.encode()
    async with ChatServer(always(Scripted(body=body))) as server:
        reply = await ask(server)

    assert (reply.input_tokens, reply.output_tokens) == (10, 909)


async def test_missing_usage_is_unknown_not_zero() -> None:
    async with ChatServer(always(Scripted(usage=False))) as server:
        reply = await ask(server)

    assert (reply.input_tokens, reply.output_tokens) == (None, None)


async def test_an_endpoint_without_logprobs_is_asked_without_them_from_then_on(tmp_path: Path) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=400, body=b'{"error": {"message": "no logprobs"}}') if "logprobs" in body else Scripted()

    async with ChatServer(script) as server:
        plan = Plan(prompts(5), (target(server),))
        with Progress(tmp_path, plan.header()) as progress:
            await run(plan, progress, concurrency=1)

    assert [reply.mean_logprob for reply in progress.replies.values()] == [None] * 5
    assert ["logprobs" in body for body in server.bodies] == [True, False, False, False, False, False]


@pytest.mark.parametrize(
    "trouble",
    [
        Scripted(status=429),
        Scripted(status=503),
        Scripted(cut=True),
        Scripted(body=b"{garbage"),
        Scripted(body=b'{"choices": []}'),
        Scripted(body=b'{"choices": [{"message": {"content": 4}}]}'),
        Scripted(body=b'{"error": {"message": "engine died"}}'),
        Scripted(body=b'{"choices": [{"message": {"content": "x"}, "finish_reason": "abort"}]}'),
    ],
)
async def test_what_may_pass_is_tried_again(trouble: Scripted) -> None:
    async with ChatServer(then_good(trouble, trouble)) as server:
        reply = await ask(server)

    assert (reply.answer, reply.attempts) == ("ok", 3)


async def test_retry_after_is_honoured_and_waits_grow_otherwise() -> None:
    waits = Waits()
    asked = Scripted(status=429, headers={"retry-after": "7"})
    async with ChatServer(then_good(asked, Scripted(status=503), Scripted(status=503))) as server:
        await ask(server, sleep=waits)

    assert waits.waited_s[0] == 7
    assert 0.5 <= waits.waited_s[1] <= 1.5
    assert 1 <= waits.waited_s[2] <= 3


async def test_retry_after_may_be_a_date() -> None:
    waits = Waits()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    trouble = (
        Scripted(status=503, headers={"retry-after": date}),
        Scripted(status=503, headers={"retry-after": "soon"}),
    )
    async with ChatServer(then_good(*trouble)) as server:
        await ask(server, sleep=waits)

    assert 25 < waits.waited_s[0] <= 30
    assert waits.waited_s[1] <= 1.5


async def test_a_quota_that_is_used_up_is_waited_for() -> None:
    waits = Waits()
    quota = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6.5s"}
    trouble = (Scripted(status=429, headers=quota), Scripted(status=429, headers={"retry-after-ms": "2500"}))
    async with ChatServer(then_good(*trouble)) as server:
        await ask(server, sleep=waits)

    assert waits.waited_s == [6.5, 2.5]


async def test_fields_go_out_under_the_endpoints_names_and_refused_ones_stay_here() -> None:
    names = {"max_tokens": "max_completion_tokens", "temperature": None, "logprobs": None}
    async with ChatServer(always(Scripted())) as server, aiohttp.ClientSession() as session:
        await ChatClient(session).ask(replace(target(server), rename=names), prompts(1)[0])

    assert server.bodies[0].keys() == {"model", "messages", "max_completion_tokens"}


async def test_an_endpoint_that_refuses_connections_is_named_in_a_few_words() -> None:
    nobody = Target("m", "m", "b", ("http://127.0.0.1:1/v1/chat/completions",))
    async with aiohttp.ClientSession() as session:
        with pytest.raises(AskFailed) as caught:
            await ChatClient(session, Patience(attempts=2), unhurried).ask(nobody, prompts(1)[0])
    assert str(caught.value) == f"{nobody.urls[0]}: refuses connections; does it run, and on this port? (2 attempts)"


async def test_patience_ends() -> None:
    async with ChatServer(always(Scripted(status=503, body=b'{"error": {"message": "busy"}}'))) as server:
        with pytest.raises(AskFailed, match=r"status 503: busy \(3 attempts\)"):
            await ask(server, attempts=3)
    assert sum(server.asked.values()) == 3


async def test_a_wait_that_is_too_long_is_not_waited_for() -> None:
    async with ChatServer(always(Scripted(status=429, headers={"retry-after": "3600"}))) as server:
        with pytest.raises(AskFailed, match="status 429"):
            await ask(server)
    assert sum(server.asked.values()) == 1


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    async with ChatServer(always(Scripted(delay_s=0.5))) as server:
        with pytest.raises(AskFailed, match=r"no answer within 0.05 s"):
            await ask(server, attempts=2, request_timeout_s=0.05)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_wrong_key_or_model_ends_the_run_at_once(tmp_path: Path, status: int) -> None:
    async with ChatServer(always(Scripted(status=status, body=b'{"error": {"message": "no such model"}}'))) as server:
        plan = Plan(prompts(50), (target(server),))
        with (
            Progress(tmp_path, plan.header()) as progress,
            pytest.raises(UsageError, match=f"answers {status} for model 'm': no such model"),
        ):
            await run(plan, progress)
    assert sum(server.asked.values()) <= 4


async def test_a_rejected_prompt_is_missing_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=400, body=b'{"error": {"message": "too long"}}') if text.endswith("3") else Scripted()

    async with ChatServer(script) as server:
        plan = Plan(prompts(10), (target(server),))
        with Progress(tmp_path, plan.header()) as progress:
            await run(plan, progress)

    assert progress.failures == {("p3", "m"): "status 400: too long"}
    assert len(progress.replies) == 9


@pytest.mark.parametrize("status", [403, 404])
async def test_a_prompt_that_a_model_refuses_which_answers_others_is_missing(tmp_path: Path, status: int) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=status, body=b'{"error": {"message": "flagged"}}') if text.endswith("35") else Scripted()

    async with ChatServer(script) as server:
        plan = Plan(prompts(40), (target(server),))
        for _ in range(2):
            with Progress(tmp_path, plan.header()) as progress:
                await run(plan, progress)

    assert progress.failures == {("p35", "m"): f"status {status}: flagged"}
    assert len(progress.replies) == 39


async def test_a_dead_backend_stops_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted() if int(text.split()[1]) < 10 else Scripted(status=503)

    async with ChatServer(script) as server:
        plan = Plan(prompts(200), (target(server),))
        with Progress(tmp_path, plan.header()) as progress, pytest.raises(Stopped, match="requests in a row"):
            await run(plan, progress, concurrency=1, patience=Patience(attempts=2))

    assert len(progress.replies) == 10
    assert sum(server.asked.values()) == 10 + 2 * DOWN_AFTER


async def test_a_dead_model_is_noticed_beside_one_that_answers(tmp_path: Path) -> None:
    """Under a budget, where they take turns."""

    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=503) if body["model"] == "dead" else Scripted()

    async with ChatServer(script) as server:
        plan = Plan(prompts(60), (target(server, "dead"), target(server, "good")))
        with Progress(tmp_path, plan.header()) as progress, pytest.raises(Stopped, match="in a row") as stopped:
            await run(plan, progress, concurrency=2, budget=Budget(1.0), patience=Patience(attempts=1))

    assert stopped.value.models == ("dead",)
    assert sum(times for (model, _), times in server.asked.items() if model == "dead") <= DOWN_AFTER + 1


async def test_models_that_take_turns_at_a_dead_backend_are_all_named(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted(status=503))) as server:
        plan = Plan(prompts(60), (target(server, "a"), target(server, "b")))
        with Progress(tmp_path, plan.header()) as progress, pytest.raises(Stopped, match="from a, b at") as stopped:
            await run(plan, progress, concurrency=2, budget=Budget(1.0), patience=Patience(attempts=1))

    assert stopped.value.models == ("a", "b")
    assert len(server.bodies) <= DOWN_AFTER + 1


async def test_a_backend_that_nobody_reaches_is_down_for_all_its_models(tmp_path: Path) -> None:
    """Also for those whose turn has not come."""
    async with ChatServer(always(Scripted(delay_s=0.01))) as server:
        down = [Target(model, model, "down", ("http://127.0.0.1:1/v1/chat/completions",)) for model in ("a", "b")]
        plan = Plan(prompts(60), (*down, target(server, "c")))
        with Progress(tmp_path, plan.header()) as progress, pytest.raises(Stopped, match="from a at down") as stopped:
            await run(plan, progress, patience=Patience(attempts=1))

    assert stopped.value.models == ("a", "b")
    assert stopped.value.urls == down[0].urls


async def test_each_backend_sees_no_more_than_its_share_at_once(tmp_path: Path) -> None:
    slow = always(Scripted(delay_s=0.02))
    async with ChatServer(slow) as one, ChatServer(slow) as two:
        plan = Plan(prompts(30), (target(one, "a"), target(one, "b"), target(two, "c")))
        with Progress(tmp_path, plan.header()) as progress:
            await run(plan, progress, concurrency=3)

    assert (one.most_in_flight, two.most_in_flight) == (3, 3)
    assert len(progress.replies) == 90
    assert max(one.asked.values()) == max(two.asked.values()) == 1


async def test_what_was_in_flight_when_a_run_is_cancelled_counts_as_spent(tmp_path: Path) -> None:
    """What it cost is not known: an attempt that was lost before it, and the one that was cut off."""
    hanging = then_good(Scripted(status=500), Scripted(delay_s=2))
    async with ChatServer(hanging) as server:
        plan = Plan(prompts(3), (target(server),))
        bound_usd = plan.targets[0].bound_usd(plan.prompts[0])
        with Progress(tmp_path, plan.header()) as progress:
            asking = asyncio.create_task(run(plan, progress, patience=Patience(attempts=3)))
            while len(server.bodies) < 6:
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    async with ChatServer(always(Scripted())) as server:
        plan = Plan(prompts(3), (target(server),))
        with Progress(tmp_path, plan.header()) as progress:
            assert spent_usd(plan, progress) == pytest.approx(6 * bound_usd)
            with pytest.raises(Stopped, match="raise --max-usd"):
                await run(plan, progress, budget=Budget(6 * bound_usd, spent_usd(plan, progress)))
            await run(plan, progress)
            assert len(progress.replies) == len(server.bodies) == 3


async def test_what_was_in_flight_when_another_backend_ends_the_run_counts_as_spent(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted(delay_s=2))) as slow, ChatServer(always(Scripted(status=404))) as wrong:
        plan = Plan(prompts(2), (target(slow, "slow"), target(wrong, "wrong")))
        with Progress(tmp_path, plan.header()) as progress:
            with pytest.raises(UsageError, match="answers 404"):
                await run(plan, progress, concurrency=2)
            bound_usd = plan.targets[0].bound_usd(plan.prompts[0])
            assert spent_usd(plan, progress) == pytest.approx(2 * bound_usd)


async def test_the_budget_holds_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted())) as server:
        plan = Plan(prompts(60), (target(server),))
        limit_usd = 30 * COST_USD
        with Progress(tmp_path, plan.header()) as progress, pytest.raises(Stopped, match="raise --max-usd"):
            await run(plan, progress, budget=Budget(limit_usd))
        done = len(progress.replies)
        assert 5 < done < 30
        assert spent_usd(plan, progress) == pytest.approx(done * COST_USD)
        with Progress(tmp_path, plan.header()) as again:
            await run(plan, again, budget=Budget(1.0, spent_usd(plan, again)))

    assert len(again.replies) == 60
    assert max(server.asked.values()) == 1


async def test_a_budget_is_spent_on_what_comes_first(tmp_path: Path) -> None:
    """One request fits at a time, and others wait."""
    async with ChatServer(always(Scripted())) as server:
        plan = Plan(prompts(60), (target(server),))
        limit_usd = plan.targets[0].bound_usd(plan.prompts[0]) * Patience().attempts * 1.5
        with Progress(tmp_path, plan.header()) as progress, pytest.raises(Stopped, match="raise --max-usd"):
            await run(plan, progress, concurrency=8, budget=Budget(limit_usd))

    done = len(progress.replies)
    assert 5 < done < 60
    assert {prompt_id for prompt_id, _ in progress.replies} == {f"p{n}" for n in range(done)}


async def test_a_fast_backend_leaves_of_the_budget_what_a_slow_one_needs_to_be_compared(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted())) as fast, ChatServer(always(Scripted(delay_s=0.05))) as slow:
        plan = Plan(prompts(400), (target(fast, "fast"), target(slow, "slow")))
        limit_usd = 100 * COST_USD
        with Progress(tmp_path, plan.header()) as progress, pytest.raises(Stopped, match="raise --max-usd"):
            await run(plan, progress, concurrency=2, budget=Budget(limit_usd))

    answered = Counter(model for _, model in progress.replies)
    assert answered["slow"] > 20
    assert answered["fast"] - answered["slow"] <= 2 * 2


async def test_backends_go_on_alone_once_the_others_are_done(tmp_path: Path) -> None:
    """What is done of one already holds up none, either."""
    async with ChatServer(always(Scripted())) as one, ChatServer(always(Scripted(delay_s=0.01))) as two:
        plan = Plan(prompts(40), (target(one, "a"), target(two, "b")))
        with Progress(tmp_path, plan.header()) as progress:
            for n in range(40):
                if n % 7:
                    progress.add_reply(Reply(f"p{n}", "b", "ok", "stop", 10, 4, 0.1, None))
            await run(plan, progress, concurrency=2, budget=Budget(1.0))

    assert len(progress.replies) == 80
    assert (len(one.bodies), len(two.bodies)) == (40, 6)


async def test_a_full_disk_ends_the_run_by_its_name_and_the_next_goes_on(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted())) as server:
        plan = Plan(prompts(30), (target(server),))
        with (
            Progress(tmp_path, plan.header()) as progress,
            files_of_at_most(2000),
            pytest.raises(OSError, match=r"journal\.jsonl"),
        ):
            await run(plan, progress)
        kept = len(progress.replies)
        assert 0 < kept < 30
        with Progress(tmp_path, plan.header()) as again:
            assert len(again.replies) == kept
            await run(plan, again)

    assert len(again.replies) == 30


# ---------------------------------------------------------------- grading commands


async def test_a_disk_that_is_full_of_grades_is_named(tmp_path: Path) -> None:
    await judged(tmp_path / "room", "print(1)", ["a"] * 4)
    log_bytes = (tmp_path / "room" / "journal.jsonl").stat().st_size

    with files_of_at_most(log_bytes - 10), pytest.raises(OSError, match=r"journal\.jsonl"):
        await judged(tmp_path / "full", "print(1)", ["a"] * 4)


async def judged(
    tmp_path: Path,
    program: str,
    answers: Sequence[str],
    timeout_s: float = 20.0,
    reference: str | None = None,
    script: Path | None = None,
) -> tuple[Any, Progress]:
    plan = Plan(
        tuple(Prompt(f"p{n}", "q", "command", reference, 5) for n in range(len(answers))),
        (Target("m", "m", "b", ("http://127.0.0.1:1",)),),
    )
    if script:
        script.write_text(program)
    command = Command((sys.executable, *((str(script),) if script else ("-c", program))), timeout_s)
    with Progress(tmp_path, plan.header()) as progress:
        for n, answer in enumerate(answers):
            progress.add_reply(Reply(f"p{n}", "m", answer, "stop", 1, 1, 0.1, None))
        return await grade_replies(plan.prompts, progress, command, lambda count: None), progress


async def test_a_command_reads_the_answer_and_prints_its_score(tmp_path: Path) -> None:
    program = "import json, sys; print(len(json.load(sys.stdin)['answer']) / 10)"

    graded, progress = await judged(tmp_path, program, ["abc", "abcdefgh"])

    assert graded.scores == {("p0", "m"): 0.3, ("p1", "m"): 0.8}
    assert sorted(progress.scores.values()) == [0.3, 0.8]


async def test_what_a_command_said_is_not_asked_again(tmp_path: Path) -> None:
    counter = tmp_path / "runs"
    program = f"open({str(counter)!r}, 'a').write('x'); print(1)"

    await judged(tmp_path, program, ["a", "b"])
    graded, _ = await judged(tmp_path, program, ["a", "b"])

    assert len(graded.scores) == 2
    assert counter.read_text() == "xx"


async def test_a_corrected_script_or_reference_grades_anew(tmp_path: Path) -> None:
    script = tmp_path / "grade.py"
    read = "import json, sys; asked = json.load(sys.stdin); "

    async def score(program: str, reference: str, answer: str = "b") -> float:
        graded, _ = await judged(tmp_path / "set", read + program, [answer], reference=reference, script=script)
        return float(graded.scores["p0", "m"])

    assert await score("print(0)", "a") == 0
    assert await score("print(int(asked['answer'] == asked['reference']))", "a") == 0
    assert await score("print(int(asked['answer'] == asked['reference']))", "b") == 1
    assert await score("print(int(asked['answer'] == asked['reference']))", "b", "c") == 0


async def test_a_command_reads_no_thoughts_and_the_journal_keeps_them(tmp_path: Path) -> None:
    program = "import json, sys; print(len(json.load(sys.stdin)['answer']) / 10)"

    graded, progress = await judged(tmp_path, program, ["<think>3 or 4?</think>abc"])

    assert graded.scores == {("p0", "m"): 0.3}
    assert progress.replies["p0", "m"].answer == "<think>3 or 4?</think>abc"


async def test_rules_grade_what_is_said_after_thinking(tmp_path: Path) -> None:
    plan = Plan((Prompt("p0", "2 + 2?", "exact", "4", 5),), (Target("m", "m", "b", ("http://127.0.0.1:1",)),))
    with Progress(tmp_path, plan.header()) as progress:
        progress.add_reply(Reply("p0", "m", "<think>5? No.</think>\n\n4", "stop", 1, 1, 0.1, None))
        graded = await grade_replies(plan.prompts, progress, None, lambda count: None)

    assert graded.scores == {("p0", "m"): 1.0}


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('good')", "must print one number from 0 to 1"),
        ("print(7)", "must print one number from 0 to 1"),
        ("print('nan')", "must print one number from 0 to 1"),
        ("print(0.5, 0.6)", "must print one number from 0 to 1"),
        ("print('1' * 10**7)", "must print one number from 0 to 1"),
        ("import sys; sys.exit('no luck')", "ended with status 1: no luck"),
        ("import time; time.sleep(60)", "took longer than 1 s"),
    ],
)
async def test_an_answer_that_a_command_cannot_grade_is_missing(tmp_path: Path, program: str, words: str) -> None:
    graded, _ = await judged(tmp_path, program, ["a"], timeout_s=1.0 if "sleep" in program else 20.0)

    assert graded.scores == {}
    assert words in graded.failures["p0", "m"]


async def test_an_answer_on_which_a_pattern_does_not_end_is_missing(tmp_path: Path) -> None:
    plan = Plan(
        tuple(Prompt(name, "q", "regex", r"^(\w+\s?)+\.$", 5) for name in ("p0", "p1")),
        (Target("m", "m", "b", ("http://127.0.0.1:1",)),),
    )
    with Progress(tmp_path, plan.header()) as progress:
        for name, text in (
            ("p0", "Paris."),
            ("p1", "It is of course the city that is on the river Seine, Paris (France)"),
        ):
            progress.add_reply(Reply(name, "m", text, "stop", 1, 1, 0.1, None))
        graded = await grade_replies(plan.prompts, progress, None, lambda count: None)

    assert graded.scores == {("p0", "m"): 1.0}
    assert "takes too long" in graded.failures["p1", "m"]


async def test_a_command_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    plan = Plan((Prompt("p0", "q", "command", None, 5),), (Target("m", "m", "b", ("http://127.0.0.1:1",)),))
    with Progress(tmp_path, plan.header()) as progress:
        progress.add_reply(Reply("p0", "m", "a", "stop", 1, 1, 0.1, None))
        graded = await grade_replies(plan.prompts, progress, Command(("/no/such/judge",)), lambda count: None)

    assert "cannot run /no/such/judge" in graded.failures["p0", "m"]


# ---------------------------------------------------------------- the command line, in a process of its own


def arguments(server: ChatServer, output: Path, source: str = "families:sql,dates@seed=1,count=30") -> list[str]:
    return ["--prompts", source, "--url", server.url, "--models", "a,b", "--output", str(output), "--concurrency", "4"]


async def test_collect_writes_a_dataset_with_scores_and_answers(tmp_path: Path) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(text="SELECT 1" if body["model"] == "a" else "")

    async with ChatServer(script) as server:
        status, out, err = await finished(*arguments(server, tmp_path / "set"), "--yes", "--json")

    assert status == 0, err
    assert "120 requests" in err
    figures = json.loads(out)
    assert [(row["model"], row["outcomes"], row["missing"]) for row in figures["models"]] == [
        ("a", 60, 0),
        ("b", 60, 0),
    ]
    rows = pq.read_table(tmp_path / "set" / "outcomes.parquet").to_pylist()
    assert len(rows) == 120
    assert {row["answer"] for row in rows} == {"SELECT 1", ""}
    assert rows[0]["mean_logprob"] == -1.0
    assert rows[0]["cost_usd"] is None
    prompt_rows = pq.read_table(tmp_path / "set" / "prompts.parquet").to_pylist()
    assert {row["task"] for row in prompt_rows} == {"sql", "dates"}
    assert {row["level"] for row in prompt_rows} == {1, 2, 3}
    assert not (tmp_path / "set" / "failures.jsonl").exists()


async def test_what_an_artifact_calls_the_catalogues_models_is_kept(tmp_path: Path) -> None:
    async with ChatServer(lambda text, before, body: Scripted(text="SELECT 1")) as server:
        models = [{"name": name, "backend": "pool", "card": {"context_tokens": 8192}} for name in ("a", "b")]
        models[0]["predicted_as"] = "a-it"
        backends = [{"name": "pool", "kind": "openai", "urls": [server.url]}]
        (tmp_path / "catalog.yaml").write_text(json.dumps({"models": models, "backends": backends}))
        plan = ("--prompts", "families:sql@seed=1,count=5", "--output", str(tmp_path / "set"), "--yes")
        status, _, err = await finished(*plan, "--catalog", str(tmp_path / "catalog.yaml"))

    assert status == 0, err
    assert read_outcomes(tmp_path / "set").known_as(["a-it", "b"]) == {"a": "a-it"}
    assert read_outcomes(tmp_path / "set").known_as(["b"]) == {}


async def test_without_a_terminal_it_must_be_told_yes(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted())) as server:
        status, _, err = await finished(*arguments(server, tmp_path / "set"))

    assert status == 1
    assert "add --yes to send 120 requests" in err
    assert not server.asked


async def test_how_many_prompts_come_again_is_said_and_they_are_sent_once(tmp_path: Path) -> None:
    line = json.dumps({"prompt": "hi", "grader": "exact", "reference": "ok"})
    (tmp_path / "set.jsonl").write_text(f"{line}\n{line}\n{line}\n")
    async with ChatServer(always(Scripted())) as server:
        given = arguments(server, tmp_path / "set", str(tmp_path / "set.jsonl"))
        status, _, err = await finished(*given, "--yes")

    assert status == 0
    assert err.splitlines()[0] == "2 of 3 prompts come again; each counts once"
    assert len(server.bodies) == 2


async def test_rated_prompts_with_tools_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    """A backend would refuse what is kept of them."""
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    said = {"plain": plain, "offered": [*plain, {"role": "tools", "content": "add subtract"}]}
    known = {"model": "a", "score": 1.0, "operation": "chat", "outcome": "ok", "asked": "{}", "keeps_text": True}
    rows = [
        dict.fromkeys(COLUMNS) | known | {"decision_id": name, "messages": json.dumps(messages)}
        for name, messages in said.items()
    ]
    write_rated(tmp_path / "rated", rows)
    async with ChatServer(always(Scripted())) as server:
        given = arguments(server, tmp_path / "set", str(tmp_path / "rated"))
        status, _, err = await finished(*given, "--yes", "--grader", "judge", "--judge", "c")

    assert status == 0, err
    left_out = "1 of 2 prompts have tools, of which only names and results were kept, so they cannot be asked again"
    assert err.splitlines()[0] == f"{left_out}; they are left out"
    assert [body["messages"] for body in server.bodies] == [plain, plain]


async def test_a_budget_needs_prices(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted())) as server:
        status, _, err = await finished(*arguments(server, tmp_path / "set"), "--yes", "--max-usd", "1")

    assert status == 1
    assert "--max-usd needs the price of every model; a has none" in err


async def killed_midway(server: ChatServer, output: Path, sign: signal.Signals, asked: int) -> tuple[int, str]:
    process = await start(*arguments(server, output), "--yes")
    while sum(server.asked.values()) < asked:
        await asyncio.sleep(0.01)
    process.send_signal(sign)
    _, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode()


async def test_after_a_kill_nothing_done_is_redone_and_nothing_lost(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted(text="2021-03-05", delay_s=0.02))) as server:
        status, _ = await killed_midway(server, tmp_path / "set", signal.SIGKILL, asked=50)
        assert status == -signal.SIGKILL
        # A line that the kill tore in two.
        with (tmp_path / "set" / "journal.jsonl").open("a") as log:
            log.write('{"reply": {"prompt_id": "sql-0')

        status, out, err = await finished(*arguments(server, tmp_path / "set"), "--yes")

    assert status == 0, err
    assert "120 outcomes" in out
    assert len(server.asked) == 120
    # Only what was in flight when it died may have been asked twice.
    assert sum(server.asked.values()) <= 120 + 4
    assert max(server.asked.values()) <= 2


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_collection_says_how_to_go_on(tmp_path: Path, sign: signal.Signals) -> None:
    async with ChatServer(always(Scripted(delay_s=0.02))) as server:
        status, err = await killed_midway(server, tmp_path / "set", sign, asked=20)
        assert status == 130
        assert "of 120 done; the same command goes on" in err
        assert "Traceback" not in err

        status, out, err = await finished(*arguments(server, tmp_path / "set"), "--yes")

    assert status == 0, err
    assert "120 outcomes" in out


async def test_a_finished_collection_sends_nothing_and_another_plan_is_refused(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted())) as server:
        small = "families:sql@seed=1,count=3"
        await finished(*arguments(server, tmp_path / "set", small), "--yes")
        status, _, _ = await finished(*arguments(server, tmp_path / "set", small))
        assert (status, sum(server.asked.values())) == (0, 6)

        other = "families:sql@seed=2,count=3"
        status, _, err = await finished(*arguments(server, tmp_path / "set", other), "--yes")

    assert status == 1
    assert "the prompts differ. Choose another --output" in err.replace("\n", " ")


async def test_a_model_that_died_for_good_can_be_left_out(tmp_path: Path) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=404, body=b'{"error": {"message": "retired"}}') if body["model"] == "b" else Scripted()

    async with ChatServer(script) as server:
        given = arguments(server, tmp_path / "set", "families:sql@seed=1,count=8")
        status, _, err = await finished(*given, "--yes")
        assert status == 1
        assert err.splitlines()[-1].endswith("retired. To go on without b: the same command with --models a")
        assert "thalamus: ended before everything was asked: http" in err
        assert read_outcomes(tmp_path / "set").models == ("a",)

        status, out, err = await finished(*given, "--yes", "--models", "a")

    assert (status, out.splitlines()[-1]) == (0, f"8 outcomes in {tmp_path}/set, none missing."), err
    assert set(read_outcomes(tmp_path / "set").models) == {"a"}
    # Only what was in flight when it ended may have been asked twice.
    assert sum(times for (model, _), times in server.asked.items() if model == "a") <= 8 + 3


async def test_answers_of_a_model_that_is_left_out_are_kept(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted())) as server:
        given = arguments(server, tmp_path / "set", "families:sql@seed=1,count=3")
        await finished(*given, "--yes")
        status, _, err = await finished(*given, "--models", "b")
        assert status == 0
        assert "Answers of a are kept" in err
        assert read_outcomes(tmp_path / "set").models == ("b",)
        await finished(*given)

    assert read_outcomes(tmp_path / "set").models == ("a", "b")
    assert len(server.bodies) == 6


async def test_missing_outcomes_are_listed_not_scored_zero(tmp_path: Path) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=400, body=b'{"error": {"message": "no"}}') if body["model"] == "b" else Scripted()

    async with ChatServer(script) as server:
        source = "families:sql@seed=1,count=3"
        status, out, _ = await finished(*arguments(server, tmp_path / "set", source), "--yes")

    assert status == 0
    assert "3 outcomes" in out
    assert "3 are missing" in out
    reasons = [json.loads(line) for line in (tmp_path / "set" / "failures.jsonl").read_text().splitlines()]
    assert {(row["model"], row["reason"]) for row in reasons} == {("b", "status 400: no")}
    assert pq.read_table(tmp_path / "set" / "outcomes.parquet")["model"].to_pylist() == ["a"] * 3


async def test_what_is_cut_while_it_thinks_is_missing_and_said(tmp_path: Path) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        thinking = Scripted(text="<think>Let me see.", finish_reason="length", output_tokens=body["max_tokens"])
        return thinking if body["model"] == "b" else Scripted()

    async with ChatServer(script) as server:
        source = "families:sql@seed=1,count=16"
        status, _, err = await finished(*arguments(server, tmp_path / "set", source), "--yes")

    assert status == 0
    assert "thalamus: b: uses up its room before it says anything, as models that reason do: give more with" in err
    assert "thalamus: a:" not in err
    reasons = [json.loads(line) for line in (tmp_path / "set" / "failures.jsonl").read_text().splitlines()]
    assert [(row["model"], row["reason"]) for row in reasons] == [("b", "cut while it thought: raise max_tokens")] * 16
    assert pq.read_table(tmp_path / "set" / "outcomes.parquet")["model"].to_pylist() == ["a"] * 16


@pytest.mark.parametrize(
    ("status", "said"),
    [(200, "no answer was graded; the reasons are in "), (400, "no request was answered; the reasons are in ")],
)
async def test_answers_without_a_grade_are_told_from_no_answers(tmp_path: Path, status: int, said: str) -> None:
    lines = [json.dumps({"prompt": f"question {number}", "grader": "command"}) for number in range(2)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    body = b'{"error": {"message": "no"}}' if status == 400 else None

    async with ChatServer(always(Scripted(status=status, body=body))) as server:
        given = arguments(server, tmp_path / "set", str(tmp_path / "set.jsonl"))
        code, _, err = await finished(*given, "--yes", "--grader-command", "false")

    assert code == 1
    assert err.splitlines()[-1] == f"thalamus: {said}{tmp_path}/set/failures.jsonl"


CATALOG = """
models:
  - name: m
    served_as: m
    backend: pool
    card: {{context_tokens: 8192, capabilities: [chat]}}
    price: {{input_usd_per_m: 1.0, output_usd_per_m: 2.0}}
backends:
  - {{name: pool, kind: vllm, urls: ["{url}"]}}
"""


async def test_what_a_budget_paid_for_is_a_dataset_that_compares_the_models(tmp_path: Path) -> None:
    models = [
        {
            "name": name,
            "backend": "pool",
            "card": {"context_tokens": 8192},
            "price": {"input_usd_per_m": 1000, "output_usd_per_m": 1000},
        }
        for name in ("a", "b")
    ]
    async with ChatServer(always(Scripted(output_tokens=200))) as server:
        backends = [{"name": "pool", "kind": "openai", "urls": [server.url]}]
        (tmp_path / "catalog.yaml").write_text(json.dumps({"models": models, "backends": backends}))
        given = ["--prompts", "families:sql@seed=1,count=30", "--catalog", str(tmp_path / "catalog.yaml")]
        given += ["--output", str(tmp_path / "set"), "--yes", "--concurrency", "1", "--max-usd"]
        status, out, err = await finished(*given, "6")
        asked = len(server.bodies)
        dataset = read_outcomes(tmp_path / "set")

        assert 4 < asked < 60
        assert status == 1
        assert out.splitlines()[-1].startswith(f"{asked} outcomes in {tmp_path}/set; {60 - asked} are missing")
        assert "ended before everything was asked: spent " in err
        assert "raise --max-usd and run the same command to go on" in err
        assert (tmp_path / "set" / "failures.jsonl").read_text().count('"not asked: spent ') == 60 - asked
        answered_by = Counter(dataset.outcomes["model"].to_pylist())
        assert answered_by["a"] - answered_by["b"] in (0, 1)

        status, _, err = await finished(*given, "100")

    assert status == 0, err
    assert read_outcomes(tmp_path / "set").outcomes.num_rows == len(server.bodies) == 60
    assert not (tmp_path / "set" / "failures.jsonl").exists()


async def test_a_run_that_ends_before_the_first_answer_writes_what_is_missing_and_no_dataset(tmp_path: Path) -> None:
    async with ChatServer(always(Scripted(status=401, body=b'{"error": {"message": "no key"}}'))) as server:
        status, _, err = await finished(*arguments(server, tmp_path / "set"), "--yes")

    assert status == 1
    assert "answers 401 for model 'a': no key; all models at that address fail by their key: a, b" in err
    assert "To go on without" not in err
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["failures.jsonl", "journal.jsonl"]
    lines = (tmp_path / "set" / "failures.jsonl").read_text().splitlines()
    assert len(lines) == 120
    assert all("not asked" in line and "answers 401 for model 'a': no key" in line for line in lines)


async def test_a_key_that_one_backend_refuses_leaves_the_models_of_others(tmp_path: Path) -> None:
    def refuses(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=401, body=b'{"error": {"message": "no key"}}')

    models = [
        {"name": name, "backend": backend, "card": {"context_tokens": 8192}}
        for name, backend in (("a", "shut"), ("b", "shut"), ("c", "open"))
    ]
    async with ChatServer(refuses) as shut, ChatServer(always(Scripted())) as is_open:
        urls = {"shut": shut.url, "open": is_open.url}
        backends = [{"name": name, "kind": "openai", "urls": [url]} for name, url in urls.items()]
        (tmp_path / "catalog.yaml").write_text(json.dumps({"models": models, "backends": backends}))
        given = ["--prompts", "families:sql@seed=1,count=5", "--catalog", str(tmp_path / "catalog.yaml")]
        status, _, err = await finished(*given, "--output", str(tmp_path / "set"), "--yes")

    assert status == 1
    assert "fail by their key: a, b. To go on without a, b: the same command with --models c" in err


async def test_a_key_that_is_not_for_one_model_is_told_of_that_one(tmp_path: Path) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=401, body=b'{"error": {"message": "not yours"}}') if body["model"] == "b" else Scripted()

    async with ChatServer(script) as server:
        status, _, err = await finished(*arguments(server, tmp_path / "set"), "--yes")

    assert status == 1
    assert "answers 401 for model 'b': not yours. To go on without b: the same command with --models a" in err


async def test_no_more_is_charged_than_is_announced_at_most(tmp_path: Path) -> None:
    """Of prompts whose every byte is a token, as digits are in some tokenizers."""
    lines = [json.dumps({"prompt": f"{n}" * 700, "grader": "exact", "reference": "ok"}) for n in range(3)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))

    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        usage = {"prompt_tokens": len(text), "completion_tokens": body["max_tokens"]}
        choice = {"message": {"content": "ok"}, "finish_reason": "stop"}
        return Scripted(body=json.dumps({"choices": [choice], "usage": usage}).encode())

    async with ChatServer(script) as server:
        (tmp_path / "catalog.yaml").write_text(CATALOG.format(url=server.url))
        given = ("--prompts", str(tmp_path / "set.jsonl"), "--catalog", str(tmp_path / "catalog.yaml"))
        status, out, err = await finished(*given, "--output", str(tmp_path / "set"), "--yes", "--json")

    assert status == 0, err
    announced = re.search(r"3 requests, at most (\d+\.\d+) USD, about (\d+\.\d+)", err)
    assert announced is not None, err
    most, about = (float(usd) for usd in announced.groups())
    assert about < json.loads(out)["models"][0]["cost_usd"] <= most
