"""Endpoints whose answers would be scored wrongly: recognised, and named in words that say what to change.

How it works: after each round the answers so far are looked at as a whole. Rules are about what a model that tries to
answer does not do: the same text to unlike questions, refusing harmless ones, stopping at the same length again and
again. A fatal fault ends the exam of that model, and nothing is written of it; the others are said beside its result.

An answer that runs out of a room which the known models had too is scored as theirs were, so that is no fault of the
endpoint, however often it happens. To stop before that room, or to spend it on thoughts alone, still is one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import median

from app.collect.plan import Prompt
from app.collect.progress import Reply

# With fewer answers the shares below are chance.
LEAST_ANSWERS = 16
# The likeliest honest text is a letter of a multiple choice: a fifth of the answers at most, since most questions are
# no multiple choice.
SAME_SHARE = 0.6
REFUSED_SHARE = 0.15
EMPTY_SHARE = 0.3
# Lengths of honest answers are all over the place; the longest one occurs once or twice.
CUT_SHARE = 0.25
LEAST_CUT_TEXTS = 5
LEAST_CUT_CHARS = 8
OUT_OF_ROOM_SHARE = 0.5
FAILED_SHARE = 0.25
SLOW_S = 60.0
PATIENT_SHARE = 0.2
MOST_CHARS_PER_TOKEN = 1.5
"""An answer that ended for its length and has fewer characters than this for each token of its room was cut earlier."""
# Short answers may be digits and signs only, of which each is a token; long ones have words among them.
SHORT_ROOM_TOKENS, MOST_CHARS_PER_SHORT_TOKEN = 128, 1.0

_THINKING = re.compile(r"^\s*<think>(?!.*</think>\s*\S)", re.DOTALL)
_UNFINISHED = re.compile(r"[\w,;:=(\[{+*/-]\s*$")
_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m sorry|i am sorry|sorry|unfortunately|as an ai|i can(?:no|['’])t|i am (?:un|not )able|"
    r"i['’]m (?:un|not )able|i (?:won['’]t|will not|must decline))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fault:
    """What is wrong with an endpoint."""

    name: str
    sentence: str
    is_fatal: bool = True


MORE_ROOM = "give more with --max-tokens"


@dataclass(frozen=True)
class Sample:
    """The answers of one model so far."""

    prompts: Mapping[str, Prompt]
    """By prompt_id."""
    replies: Sequence[Reply]
    failures: Sequence[str]
    """Reasons of requests that got no answer."""
    own_room: Set[str] = frozenset()
    """Questions with the room that the known models had, by prompt_id."""
    more_room: str = MORE_ROOM
    """What to do where a model needs more room."""

    def is_short_of_own_room(self, reply: Reply) -> bool:
        """Whether the answer ran out of a room that the known models had too."""
        return reply.prompt_id in self.own_room and self.is_out_of_room(reply)

    def is_out_of_room(self, reply: Reply) -> bool:
        """Whether the answer used its whole room and did not end."""
        return reply.finish_reason == "length" and not self.is_cut_early(reply)

    def is_cut_early(self, reply: Reply) -> bool:
        """Whether the answer was cut before its room was used."""
        room = self.prompts[reply.prompt_id].max_tokens
        if reply.finish_reason != "length":
            return False
        if reply.output_tokens is not None:
            return reply.output_tokens < room - 1
        chars_per_token = MOST_CHARS_PER_SHORT_TOKEN if room < SHORT_ROOM_TOKENS else MOST_CHARS_PER_TOKEN
        return bool(reply.answer) and len(reply.answer) < chars_per_token * room


def faults_in(sample: Sample) -> list[Fault]:
    """What the answers so far show; nothing while they are few."""
    if len(sample.replies) + len(sample.failures) < LEAST_ANSWERS:
        return []
    return [fault for rule in _RULES for fault in rule(sample)]


def _failing(sample: Sample) -> Iterator[Fault]:
    failed, asked = len(sample.failures), len(sample.replies) + len(sample.failures)
    if failed >= FAILED_SHARE * asked:
        reason = Counter(sample.failures).most_common(1)[0][0]
        yield Fault("failing", f"{failed} of {asked} requests got no answer, most often: {reason}")


def _constant(sample: Sample) -> Iterator[Fault]:
    # What is cut after a few words may have no more than the courtesies, which are alike.
    whole = [reply for reply in sample.replies if not sample.is_short_of_own_room(reply)]
    said = Counter(" ".join(reply.answer.split()) for reply in whole if reply.answer.strip())
    if not said:
        return
    text, times = said.most_common(1)[0]
    if times >= SAME_SHARE * len(sample.replies):
        yield Fault(
            "constant",
            f"answers {text[:40]!r} to {times} of {len(sample.replies)} unlike questions: is a model behind it?",
        )


def _empty(sample: Sample) -> Iterator[Fault]:
    empty = [reply for reply in sample.replies if not reply.answer.strip() or _THINKING.match(reply.answer)]
    if len(empty) < max(EMPTY_SHARE * len(sample.replies), 1):
        return
    out_of_room = sum(reply.finish_reason == "length" for reply in empty)
    if out_of_room > len(empty) / 2:
        words = f"uses up its room before it says anything, as models that reason do: {sample.more_room}"
    else:
        words = f"says nothing in {len(empty)} of {len(sample.replies)} answers"
    yield Fault("empty", words)


def _refusing(sample: Sample) -> Iterator[Fault]:
    refused = sum(bool(_REFUSAL.match(reply.answer)) for reply in sample.replies)
    if refused and refused >= REFUSED_SHARE * len(sample.replies):
        yield Fault(
            "refusing",
            f"refuses {refused} of {len(sample.replies)} harmless questions: look for a system prompt or a filter",
        )


def _truncating(sample: Sample) -> Iterator[Fault]:
    early = sum(map(sample.is_cut_early, sample.replies))
    if early and early >= CUT_SHARE * len(sample.replies):
        yield Fault(
            "truncating",
            f"cuts {early} of {len(sample.replies)} answers before the room that was asked for: raise its own limit",
        )
        return
    full = [reply.answer for reply in sample.replies if reply.finish_reason != "length"]
    longest = max(map(len, full), default=0)
    # Terse answers of one form, such as "The answer is (C).", have one length too; but they end as sentences do.
    at_the_end = [text for text in full if len(text) == longest and _UNFINISHED.search(text)]
    if (
        longest >= LEAST_CUT_CHARS
        and len(at_the_end) >= CUT_SHARE * len(sample.replies)
        and len(set(at_the_end)) >= LEAST_CUT_TEXTS
    ):
        yield Fault(
            "truncating",
            f"{len(at_the_end)} of {len(sample.replies)} answers end after exactly {longest} characters: something "
            "cuts them",
        )


def _out_of_room(sample: Sample) -> Iterator[Fault]:
    replies = [reply for reply in sample.replies if reply.prompt_id not in sample.own_room]
    cut = sum(map(sample.is_out_of_room, replies))
    if len(replies) >= LEAST_ANSWERS and cut > PATIENT_SHARE * len(replies):
        words = f"{cut} of {len(replies)} answers did not end within their room: {sample.more_room}"
        yield Fault("long-winded", words, is_fatal=cut > OUT_OF_ROOM_SHARE * len(replies))


def _short_of_own_room(sample: Sample) -> Iterator[Fault]:
    replies = [reply for reply in sample.replies if reply.prompt_id in sample.own_room]
    cut = sum(map(sample.is_out_of_room, replies))
    if len(replies) >= LEAST_ANSWERS and cut > PATIENT_SHARE * len(replies):
        words = (
            f"{cut} of {len(replies)} answers did not end within the room that the known models had too, and are "
            "scored as theirs were"
        )
        yield Fault("long-winded", words, is_fatal=False)


def _slow(sample: Sample) -> Iterator[Fault]:
    middle_s = median([reply.latency_s for reply in sample.replies]) if sample.replies else 0.0
    if middle_s > SLOW_S:
        yield Fault("slow", f"takes {middle_s:.0f} s for an answer, in the middle", is_fatal=False)


def _without_usage(sample: Sample) -> Iterator[Fault]:
    if sample.replies and all(reply.output_tokens is None for reply in sample.replies):
        yield Fault("no usage", "says nothing of tokens: its lengths and costs are estimates", is_fatal=False)


def _rate_limited(sample: Sample) -> Iterator[Fault]:
    again = sum(reply.attempts > 1 for reply in sample.replies)
    if again >= PATIENT_SHARE * max(len(sample.replies), 1):
        words = f"{again} of {len(sample.replies)} answers took more than one attempt: it limits its rate, or fails"
        yield Fault("reluctant", words, is_fatal=False)


_RULES: tuple[Callable[[Sample], Iterator[Fault]], ...] = (
    _failing,
    _constant,
    _empty,
    _refusing,
    _truncating,
    _out_of_room,
    _short_of_own_room,
    _slow,
    _without_usage,
    _rate_limited,
)
