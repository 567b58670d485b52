"""Generated keys: their form, and the pepper that their secrets are digested with."""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

import pytest

from app.errors import UsageError
from app.store.keys.credentials import Pepper, PepperFile, issue, parsed


def test_a_key_says_what_it_is_and_no_two_are_alike() -> None:
    (text, made), (other, _) = issue("live"), issue("live")
    assert text != other
    assert (text[:8], len(made.public), len(made.secret)) == ("rk_live_", 12, 43)
    assert parsed(text) == made


@pytest.mark.parametrize("change", ["", "x", " ", "rk_live_", "\n"])
def test_what_is_added_makes_it_another_text(change: str) -> None:
    text, made = issue("test")
    assert (parsed(text + change) == made) is (change == "")
    assert (parsed(change + text) == made) is (change == "")


def test_each_changed_letter_is_noticed_without_a_look_up() -> None:
    text, _ = issue("live")
    changed = [text[:at] + ("A" if letter != "A" else "B") + text[at + 1 :] for at, letter in enumerate(text)]
    assert [parsed(one) for one in changed] == [None] * len(text)


@pytest.mark.parametrize("text", ["", "sk-test", "rk_live_", "rk__a_b_c", "rk_live_" + "é" * 64, "\ud800", "rk_" * 99])
def test_anything_else_is_no_generated_key(text: str) -> None:
    assert parsed(text) is None


def test_a_pepper_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    file = PepperFile(tmp_path / "state" / "pepper")
    assert file.read() == ()
    made = file.create()
    assert file.read() == (made,) == (file.create(),)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o400
    assert [path.name for path in file.path.parent.iterdir()] == ["pepper"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="state: expected a folder, or nothing in its place"):
        PepperFile(tmp_path / "state" / "pepper").create()


def test_two_peppers_are_good_at_once_the_newest_first(tmp_path: Path) -> None:
    file = PepperFile(tmp_path / "pepper")
    lines = [secrets.token_hex(32), secrets.token_hex(32)]
    file.path.write_text("\n".join(lines))
    file.path.chmod(0o400)
    assert file.read() == tuple(Pepper.of(line) for line in lines)
    assert len({one.digest("secret") for one in file.read()}) == 2


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("a" * 64, 0o644, "others can read it; chmod 400 it"),
        ("a" * 63, 0o400, "expected one or two lines of 64 hexadecimal digits"),
        ("", 0o400, "expected one or two lines"),
        ("\n".join(["a" * 64] * 3), 0o400, "expected one or two lines"),
        ("é", 0o400, "expected hexadecimal digits"),
    ],
)
def test_a_pepper_that_is_none_is_refused(tmp_path: Path, content: str, mode: int, says: str) -> None:
    file = PepperFile(tmp_path / "pepper")
    file.path.write_text(content, encoding="utf-8")
    file.path.chmod(mode)
    with pytest.raises(UsageError, match=says):
        file.read()


def test_a_pepper_does_not_show() -> None:
    assert "a" * 64 not in repr(Pepper.of("a" * 64))
