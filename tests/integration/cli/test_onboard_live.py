"""`thalamus onboard` at live endpoints: a model joins and is used; broken endpoints are named, not scored."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from app.cli.alone import alone
from router_models.adapting.adaptation import adapt
from router_models.aptitude import FAMILIES, draw_exam
from router_models.joining.exam import without_exam
from router_models.outcomes.dataset import OutcomesDataset, read_outcomes, write_outcomes
from router_models.storage.artifact import load_artifact, write_artifact
from tests.fakes.chat_server import ChatServer, Scripted

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "router_models/artifacts/demo-v2"
ITEMS = 6
ASKED = [item for family in FAMILIES for item in draw_exam(family, seed=1, count=ITEMS)]
ANSWERS = {item.prompt: item.answer for item in ASKED}
OWN_ROOM = {item.prompt: item.max_tokens for item in ASKED}
ABLE = 0.7
"""Share of items that the scripted models answer rightly."""


def honest(text: str, *_: Any) -> Scripted:
    """An able model: right answers but for some, in which it says something else of that length."""
    chance = Random(text)
    if chance.random() < ABLE:
        return Scripted(text=ANSWERS[text])
    return Scripted(text=" ".join(chance.sample(text.split(), min(chance.randint(3, 9), len(text.split())))) + ".")


def constant(*_: Any) -> Scripted:
    return Scripted(text="A")


def refusing(text: str, asked: int, body: dict[str, Any]) -> Scripted:
    if Random(f"refused {text}").random() < 0.5:
        return Scripted(text="I'm sorry, but I can't help with that.")
    return honest(text, asked, body)


def cutting(text: str, *_: Any) -> Scripted:
    padded = f"Let me think about this first, step by step: {text} So the answer should be: {ANSWERS[text]}"
    return Scripted(text=padded[:50])


def chatty(text: str, asked: int, body: dict[str, Any]) -> Scripted:
    """Right now and then; else it is still being polite when its room is used."""
    if Random(f"chatty {text}").random() < 0.4:
        return honest(text, asked, body)
    room: int = body["max_tokens"]
    courtesies = f"Sure, let me help you with what you asked: {text} " * 40
    return Scripted(text=courtesies[: 4 * room], finish_reason="length", output_tokens=room)


def capped(text: str, asked: int, body: dict[str, Any]) -> Scripted:
    """As `chatty`, but what it says ends at ten tokens, whatever it was allowed."""
    answer = chatty(text, asked, body)
    return replace(answer, text=answer.text[:40], output_tokens=10) if answer.finish_reason == "length" else answer


def without_usage(text: str, *_: Any) -> Scripted:
    answer = honest(text)
    return Scripted(text=answer.text, usage=False)


class Limited:
    """Refuses every third request of its rate."""

    def __init__(self) -> None:
        self._asked = 0

    def __call__(self, text: str, *_: Any) -> Scripted:
        self._asked += 1
        if self._asked % 3 == 0:
            return Scripted(status=429, body=b'{"error": {"message": "slow down"}}', headers={"retry-after": "0"})
        return honest(text)


def garbage(*_: Any) -> Scripted:
    return Scripted(body=b'{"choices": [{"mess')


def no_chat(*_: Any) -> Scripted:
    return Scripted(status=404, body=b'{"error": {"message": "The model does not support Chat Completions API"}}')


class Mortal:
    """Closes every connection after so many answers."""

    def __init__(self, lives: int) -> None:
        self.lives = lives

    def __call__(self, text: str, *_: Any) -> Scripted:
        self.lives -= 1
        return honest(text) if self.lives >= 0 else Scripted(cut=True)


@dataclass(frozen=True)
class Place:
    """A folder with a configuration of one model."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "gateway.yaml"

    def catalog(self) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load((self.folder / "catalog.yaml").read_text())
        return content

    def artifact(self) -> str | None:
        return str(yaml.safe_load(self.config.read_text())["artifact"])


def place(folder: Path, url: str) -> Place:
    catalog = {
        "models": [{"name": "mine", "backend": "own", "card": {"context_tokens": 8192}}],
        "backends": [{"name": "own", "kind": "openai", "urls": [url]}],
    }
    (folder / "catalog.yaml").write_text("# mine\n" + yaml.safe_dump(catalog))
    (folder / "gateway.yaml").write_text(f"# kept\ncatalog: catalog.yaml\nartifact: {DEMO}\n")
    return Place(folder)


def price(at: Place) -> None:
    """Have every model of the catalogue cost something."""
    catalog = at.catalog()
    for model in catalog["models"]:
        model["price"] = {"input_usd_per_m": 1.0, "output_usd_per_m": 2.0}
    (at.folder / "catalog.yaml").write_text(yaml.safe_dump(catalog))


def spent_usd(at: Place, model: str) -> float:
    """What its profile says that its exam cost."""
    profile = json.loads((at.folder / f"profiles/{model}.json").read_text())
    return float(profile["exam"]["spent_usd"])


async def onboard(at: Place, *options: str) -> tuple[int, str, str]:
    process = await started(at, *options)
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def started(at: Place, *options: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "app.cli", "onboard", "--config", str(at.config), "--items", str(ITEMS), "--yes"]
    return await asyncio.create_subprocess_exec(
        *command, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def test_a_model_joins_and_the_gateway_names_it(tmp_path: Path) -> None:
    async with ChatServer(honest) as server:
        at = place(tmp_path, server.url)
        status, out, err = await onboard(at, "--json", "--precision", "0")

    assert status == 0, err
    (report,) = json.loads(out)["models"]
    assert report["prompts"] == ITEMS * len(FAMILIES) == len(server.bodies)
    assert abs(report["mean_score"] - ABLE) < 0.15
    assert at.artifact() == "artifacts/mine-v1"
    assert at.catalog()["models"][0]["predicted_as"] == "mine"
    assert at.config.read_text().startswith("# kept")
    assert load_artifact(tmp_path / "artifacts/mine-v1").models[-1] == "mine"
    profile = json.loads((tmp_path / "profiles/mine.json").read_text())
    assert "gateway.yaml names it now. A gateway that runs takes it at SIGHUP." in " ".join(err.split())
    assert set(profile["skills"]) == set(FAMILIES)
    assert profile["exam"]["asked"] == ITEMS * len(FAMILIES)


@pytest.mark.parametrize(
    ("script", "words", "most_asked"),
    [
        (constant, "answers 'A' to", 26),
        pytest.param(refusing, "harmless questions", 50, marks=pytest.mark.full),
        pytest.param(cutting, "end after exactly 50 characters", 26, marks=pytest.mark.full),
        pytest.param(capped, "before the room that was asked for", 26, marks=pytest.mark.full),
        (garbage, "does not chat: not a chat completion", 4),
        pytest.param(no_chat, "does not support Chat Completions", 2, marks=pytest.mark.full),
    ],
)
async def test_a_broken_endpoint_is_named_and_does_not_join(
    tmp_path: Path, script: Callable[..., Scripted], words: str, most_asked: int
) -> None:
    async with ChatServer(script) as server:
        at = place(tmp_path, server.url)
        status, _, err = await onboard(at)

    assert status == 1
    assert words in err
    assert "no model joined; nothing was written" in err
    assert not (tmp_path / "artifacts").exists()
    assert "predicted_as" not in at.catalog()["models"][0]
    assert len(server.bodies) <= most_asked


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (without_usage, "says nothing of tokens"),
        pytest.param(Limited(), "it limits its rate", marks=pytest.mark.full),
    ],
)
async def test_a_peculiar_endpoint_joins_with_the_right_score_and_is_named(
    tmp_path: Path, script: Callable[..., Scripted], words: str
) -> None:
    async with ChatServer(script) as server:
        status, out, err = await onboard(place(tmp_path, server.url), "--json", "--precision", "0")

    assert status == 0, err
    assert words in err.replace("\n", " ")
    right = sum(honest(text).text == ANSWERS[text] for text in ANSWERS) / len(ANSWERS)
    assert json.loads(out)["models"][0]["mean_score"] == pytest.approx(right, abs=0.05)
    answered = [text for (_, text), times in server.asked.items() for _ in range(times)]
    assert len(set(answered)) == len(ANSWERS)


async def test_a_model_that_runs_out_of_the_known_models_room_joins_and_is_named(tmp_path: Path) -> None:
    async with ChatServer(chatty) as server:
        status, out, err = await onboard(place(tmp_path, server.url), "--json", "--precision", "0")
        asked = {body["messages"][-1]["content"]: body["max_tokens"] for body in server.bodies}

    assert status == 0, err
    assert asked == OWN_ROOM
    said = " ".join(err.split())
    assert "did not end within the room that the known models had too" in said
    assert "--max-tokens" not in said
    assert 0 < json.loads(out)["models"][0]["mean_score"] < ABLE


async def test_an_endpoint_that_dies_half_way_is_asked_only_the_rest_when_it_is_back(tmp_path: Path) -> None:
    mortal = Mortal(lives=30)
    async with ChatServer(mortal) as server:
        at = place(tmp_path, server.url)
        status, _, err = await onboard(at)
        assert status == 1
        assert "requests" in err
        assert "got no answer" in err
        assert not (tmp_path / "artifacts").exists()
        mortal.lives = 10_000
        before = len(server.bodies)
        status, out, err = await onboard(at, "--json", "--precision", "0")

    assert status == 0, err
    assert len(server.bodies) - before == len(ANSWERS) - 30
    assert json.loads(out)["models"][0]["prompts"] == len(ANSWERS)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `mine` has joined."""
    folder = tmp_path_factory.mktemp("joined")

    async def join() -> None:
        async with ChatServer(honest) as server:
            at = place(folder, server.url)
            price(at)
            status, _, err = await onboard(at, "--precision", "0")
        assert status == 0, err

    asyncio.run(join())
    return folder


def where_one_has_joined(folder: Path, joined: Path, url: str) -> Place:
    """The same with a second model, `later`, and another address."""
    copytree(joined, folder, dirs_exist_ok=True)
    at = Place(folder)
    catalog = at.catalog()
    catalog["backends"][0]["urls"] = [url]
    catalog["models"].append({"name": "later", "backend": "own", "card": {"context_tokens": 8192}})
    (folder / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    return at


OTHERS = [("--max-tokens", "77"), ("--items", "7"), ("--seed", "2")]


async def test_a_model_that_joins_later_leaves_those_before_it_alone_and_has_their_room(
    tmp_path: Path, joined: Path
) -> None:
    async with ChatServer(honest) as server:
        at = where_one_has_joined(tmp_path, joined, server.url)
        catalog = at.catalog()
        # What was changed since is no reason to ask the first one again.
        catalog["models"][0]["card"]["context_tokens"] = 4096
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
        before = len(server.bodies)
        refused = [await onboard(at, "--precision", "0", *other) for other in OTHERS]
        assert len(server.bodies) == before
        status, out, err = await onboard(at, "mine", "later", "--json", "--precision", "0")
        asked = server.bodies[before:]

    assert [status for status, _, _ in refused] == [1, 1, 1]
    for (option, value), (_, _, said) in zip(OTHERS, refused, strict=True):
        assert f"{option} {value}: mine sat with" in said
        assert f"remove `predicted_as` of mine from the catalogue of {at.config}" in said
    assert status == 0, err
    assert "mine has joined already, and is not asked again" in err
    assert {body["model"] for body in asked} == {"later"}
    assert {body["messages"][-1]["content"]: body["max_tokens"] for body in asked} == OWN_ROOM
    assert [each["model"] for each in json.loads(out)["models"]] == ["mine", "later"]
    assert at.artifact() == "artifacts/mine-v2"
    assert load_artifact(tmp_path / "artifacts/mine-v2").models[-2:] == ("mine", "later")
    assert [model["predicted_as"] for model in at.catalog()["models"]] == ["mine", "later"]


async def test_what_a_model_cost_that_has_joined_counts_against_the_limit(tmp_path: Path, joined: Path) -> None:
    async with ChatServer(honest) as server:
        at = where_one_has_joined(tmp_path, joined, server.url)
        price(at)
        spent = spent_usd(at, "mine")
        status, _, err = await onboard(at, "--max-usd", str(spent))
        asked = len(server.bodies)
        joins, _, said = await onboard(at, "--max-usd", str(100 * spent))

    assert (status, asked) == (1, 0)
    assert f"Spent so far {spent:.4f} USD" in err
    assert f"spent {spent:.6f} of {spent:.6f} USD" in err
    assert joins == 0, said
    assert spent_usd(at, "mine") == spent > 0


def graded(folder: Path, *models: str) -> Path:
    """Thirty graded prompts of each model."""
    ids = [f"q{number}" for number in range(30)]
    prompts = pa.table({"prompt_id": ids, "prompt": [f"What is {number} + 5?" for number in range(30)]})
    rows = [(name, model, float(place % 3 > 0)) for model in models for place, name in enumerate(ids)]
    asked, answered, scores = zip(*rows, strict=True)
    outcomes = {"prompt_id": asked, "model": answered, "score": scores, "output_tokens": [20] * len(rows)}
    write_outcomes(folder, OutcomesDataset(prompts, pa.table(outcomes)))
    return folder


async def test_a_model_sits_the_exam_after_another_joined_from_graded_prompts(tmp_path: Path, joined: Path) -> None:
    async with ChatServer(honest) as server:
        at = where_one_has_joined(tmp_path, joined, server.url)
        extended, with_read = tmp_path / "artifacts/with-read", graded(tmp_path / "graded", "read", "mine")
        of_outcomes = ["--outcomes", str(with_read), "--artifact", str(tmp_path / "artifacts/mine-v1")]
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "app.cli", "onboard", "read", *of_outcomes, "--output", str(extended)],
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0
        at.config.write_text("catalog: catalog.yaml\nartifact: artifacts/with-read\n")
        catalog = at.catalog()
        catalog["models"].append(
            {"name": "read", "backend": "own", "predicted_as": "read", "card": {"context_tokens": 8192}}
        )
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
        status, _, err = await onboard(at, "later", "--precision", "0")
        asked = {body["model"] for body in server.bodies}

    assert status == 0, err
    assert asked == {"later"}
    assert [model["predicted_as"] for model in at.catalog()["models"]] == ["mine", "later", "read"]
    found = load_artifact(tmp_path / "artifacts/mine-v2")
    assert found.models[-3:] == ("read", "mine", "later")
    sat_N = found.calibration.dataset == found.calibration.datasets.index("exam on live exam")
    assert np.isfinite(found.calibration.score[sat_N, -2:]).all(), "both are compared on the same prompts"
    graded_N = found.calibration.dataset == found.calibration.datasets.index("exam on graded")
    assert np.isfinite(found.calibration.score[graded_N, -3:-1]).all(), "what was graded of the first is not lost"


async def test_an_exam_that_could_not_be_joined_to_is_refused_before_anything_is_asked(
    tmp_path: Path, joined: Path
) -> None:
    async with ChatServer(honest) as server:
        at = where_one_has_joined(tmp_path, joined, server.url)
        old = load_artifact(tmp_path / "artifacts/mine-v1")
        write_artifact(tmp_path / "artifacts/copy", replace(old, about=without_exam(old)))
        at.config.write_text("catalog: catalog.yaml\nartifact: artifacts/copy\n")
        status, _, err = await onboard(at, "later")

    assert (status, server.bodies) == (1, [])
    assert "has an exam on live exam already" in err


def speechless(*_: Any) -> Scripted:
    """A model that reasons until its room is used."""
    return Scripted(text="", finish_reason="length", output_tokens=9999)


@pytest.mark.full
async def test_a_later_model_that_needs_more_room_hears_that_all_have_to_sit_anew(tmp_path: Path, joined: Path) -> None:
    async with ChatServer(speechless) as server:
        at = where_one_has_joined(tmp_path, joined, server.url)
        status, _, err = await onboard(at, "later")

    assert status == 1
    assert "uses up its room before it says anything" in err
    assert "for more room let all sit anew" in err
    assert "--max-tokens" not in err


@pytest.mark.parametrize(
    "change", [pytest.param("renamed", marks=pytest.mark.full), "answers gone", "no folder for the result"]
)
async def test_what_could_not_be_written_is_said_before_anything_is_asked(
    tmp_path: Path, joined: Path, change: str
) -> None:
    async with ChatServer(honest) as server:
        at = where_one_has_joined(tmp_path, joined, server.url)
        catalog = at.catalog()
        if change == "renamed":
            catalog["models"][0]["name"] = "better"
        if change == "answers gone":
            (tmp_path / "exams").rename(tmp_path / "elsewhere")
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
        before = len(server.bodies)
        options = ["--output", str(at.config / "new")] if change == "no folder for the result" else []
        status, _, err = await onboard(at, *options, "later")

    assert (status, len(server.bodies)) == (1, before)
    words = {
        "renamed": "better would lose its column mine, because another name sat for it; rename it back to mine, or "
        "remove its `predicted_as`",
        "answers gone": "mine: the answers of its exam are gone from",
        "no folder for the result": f"{at.config} is no folder that can be written to",
    }
    assert words[change] in err
    assert "questions, at most" not in err
    assert err.splitlines()[-1].startswith("thalamus: ")


@pytest.mark.full
async def test_a_question_that_fails_is_asked_once_in_a_run_and_again_in_the_next(tmp_path: Path) -> None:
    refused = set(list(ANSWERS)[::7])
    is_strict = True

    def strict(text: str, *_: Any) -> Scripted:
        if is_strict and text in refused:
            return Scripted(status=400, body=b'{"error": {"message": "too long"}}')
        return honest(text)

    async with ChatServer(strict) as server:
        at = place(tmp_path, server.url)
        status, out, err = await onboard(at, "--json", "--precision", "0")
        # A 400 may be about log-probabilities, so each is tried once without them.
        assert max(server.asked[key] for key in server.asked if key[1] in refused) <= 2
        is_strict = False
        for path in (tmp_path / "artifacts").iterdir():
            path.rename(tmp_path / "away")
        place(tmp_path, server.url)
        again, out_again, _ = await onboard(at, "--json", "--precision", "0")

    assert (status, again) == (0, 0), err
    assert json.loads(out)["models"][0]["prompts"] == len(ANSWERS) - len(refused)
    assert json.loads(out_again)["models"][0]["prompts"] == len(ANSWERS)


async def test_a_mended_endpoint_sits_anew_and_so_does_a_new_version(tmp_path: Path) -> None:
    script: Callable[..., Scripted] = refusing
    async with ChatServer(lambda *asked: script(*asked)) as server:
        at = place(tmp_path, server.url)
        price(at)
        _, _, broken = await onboard(at)
        script = honest
        _, _, unasked = await onboard(at)
        asked = len(server.bodies)
        mended, out, spent = await onboard(at, "mine", "--anew", "--json")
        first = len(server.bodies) - asked
        script = constant
        worse, _, err = await onboard(at, "mine", "--anew")
        script = honest
        again, _, _ = await onboard(at, "mine", "--anew", "--json")

    assert "once that is mended, --anew asks it again" in broken
    assert "are used; --anew asks again" in unasked
    assert (mended, worse, again) == (0, 1, 0), err
    assert first >= json.loads(out)["models"][0]["prompts"]
    assert "Spent so far 0.0000" not in spent
    assert "no model joined; nothing was written" in err
    assert at.artifact() == "artifacts/mine-v2"
    assert len(list((tmp_path / "exams").glob("*/mine.before-*"))) == 3


async def test_an_adapted_artifact_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    demo, own = load_artifact(DEMO), read_outcomes(ROOT / "deploy/demo/outcomes").split("unseen")
    write_artifact(tmp_path / "own-v1", adapt(demo, own, "own", "own-v1", seed=1)[0])
    async with ChatServer(honest) as server:
        at = place(tmp_path, server.url)
        at.config.write_text("catalog: catalog.yaml\nartifact: own-v1\n")
        status, _, err = await onboard(at)

    assert status == 1
    assert "let models join first, and adapt then" in err
    assert not server.bodies


async def test_an_interrupted_exam_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    def slow(text: str, *_: Any) -> Scripted:
        return Scripted(text=honest(text).text, delay_s=0.15)

    async with ChatServer(slow) as server:
        at = place(tmp_path, server.url)
        process = await started(at, "--concurrency", "2")
        while len(server.bodies) < 20:
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert "the same command goes on from there" in err.decode()
        status, _, again = await onboard(at, "--precision", "0")

    assert status == 0, again
    assert all(times <= 2 for times in server.asked.values())
    assert sum(times - 1 for times in server.asked.values()) <= 2  # those that were in flight


@pytest.mark.full
async def test_a_second_exam_at_once_is_refused_before_it_asks_and_loses_nothing(tmp_path: Path) -> None:
    going = asyncio.Event()

    def script(text: str, *_: Any) -> Scripted:
        going.set()
        return replace(honest(text), delay_s=0.1)

    async with ChatServer(script) as server, ChatServer(honest) as other:
        at = place(tmp_path, server.url)
        catalog = at.catalog()
        catalog["models"].append({"name": "beside", "backend": "other", "card": {"context_tokens": 8192}})
        catalog["backends"].append({"name": "other", "kind": "openai", "urls": [other.url]})
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
        first = await started(at, "mine")
        await going.wait()
        refused, _, err = await onboard(at, "beside")
        assert (refused, other.bodies) == (1, [])
        _, said = await first.communicate()
        assert first.returncode == 0, said
        status, _, said_later = await onboard(at, "beside")

    assert f"another `thalamus onboard` is at work in {tmp_path}; nothing was sent" in err
    assert status == 0, said_later
    assert [model["predicted_as"] for model in at.catalog()["models"]] == ["mine", "beside"]
    assert load_artifact(tmp_path / "artifacts/mine-v2").models[-2:] == ("mine", "beside")


async def test_an_exam_beside_one_that_writes_to_the_same_catalogue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "west").mkdir()
    async with ChatServer(honest) as server:
        place(tmp_path, server.url)
        west = Place(tmp_path / "west")
        west.config.write_text(f"catalog: ../catalog.yaml\nartifact: {DEMO}\n")
        with alone(tmp_path):
            status, _, err = await onboard(west)

    assert (status, server.bodies) == (1, [])
    assert f"another `thalamus onboard` is at work in {tmp_path}; nothing was sent" in err


async def test_without_a_terminal_it_asks_for_yes_and_sends_nothing(tmp_path: Path) -> None:
    async with ChatServer(honest) as server:
        at = place(tmp_path, server.url)
        command = [sys.executable, "-m", "app.cli", "onboard", "--config", str(at.config), "--items", "1"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        _, err = await process.communicate()

    assert process.returncode == 1
    assert "add --yes to send up to 10 requests" in err.decode()
    assert not server.bodies
