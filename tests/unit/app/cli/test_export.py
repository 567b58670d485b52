"""`thalamus journal export --outcomes`: whose ratings are in a dataset, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from app.cli.journal import journal
from app.errors import UsageError
from app.store.journal.kept import Ended, Feedback
from app.store.journal.sqlite_journal import SqliteJournal
from router_models.adapting.verdict import LEAST_MODELS, LEAST_PROMPTS
from router_models.joining.exam import LEAST_SHOTS
from router_models.outcomes.dataset import read_outcomes
from tests.fakes.deployment import write_config
from tests.fakes.kept import keep as keep_all


def record(name: str, **changes: Any) -> dict[str, Any]:
    """Of a request that was answered, and whose text was kept."""
    known = {"time": 100.0, "request_id": name, "key": "tester", "decision_id": name, "operation": "chat"}
    end = {"outcome": "ok", "model": "small", "cost_usd": 0.001, "output_tokens": 8}
    asked = {"messages": [{"role": "user", "content": f"What is {name}?"}], "asked": {"model": "small"}}
    return {**known, **asked, "end": end} | changes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, {"small": "http://127.0.0.1:9"})


def keep(config: Path, *records: dict[str, Any], score: float = 1.0) -> None:
    """In the journal, each of them rated."""
    ended = [
        Ended(number, number, one["time"], one["key"], one["decision_id"], 0.0, json.dumps(one).encode())
        for number, one in enumerate(records, start=1)
    ]
    rated = [
        Feedback(len(ended) + number, 101.0, one.key_id, str(one.decision_id), json.dumps({"score": score}).encode())
        for number, one in enumerate(ended, start=1)
    ]
    keep_all(config, ended, rated)


def export(config: Path, *words: str) -> str:
    """What it prints."""
    folder = str(config.parent / "rated")
    done = CliRunner().invoke(journal, ["export", "--config", str(config), "--outcomes", folder, *words])
    if done.exception:
        raise done.exception
    return done.stdout


def test_a_dataset_is_of_the_tenant_that_is_named(config: Path) -> None:
    keep(config, record("a", tenant="acme"), record("b", tenant="globex"), record("c"))
    for tenant, names in (("acme", ["a"]), ("-", ["c"])):
        told = json.loads(export(config, "--tenant", tenant, "--outcomes", str(config.parent / tenant), "--json"))

        assert told["requests"] == told["rated"] == 1
        assert read_outcomes(config.parent / tenant).outcomes["prompt_id"].to_pylist() == names


def test_whose_prompts_would_be_mixed_is_said(config: Path) -> None:
    keep(config, record("a", tenant="acme"), record("b", tenant="globex"))

    with pytest.raises(UsageError, match="of several tenants: acme, globex"):
        export(config)
    assert json.loads(export(config, "--all-tenants", "--json"))["rated"] == 2
    with pytest.raises(UsageError, match="exclude each other"):
        export(config, "--all-tenants", "--tenant", "acme")


def test_what_is_kept_of_earlier_exports_is_said(config: Path) -> None:
    keep(config, record("a"))
    export(config)

    assert "Kept 1 of earlier exports" in export(config, "--since", "2026-01-01")
    assert read_outcomes(config.parent / "rated").outcomes["prompt_id"].to_pylist() == ["a"]


def test_what_is_left_out_and_what_comes_next_is_said(config: Path) -> None:
    folder = config.parent / "rated"
    silent = {name: value for name, value in record("d").items() if name != "messages"}
    large = {"outcome": "ok", "model": "large"}
    keep(config, record("a"), record("b"), record("c", end=large), silent, record("e", messages=None))

    assert export(config) == (
        "5 requests, 5 of them rated\n"
        f"Not in {folder}: 1, for their keys keep no text; 1, for their prompts have more than 32,000 characters\n"
        "Which model answered 3 of them is not recorded: it is taken for what has its name now\n"
        f"{folder} has different rated prompts: 2 of small, 1 of large\n"
        f"Next: thalamus onboard MODEL --outcomes {folder} --artifact ARTIFACT --output NEW, with {LEAST_SHOTS} of the "
        f"model that joins; thalamus train --base ARTIFACT --data {folder} --output NEW, with {LEAST_PROMPTS} of each "
        f"model for lengths; for whom to choose it needs {LEAST_PROMPTS} that {LEAST_MODELS} models answered: thalamus "
        f"collect --prompts {folder} asks them\n"
    )


def test_where_nothing_was_rated_there_is_nothing_to_learn_from(config: Path) -> None:
    keep(config)

    assert (
        export(config).splitlines()[1].startswith(f"{config.parent / 'rated'} has no rated prompts. Next: have answers")
    )


def test_of_a_table_only_its_rows_are_said(config: Path) -> None:
    keep(config, record("a"))
    done = CliRunner().invoke(
        journal, ["export", "--config", str(config), "--parquet", str(config.parent / "all.parquet")]
    )

    assert done.stdout == "1 requests, 1 of them rated\n"


def test_a_table_that_is_not_finished_leaves_nothing_and_what_was_there(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = config.parent / "all.parquet"

    def exported() -> BaseException | None:
        return CliRunner().invoke(journal, ["export", "--config", str(config), "--parquet", str(table)]).exception

    assert isinstance(exported(), UsageError)  # there is no journal
    assert list(config.parent.glob("all.*")) == []

    keep(config, record("a"))
    table.write_text("before")
    monkeypatch.setattr(SqliteJournal, "after", Mock(side_effect=KeyboardInterrupt))
    assert isinstance(exported(), SystemExit)
    assert [one.name for one in config.parent.glob("all.*")] == ["all.parquet"]
    assert table.read_text() == "before"
