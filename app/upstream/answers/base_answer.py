"""What every answer is: bytes for the caller, what became of them, and what is given back at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from app.domain.frozen import frozen
from app.domain.request import Operation
from app.domain.usage import Usage
from app.errors import GatewayError, UpstreamError
from app.upstream.answers.payload import dump, logprobs_of


@frozen
class Form:
    """What the caller asked for, as far as the form of the answer depends on it."""

    model: str
    """The name that the caller sees in place of the backend's."""
    stream: bool
    choices: int = 1
    wants_usage: bool = False
    """Whether a stream's caller asked for the usage chunk; the backend is always asked for it."""
    operation: Operation = "chat"
    echoes: bool = False
    """Whether an answer begins with its prompt, whose tokens are told with the answer's."""


class Sink(Protocol):
    """Where a stream goes."""

    @property
    def is_full(self) -> bool:
        """Whether the caller reads more slowly than is written."""
        ...

    def write_piece(self, piece: bytes, *, last: bool) -> None:
        """Write a piece, and the end with the last one."""

    async def writable(self) -> None:
        """Wait while it is full."""


def with_record(payload: Mapping[str, Any], record: bytes) -> bytes:
    """This object of an answer, which is not empty, and what is added to it."""
    others = {name: value for name, value in payload.items() if name != "thalamus"}
    return b'%b,"thalamus":%b}' % (dump(others)[:-1], record)


class Answer:
    """Bytes for the caller, and what became of them. Iterate at most once; close always."""

    status = 200
    content_type = "application/json"
    usage: Usage | None = None
    """As the backend reported it, else None."""
    counted_tokens = 0
    """Output tokens as far as the gateway can tell from what passed."""
    logprob_sum, logprobs = 0.0, 0
    """Of the tokens for which the backend told one."""
    error: GatewayError | None = None
    """What ended a begun answer."""
    complete = False
    """Whether the caller was handed all of it, without an error."""
    done_added = False
    """Whether the backend forgot the `[DONE]` of a stream that was whole."""
    _record: Callable[[], Mapping[str, Any]] | None = None
    _unrecorded: Callable[[Exception], None] | None = None
    _closed = False

    def __init__(self, form: Form) -> None:
        self.form = form
        self._closers: list[Callable[[Answer], None]] = []

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability of the answer's tokens; None where the answer does not tell it, or of others too."""
        return self.logprob_sum / self.logprobs if self.logprobs and not self.form.echoes else None

    def add_logprobs(self, choice: Mapping[str, Any]) -> None:
        """Those of one choice, or of a piece of it."""
        found = logprobs_of(choice)
        self.logprob_sum += sum(found)
        self.logprobs += len(found)

    def attach(
        self, record: Callable[[], Mapping[str, Any]], failed: Callable[[Exception], None] | None = None
    ) -> None:
        """Add this object to the answer as `thalamus`: in a plain body, or on the last chunk of a stream.

        `failed` hears why it cannot be made; the answer goes without it then.
        """
        self._record, self._unrecorded = record, failed

    def on_close(self, closer: Callable[[Answer], None]) -> None:
        """Call this when the answer is closed; the latest first, as with nested blocks."""
        self._closers.append(closer)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        raise NotImplementedError

    async def whole(self) -> bytes:
        """All of it, when it is no stream."""
        return b"".join([piece async for piece in self])

    async def relay(self, sink: Sink) -> None:
        """Write all of it as it comes, at the caller's pace."""
        async for piece in self:
            sink.write_piece(piece, last=self.complete or self.error is not None)
            await sink.writable()

    def cut(self, error: UpstreamError) -> None:
        """End it before its time; what is left of a stream is this error. An answer that is whole is not touched."""

    async def aclose(self) -> None:
        """Cut the exchange if it still runs, and give back what the answer held. Does not wait for anything."""
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # They hold what holds the answer: let go of here, all of it goes at once, not when garbage is collected.
        closers, self._closers = self._closers, []
        try:
            self._end_exchange()
        finally:
            self._call(closers)

    def _call(self, closers: list[Callable[[Answer], None]]) -> None:
        """Call all of them, whatever one does; what the first that fails raises is raised in the end."""
        failure: Exception | None = None
        for closer in reversed(closers):
            try:
                closer(self)
            except Exception as exc:  # noqa: BLE001 - what the others give back would be lost for ever
                failure = failure or exc
        if failure is not None:
            raise failure

    def _attached(self) -> bytes | None:
        """What is added to the answer. That it cannot be made is a bug of ours, and no fault of the backend."""
        if self._record is None:
            return None
        try:
            return dump(self._record())
        except Exception as exc:  # noqa: BLE001 - whatever it is, the answer is good, and paid for
            if self._unrecorded is not None:
                self._unrecorded(exc)
            return None

    def _end_exchange(self) -> None:
        """Give the connection back."""
