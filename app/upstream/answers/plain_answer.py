"""A plain answer: one JSON object, read whole before the caller sees anything of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.domain.request import Operation
from app.domain.usage import Usage
from app.errors import UpstreamBroken, UpstreamDisconnected, unraised
from app.upstream.answers.base_answer import Answer, Form, with_record
from app.upstream.answers.payload import BYTES_PER_TOKEN, Renamer, count_tokens, dump, parse, sound_choices
from app.upstream.answers.told import check_told
from app.upstream.http.faults import unreadable

WITH_LOGPROBS = frozenset({"chat", "completion"})
# States of a response in which there is no answer, or not all of it.
UNFINISHED = ("failed", "cancelled", "in_progress", "queued")


class PlainAnswer(Answer):
    """One JSON object, read whole before the caller sees anything."""

    def __init__(self, form: Form, body: bytes) -> None:
        super().__init__(form)
        self._parsed = parsed = parse(body)
        check, count = _KINDS[form.operation]
        check(parsed)
        self.usage = Usage.parse(parsed.get("usage"), has_output=form.operation != "embeddings")
        self.counted_tokens = count(parsed) if self.usage is None else self.usage.output_tokens
        for choice in parsed.get("choices") or () if form.operation in WITH_LOGPROBS else ():
            if type(choice) is dict and choice.get("logprobs"):
                self.add_logprobs(choice)
        self._body = Renamer(form.model).rename(body, parsed)
        self._handed_over = False

    async def whole(self) -> bytes:
        # The record in the body says so, too.
        self._handed_over = self.complete = True
        try:
            record = self._attached()
            return self._body if record is None else with_record({**self._parsed, "model": self.form.model}, record)
        except Exception as exc:
            self.complete = False
            # What is kept is not what is raised, which will refer to us.
            self.error = unraised(unreadable(exc))
            raise unreadable(exc) from exc

    async def __anext__(self) -> bytes:
        if self._handed_over or self._closed:
            self.close()
            raise StopAsyncIteration
        return await self.whole()


def _check_choices(parsed: Mapping[str, Any]) -> None:
    if not sound_choices(parsed):
        raise UpstreamBroken("the backend's answer has no choices")


def _check_response(parsed: Mapping[str, Any]) -> None:
    check_told(parsed)
    if parsed.get("status") in UNFINISHED:
        raise UpstreamDisconnected("the backend stopped before the answer was complete")
    if not isinstance(parsed.get("output"), list):
        raise UpstreamBroken("the backend's answer has no output")


def _check_embeddings(parsed: Mapping[str, Any]) -> None:
    check_told(parsed)
    if not isinstance(parsed.get("data"), list):
        raise UpstreamBroken("the backend's answer has no embeddings")


def _count_output(parsed: Mapping[str, Any]) -> int:
    """About how many tokens the output of a response has."""
    return len(dump(parsed["output"])) // BYTES_PER_TOKEN


_KINDS: Mapping[Operation, tuple[Callable[[dict[str, Any]], None], Callable[[dict[str, Any]], int]]] = {
    "chat": (_check_choices, count_tokens),
    "completion": (_check_choices, count_tokens),
    "responses": (_check_response, _count_output),
    "embeddings": (_check_embeddings, lambda _: 0),
}
