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

from router_models.heads.tryage import Speed
from router_models.storage.artifact import ArtifactError, artifact_name, load_artifact, write_artifact
from tests.fakes.artifacts import SIZE_D, SIZE_F, tiny_artifact, tiny_pools_artifact
from tests.fakes.full_disk import files_of_at_most


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
    assert read.static is not None
    assert written.static is not None
    for name, tensor in written.static.items():
        np.testing.assert_array_equal(read.static[name], tensor)
    assert len(read.fingerprint) == 64


def test_calibration_rows_are_read_back_to_a_thousandth(folder: Path) -> None:
    written, read = tiny_artifact().calibration, load_artifact(folder).calibration

    np.testing.assert_array_equal(read.score, written.score)
    np.testing.assert_allclose(read.quality, written.quality, rtol=1e-3)
    np.testing.assert_allclose(read.output_tokens, written.output_tokens, rtol=1e-3)
    np.testing.assert_array_equal(read.real_output_tokens, written.real_output_tokens)
    np.testing.assert_array_equal(read.input_tokens, written.input_tokens)
    np.testing.assert_array_equal(read.dataset, written.dataset)
    assert read.datasets == ("tiny",)


def test_names_of_pools_and_tasks_and_other_names_of_models_are_read_back(tmp_path: Path) -> None:
    written = replace(tiny_pools_artifact(), aliases={"small-2024-01": "small"})
    write_artifact(tmp_path / "a", written)

    read = load_artifact(tmp_path / "a")

    assert read.pools == ("first", "second")
    assert read.tasks == ("first/a", "first/r", "second/b", "second/s")
    assert read.aliases == {"small-2024-01": "small"}


@pytest.mark.parametrize(("speed", "file"), [("static", "static.safetensors"), ("transformer", "encoder.onnx")])
def test_one_encoder_is_enough(speed: Speed, file: str, tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", tiny_artifact(speeds=(speed,)))

    read = load_artifact(tmp_path / "a")

    assert read.settings.speeds == (speed,)
    assert (read.static is not None, read.encoder is not None) == (speed == "static", speed == "transformer")
    encoders = {"static.safetensors", "encoder.onnx"} & {path.name for path in (tmp_path / "a").iterdir()}
    assert encoders == {file}


def test_a_length_beyond_all_bounds_is_stored_as_the_bound(tmp_path: Path) -> None:
    calibration = replace(tiny_artifact().calibration, real_output_tokens=np.full((12, 2), 1e6))
    write_artifact(tmp_path / "a", replace(tiny_artifact(), calibration=calibration))

    np.testing.assert_allclose(load_artifact(tmp_path / "a").calibration.real_output_tokens, 60_000, rtol=1e-3)


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


def test_a_full_disk_is_named_and_leaves_no_folder(tmp_path: Path) -> None:
    with files_of_at_most(100), pytest.raises(OSError, match=r"File too large: '.*/new-v1'$"):
        write_artifact(tmp_path / "new-v1", tiny_artifact())

    assert list(tmp_path.iterdir()) == []


def test_anchors_travel_with_it(tmp_path: Path) -> None:
    anchors = ({"prompt_id": "a", "prompt": "2 + 2\u2028\x85= ?", "grader": "number", "reference": "4"},)
    write_artifact(tmp_path / "a", replace(tiny_artifact(), anchors=anchors))

    assert load_artifact(tmp_path / "a").anchors == anchors


def _delete(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _manifest(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: edit_manifest(folder, edit)


def _head(name: str, tensor: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: put_tensor(folder, "heads.safetensors", name, tensor)


def _static(name: str, tensor: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: put_tensor(folder, "static.safetensors", name, tensor)


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
    "the form before this": (_manifest(lambda m: m.update(form=2)), "has form 2; this release reads form 3"),
    "a form to come": (_manifest(lambda m: m.update(form=4)), "has form 4; this release reads form 3"),
    "another head": (_manifest(lambda m: m.update(head="oracle")), "its head is 'oracle'"),
    "other features": (_manifest(lambda m: m.update(feature_version="v0")), "made for features 'v0'"),
    "a key is missing": (_manifest(lambda m: m.pop("settings")), "has no settings"),
    "no models": (_manifest(lambda m: m.update(models=[])), "models must be a list"),
    "a model twice": (_manifest(lambda m: m.update(models=["a", "a"])), "different names"),
    "a model more": (_manifest(lambda m: m["models"].append("x")), "should be 3"),
    "a setting is infinite": (_manifest(lambda m: m["settings"].update(variance_floor="inf")), "not finite"),
    "a setting of the release before": (_manifest(lambda m: m["settings"].update(residual_weight=1)), "malformed"),
    "a setting is beyond all floats": (
        _manifest(lambda m: m["settings"].update(static_error=10**400)),
        "manifest.json is malformed: int too large",
    ),
    "a size is infinite": (
        _manifest(lambda m: m["files"]["tokenizer.json"].update(bytes=float("inf"))),
        "manifest.json is malformed",
    ),
    "a shape is infinite": (
        _manifest(lambda m: m["tensors"]["heads.safetensors"]["layout.pool_T"].update(shape=[float("inf")])),
        "manifest.json is malformed",
    ),
    "a head with lines and no end": (_manifest(lambda m: m.update(feature_version="a\u2028\n" * 9**5)), "made for"),
    "an unknown setting": (_manifest(lambda m: m["settings"].update(magic=1)), "malformed"),
    "a setting is missing": (_manifest(lambda m: m["settings"].pop("alarm_full")), "malformed"),
    "no encoder": (_manifest(lambda m: m["settings"].update(speeds=[])), "its encoders are []"),
    "an unknown encoder": (_manifest(lambda m: m["settings"].update(speeds=["magic"])), "its encoders are ['magic']"),
    "an encoder that is no name": (_manifest(lambda m: m["settings"].update(speeds=[["static"]])), "its encoders"),
    "encoders that are no list": (_manifest(lambda m: m["settings"].update(speeds=7)), "manifest.json is malformed"),
    "an encoder less than tensors": (
        _manifest(lambda m: m["settings"].update(speeds=["static"])),
        "tensor static.alarm_A is not expected",
    ),
    "a pool without a name": (
        _manifest(lambda m: m.update(pools=[])),
        "names 0 pools and 2 tasks; the heads have 1 and 2",
    ),
    "a task too many": (
        _manifest(lambda m: m["tasks"].append("x")),
        "names 1 pools and 3 tasks; the heads have 1 and 2",
    ),
    "an alias of nobody": (_manifest(lambda m: m.update(aliases={"a": "nobody"})), "an alias for 'nobody'"),
    "aliases that are a list": (_manifest(lambda m: m.update(aliases=["a"])), "manifest.json is malformed"),
    "a required file is not listed": (
        _manifest(lambda m: m["files"].pop("tokenizer.json")),
        "files lack tokenizer.json",
    ),
    "the transformer is not listed": (_manifest(lambda m: m["files"].pop("encoder.onnx")), "encoder.onnx is missing"),
    "the static encoder is not listed": (
        _manifest(lambda m: m["files"].pop("static.safetensors")),
        "static.safetensors is missing",
    ),
    "the static encoder is gone": (_delete("static.safetensors"), "static.safetensors cannot be read: No such file"),
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
    "a weight is not a number": (_head("full.standing_M", np.array([np.nan, 0], np.float32)), "not finite"),
    "a tensor of another shape": (_head("full.standing_M", np.zeros(3, np.float32)), "M should be 2"),
    "a tensor of another rank": (_head("full.standing_M", np.zeros((2, 1), np.float32)), "has shape"),
    "a tensor too many": (_head("surprise_M", np.zeros(2, np.float32)), "surprise_M is not expected"),
    "a type that is not read": (_head("full.standing_M", np.zeros(2, np.int64)), "has a type that is not read"),
    "a rule of no model": (_head("layout.model_R", np.array([0, 2], np.int32)), "names a pool or a model"),
    "a layout of floats": (_head("layout.pool_R", np.zeros(2, np.float32)), "something else than int32"),
    "trust in a pool too many": (_head("full.trust_P", np.ones(2, np.float32)), "P should be 1"),
    "a rule of no pool": (_head("layout.pool_R", np.array([0, 1], np.int32)), "names a pool or a model"),
    "a scale of 0": (_head("static.scale_F", np.zeros(SIZE_F, np.float32)), "not above 0"),
    "a table of floats": (_static("table_VD", np.zeros((66, SIZE_D), np.float32)), "expected table_VD (int8)"),
    "a table that is flat": (_static("table_VD", np.zeros(66, np.int8)), "do not fit together"),
    "a table without enough factors": (_static("scale_V", np.ones(65, np.float32)), "do not fit together"),
    "a factor is not a number": (_static("scale_V", np.full(66, np.nan, np.float32)), "not finite"),
    "a table too many": (_static("surprise_V", np.ones(66, np.float32)), "expected table_VD (int8) and scale_V"),
    "static is no safetensors": (lambda f: put(f, "static.safetensors", b"x" * 99), "static.safetensors is malformed"),
    "a score above 1": (_row("score_NM", np.full((12, 2), 2, np.float16)), "outside 0 to 1"),
    "a kind of prompt above 1": (_row("kind_NT", np.full((12, 2), 2, np.float16)), "outside 0 to 1"),
    "a kind of prompt too many": (_row("kind_NT", np.zeros((12, 3), np.float16)), "kind_NT has shape"),
    "a data set without a name": (_row("dataset_N", np.full(12, 1, np.int32)), "names a dataset"),
    "rows of another length": (_row("quality_NM", np.zeros((3, 2), np.float16)), "quality_NM has shape"),
    "an encoder that is no ONNX": (lambda f: put(f, "encoder.onnx", b"\xff" * 64), "encoder.onnx: it is not protobuf"),
    "words with something else": (
        lambda f: put(f, "words.txt", b"json\nA1\n"),
        "words.txt has 'A1'; a word has up to 24",
    ),
    "anchors that are no JSON": (lambda f: put(f, "anchors.jsonl", b"{\n"), "anchors.jsonl, line 1 is not JSON"),
    "anchors with scores of no model": (
        lambda f: put(f, "anchors.jsonl", b'{"prompt_id": "a", "prompt": "b", "grader": "c", "scores": [1]}\n'),
        "line 1 has scores that are not numbers by model",
    ),
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


def test_a_name_is_read_from_the_manifest_alone(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name != "manifest.json":
            file.unlink()

    assert artifact_name(folder) == tiny_artifact().name


def test_a_manifest_without_a_name_is_refused_with_its_folder(folder: Path) -> None:
    edit_manifest(folder, lambda m: m.pop("name"))

    with pytest.raises(ArtifactError, match=f"artifact {folder}: manifest.json has no name"):
        artifact_name(folder)


def test_a_tensor_that_differs_from_its_description_is_refused(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["tensors"]["heads.safetensors"]["full.standing_M"].update(shape=[3]))

    with pytest.raises(ArtifactError, match=r"tensor full\.standing_M is"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("speed", "other", "file"),
    [("static", "transformer", "encoder.onnx"), ("transformer", "static", "static.safetensors")],
)
def test_an_encoder_that_no_head_reads_is_refused(speed: Speed, other: Speed, file: str, tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", tiny_artifact(speeds=(speed,)))
    write_artifact(tmp_path / "b", tiny_artifact(speeds=(other,)))
    stated = json.loads((tmp_path / "b" / "manifest.json").read_text())["tensors"].get(file)
    put(tmp_path / "a", file, (tmp_path / "b" / file).read_bytes())
    if stated:
        edit_manifest(tmp_path / "a", lambda manifest: manifest["tensors"].update({file: stated}))

    with pytest.raises(ArtifactError, match=f"{file} is not expected"):
        load_artifact(tmp_path / "a")


def test_words_of_the_training_prompts_travel_in_their_order(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", replace(tiny_artifact(), words=("the", "json")))

    assert load_artifact(tmp_path / "a").words == ("the", "json")


def test_anchors_may_have_line_separators_within_their_texts(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", tiny_artifact())
    row = {"prompt_id": "a", "prompt": "2\u2028+ 2\x85= ?", "grader": "number", "reference": "4"}
    put(tmp_path / "a", "anchors.jsonl", json.dumps(row, ensure_ascii=False).encode() + b"\n")

    assert load_artifact(tmp_path / "a").anchors == (row,)
