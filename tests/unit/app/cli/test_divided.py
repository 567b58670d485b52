"""Datasets whose prompts have no split are divided for every command in the same way, and that is said."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from app.cli import main
from app.cli.divided import divided
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, write_outcomes
from router_models.outcomes.splits import DRAWN, drawn_split

DEMO = Path(__file__).parents[4] / "router_models/artifacts/demo-v2"
TEXTS = [f"What is {number} + 1?" for number in range(60)]


def dataset(split: list[str] | None = None) -> OutcomesDataset:
    columns = {"prompt_id": TEXTS, "prompt": TEXTS, "dataset": ["mine"] * len(TEXTS)}
    prompts = pa.table(columns | ({"split": split} if split else {}))
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
