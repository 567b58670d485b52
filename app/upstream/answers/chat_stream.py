"""The stream of a chat or text completion: chunks with choices, usage on a last one, `[DONE]`.

The last chunk, which is the one with usage where the caller asked for that, is held back until the next event says that
it was the last: the record goes on it, for OpenAI's client believes the last chunk alone about usage.
"""

from __future__ import annotations

import re
from typing import Any

from app.domain.usage import Usage
from app.errors import UpstreamError
from app.upstream.answers.base_answer import Form, with_record
from app.upstream.answers.payload import (
    ONE_TOKEN_BYTES,
    Renamer,
    count_streamed_tokens,
    dump,
    error_event,
    parse,
    says_something,
    sound_choices,
)
from app.upstream.answers.stream_answer import StreamAnswer
from app.upstream.http.exchange import Exchange, Pace

DONE = b"[DONE]"


class ChatStream(StreamAnswer):
    """Chunks under the caller's name of the model. `[DONE]` is added to a whole answer that lacks it."""

    def __init__(self, form: Form, exchange: Exchange, pace: Pace) -> None:
        super().__init__(form, exchange, pace)
        self._renamer = Renamer(form.model)
        self._last: dict[str, Any] = {}
        self._held_back = b""
        """The last event, to which something may yet be added."""
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._alike = _Alike()

    def _sendable(self, piece: bytes) -> bytes:
        if self._between and (sendable := self._alike.line(piece)) is not None:
            self.counted_tokens += 1
            self._watch.again()
            return sendable
        return super()._sendable(piece)

    def _event(self, data: bytes) -> bytes:
        if (sendable := self._alike.sendable(data)) is not None:
            self.counted_tokens += 1
            return sendable
        if data.strip() == DONE:
            return self._done()
        chunk = parse(data)
        choices = sound_choices(chunk)
        for choice in choices:
            self._note(choice)
        if usage := chunk.get("usage"):
            self.usage = Usage.parse(usage) or self.usage
            if not choices and not self.form.wants_usage:
                self._add_what_is_not_usage(chunk)
                return b""
        self._last = chunk
        before, sendable = self._release(), self._renamer.event(data, chunk)
        if (usage and not choices) or len(self._finished) >= self.form.choices:
            # Whatever comes now is read, so that it stays behind what is held back.
            self._held_back, self._alike = sendable, _Alike()
            return before
        if len(choices) == 1 and not usage and not choices[0].get("finish_reason"):
            self._alike.learn(data, sendable, _text_of(choices[0]))
        return before + sendable

    def _release(self) -> bytes:
        held_back, self._held_back = self._held_back, b""
        return held_back

    def _add_what_is_not_usage(self, chunk: dict[str, Any]) -> None:
        """What a backend says on its usage chunk it would have said on the one before, had it not been asked for usage:
        vLLM its `system_fingerprint`."""
        more = {name: value for name, value in chunk.items() if self._last.get(name) is None and name != "usage"}
        if self._held_back and any(value is not None for value in more.values()):
            self._last = {**self._last, **more}
            self._held_back = self._rewritten(self._last)

    def _note(self, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        index = index if type(index) is int else 0
        self._begun.add(index)
        if choice.get("finish_reason"):
            self._finished.add(index)
            self._real = True
        if choice.get("logprobs"):
            self.add_logprobs(choice)
        text = _text_of(choice)
        # Nearly every choice ends here.
        if type(text) is str and 0 < len(text) <= ONE_TOKEN_BYTES and text.isascii():
            self.counted_tokens += 1
            self._real = True
        elif says_something(choice):
            self.counted_tokens += count_streamed_tokens(choice)
            self._real = True

    def _done(self) -> bytes:
        # The record on the last chunk says so, too.
        self._ended = self.complete = True
        return self._last_chunk() + b"data: [DONE]\n\n"

    def _end_of_body(self) -> bytes:
        whole = len(self._finished) >= self.form.choices and self._begun <= self._finished
        pending = self._splitter.pending
        # Some leave out the empty line behind their last event, and it says so all the same.
        if whole and (not pending or self._splitter.unended.strip() == DONE):
            self.done_added = not pending
            return self._done()
        return super()._end_of_body()

    def _error_event(self, error: UpstreamError) -> bytes:
        return self._release() + error_event(error)

    def _last_chunk(self) -> bytes:
        """What was held back with what is attached to it; a chunk of its own for that where nothing was."""
        held_back, record = self._release(), self._attached()
        if record is None:
            return held_back
        last = self._last
        if not held_back:
            last = {name: last[name] for name in ("id", "object", "created") if name in last} | {"choices": []}
        return b"data: %b\n\n" % with_record({**last, "model": self.form.model}, record)

    def _rewritten(self, chunk: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % dump({**chunk, "model": self.form.model})


def _text_of(choice: dict[str, Any]) -> object:
    delta = choice.get("delta")
    return delta.get("content") if type(delta) is dict else choice.get("text")


# A JSON string of one token: printable ASCII without quotes and backslashes, so that nothing in it is escaped.
_PLAIN = re.compile(rb'"[ !#-\[\]-~]{1,%d}"' % ONE_TOKEN_BYTES)


class _Alike:
    """Recognises events that differ from one that was read in nothing but a token of plain text.

    Most events of a stream are like that. Reading each would cost three times as much, and bring nothing new.
    """

    __slots__ = ("_after", "_before", "_line_after", "_line_before", "_our_after", "_our_before")

    def __init__(self) -> None:
        # No event begins like this.
        self._before = self._line_before = b"\n"
        self._after = self._line_after = self._our_before = self._our_after = b""

    def line(self, piece: bytes) -> bytes | None:
        """What the caller gets for a piece that is one whole event which is alike; None for any other."""
        if not (piece.startswith(self._line_before) and piece.endswith(self._line_after)):
            return None
        text = piece[len(self._line_before) : len(piece) - len(self._line_after)]
        return self._our_before + text + self._our_after if _PLAIN.fullmatch(text) else None

    def sendable(self, data: bytes) -> bytes | None:
        """What the caller gets for an event that is alike; None for any other."""
        if not (data.startswith(self._before) and data.endswith(self._after)):
            return None
        text = data[len(self._before) : len(data) - len(self._after)]
        return self._our_before + text + self._our_after if _PLAIN.fullmatch(text) else None

    def learn(self, data: bytes, sendable: bytes, text: object) -> None:
        """Take this event, which is sent like that and says this text, as the one to compare with."""
        if type(text) is not str or not text:
            return
        value = dump(text)
        if data.count(value) == 1 == sendable.count(value):
            self._before, self._after = data.split(value)
            self._line_before, self._line_after = b"data: " + self._before, self._after + b"\n\n"
            self._our_before, self._our_after = sendable.split(value)
