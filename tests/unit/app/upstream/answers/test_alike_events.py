"""Events that are not read because they are like one that was: the caller and the count must not notice."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.upstream.answers.answer import Form
from app.upstream.answers.chat_stream import ChatStream
from app.upstream.answers.payload import count_streamed_tokens
from app.upstream.http.deadline import Deadline
from app.upstream.http.exchange import Pace
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import FakeExchange

TOKENS = st.one_of(
    st.sampled_from(["a", " the", '"', "\\", "{", "é", "\n", "x" * 16, "x" * 17, "", "small", "org/small", "null"]),
    st.text(max_size=20),
)


def event(token: str, *, spaced: bool, **fields: Any) -> bytes:
    chunk = {
        "id": "c-1",
        "model": "org/small",
        "choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None, **fields}],
    }
    return json.dumps(chunk, separators=(", ", ": ") if spaced else (",", ":")).encode()


def opened() -> ChatStream:
    clock = FakeClock()
    pace = Pace(30.0, Deadline.after(600, clock), clock, clock.call_later)
    return ChatStream(Form("small", stream=True), FakeExchange(), pace)


@given(tokens=st.lists(TOKENS, max_size=12), spaced=st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_sent_and_counted_does_not_depend_on_what_came_before(tokens: list[str], spaced: bool) -> None:
    whole = opened()
    sent = [whole._event(event(token, spaced=spaced)) for token in tokens]
    alone = [opened()._event(event(token, spaced=spaced)) for token in tokens]
    assert sent == alone
    said = [{"delta": {"content": token}} for token in tokens if token]
    assert whole.counted_tokens == sum(count_streamed_tokens(choice) for choice in said)


def test_an_event_that_ends_an_answer_is_never_taken_for_one_like_before() -> None:
    stream = opened()
    for token in ("a", "b"):
        stream._event(event(token, spaced=False))
    stream._event(event("c", spaced=False, finish_reason="stop"))
    assert stream._finished == {0}
