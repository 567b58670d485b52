"""Heads of answers, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from app.api.errors import ALWAYS

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_ALWAYS = b"".join(b"%b: %b\r\n" % header for header in ALWAYS)


def head(status: int, headers: Mapping[str, str], request_id: str, framing: bytes) -> bytes:
    """The head of an answer; `framing` are whole lines on its length, its connection and its date.

    Names and values are ours, or were checked to hold no line break.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return b"%b%bx-request-id: %b\r\n%b%b\r\n" % (
        _STATUS[status],
        lines.encode("latin-1"),
        request_id.encode(),
        _ALWAYS,
        framing,
    )
