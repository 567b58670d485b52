"""Keys: found by their secret only, and secrets that do not show."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from app.store.keys.key import DEFAULT_SCOPES, SCOPES, Key, Secret, StaticKeys


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
    assert Key("x").scopes == DEFAULT_SCOPES == SCOPES - {"route:upgrade", "admin:keys", "admin:config"}


@pytest.mark.parametrize(("at", "good"), [(0.0, True), (1000.0, True), (1060.0, True), (1060.1, False)])
def test_a_key_ends_with_its_time_and_what_clocks_may_differ(at: float, good: bool) -> None:
    assert Key("x", expires_at=1000.0).lets_in("127.0.0.1", at) is good
    assert Key("x").lets_in("", at)


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("", False),
        ("somewhere", False),
    ],
)
def test_a_key_is_used_from_its_networks_only(address: str, may: bool) -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    assert Key("x", source_cidrs=networks).lets_in(address, 0.0) is may
