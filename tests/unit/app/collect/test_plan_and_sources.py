"""Plans, prompt sources and targets: what would be sent, to whom, at what price."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.collect.graders import Command, with_graders
from app.collect.importers import DEFAULT_MAX_TOKENS, once, read_prompts
from app.collect.plan import Plan, Prompt, Target, chat_url, targets_at, targets_from
from app.domain.models import Backend, Card, Catalog, Model, TokenPrice
from app.errors import UsageError

PROMPT = Prompt("p1", "What is 2 + 3?", "number", "5", max_tokens=100)
PRICED = Target("m", "served-m", "pool", ("http://127.0.0.1:1/v1/chat/completions",), None, TokenPrice(1.0, 2.0))
CATALOG = Catalog(
    (
        Model("small", "org/small", "pool", Card(2048), TokenPrice(1.0, 2.0)),
        Model("paid", "paid-1", "cloud", Card(8192)),
    ),
    (
        Backend("pool", "vllm", ("http://127.0.0.1:8101", "http://127.0.0.1:8102")),
        Backend("cloud", "openai", ("https://api.example.com/v1/",), key_env="PAID_KEY", rename={"max_tokens": "max"}),
    ),
)


def jsonl(tmp_path: Path, *rows: object) -> str:
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_the_estimate_bounds_what_a_request_can_cost() -> None:
    plan = Plan((PROMPT, replace(PROMPT, prompt_id="p2")), (PRICED,))

    first, later = plan.estimates([]), plan.estimates([("p1", "m")])

    assert (first[0].requests, first[0].max_output_tokens) == (2, 200)
    assert later[0].requests == 1
    assert later[0].max_usd is not None
    assert 200e-6 < later[0].max_usd <= PRICED.bound_usd(PROMPT)


@pytest.mark.parametrize(
    ("messages", "can"),
    [
        ([], True),
        ([{"role": "assistant", "content": ""}], True),
        ([{"role": "tool", "content": "5", "tool_call_id": "c1"}], True),
        ([{"role": "tool", "content": "5"}], False),
        ([{"role": "tools", "content": "add subtract"}], False),
    ],
)
def test_a_conversation_of_whose_tools_only_names_and_results_are_known_cannot_be_sent(
    messages: list[dict[str, str]], can: bool
) -> None:
    sent = ({"role": "user", "content": "What is 2 + 3?"}, *messages)

    assert (PROMPT.can_be_sent, replace(PROMPT, messages=sent).can_be_sent) == (True, can)


def test_what_is_announced_at_most_holds_where_every_byte_is_a_token() -> None:
    """As in some tokenizers every digit is."""
    digits = replace(PROMPT, prompt="0123456789" * 70)

    (estimate,) = Plan((digits, replace(digits, prompt_id="p2")), (PRICED,)).estimates([])

    charge = PRICED.cost_usd(2 * 700, 2 * digits.max_tokens)
    assert estimate.max_usd is not None
    assert estimate.about_usd is not None
    assert charge is not None
    assert estimate.about_usd < charge <= estimate.max_usd


def test_a_model_without_price_has_no_cost_rather_than_none_to_pay() -> None:
    free = replace(PRICED, price=None)

    assert free.cost_usd(10, 10) is None
    assert Plan((PROMPT,), (free,)).estimates([])[0].max_usd is None
    assert Plan((PROMPT,), (free,)).estimates([])[0].about_usd is None
    assert PRICED.cost_usd(None, 10) is None


def test_the_plan_is_known_by_what_changes_answers_only() -> None:
    header = Plan((PROMPT,), (PRICED,)).header()

    assert Plan((replace(PROMPT, grader="exact", reference="6"),), (PRICED,)).header() == header
    assert Plan((PROMPT,), (replace(PRICED, urls=("http://h/v1",), price=None),)).header() == header
    assert Plan((replace(PROMPT, max_tokens=7),), (PRICED,)).header() != header
    assert Plan((PROMPT,), (replace(PRICED, served_as="other"),)).header() != header


@pytest.mark.parametrize(
    ("prompts", "targets", "words"),
    [
        ((), (PRICED,), "nothing to ask"),
        ((PROMPT,), (), "nothing to ask"),
        ((PROMPT, PROMPT), (PRICED,), "prompt_id 'p1' occurs 2 times"),
        ((PROMPT,), (PRICED, PRICED), "model 'm' occurs 2 times"),
    ],
)
def test_a_plan_needs_distinct_prompts_and_models(
    prompts: tuple[Prompt, ...], targets: tuple[Target, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Plan(prompts, targets)


def test_a_line_of_jsonl_is_a_prompt(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rows = (
        {"prompt": "2+2?", "reference": 4, "grader": "number", "task": "sums", "max_tokens": 8, "topic": "maths"},
        {"prompt_id": "chat", "messages": messages},
        "",
    )

    sums, chat = read_prompts(jsonl(tmp_path, *rows))

    assert (sums.prompt, sums.reference, sums.grader, sums.task, sums.max_tokens) == ("2+2?", "4", "number", "sums", 8)
    assert (sums.dataset, sums.extra, len(sums.prompt_id)) == ("set", {"topic": "maths"}, 16)
    assert (chat.prompt_id, chat.prompt, chat.max_tokens) == ("chat", "Hi", DEFAULT_MAX_TOKENS)
    assert chat.to_send() == messages
    assert sums.to_send() == [{"role": "user", "content": "2+2?"}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{nonsense", "line 2: expected one JSON object a line; .* at character 2"),
        ("[]", "line 2: expected one JSON object a line"),
        ("prompt,reference", "line 2: expected one JSON object a line"),
        ({"reference": "x"}, 'line 2: needs "prompt"'),
        ({"prompt": ""}, 'line 2: needs "prompt"'),
        ({"prompt": "x", "max_tokens": 0}, '"max_tokens" must be a whole number'),
        ({"prompt": "x", "max_tokens": True}, '"max_tokens" must be a whole number'),
        ({"prompt": "x", "max_tokens": 3_000_000_000}, '"max_tokens" must be a whole number from 1 to 2147483647'),
        ({"prompt": "x", "prompt_id": "\ud800"}, '"prompt_id" must be a text that UTF-8 has'),
        ({"prompt": "x", "grader": 3}, '"grader" must be a text'),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "user"}]}, '"role" and "content"'),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, row: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_prompts(jsonl(tmp_path, {"prompt": "good"}, row))


def test_a_prompt_that_comes_again_counts_once(tmp_path: Path) -> None:
    hi, bye = {"prompt": "hi", "reference": "ok", "at": 1}, {"prompt": "bye"}
    own = [{**hi, "prompt_id": name} for name in ("one", "two")]

    kept = once(read_prompts(jsonl(tmp_path, hi, bye, {**hi, "at": 2}, bye, *own)))

    assert [(prompt.prompt, prompt.extra) for prompt in kept[:2]] == [("hi", {"at": 1}), ("bye", {})]
    assert [prompt.prompt_id for prompt in kept[2:]] == ["one", "two"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"reference": "no"}, "the same prompt with another reference; leave one"),
        ({"grader": "regex"}, "the same prompt with another grader; leave one"),
        ({"max_tokens": 9}, "the same prompt with another max_tokens; leave one"),
        ({"split": "test"}, "the same prompt with another split; leave one"),
        ({"prompt": "bye"}, "two prompts have the prompt_id 'p'; give each its own"),
    ],
)
def test_what_contradicts_itself_is_refused_with_both_lines(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    one = {"prompt_id": "p", "prompt": "hi", "grader": "exact", "reference": "ok", "max_tokens": 8, "split": "train"}
    source = jsonl(tmp_path, one, {"prompt": "between"}, {**one, **row})

    with pytest.raises(UsageError, match=f"{source}, line 1 and {source}, line 3: {words}"):
        once(read_prompts(source))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "hi"}\r\n{"prompt": "bye"}\r\n')

    assert [prompt.prompt for prompt in read_prompts(str(tmp_path / "set.jsonl"))] == ["hi", "bye"]


def test_families_are_drawn_by_seed_and_count() -> None:
    prompts = read_prompts("families:sql,dates@seed=4,count=6")

    assert [prompt.task for prompt in prompts] == ["sql"] * 6 + ["dates"] * 6
    assert {prompt.split for prompt in prompts} == {"train"}
    assert {prompt.split for prompt in read_prompts("families:all@seed=4,count=3,wording=unseen")} == {"unseen"}
    assert {prompt.split for prompt in read_prompts("families:sql@seed=4,count=3,split=test")} == {"test"}
    assert prompts[0].extra == {"skill": "sql", "level": 1, "wording": "seen"}
    assert prompts == read_prompts("families:sql,dates@seed=4,count=6")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("families:sql", "say which items"),
        ("families:sql@seed=x,count=3", "say which items"),
        ("families:cooking@seed=1,count=3", "unknown family 'cooking'"),
        ("families:sql@seed=1,count=3,wording=odd", "wording=seen|unseen"),
        ("families:sql@seed=1,count=0", "wording=seen|unseen"),
        ("families:sql@seed=1,count=1,colour=red", "wording=seen|unseen"),
        ("/nowhere/at/all", "no prompts at"),
    ],
)
def test_a_source_that_cannot_be_read_says_what_one_looks_like(source: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("|", r"\|")):
        read_prompts(source)


@pytest.mark.parametrize(
    ("prompt", "default", "words"),
    [
        (replace(PROMPT, grader=None), None, "names no grader"),
        (replace(PROMPT, grader="poetry"), None, "no grader 'poetry'"),
        (replace(PROMPT, grader="command"), None, "give --grader-command"),
        (replace(PROMPT, reference=None), None, "has no reference"),
        (replace(PROMPT, reference="many"), None, "prompt 'p1': not a number"),
        (replace(PROMPT, grader="python", reference='{"variable": "x"}'), None, "prompt 'p1': the reference must"),
    ],
)
def test_graders_are_checked_before_anything_is_sent(prompt: Prompt, default: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_graders([PROMPT, prompt], default, None)


def test_a_default_grader_is_for_prompts_that_name_none() -> None:
    unnamed = replace(PROMPT, prompt_id="p2", grader=None, reference=None)

    graded = with_graders([PROMPT, unnamed], "command", Command(("true",)))

    assert [prompt.grader for prompt in graded] == ["number", "command"]


def test_targets_come_from_the_catalogue_with_price_key_and_replicas() -> None:
    small, paid = targets_from(CATALOG, [], {"PAID_KEY": "s"})

    assert small.urls == ("http://127.0.0.1:8101/v1/chat/completions", "http://127.0.0.1:8102/v1/chat/completions")
    assert (small.served_as, small.price, small.key) == ("org/small", TokenPrice(1.0, 2.0), None)
    assert (paid.urls, paid.key, paid.rename) == (
        ("https://api.example.com/v1/chat/completions",),
        "s",
        {"max_tokens": "max"},
    )


def test_unknown_models_and_missing_keys_are_named() -> None:
    with pytest.raises(UsageError, match="has no model 'big'; it has small, paid"):
        targets_from(CATALOG, ["big"], {})
    with pytest.raises(UsageError, match="PAID_KEY, which is not set"):
        targets_from(CATALOG, ["paid"], {})
    with pytest.raises(UsageError, match="--url needs --models"):
        targets_at("http://127.0.0.1:1", [], None)


def test_a_ca_file_or_a_key_that_cannot_be_used_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    there = replace(CATALOG, backends=tuple(replace(one, ca_file=str(tmp_path / "ca")) for one in CATALOG.backends))
    with pytest.raises(UsageError, match=f"its ca_file {tmp_path}/ca does not exist"):
        targets_from(there, ["small"], {})
    with pytest.raises(UsageError, match="no header can carry its key"):
        targets_from(CATALOG, ["paid"], {"PAID_KEY": "s\n"})
    with pytest.raises(UsageError, match="no header can carry its key"):
        targets_at("http://h", ["m"], "s\n")


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
        ("https://h/openai/v1", "https://h/openai/v1/chat/completions"),
    ],
)
def test_an_address_may_end_in_v1_or_not(url: str, full: str) -> None:
    assert chat_url(url) == full


def test_only_http_addresses_are_asked() -> None:
    with pytest.raises(UsageError, match="not an http"):
        chat_url("file:///etc/passwd")


@pytest.mark.parametrize("url", ["http://me:hunter2@h/v1", "http://h/v1?key=hunter2", "http://h/v1#hunter2"])
def test_an_address_with_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="leave out user, password, query and fragment") as caught:
        targets_at(url, ["m"], None)
    assert "hunter2" not in str(caught.value)


def test_a_dataset_folder_gives_its_prompts_again_with_extra_columns(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "this?"}]
    rows = {
        "prompt_id": ["p1", "p2"],
        "prompt": ["Hi", "What is this?"],
        "messages": [None, json.dumps([{"role": "user", "content": parts}])],
        "reference": ["x", None],
        "grader": ["exact", None],
        "task": ["greeting", None],
        "level": [3, None],
    }
    pq.write_table(pa.table(rows), tmp_path / "prompts.parquet")

    first, second = read_prompts(str(tmp_path))

    assert (first.prompt_id, first.reference, first.task, first.extra) == ("p1", "x", "greeting", {"level": 3})
    assert second.to_send() == [{"role": "user", "content": parts}]
    assert (second.grader, second.task, second.max_tokens) == (None, "", DEFAULT_MAX_TOKENS)


def test_a_folder_without_prompts_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*prompts\.parquet"):
        read_prompts(str(tmp_path))
