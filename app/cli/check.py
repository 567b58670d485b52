"""`thalamus check`: whether the files are right and the backends are there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.serve import DEFAULT_CONFIG
from app.errors import UpstreamError, UsageError

if TYPE_CHECKING:
    from app.domain.models import Backend, Model
    from app.router_model import Expectation
    from app.settings import Settings
    from app.upstream.client import UpstreamClient

# A worker lists its models in milliseconds; through a tunnel in tenths of a second.
PROBE_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Probed:
    """What one replica said."""

    backend: str
    url: str
    version: str | None
    serves: tuple[str, ...]
    problems: tuple[str, ...]


def check(
    config: Annotated[Path, typer.Option(help="The gateway's YAML; it names the catalogue.")] = DEFAULT_CONFIG,
    probe: Annotated[bool, typer.Option(help="Ask each backend what it serves.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Validate the configuration, the catalogue and the artifact, and probe each backend. Exits 1 if anything is wrong.

    Example: `thalamus check --config configs/gateway.yaml`
    """
    problems, settings, expected = _files(config)
    probed = asyncio.run(_probe(settings)) if settings and probe else []
    problems += [f"{one.backend} ({one.url}): {problem}" for one in probed for problem in one.problems]
    if as_json:
        expectations = {profile: asdict(one) for profile, one in expected.items()}
        replicas = [asdict(one) for one in probed]
        print(json.dumps({"problems": problems, "replicas": replicas, "expected": expectations}))
    else:
        _print(settings, probed, expected, problems)
    if problems:
        raise typer.Exit(1)


def _files(config: Path) -> tuple[list[str], Settings | None, dict[str, Expectation]]:
    """What is wrong with the files, the settings where they can be read, and what each profile is expected to do."""
    from app.router_model import create_curve, load_checked
    from app.settings import load_settings

    settings, expected = None, {}
    try:
        settings = load_settings(config)
        if settings.artifact:
            curve = create_curve(settings, load_checked(settings))
            for name, profile in settings.profiles.items():
                if expectation := curve.expectation(settings.catalog.models, profile.preferences):
                    expected[name] = expectation
    except UsageError as exc:
        return str(exc).splitlines(), settings, expected
    return [], settings, expected


async def _probe(settings: Settings) -> list[Probed]:
    from app.main import create_client

    try:
        async with create_client(settings) as client:
            replicas = [(backend, url) for backend in settings.catalog.backends for url in backend.urls]
            return list(await asyncio.gather(*(_ask(client, settings, *replica) for replica in replicas)))
    except UsageError as exc:
        return [Probed("backends", str(settings.catalog_path), None, (), (str(exc),))]


async def _ask(client: UpstreamClient, settings: Settings, backend: Backend, url: str) -> Probed:
    from app.upstream.client import root, versioned
    from app.upstream.refusals import RefusedKey

    try:
        listed = _listed(await client.fetch(backend.name, versioned(url) + "/models", PROBE_WITHIN_S))
    except RefusedKey:
        which = f"refuses the key in {backend.key_env}" if backend.key_env else "wants a key; name it in key_env"
        return Probed(backend.name, url, None, (), (which,))
    except (UpstreamError, ValueError) as exc:
        return Probed(backend.name, url, None, (), (str(exc),))
    version = None
    if backend.kind == "vllm":
        try:
            version = json.loads(await client.fetch(backend.name, root(url) + "/version", PROBE_WITHIN_S))["version"]
        except (UpstreamError, ValueError, KeyError, TypeError):
            return Probed(
                backend.name, url, None, tuple(listed), ("is not vLLM: it has no /version; write kind: openai",)
            )
    served = [model for model in settings.catalog.models if model.backend == backend.name]
    return Probed(backend.name, url, version, tuple(listed), tuple(_differences(served, listed)))


def _listed(body: bytes) -> dict[str, Mapping[str, Any]]:
    """The models of a list, by name.

    Raises:
        ValueError: it is no list of models.
    """
    try:
        return {str(entry["id"]): entry for entry in json.loads(body)["data"]}
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError("answers /v1/models with something else than a list of models") from exc


def _differences(models: list[Model], listed: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Where the catalogue says something else than the replica."""
    for model in models:
        entry = listed.get(model.served_as)
        if entry is None:
            yield f"does not serve {model.served_as!r} ({model.name}); it serves {', '.join(listed) or 'nothing'}"
            continue
        served_tokens, stated_tokens = entry.get("max_model_len"), model.card.context_tokens
        if isinstance(served_tokens, int) and served_tokens < stated_tokens:
            yield f"serves {model.name} with {served_tokens} tokens of context; its card says {stated_tokens}"


def _print(
    settings: Settings | None, probed: list[Probed], expected: Mapping[str, Expectation], problems: list[str]
) -> None:
    if settings:
        untested = [model.name for model in settings.catalog.models if not (settings.artifact and model.predicted_as)]
        print(f"{settings.path}: {len(settings.catalog.models)} models, {len(settings.keys)} keys")
        if untested:
            print(f"untested, so never chosen on quality: {', '.join(untested)}")
    for one in probed:
        if not one.problems:
            about = f"vLLM {one.version}" if one.version else "answers"
            print(f"{one.backend} ({one.url}): {about}, serves {', '.join(one.serves)}")
    for name, saving in expected.items():
        print(
            f"profile {name}: quality {saving.quality:.3f} for {saving.cost_usd:.3g} USD a request; "
            f"{saving.best_model}, the best single model: {saving.best_quality:.3f} for {saving.best_cost_usd:.3g} USD "
            f"({saving.prompts} calibration prompts, weights on cost only)"
        )
    for problem in problems:
        print(f"WRONG {problem}")
