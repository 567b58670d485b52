"""`collect --judge` over HTTP, with models that err as told and a mock judge of known error rate that knows gold."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from router_models.outcomes.dataset import read_outcomes
from tests.fakes.chat_server import ChatServer, Scripted
from tests.fakes.collecting import finished, start
from tests.fakes.judge import MockJudge

# How often a model is right; the first is the reference.
SKILL = {"a": 0.6, "b": 0.8, "c": 0.4}
CATALOG = """
models:
{models}
backends:
  - {{name: pool, kind: vllm, urls: ["{url}"]}}
"""
MODEL = """  - name: {name}
    served_as: {name}
    backend: pool
    card: {{context_tokens: 8192, capabilities: [chat]}}
    price: {{input_usd_per_m: 1.0, output_usd_per_m: 2.0}}
"""
# Of the scripted 10 tokens read and 4 written.
COST_USD = (10 * 1.0 + 4 * 2.0) / 1e6


def worth(question: str, answer: str) -> float:
    first, second = (int(word) for word in question.removeprefix("Sum of ").split(" and "))
    return float(answer == str(first + second))


def answer_of(model: str, question: str) -> str:
    first, second = (int(word) for word in question.removeprefix("Sum of ").split(" and "))
    right = random.Random(f"{model} {question}").random() < SKILL[model]
    return str(first + second + (0 if right else 1 + list(SKILL).index(model)))


@dataclass
class World:
    """Models and their judge `j` behind one address."""

    judge: Callable[[str, int, dict[str, Any]], Scripted] = field(default_factory=lambda: MockJudge(worth))

    def __call__(self, text: str, before: int, body: dict[str, Any]) -> Scripted:
        if body["model"] == "j":
            return self.judge(text, before, body)
        return Scripted(text=answer_of(body["model"], text))


def asked_of_judge(server: ChatServer) -> list[int]:
    """How often each distinct request was sent to the judge."""
    return [times for (model, _), times in server.asked.items() if model == "j"]


def sums(folder: Path, count: int, *, gold: bool = True) -> str:
    path = folder / "sums.jsonl"
    with_gold = [{"prompt": f"Sum of {n} and 17", "grader": "exact", "reference": str(n + 17)} for n in range(count)]
    rows = with_gold if gold else [{"prompt": row["prompt"]} for row in with_gold]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def priced(folder: Path, server: ChatServer, *names: str) -> str:
    path = folder / "catalog.yaml"
    models = "".join(MODEL.format(name=name) for name in names)
    path.write_text(CATALOG.format(models=models, url=server.url.removesuffix("/v1")))
    return str(path)


def arguments(prompts: str, output: Path, *more: str) -> list[str]:
    shared = ["--prompts", prompts, "--models", "a,b,c", "--judge", "j", "--output", str(output), "--concurrency", "8"]
    return [*shared, "--yes", *more]


@pytest.mark.parametrize(
    "truth", [pytest.param(0.05, marks=pytest.mark.full), 0.15, pytest.param(0.3, marks=pytest.mark.full)]
)
async def test_the_error_rate_of_a_judge_is_found_within_three_points(tmp_path: Path, truth: float) -> None:
    mock = MockJudge(worth, truth)
    async with ChatServer(World(mock)) as server:
        prompts = sums(tmp_path, 1200)
        status, out, err = await finished(*arguments(prompts, tmp_path / "set", "--url", server.url, "--json"))

    assert status == 0, err
    report = json.loads(out)["judge"]
    assert report["error_rate"]["value"] == pytest.approx(truth, abs=0.03)
    assert report["gold"]["error_rate"]["value"] == pytest.approx(truth, abs=0.03)
    made = sum(mock.errors.values()) / len(mock.errors)
    assert report["gold"]["error_rate"]["value"] == pytest.approx(made, abs=1e-9)
    assert report == json.loads((tmp_path / "set" / "judge.json").read_text())
    assert max(asked_of_judge(server)) == 1
    _, bias_c = report["gold"]["bias"]
    # Errors pull towards 0.5: a model that loses to the reference more than it wins is judged too well.
    assert bias_c["model"] == "c"
    assert bias_c["bias"]["value"] > 0


async def test_gold_stays_the_score_and_the_judge_goes_beside_it(tmp_path: Path) -> None:
    async with ChatServer(World()) as server:
        prompts = sums(tmp_path, 60)
        status, out, err = await finished(*arguments(prompts, tmp_path / "set", "--url", server.url))

    assert status == 0, err
    assert "j judged" in out
    assert "error rate, by gold" in out
    rows = pq.read_table(tmp_path / "set" / "outcomes.parquet").to_pylist()
    gold = {(row["prompt_id"], row["model"]): row["score"] for row in rows}
    for row in rows:
        lead = row["score"] - gold[row["prompt_id"], "a"]
        assert row["judged_score"] == 0.5 + lead / 2
        assert row["judged_agrees"] is (None if row["model"] == "a" else True)


async def test_prompts_without_gold_are_scored_by_the_judge_alone(tmp_path: Path) -> None:
    def hesitant(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(text="Well ..." if "Sum of 7 " in text else MockJudge(worth).verdict(text))

    async with ChatServer(World(hesitant)) as server:
        more = ("--url", server.url, "--grader", "judge", "--reference", "b")
        status, out, err = await finished(*arguments(sums(tmp_path, 40, gold=False), tmp_path / "set", *more))

    assert status == 0, err
    assert "error rate, by gold" not in out
    dataset = read_outcomes(tmp_path / "set")
    reasons = [json.loads(line) for line in (tmp_path / "set" / "failures.jsonl").read_text().splitlines()]
    rows = dataset.outcomes.to_pylist()
    assert {row["score"] for row in rows if row["model"] == "b"} == {0.5}
    assert {row["score"] for row in rows} == {0.0, 0.5, 1.0}
    assert all(row["score"] == row["judged_score"] for row in rows)
    assert {row["model"] for row in reasons} <= {"a", "c"}
    assert reasons
    assert all("the verdict is neither A, B nor TIE: 'Well ...'" in row["reason"] for row in reasons)
    assert len(rows) + len(reasons) == 120


async def test_the_judge_is_asked_for_one_word_and_announced(tmp_path: Path) -> None:
    async with ChatServer(World()) as server:
        catalog = priced(tmp_path, server, "a", "b", "c", "j")
        status, _, err = await finished(*arguments(sums(tmp_path, 5), tmp_path / "set", "--catalog", catalog))

    assert status == 0, err
    assert "j (judge)" in err
    # 15 answers, and at most 10 pairs in two orders.
    assert "35 requests, at most" in err
    bodies = [body for body in server.bodies if body["model"] == "j"]
    assert {(body["temperature"], body["max_tokens"]) for body in bodies} == {(0.0, 512)}


async def test_a_judge_among_the_judged_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    def both(text: str, before: int, body: dict[str, Any]) -> Scripted:
        asked_to_judge = text.startswith("Compare")
        return Scripted(text=MockJudge(worth).verdict(text) if asked_to_judge else answer_of(body["model"], text))

    async with ChatServer(both) as server:
        more = ("--url", server.url, "--judge", "b")
        status, out, err = await finished(*arguments(sums(tmp_path, 20), tmp_path / "set", *more))

    assert status == 0, err
    assert "b will judge its own answers too" in err
    assert "b is one of the models it judges" in out


@pytest.mark.parametrize("sign", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
async def test_after_an_interruption_no_verdict_is_paid_twice(tmp_path: Path, sign: signal.Signals) -> None:
    def slow(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(text=MockJudge(worth).verdict(text), delay_s=0.02)

    async with ChatServer(World(slow)) as server:
        told = arguments(sums(tmp_path, 60), tmp_path / "set", "--url", server.url)
        process = await start(*told)
        while len(asked_of_judge(server)) < 40:
            await asyncio.sleep(0.005)
        process.send_signal(sign)
        _, err = await process.communicate()
        assert sign == signal.SIGKILL or b"the same command goes on" in err

        status, _, error = await finished(*told)

    assert status == 0, error
    times = asked_of_judge(server)
    # Only what was in flight at the signal may have been asked again.
    assert sum(times) <= len(times) + 8
    assert len(times) > 60
    answers = [n for (model, _), n in server.asked.items() if model != "j"]
    assert answers == [1] * 180

    async with ChatServer(World()) as idle:
        status, _, error = await finished(*told[:-1], idle.url)
        assert (status, sum(idle.asked.values())) == (0, 0), error


async def test_the_budget_holds_over_answers_and_verdicts_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    async with ChatServer(World()) as server:
        catalog = priced(tmp_path, server, "a", "b", "c", "j")
        told = arguments(sums(tmp_path, 100), tmp_path / "set", "--catalog", catalog, "--max-usd")
        limit_usd = 0.016
        status, _, err = await finished(*told, str(limit_usd))
        first = sum(asked_of_judge(server))

        assert status == 1
        assert "raise --max-usd and run the same command" in err.replace("\n", " ")
        assert 0 < first < 200
        assert read_outcomes(tmp_path / "set").models == ("a", "b", "c")
        assert sum(server.asked.values()) * COST_USD <= limit_usd

        status, _, err = await finished(*told, "1")

    assert status == 0, err
    assert f"Spent so far {(300 + first) * COST_USD:.4f} USD" in err
    assert max(server.asked.values()) == 1


async def test_what_a_budget_judged_is_all_models_of_a_prompt(tmp_path: Path) -> None:
    """And not the reference and ties of all prompts, which need no judge: with these all models would look equal."""
    async with ChatServer(World()) as server:
        catalog = priced(tmp_path, server, "a", "b", "c", "j")
        more = ("--catalog", catalog, "--grader", "judge", "--max-usd")
        told = arguments(sums(tmp_path, 60, gold=False), tmp_path / "set", *more)
        status, _, err = await finished(*told, "0.0142")
        assert (status, bool(asked_of_judge(server))) == (1, True), err
        outcomes = read_outcomes(tmp_path / "set").outcomes.to_pylist()

        status, _, err = await finished(*told, "1")

    assert status == 0, err
    prompts = {row["prompt_id"] for row in outcomes}
    assert 0 < len(prompts) < 60
    assert len(outcomes) == 3 * len(prompts)
    whole = read_outcomes(tmp_path / "set").outcomes.to_pylist()
    assert outcomes == [row for row in whole if row["prompt_id"] in prompts]


async def test_a_judge_that_says_nothing_makes_no_dataset(tmp_path: Path) -> None:
    def retired(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(status=404, body=b'{"error": {"message": "retired"}}')

    async with ChatServer(World(retired)) as server:
        more = ("--url", server.url, "--grader", "judge")
        status, _, err = await finished(*arguments(sums(tmp_path, 20, gold=False), tmp_path / "set", *more))

    assert status == 1
    assert err.splitlines()[-1].endswith("answers 404 for model 'j': retired")
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"failures.jsonl", "journal.jsonl", "judge"}
    missing = [json.loads(line) for line in (tmp_path / "set" / "failures.jsonl").read_text().splitlines()]
    assert len(missing) == 3 * 20
    assert {one["reason"].partition(":")[0] for one in missing} == {"not judged"}


@pytest.mark.parametrize(
    ("dead", "more", "advice"),
    [
        ("c", ("--reference", "a"), ". To go on without c: the same command with --models a,b"),
        ("a", (), ". To go on without a: the same command with --models b,c"),
        ("a", ("--reference", "a"), ""),
        ("b", ("--models", "a,b"), ""),
        ("b", ("--judge", "b"), ""),
    ],
)
async def test_only_what_a_judge_can_do_without_is_left_out(
    tmp_path: Path, dead: str, more: tuple[str, ...], advice: str
) -> None:
    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        if body["model"] == dead:
            return Scripted(status=404, body=b'{"error": {"message": "retired"}}')
        return Scripted(text=answer_of(body["model"], text))

    async with ChatServer(script) as server:
        where = ("--url", server.url, "--grader", "judge")
        told = arguments(sums(tmp_path, 5, gold=False), tmp_path / "set", *where, *more)
        status, _, err = await finished(*told)

    assert status == 1
    assert err.splitlines()[-1].endswith(f"answers 404 for model '{dead}': retired{advice}")


@pytest.mark.parametrize(("judged_by", "advice"), [("j", ""), ("k", ". To go on without c: the same command with")])
async def test_leaving_models_out_is_no_advice_where_their_judge_has_the_same_address(
    tmp_path: Path, judged_by: str, advice: str
) -> None:
    async with ChatServer(World()) as server, ChatServer(lambda *_: Scripted(status=401, body=b"{}")) as away:
        catalog = Path(priced(tmp_path, server, "a", "b", "c", "j", "k"))
        content = catalog.read_text() + f'  - {{name: away, kind: vllm, urls: ["{away.url}"]}}\n'
        for name in ("c", "j"):
            content = content.replace(f"served_as: {name}\n    backend: pool", f"served_as: {name}\n    backend: away")
        catalog.write_text(content)
        more = ("--catalog", str(catalog), "--grader", "judge", "--judge", judged_by)
        told = arguments(sums(tmp_path, 5, gold=False), tmp_path / "set", *more)
        status, _, err = await finished(*told)

    assert status == 1
    assert f"answers 401 for model 'c': {{}}{advice}" in err.splitlines()[-1]
    assert ("To go on" in err) == bool(advice)


async def test_another_reference_pays_only_for_what_it_compares_anew(tmp_path: Path) -> None:
    async with ChatServer(World()) as server:
        told = arguments(sums(tmp_path, 30), tmp_path / "set", "--url", server.url)
        await finished(*told)
        before = dict(server.asked)
        status, _, err = await finished(*told, "--reference", "c")

    assert status == 0, err
    assert max(server.asked.values()) == 1
    assert len(server.asked) > len(before)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--reference", "z"), "--reference 'z' is none of the models"),
        (("--models", "a"), "give at least two models"),
        (("--catalog", "CATALOG", "--judge", "z"), "the catalogue has no model 'z'"),
        (("--catalog", "UNPRICED", "--max-usd", "1"), "--max-usd needs the price of every model; j (judge) has none"),
    ],
)
async def test_what_cannot_be_judged_is_refused_before_anything_is_sent(
    tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    async with ChatServer(World()) as server:
        catalog = Path(priced(tmp_path, server, "a", "b", "c", "j"))
        unpriced = tmp_path / "unpriced.yaml"
        head, _, tail = catalog.read_text().rpartition("    price:")
        unpriced.write_text(head + tail[tail.index("\n") + 1 :])
        paths = {"CATALOG": str(catalog), "UNPRICED": str(unpriced)}
        where = () if "--catalog" in more else ("--url", server.url)
        told = [*arguments(sums(tmp_path, 3), tmp_path / "set", *where), *(paths.get(word, word) for word in more)]
        status, _, err = await finished(*told)

    assert status == 1
    assert words in err.replace("\n", " ")
    assert not server.asked


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--grader", "judge"), "is graded by a judge; give --judge"),
        (("--grader", "exact", "--reference", "a"), "--reference is what a judge compares with; give --judge"),
    ],
)
async def test_what_is_for_a_judge_needs_one(tmp_path: Path, more: tuple[str, ...], words: str) -> None:
    prompts = sums(tmp_path, 3, gold="--reference" in more)
    where = ("--url", "http://127.0.0.1:9", "--models", "a,b", "--output", str(tmp_path / "set"), "--yes")
    status, _, err = await finished("--prompts", prompts, *where, *more)

    assert status == 1
    assert words in err
