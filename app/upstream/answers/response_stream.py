"""The stream of a response: named events up to the one that brings the whole of it, with its usage.

It differs from a stream of chunks in that events say what they are, in their JSON and in a line of their own; that the
model is named inside the response that some of them bring; and that there is no `[DONE]`.
"""

from __future__ import annotations

import re
from typing import Any

from app.domain.usage import Usage
from app.errors import UpstreamBroken, UpstreamDisconnected, UpstreamError
from app.upstream.answers.base_answer import Form, with_record
from app.upstream.answers.payload import Renamer, count_text_tokens, dump, error_object, names_of_models, parse
from app.upstream.answers.plain_answer import UNFINISHED
from app.upstream.answers.stream_answer import StreamAnswer
from app.upstream.answers.told import ToldFailure, check_told
from app.upstream.http.exchange import Exchange, Pace

# The first events repeat the instructions and tools of the request, the last one all of the answer.
MAX_EVENT_BYTES = 8 << 20
# What counts further has not counted events, and has perhaps more digits than can be written.
MOST_EVENTS = 10**9
_KIND = re.compile("[a-z0-9_.]{1,100}")
_WHOLE = frozenset({"response.completed", "response.incomplete"})
_BROKEN = frozenset({"error", "response.failed", "response.cancelled"})
_DONE = b"[DONE]"


class ResponseStream(StreamAnswer):
    """Events under the caller's name of the model. What the backend says of its own failures stays here."""

    max_event_bytes = MAX_EVENT_BYTES

    def __init__(self, form: Form, exchange: Exchange, pace: Pace) -> None:
        super().__init__(form, exchange, pace)
        self._renamer = Renamer(form.model)
        self._sequence_number = -1

    def _event(self, data: bytes) -> bytes:
        if data.strip() == _DONE:
            return self._end_of_body()
        event = parse(data)
        check_told(event)
        kind = event.get("type")
        if not isinstance(kind, str) or not _KIND.fullmatch(kind):
            raise UpstreamBroken("the backend sent an event that does not say what it is")
        if kind in _BROKEN:
            raise ToldFailure(_error_of(event))
        self._note(kind, event)
        number = event.get("sequence_number")
        if type(number) is int and 0 <= number <= MOST_EVENTS:
            self._sequence_number = number
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), self._shown(kind, data, event))

    def _note(self, kind: str, event: dict[str, Any]) -> None:
        if kind.endswith(".delta"):
            delta = event.get("delta")
            self.counted_tokens += count_text_tokens(delta) if isinstance(delta, str) else 1
            self._real = self._real or bool(delta)
        elif kind.endswith(".done"):
            # A function without arguments has no delta.
            self._real = True
        elif kind in _WHOLE:
            self._finish(event.get("response"))

    def _finish(self, response: object) -> None:
        if not isinstance(response, dict):
            raise UpstreamBroken("the backend's last event has no response")
        if response.get("status") in UNFINISHED:
            raise UpstreamDisconnected("the backend stopped before the answer was complete")
        self.usage = Usage.parse(response.get("usage"))
        self._real = self._ended = self.complete = True

    def _shown(self, kind: str, data: bytes, event: dict[str, Any]) -> bytes:
        response = event.get("response")
        if "model" in event:
            event["model"] = self.form.model
        if kind in _WHOLE and (record := self._attached()) is not None:
            event["response"]["model"] = self.form.model
            return with_record(event, record)
        if isinstance(response, dict):
            return self._renamer.rename(data, event, response)
        return data if b"\n" not in data and not names_of_models(data) else dump(event)

    def _error_event(self, error: UpstreamError) -> bytes:
        # The flat fields are those of the API; at the object inside OpenAI's client raises, as with other streams.
        told = {"code": error.code, "message": error.message, "param": error.param}
        event = {"type": "error", **told, "sequence_number": self._sequence_number + 1, "error": error_object(error)}
        return b"event: error\ndata: %b\n\n" % dump(event)


def _error_of(event: dict[str, Any]) -> object:
    """The error of an event that brings one: it is the event itself, or in its response."""
    response = event.get("response")
    return response.get("error") if isinstance(response, dict) else event
