"""`thalamus check`: whether the files are right and the backends are there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.serve import DEFAULT_CONFIG
from app.errors import UpstreamError, UsageError

if TYPE_CHECKING:
    from app.domain.models import Backend, Model
    from app.expectation import Expectation
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


@dataclass
class Findings:
    """All that there is to say."""

    settings: Settings | None = None
    problems: list[str] = field(default_factory=list)
    replicas: list[Probed] = field(default_factory=list)
    expected: Mapping[str, Expectation | None] = field(default_factory=dict)
    """By profile; None where nothing is comparable."""
    unused: list[str] = field(default_factory=list)

    @property
    def untested(self) -> list[str]:
        if self.settings is None:
            return []
        known = self.settings.artifact is not None
        return [model.name for model in self.settings.catalog.models if not (known and model.predicted_as)]

    def as_json(self) -> Mapping[str, Any]:
        return {
            "problems": self.problems,
            "replicas": [asdict(one) for one in self.replicas],
            "expected": {
                profile: one and {**one.as_json(), "sentence": one.sentence()} for profile, one in self.expected.items()
            },
            "unused": self.unused,
            "untested": self.untested,
        }


def check(
    config: Annotated[Path, typer.Option(help="The gateway's YAML; it names the catalogue.")] = DEFAULT_CONFIG,
    probe: Annotated[bool, typer.Option(help="Ask each backend what it serves.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Validate the configuration, the catalogue and the artifact, and probe each backend. Exits 1 if anything is wrong.

    Says for each profile what it is expected to save and to lose, on the artifact's calibration prompts and with 95 %
    intervals; which models no profile chooses there; and which ones nothing is known of.

    Example: `thalamus check --config configs/gateway.yaml`
    """
    findings = _files(config)
    if findings.settings and probe:
        findings.replicas = asyncio.run(_probe(findings.settings))
    for one in findings.replicas:
        findings.problems += [f"{one.backend} ({one.url}): {problem}" for problem in one.problems]
    if as_json:
        print(json.dumps(findings.as_json(), allow_nan=False))
    else:
        _print(findings)
    if findings.problems:
        raise typer.Exit(1)


def _files(config: Path) -> Findings:
    """What is wrong with the files, the settings where they can be read, and what each profile is expected to do."""
    from app.expectation import expectations, unused
    from app.router_model import load_router_model
    from app.settings import load_settings

    findings = Findings()
    try:
        findings.settings = settings = load_settings(config)
        with load_router_model(settings) as router_model:
            if router_model:
                findings.expected = expectations(settings, router_model.curve)
                findings.unused = unused(findings.expected)
    except UsageError as exc:
        findings.problems += str(exc).splitlines()
    return findings


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


def _print(findings: Findings) -> None:
    settings = findings.settings
    if settings:
        print(f"{settings.path}: {len(settings.catalog.models)} models, {len(settings.keys)} keys")
    for one in findings.replicas:
        if not one.problems:
            about = f"vLLM {one.version}" if one.version else "answers"
            print(f"{one.backend} ({one.url}): {about}, serves {', '.join(one.serves)}")
    for name, expected in findings.expected.items():
        unknown = "nothing to compare: no two of its models were measured on the same prompts"
        print(f"profile {name}: {expected.sentence() if expected else unknown}")
    if findings.unused:
        print(f"chosen by no profile on these prompts, so could be switched off: {', '.join(findings.unused)}")
    if findings.untested:
        print(f"untested, so never chosen on quality: {', '.join(findings.untested)}")
    for problem in findings.problems:
        print(f"WRONG {problem}")
