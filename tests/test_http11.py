"""``syncws.http11``: request and response heads, cut in every way.

The server's answers to malformed requests (section 4.E of the reliability catalogue)
are in ``test_handshake_server.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
from feeding import only_outcome
from hypothesis import given
from hypothesis import strategies as st

from syncws.exceptions import InvalidMessage, SecurityError
from syncws.headers import Headers
from syncws.http11 import MAX_BODY_SIZE, Request, RequestParser, Response, ResponseParser

GOOD_REQUESTS = [
    ("no-headers", b"GET / HTTP/1.1\r\n\r\n", Request("/", Headers())),
    (
        "headers",
        b"GET /a?b=c%20 HTTP/1.1\r\nHost: h\r\nX: 1\r\nx:\t 2 \t\r\nEmpty:\r\nLatin: \xe4\r\n\r\n",
        Request(
            "/a?b=c%20",
            Headers([("Host", "h"), ("X", "1"), ("x", "2"), ("Empty", ""), ("Latin", "\xe4")]),
        ),
    ),
    ("method", b"M-SEARCH * HTTP/1.1\r\n\r\n", Request("*", Headers(), "M-SEARCH")),
    ("colons", b"GET a:b HTTP/1.1\r\nA: b: c:d\r\n\r\n", Request("a:b", Headers({"A": "b: c:d"}))),
    ("raw-target", b"GET /%zz|{}\\?? HTTP/1.1\r\n\r\n", Request("/%zz|{}\\??", Headers())),
]


@pytest.mark.parametrize("rest", [b"", b"\x81\x80abcd", b"GET / HTTP/1.1\r\n\r\n", b"\n"])
@pytest.mark.parametrize(
    ("data", "request_"), [r[1:] for r in GOOD_REQUESTS], ids=[r[0] for r in GOOD_REQUESTS]
)
def test_e14_request_and_what_follows_it(data: bytes, request_: Request, rest: bytes) -> None:
    assert only_outcome(RequestParser, data + rest) == ("message", request_, rest)
    assert only_outcome(RequestParser, data[:-1]) == ("incomplete",)


def test_raw_headers_are_kept() -> None:
    request = RequestParser().feed(memoryview(GOOD_REQUESTS[1][1]))
    assert request is not None
    assert list(request.headers.raw_items())[1:3] == [("X", "1"), ("x", "2")]


def test_nothing_is_taken_after_the_end() -> None:
    parser = RequestParser()
    assert parser.feed(b"GET / HTTP/1.1\r\n\r\n") is not None
    with pytest.raises(RuntimeError, match="finished"):
        parser.feed(b"")
    for broken in (RequestParser(), ResponseParser()):
        with pytest.raises(InvalidMessage):
            broken.feed(b"\r\n")
        with pytest.raises(RuntimeError, match="finished"):
            broken.feed(b"GET")


def test_e20_tls_is_refused_without_waiting_for_a_line() -> None:
    with pytest.raises(InvalidMessage) as caught:
        RequestParser().feed(b"\x16")
    assert caught.value.status_code == 400


def test_f9c_errors_do_not_repeat_the_message() -> None:
    for data in (b"GET /?s3cret HTTP/9\r\n", b"GET / HTTP/1.1\r\nCookie: s3cret\x01\r\n"):
        with pytest.raises(InvalidMessage) as caught:
            RequestParser().feed(data)
        assert "s3cret" not in repr(caught.value)


def test_f9c_reprs() -> None:
    request = Request("/a?token=s3cret", Headers({"Cookie": "s3cret"}))
    assert repr(request) == "Request('/a?***', Headers([('Cookie', '***')]), 'GET')"
    response = Response(200, "OK", Headers({"Set-Cookie": "s3cret"}), b"s3cret")
    assert repr(response) == "Response(200, 'OK', Headers([('Set-Cookie', '***')]), <6 bytes>)"


BAD_PATHS = ["", "/ ", "/\r", "/\n", "/\0", "/\x1b", "/\xe4", "/\u20ac", "/a\tb"]


@pytest.mark.parametrize("path", BAD_PATHS, ids=[f"F1c-{path!a}" for path in BAD_PATHS])
def test_request_refuses_a_path_that_cannot_be_sent(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        Request(path, Headers())
    request = Request("/", Headers())
    request.path = path
    with pytest.raises(ValueError, match="path"):
        request.serialize()


def test_f1c_request_refuses_a_method_that_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="method"):
        Request("/", Headers(), "GET / HTTP/1.1\r\nX: ")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"status_code": 99}, ValueError),
        ({"status_code": 600}, ValueError),
        ({"reason_phrase": "OK\r\nX: 1"}, ValueError),
        ({"reason_phrase": "\u20ac"}, ValueError),
        ({"body": "text"}, TypeError),
    ],
    ids=["99", "600", "F1c-CRLF-reason", "F1c-nonlatin-reason", "body"],
)
def test_response_refuses_what_cannot_be_sent(
    change: dict[str, Any], error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {"status_code": 200, "reason_phrase": "OK", "headers": Headers()}
    (name,) = change
    with pytest.raises(error, match=name):
        Response(**(arguments | change))
    response = Response(**arguments)
    setattr(response, name, change[name])
    with pytest.raises(error, match=name):
        response.serialize()


@pytest.mark.parametrize("status_code", [100, 599])
def test_first_and_last_status(status_code: int) -> None:
    response = Response(status_code, "", Headers())
    assert response.serialize() == b"HTTP/1.1 %d \r\n\r\n" % status_code


def message(*lines: str, body: bytes = b"") -> bytes:
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1") + body


# (id, status line, header lines, the body on the wire, the body)
REFUSALS: list[tuple[str, str, list[str], bytes, bytes]] = [
    ("length", "403 No", ["Content-Length: 4"], b"body", b"body"),
    ("length-0", "403 No", ["Content-Length: 0"], b"", b""),
    ("same-length-twice", "403 No", ["Content-Length: 1"] * 2, b"x", b"x"),
    ("204", "204 x", ["A: b"], b"", b""),
    ("304", "304 x", ["Content-Length: 9"], b"", b""),
    (
        "chunks",
        "400 x",
        ["Transfer-Encoding: Chunked"],
        b'3\r\nabc\r\n00A;e="x"\r\n0123456789\r\n0 \r\n',
        b"abc0123456789",
    ),
    (
        "chunked-last",
        "400 x",
        ["Transfer-Encoding: gzip", "Transfer-Encoding: x, chunked", "Content-Length: 1"],
        b"1\r\na\r\n0\r\n",
        b"a",
    ),
]


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize(
    ("status", "lines", "wire", "body"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_refusal(version: str, status: str, lines: list[str], wire: bytes, body: bytes) -> None:
    headers = Headers([(name, value) for name, value in (line.split(": ") for line in lines)])
    data = message(f"{version} {status}", *lines, body=wire)
    expected = Response(int(status[:3]), status[4:], headers, body)
    assert only_outcome(ResponseParser, data) == ("message", expected, b"")


FRAMES = b"\x81\x01a\x81\x00\x82\x01b\x88\x00"
A = Headers({"A": "b"})
UPGRADES: list[tuple[str, bytes, str, Headers]] = [
    ("reason", message("HTTP/1.1 101 Switching Protocols", "A: b"), "Switching Protocols", A),
    ("empty-reason", message("HTTP/1.1 101 ", "A: b"), "", A),
    ("no-reason", message("HTTP/1.1 101", "A: b"), "", A),
    ("latin-reason", message("HTTP/1.1 101 \xe4", "A: b"), "\xe4", A),
    (
        "interim",
        message("HTTP/1.1 100 Continue")
        + message("HTTP/1.1 103", "Link: x") * 7
        + message("HTTP/1.1 101 x", "A: b"),
        "x",
        A,
    ),
    (
        "length",
        message("HTTP/1.1 101 x", "Content-Length: 3"),
        "x",
        Headers({"Content-Length": "3"}),
    ),
]


@pytest.mark.parametrize("rest", [b"", FRAMES])
@pytest.mark.parametrize(
    ("data", "reason", "headers"),
    [u[1:] for u in UPGRADES],
    ids=[f"F3c-{u[0]}" for u in UPGRADES],
)
def test_upgrade(data: bytes, reason: str, headers: Headers, rest: bytes) -> None:
    expected = Response(101, reason, headers)
    assert only_outcome(ResponseParser, data + rest) == ("message", expected, rest)


def test_what_follows_a_refusal_is_not_a_frame() -> None:
    parser = ResponseParser()
    response = parser.feed(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno\x81\x00")
    assert response is not None
    assert (response.body, parser.rest) == (b"no", b"")


CHUNKED = message("HTTP/1.1 400 x", "Transfer-Encoding: chunked")
BAD_RESPONSES = [
    ("no-status", b"hello\r\n\r\n"),
    ("lower-case", b"http/1.1 101 x\r\n\r\n"),
    ("HTTP/2", b"HTTP/2 101 x\r\n\r\n"),
    ("HTTP/2.0", b"HTTP/2.0 101 x\r\n\r\n"),
    ("HTTP/1.10", b"HTTP/1.10 101 x\r\n\r\n"),
    ("HTTP/1.0-101", b"HTTP/1.0 101 x\r\n\r\n"),
    ("two-digits", b"HTTP/1.1 10 x\r\n\r\n"),
    ("four-digits", b"HTTP/1.1 1010 x\r\n\r\n"),
    ("600", b"HTTP/1.1 600 x\r\n\r\n"),
    ("000", b"HTTP/1.1 000 x\r\n\r\n"),
    ("sign", b"HTTP/1.1 +10 x\r\n\r\n"),
    ("two-spaces", b"HTTP/1.1  101 x\r\n\r\n"),
    ("control-in-reason", b"HTTP/1.1 101 \x1b\r\n\r\n"),
    ("leading-CRLF", b"\r\nHTTP/1.1 101 x\r\n\r\n"),
    ("leading-LF", b"\nHTTP/1.1 101 x\r\n\r\n"),
    ("bare-LF", b"HTTP/1.1 101 x\n\n"),
    ("bare-CR", b"HTTP/1.1 101 x\r\nA: b\rc\r\n\r\n"),
    ("fold", b"HTTP/1.1 101 x\r\nA: b\r\n c\r\n\r\n"),
    ("space-before-colon", b"HTTP/1.1 101 x\r\nA : b\r\n\r\n"),
    ("interim-9", b"HTTP/1.1 100 x\r\n\r\n" * 9 + b"HTTP/1.1 101 x\r\n\r\n"),
    ("length-sign", b"HTTP/1.1 400 x\r\nContent-Length: +1\r\n\r\na"),
    ("length-underscore", b"HTTP/1.1 400 x\r\nContent-Length: 1_0\r\n\r\na"),
    ("length-empty", b"HTTP/1.1 400 x\r\nContent-Length:\r\n\r\na"),
    ("length-20-digits", b"HTTP/1.1 400 x\r\nContent-Length: 11111111111111111111\r\n\r\na"),
    ("two-lengths", b"HTTP/1.1 400 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na"),
    ("chunk-size", CHUNKED + b"0x1\r\n"),
    ("chunk-size-empty", CHUNKED + b"\r\n"),
    (
        "chunk-size-17-digits",
        CHUNKED + b"" + b"0" * 17 + b"\r\n",
    ),
    ("chunk-bare-LF", CHUNKED + b"1\na\n"),
    ("chunk-too-long", CHUNKED + b"1\r\naa\r\n"),
    ("chunk-LF-end", CHUNKED + b"1\r\na\n\r"),
]


@pytest.mark.parametrize(
    "data", [r[1] for r in BAD_RESPONSES], ids=[f"F2c-{r[0]}" for r in BAD_RESPONSES]
)
def test_malformed_response(data: bytes) -> None:
    assert only_outcome(ResponseParser, data)[0] == "error"


def test_f2c_endless_interim_responses() -> None:
    parser = ResponseParser()
    with pytest.raises(SecurityError, match="interim"):
        for _ in range(100):
            assert parser.feed(b"HTTP/1.1 102 Processing\r\n\r\n") is None


UNTIL_EOF = b"HTTP/1.1 403 No\r\n\r\n"


def test_body_until_the_end_of_the_stream() -> None:
    for pieces in (
        [UNTIL_EOF + b"body"],
        [UNTIL_EOF, b"bo", b"dy"],
        [UNTIL_EOF[i : i + 1] for i in range(19)] + [b"body"],
    ):
        parser = ResponseParser()
        for piece in pieces:
            assert parser.feed(piece) is None
        assert parser.head_complete
        assert parser.feed_eof() == Response(403, "No", Headers(), b"body")
        with pytest.raises(RuntimeError, match="finished"):
            parser.feed_eof()
    parser = ResponseParser()
    assert (
        parser.feed(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n") is None
    )
    assert parser.feed_eof().body == b"0\r\n\r\n"


CUT = [
    (b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nbody", b"body"),
    (b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n", b""),
    (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo", b"bo"),
    (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r", b"body"),
    (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n5;x", b"body"),
]


@pytest.mark.parametrize(("data", "body"), CUT)
def test_body_cut_by_the_end_of_the_stream(data: bytes, body: bytes) -> None:
    for size in (1, 7, len(data)):
        parser = ResponseParser()
        for i in range(0, len(data), size):
            assert parser.feed(data[i : i + size]) is None
        response = parser.feed_eof()
        assert (response.body, response.truncated, response.status_code) == (body, True, 403)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "without a response"),
        (b"H", "in the middle"),
        (b"HTTP/1.1 100 x\r\n\r\n", "in the middle"),
    ],
)
def test_head_cut_by_the_end_of_the_stream(data: bytes, text: str) -> None:
    parser = ResponseParser()
    assert parser.feed(data) is None
    assert not parser.head_complete
    with pytest.raises(InvalidMessage, match=text):
        parser.feed_eof()
    with pytest.raises(RuntimeError):
        parser.feed(b"")


def bodies(length: int) -> list[tuple[str, bytes, bytes]]:
    chunk = b"%x\r\n" % 1000
    count, rest = divmod(length, 1000)
    chunks = (chunk + b"x" * 1000 + b"\r\n") * count + (
        b"%x\r\n" % rest + b"x" * rest + b"\r\n" if rest else b""
    )
    return [
        ("length", b"Content-Length: %d" % length, b"x" * length),
        ("until-EOF", b"Connection: close", b"x" * length),
        ("chunks", b"Transfer-Encoding: chunked", chunks + b"0\r\n"),
        (
            "one-chunk",
            b"Transfer-Encoding: chunked",
            b"%x\r\n" % length + b"x" * length + b"\r\n0\r\n",
        ),
    ]


@pytest.mark.parametrize("index", range(4), ids=["length", "until-EOF", "chunks", "one-chunk"])
@pytest.mark.parametrize("excess", [-1, 0, 1, 100_000])
@pytest.mark.parametrize("piece", [5003, 1 << 22])
def test_f2c_body_limit(index: int, excess: int, piece: int) -> None:
    length = MAX_BODY_SIZE + excess
    _, header, body = bodies(length)[index]
    data = b"HTTP/1.1 500 x\r\n" + header + b"\r\n\r\n" + body
    parser = ResponseParser()
    response = None
    for i in range(0, len(data), piece):
        response = parser.feed(data[i : i + piece])
        if response is not None:
            break
    if response is None:
        assert (index, excess > 0) == (1, False)
        response = parser.feed_eof()
    assert len(response.body) == min(length, MAX_BODY_SIZE)
    assert response.truncated == (excess > 0)


def test_f2c_endless_body_stops_by_itself() -> None:
    for header in (b"", b"Content-Length: 999999999999999\r\n", b"Transfer-Encoding: chunked\r\n"):
        parser = ResponseParser()
        assert parser.feed(b"HTTP/1.1 500 x\r\n" + header + b"\r\n") is None
        piece = b"%x;%s\r\n" % (1, b"e" * 8000) + b"x\r\n" if b"chunked" in header else b"x" * 8000
        fed = 0
        while (response := parser.feed(piece)) is None:
            fed += len(piece)
            assert fed < 3 * MAX_BODY_SIZE
        assert response.truncated
        with pytest.raises(RuntimeError):
            parser.feed(piece)


tokens = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
values = st.from_regex(r"[\t\x20-\x7e\x80-\xff]{0,20}", fullmatch=True).map(
    lambda text: text.strip(" \t")
)
headers = st.lists(st.tuples(tokens, values), max_size=6).map(Headers)
targets = st.from_regex(r"[\x21-\x7e]{1,30}", fullmatch=True)
sizes = st.lists(st.integers(1, 30), max_size=30)


def pieces_of(data: bytes, lengths: list[int]) -> list[bytes]:
    pieces = []
    for length in lengths:
        pieces.append(data[:length])
        data = data[length:]
    return [*pieces, data]


@given(targets, headers, tokens, st.binary(max_size=20), sizes)
def test_request_round_trip(
    path: str, fields: Headers, method: str, rest: bytes, lengths: list[int]
) -> None:
    request = Request(path, fields, method)
    parser = RequestParser()
    pieces = iter(pieces_of(request.serialize() + rest, lengths))
    parsed = next(filter(None, map(parser.feed, pieces)))
    assert parsed == request
    assert parser.rest + b"".join(pieces) == rest


@given(st.integers(200, 599), values, headers, st.binary(max_size=50), sizes)
def test_response_round_trip(
    status_code: int, reason: str, fields: Headers, body: bytes, lengths: list[int]
) -> None:
    body = b"" if status_code in (204, 304) else body
    for name in ("Content-Length", "Transfer-Encoding"):
        fields.pop(name, None)
    fields["Content-Length"] = str(len(body))
    response = Response(status_code, reason, fields, body)
    parser = ResponseParser()
    parsed = next(filter(None, map(parser.feed, pieces_of(response.serialize(), lengths))))
    assert parsed == response


WORDS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\xff"),
    *(b"HTTP/1.1", b"GET", b"/", b"200", b"101", b"3", b"abc"),
    *(b"A: b\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n"),
]
noise = st.lists(st.sampled_from(WORDS) | st.binary(max_size=3), max_size=25)


@given(noise)
def test_any_bytes_end_the_same_however_they_are_cut(words: list[bytes]) -> None:
    data = b"".join(words)
    for start in (b"", b"GET / HTTP/1.1\r\n"):
        only_outcome(RequestParser, start + data)
    for start in (
        b"",
        b"HTTP/1.1 400 x\r\n",
        b"HTTP/1.1 400 x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ):
        only_outcome(ResponseParser, start + data)
