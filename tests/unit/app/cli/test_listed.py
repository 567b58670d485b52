"""Prices and sizes of an artifact's models: what counts of a catalogue and of the command line, and what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.cli.listed import Listed, columns_of, listed_in, sizes_given
from app.errors import UsageError
from router_models.storage.artifact import Artifact
from tests.fakes.artifacts import tiny_artifact

HEAD = """
backends:
  - {name: b, kind: openai, urls: ["http://127.0.0.1:21001"]}
models:
"""


@pytest.fixture
def artifact() -> Artifact:
    return replace(tiny_artifact(("small", "large")), aliases={"small-instruct": "small"})


def catalog(folder: Path, *entries: tuple[str, str | None, int | None, tuple[float, float] | None]) -> Path:
    """Of (name, predicted_as, size, prices) each."""
    lines = [HEAD]
    for name, column, size, price in entries:
        card = f"card: {{context_tokens: 32000{f', parameters_b: {size}' if size else ''}}}"
        predicted = f", predicted_as: {column}" if column else ""
        priced = f", price: {{input_usd_per_m: {price[0]}, output_usd_per_m: {price[1]}}}" if price else ""
        lines.append(f"  - {{name: {name}, backend: b, served_as: x, {card}{predicted}{priced}}}\n")
    path = folder / "catalog.yaml"
    path.write_text("".join(lines))
    return path


def test_an_entry_counts_for_every_name_of_its_column(
    tmp_path: Path, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    path = catalog(tmp_path, ("s", "small", 7, (1, 2)), ("l", "large", None, None))

    assert listed_in(path, artifact) == Listed(
        prices={"small": (1, 2), "small-instruct": (1, 2)}, sizes_b={"small": 7, "small-instruct": 7}
    )
    assert capsys.readouterr().err == ""
    assert listed_in(None, artifact) == Listed()


@pytest.mark.parametrize("dear_first", [True, False])
def test_of_several_providers_of_a_model_the_cheapest_counts_and_is_said(
    dear_first: bool, tmp_path: Path, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [("dear", "small", 7, (1000, 1000)), ("cheap", "small", None, (1, 2)), ("free", "small", None, None)]
    same = [("one", "large", 70, (3, 6)), ("two", "large", 70, (3, 6))]
    path = catalog(tmp_path, *(entries if dear_first else entries[::-1]), *same)

    found = listed_in(path, artifact)

    assert (found.prices["small"], found.prices["large"]) == ((1, 2), (3, 6))
    assert (found.sizes_b["small"], found.sizes_b["large"]) == (7, 70)
    assert capsys.readouterr().err == (
        f"{path}: of entries with the same predicted_as the cheapest counts: cheap before dear, free\n"
    )


def test_entries_that_are_no_column_are_named_with_the_one_that_they_mean(
    tmp_path: Path, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [("a", "small-instruct"), ("b", "bard"), ("c", None), ("d", "large")]
    path = catalog(tmp_path, *((name, column, 1, (1, 1)) for name, column in entries))

    assert listed_in(path, artifact).prices == {"large": (1, 1)}
    assert capsys.readouterr().err == (
        f"{path}: prices and sizes are not used of a (small-instruct, write small), b (bard), c (absent): "
        f"predicted_as is no model of {artifact.name}\n"
    )


def test_sizes_are_taken_by_column_by_alias_and_by_the_names_of_the_data(artifact: Artifact) -> None:
    columns = columns_of(artifact)

    assert sizes_given("small=7", columns, {"small-instruct"}) == {"small": 7, "small-instruct": 7}
    assert sizes_given("small-instruct=7,large=70", columns, set()) == {"small": 7, "small-instruct": 7, "large": 70}
    assert sizes_given("stranger=3", columns, {"stranger"}) == {"stranger": 3}
    assert sizes_given("", columns, set()) == {}


def test_a_size_of_a_model_that_is_nowhere_is_refused(artifact: Artifact) -> None:
    there = {"small-instruct", "large", "stranger"}

    with pytest.raises(UsageError, match=r"names no model with nosuch, other; the data has large, small-instruct$"):
        sizes_given("nosuch=3,large=70,other=1", columns_of(artifact), there)
