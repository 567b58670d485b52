"""The manifest of an artifact: what its files are, and how large, so that nothing else is read before it is bounded.

How it works: a file is opened when its size is the stated one, and used when its hash is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router_models.heads.tryage import HeadSettings
from router_models.reading.features import FEATURE_VERSION

FORM = 3
MIB = 1024 * 1024
# Upper bounds before anything is read: an encoder of the MiniLM class has 23 MiB, heads and rows far less.
MOST_BYTES = {
    "encoder.onnx": 256 * MIB,
    "static.safetensors": 64 * MIB,
    "tokenizer.json": 32 * MIB,
    "heads.safetensors": 256 * MIB,
    "calibration.safetensors": 256 * MIB,
    "words.txt": 4 * MIB,
    "anchors.jsonl": 16 * MIB,
}
REQUIRED = ("tokenizer.json", "heads.safetensors", "calibration.safetensors")
MOST_MANIFEST_BYTES = 4 * MIB


class Unusable(Exception):
    """What is wrong with the folder being loaded."""


@dataclass(frozen=True)
class Stated:
    """What a manifest says of a file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A manifest, read; none of what it says of the other files is known to be true yet."""

    name: str
    models: tuple[str, ...]
    settings: HeadSettings
    datasets: tuple[str, ...]
    pools: tuple[str, ...]
    tasks: tuple[str, ...]
    aliases: Mapping[str, str]
    about: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]]
    files: Mapping[str, Stated]

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """A manifest from what its file holds.

        Raises:
            Unusable: it is malformed, lacks something, or is of another form than this release reads.
        """
        try:
            raw = json.loads(content)
            if raw["form"] != FORM:
                raise Unusable(f"manifest.json has form {raw['form']!r}; this release reads form {FORM}")
            if raw["head"] != "tryage":
                raise Unusable(f"its head is {raw['head']!r}; this release reads tryage")
            if raw["feature_version"] != FEATURE_VERSION:
                raise Unusable(
                    f"it was made for features {raw['feature_version']!r}; this release makes {FEATURE_VERSION!r}"
                )
            return cls(
                name=str(raw["name"]),
                models=_names(raw["models"]),
                settings=_settings(raw["settings"]),
                datasets=tuple(str(name) for name in raw["datasets"]),
                pools=tuple(str(name) for name in raw["pools"]),
                tasks=tuple(str(name) for name in raw["tasks"]),
                aliases={str(name): str(column) for name, column in raw["aliases"].items()},
                about=dict(raw["about"]),
                tensors={file: _shapes(tensors) for file, tensors in raw["tensors"].items()},
                files=_stated_files(raw["files"]),
            )
        except KeyError as exc:
            raise Unusable(f"manifest.json has no {exc.args[0]}") from exc
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as exc:
            raise Unusable(f"manifest.json is malformed: {' '.join(str(exc).split())[:200]}") from exc


def _names(raw: Any) -> tuple[str, ...]:
    models = tuple(raw)
    if not models or not all(isinstance(name, str) and name for name in models) or len(set(models)) != len(models):
        raise ValueError("models must be a list of different names")
    return models


def _settings(raw: Any) -> HeadSettings:
    values = {name: float(value) for name, value in raw.items() if name != "speeds"}
    if not np.isfinite(list(values.values())).all():
        raise ValueError("settings hold a number that is not finite")
    return HeadSettings(speeds=tuple(raw["speeds"]), **values)


def _shapes(raw: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(tensor["dtype"]), tuple(int(size) for size in tensor["shape"])) for name, tensor in raw.items()}


def _stated_files(raw: Any) -> dict[str, Stated]:
    stated = {str(name): Stated(int(entry["bytes"]), str(entry["sha256"])) for name, entry in raw.items()}
    for name in REQUIRED:
        if name not in stated:
            raise ValueError(f"files lack {name}")
    for name, entry in stated.items():
        if name not in MOST_BYTES:
            raise ValueError(f"files name {name[:80]!r}, which is no part of an artifact")
        if not 0 < entry.size_bytes <= MOST_BYTES[name]:
            raise ValueError(f"{name} is stated to have {entry.size_bytes} bytes; at most {MOST_BYTES[name]} are read")
    return stated


def read(path: Path, most_bytes: int) -> bytes:
    """A regular file's content, never more than the bound; links are refused, they may lead anywhere.

    Raises:
        Unusable: it cannot be read, or is larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            content = file.read(most_bytes + 1)
    except OSError as exc:
        raise Unusable(f"{path.name} cannot be read: {exc.strerror}") from exc
    if len(content) > most_bytes:
        raise Unusable(f"{path.name} has more than {most_bytes} bytes")
    return content


def read_stated(folder: Path, name: str, stated: Stated) -> bytes:
    """The content of a file of which the manifest says this.

    Raises:
        Unusable: it has another size or another hash.
    """
    content = read(folder / name, stated.size_bytes)
    if len(content) != stated.size_bytes:
        raise Unusable(f"{name} has {len(content)} bytes, the manifest says {stated.size_bytes}")
    if sha256(content) != stated.sha256:
        raise Unusable(f"{name} has another SHA-256 than the manifest says; it was changed or damaged")
    return content


def sha256(content: bytes) -> str:
    """As a manifest states it."""
    return hashlib.sha256(content).hexdigest()
