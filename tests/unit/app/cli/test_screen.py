"""Other people's words are shown as they are, and nothing of a table is cut."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from app.cli import screen
from app.cli.announced import announced
from app.cli.collect import _bars
from app.cli.collected import print_figures
from app.cli.explain import show
from app.cli.journal import journal
from app.collect.plan import Estimate
from app.routing.record import describe
from app.store.journal.kept import Ended
from tests.fakes.deployment import write_config
from tests.fakes.kept import keep
from tests.fakes.routing import llm, world_of

HOSTILE = "[bold]x[/nope] :rocket:"
LONG = "qwen2.5-72b-instruct-awq"


def estimate(model: str) -> Estimate:
    return Estimate(model, 1_000, 2_000_000, 3_000_000, 1.25, 123.4567)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "FILE_COLUMNS", 80)


def test_a_table_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    screen.console(stderr=True).print(announced("requests", [estimate(HOSTILE)]))

    assert HOSTILE in capsys.readouterr().err


def test_a_title_and_a_line_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    screen.console().print(screen.WholeTable("a", title="support[eu]", width=40))
    screen.console().print(HOSTILE)

    said = capsys.readouterr().out
    assert "support[eu]" in said
    assert HOSTILE in said


def test_bars_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.bars() as bar:
        bar(HOSTILE, 1)()
    plan = SimpleNamespace(targets=[SimpleNamespace(model="qwen[awq]"), SimpleNamespace(model="x[/y]")], prompts=[])
    with _bars(screen.console(stderr=True), cast(Any, plan), cast(Any, SimpleNamespace(replies={}))):
        pass

    said = capsys.readouterr().err
    assert all(name in said for name in (HOSTILE, "qwen[awq]", "x[/y]"))


def test_where_there_is_no_terminal_names_stay_whole_on_stderr_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    screen.console(stderr=True).print(announced("requests", [estimate(LONG)]))

    said = capsys.readouterr().err
    assert (LONG in said, "123.4567" in said) == (True, True)


def test_nothing_is_cut_where_it_is_narrow(narrow: None, capsys: pytest.CaptureFixture[str]) -> None:
    name, quality = "a-model-with-a-name-of-very-many-letters-awq", {"small": 0.5}
    show(describe(world_of(llm("small"), llm(name), quality=quality, seen=quality, order=("small",)).decide()))

    said = capsys.readouterr().out
    assert "…" not in said
    assert all(heading in said for heading in ("quality", "micro-USD", "seconds", "utility", "Pareto"))
    assert max(len(line) for line in said.splitlines()) <= 80


def test_names_are_whole_where_headings_can_make_room(narrow: None, capsys: pytest.CaptureFixture[str]) -> None:
    screen.console().print(announced("questions, at most", [estimate(LONG)]))
    print_figures([dict(zip("abcdefgh", (LONG, 1_000, 0, 0.81234, 12.34567, 1.2345, 345.6, 2.5), strict=True))])

    said = capsys.readouterr().out
    assert said.count(f"{LONG} ") == 2
    assert all(whole in said for whole in ("questions,", "2,000,000", "123.4567", "outcomes", "missing", "12.35"))


def record(key: str, model: str | None, cost_usd: float | None, **end: Any) -> bytes:
    ended = {"outcome": "ok", "model": model, "cost_usd": cost_usd, "input_tokens": 1_234_567, "output_tokens": 89_012}
    known = {"time": 100.0, "request_id": "r", "key": key, "tenant": key, "operation": "chat", "profile": "default"}
    return json.dumps({**known, "end": ended | end}).encode()


def journal_of(folder: Path, *records: bytes) -> Path:
    config = write_config(folder, {"small": "http://127.0.0.1:9"})
    ended = [Ended(number, number, 100.0, "key", None, 0.0, one) for number, one in enumerate(records, start=1)]
    keep(config, ended)
    return config


def summed(config: Path, *words: str) -> str:
    done = CliRunner().invoke(journal, ["sum", *words, "--config", str(config)])
    if done.exception:
        raise done.exception
    return done.stdout


def test_sums_show_names_money_and_headings_whole(narrow: None, tmp_path: Path) -> None:
    name = "3fK9aQ0xLmZt (alice)"
    said = summed(journal_of(tmp_path, record(name, "small", 1234.567891)))

    assert all(whole in said for whole in (name, "1234.567891", "1,234,567", "89,012", "requests"))
    assert not any(nothing in said for nothing in ("explained", "cached", "reconstructed", "unpriced"))


def test_sums_keep_money_whole_where_every_column_is_needed(narrow: None, tmp_path: Path) -> None:
    cached = {"cached_input_tokens": 1_234_567}
    said = summed(
        journal_of(
            tmp_path,
            record("a-key-with-a-long-name", "small", 1234.567891, reconstructed=True, **cached),
            record("a-key-with-a-long-name", "small", None),
        )
    )

    assert said.count("1234.567891") == 2
    assert "…" not in said


def test_sums_show_names_as_they_are(tmp_path: Path) -> None:
    config = journal_of(tmp_path, record(HOSTILE, "small", 0.1))

    assert HOSTILE in summed(config)
    assert HOSTILE in summed(config, "--by", "tenant")


def test_a_cost_that_nobody_knows_is_not_nothing(tmp_path: Path) -> None:
    config = journal_of(
        tmp_path,
        record("free", "small", 0.0),
        record("unknown", "other", None),
        record("both", "small", 0.25),
        record("both", "other", None),
        record("refused", None, None, outcome="model_not_found"),
    )

    sums = json.loads(summed(config, "--json"))["sums"]
    costs = {key: (one["cost_usd"], one["unpriced"]) for key, one in sums.items()}
    assert costs == {"free": (0.0, 0), "unknown": (None, 1), "both": (0.25, 1), "refused": (None, 0)}
    rows = {cells[0]: cells[-2:] for line in summed(config).splitlines() if (cells := line.replace("│", " ").split())}
    assert (rows["free"], rows["unknown"], rows["both"]) == (["0.000000", "0"], ["-", "1"], ["0.250000", "1"])
