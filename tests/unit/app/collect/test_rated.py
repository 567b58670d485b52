"""Rated requests as an outcomes dataset: only those that can be learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.cli import complaint_of
from app.collect.rated import Written, refuse_foreign, write_rated
from app.errors import UsageError
from app.store.journal.flat import COLUMNS
from router_models.outcomes.dataset import OutcomesDataset, read_outcomes, write_outcomes
from tests.fakes.world import model

COLLECTED = OutcomesDataset(
    pa.table({"prompt_id": ["a", "b"], "prompt": ["One?", "Two?"], "dataset": ["journal", "mine"]}),
    pa.table({"prompt_id": ["a"], "model": ["small"], "score": [1.0]}),
)

SEVERAL = '{"choices": 4, "prompts": 1}'


def row(name: str, messages: list[dict[str, Any]] | None, score: float | None = 1.0) -> dict[str, Any]:
    kept = None if messages is None else json.dumps(messages)
    known = {
        "decision_id": name,
        "model": "small",
        "score": score,
        "messages": kept,
        "operation": "chat",
        "outcome": "ok",
        "served_as": "small",
        "asked": "{}",
        "keeps_text": messages is not None,
    }
    return dict.fromkeys(COLUMNS) | known


def user(content: object) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]


@pytest.mark.parametrize("outcome", ["upstream_broken", "cancelled", None])
def test_a_rating_of_an_answer_that_broke_is_left_out_and_counted(outcome: str | None, tmp_path: Path) -> None:
    rows = [row("a", user("One?")), row("b", user("Two?"), score=0.0) | {"outcome": outcome}]

    assert write_rated(tmp_path, rows) == Written(2, {"broken": 1})
    assert read_outcomes(tmp_path).outcomes["prompt_id"].to_pylist() == ["a"]


@pytest.mark.parametrize(
    ("asked", "max_tokens", "tokens", "told"),
    [
        ({}, None, 400, 400),
        ({"choices": 4, "prompts": 1}, None, 400, 100),
        ({"choices": 4, "prompts": 1}, 100, 399, 100),
        ({"choices": 4, "prompts": 1}, 100, 400, None),
        ({}, 16, 16, None),
        ({}, 17, 16, 16),
        ({}, 16, None, None),
    ],
)
def test_length_is_that_of_one_whole_answer(
    asked: dict[str, int], max_tokens: int | None, tokens: int | None, told: int | None, tmp_path: Path
) -> None:
    more = {"asked": json.dumps(asked), "max_tokens": max_tokens, "output_tokens": tokens}

    write_rated(tmp_path, [row("a", user("One?")) | more])

    assert read_outcomes(tmp_path).outcomes["output_tokens"].to_pylist() == [told]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, 0.4),
        ({"asked": SEVERAL}, 0.16),
        # The gateway takes no more than it held for a request.
        ({"asked": SEVERAL, "cost_usd": 0.2}, 0.08),
        ({"asked": SEVERAL, "cached_input_tokens": 200}, 0.16),
        ({"asked": SEVERAL, "output_tokens": 0}, 0.4),
        ({"asked": SEVERAL, "output_tokens": None}, None),
        ({"asked": SEVERAL, "cost_usd": None}, None),
        ({"asked": SEVERAL, "served_as": "org/other"}, None),
        ({"asked": SEVERAL, "served_as": None}, 0.16),
        ({"asked": SEVERAL, "model": "gone"}, None),
    ],
)
def test_one_answer_costs_its_prompt_and_its_share_of_what_was_written(
    changes: dict[str, Any], told: float | None, tmp_path: Path
) -> None:
    """A fifth was paid for the prompt, which was read once for four answers, as it is for one."""
    paid = {"input_tokens": 200, "output_tokens": 400, "cost_usd": 0.4}

    write_rated(tmp_path, [row("a", user("One?")) | paid | changes], [model("small")])

    (one,) = read_outcomes(tmp_path).outcomes.to_pylist()
    assert one["cost_usd"] == (None if told is None else pytest.approx(told))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("embeddings", {"operation": "embeddings"}),
        ("batches", {"operation": "completion", "asked": '{"choices": 2, "prompts": 2}'}),
        ("incomplete", {"asked": None, "messages": None, "keeps_text": False}),
        ("incomplete", {"operation": None}),
        ("without_text", {"messages": None, "keeps_text": False}),
        ("too_long", {"messages": None}),
        ("empty", {"messages": "[]"}),
        ("empty", {"messages": json.dumps(user(None))}),
        ("empty", {"messages": json.dumps(user(""))}),
        ("empty", {"messages": json.dumps(user([{"type": "image_url", "image_url": {"url": "x"}}]))}),
        ("pictures", {"asked": '{"needs": ["chat", "vision"]}'}),
    ],
)
def test_what_is_no_answer_to_one_text_that_is_known_is_left_out_and_counted(
    reason: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert write_rated(tmp_path, [row("a", user("One?")), row("b", user("Two?")) | changes]) == Written(2, {reason: 1})
    assert read_outcomes(tmp_path).outcomes["prompt_id"].to_pylist() == ["a"]


def test_prompts_of_several_tenants_are_no_dataset_unless_they_may_be(tmp_path: Path) -> None:
    """What one tenant's callers rated teaches nothing that answers another's."""
    rows = [row(name, user("One?")) | {"tenant": tenant} for name, tenant in (("a", "acme"), ("b", "globex"))]

    with pytest.raises(UsageError, match="several tenants: acme, globex; make a folder for each with --tenant NAME"):
        write_rated(tmp_path, rows)
    assert not list(tmp_path.iterdir())
    write_rated(tmp_path, rows, all_tenants=True)
    assert read_outcomes(tmp_path).prompts["tenant"].to_pylist() == ["acme", "globex"]


def test_keys_without_a_tenant_are_a_party_of_their_own(tmp_path: Path) -> None:
    rows = [row("a", user("One?")), row("b", user("Two?")) | {"tenant": "acme"}]

    with pytest.raises(UsageError, match=r"tenants: -, acme \(-: of keys without one\)"):
        write_rated(tmp_path, rows)


def test_a_tenant_of_whom_nothing_would_be_in_it_is_no_hindrance(tmp_path: Path) -> None:
    write_rated(tmp_path, [row("a", user("One?")) | {"tenant": "acme"}, row("b", None) | {"tenant": "globex"}])

    assert read_outcomes(tmp_path).prompts["tenant"].to_pylist() == ["acme"]


def test_what_an_artifact_calls_a_model_is_kept(tmp_path: Path) -> None:
    rated = row("a", user("One?")) | {"served_as": "org/small", "predicted_as": "small-it"}
    write_rated(tmp_path, [rated])

    assert read_outcomes(tmp_path).known_as(["small-it"]) == {"small": "small-it"}


def test_a_record_that_does_not_tell_is_taken_for_what_the_catalogue_says(tmp_path: Path) -> None:
    rated = row("a", user("One?")) | {"served_as": None}

    written = write_rated(tmp_path, [rated], [model("small", predicted_as="small-it")])

    assert written == Written(1, by_name=1)
    assert read_outcomes(tmp_path).known_as(["small-it"]) == {"small": "small-it"}


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        (("org/old", "old"), ("org/new", "new"), ("small@old", "old")),
        (("org/old", None), ("org/new", "new"), ("small@org/old", None)),
        (("org/old", "old"), ("org/old", "new"), ("small@old", "old")),
        (("org/old", None), ("org/old", "new"), ("small", "new")),
        (("org/old", "old"), ("org/old", None), ("small", None)),
        (("org/old", "old"), ("org/old-fp8", "old"), ("small", "old")),
        (("org/old", "old"), None, ("small", "old")),
    ],
)
def test_a_rating_is_that_of_the_model_that_answered(
    then: tuple[str, str | None], now: tuple[str, str | None] | None, told: tuple[str, str | None], tmp_path: Path
) -> None:
    rated = row("a", user("One?")) | dict(zip(("served_as", "predicted_as"), then, strict=True))
    catalog = [model("small", served_as=now[0], predicted_as=now[1])] if now else []

    assert write_rated(tmp_path, [rated], catalog) == Written(1)
    (one,) = read_outcomes(tmp_path).outcomes.to_pylist()
    assert (one["model"], one["predicted_as"]) == told


def test_of_models_that_shared_a_name_that_is_gone_the_last_has_it(tmp_path: Path) -> None:
    served = ({"served_as": f"org/{name}", "predicted_as": name} for name in ("old", "new"))
    rows = [row(name, user("One?")) | more for name, more in zip("ab", served, strict=True)]

    write_rated(tmp_path, rows)

    assert read_outcomes(tmp_path).known_as(["old", "new"]) == {"small@old": "old", "small": "new"}


def test_of_a_message_in_parts_the_text_is_the_prompt(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {}},
        {"type": "text", "text": "it?"},
    ]

    assert write_rated(tmp_path, [row("a", user(parts))]) == Written(1)
    assert read_outcomes(tmp_path).prompts["prompt"].to_pylist() == ["What is\nit?"]


@pytest.mark.parametrize("left", ["prompts.parquet", "outcomes.parquet", "journal.jsonl"])
def test_a_folder_with_anything_collected_is_no_place_for_an_export(left: str, tmp_path: Path) -> None:
    write_outcomes(tmp_path, COLLECTED)
    (tmp_path / "journal.jsonl").write_text('{"plan": {}}\n', encoding="utf-8")
    for file in tmp_path.iterdir():
        if file.name != left:
            file.unlink()

    with pytest.raises(UsageError, match=f"{tmp_path} holds a dataset that no export wrote; name another folder"):
        refuse_foreign(tmp_path)


def test_a_folder_that_nobody_can_write_to_is_named() -> None:
    """Which pyarrow does not: without a file's name an error is taken for a fault of ours."""
    with pytest.raises(OSError, match="No such file") as failed:
        write_rated(Path("/proc"), [row("a", user("One?"))])

    assert complaint_of(failed.value) == "/proc/prompts.parquet.part: No such file or directory; say where it is"


def test_an_earlier_export_may_be_written_again(tmp_path: Path) -> None:
    refuse_foreign(tmp_path / "new")
    write_rated(tmp_path, [row("a", user("One?"))])
    refuse_foreign(tmp_path)
    write_rated(tmp_path, [])
    refuse_foreign(tmp_path)


def test_what_the_journal_has_forgotten_stays_in_the_dataset(tmp_path: Path) -> None:
    served = {"served_as": "org/small", "predicted_as": "small-it", "tenant": "acme"}
    write_rated(tmp_path, [row("a", user("One?")) | served, row("b", user("Two?"), score=0.5) | served])
    before = read_outcomes(tmp_path)

    assert write_rated(tmp_path, []) == Written(0, kept=2)
    assert read_outcomes(tmp_path) == before
    assert write_rated(tmp_path, [row("c", user("Three?")) | served]) == Written(1, kept=2)
    assert read_outcomes(tmp_path).outcomes["prompt_id"].to_pylist() == ["a", "b", "c"]


def test_a_newer_rating_replaces_an_older_one(tmp_path: Path) -> None:
    write_rated(tmp_path, [row("a", user("One?")), row("b", user("Two?"))])

    assert write_rated(tmp_path, [row("b", user("Two?"), score=0.0)]) == Written(1, kept=1)
    assert read_outcomes(tmp_path).outcomes["score"].to_pylist() == [1.0, 0.0]


def test_what_is_now_known_to_be_of_no_use_goes(tmp_path: Path) -> None:
    write_rated(tmp_path, [row("a", user("One?"))])

    assert write_rated(tmp_path, [row("a", user("One?")) | {"outcome": "cancelled"}]) == Written(1, {"broken": 1})
    assert read_outcomes(tmp_path, may_be_empty=True).outcomes.num_rows == 0


def test_another_tenants_earlier_export_is_not_added_to(tmp_path: Path) -> None:
    write_rated(tmp_path, [row("a", user("One?")) | {"tenant": "acme"}])

    with pytest.raises(UsageError, match="several tenants: acme, globex"):
        write_rated(tmp_path, [row("b", user("Two?")) | {"tenant": "globex"}])


def test_a_name_that_is_another_models_by_now_is_so_in_what_was_exported_before(tmp_path: Path) -> None:
    then = row("a", user("One?")) | {"served_as": "org/old", "predicted_as": "old"}
    new = model("small", served_as="org/new", predicted_as="new")
    write_rated(tmp_path, [then], [model("small", served_as="org/old", predicted_as="old")])

    for _ in range(2):
        write_rated(tmp_path, [row("b", user("Two?")) | {"served_as": "org/new", "predicted_as": "new"}], [new])
        assert read_outcomes(tmp_path).known_as(["old", "new"]) == {"small@old": "old", "small": "new"}


def test_an_earlier_export_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    write_rated(tmp_path, [row("a", user("One?"))])
    (tmp_path / "outcomes.parquet").write_bytes(b"PAR1")

    with pytest.raises(UsageError, match=r"outcomes.parquet cannot be read .* name another folder with --outcomes"):
        write_rated(tmp_path, [row("b", user("Two?"))])


def test_an_export_that_was_stopped_between_its_files_is_written_again(tmp_path: Path) -> None:
    write_rated(tmp_path, [row("a", user("One?"))])
    (tmp_path / "outcomes.parquet").unlink()

    assert write_rated(tmp_path, [row("a", user("One?"))]) == Written(1)
