"""What a training run is told: one YAML file per released artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class ConfigError(ValueError):
    """The file cannot be used; the message is one line that names file, key and what is wrong."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class StaticConfig(_Config):
    """The static encoder: the transformer's vector of every single word piece, frequent ones weighing less."""

    smoothing: Positive = 1e-3
    """a of the weight a / (a + p), p the share of a word piece in the training text (Arora et al. 2017)."""


class TrainingConfig(_Config):
    """A training run. Relative paths are relative to the folder of the file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*-v[0-9]+$")]
    data: tuple[Path, ...] = ()
    """Outcomes datasets, a pool each, named like their folders; may be left to the command line."""
    aliases: Path | None = None
    """{canonical name: {folder: [names there]}}: which models of several datasets are the same."""
    output: Path
    split: str = "train"
    models: tuple[str, ...] = ()
    """Columns of the artifact, in this order; all models of the datasets, sorted, if empty."""
    anchors: bool = False
    """Whether prompts marked `anchor` travel in the artifact, with references and graders."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    folds: Annotated[int, Field(ge=2)] = 5
    wording_groups: Annotated[int | None, Field(ge=2)] = None
    """Hold out questions together with all that are worded alike, in so many clusters of their embeddings: for few
    wordings and many questions of each, where it is new wordings that should be familiar. A question that stands in
    several rows goes where its first one does."""
    task_folds: Annotated[int, Field(ge=2)] = 7
    """Parts into which tasks are dealt; a part at a time is held out to learn what unfamiliar looks like."""
    calibration_rows: Count = 4000
    """At most so many travel in the artifact, drawn evenly from the datasets."""
    clusters: Count = 64
    """Centres of training prompts, for the distance that the alarm looks at."""
    task_l2: Amount = 0.01
    residual_prior: Amount = 3600.0
    """How strongly what a prompt says about single models is held at nothing: a penalty of 1 on the mean loss of a
    model that answered 3,600 questions, of 2 on that of one that answered 1,800."""
    common_l2: Amount = 0.02
    tokens_l2: Positive = 0.3
    residual_weights: Annotated[tuple[Amount, ...], Field(min_length=1)] = (0.75, 1.0)
    """To choose from, pool by pool: how much of what a prompt says about single models is believed."""
    false_alarms: Share = 0.01
    """Share of prompts like the training prompts that may be called unfamiliar."""
    surface: bool = True
    """Whether figures of a question's surface are read: they tell benchmarks apart, and mislead on new wordings."""
    transformer: bool = True
    static: StaticConfig | None = StaticConfig()
    about: str
    """First paragraph of the model card."""
    licences: tuple[str, ...]
    """Of the data and of what was trained on it, one line each, for the model card."""
    limits: tuple[str, ...] = ()
    """What a user of this artifact must know beyond what the evaluation finds, one line each."""

    @field_validator("models")
    @classmethod
    def _different(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if double := [model for place, model in enumerate(models) if model in models[:place]]:
            raise ValueError(f"{double[0]} is named twice")
        return models


def load_config(path: Path) -> TrainingConfig:
    """The configuration in a file, with absolute paths.

    Raises:
        ConfigError: it is not YAML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = TrainingConfig.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"cannot read {path}: {' '.join(str(exc).split())}") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from exc
    if not config.transformer and config.static is None:
        raise ConfigError(f"{path}: static: expected at least one encoder, static or transformer")
    folder = path.resolve().parent
    return config.model_copy(
        update={
            "data": tuple((folder / data).resolve() for data in config.data),
            "aliases": (folder / config.aliases).resolve() if config.aliases else None,
            "output": (folder / config.output).resolve(),
        }
    )
