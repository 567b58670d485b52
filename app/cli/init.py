"""`thalamus init`: from the addresses of endpoints to the gateway's two files."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.serve import DEFAULT_CONFIG
from app.errors import UsageError

if TYPE_CHECKING:
    from app.setup.draft import Draft, DraftModel
    from app.setup.drafting import Drafted
    from app.setup.probe import Given, Keys
    from router_models.storage.artifact import Artifact

RELEASED = "artifacts/public-v1"
"""The artifact that comes with the installation, in the folder of `router_models`."""


def init(
    urls: Annotated[list[str] | None, typer.Argument(metavar="URL", help="Endpoints that speak OpenAI's API.")] = None,
    key_env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME | URL=NAME",
            help="Environment variable with an endpoint's key; a bare NAME is for the one that wants one. Repeatable.",
        ),
    ] = None,
    ca_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE | URL=FILE",
            help="The authority of an endpoint's certificate; a bare FILE is for every https URL. Repeatable.",
        ),
    ] = None,
    models: Annotated[str | None, typer.Option(help="Models meant, comma-separated, as served. Default: all.")] = None,
    artifact: Annotated[
        Path | None, typer.Option(help="Artifact folder. Default: public-v1 of this installation.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the two files.")] = DEFAULT_CONFIG.parent,
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="What an hour of a GPU of yours costs: gives vLLM workers a price.")
    ] = None,
    from_litellm: Annotated[Path | None, typer.Option(help="A LiteLLM proxy's configuration to take over.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Ask each model a few short questions: 6, of vLLM 13.")
    ] = True,
    force: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Ask endpoints what they serve, and write catalog.yaml and gateway.yaml with every guess marked.

    Example: `thalamus init http://10.0.0.11:8000 https://api.example.com/v1 --key-env PAID_KEY`
    """
    from app.cli.screen import bars
    from app.cli.writable import refuse_unwritable
    from app.setup.drafting import Wish, draft_of
    from app.setup.files import refuse_existing, write_files
    from app.setup.litellm import read_litellm

    if not urls and not from_litellm:
        raise UsageError("name at least one endpoint, such as http://10.0.0.11:8000, or a file with --from-litellm")
    if usd_per_gpu_hour == math.inf:
        raise UsageError(f"--usd-per-gpu-hour {usd_per_gpu_hour}: expected a finite number of dollars")
    refuse_existing(output, force=force)
    refuse_unwritable(output)
    taken_over = read_litellm(from_litellm) if from_litellm else None
    folder = artifact or _released()
    known, (endpoints, keys) = _loaded(folder), _endpoints(urls or [], key_env or [], ca_file or [])
    wish = Wish(
        endpoints,
        keys,
        models=tuple(name.strip() for name in (models or "").split(",") if name.strip()),
        measure=measure,
        usd_per_gpu_hour=usd_per_gpu_hour,
        columns=known.models if known else (),
        aliases=known.aliases if known else {},
    )
    with ExitStack() as stack:
        # Opened when there is something to wait for: an empty one would leave a blank line.
        drafted = asyncio.run(draft_of(wish, lambda name, steps: stack.enter_context(bars())(name, steps), taken_over))
    write_files(output, drafted.draft, folder, shares_machine=drafted.is_here, force=force)
    if as_json:
        typer.echo(json.dumps(_as_json(drafted, output), default=str))
    else:
        _print(drafted, output, folder)


def _endpoints(urls: list[str], key_env: list[str], ca_file: list[str]) -> tuple[tuple[Given, ...], Keys]:
    """The endpoints, each once, and the keys.

    Raises:
        UsageError: an option is for none of them, or names a variable that is not set.
    """
    from app.setup.probe import Given, Keys, by_endpoint
    from app.upstream.http.addresses import versioned

    unique = list({versioned(url): url.rstrip("/") for url in urls}.values())
    authorities, bare = by_endpoint("--ca-file", ca_file, unique)
    if len(bare) > 1:
        raise UsageError(f"--ca-file {bare[1]}: one is for every https URL; write URL=FILE where they differ")
    if without := [url for url in authorities if not _is_https(url)]:
        raise UsageError(f"--ca-file {without[0]}={authorities[without[0]]}: an http URL has no certificate")
    unnamed = [url for url in unique if _is_https(url) and url not in authorities]
    if bare and not unnamed:
        raise UsageError(f"--ca-file {bare[0]}: no https URL is left that it could be for; leave it out")
    authorities |= {url: bare[0] for url in unnamed if bare}
    return tuple(Given(url, ca_file=authorities.get(url)) for url in unique), Keys.parse(key_env, unique, os.environ)


def _is_https(url: str) -> bool:
    return url.lower().startswith("https:")


def _released() -> Path | None:
    import router_models

    folder = Path(router_models.__file__).parent / RELEASED
    return folder if folder.is_dir() else None


def _loaded(folder: Path | None) -> Artifact | None:
    from router_models.storage.artifact import ArtifactError, load_artifact

    try:
        return None if folder is None else load_artifact(folder)
    except ArtifactError as exc:
        raise UsageError(f"--artifact {folder}: {exc}") from exc


def _as_json(drafted: Drafted, output: Path) -> dict[str, Any]:
    draft = drafted.draft
    return {
        "files": [str(output / "catalog.yaml"), str(output / "gateway.yaml")],
        "models": [
            asdict(model)
            | {
                "recognised_as": drafted.recognised.get(model.name),
                "tokens_per_s_at_once": drafted.tokens_per_s.get(model.name),
            }
            for model in draft.models
        ],
        "backends": [asdict(backend) for backend in draft.backends],
        "left_out": draft.left_out,
        "unanswered": drafted.unanswered,
    }


def _print(drafted: Drafted, output: Path, artifact: Path | None) -> None:
    from app.cli.screen import WholeTable, console

    draft = drafted.draft
    table = WholeTable("model", "backend", "recognised as", "context", "tokens/s", "price", "predicted as", box=None)
    for model in draft.models:
        table.add_row(*_row(drafted, model))
    console().print(table, highlight=False)
    for line in _open(draft):
        print(f"OPEN {line}")
    for line in draft.left_out:
        print(f"LEFT OUT {line}")
    for name, reason in drafted.unanswered.items():
        print(f"WARNING {name}: answered no question, so nothing of it was measured: {reason}")
    print(f"{output / 'catalog.yaml'} and {output / 'gateway.yaml'} are written; guesses are marked in them.")
    for line in _next(draft, output, artifact):
        print(line)


def _row(drafted: Drafted, model: DraftModel) -> list[str]:
    context = model.card.get("context_tokens")
    return [
        model.name,
        model.backend,
        drafted.recognised.get(model.name, "-"),
        f"{context.value:,}{_mark(context.is_guess)}" if context else "-",
        _speed(model, drafted.tokens_per_s.get(model.name)),
        _price(model),
        f"{model.predicted_as.value}{_mark(model.predicted_as.is_guess)}" if model.predicted_as else "untested",
    ]


def _mark(is_guess: bool) -> str:
    return " ?" if is_guess else ""


def _speed(model: DraftModel, at_once: float | None) -> str:
    if model.speed is None:
        return "-"
    alone = f"{1 / model.speed.value['s_per_output_token']:.0f}"
    return f"{alone}, {at_once:.0f} at load" if at_once else alone


def _price(model: DraftModel) -> str:
    if model.price is None:
        return "-"
    value, mark = model.price.value, _mark(model.price.is_guess)
    if "self_hosted" in value:
        return f"${value['self_hosted']['usd_per_gpu_hour']:g} an hour{mark}"
    return f"${value['input_usd_per_m']:g} in, ${value['output_usd_per_m']:g} out{mark}"


def _open(draft: Draft) -> Iterator[str]:
    """Each question once, with the models that it is about."""
    about: dict[str, list[str]] = {}
    for model in draft.models:
        for sentence in model.open:
            about.setdefault(sentence, []).append(model.name)
    for sentence, names in about.items():
        yield f"{', '.join(names)}: {sentence}"


def _next(draft: Draft, output: Path, artifact: Path | None) -> Iterator[str]:
    config = output / DEFAULT_CONFIG.name
    option = "" if config == DEFAULT_CONFIG else f" --config {config}"
    keys = [key.get("secret_env") for key in draft.gateway.get("keys", [])]
    unset = [name for name in (*(one.key_env for one in draft.backends), *keys) if name and not os.environ.get(name)]
    if unset:
        yield f"First set {', '.join(dict.fromkeys(unset))} in the environment."
    untested = [model.name for model in draft.models if model.predicted_as is None]
    if untested and artifact:
        yield f"Next: thalamus onboard{option}    lets {', '.join(untested)} sit the exam, so that quality is predicted"
        yield f"Then: thalamus serve{option}"
    else:
        yield f"Next: thalamus serve{option}"
