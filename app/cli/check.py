"""`thalamus check`: whether the files are right and the backends are there."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.serve import DEFAULT_CONFIG
from app.errors import UpstreamError, UsageError
from app.upstream.listing import MAX_LIST_BYTES, NO_MODELS, PROBE_WITHIN_S, fault, listed, some

if TYPE_CHECKING:
    from app.domain.models import Backend, Model
    from app.savings.expectation import Expectation, Prospect
    from app.settings import Settings
    from app.upstream.client import UpstreamClient


# Costs that differ by less are the same, summed in another order.
LEVEL = 1.0 + 1e-9


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
    prospect: Prospect | None = None
    """None without an artifact."""
    artifact: str = ""
    """Its name and fingerprint."""
    expected: Mapping[str, Expectation | None] = field(default_factory=dict)
    """By profile; None where nothing is comparable."""
    unused: list[str] = field(default_factory=list)
    evicts: str | None = None
    """The policy by which the shared store drops keys when its memory is full."""
    shut_out: list[str] = field(default_factory=list)
    """Generated keys that can use nothing of what they name."""

    @property
    def warnings(self) -> list[str]:
        """What works, and is hardly meant so."""
        return [*self._dear_profiles(), *self._forgetful_stores(), *self._shut_out_keys(), *self._unsaid_extras()]

    def _dear_profiles(self) -> Iterator[str]:
        from app.domain.preferences import DEFAULT_PROFILE

        cheap, default = (self.expected.get(name) for name in ("cheap", DEFAULT_PROFILE))
        if cheap and default and cheap.cost_usd > default.cost_usd * LEVEL:
            costs = f"${cheap.cost_usd:.3g} a request against ${default.cost_usd:.3g}"
            remedy = "give it a larger weight on cost, or a larger max_quality_loss"
            yield f"profile cheap is expected to cost more than {DEFAULT_PROFILE}, {costs}; {remedy}"

    def _forgetful_stores(self) -> Iterator[str]:
        if self.evicts:
            yield (
                f"Redis drops keys when its memory is full ({self.evicts}), and what was spent may be among them: "
                "set maxmemory-policy noeviction"
            )

    def _shut_out_keys(self) -> Iterator[str]:
        for key_id in self.shut_out:
            yield f"key {key_id} names models or profiles, and none of them is in these files"

    def _unsaid_extras(self) -> Iterator[str]:
        """Of backends beside vLLM workers: their callers send what workers take, whatever is chosen."""
        from app.api.bodies.parameters import EXTRAS

        catalog = self.settings.catalog if self.settings else None
        if catalog is None or all(backend.kind != "vllm" for backend in catalog.backends):
            return
        chatting = {model.backend for model in catalog.models if "chat" in model.card.capabilities}
        for backend in catalog.backends:
            if backend.kind != "vllm" and backend.name in chatting and backend.rename.keys().isdisjoint(EXTRAS):
                yield (
                    f"backend {backend.name} may refuse what vLLM takes, and its rename does not say: "
                    f"write top_k: top_k where it takes that, else null for each of {', '.join(EXTRAS)}"
                )

    @property
    def untested(self) -> list[str]:
        if self.settings is None:
            return []
        known = self.settings.artifact is not None
        return [model.name for model in self.settings.catalog.models if not (known and model.predicted_as)]

    @property
    def unpriced(self) -> list[str]:
        models = self.settings.catalog.models if self.settings else ()
        return [model.name for model in models if model.price is None]

    @property
    def free(self) -> list[str]:
        """Models whose price is zero."""
        models = self.settings.catalog.models if self.settings else ()
        return [model.name for model in models if model.price is not None and model.price.is_nothing]

    def as_json(self) -> Mapping[str, Any]:
        return {
            "problems": self.problems,
            "replicas": [asdict(one) for one in self.replicas],
            "expected": {profile: found and found.as_json() for profile, found in self.expected.items()},
            "unused": self.unused,
            "warnings": self.warnings,
            "untested": self.untested,
            "unpriced": self.unpriced,
            "free": self.free,
            "evicts": self.evicts,
        }


def check(
    config: Annotated[Path, typer.Option(help="The gateway's YAML; it names the catalogue.")] = DEFAULT_CONFIG,
    probe: Annotated[bool, typer.Option(help="Ask each backend what it serves.")] = True,
    report: Annotated[Path | None, typer.Option(help="Write what would be saved into this HTML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Validate the configuration, the catalogue, the artifact and what is kept, and probe each backend.

    Exits 1 if anything is wrong; writes nothing but the report.

    Says for each profile what it is expected to save and to lose against always the best model and against always each
    of them, on the artifact's calibration prompts and with 95 % intervals; which models no profile chooses there; which
    ones nothing is known of; and whether the profile `cheap` is expected to cost more than `default`.

    Example: `thalamus check --config configs/gateway.yaml --report savings.html`
    """
    findings = _files(config)
    if findings.settings and probe:
        asyncio.run(_ask_all(findings, findings.settings))
    elif findings.settings:
        findings.problems += _unusable(findings.settings)
    if findings.settings:
        asyncio.run(look_at_what_is_kept(findings, findings.settings))
    for one in findings.replicas:
        findings.problems += [f"{one.backend} ({one.url}): {problem}" for problem in one.problems]
    if report:
        _report(findings, report)
    if as_json:
        print(json.dumps(findings.as_json(), allow_nan=False))
    else:
        _print(findings)
    if findings.problems:
        raise typer.Exit(1)


def _files(config: Path) -> Findings:
    """What is wrong with the files, the settings where they can be read, and what each profile is expected to do."""
    from app.assembly.router_model import load_router_model
    from app.savings.expectation import Prospect
    from app.settings import load_settings

    findings = Findings()
    try:
        findings.settings = settings = load_settings(config)
        with load_router_model(settings) as router_model:
            if router_model:
                findings.artifact = router_model.version
                findings.prospect = prospect = Prospect(settings, router_model.curve)
                findings.expected = prospect.expectations()
                findings.unused = prospect.unused(findings.expected)
    except UsageError as exc:
        findings.problems += str(exc).splitlines()
    return findings


def _report(findings: Findings, path: Path) -> None:
    """Write the page, unless the files are wrong.

    Raises:
        UsageError: there is no artifact to know anything from, or the page cannot be written.
    """
    from app.collect.whole import write_whole
    from app.savings.page import Savings, page

    settings, prospect = findings.settings, findings.prospect
    if settings and settings.artifact is None:
        raise UsageError(f"--report tells what a router model would save, and {settings.path} names no artifact")
    if not settings or not prospect:
        return
    savings = Savings(
        settings, findings.artifact, prospect, findings.expected, tuple(findings.unused), tuple(findings.untested)
    )
    try:
        write_whole(path, page(savings, dt.datetime.now(dt.UTC).date()))
    except OSError as exc:
        raise UsageError(f"--report {path}: {exc.strerror}") from exc


def _unusable(settings: Settings) -> list[str]:
    """What keeps the backends from being asked at all."""
    from app.assembly.snapshot import create_client

    try:
        create_client(settings)
    except UsageError as exc:
        return str(exc).splitlines()
    return []


async def _ask_all(findings: Findings, settings: Settings) -> None:
    """Find what the replicas say, and the store."""
    from app.assembly.stores import eviction_policy
    from app.store.redis_client import StoreDown

    findings.replicas = await _probe(settings)
    try:
        findings.evicts = await eviction_policy(settings)
    except StoreDown as exc:
        findings.problems.append(f"store: Redis does not let the gateway in: {exc}")


async def look_at_what_is_kept(findings: Findings, settings: Settings) -> None:
    """Find what keeps a gateway from starting on it, and what the files leave generated keys. Nothing is written."""
    from app.api.access import Access
    from app.assembly.generated_keys import connected, opened_keys
    from app.store.redis_client import StoreDown
    from app.store.sqlite import check_database

    async with connected(settings) as redis, opened_keys(settings, redis, only_read=True) as keys:
        try:
            await keys.ring.refresh()
        except UsageError as exc:
            findings.problems.append(str(exc))
        except StoreDown as exc:
            # Of a Redis that is down, the probe says why.
            if redis is None:
                findings.problems.append(f"generated keys cannot be read: {exc}")
    findings.shut_out = Access(settings.catalog, settings.profiles).shut_out(keys.ring.keys)
    if settings.store is None:
        try:
            check_database(settings.state_dir)
        except UsageError as exc:
            findings.problems.append(str(exc))


async def _probe(settings: Settings) -> list[Probed]:
    from app.assembly.snapshot import create_client

    try:
        async with create_client(settings) as client:
            replicas = [(backend, url) for backend in settings.catalog.backends for url in backend.urls]
            return list(await asyncio.gather(*(_ask(client, settings, *replica) for replica in replicas)))
    except UsageError as exc:
        return [Probed("backends", str(settings.catalog_path), None, (), (str(exc),))]


async def _ask(client: UpstreamClient, settings: Settings, backend: Backend, url: str) -> Probed:
    from app.upstream.answers.refusals import RefusedKey
    from app.upstream.http.addresses import root, versioned

    try:
        found = listed(await client.fetch(backend.name, versioned(url) + "/models", PROBE_WITHIN_S, MAX_LIST_BYTES))
    except RefusedKey:
        which = f"refuses the key in {backend.key_env}" if backend.key_env else "wants a key; name it in key_env"
        return Probed(backend.name, url, None, (), (which,))
    except (UpstreamError, ValueError) as exc:
        return Probed(backend.name, url, None, (), (await fault(client, backend.name, url, exc),))
    version = None
    if backend.kind == "vllm":
        try:
            version = json.loads(await client.fetch(backend.name, root(url) + "/version", PROBE_WITHIN_S))["version"]
        except (UpstreamError, ValueError, KeyError, TypeError, RecursionError):
            return Probed(
                backend.name, url, None, tuple(found), ("is not vLLM: it has no /version; write kind: openai",)
            )
    served = [model for model in settings.catalog.models if model.backend == backend.name]
    return Probed(backend.name, url, version, tuple(found), tuple(_differences(served, found)))


def _differences(models: list[Model], found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Where the catalogue says something else than the replica."""
    if not found:
        yield NO_MODELS
        return
    for model in models:
        entry = found.get(model.served_as.removeprefix("models/"))
        if entry is None:
            yield f"does not serve {model.served_as!r} ({model.name}); it serves {some(found, model.served_as)}"
            continue
        served_tokens, stated_tokens = entry.get("max_model_len"), model.card.context_tokens
        if isinstance(served_tokens, int) and served_tokens < stated_tokens:
            yield f"serves {model.name} with {served_tokens} tokens of context; its card says {stated_tokens}"


def _print_against(names: Sequence[str], expected: Expectation) -> None:
    """A row for always each model."""
    from app.cli.screen import WholeTable, console
    from app.savings.page import DIFFERENCES, differences

    table = WholeTable(
        title=f"{', '.join(names)}: choosing, against always one model (95 % intervals)", title_justify="left"
    )
    for number, column in enumerate(DIFFERENCES):
        table.add_column(column, style="bold" if number == 0 else None, justify="right" if number else "left")
    for row in differences(expected):
        table.add_row(*row)
    console().print(table, highlight=False)


def _print(findings: Findings) -> None:
    from app.savings.expectation import alike, sentence

    settings = findings.settings
    if settings:
        print(f"{settings.path}: {len(settings.catalog.models)} models, {len(settings.keys)} keys")
    for one in findings.replicas:
        if not one.problems:
            about = f"vLLM {one.version}" if one.version else "answers"
            print(f"{one.backend} ({one.url}): {about}, serves {some(one.serves)}")
    for names, expected in alike(findings.expected):
        for name in names:
            print(f"profile {name}: {sentence(expected)}")
        if expected:
            _print_against(names, expected)
    remarks = {
        "chosen by no profile on these prompts, so could be switched off": findings.unused,
        "untested, so never chosen on quality": findings.untested,
        "without a price, so stopped by no budget": findings.unpriced,
        "with a price of zero, so stopped by no budget": findings.free,
    }
    for remark, models in remarks.items():
        if models:
            print(f"{remark}: {', '.join(models)}")
    for warning in findings.warnings:
        print(f"WARNING {warning}")
    for problem in findings.problems:
        print(f"WRONG {problem}")
