"""`thalamus journal`: keys go by their names as well as by their ids, and explained decisions are told from answers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.journal import journal
from app.cli.keys import keys
from app.store.journal.kept import Ended
from tests.fakes.deployment import write_config
from tests.fakes.kept import keep

FORMER = "gone"
"""A key that is no longer in the configuration."""


def thalamus(*words: str) -> Result:
    return CliRunner().invoke(journal, [*words])


ASKED = {
    "asked": {"limits": {"max_cost_usd": 1}},
    "excluded": [{"model": "large", "constraint": "max_size_b"}],
    "estimates": {
        "model": ["small"],
        "quality": [0.5],
        "cost_usd": [0.1],
        "output_tokens": [3.0],
        "latency_s": [0.2],
    },
}


def record(key_id: str, operation: str) -> bytes:
    model = None if operation == "explain" else "small"
    known = {"time": time.time(), "request_id": "r", "key": key_id, "operation": operation, "profile": "default"}
    return json.dumps(
        {**known, **ASKED, "end": {"outcome": "ok", "model": model, "cost_usd": model and 0.001}}
    ).encode()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("journal"), {"small": "http://127.0.0.1:9"})


@pytest.fixture(scope="module")
def alice(config: Path) -> str:
    """The id of her key: it asked for two answers and an explanation. Two others asked for an answer each."""
    made = CliRunner().invoke(keys, ["create", "alice", "--json", "--config", str(config)])
    key_id: str = json.loads(made.stdout)["id"]
    asked = [(key_id, "chat"), ("tester", "chat"), (key_id, "explain"), (key_id, "chat"), (FORMER, "chat")]
    ended = [
        Ended(number, number, time.time(), key, None, 0.0, record(key, operation))
        for number, (key, operation) in enumerate(asked, start=1)
    ]
    keep(config, ended)
    return key_id


def tail(config: Path, *words: str) -> list[str]:
    return thalamus("tail", "--no-follow", *words, "--config", str(config)).stdout.splitlines()


def test_a_key_goes_by_its_name_or_its_id(config: Path, alice: str) -> None:
    assert len(tail(config, "--key", "alice")) == 3
    assert tail(config, "--key", alice) == tail(config, "--key", "alice")
    assert len(tail(config, "--key", "tester")) == len(tail(config, "--key", FORMER)) == 1
    summed = thalamus("sum", "--key", "alice", "--json", "--config", str(config))
    assert list(json.loads(summed.stdout)["sums"]) == [alice]


@pytest.mark.parametrize("command", [("tail", "--no-follow"), ("sum",)])
def test_a_key_that_never_was_is_said(config: Path, alice: str, command: tuple[str, ...]) -> None:
    done = thalamus(*command, "--key", alice.swapcase(), "--config", str(config))

    assert done.exit_code == 2
    assert f"no key '{alice.swapcase()}'" in done.stderr


def test_names_stand_beside_ids(config: Path, alice: str) -> None:
    assert f" {alice} (alice) " in tail(config, "--key", "alice")[0]
    assert " tester - > " in tail(config, "--key", "tester")[0]
    assert json.loads(tail(config, "--key", "alice", "--json")[0])["key_name"] == "alice"
    assert f"{alice} (alice)" in thalamus("sum", "--config", str(config)).stdout
    assert json.loads(thalamus("sum", "--json", "--config", str(config)).stdout)["names"] == {alice: "alice"}


def test_what_is_an_object_in_a_record_is_one_in_json(config: Path, alice: str) -> None:
    (row,) = [json.loads(line) for line in tail(config, "--key", FORMER, "--json")]
    assert (row["asked"], row["excluded"], row["estimates"]) == (ASKED["asked"], ASKED["excluded"], ASKED["estimates"])


def test_explained_decisions_are_told_from_answers(config: Path, alice: str) -> None:
    assert [" explained " in line for line in tail(config, "--key", alice)] == [False, True, False]
    assert len(tail(config, "--key", alice, "--outcome", "ok")) == 2
    by_key, by_outcome = (
        json.loads(thalamus("sum", "--by", by, "--json", "--config", str(config)).stdout)["sums"]
        for by in ("key", "outcome")
    )
    assert (by_key[alice]["requests"], by_key[alice]["explained"]) == (2, 1)
    assert {outcome: (one["requests"], one["explained"]) for outcome, one in by_outcome.items()} == {
        "ok": (4, 0),
        "explained": (0, 1),
    }
