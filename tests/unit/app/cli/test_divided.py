"""Datasets whose prompts have no split are divided for every command in the same way, and that is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from app.cli import main
from app.cli.divided import divided, how_to_measure
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, write_outcomes
from router_models.outcomes.splits import DRAWN, Division, drawn_split

DEMO = Path(__file__).parents[4] / "router_models/artifacts/demo-v2"
NOTHING_LEFT = (
    "No prompt with a split is left to measure it on. Give some the split test and train again, or name outcomes of "
    "others:"
)
TEXTS = [f"What is {number} + 1?" for number in range(60)]


def dataset(split: Sequence[str | None] = ()) -> OutcomesDataset:
    columns = {"prompt_id": TEXTS, "prompt": TEXTS, "dataset": ["mine"] * len(TEXTS)}
    prompts = pa.table(columns | ({"split": list(split)} if split else {}))
    outcomes = pa.table({"prompt_id": TEXTS, "model": ["m"] * len(TEXTS), "score": [1.0] * len(TEXTS)})
    return OutcomesDataset(prompts, outcomes)


def test_a_split_of_prompts_without_any_is_the_drawn_one(capsys: pytest.CaptureFixture[str]) -> None:
    part = divided("mine", dataset(), "train")

    assert part.prompts["prompt"].to_pylist() == [text for text in TEXTS if drawn_split(text) == "train"]
    assert 0 < part.prompts.num_rows < len(TEXTS)
    assert capsys.readouterr().err == f"mine: {DRAWN}\n"


def test_a_split_that_prompts_say_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = ["dev"] * 20 + ["test"] * 40

    assert divided("mine", dataset(said), "dev").prompts["prompt"].to_pylist() == TEXTS[:20]
    assert divided("mine", dataset(said)).prompts.num_rows == len(TEXTS)
    assert capsys.readouterr().err == ""
    with pytest.raises(OutcomesError, match="no prompt has split train"):
        divided("mine", dataset(said), "train")


def test_prompts_without_a_split_are_counted_where_one_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    said = ["dev"] * 20 + [None] * 40

    assert divided("mine", dataset(said)).prompts.num_rows == len(TEXTS)
    assert capsys.readouterr().err == ""
    assert divided("mine", dataset(said), "dev").prompts.num_rows == 20
    assert capsys.readouterr().err == ("mine: 40 of 60 prompts are left out: they have no split, and others have one\n")


@pytest.mark.parametrize(
    ("learned", "splits", "said"),
    [
        ("train", {"a": "dev train", "b": "test train"}, "Next: {command} --data a --data b --card"),
        ("train", {"a": "train", "b": "test train"}, "Next: {command} --data b --card"),
        ("train", {"a": "train unseen", "b": "other train"}, "Next: {command} --data a --split unseen --card"),
        ("dev", {"a": "dev test", "b": "test"}, "Next: {command} --data b --card"),
        ("dev", {"a": "dev test"}, "Next: {command} --data a --split test --card"),
        ("train", {"a b": "dev train"}, "Next: {command} --data 'a b' --card"),
        ("train", {"a": "train"}, f"{NOTHING_LEFT} {{command}} --data FOLDER --card"),
    ],
)
def test_after_training_a_command_is_named_that_finds_something_to_measure(
    learned: str, splits: dict[str, str], said: str
) -> None:
    found = {Path(name): Division(False, tuple(there.split()), 0, 60) for name, there in splits.items()}

    assert how_to_measure(Path("own-v1"), learned, found) == said.format(command="thalamus evaluate --artifact own-v1")


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        ("onboard m --artifact {demo} --outcomes {data}", "{few} graded prompts are too few; at least 10 are needed"),
        (
            "train --base {demo} --data {data}",
            "at least 2 of demo-v2's models need scores on 50 different prompts each",
        ),
    ],
)
def test_who_joins_and_who_adapts_knows_the_drawn_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, refused: str
) -> None:
    few = divided("mine", dataset(), "dev").prompts.num_rows
    write_outcomes(tmp_path / "mine", dataset())
    words = command.format(demo=DEMO, data=tmp_path / "mine").split()

    with pytest.raises(SystemExit):
        main([*words, "--split", "dev", "--output", str(tmp_path / "own-v1")])

    assert f"thalamus: {refused.format(few=few)}" in capsys.readouterr().err
