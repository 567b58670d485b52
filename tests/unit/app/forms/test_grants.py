"""What keys are given: read, told, and never more than their giver has."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.forms.grants import described, exceeded, grant_of, new_grant, read_key
from app.store.keys.key import DEFAULT_SCOPES, Budget, Key


def key(**stated: Any) -> Key:
    return grant_of(stated).key("k")


def test_a_new_key_may_use_everything_a_little() -> None:
    made = new_grant().key("k")
    assert (made.models, made.profiles, made.scopes) == (("*",), ("*",), DEFAULT_SCOPES)
    assert (made.requests_per_minute, made.tokens_per_minute, made.concurrency) == (60, 100_000, 8)
    assert made.budget == Budget(10.0, "day", hard=True)
    assert made.expires_at is not None


def test_what_is_kept_of_a_grant_reads_as_the_same_key() -> None:
    stated = {
        "models": ["a", "b*"],
        "scopes": ["inference", "admin:keys"],
        "may_set": ["weights"],
        "routing": {"min_quality": 0.5, "regions": ["eu"], "released_after": "2025-01-31"},
        "budget": {"usd": 3, "per": "month", "hard": False},
        "expires_at": "2027-01-01T00:00:00Z",
        "source_cidrs": ["10.0.0.0/8", "::1/128"],
        "max_tokens": 7,
    }
    grant = new_grant(**stated)
    assert read_key("k", grant.plain()) == grant.key("k")


@pytest.mark.parametrize(
    ("stated", "param"),
    [
        ({"id": "x"}, "id"),
        ({"secret": "x"}, "secret"),
        ({"scopes": ["root"]}, "scopes[0]"),
        ({"routing": {"max_cost": 1}}, "routing"),
        ({"routing": {"explain": True}}, "routing"),
        ({"may_set": ["speed"]}, "may_set"),
        ({"budget": {"usd": float("nan")}}, "budget.usd"),
        ({"concurrency": 0}, "concurrency"),
        ({"tenant": ""}, "tenant"),
        ({"expires_at": "2027-01-01T00:00"}, "expires_at"),
        ({"requests_per_minute": True}, "requests_per_minute"),
        ({"budget": {"usd": True}}, "budget.usd"),
        ({"concurrency": True}, "concurrency"),
        ({"source_cidrs": [167772161]}, "source_cidrs[0]"),
    ],
)
def test_only_what_a_key_has_can_be_said_of_it(stated: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grant_of(stated)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("stated", "param"),
    [
        ({"models": []}, "models"),
        ({"profiles": []}, "profiles"),
        ({"scopes": []}, "scopes"),
        ({"tenant": "lab\nrk_live"}, "tenant"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"concurrency": "3"}, "concurrency"),
        ({"max_tokens": 3.0}, "max_tokens"),
        ({"budget": {"usd": "5"}}, "budget.usd"),
        ({"flags_in_prompt": 1}, "flags_in_prompt"),
        ({"tenant": "\x9b31m"}, "tenant"),
    ],
)
def test_a_new_key_can_do_something_and_be_shown(stated: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{param}: expected ") as caught:
        new_grant(**stated)
    assert caught.value.param == param
    assert read_key("k", grant_of(stated).plain()).id == "k"  # one that an earlier release made works on


@pytest.mark.parametrize(
    ("stated", "says", "becomes"),
    [
        ({"requests_per_minute": 1e-300}, "requests_per_minute: expected a number from 0.00001 to 1000000000000", 1e-5),
        ({"tokens_per_minute": 1e308}, "tokens_per_minute: expected a number from 0.00001 to 1000000000000", 1e12),
        ({"concurrency": 10**30}, "concurrency: expected a number from 1 to 1000000000000", 10**12),
        ({"max_tokens": 10**30}, "max_tokens: expected a number from 1 to 1000000000000", 10**12),
        ({"budget": {"usd": 1e300}}, "budget.usd: expected a number from 0 to 1000000000000", Budget(1e12)),
    ],
)
def test_numbers_of_a_new_key_have_bounds_and_others_are_taken_as_the_nearest(
    stated: dict[str, Any], says: str, becomes: object
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        new_grant(**stated)
    assert caught.value.message == says
    (name,) = stated
    assert getattr(read_key("k", grant_of(stated).plain()), name) == becomes


def test_a_key_for_operators_needs_no_models() -> None:
    assert new_grant(scopes=["admin:keys"], models=[], profiles=[]).models == ()


HELD: dict[str, Any] = {
    "models": ["small", "qwen-*"],
    "profiles": ["default"],
    "scopes": ["inference", "admin:keys"],
    "may_set": ["weights"],
    "max_tokens": 100,
    "routing": {"min_quality": 0.5, "max_cost_usd": 0.01},
    "budget": {"usd": 10, "per": "day"},
    "expires_at": "2027-01-01T00:00:00Z",
    "source_cidrs": ["10.0.0.0/8"],
    "tenant": "research",
}


def test_all_that_one_has_may_be_given() -> None:
    assert exceeded(key(**HELD), key(**HELD)) == []


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"models": ["qwen-7b", "small"]}, []),
        ({"models": ["large"]}, ["models"]),
        ({"models": ["*"]}, ["models"]),
        ({"models": ["qwen*"]}, ["models"]),
        ({"profiles": ["cheap"]}, ["profiles"]),
        ({"scopes": ["inference", "route:upgrade"]}, ["scopes"]),
        ({"may_set": None}, ["may_set"]),
        ({"may_set": ["weights", "regions"]}, ["may_set"]),
        ({"flags_in_prompt": True}, ["flags_in_prompt"]),
        ({"chat_template_kwargs": True}, ["chat_template_kwargs"]),
        ({"keeps_bodies": True}, ["keeps_bodies"]),
        ({"max_priority": "low"}, []),
        ({"max_priority": "high"}, ["max_priority"]),
        ({"routing": {"min_quality": 0.6, "max_cost_usd": 0.005, "regions": ["eu"]}}, []),
        ({"routing": {"min_quality": 0.4, "max_cost_usd": 0.01}}, ["routing"]),
        ({"routing": {"max_cost_usd": 0.01}}, ["routing"]),
        ({"requests_per_minute": 61}, ["requests_per_minute"]),
        ({"tokens_per_minute": None}, ["tokens_per_minute"]),
        ({"concurrency": 9}, ["concurrency"]),
        ({"max_tokens": None}, ["max_tokens"]),
        ({"budget": None}, ["budget"]),
        ({"budget": {"usd": 10, "per": "month"}}, []),
        ({"budget": {"usd": 10.01, "per": "day"}}, ["budget"]),
        ({"budget": {"usd": 11, "per": "month"}}, ["budget"]),
        ({"budget": {"usd": 1, "hard": False}}, ["budget"]),
        ({"expires_at": None}, ["expires_at"]),
        ({"expires_at": "2027-01-02T00:00:00Z"}, ["expires_at"]),
        ({"source_cidrs": []}, ["source_cidrs"]),
        ({"source_cidrs": ["10.1.0.0/16"]}, []),
        ({"source_cidrs": ["10.1.0.0/16", "192.168.0.0/16"]}, ["source_cidrs"]),
        ({"source_cidrs": ["::1/128"]}, ["source_cidrs"]),
        ({"tenant": None}, ["tenant"]),
        ({"tenant": "sales"}, ["tenant"]),
    ],
)
def test_nobody_gives_more_than_they_have(change: dict[str, Any], fields: list[str]) -> None:
    assert exceeded(key(**HELD | change), key(**HELD)) == fields


def test_regions_and_licences_are_within_whatever_their_case() -> None:
    held = key(routing={"regions": ["eu", "us"], "licenses": ["apache-2.0"]})
    assert exceeded(key(routing={"regions": ["EU"], "licenses": ["Apache-2.0"]}), held) == []
    assert exceeded(key(routing={"regions": ["EU", "asia"], "licenses": ["Apache-2.0"]}), held) == ["routing"]


def test_a_days_budget_is_within_a_months_if_all_its_days_are() -> None:
    held = key(budget={"usd": 310, "per": "month"})
    assert exceeded(key(budget={"usd": 10}), held) == []
    assert exceeded(key(budget={"usd": 10.1}), held) == ["budget"]


def test_who_has_no_limits_may_give_any() -> None:
    free = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency", "budget", "max_tokens"))
    assert exceeded(key(**free), key(**free)) == []


def test_what_a_key_grants_is_said_in_full() -> None:
    stated = {"models": ["s*"], "routing": {"min_quality": 0.6}, "budget": {"usd": 5, "hard": False}, "max_tokens": 9}
    lines = "\n".join(described(key(**stated), ["small", "large"], ["default", "cheap"]))
    assert "models    small\n" in lines
    assert "profiles  default, cheap\n" in lines
    assert "60 requests a minute, 100,000 tokens a minute, 8 requests at a time, 9 tokens an answer" in lines
    assert "5 USD a day, soft" in lines
    assert "always    min_quality 0.6" in lines
    assert lines.endswith("expires   never")
    assert "any number of requests a minute" in "\n".join(described(key(requests_per_minute=None), [], []))
