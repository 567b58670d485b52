"""A released router model: a folder that describes itself. Written whole, checked whole, never edited.

    manifest.json            model names in output order, feature version, data, code, calibration, hashes, sizes
    encoder.onnx             optional: the transformer, texts to embeddings in milliseconds
    static.safetensors       optional: a vector for every word piece, texts to embeddings in microseconds
    tokenizer.json           texts to ids
    heads.safetensors        embeddings to predictions
    calibration.safetensors  predictions and outcomes on prompts it was not trained on
    words.txt                optional: common words of its training prompts, which slips are mended to
    anchors.jsonl            optional: the exam by which a new model joins
    evaluation.json          figures of the card
    README.md                the card

How it works: the manifest is read first and bounds everything else: a file is opened when its size is the stated one,
used when its hash is, and every tensor must have the stated type and shape and only finite numbers. Nothing is
unpickled, and the ONNX file may not reach outside of itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from router_models.features import FEATURE_VERSION
from router_models.head_check import misfit
from router_models.joined import joined_count
from router_models.onnx_check import OnnxError, check_self_contained
from router_models.spelling import MOST_LETTERS, is_plain
from router_models.tryage import HeadSettings, Speed

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
ENCODER_FILES: Mapping[Speed, str] = {"static": "static.safetensors", "transformer": "encoder.onnx"}
MOST_MANIFEST_BYTES = 4 * MIB
# Characters of what is wrong: it may quote a file.
MOST_SAID = 500
# Lengths of calibration rows are float16, which is exact to 0.1 % and ends here.
MOST_STORED = 60_000.0
DTYPES = ("float16", "float32", "int32", "uint8", "int8")
_CALIBRATION_SHAPES = {
    "kind_NT": "NT",
    "quality_NM": "NM",
    "score_NM": "NM",
    "score_known_NM": "NM",
    "output_tokens_NM": "NM",
    "real_output_tokens_NM": "NM",
    "input_tokens_NM": "NM",
    "dataset_N": "N",
}


class ArtifactError(ValueError):
    """A folder is not a usable artifact; the message is one line."""


@dataclass(frozen=True)
class Calibration:
    """Predictions and outcomes of all models on N prompts that were not trained on; NaN is missing."""

    quality: np.ndarray
    """Predicted quality [N, M]."""
    score: np.ndarray
    """Graded outcome [N, M]."""
    output_tokens: np.ndarray
    """Predicted answer length [N, M]."""
    real_output_tokens: np.ndarray
    """Length of the answer that was given [N, M]."""
    input_tokens: np.ndarray
    """Length of the prompt in the model's own tokens [N, M]."""
    dataset: np.ndarray
    """Index into `datasets` [N]."""
    datasets: tuple[str, ...]
    kind: np.ndarray
    """How much each prompt looks like each task [N, T]: what a model that joins is described by."""


@dataclass(frozen=True)
class Artifact:
    """A router model in memory, all of it checked."""

    name: str
    models: tuple[str, ...]
    """Those it was trained on, then those that joined by an exam."""
    settings: HeadSettings
    encoder: bytes | None
    """The transformer as ONNX, if it has one."""
    static: Mapping[str, np.ndarray] | None
    """`table_VD` int8 and `scale_V` of the static encoder, if it has one."""
    tokenizer: bytes
    heads: Mapping[str, np.ndarray]
    calibration: Calibration
    about: Mapping[str, Any]
    """Data, licences, seed, code commit, how it was tuned: what the card says, no code reads it."""
    pools: tuple[str, ...] = ()
    """Sets of outcomes it learned from, in the order of its layout."""
    tasks: tuple[str, ...] = ()
    """Tasks that it tells apart, in the order of its layout."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of its models, as outcomes datasets have them."""
    words: tuple[str, ...] = ()
    """Common words of the prompts it was trained on, the commonest first: see `Spelling`."""
    anchors: tuple[Mapping[str, Any], ...] = ()
    fingerprint: str = field(default="", compare=False)
    """SHA-256 of the manifest, once loaded."""

    @property
    def trained_models(self) -> tuple[str, ...]:
        """Those whose outcomes the heads learned from."""
        return self.models[: len(self.models) - joined_count(self.heads)]


def write_artifact(folder: Path, artifact: Artifact) -> None:
    """Write a new folder; it appears whole or not at all.

    Raises:
        ArtifactError: the folder is there already, or the result would not load.
    """
    if folder.exists():
        raise ArtifactError(f"{folder} is there already; artifacts are not edited, choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_files(unfinished, artifact)
        load_artifact(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_files(folder: Path, artifact: Artifact) -> None:
    rows = _calibration_tensors(artifact.calibration)
    tensors = {"heads.safetensors": artifact.heads, "calibration.safetensors": rows}
    if artifact.static is not None:
        tensors["static.safetensors"] = artifact.static
    files = {name: _saved(content) for name, content in tensors.items()}
    files["tokenizer.json"] = artifact.tokenizer
    if artifact.encoder is not None:
        files["encoder.onnx"] = artifact.encoder
    if artifact.words:
        files["words.txt"] = "".join(f"{word}\n" for word in artifact.words).encode()
    if artifact.anchors:
        files["anchors.jsonl"] = "".join(f"{json.dumps(row)}\n" for row in artifact.anchors).encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = {
        "form": FORM,
        "name": artifact.name,
        "head": "tryage",
        "feature_version": FEATURE_VERSION,
        "models": list(artifact.models),
        "settings": asdict(artifact.settings),
        "pools": list(artifact.pools),
        "tasks": list(artifact.tasks),
        "aliases": dict(artifact.aliases),
        "datasets": list(artifact.calibration.datasets),
        "about": artifact.about,
        "tensors": {name: _described(content) for name, content in tensors.items()},
        "files": {name: {"bytes": len(content), "sha256": _sha256(content)} for name, content in files.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _calibration_tensors(rows: Calibration) -> dict[str, np.ndarray]:
    """What is missing is stored as 0 (scores, with a mask) or -1 (tokens): a tensor holds finite numbers only."""
    known_NM = np.isfinite(rows.score)
    tensors = {
        "kind_NT": rows.kind.astype(np.float16),
        "quality_NM": rows.quality.astype(np.float16),
        "score_NM": np.where(known_NM, rows.score, 0).astype(np.float16),
        "score_known_NM": known_NM.astype(np.uint8),
        "dataset_N": rows.dataset.astype(np.int32),
    }
    tokens = {
        "output_tokens_NM": rows.output_tokens,
        "real_output_tokens_NM": rows.real_output_tokens,
        "input_tokens_NM": rows.input_tokens,
    }
    return tensors | {
        name: np.where(np.isfinite(t), np.minimum(t, MOST_STORED), -1).astype(np.float16) for name, t in tokens.items()
    }


def _saved(tensors: Mapping[str, np.ndarray]) -> bytes:
    content: bytes = safetensors.numpy.save({name: np.ascontiguousarray(t) for name, t in tensors.items()})
    return content


def _described(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": str(t.dtype), "shape": list(t.shape)} for name, t in sorted(tensors.items())}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load_artifact(folder: Path) -> Artifact:
    """The artifact in a folder, checked.

    Raises:
        ArtifactError: one line that names the folder, the file and what is wrong.
    """
    with _named(folder):
        return _load(folder)


def artifact_name(folder: Path) -> str:
    """The name of the artifact in a folder, of which nothing but the manifest is read.

    Raises:
        ArtifactError: one line that names the folder and what is wrong with the manifest.
    """
    with _named(folder):
        return _Manifest.parse(_read(folder / "manifest.json", MOST_MANIFEST_BYTES)).name


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """What is wrong with a folder is said with its name."""
    try:
        yield
    except _Unusable as exc:
        raise ArtifactError(f"artifact {folder}: {' '.join(str(exc).split())[:MOST_SAID]}") from exc


class _Unusable(Exception):
    """What is wrong with the folder being loaded."""


def _load(folder: Path) -> Artifact:
    content = _read(folder / "manifest.json", MOST_MANIFEST_BYTES)
    manifest = _Manifest.parse(content)
    files = {name: _read_stated(folder, name, stated) for name, stated in manifest.files.items()}
    heads = _tensors("heads.safetensors", files["heads.safetensors"], manifest)
    rows = _tensors("calibration.safetensors", files["calibration.safetensors"], manifest)
    _check_heads(heads, manifest)
    static = _static(files, manifest) if "static" in manifest.settings.speeds else None
    if "encoder.onnx" in files:
        _check_encoder(files["encoder.onnx"])
    return Artifact(
        name=manifest.name,
        models=manifest.models,
        settings=manifest.settings,
        encoder=files.get("encoder.onnx"),
        static=static,
        tokenizer=files["tokenizer.json"],
        heads=heads,
        calibration=_calibration(rows, manifest),
        about=manifest.about,
        pools=manifest.pools,
        tasks=manifest.tasks,
        aliases=manifest.aliases,
        words=_words(files["words.txt"]) if "words.txt" in files else (),
        anchors=_anchors(files["anchors.jsonl"]) if "anchors.jsonl" in files else (),
        fingerprint=_sha256(content),
    )


@dataclass(frozen=True)
class _Stated:
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    name: str
    models: tuple[str, ...]
    settings: HeadSettings
    datasets: tuple[str, ...]
    pools: tuple[str, ...]
    tasks: tuple[str, ...]
    aliases: Mapping[str, str]
    about: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]]
    files: Mapping[str, _Stated]

    @classmethod
    def parse(cls, content: bytes) -> _Manifest:
        try:
            raw = json.loads(content)
            if raw["form"] != FORM:
                raise _Unusable(f"manifest.json has form {raw['form']!r}; this release reads form {FORM}")
            if raw["head"] != "tryage":
                raise _Unusable(f"its head is {raw['head']!r}; this release reads tryage")
            if raw["feature_version"] != FEATURE_VERSION:
                raise _Unusable(
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
            raise _Unusable(f"manifest.json has no {exc.args[0]}") from exc
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as exc:
            raise _Unusable(f"manifest.json is malformed: {' '.join(str(exc).split())[:200]}") from exc


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


def _stated_files(raw: Any) -> dict[str, _Stated]:
    stated = {str(name): _Stated(int(entry["bytes"]), str(entry["sha256"])) for name, entry in raw.items()}
    for name in REQUIRED:
        if name not in stated:
            raise ValueError(f"files lack {name}")
    for name, entry in stated.items():
        if name not in MOST_BYTES:
            raise ValueError(f"files name {name[:80]!r}, which is no part of an artifact")
        if not 0 < entry.size_bytes <= MOST_BYTES[name]:
            raise ValueError(f"{name} is stated to have {entry.size_bytes} bytes; at most {MOST_BYTES[name]} are read")
    return stated


def _read(path: Path, most_bytes: int) -> bytes:
    """A regular file's content, never more than the bound; links are refused, they may lead anywhere."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            content = file.read(most_bytes + 1)
    except OSError as exc:
        raise _Unusable(f"{path.name} cannot be read: {exc.strerror}") from exc
    if len(content) > most_bytes:
        raise _Unusable(f"{path.name} has more than {most_bytes} bytes")
    return content


def _read_stated(folder: Path, name: str, stated: _Stated) -> bytes:
    content = _read(folder / name, stated.size_bytes)
    if len(content) != stated.size_bytes:
        raise _Unusable(f"{name} has {len(content)} bytes, the manifest says {stated.size_bytes}")
    if _sha256(content) != stated.sha256:
        raise _Unusable(f"{name} has another SHA-256 than the manifest says; it was changed or damaged")
    return content


def _tensors(file: str, content: bytes, manifest: _Manifest) -> dict[str, np.ndarray]:
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as exc:
        raise _Unusable(f"{file} is malformed: {' '.join(str(exc).split())[:200]}") from exc
    described = {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    for name in sorted({*described, *manifest.tensors.get(file, {})}):
        stated, found = manifest.tensors.get(file, {}).get(name), described.get(name)
        if stated != found:
            raise _Unusable(f"{file}: tensor {name} is {found}, the manifest says {stated}")
        if found is None or found[0] not in DTYPES:
            raise _Unusable(f"{file}: tensor {name} has a type that is not read: {found}")
        if not np.isfinite(tensors[name]).all():
            raise _Unusable(f"{file}: tensor {name} holds a number that is not finite")
    return tensors


def _check_heads(heads: Mapping[str, np.ndarray], manifest: _Manifest) -> None:
    speeds = manifest.settings.speeds
    if problem := misfit(heads, speeds, len(manifest.models)):
        raise _Unusable(f"heads.safetensors: {problem}")
    for speed, file in ENCODER_FILES.items():
        if (speed in speeds) != (file in manifest.files):
            raise _Unusable(f"{file} is {'missing' if speed in speeds else 'not expected'}; its heads read {speeds}")
    pools, tasks = int(heads["layout.pool_T"].max()) + 1, len(heads["layout.pool_T"])
    if (len(manifest.pools), len(manifest.tasks)) != (pools, tasks):
        raise _Unusable(
            f"manifest.json names {len(manifest.pools)} pools and {len(manifest.tasks)} tasks; "
            f"the heads have {pools} and {tasks}"
        )
    if strangers := set(manifest.aliases.values()) - set(manifest.models):
        raise _Unusable(f"manifest.json has an alias for {min(strangers)!r}, which is none of its models")


def _static(files: Mapping[str, bytes], manifest: _Manifest) -> Mapping[str, np.ndarray]:
    static = _tensors("static.safetensors", files["static.safetensors"], manifest)
    if set(static) != {"table_VD", "scale_V"} or static["table_VD"].dtype != np.int8:
        raise _Unusable("static.safetensors: expected table_VD (int8) and scale_V")
    if static["table_VD"].ndim != 2 or static["scale_V"].shape != static["table_VD"].shape[:1]:
        raise _Unusable("static.safetensors: table_VD and scale_V do not fit together")
    return static


def _check_encoder(model: bytes) -> None:
    try:
        check_self_contained(model)
    except OnnxError as exc:
        raise _Unusable(f"encoder.onnx: {exc}") from exc


def _calibration(rows: Mapping[str, np.ndarray], manifest: _Manifest) -> Calibration:
    if set(rows) != set(_CALIBRATION_SHAPES):
        raise _Unusable(f"calibration.safetensors: tensor {min(set(rows) ^ set(_CALIBRATION_SHAPES))} is not right")
    size = {"N": len(rows["dataset_N"]), "M": len(manifest.models), "T": len(manifest.tasks)}
    for name, letters in _CALIBRATION_SHAPES.items():
        if rows[name].shape != tuple(size[letter] for letter in letters):
            raise _Unusable(f"calibration.safetensors: tensor {name} has shape {rows[name].shape}")
    for name in ("kind_NT", "quality_NM", "score_NM"):
        if rows[name].size and not (rows[name].min() >= 0 and rows[name].max() <= 1):
            raise _Unusable(f"calibration.safetensors: tensor {name} lies outside 0 to 1")
    if size["N"] and not (rows["dataset_N"].min() >= 0 and rows["dataset_N"].max() < len(manifest.datasets)):
        raise _Unusable("calibration.safetensors: dataset_N names a dataset that the manifest does not have")
    return Calibration(
        quality=rows["quality_NM"].astype(np.float32),
        score=np.where(rows["score_known_NM"] > 0, rows["score_NM"].astype(np.float32), np.float32(np.nan)),
        output_tokens=_nan_where_missing(rows["output_tokens_NM"]),
        real_output_tokens=_nan_where_missing(rows["real_output_tokens_NM"]),
        input_tokens=_nan_where_missing(rows["input_tokens_NM"]),
        dataset=rows["dataset_N"],
        datasets=manifest.datasets,
        kind=rows["kind_NT"].astype(np.float32),
    )


def _nan_where_missing(tokens: np.ndarray) -> np.ndarray:
    return np.where(tokens >= 0, tokens.astype(np.float32), np.float32(np.nan))


def _words(content: bytes) -> tuple[str, ...]:
    words = tuple(content.decode(errors="replace").split())
    if wrong := next((word for word in words if not is_plain(word)), None):
        raise _Unusable(f"words.txt has {wrong[:MOST_LETTERS]!r}; a word has up to {MOST_LETTERS} letters from a to z")
    return words


def _anchors(content: bytes) -> tuple[Mapping[str, Any], ...]:
    """Short prompts with reference and grader, for new models to sit."""
    rows = []
    # Not `splitlines`: it also splits at characters that JSON leaves as they are within texts.
    for number, line in enumerate(content.decode(errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise _Unusable(f"anchors.jsonl, line {number} is not JSON") from exc
        if not isinstance(row, dict) or any(
            not isinstance(row.get(key), str) for key in ("prompt_id", "prompt", "grader")
        ):
            raise _Unusable(f"anchors.jsonl, line {number} lacks prompt_id, prompt or grader")
        scores = row.get("scores", {})
        if not isinstance(scores, dict) or not all(isinstance(score, int | float) for score in scores.values()):
            raise _Unusable(f"anchors.jsonl, line {number} has scores that are not numbers by model")
        rows.append(row)
    return tuple(rows)
