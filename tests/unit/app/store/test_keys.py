"""Keys: found by their secret only, and secrets that do not show."""

from __future__ import annotations

import pytest

from app.store.keys import DEFAULT_SCOPES, SCOPES, Key, Secret, StaticKeys


def test_a_key_is_found_by_its_whole_secret_only() -> None:
    keys = StaticKeys([(Secret("sk-a"), Key("a")), (Secret("sk-b"), Key("b"))])
    assert [key.id if (key := keys.find(secret)) else None for secret in ("sk-a", "sk-b", "sk-", "sk-ab", "")] == [
        "a",
        "b",
        None,
        None,
        None,
    ]


def test_a_secret_in_any_bytes_is_looked_up_without_failing() -> None:
    assert StaticKeys([]).find("\ud800 é \x00") is None


def test_a_table_of_keys_holds_no_secret() -> None:
    assert "sk-canary" not in repr(vars(StaticKeys([(Secret("sk-canary"), Key("a"))])))


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("sk-canary")
    assert "canary" not in f"{secret} {secret!r} {[secret]} {secret!s}"
    assert secret.reveal() == "sk-canary"
    assert secret == Secret("sk-canary")
    assert secret != Secret("sk-other")


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        ((), "a", False),
        (("*",), "a", True),
        (("qwen-*",), "qwen-8b", True),
        (("qwen-*",), "Qwen-8b", False),
        (("qwen-*", "a"), "a", True),
        (("a",), "ab", False),
    ],
)
def test_a_key_may_use_the_models_that_its_patterns_name(patterns: tuple[str, ...], model: str, may: bool) -> None:
    assert Key("x", models=patterns).may_use(model) is may


def test_a_new_key_has_the_scopes_that_harm_nobody() -> None:
    assert Key("x").scopes == DEFAULT_SCOPES == SCOPES - {"route:upgrade", "metrics:read", "admin:keys", "admin:config"}
