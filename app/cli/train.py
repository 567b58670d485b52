"""`thalamus train`: an artifact from outcomes datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import UsageError

if TYPE_CHECKING:
    from router_models.outcomes.dataset import OutcomesDataset
    from router_models.storage.artifact import Artifact
    from router_models.training.config import TrainingConfig
    from router_models.training.rows import Reading


def train(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of the artifact, as in configs/training/; not with --base.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="Adapt this artifact to the prompts of --data: 50 that two models answered, better 200."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to make, instead of the file's.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Outcomes dataset, instead of the file's; may be repeated, a pool each.")
    ] = None,
    aliases: Annotated[Path | None, typer.Option(help="Names of the same model in several datasets.")] = None,
    split: Annotated[
        str | None, typer.Option(help="With --base: split to adapt to, such as train; all prompts if absent.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the file's.")] = None,
    cache: Annotated[Path, typer.Option(help="Where the exported encoder is kept.")] = Path("var/cache"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures that decided as JSON.")] = False,
) -> None:
    """Train a router model on the outcomes of real models and write it as an artifact. `evaluate --card` measures it.

    Where no prompt of a dataset has a split, each gets one by its text: 70% train, 10% dev, 20% test. `evaluate` knows
    the same ones. Whom to choose is learned where two models or more answered: 50 such prompts, or half of all, are the
    least, and it says how many others there are.

    With --base an artifact is adapted to your own prompts instead: it says, on prompts held back, whether that helps,
    and writes nothing if it does not. Only prompts that two models or more answered say whom to choose; those of a
    journal, one model's each, tell of lengths alone. With --split it leaves the other ones to `evaluate`. Leave out
    prompts that the artifact learned from: it does not keep them, so they would count as new, and tell less of what
    adapting does.

    Example: `thalamus train configs/training/demo-v2.yaml --seed 2 --output var/demo-v2-seed-2`, or `thalamus train
    --base router_models/artifacts/public-v1 --data var/own --output var/own-v1`
    """
    if (config is None) == (base is None):
        raise UsageError("give either a training configuration or --base")
    if config is not None and split is not None:
        raise UsageError("--split goes with --base; a training configuration says its own")
    if config is not None:
        _train(config, output, data, aliases, seed, cache, as_json=as_json)
    elif not (base and output and data) or len(data) != 1:
        raise UsageError("--base needs --output and one --data")
    else:
        own = _Own(data[0], aliases, split)
        _adapt(base, own, output, 1 if seed is None else seed, as_json=as_json)


@dataclass(frozen=True)
class _Own:
    """Where somebody's own prompts are, and which of them count."""

    folder: Path
    aliases: Path | None
    split: str | None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def read(self, artifact: Artifact) -> OutcomesDataset:
        """Them, under the artifact's names; models that it does not know are said."""
        from app.cli.divided import divided
        from app.cli.named import names_in, tell_strangers
        from router_models.outcomes.dataset import read_outcomes

        dataset = read_outcomes(self.folder)
        dataset = dataset.renamed(names_in(self.name, dataset, self.aliases, artifact))
        tell_strangers(self.name, dataset.models, artifact)
        return divided(self.name, dataset, self.split)


def _adapt(base: Path, own: _Own, output: Path, seed: int, *, as_json: bool) -> None:
    import json

    from app.cli.named import how_to_serve
    from app.cli.screen import bars
    from app.cli.writable import refuse_taken
    from router_models.adapting.adaptation import adapt
    from router_models.outcomes.dataset import OutcomesError
    from router_models.storage.artifact import ArtifactError, load_artifact, write_artifact

    try:
        refuse_taken(output)
        old = load_artifact(base)
        prompts = own.read(old)
        with bars() as bar:
            step = bar("reading prompts", prompts.prompts.num_rows)
            artifact, verdict = adapt(old, prompts, own.name, output.name, seed, step)
        if verdict.is_kept:
            write_artifact(output, artifact)
    except (ArtifactError, OutcomesError) as exc:
        raise UsageError(str(exc)) from exc
    if as_json:
        print(json.dumps({"output": str(output) if verdict.is_kept else None, **verdict.as_json()}))
    else:
        print(verdict.sentence())
        if verdict.is_kept:
            print(f"{output} is adapted to {own.name}.\n{how_to_serve(output)}")
        else:
            print(f"Nothing was written; go on with {base}.")


def _train(
    config: Path,
    output: Path | None,
    data: list[Path] | None,
    aliases: Path | None,
    seed: int | None,
    cache: Path,
    *,
    as_json: bool,
) -> None:
    import json
    import shlex
    import sys
    from dataclasses import replace

    from app.cli.divided import how_to_measure
    from app.cli.named import how_to_serve
    from app.cli.screen import bars
    from router_models.outcomes.dataset import OutcomesError
    from router_models.storage.artifact import ArtifactError, write_artifact

    given = {
        "output": output and output.resolve(),
        "data": tuple(folder.resolve() for folder in data) if data else None,
        "aliases": aliases and aliases.resolve(),
        "seed": seed,
    }
    settings, pools = _read(config, {name: value for name, value in given.items() if value is not None})

    # torch takes seconds to load: only what can be trained waits for it.
    try:
        from router_models.training.encoder import EncoderError, exported_encoder
        from router_models.training.train import train as train_artifact
    except ModuleNotFoundError as exc:
        raise UsageError(f"training needs the extra `train`: {exc.name} is not installed") from exc

    try:
        with bars() as bar:
            artifact = train_artifact(settings, pools, exported_encoder(cache), cache, bar)
        command = shlex.join(["thalamus", *sys.argv[1:]])
        write_artifact(settings.output, replace(artifact, about={**artifact.about, "command": command}))
    except (OutcomesError, EncoderError, ArtifactError) as exc:
        raise UsageError(str(exc)) from exc
    if as_json:
        print(json.dumps({"output": str(settings.output), "models": artifact.models, **artifact.about}))
    else:
        print(f"{settings.output}: {len(artifact.models)} models, encoders {', '.join(artifact.settings.speeds)}.")
        learned = {
            folder: pools.divisions[folder.name] for folder in settings.data if folder.name in pools.library.pools
        }
        print(how_to_measure(settings.output, settings.split, learned))
        columns = {**{model: model for model in artifact.models}, **artifact.aliases}
        print(how_to_serve(settings.output, sorted(columns.items())))
        print("Models that are not among them go without `predicted_as`.")


def _read(config: Path, given: Mapping[str, Any]) -> tuple[TrainingConfig, Reading]:
    """What the file says, where nothing else is given, and the outcomes to learn from."""
    import sys

    from app.cli.divided import tell_division
    from app.cli.writable import refuse_taken
    from router_models.outcomes.dataset import OutcomesError
    from router_models.training.config import ConfigError, load_config
    from router_models.training.rows import training_pools

    try:
        settings = load_config(config).model_copy(update=given)
        refuse_taken(settings.output)
        pools = training_pools(settings)
    except (ConfigError, OutcomesError) as exc:
        raise UsageError(str(exc)) from exc
    for name, division in pools.divisions.items():
        tell_division(name, division)
    for name, (alone, prompts) in pools.without_choice().items():
        one = f"{alone} of {prompts} prompts ({alone / prompts:.1%}) have an outcome of one model alone"
        print(f"{name}: {one}, so they compare nothing", file=sys.stderr)
    return settings, pools
