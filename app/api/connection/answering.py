"""One call, answered: its body becomes a request, the gateway answers that, and what it says is written as it comes.

A caller who leaves cancels this, wherever it is; what was held is given back then as at any other end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from app.api.bodies.strict_json import parse_object
from app.api.call import Call
from app.api.connection.doors import Doors
from app.api.errors import error_body, internal
from app.api.operations import Operation
from app.domain.request import Request
from app.errors import CallerError, GatewayError
from app.upstream.answers.base_answer import Sink
from app.upstream.served import Served

JSON = {"content-type": "application/json"}


class Line(Sink, Protocol):
    """The caller's end of the connection: what is written reaches him in order, one answer."""

    begun: bool
    """Whether something of the answer was written."""

    def write_whole(self, status: int, headers: Mapping[str, str], request_id: str, body: bytes) -> None:
        """Write a whole answer."""

    def begin(self, headers: Mapping[str, str], request_id: str) -> None:
        """Write the head of a stream, together with its first piece."""

    def end(self) -> None:
        """End a stream, unless its last piece did."""

    def cut(self) -> None:
        """Close the connection in the middle of an answer."""


async def answer(doors: Doors, call: Call, operation: Operation, body: bytes, line: Line) -> None:
    """Answer a call whose body has arrived."""
    try:
        call.gateway.look(call.key)
        request = _asked(operation, body, call)
        call.begun = True
        served = await call.gateway.complete(request, call.key)
        try:
            await _send(served, call.request_id, line)
        finally:
            served.answer.close()
    except GatewayError as exc:
        doors.count(exc, call, call.request_id)
        refuse(exc, call.request_id, line)
    except Exception as exc:  # noqa: BLE001 - the last handler of all
        doors.crashed(exc, call.request_id)
        refuse(internal(call.request_id), call.request_id, line)


def _asked(operation: Operation, body: bytes, call: Call) -> Request:
    """What a body asks for."""
    try:
        return operation.parse(parse_object(body), call)
    except CallerError:
        call.gateway.refused(call.key)
        raise


def refuse(error: GatewayError, request_id: str, line: Line) -> None:
    """Answer with an error. A begun answer cannot be mended: its connection is cut."""
    if line.begun:
        line.cut()
    else:
        line.write_whole(error.status, JSON | error.headers(), request_id, error_body(error))


async def _send(served: Served, request_id: str, line: Line) -> None:
    headers = served.headers()
    if served.answer.form.stream:
        await _send_stream(served, headers, request_id, line)
    else:
        line.write_whole(served.answer.status, headers, request_id, await served.answer.whole())


async def _send_stream(served: Served, headers: Mapping[str, str], request_id: str, line: Line) -> None:
    line.begin(headers, request_id)
    await served.answer.relay(line)
    line.end()
