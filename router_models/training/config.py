"""What a training run is told: one YAML file per released artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ConfigError(ValueError):
    """The file cannot be used; the message is one line that names file, key and what is wrong."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LogisticConfig(_Config):
    """One logistic regression per model."""

    l2: Annotated[tuple[float, ...], Field(min_length=1)] = (0.03, 0.1, 0.3, 1.0)
    """Strengths to try; the one with the least loss on held-out wordings is taken."""


class MlpConfig(_Config):
    """Networks with one hidden layer."""

    hidden: Annotated[int, Field(ge=1)] = 256
    networks: Annotated[int, Field(ge=1)] = 3
    epochs: Annotated[int, Field(ge=1)] = 60
    patience: Annotated[int, Field(ge=1)] = 8
    batch: Annotated[int, Field(ge=1)] = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    input_dropout: float = 0.1
    hidden_dropout: float = 0.3
    watched_share: float = 0.1


class ClustersConfig(_Config):
    """Soft clusters of the embeddings."""

    count: Annotated[int, Field(ge=2)] = 64
    least_prompts: Annotated[int, Field(ge=1)] = 10
    """Fewer clusters are made rather than have fewer prompts each, on average."""


class NeighboursConfig(_Config):
    """Nearest training prompts."""

    count: Annotated[int, Field(ge=1)] = 100


class TrainingConfig(_Config):
    """A training run. Relative paths are relative to the folder of the file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*-v[0-9]+$")]
    data: Path
    output: Path
    split: str = "train"
    models: tuple[str, ...] = ()
    """Columns of the artifact, in this order; all models of the dataset if empty."""
    seed: int = 1
    dev_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.15
    """Set aside for calibration; nothing is fitted on them but three scalars."""
    folds: Annotated[int, Field(ge=2)] = 5
    wording_groups: Annotated[int, Field(ge=2)] = 100
    """Clusters of like-worded prompts; a fold holds whole clusters out, so what is tuned is tuned for new wordings."""
    group_by: Literal["wording", "task"] = "wording"
    residual_weights: Annotated[tuple[float, ...], Field(min_length=1)] = (0.5, 0.75, 1.0)
    tokens_l2: float = 100.0
    logistic: LogisticConfig | None = LogisticConfig()
    mlp: MlpConfig | None = MlpConfig()
    clusters: ClustersConfig | None = ClustersConfig()
    neighbours: NeighboursConfig | None = None
    about: str
    """First paragraph of the model card."""
    licences: tuple[str, ...]
    """Of the data and of what was trained on it, one line each, for the model card."""
    limits: tuple[str, ...] = ()
    """What a user of this artifact must know beyond what the evaluation finds, one line each."""


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
    folder = path.resolve().parent
    return config.model_copy(
        update={"data": (folder / config.data).resolve(), "output": (folder / config.output).resolve()}
    )
