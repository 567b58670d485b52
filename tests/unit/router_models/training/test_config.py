"""The file of a training run: paths, defaults, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_models.training.config import ConfigError, load_config

CONFIG = """
name: tiny-v1
data: [outcomes, ../more]
aliases: names.json
output: out/tiny-v1
about: Tiny.
licences: [Apache-2.0]
"""
SHIPPED = Path(__file__).parents[4] / "configs" / "training"


def test_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG)

    config = load_config(tmp_path / "tiny.yaml")

    assert config.data == (tmp_path / "outcomes", tmp_path.parent / "more")
    assert (config.aliases, config.output) == (tmp_path / "names.json", tmp_path / "out" / "tiny-v1")


def test_data_and_aliases_may_be_left_to_the_command_line(tmp_path: Path) -> None:
    lines = [line for line in CONFIG.splitlines() if not line.startswith(("data", "aliases"))]
    (tmp_path / "tiny.yaml").write_text("\n".join(lines))

    config = load_config(tmp_path / "tiny.yaml")

    assert (config.data, config.aliases) == ((), None)


def test_both_encoders_are_used_unless_one_is_taken_out(tmp_path: Path) -> None:
    (tmp_path / "whole.yaml").write_text(CONFIG)
    (tmp_path / "bare.yaml").write_text(CONFIG + "static: null\n")

    whole, bare = load_config(tmp_path / "whole.yaml"), load_config(tmp_path / "bare.yaml")

    assert whole.transformer
    assert whole.static is not None
    assert bare.static is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (CONFIG + "colour: red\n", "colour: Extra inputs are not permitted"),
        (CONFIG + "neighbours: {}\n", "neighbours: Extra inputs are not permitted"),
        (CONFIG + "network: {hidden: 8}\n", "network: Extra inputs"),
        (CONFIG + "static: {window: 2}\n", "static.window: Extra inputs"),
        (CONFIG + "folds: 1\n", "folds: "),
        (CONFIG + "task_folds: 1\n", "task_folds: "),
        (CONFIG + "calibration_rows: 0\n", "calibration_rows: "),
        (CONFIG + "false_alarms: 1.5\n", "false_alarms: "),
        (CONFIG + "residual_weights: []\n", "residual_weights: "),
        (CONFIG + "residual_weights: [.nan]\n", "residual_weights.0: "),
        (CONFIG + "residual_prior: -100000\n", "residual_prior: "),
        (CONFIG + "residual_prior: .inf\n", "residual_prior: "),
        (CONFIG + "task_l2: -1\n", "task_l2: "),
        (CONFIG + "tokens_l2: 0\n", "tokens_l2: "),
        (CONFIG + "static: {smoothing: 0}\n", "static.smoothing: "),
        (CONFIG + "seed: -1\n", "seed: "),
        (CONFIG + "models: [adder, poet, adder]\n", "models: Value error, adder is named twice"),
        (CONFIG.replace("tiny-v1\ndata", "tiny\ndata"), "name: "),
        (CONFIG.replace("about: Tiny.", ""), "about: Field required"),
        (CONFIG.replace("[outcomes, ../more]", "outcomes"), "data: "),
        (CONFIG + "transformer: false\nstatic: null\n", "static: expected at least one encoder"),
        ("[", "cannot read"),
        ("just text", "the file: "),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(content)

    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "tiny.yaml")

    assert complaint in str(refused.value)
    assert "tiny.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(("file", "columns"), [("demo-v2.yaml", 9), ("public-v1.yaml", 0)])
def test_the_shipped_files_are_valid(file: str, columns: int) -> None:
    config = load_config(SHIPPED / file)

    assert len(config.models) == columns
    assert config.name == config.output.name == file.removesuffix(".yaml")
    assert config.licences
    assert config.limits
