"""A whole gateway from its configuration files on, in front of fake backends, on real loopback sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.main import Application, create_app
from app.settings import Settings, load_settings
from tests.fakes.backend import FakeBackend
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.listener import listening

SECRET = "sk-test"
PLAIN_SECRET = "sk-plain"
CARD = {
    "context_tokens": 4096,
    "capabilities": ["chat", "tools", "json_schema", "logprobs", "responses", "embeddings"],
    "parameters_b": 8,
}
GATEWAY: Mapping[str, Any] = {
    "catalog": "catalog.yaml",
    "upstream": {"connect_timeout_s": 0.5, "first_byte_timeout_s": 2, "idle_timeout_s": 2, "total_timeout_s": 10},
    "profiles": {"default": {}, "cheap": {"weights": {"cost": 0.5}}, "small": {"limits": {"max_size_b": 10}}},
    "keys": [
        {
            "id": "tester",
            "secret": SECRET,
            "models": ["*"],
            "flags_in_prompt": True,
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "concurrency": None,
            "budget": None,
        },
        {"id": "plain", "secret": PLAIN_SECRET, "models": ["small"], "scopes": ["inference"], "concurrency": 2},
    ],
}
# Their callers are the last to be turned away. A machine that runs tests has other work, which can look like a crowd.
FIRST_KEYS = [{**key, "max_priority": "high"} for key in GATEWAY["keys"]]


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs, and where."""

    url: str
    admin_url: str
    application: Application
    settings: Settings
    backends: Mapping[str, FakeBackend]
    proxies: Mapping[str, FaultProxy]
    """One in front of each backend, where that was asked for."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


def write_config(folder: Path, urls: Mapping[str, str], *, predicted: bool = False, **changes: Any) -> Path:
    """Files for one model per URL, named like it; `changes` replace parts of `GATEWAY`."""
    models = [_model(name, size_b) for name, size_b in zip(urls, (8, 70, 700), strict=False)]
    for model in models if predicted else ():
        model["predicted_as"] = model["name"]
    backends = [{"name": name, "kind": "vllm", "urls": [url]} for name, url in urls.items()]
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"models": models, "backends": backends}))
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump({**GATEWAY, **changes}))
    return path


def _model(name: str, size_b: float) -> dict[str, Any]:
    return {
        "name": name,
        "served_as": f"org/{name}",
        "backend": name,
        "card": {**CARD, "parameters_b": size_b, "released": "2025-04-29", "license": "apache-2.0", "regions": ["eu"]},
        "price": {"input_usd_per_m": size_b / 10, "output_usd_per_m": size_b / 5},
        "speed": {"prefill_tokens_per_s": 1000, "s_per_output_token": 0.01},
    }


@asynccontextmanager
async def deployed(
    folder: Path,
    *names: str,
    predicted: bool = False,
    proxied: bool = False,
    urls: Mapping[str, str] | None = None,
    **changes: Any,
) -> AsyncIterator[Deployment]:
    """Run it for as long as the block runs; one backend for each name, behind a fault proxy if `proxied`.

    `urls` are other addresses for some of the names.
    """
    async with AsyncExitStack() as stack:
        backends = {name: await stack.enter_async_context(FakeBackend(models=(f"org/{name}",))) for name in names}
        at = {name: backend.url for name, backend in backends.items()}
        proxies = {name: await stack.enter_async_context(FaultProxy(url)) for name, url in at.items() if proxied}
        at |= {name: proxy.url for name, proxy in proxies.items()} | dict(urls or {})
        settings = load_settings(write_config(folder, at, predicted=predicted, **changes))
        application = await stack.enter_async_context(create_app(settings, together=1))
        url = await stack.enter_async_context(listening(application.data))
        admin_url = await stack.enter_async_context(listening(application.admin))
        yield Deployment(url, admin_url, application, settings, backends, proxies)
