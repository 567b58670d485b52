"""What `thalamus check` says of a backend that it cannot use: one line for each fault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from app.cli.check import Findings, Probed, _probe
from app.domain.models import Backend
from app.settings import Settings, load_settings
from app.upstream.listing import listed
from tests.fakes.backend import FakeBackend
from tests.fakes.certificates import Authority
from tests.fakes.deployment import write_config

Kind = Literal["vllm", "openai"]


def settings_for(folder: Path, backend: Backend) -> Settings:
    """A deployment with one model on this backend."""
    settings = load_settings(write_config(folder, {"small": backend.urls[0]}))
    return replace(settings, catalog=replace(settings.catalog, backends=(backend,)))


def backend_at(url: str, **more: object) -> Backend:
    return replace(Backend("small", "openai", (url,)), **more)  # type: ignore[arg-type]


async def probed(folder: Path, backend: Backend) -> Probed:
    (found,) = await _probe(settings_for(folder, backend))
    return found


async def problem(folder: Path, url: str, **more: object) -> str:
    (only,) = (await probed(folder, backend_at(url, **more))).problems
    return only


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "refuses connections; does it run, and on this port?"),
        ("https://127.0.0.1:1/v1", "refuses connections; does it run, and on this port?"),
        ("https://nowhere.invalid/v1", "the name 'nowhere.invalid' is not known here; correct it, or the resolver"),
    ],
)
async def test_a_server_that_is_not_there(tmp_path: Path, url: str, says: str) -> None:
    assert await problem(tmp_path, url) == says


async def test_a_path_that_is_wrong(tmp_path: Path) -> None:
    async with FakeBackend() as server:
        url = f"{server.url}/wrong"
        assert await problem(tmp_path, url) == f"{url}/v1/models answered with status 404; correct the URL"


async def test_a_key_that_is_refused_or_missing(tmp_path: Path) -> None:
    async with FakeBackend() as server:
        server.key = "right"
        assert await problem(tmp_path, server.url, key_env="PAID_KEY") == "refuses the key in PAID_KEY"
        assert await problem(tmp_path, server.url) == "wants a key; name it in key_env"


async def test_a_certificate_of_another_name(tmp_path: Path) -> None:
    authority = Authority()
    async with FakeBackend(tls=authority.server("other.example", "127.0.0.2")) as server:
        url = f"https://localhost:{server.port}"
        said = await problem(tmp_path, url, ca_file=authority.file(tmp_path))
    assert said == "its certificate is for other.example, 127.0.0.2, not for localhost"


async def test_a_certificate_that_is_not_trusted_or_expired(tmp_path: Path) -> None:
    authority = Authority()
    async with FakeBackend(tls=authority.server()) as server:
        assert await problem(tmp_path, server.url) == (
            "its certificate is signed by an authority that is not known; name the authority's file in ca_file"
        )
    async with FakeBackend(tls=authority.server(ends_in_days=-1)) as server:
        said = await problem(tmp_path, server.url, ca_file=authority.file(tmp_path))
    assert said == "its certificate has expired; renew it"


async def test_a_ca_file_that_is_not_there(tmp_path: Path) -> None:
    said = await problem(tmp_path, "https://127.0.0.1:1", ca_file="/nowhere/ca.pem")
    assert said == "backend 'small': its ca_file /nowhere/ca.pem does not exist"


async def test_an_endpoint_that_lists_no_models(tmp_path: Path) -> None:
    async with FakeBackend(models=()) as server:
        said = await problem(tmp_path, server.url)
    assert said == "lists no models; start it with one, or ask its provider which ones the key may use"


async def test_an_endpoint_behind_tls_that_is_as_it_should_be(tmp_path: Path) -> None:
    authority = Authority()
    async with FakeBackend(models=("org/small",), tls=authority.server()) as server:
        backend = backend_at(server.url, ca_file=authority.file(tmp_path))
        found = await probed(tmp_path, backend)
    assert found.serves == ("org/small",)
    assert found.problems == ("serves small with 1024 tokens of context; its card says 4096",)


async def test_of_a_long_list_those_are_named_that_may_be_meant(tmp_path: Path) -> None:
    models = ("org/smaller", *(f"provider-{number}" for number in range(300)))
    async with FakeBackend(models=models) as server:
        said = await problem(tmp_path, server.url)
    assert said.startswith("does not serve 'org/small' (small); it serves 301 models, such as org/smaller")
    assert len(said) < 300


@pytest.mark.parametrize(
    "page",
    [{"data": [{"id": "a"}, {"id": "b"}]}, [{"id": "a"}, {"id": "b"}], {"data": [{"id": "models/a"}, {"id": "b"}]}],
)
def test_a_list_is_read_in_the_forms_that_providers_write(page: object) -> None:
    assert list(listed(json.dumps(page).encode())) == ["a", "b"]


@pytest.mark.parametrize("page", [b"<html>", b"null", b"3", b"{}", b'{"data": null}', b'{"data": [1]}', b'["a"]'])
def test_a_page_that_is_no_list_is_said_to_be_none(page: bytes) -> None:
    with pytest.raises(ValueError, match="something else than a list of models"):
        listed(page)


@pytest.mark.parametrize(
    ("kinds", "rename", "says"),
    [
        (("vllm", "openai"), {}, True),
        (("vllm", "openai"), {"max_tokens": "max_completion_tokens"}, True),
        (("vllm", "openai"), {"top_k": "top_k"}, False),
        (("vllm", "openai"), {"top_k": None}, False),
        (("vllm", "vllm"), {}, False),
        (("openai", "openai"), {}, False),
    ],
)
def test_a_backend_of_which_nobody_says_whether_it_takes_what_is_vllms_own(
    tmp_path: Path, kinds: tuple[Kind, Kind], rename: dict[str, str | None], says: bool
) -> None:
    urls = {"small": "http://127.0.0.1:1", "paid": "http://127.0.0.1:2"}
    settings = load_settings(write_config(tmp_path, urls))
    backends = [replace(one, kind=kind) for one, kind in zip(settings.catalog.backends, kinds, strict=True)]
    backends[1] = replace(backends[1], rename=rename)
    findings = Findings(replace(settings, catalog=replace(settings.catalog, backends=tuple(backends))))
    begins = f"backend {backends[1].name} may refuse what vLLM takes, and its rename does not say: write top_k: top_k "
    assert [warning.startswith(begins) for warning in findings.warnings] == [True] * says
