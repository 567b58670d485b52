"""What an artifact calls the models of a dataset: as an alias says, or as was collected. Strangers are listed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from app.cli import main
from app.cli.named import how_to_serve, names_in, tell_strangers
from router_models.outcomes.dataset import OutcomesDataset, write_outcomes
from router_models.storage.artifact import load_artifact, write_artifact
from tests.fakes.artifacts import tiny_artifact, tiny_dataset

ARTIFACT = tiny_artifact(("adder-it", "poet"), rows=200)


def collected(prompts: int = 120, **known_as: str | None) -> OutcomesDataset:
    """Outcomes of `adder` and `poet`, and what a catalogue called them in an artifact."""
    dataset = tiny_dataset(prompts)
    names = [known_as.get(model) for model in dataset.outcomes["model"].to_pylist()]
    return OutcomesDataset(
        dataset.prompts, dataset.outcomes.append_column("predicted_as", pa.array(names, pa.string()))
    )


def aliases(folder: Path, names: dict[str, list[str]]) -> Path:
    path = folder / "aliases.json"
    path.write_text(json.dumps({canonical: {"own": there} for canonical, there in names.items()}))
    return path


def test_a_model_has_the_name_that_was_collected_with_it_where_the_artifact_knows_that() -> None:
    assert names_in("own", collected(adder="adder-it"), None, ARTIFACT) == {"adder": "adder-it"}
    assert names_in("own", collected(adder="of another artifact"), None, ARTIFACT) == {}
    assert names_in("own", tiny_dataset(120), None, ARTIFACT) == {}


def test_what_aliases_say_goes_before(tmp_path: Path) -> None:
    said = aliases(tmp_path, {"poet": ["adder"]})

    assert names_in("own", collected(adder="adder-it"), said, ARTIFACT) == {"adder": "poet"}
    assert names_in("other", collected(adder="adder-it"), said, ARTIFACT) == {"adder": "adder-it"}


def test_who_gets_a_column_of_its_own_is_no_other_model() -> None:
    assert names_in("own", collected(adder="adder-it", poet="poet"), None, ARTIFACT, ["adder"]) == {"poet": "poet"}


def test_strangers_are_listed_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    tell_strangers("own", ["adder-instruct", "bard", "poet"], ARTIFACT)

    told = capsys.readouterr().err
    assert told.startswith("own: the artifact does not know adder-instruct, bard; left out. ")
    assert '--aliases FILE with {"adder-it": {"own": ["adder-instruct"]}}' in told


def test_nothing_is_said_where_all_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    tell_strangers("own", ["adder-it", "poet"], ARTIFACT)

    assert capsys.readouterr().err == ""


def test_what_to_write_into_the_gateways_files_is_said(tmp_path: Path) -> None:
    lines = how_to_serve(tmp_path / "own-v1", [("adder", "adder"), ("adder-large", "adder")]).splitlines()

    assert lines[0].endswith(f"gateway.yaml: artifact: {tmp_path / 'own-v1'}")
    assert lines[2:] == ["  adder: predicted_as: adder", "  adder-large: predicted_as: adder"]


def test_adapting_names_the_models_that_it_found_and_those_that_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_artifact(tmp_path / "old", ARTIFACT)
    write_outcomes(tmp_path / "own", tiny_dataset(120))

    with pytest.raises(SystemExit):
        main(
            ["train", "--base", str(tmp_path / "old"), "--data", str(tmp_path / "own"), "--output", str(tmp_path / "x")]
        )

    told = capsys.readouterr().err
    assert "own: the artifact does not know adder; left out." in told
    assert "each; poet has 120; it does not know adder" in told


def test_adapting_knows_models_by_what_was_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_artifact(tmp_path / "old", ARTIFACT)
    write_outcomes(tmp_path / "own", collected(adder="adder-it"))
    output = str(tmp_path / "own-v1")

    with pytest.raises(SystemExit) as ended:
        main(["train", "--base", str(tmp_path / "old"), "--data", str(tmp_path / "own"), "--output", output, "--json"])

    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["models"] == ["adder-it", "poet"]


def test_models_that_join_are_compared_with_those_known_by_what_was_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tiny_artifact(("adder-it", "other"), rows=200)
    write_artifact(tmp_path / "old", old)
    write_outcomes(tmp_path / "own", collected(adder="adder-it", poet="other"))
    words = ("onboard", "poet", "--artifact", str(tmp_path / "old"), "--outcomes", str(tmp_path / "own"))

    with pytest.raises(SystemExit) as ended:
        main([*words, "--output", str(tmp_path / "new")])

    assert ended.value.code == 0
    told = capsys.readouterr()
    assert "does not know" not in told.err
    assert "poet: predicted_as: poet" in told.out
    joined = load_artifact(tmp_path / "new").calibration
    assert (joined.dataset == len(old.calibration.datasets)).sum() == 120
    known = joined.score[joined.dataset == len(old.calibration.datasets), 0]
    assert (known == known).all()
