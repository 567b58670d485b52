"""What passes the strict front, and what it makes of it; the corpus of odd HTTP, without a socket."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.connection.chunked import MAX_OVERHEAD_BYTES, ChunkedBody
from app.api.connection.guard import MAX_HEAD_BYTES, Head, Heads, Refused, check_head, clean_headers, end_of_head
from tests.fakes.probes import Probe, good_request, probes

GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"


def read(data: bytes) -> tuple[int, bool]:
    """How many requests a connection brings, and whether it ends with something that is none."""
    count = 0
    try:
        while (end := end_of_head(data)) != -1:
            head = check_head(data[:end])
            data = after_body(head, data[end:])
            count += 1
            if not head.keep_alive:
                break
    except Refused:
        return count, True
    return count, False


def after_body(head: Head, data: bytes) -> bytes:
    if not head.chunked:
        return data[head.content_length or 0 :]
    body = ChunkedBody()
    body.feed(data)
    assert body.done
    return body.rest


@pytest.mark.parametrize("probe", probes(), ids=lambda probe: probe.name)
def test_the_corpus_is_refused_or_read_in_one_way(probe: Probe) -> None:
    count, refused = read(probe.sent)
    if probe.refused:
        assert (count, refused) == (0, True)
    else:
        assert 1 <= count + refused <= probe.answers
        assert count >= 1


def test_the_corpus_has_names_of_its_own_and_is_large() -> None:
    names = [probe.name for probe in probes()]
    assert len(names) == len(set(names)) >= 200
    assert {probe.level for probe in probes()} == {"must", "should"}


def test_a_head_says_all_that_is_needed() -> None:
    head = check_head(b"POST /v1/x?y=z HTTP/1.1\r\nHost: a:1\r\nX-A:  b \r\nx-a: c\r\nContent-Length: 12\r\n\r\n")
    headers = {"host": "a:1", "x-a": "b,c", "content-length": "12"}
    assert head == Head("POST", "/v1/x?y=z", "1.1", headers, 12, False, True, False)


@pytest.mark.parametrize("name", ["max-cost-usd", "session-id", "Explain", "max-quality-loss", "min-security"])
def test_headers_that_have_one_value_come_once(name: str) -> None:
    line = f"x-thalamus-{name}: 1\r\n".encode()
    assert check_head(GET + line + b"\r\n").headers[f"x-thalamus-{name.lower()}"] == "1"
    with pytest.raises(Refused, match=f"the header x-thalamus-{name.lower()} occurs twice; send it once") as refused:
        check_head(GET + line + line.replace(b": 1", b": 2") + b"\r\n")
    assert refused.value.param == f"x-thalamus-{name.lower()}"


@pytest.mark.parametrize("name", ["weights", "regions", "licenses", "models", "exclude"])
def test_headers_of_lists_may_come_in_parts(name: str) -> None:
    lines = f"x-thalamus-{name}: a\r\nX-Thalamus-{name}: b\r\n".encode()
    assert check_head(GET + lines + b"\r\n").headers[f"x-thalamus-{name}"] == "a,b"


@pytest.mark.parametrize(
    ("lines", "keeps_alive"),
    [
        (b"", True),
        (b"Connection: keep-alive\r\n", True),
        (b"Connection: Keep-Alive, TE\r\n", True),
        (b"Connection: close\r\n", False),
        (b"Connection: TE\r\nConnection: Close\r\n", False),
    ],
)
def test_a_connection_is_kept_unless_it_is_said_otherwise(lines: bytes, keeps_alive: bool) -> None:
    assert check_head(GET + lines + b"\r\n").keep_alive == keeps_alive


def test_http_1_0_is_closed_after_each_answer_and_expects_nothing() -> None:
    head = check_head(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n")
    assert (head.version, head.keep_alive, head.expect_continue) == ("1.0", False, False)


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "host is missing"),
        (GET + b"X_A: b\r\n\r\n", 400, "underscore"),
        (GET + b"X-A : b\r\n\r\n", 400, "before its colon|and its colon"),
        (GET + b"X-A: b\n\r\n\r\n", 400, "LF alone"),
        (GET + b"X-A: b\rc\r\n\r\n", 400, "CR without LF"),
        (GET + b"X-A: b\x00\r\n\r\n", 400, "control character"),
        (GET + b"X-A: b\r\n c\r\n\r\n", 400, "folded"),
        (GET + b"X-A\r\n\r\n", 400, "name: value"),
        (GET + b"X: %b\r\n\r\n" % (b"x" * 9000), 431, "larger than 8192 bytes"),
        (GET + b"X: a\r\n" * 100 + b"\r\n", 431, "more than 100 headers"),
        (GET + b"X: a\r\n" * 6000 + b"\r\n", 431, "larger than 32768 bytes"),
        (GET + b"Expect: x\r\n\r\n", 417, "100-continue"),
        (GET + b"Transfer-Encoding: gzip\r\n\r\n", 501, "must be chunked"),
        (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400, "must be chunked"),
        (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 9000), 414, "shorten the path"),
        (b"GET / HTTP/2.0\r\n\r\n", 505, "HTTP/1.1 or HTTP/1.0"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 501, "no tunnels"),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "METHOD /path"),
    ],
)
def test_a_refusal_says_what_is_wrong(sent: bytes, status: int, says: str) -> None:
    with pytest.raises(Refused) as refused:
        check_head(sent)
    assert refused.value.status == status
    assert re.search(says, refused.value.message)
    assert refused.value.code == ("too_large" if status in (414, 431) else "invalid_request")


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\nH",
        b"GET /\r\n",
        b"\x16\x03\x01",
        b"\r\n\r\n",
        b"x" * 9000,
        b"GET / HTTP/1.1\r\n" + b"x" * MAX_HEAD_BYTES,
    ],
)
def test_what_cannot_become_a_head_is_refused_at_once(begun: bytes) -> None:
    with pytest.raises(Refused):
        end_of_head(begun)


@pytest.mark.parametrize("begun", [b"GET /\r\n", b"\r\nGET / HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nX: a\n", b"G\x00"])
def test_what_cannot_become_a_head_is_refused_at_once_even_byte_by_byte(begun: bytes) -> None:
    for size in range(1, len(begun)):
        assert end_of_head(begun[:size], searched=size - 1) == -1
    with pytest.raises(Refused):
        end_of_head(begun, searched=len(begun) - 1)


def test_the_end_of_a_head_is_found_however_it_arrives() -> None:
    sent = b"\r\n" + good_request("piecemeal")
    end = sent.index(b"\r\n\r\n") + 4
    for size in range(1, end):
        assert end_of_head(sent[:size], searched=size - 1) == -1
    for searched in range(end):
        assert end_of_head(bytearray(sent), searched) == end


_TOKENS = rb"GET POST / * HTTP/1.1 HTTP/1.0 : Host x Content-Length Transfer-Encoding chunked Connection close 5 , ; _"
_WORDS = st.sampled_from([*_TOKENS.split(), b" ", b"\r\n", b"\n", b"\r", b"\t", b"\x00"])
_ODD = st.one_of(st.binary(max_size=80), st.lists(_WORDS, max_size=30).map(b"".join))


@given(_ODD, _ODD)
def test_whatever_passes_passes_again_when_it_is_written_anew(odd: bytes, more: bytes) -> None:
    for sent in (odd, GET + odd + b"\r\n" + more + b"\r\n\r\n", b"GET /" + odd + b" HTTP/1.1\r\nHost: x\r\n\r\n"):
        try:
            head = check_head(sent)
        except Refused:
            continue
        dropped = {
            "Transfer-Encoding: chunked\r\n": head.chunked,
            "Connection: close\r\n": not head.keep_alive,
            "Expect: 100-continue\r\n": head.expect_continue,
        }
        fields = "".join(line for line, was_there in dropped.items() if was_there)
        fields += "".join(f"{name}: {value}\r\n" for name, value in head.headers.items())
        text = f"{head.method} {head.target} HTTP/{head.version}\r\n{fields}\r\n"
        assert check_head(text.encode("latin-1")) == head
        assert end_of_head(sent) == len(sent)


_LINES = st.sampled_from(
    [b"Content-Length: 5", b"content-length: 77", b"Content-Length: 05", b"Transfer-Encoding: chunked", b"X-A: b", b""]
)


def said_of(check: Callable[[bytes], Head], head: bytes) -> Head | str:
    try:
        return check(head)
    except Refused as exc:
        return exc.message


@given(st.lists(st.lists(_LINES, max_size=4), min_size=2, max_size=5), _ODD)
def test_a_connection_that_remembers_its_last_head_is_as_strict_as_one_that_does_not(
    heads: list[list[bytes]], odd: bytes
) -> None:
    remembering = Heads()
    for lines in (*heads, [odd, b"Content-Length: 7"]):
        for sent in (b"\r\n".join([GET[:-2], *lines, b"", b""]), b"\r\n".join([b"", *lines, GET, b""])):
            assert said_of(remembering.check, sent) == said_of(check_head, sent)


def test_heads_that_differ_in_their_length_only_bring_each_its_own() -> None:
    heads = Heads()
    for length in (5, 12, 5):
        head = heads.check(GET + b"Content-Length: %d\r\n\r\n" % length)
        assert (head.content_length, head.headers["content-length"]) == (length, str(length))


@given(st.lists(st.binary(min_size=1, max_size=300)), st.integers(1, 40), st.binary(max_size=20))
def test_a_chunked_body_is_the_same_however_it_is_cut(chunks: list[bytes], step: int, rest: bytes) -> None:
    sent = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" + rest
    body, read_so_far = ChunkedBody(), b""
    position = 0
    while not body.done:
        read_so_far += body.feed(sent[position : position + step])
        position += step
    assert read_so_far == b"".join(chunks)
    assert body.rest + sent[position:] == rest


@given(_ODD)
def test_a_chunked_body_is_read_or_refused(odd: bytes) -> None:
    body = ChunkedBody()
    try:
        body.feed(b"3\r\nabc\r\n" + odd)
    except Refused:
        assert not body.done


def test_many_small_chunks_are_refused_and_as_many_large_ones_are_not() -> None:
    count = MAX_OVERHEAD_BYTES
    ChunkedBody().feed(b"5\r\nabcde\r\n" * count)
    with pytest.raises(Refused, match="fewer and larger"):
        ChunkedBody().feed(b"1\r\na\r\n" * count)


def test_only_documented_headers_reach_the_gateway() -> None:
    kept = {"authorization": "Bearer x", "x-thalamus-weights": "cost=1", "x-thalamus-hop": "1", "x-request-id": "a-1"}
    dropped = {
        "connection": "te",
        "te": "trailers",
        "expect": "100-continue",
        "forwarded": "for=1.2.3.4",
        "x-forwarded-for": "1.2.3.4",
        "x-forwarded-host": "x",
        "x-envoy-original-path": "/",
        "x-thalamus-model": "large",
        "x-thalamus-upstream": "http://x",
        "proxy-authorization": "Basic x",
    }
    assert clean_headers({**kept, **dropped}) == kept
    fields = "".join(f"{name}: {value}\r\n" for name, value in (kept | dropped).items() if name != "connection")
    assert check_head(GET + fields.encode() + b"\r\n").headers == {"host": "x", **kept}


@pytest.mark.parametrize("request_id", ["", "a b", "a,b", "x" * 65, "é", 'a"'])
def test_a_request_id_that_is_none_is_dropped(request_id: str) -> None:
    assert clean_headers({"x-request-id": request_id, "host": "x"}) == {"host": "x"}
