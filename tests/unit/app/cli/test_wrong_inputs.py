"""What a hurried operator gives to `thalamus` by mistake is answered in a line that says what to change."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from app.cli import main
from router_models.outcomes.dataset import OutcomesDataset, write_outcomes
from tests.fakes.deployment import write_config


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, and with things that stand where something else is expected."""
    write_config(tmp_path, {"small": "http://127.0.0.1:9"})
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "text").write_text("just a text\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "tiny.yaml").write_text("name: tiny-v1\ndata: [nowhere]\noutput: out\nabout: Tiny.\nlicences: [MIT]\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "2 + 2?", "reference": "4", "grader": "exact"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


COLLECT = "collect --prompts prompts.jsonl --url http://127.0.0.1:9 --models m --yes"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"{COLLECT} --output text", "text: File exists; name a folder, or a path where nothing is yet"),
        (f"{COLLECT} --output text/deeper", "text/deeper: Not a directory; name a folder"),
        (f"{COLLECT} --output out --grader-command 'x", "--grader-command: expected a command as a shell reads it"),
        *(
            (f"{COLLECT} --output out --grader-command {word}", f"--grader-command: there is no program {word} to run")
            for word in ("nosuchprogram", "./text", "/no/such/program")
        ),
        *(
            (f"collect --prompts prompts.jsonl --url {url} --models m --yes --output out", "not an http(s) address: ")
            for url in ("127.0.0.1:9", "http://", "http://[bad", "http://h:x", "http://h:99999", f"http://{'x' * 64}")
        ),
        *(
            (f"traffic --seconds 0.1 --key-env PATH --url {url}", f"--url '{url}': write an address such as http://")
            for url in ("", "nowhere", "http://", "http://[bad", "http://h:x", "http://h:99999", "http://h/path")
        ),
        (f"traffic --seconds 0.1 --key-env PATH --url http://{'x' * 64}", "no gateway answers at "),
        *(
            (
                f"onboard m --outcomes o --artifact a --output b {option} 16",
                f"--outcomes asks no model anything; leave out {option}",
            )
            for option in ("--items", "--max-tokens", "--precision", "--concurrency", "--max-usd")
        ),
        *(
            (f"{command} --output text/deeper", "{place}/text is no folder that can be written to; let this user")
            for command in (
                "train tiny.yaml --data nowhere",
                "train --base nowhere --data nowhere",
                "onboard m --outcomes nowhere --artifact nowhere",
                "init http://127.0.0.1:9",
            )
        ),
        ("init http://127.0.0.1:9 --usd-per-gpu-hour inf", "--usd-per-gpu-hour inf: expected a finite number"),
        ("init http://127.0.0.1:9 --ca-file text", "--ca-file text: no https URL is left that it could be for"),
        (
            "init https://127.0.0.1:9 --ca-file https://127.0.0.1:9=text --ca-file binary",
            "--ca-file binary: no https URL is left that it could be for; leave it out",
        ),
        (
            "init http://127.0.0.1:9 --ca-file http://127.0.0.1:9=text",
            "--ca-file http://127.0.0.1:9=text: an http URL has no certificate",
        ),
        ("keys create --expires 1e10", "--expires: expected days"),
        ("keys create --expires nan", "--expires: expected days"),
        ("journal export --config gateway.yaml --parquet folder", "folder: Is a directory; name a file"),
        ("journal export --config gateway.yaml --parquet ", ".: Is a directory; name a file"),
        *(
            (f"evaluate --artifact nowhere --data nowhere --predictions {path}", said)
            for path, said in (
                ("folder", "folder: Is a directory; name a file"),
                ("text/table.parquet", "text: File exists; name a folder, or a path where nothing is yet"),
                ("/proc/table.parquet", "/proc/table.parquet.part: No such file or directory"),
            )
        ),
        (
            f"journal export --config gateway.yaml --parquet {'x' * 300}",
            f"{'x' * 300}: File name too long; name another",
        ),
    ],
)
def test_a_wrong_input_is_answered_in_one_line(
    place: Path, command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.split(" "))
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"thalamus: {said.replace('{place}', str(place))}")


def test_the_room_of_an_exams_answers_is_bounded(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["onboard", "small", "--config", str(place / "gateway.yaml"), "--max-tokens", str(2**31)])
    assert ended.value.code == 2
    assert "2147483647" in capsys.readouterr().err


def test_an_export_leaves_a_collected_dataset_as_it_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = pa.table({"prompt_id": ["a"], "prompt": ["One?"], "dataset": ["mine"]})
    outcomes = pa.table({"prompt_id": ["a"], "model": ["small"], "score": [1.0]})
    write_outcomes(place / "collected", OutcomesDataset(prompts, outcomes))
    before = {file.name: file.read_bytes() for file in (place / "collected").iterdir()}

    with pytest.raises(SystemExit) as ended:
        main(["journal", "export", "--config", "gateway.yaml", "--outcomes", "collected"])

    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("thalamus: collected holds a dataset that no export wrote; name another")
    assert {file.name: file.read_bytes() for file in (place / "collected").iterdir()} == before


def test_a_fault_that_is_ours_keeps_its_traceback() -> None:
    from app.cli import complaint_of

    assert complaint_of(OSError(9, "Bad file descriptor")) is None


def test_a_full_disk_is_said_in_the_same_words_whoever_met_it() -> None:
    from app.cli import complaint_of

    by_pyarrow = OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert complaint_of(by_pyarrow) == "a file: No space left on device; make room, and run this again"
    assert complaint_of(OSError(28, "No space left on device", "out/journal.jsonl")) == (
        "out/journal.jsonl: No space left on device; make room, and run this again"
    )


def test_a_line_of_prompts_may_have_any_separator_of_unicode_in_a_text(place: Path) -> None:
    from app.collect.importers import read_prompts

    (place / "prompts.jsonl").write_text(
        '{"prompt": "one\u2028two\x85three"}\n\n{"prompt": "four"}\r\n', encoding="utf-8"
    )
    assert [prompt.prompt for prompt in read_prompts(str(place / "prompts.jsonl"))] == ["one\u2028two\x85three", "four"]
