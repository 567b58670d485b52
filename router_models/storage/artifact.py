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
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from router_models.heads.joined import joined_count
from router_models.heads.tryage import HeadSettings, Speed
from router_models.reading.features import FEATURE_VERSION
from router_models.reading.spelling import MOST_LETTERS, is_plain
from router_models.storage.calibration import Calibration, calibration_of, calibration_tensors
from router_models.storage.head_check import misfit
from router_models.storage.manifest import FORM, MOST_MANIFEST_BYTES, Manifest, Unusable, read, read_stated, sha256
from router_models.storage.onnx_check import OnnxError, check_self_contained

ENCODER_FILES: Mapping[Speed, str] = {"static": "static.safetensors", "transformer": "encoder.onnx"}
# Characters of what is wrong: it may quote a file.
MOST_SAID = 500
DTYPES = ("float16", "float32", "int32", "uint8", "int8")


class ArtifactError(ValueError):
    """A folder is not a usable artifact; the message is one line."""


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
        OSError: it cannot be written, with its name.
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
    except OSError as exc:
        # A disk that is full has no name, and the unfinished folder's says nothing.
        raise OSError(exc.errno, exc.strerror, str(folder)) from exc
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_files(folder: Path, artifact: Artifact) -> None:
    rows = calibration_tensors(artifact.calibration)
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
        "files": {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in files.items()},
    }
    files["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _saved(tensors: Mapping[str, np.ndarray]) -> bytes:
    content: bytes = safetensors.numpy.save({name: np.ascontiguousarray(t) for name, t in tensors.items()})
    return content


def _described(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": str(t.dtype), "shape": list(t.shape)} for name, t in sorted(tensors.items())}


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
        return Manifest.parse(read(folder / "manifest.json", MOST_MANIFEST_BYTES)).name


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """What is wrong with a folder is said with its name."""
    try:
        yield
    except Unusable as exc:
        raise ArtifactError(f"artifact {folder}: {' '.join(str(exc).split())[:MOST_SAID]}") from exc


def _load(folder: Path) -> Artifact:
    content = read(folder / "manifest.json", MOST_MANIFEST_BYTES)
    manifest = Manifest.parse(content)
    files = {name: read_stated(folder, name, stated) for name, stated in manifest.files.items()}
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
        calibration=calibration_of(rows, manifest),
        about=manifest.about,
        pools=manifest.pools,
        tasks=manifest.tasks,
        aliases=manifest.aliases,
        words=_words(files["words.txt"]) if "words.txt" in files else (),
        anchors=_anchors(files["anchors.jsonl"]) if "anchors.jsonl" in files else (),
        fingerprint=sha256(content),
    )


def _tensors(file: str, content: bytes, manifest: Manifest) -> dict[str, np.ndarray]:
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as exc:
        raise Unusable(f"{file} is malformed: {' '.join(str(exc).split())[:200]}") from exc
    described = {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    for name in sorted({*described, *manifest.tensors.get(file, {})}):
        stated, found = manifest.tensors.get(file, {}).get(name), described.get(name)
        if stated != found:
            raise Unusable(f"{file}: tensor {name} is {found}, the manifest says {stated}")
        if found is None or found[0] not in DTYPES:
            raise Unusable(f"{file}: tensor {name} has a type that is not read: {found}")
        if not np.isfinite(tensors[name]).all():
            raise Unusable(f"{file}: tensor {name} holds a number that is not finite")
    return tensors


def _check_heads(heads: Mapping[str, np.ndarray], manifest: Manifest) -> None:
    speeds = manifest.settings.speeds
    if problem := misfit(heads, speeds, len(manifest.models)):
        raise Unusable(f"heads.safetensors: {problem}")
    for speed, file in ENCODER_FILES.items():
        if (speed in speeds) != (file in manifest.files):
            raise Unusable(f"{file} is {'missing' if speed in speeds else 'not expected'}; its heads read {speeds}")
    pools, tasks = int(heads["layout.pool_T"].max()) + 1, len(heads["layout.pool_T"])
    if (len(manifest.pools), len(manifest.tasks)) != (pools, tasks):
        raise Unusable(
            f"manifest.json names {len(manifest.pools)} pools and {len(manifest.tasks)} tasks; "
            f"the heads have {pools} and {tasks}"
        )
    if strangers := set(manifest.aliases.values()) - set(manifest.models):
        raise Unusable(f"manifest.json has an alias for {min(strangers)!r}, which is none of its models")


def _static(files: Mapping[str, bytes], manifest: Manifest) -> Mapping[str, np.ndarray]:
    static = _tensors("static.safetensors", files["static.safetensors"], manifest)
    if set(static) != {"table_VD", "scale_V"} or static["table_VD"].dtype != np.int8:
        raise Unusable("static.safetensors: expected table_VD (int8) and scale_V")
    if static["table_VD"].ndim != 2 or static["scale_V"].shape != static["table_VD"].shape[:1]:
        raise Unusable("static.safetensors: table_VD and scale_V do not fit together")
    return static


def _check_encoder(model: bytes) -> None:
    try:
        check_self_contained(model)
    except OnnxError as exc:
        raise Unusable(f"encoder.onnx: {exc}") from exc


def _words(content: bytes) -> tuple[str, ...]:
    words = tuple(content.decode(errors="replace").split())
    if wrong := next((word for word in words if not is_plain(word)), None):
        raise Unusable(f"words.txt has {wrong[:MOST_LETTERS]!r}; a word has up to {MOST_LETTERS} letters from a to z")
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
            raise Unusable(f"anchors.jsonl, line {number} is not JSON") from exc
        if not isinstance(row, dict) or any(
            not isinstance(row.get(key), str) for key in ("prompt_id", "prompt", "grader")
        ):
            raise Unusable(f"anchors.jsonl, line {number} lacks prompt_id, prompt or grader")
        scores = row.get("scores", {})
        if not isinstance(scores, dict) or not all(isinstance(score, int | float) for score in scores.values()):
            raise Unusable(f"anchors.jsonl, line {number} has scores that are not numbers by model")
        rows.append(row)
    return tuple(rows)
