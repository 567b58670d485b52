"""A plain answer: one JSON object, read whole before the caller sees anything of it."""

from __future__ import annotations

from app.domain.usage import Usage
from app.errors import UpstreamBroken
from app.upstream.base_answer import Answer, Form
from app.upstream.payload import Renamer, count_tokens, dump, parse, sound_choices


class PlainAnswer(Answer):
    """One JSON object, read whole before the caller sees anything."""

    def __init__(self, form: Form, body: bytes) -> None:
        super().__init__(form)
        self._parsed = parse(body)
        sound_choices(self._parsed)
        if not isinstance(self._parsed.get("choices"), list):
            raise UpstreamBroken("the backend's answer has no choices")
        self._body = Renamer(form.model).rename(body, self._parsed)
        self.usage = Usage.parse(self._parsed.get("usage"))
        self.counted_tokens = count_tokens(self._parsed) if self.usage is None else self.usage.output_tokens
        self._handed_over = False

    @property
    def body(self) -> bytes:
        if self._record is None:
            return self._body
        return dump({**self._parsed, "model": self.form.model, "thalamus": self._record()})

    async def __anext__(self) -> bytes:
        if self._handed_over or self._closed:
            self.close()
            raise StopAsyncIteration
        self._handed_over = True
        self.complete = True
        return self.body
