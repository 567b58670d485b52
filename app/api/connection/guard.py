"""The strict front: what the head of an HTTP/1.x request must look like, by RFC 9110 and 9112 or stricter.

How it works: two expressions describe the only heads that pass, so that whatever they do not foresee is refused. Only a
head that fails them is looked at more closely, to say what is wrong with it. Then the few fields that decide where a
request ends and whom it is for are read. Everything here is pure: bytes in, a `Head` or `Refused` out. Only `Heads`
remembers: what a connection sends again, but for the length of its body, was checked already.

Stricter than the RFCs where no client that we know of needs more: only the path as target (and `OPTIONS *`), no name
with an underscore, no second Content-Length even if equal, no transfer coding but `chunked`, nothing in Connection that
could take a field away from whoever reads it next. Upgrade is ignored, as a server may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

from app.api.bodies.steering import HOP_HEADER
from app.domain.frozen import frozen
from app.domain.vocabulary import HEADER_PREFIX, VOCABULARY
from app.errors import CallerError

MAX_HEAD_BYTES = 32 << 10
MAX_REQUEST_LINE_BYTES = 8 << 10
MAX_HEADERS = 100
MAX_HEADER_BYTES = 8 << 10

# RFC 9112 section 3 with the target in origin-form (RFC 9110 section 7.1). One empty line before it is let pass, as
# section 2.2 asks: old clients send one too many after a body.
_PATH = r"/[\w\-.~!$&'()*+,;=:@/?]*+(?:%[0-9A-Fa-f]{2}[\w\-.~!$&'()*+,;=:@/?]*+)*"
_REQUEST_LINE = re.compile(
    r"(?:\r\n)?(?!CONNECT )([A-Z]{1,16}) (" + _PATH + r"|(?<=OPTIONS )\*) HTTP/1\.([01])\r\n", re.ASCII
)
# RFC 9112 section 5, without line folding; a name is a token (RFC 9110 section 5.6.2) without `_`.
NAME = r"[A-Za-z0-9\-!#$%&'*+.^`|~]"
_FIELD = re.compile(r"(?<=\n)(" + NAME + r"++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)\r\n")
_HOST = re.compile(r"(?:[A-Za-z0-9\-._~]{1,255}|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?")
# More digits than any body has. A leading zero is octal to some parsers.
_LENGTH = re.compile(r"0|[1-9][0-9]{0,14}")
# The line with the length, below another line. Any such line may be added to a sound head that has none. With the line
# break in front it is found in a tenth of the time.
_LENGTH_LINE = re.compile(rb"\r\n(?<=[^\r\n]\r\n)content-length: ([1-9][0-9]{0,14})(?=\r\n)", re.IGNORECASE)
# Of longer heads the size has to be looked at each time.
_REMEMBERED_BYTES = 4 << 10
_ONCE = frozenset({"host", "content-length", "transfer-encoding", "content-type", "authorization", *VOCABULARY.single})
# What Connection may say; any other name in it could be that of a field which somebody relies on.
_CONNECTION_OPTIONS = frozenset({"close", "keep-alive", "te", "upgrade", "http2-settings", "proxy-connection"})

_VERSION = re.compile(r"[A-Z]+ \S+ HTTP/[0-9](?:\.[0-9])?")
_BROKEN = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FAULTS = (
    (re.compile(r"(?<!\r)\n"), "a line ends in LF alone; end lines in CR LF"),
    (re.compile(r"\r(?!\n)"), "there is a CR without LF; end lines in CR LF"),
    (re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "there is a control character in the head; leave it out"),
    (re.compile(r"\r\n[ \t]"), "a header is folded over several lines; write it in one"),
    (re.compile(r"\n[^:\r\n]*[ \t]:"), "there is a space between the name of a header and its colon; leave it out"),
    (re.compile(r"\n[^:\r\n_]*+_[^:\r\n]*+:"), "the name of a header has an underscore; write a hyphen"),
)


class Refused(CallerError):
    """A request that ends its connection: where the next one begins is not to be trusted."""

    def __init__(
        self, message: str, status: int = 400, code: str = "invalid_request", param: str | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.status = status  # type: ignore[misc]  # one class for all that is wrong with a head
        self.code = code


@frozen
class Head:
    """What a request's head says."""

    method: str
    target: str
    """The path and the query, as sent; `*` for OPTIONS."""
    version: str
    """1.0 or 1.1."""
    headers: dict[str, str]
    """What is left of them after `clean_headers`. Names in lower case, values as Latin-1 without the space around them;
    of a name that occurs twice, the values joined by a comma."""
    content_length: int | None
    chunked: bool
    keep_alive: bool
    """Whether another request may follow."""
    expect_continue: bool
    """Whether the client waits for `100 Continue` before it sends the body."""


def check_head(head: bytes | bytearray) -> Head:
    """What a head says, from the request line up to and including the empty line.

    Raises:
        Refused: the message says what is wrong.
    """
    text = head.decode("latin-1")
    line = _REQUEST_LINE.match(text)
    if line is None:
        raise _refusal(text)
    fields = _FIELD.findall(text, line.end())
    # Each field found is a whole line, so that no line is anything else when there are as many.
    if text.count("\n", line.end()) != len(fields) + 1 or not text.endswith("\r\n\r\n"):
        raise _refusal(text)
    if len(text) > MAX_HEADER_BYTES or len(fields) > MAX_HEADERS:
        _check_sizes(text, line.end(), fields)
    headers = {name.lower(): value for name, value in fields}
    if len(headers) != len(fields) or " \r" in text or "\t" in text:
        headers = _joined(fields)
    method, target, minor = line.groups()
    return _head(method, target, headers, modern=minor == "1")


def _head(method: str, target: str, headers: dict[str, str], *, modern: bool) -> Head:
    find = headers.get
    host, length, coding, expect = find("host"), find("content-length"), find("transfer-encoding"), find("expect")
    if host is not None:
        _check_host(host)
    elif modern:
        raise Refused("the header host is missing")
    if expect is not None and expect.lower() != "100-continue":
        raise Refused("the header expect may only say 100-continue", 417)
    return Head(
        method,
        target,
        "1.1" if modern else "1.0",
        clean_headers(headers),
        None if length is None else _length(length),
        coding is not None and _is_chunked(coding, alone=length is None, modern=modern),
        _keeps_alive(find("connection", "")) and modern,
        expect is not None and modern,
    )


class Heads:
    """The heads of one connection, which are mostly all alike."""

    __slots__ = ("_found", "_rest")

    def __init__(self) -> None:
        self._found: Head | None = None
        self._rest = b""
        """The last head without the line with its length, which `_found` was read from."""

    def check(self, head: bytes) -> Head:
        """What `check_head` says.

        Raises:
            Refused: as that does.
        """
        line = _LENGTH_LINE.search(head)
        if line is None or len(head) > _REMEMBERED_BYTES:
            return check_head(head)
        rest = head[: line.start()] + head[line.end() :]
        found = self._found
        if found is None or rest != self._rest:
            self._found, self._rest = check_head(head), rest
            return self._found
        length = line[1].decode()
        headers = {**found.headers, "content-length": length}
        # With a length, nothing is chunked.
        return Head(
            found.method,
            found.target,
            found.version,
            headers,
            int(length),
            False,
            found.keep_alive,
            found.expect_continue,
        )


def end_of_head(buffer: bytes | bytearray, searched: int = 0) -> int:
    """Where the head at the start of a buffer ends, its empty line included; -1 while it goes on.

    `searched` is the length of the buffer when it was last asked about.

    Raises:
        Refused: whatever may still come, this head is too long, or not one.
    """
    end = buffer.find(b"\r\n\r\n", max(searched - 3, 0), MAX_HEAD_BYTES)
    if end > 0:
        return end + 4
    _check_unfinished(buffer, searched)
    if len(buffer) >= MAX_HEAD_BYTES:
        raise _too_long_a_head()
    return -1


def _check_unfinished(buffer: bytes | bytearray, searched: int) -> None:
    """Refuse at once what cannot become a head: nobody is to hold a connection with it until a deadline."""
    line_end = buffer.find(b"\r\n", 2, MAX_REQUEST_LINE_BYTES + 4)
    if line_end == -1 and len(buffer) > MAX_REQUEST_LINE_BYTES + 4:
        raise _too_long_a_line()
    if _BROKEN.search(buffer, max(searched - 1, 0)):
        raise _refusal(buffer.decode("latin-1"))
    is_new = searched < line_end + 2
    if line_end != -1 and is_new and not _REQUEST_LINE.match(buffer[: line_end + 2].decode("latin-1")):
        raise _refusal(buffer.decode("latin-1"))


def _refusal(text: str) -> Refused:
    """What is wrong with a head that is not one."""
    for pattern, message in _FAULTS:
        if pattern.search(text):
            return Refused(message)
    if _REQUEST_LINE.match(text):
        return Refused("a header is not of the form name: value")
    line = text.removeprefix("\r\n").partition("\r\n")[0]
    if _VERSION.fullmatch(line) and not line.endswith((" HTTP/1.1", " HTTP/1.0")):
        return Refused("the version must be HTTP/1.1 or HTTP/1.0", 505)
    if line.startswith("CONNECT "):
        return Refused("there are no tunnels here; send the request itself", 501)
    return Refused("the first line must be METHOD /path HTTP/1.1, with what is not ASCII in the path as %XX")


def _too_long_a_head() -> Refused:
    return _too_large(f"the head is larger than {MAX_HEAD_BYTES} bytes; send fewer or shorter headers")


def _too_large(message: str) -> Refused:
    return Refused(message, 431, "too_large")


def _too_long_a_line() -> Refused:
    return Refused(f"the first line is longer than {MAX_REQUEST_LINE_BYTES} bytes; shorten the path", 414, "too_large")


def _check_sizes(text: str, line_bytes: int, fields: list[tuple[str, str]]) -> None:
    if len(text) > MAX_HEAD_BYTES:
        raise _too_long_a_head()
    if line_bytes > MAX_REQUEST_LINE_BYTES + 2:
        raise _too_long_a_line()
    if len(fields) > MAX_HEADERS:
        raise _too_large(f"there are more than {MAX_HEADERS} headers; send fewer")
    if any(len(name) + len(value) > MAX_HEADER_BYTES for name, value in fields):
        raise _too_large(f"a header is larger than {MAX_HEADER_BYTES} bytes; shorten it")


def _joined(fields: list[tuple[str, str]]) -> dict[str, str]:
    """RFC 9110 section 5.3: fields of one name are one list, unless there may be only one."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.lower(), raw_value.rstrip(" \t")
        if name in headers and name in _ONCE:
            raise Refused(f"the header {name} occurs twice; send it once", param=name)
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


@lru_cache(maxsize=64)
def _check_host(host: str) -> None:
    """RFC 9110 section 7.2: a name or an address, and perhaps a port; nothing that another reader takes apart
    otherwise."""
    match = _HOST.fullmatch(host)
    if match is None or (match[2] and int(match[2]) > 65535):
        raise Refused("the header host must be a name or an address, with or without a port")
    if match[1]:
        try:
            IPv6Address(match[1])
        except AddressValueError as exc:
            raise Refused("the header host must have an IPv6 address in its brackets") from exc


def _length(text: str) -> int:
    if _LENGTH.fullmatch(text) is None:
        raise Refused("the header content-length must be a number of at most 15 digits")
    return int(text)


def _is_chunked(coding: str, *, alone: bool, modern: bool) -> bool:
    """RFC 9112 section 6.1. What the message says in two ways, two readers may read in two ways."""
    if not alone:
        raise Refused("there are both content-length and transfer-encoding; send one of them")
    if not modern:
        raise Refused("transfer-encoding is not for HTTP/1.0; send content-length")
    if coding.lower() == "chunked":
        return True
    status = 400 if not coding or "chunked" in coding.lower() else 501
    raise Refused("the header transfer-encoding must be chunked, or be left out", status)


def _keeps_alive(connection: str) -> bool:
    if connection in ("", "keep-alive"):
        return True
    options = {option.strip(" \t") for option in connection.lower().split(",")}
    if not options <= _CONNECTION_OPTIONS:
        raise Refused("the header connection may only say close, keep-alive, te or upgrade")
    return "close" not in options


# Of what could be mistaken for our own words or those of a proxy of ours, a caller may say only this.
_OURS = frozenset({*VOCABULARY.headers, HOP_HEADER})
_MISTAKABLE = (HEADER_PREFIX, "forwarded", "x-forwarded-", "x-envoy-", "proxy-")
_CONNECTION_S = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings", "expect"}
)
REQUEST_ID = re.compile("[A-Za-z0-9_-]{1,64}")


def clean_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers without what is about the connection, speaks for others, or speaks in our name and is not documented;
    without a request id that is none."""
    clean = {
        name: value
        for name, value in headers.items()
        if name not in _CONNECTION_S and (name[0] not in "xfp" or name in _OURS or not name.startswith(_MISTAKABLE))
    }
    if "x-request-id" in clean and not REQUEST_ID.fullmatch(clean["x-request-id"]):
        del clean["x-request-id"]
    return clean
