"""The commands as programs: a gateway that is started and stopped, files and backends that are checked, a decision."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from app.assembly.generated_keys import opened_keys
from app.forms.grants import new_grant
from app.settings import load_settings
from app.store.sqlite import FORM, open_database
from router_models.storage.artifact import write_artifact
from tests.conftest import free_ports
from tests.fakes.artifacts import tiny_artifact
from tests.fakes.backend import TOKENS, FakeBackend, Script
from tests.fakes.deployment import SECRET, write_config
from tests.fakes.redis_server import running_redis
from tests.fakes.upstream import texts

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}
BACKEND = "http://127.0.0.1:1"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


async def thalamus(*arguments: str) -> tuple[int | None, str, str]:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def serving(folder: Path, backend: FakeBackend) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, str]]:
    """The program, and the addresses of both listeners."""
    data, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = write_config(folder, {"small": backend.url}, listen=data, admin_listen=admin, limits={"accept_s": 0})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "serve", "--config", str(config), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr
        line = json.loads(await asyncio.wait_for(process.stderr.readline(), 30))
        assert (line["event"], line["listen"], line["admin"]) == ("gateway.started", data, admin)
        yield process, f"http://{data}", f"http://{admin}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_gateway_answers_on_two_listeners_and_ends_what_it_began(tmp_path: Path) -> None:
    async with FakeBackend(Script(event_delay_s=0.1)) as backend, serving(tmp_path, backend) as (process, url, admin):
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as caller:
            async with caller.get(f"{admin}/metrics") as page:
                assert b"thalamus_requests_in_flight 0.0" in await page.read()
            async with caller.get(f"{url}/metrics") as page:
                assert page.status == 404
            async with caller.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
                assert "server" not in answer.headers
                await answer.content.readany()
                process.send_signal(signal.SIGTERM)
                rest = await answer.read()
            assert b"data: [DONE]" in rest
        assert process.stderr
        said = (await asyncio.wait_for(process.stderr.read(), 10)).decode().splitlines()
        assert await process.wait() == 0
        events = [json.loads(line)["event"] for line in said]
        assert events == ["request.rejected", "gateway.draining", "request.completed", "gateway.stopped"]
        assert texts(rest).endswith(TOKENS[-1])


async def test_check_says_of_a_redis_that_drops_keys_what_to_set(tmp_path: Path) -> None:
    async with FakeBackend(models=("org/small",)) as backend:
        with running_redis(tmp_path) as redis:
            config = write_config(tmp_path, {"small": backend.url}, store=redis.url)
            usual, out, _ = await thalamus("check", "--config", str(config))
            assert "Redis" not in out
            redis.do("CONFIG", "SET", "maxmemory", "1gb")
            redis.do("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            status, out, _ = await thalamus("check", "--config", str(config))
            assert "full (volatile-lru), and what was spent may be among them: set maxmemory-policy noeviction" in out
        without, out, _ = await thalamus("check", "--config", str(config))
        assert "Redis" not in out
        assert usual == status == without


async def test_check_says_that_redis_does_not_let_the_gateway_in(tmp_path: Path) -> None:
    async with FakeBackend(models=("org/small",)) as backend:
        with running_redis(tmp_path) as redis:
            redis.do("CONFIG", "SET", "requirepass", "hush")
            config = write_config(tmp_path, {"small": backend.url}, store=redis.url)
            status, out, _ = await thalamus("check", "--config", str(config))
        assert status == 1
        assert "WRONG store: Redis does not let the gateway in: NOAUTH" in out


def spoil(folder: Path, what: str) -> None:
    """Do to what a gateway keeps what keeps it from starting."""
    if what == "pepper":
        (folder / "pepper").unlink()
        (folder / "pepper").write_text("ab" * 32 + "\n")
        (folder / "pepper").chmod(0o400)
        return
    with closing(sqlite3.connect(folder / what)) as later:
        later.execute(f"PRAGMA user_version = {FORM + 1}")


@pytest.mark.parametrize("what", ["pepper", "keys.sqlite", "journal.sqlite"])
async def test_check_says_what_serve_would_not_start_on_and_writes_nothing(tmp_path: Path, what: str) -> None:
    data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    kept: dict[str, Any] = {"state_dir": "state", "pepper_file": "state/pepper"}
    config = write_config(tmp_path, {"small": BACKEND}, listen=data, admin_listen=admin, **kept)
    settings = load_settings(config)
    async with opened_keys(settings, None) as keys:
        await keys.issuer.create("ann", new_grant().plain(), "me")
    open_database(settings.state_dir).close()
    assert (await thalamus("check", "--no-probe", "--config", str(config)))[0] == 0
    spoil(settings.state_dir, what)
    there = {path: path.read_bytes() for path in settings.state_dir.rglob("*") if path.is_file()}
    status, out, _ = await thalamus("check", "--no-probe", "--config", str(config))
    assert {path: path.read_bytes() for path in settings.state_dir.rglob("*") if path.is_file()} == there
    refused, _, err = await thalamus("serve", "--config", str(config))
    (wrong,) = [line for line in out.splitlines() if line.startswith("WRONG ")]
    assert (status, refused) == (1, 1)
    assert err.splitlines()[-1] == wrong.replace("WRONG", "thalamus:", 1)


async def test_check_says_that_generated_keys_cannot_be_read(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"small": BACKEND}, state_dir="state")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "keys.sqlite").write_bytes(b"no database, for once " * 500)
    status, out, _ = await thalamus("check", "--no-probe", "--config", str(config))
    assert status == 1
    assert "WRONG generated keys cannot be read: " in out
    assert "keys.sqlite: file is not a database" in out


async def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = write_config(tmp_path, {"small": BACKEND}, listen=address)
        status, _, err = await thalamus("serve", "--config", str(config))
    assert (status, err.splitlines()) == (
        1,
        [f"thalamus: cannot listen on {address}: Address already in use; stop what does, or change the address"],
    )


async def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    status, _, err = await thalamus("serve", "--config", str(tmp_path / "nope.yaml"))
    assert status == 1
    assert err == f"thalamus: {tmp_path}/nope.yaml: No such file or directory; say where it is with --config\n"


async def test_a_good_deployment_checks_out(tmp_path: Path) -> None:
    async with FakeBackend(models=("org/small",)) as backend:
        path = write_config(tmp_path, {"small": backend.url})
        content = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
        content["models"][0]["card"]["context_tokens"] = 1024
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
        status, out, err = await thalamus("check", "--config", str(path))
    assert (status, err) == (0, "")
    assert f"small ({backend.url}): vLLM 0.32.0, serves org/small" in out
    assert "untested, so never chosen on quality: small" in out


async def test_models_that_no_budget_stops_are_named(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"small": BACKEND, "large": BACKEND, "huge": BACKEND})
    content = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
    hosted = {"usd_per_gpu_hour": 0, "gpus": 1, "tokens_per_s": 100}
    content["models"].append({**content["models"][0], "name": "own", "price": {"self_hosted": hosted}})
    del content["models"][1]["price"]
    content["models"][2]["price"] = {"input_usd_per_m": 0, "output_usd_per_m": 0}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    _, out, _ = await thalamus("check", "--config", str(path), "--no-probe")
    assert "without a price, so stopped by no budget: large\n" in out
    assert "with a price of zero, so stopped by no budget: huge, own\n" in out


async def test_what_is_wrong_with_backends_is_one_line_each(tmp_path: Path) -> None:
    async with FakeBackend(models=("org/other",)) as other, FakeBackend(models=("org/large",)) as locked:
        locked.key = "secret"
        urls = {"small": other.url, "large": locked.url, "huge": BACKEND}
        status, out, _ = await thalamus("check", "--config", str(write_config(tmp_path, urls)), "--json")
    assert status == 1
    assert json.loads(out)["problems"] == [
        f"small ({other.url}): does not serve 'org/small' (small); it serves org/other",
        f"large ({locked.url}): wants a key; name it in key_env",
        f"huge ({BACKEND}): refuses connections; does it run, and on this port?",
    ]


async def test_a_worker_with_less_context_than_its_card_says_is_found(tmp_path: Path) -> None:
    async with FakeBackend(models=("org/small",)) as backend:
        status, out, _ = await thalamus("check", "--config", str(write_config(tmp_path, {"small": backend.url})))
    assert status == 1
    assert f"WRONG small ({backend.url}): serves small with 1024 tokens of context; its card says 4096" in out


async def test_an_address_that_may_not_be_asked_is_found_without_asking(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"small": "http://169.254.169.254"})
    status, out, _ = await thalamus("check", "--config", str(path), "--no-probe")
    assert status == 1
    assert "169.254.169.254" in out.splitlines()[-1]


async def test_wrong_files_are_checked_without_asking_backends(tmp_path: Path) -> None:
    status, out, _ = await thalamus("check", "--config", str(write_config(tmp_path, {"small": BACKEND}, encoder="x")))
    assert status == 1
    assert out == f"WRONG {tmp_path}/gateway.yaml: encoder: expected 'auto', 'transformer' or 'static', got 'x'\n"


@pytest.fixture
def explained(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "tiny-v1", tiny_artifact(rows=200))
    urls = {"small": BACKEND, "large": BACKEND}
    return write_config(tmp_path, urls, predicted=True, artifact="tiny-v1", predictor_limit_s=5)


async def test_what_each_profile_is_expected_to_save_and_to_lose_is_said(explained: Path) -> None:
    status, out, _ = await thalamus("check", "--config", str(explained), "--no-probe", "--json")
    found = json.loads(out)
    expected = found["expected"]
    assert (status, list(expected)) == (0, ["default", "cheap", "small"])
    # One of 200 rows lacks an outcome of one of the two models; the third profile has one model only.
    assert (expected["default"]["prompts"], expected["default"]["datasets"], expected["small"]) == (199, ["tiny"], None)
    assert expected["cheap"]["cost_usd"] <= expected["default"]["cost_usd"]
    gain, ratio = expected["cheap"]["gain"], expected["cheap"]["cost_ratio"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert ratio["mean"] == pytest.approx(expected["cheap"]["cost_usd"] / expected["cheap"]["best_cost_usd"])
    assert (found["unused"], found["untested"]) == ([], [])
    # 40 tokens read and 25 written cost 57 millionths with `small`, ten times that with `large`, near enough.
    prices = {"small": (40 * 0.8 + 25 * 1.6) / 1e6, "large": (40 * 7 + 25 * 14) / 1e6}
    assert expected["cheap"]["best_cost_usd"] == pytest.approx(prices[expected["cheap"]["best_model"]])


async def test_what_is_expected_is_a_sentence_for_each_profile(explained: Path) -> None:
    status, out, err = await thalamus("check", "--config", str(explained), "--no-probe")
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("profile ")]
    assert [line.partition(":")[0] for line in lines] == ["profile default", "profile cheap", "profile small"]
    assert all(line.endswith(" on tiny (199 calibration prompts)") for line in lines[:2])
    assert lines[2] == "profile small: nothing to compare: no two of its models were measured on the same prompts"


@pytest.mark.parametrize(("default", "cheap", "is_warned"), [(20, 0, True), (0, 20, False), (1, 1, False)])
async def test_a_cheap_profile_that_costs_more_than_the_default_is_warned_of(
    explained: Path, default: float, cheap: float, is_warned: bool
) -> None:
    weights = {"default": default, "cheap": cheap}
    content = yaml.safe_load(explained.read_text())
    content["profiles"] = {name: {"weights": {"cost": weight}} for name, weight in weights.items()}
    explained.write_text(yaml.safe_dump(content))
    status, out, _ = await thalamus("check", "--config", str(explained), "--no-probe")
    assert status == 0
    assert ("WARNING profile cheap is expected to cost more than default, $" in out) is is_warned


async def test_a_decision_is_explained_as_a_table_and_a_picture(explained: Path) -> None:
    picture = explained.parent / "front.png"
    status, out, err = await thalamus(
        "explain", "the capital of France", "--config", str(explained), "--plot", str(picture)
    )
    assert (status, err) == (0, "")
    assert "small" in out
    assert "large" in out
    assert re.search(r"^profile default: .* on tiny \(199 calibration prompts\)$", out, re.MULTILINE)
    assert re.search(r"^read by the (static|transformer) encoder: the prompt is (un)?like what", out, re.MULTILINE)
    assert picture.read_bytes().startswith(b"\x89PNG")


async def test_a_decision_is_explained_as_json_with_weights(explained: Path) -> None:
    status, out, _ = await thalamus(
        "explain", "the capital", "--config", str(explained), "--weights", "cost=20", "--json"
    )
    record = json.loads(out)
    assert (status, record["model"], record["asked"]["weights"]) == (0, "small", {"cost": 20.0})
    # What is expected is of the profile with the weights that were asked for, and apart from the decision.
    expected = record["expected"]["default"]
    assert (list(record["expected"]), expected["cost_weight"], expected["chosen"]) == (["default"], 20.0, ["small"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--weights", "coast=1"), "thalamus: --weights weighs 'coast', but there are only cost"),
        (("--profile", "nope"), "thalamus: there is no profile 'nope'; there are default, cheap, small"),
    ],
)
async def test_what_is_wrong_with_a_question_is_one_line(
    explained: Path, arguments: tuple[str, ...], says: str
) -> None:
    status, _, err = await thalamus("explain", "x", "--config", str(explained), *arguments)
    assert (status, len(err.splitlines())) == (1, 1)
    assert err.startswith(says)
