"""`thalamus train`: an artifact from outcomes datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.errors import UsageError


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the artifact, as in configs/training/.")],
    output: Annotated[Path | None, typer.Option(help="Folder to make, instead of the file's.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Outcomes dataset, instead of the file's; may be repeated, a pool each.")
    ] = None,
    aliases: Annotated[Path | None, typer.Option(help="Names of the same model in several datasets.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's.")] = None,
    cache: Annotated[Path, typer.Option(help="Where the exported encoder is kept.")] = Path("var/cache"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures that decided as JSON.")] = False,
) -> None:
    """Train a router model on the outcomes of real models and write it as an artifact. `evaluate --card` measures it.

    Example: `thalamus train configs/training/demo-v2.yaml --seed 2 --output var/demo-v2-seed-2`
    """
    import json
    import shlex
    import sys
    from dataclasses import replace

    from app.cli.screen import bars
    from router_models.artifact import ArtifactError, write_artifact
    from router_models.outcomes import OutcomesError

    try:
        from router_models.training.config import ConfigError, load_config
        from router_models.training.encoder import EncoderError, exported_encoder
        from router_models.training.train import train as train_artifact
    except ModuleNotFoundError as exc:
        raise UsageError(f"training needs the extra `train`: {exc.name} is not installed") from exc

    try:
        settings = load_config(config)
        given = {
            "output": output and output.resolve(),
            "data": tuple(folder.resolve() for folder in data) if data else None,
            "aliases": aliases and aliases.resolve(),
            "seed": seed,
        }
        settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
        if settings.output.exists():
            raise UsageError(f"{settings.output} is there already; name another folder with --output")
        with bars() as bar:
            artifact = train_artifact(settings, exported_encoder(cache), cache, bar)
        command = shlex.join(["thalamus", *sys.argv[1:]])
        write_artifact(settings.output, replace(artifact, about={**artifact.about, "command": command}))
    except (ConfigError, OutcomesError, EncoderError, ArtifactError) as exc:
        raise UsageError(str(exc)) from exc
    if as_json:
        print(json.dumps({"output": str(settings.output), "models": artifact.models, **artifact.about}))
    else:
        print(f"{settings.output}: {len(artifact.models)} models, encoders {', '.join(artifact.settings.speeds)}.")
        folders = " ".join(f"--data {folder}" for folder in settings.data)
        print(f"Next: thalamus evaluate --artifact {settings.output} {folders} --card")
