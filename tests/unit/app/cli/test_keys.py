"""`thalamus keys`: what is made, shown, and refused."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli.keys import keys
from app.errors import UsageError
from app.store.keys.credentials import parsed
from tests.fakes.deployment import write_config

KEY = re.compile(r"rk_[a-z]+_[0-9A-Za-z]{12}_[0-9A-Za-z_-]{43}_[0-9A-Za-z]{6}")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, {"small": "http://127.0.0.1:9", "large": "http://127.0.0.1:10"})


def thalamus(config: Path, *words: str) -> Result:
    return CliRunner().invoke(keys, [*words, "--config", str(config)])


def made(config: Path, *words: str) -> dict[str, Any]:
    result = thalamus(config, *words, "--json")
    assert result.exit_code == 0, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_what_is_created_is_told_once_and_listed_without_its_secret(config: Path) -> None:
    words = (
        "--models",
        "s*",
        "--budget",
        "50/month",
        "--min-quality",
        "0.6",
        "--max-cost-usd",
        "0.01",
        "--tpm",
        "none",
    )
    said = thalamus(config, "create", "ann", "--cidr", "10.0.0.0/8", "--tenant", "lab", *words).stdout
    (key,) = KEY.findall(said)
    for line in (
        "models    small\n",
        "limits    60 requests a minute, any number of tokens a minute, 8 requests at a time\n",
        "budget    50 USD a month, hard\n",
        "always    min_quality 0.6, max_cost_usd 0.01\n",
        "from      10.0.0.0/8\n",
        "tenant    lab\n",
    ):
        assert line in said
    listed = thalamus(config, "list").stdout
    credential = parsed(key)
    assert credential is not None
    assert (credential.public in listed, credential.secret in listed, "ann" in listed) == (True, False, True)


def test_keys_that_a_later_release_wrote_are_counted(config: Path) -> None:
    assert "There are none" in thalamus(config, "list").stdout
    of_later = made(config, "create", "ann")["id"]
    with closing(sqlite3.connect(next(config.parent.rglob("keys.sqlite")))) as store, store:
        store.execute("UPDATE keys SET text = substr(text, 1, length(text) - 1) || ',\"later\":1}'")
    made(config, "create", "bob")
    said = thalamus(config, "list")
    assert (of_later in said.stdout, "bob" in said.stdout, "There are none" in said.stdout) == (False, True, False)
    assert said.stderr == "Not shown: 1 that a later release wrote; list them with that one\n"


def test_a_key_is_made_exchanged_and_ended_and_all_of_it_is_in_the_audit(config: Path) -> None:
    created = made(config, "create", "--expires", "none", "--soft", "--env", "test")
    rotated = made(config, "rotate", created["id"])
    revoked = made(config, "revoke", created["id"])
    assert created["key"].startswith("rk_test_")
    assert rotated["key"].startswith(f"rk_test_{created['id']}_")
    assert created["key"] != rotated["key"]
    assert (created["grant"]["expires_at"], created["grant"]["budget"]["hard"]) == (None, False)
    assert revoked["revoked_at"] is not None
    assert "revoked" in thalamus(config, "list").stdout
    audit = [json.loads(line) for line in thalamus(config, "audit").stdout.splitlines()]
    assert [entry["what"] for entry in audit] == ["created", "rotated", "revoked"]
    assert all(entry["by"].startswith("cli") and entry["key"] == created["id"] for entry in audit)


def test_a_name_that_an_earlier_release_took_is_shown_and_steers_nothing(config: Path) -> None:
    made(config, "create", "ann")
    with closing(sqlite3.connect(next(config.parent.rglob("keys.sqlite")))) as store, store:
        store.execute("UPDATE keys SET text = replace(text, '\"ann\"', '\"\\u001b[2Jänn\\n\"')")
    assert thalamus(config, "list").stdout.endswith("  \\x1b[2Jänn\\n\n")


@pytest.mark.parametrize("command", [["create"], ["rotate", "any"]])
def test_no_secret_is_made_that_nobody_could_see(config: Path, command: list[str]) -> None:
    words = [sys.executable, "-m", "app.cli", "keys", *command, "--config", str(config)]
    run = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *words], stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 1
    assert "stdout is closed" in run.stderr
    assert "There are none" in thalamus(config, "list").stdout


def test_where_there_are_no_keys_it_says_how_to_make_one(config: Path) -> None:
    assert "thalamus keys create makes one" in thalamus(config, "list").stdout


@pytest.mark.parametrize("command", ["create", "list", "revoke", "rotate", "audit"])
def test_each_command_shows_an_example(command: str) -> None:
    assert f"thalamus keys {command}" in CliRunner().invoke(keys, [command, "--help"]).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("create", "--budget", "5/week"), "--budget: "),
        (("create", "--budget", "much"), "--budget: expected a number, or none; got 'much'"),
        (("create", "--rpm", "0"), "--rpm: "),
        (
            ("create", "--expires", "-5"),
            "--expires: expected more than 0 days, or none for a key without an end; got -5",
        ),
        (("create", "--expires", "0"), "--expires: expected more than 0 days"),
        (("create", "--scopes", "root"), "expected one of admin:config"),
        (("create", "--min-quality", "2"), "--min-quality must be a number from 0 to 1"),
        (
            ("create", "--cidr", "10.0.0.1/8"),
            "--cidr: expected a network such as 10.0.0.0/8, with nothing after its prefix; got 10.0.0.1/8",
        ),
        (("create", "--models", ""), "--models: expected at least one"),
        (("create", "--profiles", " , "), "--profiles: expected at least one"),
        (("create", "--scopes", ""), "--scopes: expected at least one"),
        (("create", "two\nlines"), r"at most 64 characters in one line that can be printed, got 'two\nlines'"),
        (("create", "\x1b[31mred"), "the name of a key: expected at most 64 characters"),
        (("create", "x" * 3_000), "the name of a key: expected at most 64 characters"),
        (("create", "\udcff"), "the name of a key: expected at most 64 characters"),
        (("create", "--env", "Live!"), "--env: expected a word"),
        (("revoke", "nobody"), "there is no key 'nobody'"),
        (("rotate", "nobody"), "there is no key 'nobody'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(config: Path, words: tuple[str, ...], says: str) -> None:
    error = thalamus(config, *words).exception
    assert isinstance(error, UsageError)
    assert says in str(error)
    assert len(str(error).splitlines()) == 1


def test_a_key_may_have_no_end(config: Path) -> None:
    assert made(config, "create", "--expires", "none")["grant"]["expires_at"] is None


def test_a_store_that_does_not_answer_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"small": "http://127.0.0.1:9"}, store=f"unix://{tmp_path}/nobody.sock")
    error = thalamus(config, "list").exception
    assert isinstance(error, UsageError)
    assert "nobody.sock) does not answer" in str(error)


def test_the_old_secret_is_said_to_be_good_for_as_long_as_it_is(config: Path) -> None:
    lasting, short = made(config, "create"), made(config, "create", "--expires", "0.5")
    assert "The secret before it is good for 24 hours more.\n" in thalamus(config, "rotate", lasting["id"]).stdout
    said = thalamus(config, "rotate", short["id"]).stdout
    end = f"{short['grant']['expires_at']:.16}".replace("T", " ")
    assert f"The secret before it is good as long as the key, until {end} UTC.\n" in said
    assert "is good any more" in thalamus(config, "rotate", short["id"], "--grace-hours", "0").stdout


def test_a_second_rotation_says_that_the_secret_before_the_last_ended(config: Path) -> None:
    key_id = made(config, "create")["id"]
    said = [thalamus(config, "rotate", key_id, "--grace-hours", "1").stdout for _ in range(2)]
    assert made(config, "rotate", key_id)["older_secret_ended"]
    assert ["The one before that ended now." in one for one in said] == [False, True]
    assert "the one before that ends now" in " ".join(CliRunner().invoke(keys, ["rotate", "--help"]).stdout.split())


@pytest.mark.parametrize("command", ["create", "rotate"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_secret_that_could_not_be_shown_is_lost_and_its_key_named(
    config: Path, command: str, form: tuple[str, ...]
) -> None:
    words = ["create", "x"] if command == "create" else ["rotate", made(config, "create", "x")["id"]]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "keys", *words, *form, "--config", str(config)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    (key,) = json.loads(thalamus(config, "list", "--json").stdout)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"thalamus: the key {key['id']} has a")
    assert "could not be shown (No space left on device), so it is lost; " in line
    assert line.endswith(f"thalamus keys revoke {key['id']}")
