"""What stands in a record, and that its cost follows from its tokens and the model's price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import TokenPrice
from app.domain.request import Preferences
from app.domain.usage import Usage
from app.store.journal.flat import COLUMNS, flat
from app.store.journal.journal import Entry, Outcome
from app.store.journal.kept import Kept, periods_of
from app.store.journal.rows import MOST_TEXT_CHARS, begun, ended, shortened, unsealed, whole
from app.store.journal.telling import record_of
from tests.fakes.world import decision, request

TEXT = "a secret plan"


def entry(**changes: Any) -> Entry:
    asked = request(conversation=(("user", TEXT),), preferences=Preferences({"max_cost_usd": 0.5}, {"cost": 0.25}))
    decided = decision("small")
    expected = replace(decided.chosen.estimate, cost_usd=0.1)
    decided = replace(decided, candidates=(replace(decided.chosen, expect=lambda: expected),))
    return replace(Entry("req-1", "tester", decided, request=asked, at=100.0), **changes)


class FakeOutline:
    def of(self, _: object) -> dict[str, Any]:
        return {"propensity": 1.0}

    def of_refusal(self, evidence: object) -> dict[str, Any]:
        return {"eligible": 0, "excluded": evidence}


OUTLINE = FakeOutline()
OK = Outcome("ok", model="small", usage=Usage(1, 2), cost_usd=0.25)


def record(one: Entry, outcome: Outcome) -> dict[str, Any]:
    _, rest = unsealed(ended(one, outcome, 101.0, OUTLINE))
    told: dict[str, Any] = orjson.loads(whole(begun(one), rest))
    return told


def test_text_is_kept_for_keys_that_ask_for_it_only() -> None:
    assert TEXT not in str(record(entry(), OK))
    assert record(entry(keeps_text=True), OK)["messages"] == [{"role": "user", "content": TEXT}]


def test_too_much_text_is_told_from_text_that_may_not_be_kept() -> None:
    long = request(conversation=(("user", "x" * (MOST_TEXT_CHARS + 1)),))
    rows = [flat(record(entry(keeps_text=keeps, request=long), OK)) for keeps in (True, False)]
    assert [(row["messages"], row["keeps_text"]) for row in rows] == [(None, True), (None, False)]


def test_half_of_a_utf16_pair_in_a_kept_text_is_escaped() -> None:
    asked = request(conversation=(("user", "\ud800"),))
    assert b"\\ud800" in ended(entry(keeps_text=True, request=asked), OK, 101.0, OUTLINE)


def test_what_a_store_looks_for_stands_before_the_rest() -> None:
    facts, _ = unsealed(ended(entry(key_id="schlüssel"), OK, 101.0, OUTLINE))
    assert facts == (100.0, 0.25, "schlüssel", record(entry(), OK)["decision_id"], None)


def test_what_it_was_held_of_stands_before_the_rest_and_in_the_first_row() -> None:
    held = entry(reserved_usd=0.2, held_in="2026-11")
    facts, _ = unsealed(ended(held, OK, 101.0, OUTLINE))
    assert (facts.held_in, facts.decision_id) == ("2026-11", record(entry(), OK)["decision_id"])
    assert orjson.loads(begun(held))["held_in"] == "2026-11"


def test_the_facts_stand_for_a_first_row_that_is_lost() -> None:
    facts, rest = unsealed(ended(entry(), OK, 101.0, OUTLINE))
    row, kept = flat(orjson.loads(whole(facts.begun(), rest))), flat(record(entry(), OK))
    for name in ("time", "key", "decision_id", "outcome", "cost_usd", "propensity", "asked_for"):
        assert row[name] == kept[name]


def test_a_row_of_another_release_is_said_to_be_that() -> None:
    with pytest.raises(ValueError, match="another release"):
        unsealed(b'{"outcome":"ok","cost_usd":0.25}')


def test_what_was_asked_is_in_it() -> None:
    row = record(entry(reserved_usd=0.2), OK)
    assert row["asked"]["limits"] == {"max_cost_usd": 0.5}
    assert (row["asked"]["weights"], row["reserved_usd"], row["expected_usd"]) == ({"cost": 0.25}, 0.2, 0.1)


def test_a_deadline_and_that_there_was_a_session_are_in_it_where_they_were_asked_for() -> None:
    asked = request(deadline_s=2.5, priority="high", session_id="of-alice")
    told = record(entry(request=asked), OK)
    assert "of-alice" not in str(told)
    names = ("deadline_s", "priority", "in_session")
    assert [record_of(Kept("tester", told))["asked"][name] for name in names] == [2.5, "high", True]
    plain = record(entry(), OK)
    assert plain["asked"].keys().isdisjoint(names)
    assert [record_of(Kept("tester", plain))["asked"][name] for name in names] == [None, "normal", False]


def test_that_several_answers_were_asked_for_is_in_it() -> None:
    """Their tokens and their cost are told in one sum."""
    asked = request(choices=6, body={"prompt": ["One?", "Two?"], "n": 3})
    assert record(entry(), OK)["asked"].keys().isdisjoint({"choices", "prompts"})
    told = record(entry(request=asked), OK)["asked"]
    assert (told["choices"], told["prompts"]) == (6, 2)


@pytest.mark.parametrize(
    ("changes", "profile"),
    [
        ({}, "default"),
        ({"profile": "cheap"}, "cheap"),
        ({"model": "small"}, "named"),
        ({"model": "small", "operation": "embeddings"}, "named"),
    ],
)
def test_who_names_a_model_is_booked_on_no_profile(changes: dict[str, Any], profile: str) -> None:
    """As metrics count it."""
    asked = request(**changes)
    told = record(entry(request=asked), OK)
    assert told["profile"] == flat(told)["profile"] == asked.counted_profile == profile


def test_a_request_that_was_never_decided_has_rows_as_well() -> None:
    told = record(entry(decision=None), Outcome("no_eligible_model"))
    assert (told["decision_id"], told["end"]["outcome"], told["end"]["cost_usd"]) == (None, "no_eligible_model", None)


def test_what_excluded_all_models_is_in_the_record_of_a_refusal() -> None:
    against = {"max_cost_usd": {"count": 1, "models": ["small"]}}
    told = flat(record(entry(decision=None, refusal=against), Outcome("no_eligible_model")))
    assert (told["eligible"], orjson.loads(told["excluded"]), told["estimates"]) == (0, against, None)


tokens = st.integers(0, 1_000_000)
price = st.floats(0.0, 100.0)


@given(tokens, tokens, tokens, price, price, st.none() | price)
def test_the_cost_in_a_record_is_that_of_its_tokens(
    fresh: int, cached: int, written: int, input_usd: float, output_usd: float, cached_usd: float | None
) -> None:
    usage, per_m = Usage(fresh + cached, written, cached), TokenPrice(input_usd, output_usd, cached_usd)
    outcome = Outcome("ok", model="small", usage=usage, cost_usd=usage.cost_usd(per_m))
    row = flat(record(entry(), outcome))
    rate = input_usd if cached_usd is None else cached_usd
    fresh_tokens = row["input_tokens"] - row["cached_input_tokens"]
    by_hand = (fresh_tokens * input_usd + row["cached_input_tokens"] * rate + row["output_tokens"] * output_usd) / 1e6
    assert row["cost_usd"] == pytest.approx(by_hand, rel=1e-9, abs=1e-15)


@given(st.floats(0.01, 100.0), st.integers(1, 8), st.floats(1.0, 100_000.0), tokens, tokens)
def test_a_self_hosted_model_costs_the_time_of_its_machines(
    usd_per_gpu_hour: float, gpus: int, tokens_per_s: float, read: int, written: int
) -> None:
    per_m = TokenPrice.self_hosted(usd_per_gpu_hour, gpus, tokens_per_s)
    usage = Usage(read, written, cached_input_tokens=read // 2)
    outcome = Outcome("ok", model="small", usage=usage, cost_usd=usage.cost_usd(per_m))
    hours = (read + written) / tokens_per_s / 3600
    assert record(entry(), outcome)["end"]["cost_usd"] == pytest.approx(hours * usd_per_gpu_hour * gpus, rel=1e-9)


def test_a_flat_row_has_what_was_expected_of_who_answered() -> None:
    told = record(entry(), Outcome("ok", model="large", usage=Usage(1, 2)))
    numbers = {"quality": [0.5, 0.75], "cost_usd": [0.1, 0.2], "output_tokens": [1, 2], "latency_s": [3, 4]}
    told["estimates"] = {"model": ["small", "large"], **numbers}
    row = flat(told, {"score": 1.0})
    assert tuple(row) == COLUMNS
    assert (row["predicted_quality"], row["predicted_latency_s"], row["score"]) == (0.75, 4, 1.0)


@pytest.mark.parametrize(("served_as", "size"), [("small", 0), ("org/small", len(',"served_as":"org/small"'))])
def test_a_row_tells_which_model_it_was_that_answered(served_as: str, size: int) -> None:
    known = replace(OK, served_as=served_as, predicted_as="small-it")
    told, other = (flat(record(entry(), outcome)) for outcome in (known, OK))

    assert (told["served_as"], told["predicted_as"]) == (served_as, "small-it")
    assert (other["served_as"], other["predicted_as"]) == (None, None)
    rows = [ended(entry(), outcome, 101.0, OUTLINE) for outcome in (known, OK)]
    assert len(rows[0]) == len(rows[1]) + len(',"predicted_as":"small-it"') + size


@pytest.mark.parametrize(
    ("at", "periods"),
    [
        (0.0, ("1970-01-01", "1970-01")),
        (1_798_761_599.999, ("2026-12-31", "2026-12")),
        (1_798_761_600.0, ("2027-01-01", "2027-01")),
    ],
)
def test_periods_are_those_of_utc(at: float, periods: tuple[str, str]) -> None:
    assert periods_of(at) == periods


@pytest.mark.parametrize("text", [TEXT, "\ud800"])
def test_a_second_row_can_be_shortened_to_what_became_of_the_request(text: str) -> None:
    one = entry(keeps_text=True, request=request(conversation=(("user", text),)))
    row = ended(one, OK, 101.0, OUTLINE)
    facts, rest = unsealed(shortened(row))
    assert facts == unsealed(row)[0]
    assert orjson.loads(rest) == {"end": record(entry(), OK)["end"]}
