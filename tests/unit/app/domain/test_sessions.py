"""What is remembered of a conversation: found by nobody else, and only ever taken for what it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.request import Conversation, Request
from app.domain.sessions import Session, name_of
from tests.fakes.world import request

ASKED: Conversation = (("system", "be kind"), ("user", "hello"))
ANSWERED: Conversation = (*ASKED, ("assistant", "hi"), ("user", "and now?"))
TOOLS = ("tools", "look_up")


def asked(conversation: Conversation, key_id: str = "ann", session_id: str = "s-1") -> Request:
    return request(conversation=conversation, key_id=key_id, session_id=session_id)


_IDS = st.text("ab1:\n", max_size=4)


@given(_IDS, _IDS, _IDS, _IDS)
def test_two_names_are_equal_only_for_the_same_key_and_session(key: str, other: str, one: str, two: str) -> None:
    same = name_of(asked(ASKED, key, one)) == name_of(asked(ASKED, other, two))
    assert same == ((key, one) == (other, two))


def test_a_session_goes_on_in_what_begins_as_it_did() -> None:
    session = Session.after(asked(ASKED), "small")
    assert session.goes_on_in(asked(ASKED))
    assert session.goes_on_in(asked(ANSWERED))


def test_a_session_does_not_go_on_in_what_was_cut_changed_or_given_other_tools() -> None:
    session = Session.after(asked(ANSWERED), "small")
    assert not session.goes_on_in(asked(ASKED))
    assert not session.goes_on_in(asked((*ANSWERED[1:], ("assistant", "hm"))))
    assert not session.goes_on_in(asked((("system", "be rude"), *ANSWERED[1:])))
    assert not session.goes_on_in(asked((*ANSWERED, TOOLS)))


def test_tools_stand_first_in_a_prompt_so_that_messages_may_follow() -> None:
    session = Session.after(asked((*ASKED, TOOLS)), "small")
    assert session.goes_on_in(asked((*ANSWERED, TOOLS)))
    assert not session.goes_on_in(asked((*ANSWERED, ("tools", "look_up other"))))


def test_nothing_that_was_said_and_no_id_is_kept() -> None:
    secret = asked((("user", "canary-prompt"),), key_id="canary-key", session_id="canary-session")
    assert "canary" not in f"{name_of(secret)} {Session.after(secret, 'small')}"


def test_the_same_words_of_another_key_have_another_digest() -> None:
    assert Session.after(asked(ASKED), "small").read != Session.after(asked(ASKED, "bob"), "small").read
