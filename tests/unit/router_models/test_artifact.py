"""Artifacts: written whole, read back the same, and refused in one line when anything about them is off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from router_models.artifact import ArtifactError, load_artifact, write_artifact
from tests.fakes.artifacts import tiny_artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "tiny-v1", tiny_artifact())
    return tmp_path / "tiny-v1"


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def put(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and state its new size and hash: what somebody would do who means it."""
    (folder / name).write_bytes(content)
    stated = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: stated}))


def put_tensor(folder: Path, file: str, name: str, tensor: np.ndarray) -> None:
    tensors = safetensors.numpy.load((folder / file).read_bytes()) | {name: tensor}
    put(folder, file, safetensors.numpy.save(tensors))
    described = {"dtype": str(tensor.dtype), "shape": list(tensor.shape)}
    edit_manifest(folder, lambda manifest: manifest["tensors"][file].update({name: described}))


def test_what_is_written_is_read_back(folder: Path) -> None:
    written, read = tiny_artifact(), load_artifact(folder)

    assert (read.name, read.models, read.settings) == (written.name, written.models, written.settings)
    assert (read.encoder, read.tokenizer, read.about) == (written.encoder, written.tokenizer, written.about)
    assert read.heads.keys() == written.heads.keys()
    for name, tensor in written.heads.items():
        np.testing.assert_array_equal(read.heads[name], tensor)
    np.testing.assert_array_equal(read.calibration.score, written.calibration.score)
    np.testing.assert_allclose(read.calibration.quality, written.calibration.quality, rtol=1e-6)
    np.testing.assert_allclose(read.calibration.output_tokens, written.calibration.output_tokens, rtol=1e-6)
    assert read.calibration.datasets == ("tiny",)
    assert len(read.fingerprint) == 64


def test_missing_lengths_stay_missing(tmp_path: Path) -> None:
    calibration = replace(tiny_artifact().calibration, real_output_tokens=np.full((12, 2), np.nan))
    write_artifact(tmp_path / "a", replace(tiny_artifact(), calibration=calibration))

    assert np.isnan(load_artifact(tmp_path / "a").calibration.real_output_tokens).all()


def test_an_artifact_is_never_edited(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="is there already"):
        write_artifact(folder, tiny_artifact())


def test_what_would_not_load_leaves_no_folder(tmp_path: Path) -> None:
    broken = replace(tiny_artifact(), models=("only one",))

    with pytest.raises(ArtifactError):
        write_artifact(tmp_path / "broken-v1", broken)

    assert list(tmp_path.iterdir()) == []


def test_anchors_travel_with_it(tmp_path: Path) -> None:
    anchors = ({"prompt_id": "a", "prompt": "2 + 2 = ?", "grader": "number", "reference": "4"},)
    write_artifact(tmp_path / "a", replace(tiny_artifact(), anchors=anchors))

    assert load_artifact(tmp_path / "a").anchors == anchors


def _delete(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _manifest(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: edit_manifest(folder, edit)


def _head(name: str, tensor: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: put_tensor(folder, "heads.safetensors", name, tensor)


def _row(name: str, tensor: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: put_tensor(folder, "calibration.safetensors", name, tensor)


def _flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "heads.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "heads.safetensors").write_bytes(content)


def _lengthen(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b" ")


def _link_away(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "elsewhere.json")
    (folder / "tokenizer.json").symlink_to(folder.parent / "elsewhere.json")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (_delete("manifest.json"), "manifest.json cannot be read"),
    "manifest is no JSON": (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is malformed"),
    "manifest is a list": (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is malformed"),
    "manifest is huge": (lambda f: (f / "manifest.json").write_bytes(b" " * 5_000_000), "has more than"),
    "another form": (_manifest(lambda m: m.update(form=2)), "has form 2; this release reads form 1"),
    "another head": (_manifest(lambda m: m.update(head="oracle")), "its head is 'oracle'"),
    "other features": (_manifest(lambda m: m.update(feature_version="v0")), "made for features 'v0'"),
    "a key is missing": (_manifest(lambda m: m.pop("settings")), "has no settings"),
    "no models": (_manifest(lambda m: m.update(models=[])), "models must be a list"),
    "a model twice": (_manifest(lambda m: m.update(models=["a", "a"])), "different names"),
    "a model more": (_manifest(lambda m: m["models"].append("x")), "should be 3"),
    "a setting is infinite": (_manifest(lambda m: m["settings"].update(platt_slope="inf")), "not finite"),
    "an unknown setting": (_manifest(lambda m: m["settings"].update(magic=1)), "malformed"),
    "an unknown member": (_manifest(lambda m: m["settings"].update(members=["magic"])), "member magic is unknown"),
    "a member without tensors": (_manifest(lambda m: m["settings"].update(members=["logistic", "mlp"])), "is missing"),
    "a required file is not listed": (_manifest(lambda m: m["files"].pop("encoder.onnx")), "files lack encoder.onnx"),
    "a path out of the folder": (
        _manifest(lambda m: m["files"].update({"../x": m["files"]["encoder.onnx"]})),
        "no part",
    ),
    "a size beyond the bound": (_manifest(lambda m: m["files"]["heads.safetensors"].update(bytes=10**12)), "at most"),
    "a file is missing": (_delete("tokenizer.json"), "tokenizer.json cannot be read: No such file"),
    "a file is a link": (_link_away, "tokenizer.json cannot be read"),
    "a file is longer": (_lengthen, "has more than"),
    "a file is shorter": (lambda f: (f / "tokenizer.json").write_bytes(b"{}"), "the manifest says"),
    "a byte was flipped": (_flip_a_byte, "another SHA-256"),
    "heads are no safetensors": (lambda f: put(f, "heads.safetensors", b"x" * 100), "heads.safetensors is malformed"),
    "a weight is not a number": (_head("logistic.bias_M", np.array([np.nan, 0], np.float32)), "not finite"),
    "a tensor of another shape": (_head("logistic.bias_M", np.zeros(3, np.float32)), "M should be 2"),
    "a tensor of another rank": (_head("logistic.bias_M", np.zeros((2, 1), np.float32)), "has shape"),
    "a tensor too many": (_head("surprise_M", np.zeros(2, np.float32)), "surprise_M is not expected"),
    "a type that is not read": (_head("logistic.bias_M", np.zeros(2, np.int64)), "has a type that is not read"),
    "a score above 1": (_row("score_NM", np.full((12, 2), 2, np.float32)), "outside 0 to 1"),
    "a data set without a name": (_row("dataset_N", np.full(12, 1, np.int32)), "names a dataset"),
    "rows of another length": (_row("quality_NM", np.zeros((3, 2), np.float32)), "quality_NM has shape"),
    "an encoder that is no ONNX": (lambda f: put(f, "encoder.onnx", b"\xff" * 64), "encoder.onnx: it is not protobuf"),
    "anchors that are no JSON": (lambda f: put(f, "anchors.jsonl", b"{\n"), "anchors.jsonl, line 1 is not JSON"),
    "anchors without a prompt": (lambda f: put(f, "anchors.jsonl", b'{"prompt_id": "a"}\n'), "line 1 lacks"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_artifact_is_refused_in_one_line(name: str, folder: Path) -> None:
    breaking, complaint = BROKEN[name]
    breaking(folder)

    with pytest.raises(ArtifactError) as refused:
        load_artifact(folder)

    assert complaint in str(refused.value)
    assert str(refused.value).startswith(f"artifact {folder}: ")
    assert "\n" not in str(refused.value)


def test_a_tensor_that_differs_from_its_description_is_refused(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["tensors"]["heads.safetensors"]["logistic.bias_M"].update(shape=[3]))

    with pytest.raises(ArtifactError, match=r"tensor logistic\.bias_M is"):
        load_artifact(folder)
