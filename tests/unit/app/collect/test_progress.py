"""The log of a collection: nothing that was noted is lost, and a damaged or foreign one is not taken for ours."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.collect.progress import Progress, Reply, replies_in, spent_in
from app.errors import UsageError
from tests.fakes.full_disk import files_of_at_most

HEADER: dict[str, Any] = {"form": 2, "prompts": 2, "prompts_sha256": "a", "models": {"m": "m-1", "n": "n-1"}}
REPLY = Reply("p1", "m", "five\n\u2028 \ud800", "stop", 10, 4, 0.25, -0.5)


def test_replies_failures_and_scores_come_back(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_reply(REPLY)
        progress.add_failure(("p2", "m"), "status 500", lost_usd=0.25)
        progress.add_score(("p1", "m"), "judge", 0.75)

    with Progress(tmp_path, HEADER) as again:
        assert again.replies == {("p1", "m"): REPLY}
        assert again.failures == {("p2", "m"): "status 500"}
        assert again.scores == {("p1", "m", "judge"): 0.75}
        assert again.other_usd == 0.25


def test_a_failure_that_was_answered_later_is_no_failure(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_failure(("p1", "m"), "status 503", lost_usd=0.0)
        progress.add_reply(REPLY)

    with Progress(tmp_path, HEADER) as again:
        assert again.failures == {}


def test_a_request_that_was_stopped_is_paid_for_and_no_failure(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_failure(("p1", "m"), "status 503", lost_usd=0.25)
        progress.add_stopped(("p1", "m"), lost_usd=0.5)
        progress.add_stopped(("p2", "m"), lost_usd=0.5)
        assert (progress.failures, progress.other_usd) == ({}, 1.25)

    with Progress(tmp_path, HEADER) as again:
        assert (again.failures, again.other_usd) == ({}, 1.25)


def test_what_a_log_has_cost_is_known_without_its_plan(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_earlier(4.0)
        progress.add_reply(REPLY, usd=0.5)
        progress.add_failure(("p2", "m"), "status 503", lost_usd=0.25)
        assert progress.other_usd == 4.25

    with Progress(tmp_path, HEADER) as again:
        assert (again.other_usd, again.failures) == (4.25, {("p2", "m"): "status 503"})
    assert spent_in(tmp_path) == 4.75
    assert spent_in(tmp_path / "elsewhere") == 0.0


@pytest.mark.parametrize("kept_bytes", [1, 20, -1])
def test_a_torn_last_line_is_forgotten_and_the_rest_kept(tmp_path: Path, kept_bytes: int) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_reply(REPLY)
        whole = progress.path.stat().st_size
        progress.add_reply(replace(REPLY, prompt_id="p2"))
    content = progress.path.read_bytes()
    progress.path.write_bytes(content[: whole + kept_bytes] if kept_bytes > 0 else content[:kept_bytes])

    with Progress(tmp_path, HEADER) as again:
        assert list(again.replies) == [("p1", "m")]
        again.add_reply(replace(REPLY, prompt_id="p2"))
    with Progress(tmp_path, HEADER) as third:
        assert list(third.replies) == [("p1", "m"), ("p2", "m")]


def test_a_full_disk_is_named_and_tears_no_line(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_reply(REPLY)
        with (
            files_of_at_most(progress.path.stat().st_size + 20),
            pytest.raises(OSError, match=r"journal\.jsonl"),
        ):
            progress.add_reply(replace(REPLY, prompt_id="p2"))
        assert list(progress.replies) == [("p1", "m")]
        progress.add_reply(replace(REPLY, prompt_id="p3"))

    with Progress(tmp_path, HEADER) as again:
        assert list(again.replies) == [("p1", "m"), ("p3", "m")]


def test_a_torn_first_line_starts_afresh(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b'{"plan": {"fo')

    with Progress(tmp_path, HEADER) as progress:
        assert progress.replies == {}


@pytest.mark.parametrize(
    "content", [b'{"event": "login"}\n', b'{"plan": "rest"}\n', b"[]\n", b"Dear diary", b"one\ntwo\ntorn", b"\0\0\n"]
)
def test_a_foreign_file_of_that_name_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(content)

    with pytest.raises(UsageError, match=r"journal\.jsonl does not begin with a plan; choose another --output"):
        Progress(tmp_path, HEADER)

    assert (tmp_path / "journal.jsonl").read_bytes() == content


@pytest.mark.parametrize("line", ["\0\0\0", '{"reply": {"prompt_id": "p9"}}', '{"score": 1}', "[]"])
def test_damage_in_the_middle_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_reply(REPLY)
    with progress.path.open("a") as file:
        file.write(line + "\n")

    with pytest.raises(UsageError, match="line 3 is damaged"):
        Progress(tmp_path, HEADER)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts_sha256": "z"}, "the prompts differ"),
        ({"prompts_sha256": "z", "models": {"m": "m-1"}}, "over m, n; the prompts differ"),
        ({"models": {"m": "m-1", "o": "o-1"}}, "over m, n; the models differ"),
        ({"models": {"m": "m-2"}}, "the models differ"),
    ],
)
def test_another_plan_in_the_same_folder_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_reply(REPLY)

    with pytest.raises(UsageError, match=words):
        Progress(tmp_path, {**HEADER, **change})


def test_a_model_may_be_left_out_and_come_back_and_what_it_cost_counts(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER) as progress:
        progress.add_reply(REPLY, usd=0.5)
        progress.add_reply(replace(REPLY, model="n"), usd=0.25)
        progress.add_failure(("p2", "n"), "status 500", lost_usd=1.0)

    with Progress(tmp_path, {**HEADER, "models": {"m": "m-1"}}) as fewer:
        assert (list(fewer.replies), fewer.failures, fewer.left_out) == ([("p1", "m")], {}, {"n"})
        assert fewer.other_usd == 1.25
        fewer.add_reply(replace(REPLY, prompt_id="p2"), usd=0.5)

    with Progress(tmp_path, HEADER) as all_again:
        assert list(all_again.replies) == [("p1", "m"), ("p1", "n"), ("p2", "m")]
        assert all_again.failures == {("p2", "n"): "status 500"}
        assert (all_again.other_usd, all_again.left_out) == (1.0, set())


def test_a_plan_under_which_nothing_was_asked_may_change(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER):
        pass
    with Progress(tmp_path, {**HEADER, "prompts_sha256": "z"}) as progress:
        progress.add_reply(REPLY)

    with pytest.raises(UsageError, match="the prompts differ"):
        Progress(tmp_path, HEADER)
    assert [reply.prompt_id for reply in replies_in(tmp_path)] == ["p1"]
    assert replies_in(tmp_path / "elsewhere") == []


def test_a_model_left_out_before_anything_was_asked_may_come_back(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER):
        pass
    with Progress(tmp_path, {**HEADER, "models": {"m": "m-1"}}) as fewer:
        fewer.add_reply(REPLY)

    with Progress(tmp_path, HEADER) as all_again:
        assert list(all_again.replies) == [("p1", "m")]


def test_two_collections_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with Progress(tmp_path, HEADER), pytest.raises(UsageError, match="another collection is writing"):
        Progress(tmp_path, HEADER)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems are."""

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)

    with pytest.raises(UsageError, match=r"keeps no locks \(No locks available\); use a local folder"):
        Progress(tmp_path, HEADER)


def test_a_folder_with_a_finished_dataset_of_other_origin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "outcomes.parquet").write_bytes(b"")

    with pytest.raises(UsageError, match="already holds a dataset"):
        Progress(tmp_path, HEADER)
