"""`thalamus init` as a program: real servers on loopback, files that the gateway serves from, a line for each fault."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from app.api.bodies.parameters import EXTRAS
from app.settings import load_settings
from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend, Received, Script, _send
from tests.fakes.certificates import Authority

QWEN, LLAMA, PAID = "Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", "gpt-4o-mini"
KEY = "sk-secret"
CONFIG = Path("configs/gateway.yaml")
REFUSES = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


async def thalamus(folder: Path, *arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """Run a command in a folder to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", *arguments,
        cwd=folder, env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def fault(folder: Path, *arguments: str, **environment: str) -> str:
    """The one line of a command that fails and writes nothing."""
    status, out, err = await thalamus(folder, "init", *arguments, **environment)
    assert (status, out) == (1, "")
    assert not (folder / "configs").exists()
    (line,) = err.splitlines()
    return line


class Service(FakeBackend):
    """An API that is no vLLM worker: it has no /version, and lists what it is told."""

    entries: tuple[Mapping[str, Any], ...] = ()

    async def _page(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path == "/version":
            await _send(writer, 404, b"")
        elif request.path == "/v1/models" and self.entries:
            await _send(writer, 200, json.dumps({"data": self.entries}).encode())
        else:
            await super()._page(request, writer)


class Picky(Service):
    """Knows `max_completion_tokens` only."""

    async def _complete(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> bool:
        if "max_tokens" in request.body:
            script = Script(status=400, error={"message": REFUSES})
        return await super()._complete(script, request, writer)


def catalogue(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "configs/catalog.yaml").read_text())
    return content


async def test_three_endpoints_one_of_them_over_tls_with_a_key_become_a_gateway(tmp_path: Path) -> None:
    authority = Authority()
    ca_file = authority.file(tmp_path)
    async with (
        FakeBackend(models=(QWEN, "mine")) as one,
        FakeBackend(models=(LLAMA, "BAAI/bge-m3")) as two,
        Service(models=(PAID, QWEN), tls=authority.server()) as three,
    ):
        three.key = KEY
        urls = [one.url, two.url, three.url]
        status, out, err = await thalamus(
            tmp_path, "init", *urls, "--key-env", "PAID_KEY", "--ca-file", ca_file, PAID_KEY=KEY
        )

        assert status == 0, err
        settings = load_settings(tmp_path / CONFIG, {"PAID_KEY": KEY})
        models = {model.name: model for model in settings.catalog.models}
        assert {name: (model.served_as, model.predicted_as) for name, model in models.items()} == {
            "qwen2.5-7b-instruct": (QWEN, "qwen2.5-7b-it"),
            "mine": ("mine", None),
            "llama-3.1-8b-instruct": (LLAMA, "llama-3.1-8b-it"),
            "gpt-4o-mini": (PAID, "gpt-4o-mini-2024-07-18"),
            "qwen2.5-7b-instruct-2": (QWEN, "qwen2.5-7b-it"),
        }
        assert all(model.speed and model.card.context_tokens == 1024 for model in models.values())
        backends = settings.catalog.backends
        assert [(one.kind, one.key_env, bool(one.ca_file)) for one in backends] == [
            ("vllm", None, False), ("vllm", None, False), ("openai", "PAID_KEY", True),
        ]  # fmt: skip
        assert f"LEFT OUT BAAI/bge-m3 at {two.url}: is for embedding, and does not chat" in out
        assert "OPEN mine: parameters_b, released, license, regions: not known" in out
        assert "thalamus onboard " in out
        assert KEY not in out + err + (tmp_path / "configs/catalog.yaml").read_text()
        assert not any("authorization" in request.headers for request in one.requests + two.requests)

        status, out, err = await thalamus(tmp_path, "check", PAID_KEY=KEY)
        assert status == 0, out + err
        await answers(tmp_path, PAID_KEY=KEY)


async def _key_of_the_first_start(told: asyncio.StreamReader) -> str:
    """What the gateway shows once, before it takes requests."""
    key = ""
    while b"gateway.started" not in (line := await asyncio.wait_for(told.readline(), 30)):
        if line.strip().startswith(b"rk_"):
            key = line.strip().decode()
    return key


async def answers(folder: Path, **environment: str) -> None:
    """Serve from the files as they are, but for the ports, and be answered by every model."""
    data, admin = free_ports(2)
    text = (folder / CONFIG).read_text().replace(":8080", f":{data}").replace(":8081", f":{admin}")
    (folder / CONFIG).write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "serve",
        cwd=folder, env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr
        key = await _key_of_the_first_start(process.stderr)
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as caller:
            for model in ("auto", *(model["name"] for model in catalogue(folder)["models"])):
                body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
                async with caller.post(f"http://127.0.0.1:{data}/v1/chat/completions", json=body) as answer:
                    assert answer.status == 200, (model, await answer.text())
    finally:
        process.kill()
        await process.communicate()


async def test_it_asks_few_and_small_questions(tmp_path: Path) -> None:
    async with FakeBackend(models=("mine",)) as worker, Service(models=("theirs",)) as service:
        status, _, err = await thalamus(tmp_path, "init", worker.url, service.url)
        assert status == 0, err
        assert (len(worker.requests), len(service.requests)) == (13, 6)
        assert [request.body["top_k"] for request in service.requests if "top_k" in request.body] == [20]
        assert not any("top_k" in request.body for request in worker.requests)
        for request in worker.requests + service.requests:
            is_response = request.path == "/v1/responses"
            assert request.body["max_output_tokens" if is_response else "max_tokens"] <= 64


async def test_nothing_is_asked_without_measuring(tmp_path: Path) -> None:
    async with FakeBackend(models=(QWEN,)) as worker:
        status, out, _ = await thalamus(tmp_path, "init", worker.url, "--no-measure", "--json")
        assert status == 0
        assert worker.requests == []
    found = json.loads(out)
    assert found["models"][0]["recognised_as"] == "qwen2.5-7b-it"
    assert found["models"][0]["speed"] is None
    assert "# open: speed: not measured, no requests were made" in (tmp_path / "configs/catalog.yaml").read_text()


async def test_replicas_are_one_backend(tmp_path: Path) -> None:
    async with FakeBackend(models=("m",)) as one, FakeBackend(models=("m",)) as two:
        status, _, err = await thalamus(tmp_path, "init", one.url, two.url, f"{one.url}/v1/", "--no-measure")
        assert status == 0, err
        (backend,) = catalogue(tmp_path)["backends"]
        assert backend["urls"] == [f"{one.url}/v1", two.url]


@pytest.mark.parametrize(
    ("name", "weights", "is_open"),
    [
        ("model", None, True),
        ("default-model", "/model", True),
        ("model", "/models/acme-sql", False),
        (QWEN, None, False),
    ],
)
async def test_replicas_are_a_guess_and_an_open_question_where_their_name_says_nothing(
    tmp_path: Path, name: str, weights: str | None, is_open: bool
) -> None:
    async with Service() as one, Service() as two:
        for service in (one, two):
            service.entries = ({"id": name, "root": weights},)
        status, out, err = await thalamus(tmp_path, "init", one.url, two.url, "--no-measure")
        assert status == 0, err
    text = (tmp_path / "configs/catalog.yaml").read_text()
    assert "# guess: replicas of each other, because all list the same models" in text
    question = f"backend: whether {one.url} and {two.url} serve one model is not known"
    assert (question in out, question in text) == (is_open, is_open)


async def test_hosts_that_list_other_weights_under_one_name_are_kept_apart(tmp_path: Path) -> None:
    async with Service() as one, Service() as two:
        one.entries, two.entries = ({"id": "model", "root": "acme-sql"},), ({"id": "model", "root": "acme-german"},)
        status, _, err = await thalamus(tmp_path, "init", one.url, two.url, "--no-measure")
        assert status == 0, err
    assert [backend["urls"] for backend in catalogue(tmp_path)["backends"]] == [[one.url], [two.url]]


async def test_a_service_that_wants_another_name_of_the_bound_gets_it(tmp_path: Path) -> None:
    async with Picky(models=("o-something",)) as service:
        status, _, err = await thalamus(tmp_path, "init", service.url)
        assert status == 0, err
    (backend,) = catalogue(tmp_path)["backends"]
    assert backend["rename"] == {"max_tokens": "max_completion_tokens", "top_k": "top_k"}
    assert "speed" in catalogue(tmp_path)["models"][0]


class Reasoning(Service):
    """One of its models takes no temperature but its own."""

    async def _complete(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> bool:
        if request.body["model"] == "acme-o5" and "temperature" in request.body:
            message = "Unsupported value: 'temperature' does not support 0.0 with this model."
            script = Script(status=400, error={"message": message})
        return await super()._complete(script, request, writer)


@pytest.mark.parametrize("beside", [(), ("acme-4o",)])
async def test_a_model_that_takes_no_temperature_is_asked_without_one(tmp_path: Path, beside: tuple[str, ...]) -> None:
    async with Reasoning(models=("acme-o5", *beside)) as service:
        status, _, err = await thalamus(tmp_path, "init", service.url)

    assert status == 0, err
    content = catalogue(tmp_path)
    by_model = {model["name"]: model["backend"] for model in content["models"]}
    rename = {backend["name"]: backend.get("rename") for backend in content["backends"]}
    assert rename[by_model["acme-o5"]] == {"temperature": None, "top_k": "top_k"}
    assert [rename[by_model[name]] for name in beside] == [{"top_k": "top_k"}] * len(beside)
    assert len(rename) == 1 + len(beside)
    text = (tmp_path / "configs/catalog.yaml").read_text()
    assert "# guess: acme-o5 refused temperature 0 when asked" in text
    assert {model["card"]["capabilities"][0] for model in content["models"]} == {"chat"}
    load_settings(tmp_path / CONFIG)


class Strict(Service):
    """Some of its models do not answer requests with a parameter of vLLM's."""

    status, refusing = 400, frozenset({"acme-4o"})

    async def _complete(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> bool:
        if request.body["model"] in self.refusing and "top_k" in request.body:
            script = Script(status=self.status, error={"message": "Extra inputs are not permitted"})
        return await super()._complete(script, request, writer)


@pytest.mark.parametrize("beside", [(), ("acme-open",)])
async def test_a_model_that_refuses_what_is_vllms_own_is_not_sent_it(tmp_path: Path, beside: tuple[str, ...]) -> None:
    async with FakeBackend(models=(QWEN,)) as worker, Strict(models=("acme-4o", *beside)) as service:
        status, _, err = await thalamus(tmp_path, "init", worker.url, service.url)
        assert status == 0, err
        status, out, err = await thalamus(tmp_path, "check")
        assert (status, "WARNING" in out) == (0, False), out + err

    catalog = load_settings(tmp_path / CONFIG).catalog
    renames = {backend.name: backend.rename for backend in catalog.backends}
    by_model = {model.name: renames[model.backend] for model in catalog.models}
    assert by_model == {
        "qwen2.5-7b-instruct": {},
        "acme-4o": dict.fromkeys(EXTRAS),
        **{name: {"top_k": "top_k"} for name in beside},
    }
    text = (tmp_path / "configs/catalog.yaml").read_text()
    assert "    rename:  # guess: acme-4o refused top_k when asked, so callers' is left out" in text


async def test_nothing_is_said_of_what_is_vllms_own_where_the_answer_was_no_refusal(tmp_path: Path) -> None:
    service = Strict(models=("acme-4o",))
    service.status = 500
    async with service:
        status, _, err = await thalamus(tmp_path, "init", service.url)
        assert status == 0, err
    (backend,) = catalogue(tmp_path)["backends"]
    assert "rename" not in backend


class Particular(Service):
    """Refuses what it is told to in its own words; calls tools where it takes them."""

    refuses: tuple[str, ...]
    refusal: Script

    async def _complete(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> bool:
        if any(name in request.body for name in self.refuses):
            script = self.refusal
        elif "tools" in request.body:
            script = Script(tool_call={"name": "weather", "arguments": '{"city": "Paris"}'})
        return await super()._complete(script, request, writer)


TOO_COLD = b'{"detail":[{"type":"greater_than","loc":["body","temperature"],"msg":"Input should be greater than 0"}]}'
SUPPORTS = "Unsupported parameter: 'tools'. This model supports: messages, max_tokens, temperature, logprobs, stop."


REFUSALS: Mapping[str, tuple[tuple[str, ...], Script]] = {
    "names-what-it-takes": (("tools",), Script(status=400, error={"message": SUPPORTS})),
    "fastapi": (("temperature",), Script(status=422, body=TOO_COLD)),
    "vague": (("temperature",), Script(status=400, error={"message": "A sampling parameter is out of range"})),
    "vague-of-logprobs": (("logprobs",), Script(status=400, error={"message": "Bad request"})),
    "vague-of-both": (("tools", "temperature"), Script(status=400, error={"message": "Bad request"})),
}


async def test_only_what_a_model_refuses_is_taken_from_it(tmp_path: Path) -> None:
    services = {name: Particular(models=(name,)) for name in REFUSALS}
    async with AsyncExitStack() as stack:
        for name, service in services.items():
            service.refuses, service.refusal = REFUSALS[name]
            await stack.enter_async_context(service)
        status, _, err = await thalamus(tmp_path, "init", *(service.url for service in services.values()))

    assert status == 0, err
    content = catalogue(tmp_path)
    models = {model["name"]: model for model in content["models"]}
    renames = {backend["name"]: backend.get("rename", {}) for backend in content["backends"]}
    for name, (refuses, _) in REFUSALS.items():
        assert ("tools" in models[name]["card"]["capabilities"]) == ("tools" not in refuses), name
        assert ("temperature" in renames[models[name]["backend"]]) == ("temperature" in refuses), name
        asked = [request.body for request in services[name].requests if request.path.endswith("/completions")]
        assert set(refuses).isdisjoint(asked[-1]), name
        assert ("temperature" in asked[-1]) == ("temperature" not in refuses), name


async def test_a_refusal_without_an_error_is_told_in_its_own_words(tmp_path: Path) -> None:
    async with Service(models=("acme-x",), script=Script(status=422, body=TOO_COLD)) as service:
        status, _, err = await thalamus(tmp_path, "init", service.url)

    assert status == 1
    assert 'status 422: {"detail":[{"type":"greater_than","loc":["body","temperature"]' in err


async def test_tools_and_logprobs_are_stated_if_they_work_and_models_that_do_not_chat_are_left_out(
    tmp_path: Path,
) -> None:
    async with FakeBackend(models=("able", "embedder")) as worker:
        worker.scripts["able"] = Script(tool_call={"name": "weather", "arguments": '{"city": "Paris"}'})
        worker.scripts["embedder"] = Script(
            status=400, error={"message": "The model does not support Chat Completions API"}
        )
        status, out, _ = await thalamus(tmp_path, "init", worker.url)
        assert status == 0
    (model,) = catalogue(tmp_path)["models"]
    assert model["card"]["capabilities"] == ["chat", "responses", "tools", "json_schema"]
    assert (
        f"LEFT OUT embedder at {worker.url}: does not answer chat requests, "
        "status 400: The model does not support Chat Completions API"
    ) in out


class Simple(Service):
    """Answers `/v1/responses` as it is told, and chats."""

    status, content = 404, b'{"detail":"Not Found"}'

    async def _complete(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> bool:
        if request.path != "/v1/responses":
            return await super()._complete(script, request, writer)
        await _send(writer, self.status, self.content)
        return True


async def test_responses_are_stated_where_they_are_served_and_an_open_question_where_nobody_knows(
    tmp_path: Path,
) -> None:
    absent, odd, broken = (Simple(models=(name,)) for name in ("absent", "odd", "broken"))
    absent.status, absent.content = 404, b'{"detail": "Not Found"}'
    odd.status, odd.content = 200, b'{"ok": true}'
    broken.status, broken.content = 500, b'{"error": {"message": "no"}}'
    async with absent, odd, broken:
        status, out, err = await thalamus(tmp_path, "init", absent.url, odd.url, broken.url)
        assert status == 0, err
    models = {model["name"]: model for model in catalogue(tmp_path)["models"]}
    assert set(models) == {"absent", "odd", "broken"}
    assert all(model["card"]["capabilities"] == ["chat"] and "speed" in model for model in models.values())
    assert out.count("/v1/responses") == 1
    assert "OPEN broken: capabilities: whether it serves /v1/responses is not known, status 500: no" in out


async def test_a_model_that_is_busy_stays_without_a_speed(tmp_path: Path) -> None:
    async with FakeBackend(Script(status=500, error={"message": "engine died"}), models=("m",)) as worker:
        status, out, _ = await thalamus(tmp_path, "init", worker.url)
    assert status == 0
    assert "OPEN m: speed: not measured, status 500: engine died; it is learned from what is served" in out
    assert "OPEN m: capabilities: what it can do was not measured, status 500: engine died" in out
    assert "WARNING m: answered no question, so nothing of it was measured: status 500: engine died" in out
    catalog = (tmp_path / "configs/catalog.yaml").read_text()
    assert re.search(
        r"capabilities: \[chat, json_schema\]  # guess: chat, json_schema: nothing says otherwise\n", catalog
    )
    assert "measured" not in catalog.partition("capabilities: [")[2].partition("security")[0]


async def test_an_adapter_is_told_from_its_model(tmp_path: Path) -> None:
    worker = Service()
    worker.entries = (
        {"id": "base", "root": QWEN, "parent": None, "max_model_len": 4096},
        {"id": "sql", "root": "/adapters/sql", "parent": "base"},
    )
    async with worker:
        status, out, err = await thalamus(tmp_path, "init", worker.url, "--no-measure")
        assert status == 0, err
    base, adapter = catalogue(tmp_path)["models"]
    assert (base["predicted_as"], base["card"]["parameters_b"]) == ("qwen2.5-7b-it", 7.61)
    assert "predicted_as" not in adapter
    assert adapter["card"]["parameters_b"] == 7.61
    assert "thalamus onboard    lets sql sit the exam" in out


async def test_many_models_have_to_be_named(tmp_path: Path) -> None:
    async with Service(models=tuple(f"m{n}" for n in range(21))) as service:
        line = await fault(tmp_path, service.url)
        assert line == (
            f"thalamus: {service.url}: serves 21 models, such as m0, m1, m2, m3, m4, m5, m6, m7; "
            "name those you mean with --models A,B"
        )
        line = await fault(tmp_path, service.url, "--models", "m0,m99")
        assert line.startswith("thalamus: --models: no endpoint serves 'm99'; they serve 21 models, such as ")
        status, _, err = await thalamus(tmp_path, "init", service.url, "--models", "m3, m5")
        assert status == 0, err
        assert {request.body["model"] for request in service.requests} == {"m3", "m5"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "refuses connections; does it run, and on this port?"),
        ("http://nowhere.invalid", "the name 'nowhere.invalid' is not known here; correct it, or the resolver"),
        ("127.0.0.1:8000", "write a URL such as http://10.0.0.11:8000"),
        ("http://[1", "write a URL such as http://10.0.0.11:8000"),
    ],
)
async def test_a_wrong_url(tmp_path: Path, url: str, says: str) -> None:
    assert await fault(tmp_path, url) == f"thalamus: {url}: {says}"


async def test_a_key_that_is_refused_or_missing_or_has_no_owner(tmp_path: Path) -> None:
    async with FakeBackend() as one, FakeBackend() as two:
        one.key = two.key = KEY
        assert await fault(tmp_path, one.url) == f"thalamus: {one.url}: wants a key; name it in --key-env"
        line = await fault(tmp_path, one.url, "--key-env", "PAID_KEY", PAID_KEY="wrong")
        assert line == f"thalamus: {one.url}: refuses the key in PAID_KEY"
        assert await fault(tmp_path, one.url, two.url, "--key-env", "PAID_KEY", PAID_KEY=KEY) == (
            f"thalamus: --key-env PAID_KEY: {one.url} and {two.url} want keys; "
            "say whose it is with --key-env URL=NAME for each"
        )
        line = await fault(tmp_path, one.url, "--key-env", "UNSET_KEY")
        assert line == "thalamus: --key-env: the environment has no UNSET_KEY; set it to the endpoint's key"
        both = [f"--key-env={url}=PAID_KEY" for url in (one.url, two.url)]
        status, _, err = await thalamus(tmp_path, "init", one.url, two.url, *both, "--no-measure", PAID_KEY=KEY)
        assert status == 0, err


async def test_a_key_that_only_questions_need(tmp_path: Path) -> None:
    """As at OpenRouter, which lists its models to everyone."""
    service = Service()
    service.key, service.entries = KEY, ({"id": "m"},)
    async with service:
        assert await fault_while_asking(tmp_path, service.url) == "wants a key; name it in --key-env"
        status, _, err = await thalamus(tmp_path, "init", service.url, "--key-env", "PAID_KEY", PAID_KEY=KEY)
        assert status == 0, err


async def fault_while_asking(folder: Path, url: str) -> str:
    status, _, err = await thalamus(folder, "init", url)
    assert status == 1
    assert not (folder / "configs").exists()
    return err.splitlines()[-1].removeprefix(f"thalamus: {url}: ")


async def test_a_certificate_that_does_not_hold_is_told_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    authority = Authority()
    ca_file = authority.file(tmp_path)
    async with FakeBackend(tls=authority.server("other.example")) as server:
        url = f"https://localhost:{server.port}"
        assert await fault(tmp_path, url, "--ca-file", ca_file) == (
            f"thalamus: {url}: its certificate is for other.example, not for localhost"
        )
    async with FakeBackend(tls=authority.server()) as server:
        assert await fault(tmp_path, server.url) == (
            f"thalamus: {server.url}: its certificate is signed by an authority that is not known; "
            "name the authority's file in --ca-file"
        )
        line = await fault(tmp_path, server.url, "--ca-file", "nowhere.pem")
        assert line == f"thalamus: {server.url}: its ca_file nowhere.pem does not exist"


async def test_an_endpoint_without_models_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with FakeBackend(models=()) as empty:
        assert await fault(tmp_path, empty.url) == (
            f"thalamus: {empty.url}: lists no models; start it with one, or ask its provider which ones the key may use"
        )


async def test_files_that_are_there_stay(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / CONFIG).write_text("ours")
    status, _, err = await thalamus(tmp_path, "init", "http://127.0.0.1:1")
    assert status == 1
    assert err == ("thalamus: configs/gateway.yaml is there already; --force replaces, --output names another folder\n")
    assert (tmp_path / CONFIG).read_text() == "ours"


def litellm(folder: Path, url: str, **paid: str) -> str:
    path = folder / "litellm.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model_list": [
                    {"model_name": "ours", "litellm_params": {"model": f"hosted_vllm/{QWEN}", "api_base": url}},
                    {
                        "model_name": "paid",
                        "litellm_params": {"model": f"openai/{PAID}", "api_key": "os.environ/OPENAI_API_KEY", **paid},
                    },
                ],
                "litellm_settings": {"fallbacks": [{"ours": ["paid"]}], "cache": True},
            }
        )
    )
    return str(path)


async def test_a_litellm_file_alone_is_taken_over_without_asking_anybody(tmp_path: Path) -> None:
    status, out, err = await thalamus(tmp_path, "init", "--from-litellm", litellm(tmp_path, "http://127.0.0.1:1"))
    assert status == 0, err
    settings = load_settings(tmp_path / CONFIG, {"OPENAI_API_KEY": "x"})
    ours, paid = settings.catalog.models
    assert (ours.name, ours.served_as, ours.predicted_as) == ("ours", QWEN, "qwen2.5-7b-it")
    assert ours.card.context_tokens == 32768
    assert paid.price
    assert settings.profiles["ours"].order == ("ours", "paid")
    assert settings.predictor_limit_s == 0.25
    assert "LEFT OUT litellm_settings.cache: answers are not cached" in out
    assert "First set OPENAI_API_KEY in the environment." in out


async def test_the_endpoints_of_a_litellm_file_are_asked_where_they_can_be(tmp_path: Path) -> None:
    async with FakeBackend(models=(QWEN,)) as worker, Service(models=("new",)) as service:
        file = litellm(tmp_path, worker.url, api_base="http://127.0.0.1:1")
        status, out, err = await thalamus(tmp_path, "init", service.url, "--from-litellm", file, OPENAI_API_KEY="x")
        assert status == 0, err
    ours, paid, new = catalogue(tmp_path)["models"]
    assert ("speed" in ours, "speed" in paid, "speed" in new) == (True, False, True)
    assert ours["card"]["context_tokens"] == 1024
    assert (
        "LEFT OUT paid (http://127.0.0.1:1/chat/completions): its models were not asked, because it refuses conn" in out
    )


async def test_what_was_taken_over_stays_even_if_its_endpoint_refuses_to_chat(tmp_path: Path) -> None:
    refuses = Script(status=400, error={"message": "no chat template"})
    async with FakeBackend(refuses, models=(QWEN,)) as worker, Service(models=("new", "other")) as service:
        file = litellm(tmp_path, worker.url, api_base="http://127.0.0.1:1")
        status, out, err = await thalamus(
            tmp_path, "init", service.url, worker.url, "--models", "new", "--from-litellm", file, OPENAI_API_KEY="x"
        )
        assert status == 0, err
    assert [model["name"] for model in catalogue(tmp_path)["models"]] == ["ours", "paid", "new"]
    assert "OPEN ours: speed: not measured, status 400: no chat template; it is learned from what is served" in out
    assert f"LEFT OUT {worker.url}: serves none of --models" in out


async def test_it_needs_neither_the_extras_nor_an_endpoint_to_explain_itself(tmp_path: Path) -> None:
    status, _, err = await thalamus(tmp_path, "init")
    assert (status, err) == (
        1,
        "thalamus: name at least one endpoint, such as http://10.0.0.11:8000, or a file with --from-litellm\n",
    )
    (tmp_path / "pyarrow.py").write_text("raise ModuleNotFoundError('pyarrow')\n")
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('torch')\n")
    async with FakeBackend(models=("m",)) as worker:
        status, _, err = await thalamus(
            tmp_path, "init", worker.url, PYTHONPATH=os.pathsep.join((str(tmp_path), str(Path.cwd())))
        )
    assert status == 0, err
