"""What is wrong on the way to a backend, in a few words for its operator; callers get the neutral ones of the error.

How it works: an `UpstreamError` is raised from the HTTP library's exception, and that one from the system's or from
OpenSSL's. The deepest one that is known here says what is wrong.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from app.errors import UpstreamBroken, UpstreamError, UpstreamTimeout
from app.telemetry.logging import where

# OpenSSL's codes, from x509_vfy.h.
_NAME, _ADDRESS = 62, 64
_CERTIFICATE = {
    9: "its certificate is not valid yet; compare the clocks of both machines",
    10: "its certificate has expired; renew it",
} | dict.fromkeys(
    (2, 18, 19, 20, 21),
    "its certificate is signed by an authority that is not known; name the authority's file in ca_file",
)
# What OpenSSL says of an answer that is not TLS, by its version.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"})


class NoAnswer(UpstreamBroken):
    """The connection ended, or brought something else than HTTP, before an answer began."""


class ClosedIdle(NoAnswer):
    """A connection that had been used before was closed as a request was sent on it, and brought not one byte.

    Most likely its server found that it had been idle for too long, and never saw the request.
    """


class Unreadable(UpstreamBroken):
    """An exception that nobody expected came out of reading an answer, or of writing it again.

    Whatever is odd about the answer, the backend is taken for broken; and that we did not expect it is a bug of ours.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__("the backend's answer could not be read")
        self.where = where(cause)
        """Its kind and places, no values."""


def unreadable(cause: Exception) -> UpstreamBroken:
    """A new error for an answer that cannot be read or written because of this."""
    return UpstreamBroken(cause.message) if isinstance(cause, UpstreamError) else Unreadable(cause)


def why(error: BaseException, url: str) -> str:
    """What is wrong with a backend, as the rest of a sentence that begins with its name or its `url`."""
    if isinstance(error, NoAnswer):
        return f"{error}{'; if it speaks TLS, write https://' if url.startswith('http:') else ''}"
    if isinstance(error, UpstreamTimeout):
        return str(error)
    said = (_known(cause, url) for cause in _deepest_first(error))
    return next((words for words in said if words), str(error))


def is_for_another_name(error: BaseException) -> bool:
    """Whether the backend's certificate is sound, and another server's."""
    return any(getattr(cause, "verify_code", None) in (_NAME, _ADDRESS) for cause in _deepest_first(error))


def is_about_tls(error: BaseException) -> bool:
    """Whether the backend and we cannot agree on TLS: every further try would fail the same way."""
    return any(isinstance(cause, ssl.SSLError) for cause in _deepest_first(error))


def _deepest_first(error: BaseException) -> Iterator[BaseException]:
    if error.__cause__ is not None:
        yield from _deepest_first(error.__cause__)
    yield error


def _known(cause: BaseException, url: str) -> str | None:
    parts = urlsplit(url)
    match cause:
        case ssl.SSLCertVerificationError(verify_code=code):
            if code in (_NAME, _ADDRESS):
                return f"its certificate is not for {parts.hostname!r}"
            return _CERTIFICATE.get(code, f"its certificate is not accepted: {cause.verify_message}")
        case ssl.SSLError(reason=reason):
            if reason in _NOT_TLS:
                return "does not speak TLS on this port; write http://, or correct the port"
            return f"TLS fails: {str(reason).lower().replace('_', ' ')}"
        case socket.gaierror():
            return f"the name {parts.hostname!r} is not known here; correct it, or the resolver"
        case ConnectionRefusedError():
            return "refuses connections; does it run, and on this port?"
        case TimeoutError():
            tls = ", and does it speak TLS" if parts.scheme == "https" else ""
            return f"does not take a connection in time; is the port open to this machine{tls}?"
        case ConnectionError():
            return "breaks the connection off while it is made"
        case OSError(errno=int(), strerror=str(words)):
            return f"cannot be connected to: {words}"
        case OSError(errno=None, args=(str(words),)):
            return words
    return None
