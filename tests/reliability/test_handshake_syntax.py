"""Group E of the catalogue, HTTP itself: E1 to E5, E8."""

from __future__ import annotations

import time
from typing import Any

import pytest

from . import peer as wire
from .asking import ask, expect_refusal, expect_upgrade, upgrade
from .subject import Subject, resident_bytes

# Seconds of this process, whatever the machine does besides; a quadratic parser needs many
# times that for the sizes below.
PROMPT = 1.0


@pytest.mark.parametrize("size", [1000, 4000, 8000])
@pytest.mark.parametrize(
    ("name", "start", "unit", "end"),
    [
        ("Sec-WebSocket-Protocol", "b", " ", "x"),
        ("Sec-WebSocket-Protocol", "b", ",", "x"),
        ("Sec-WebSocket-Extensions", 'a; b="', "\\c", ""),
        ("Sec-WebSocket-Extensions", "a", ";", ""),
        ("Sec-WebSocket-Extensions", "a; b=", '"', ""),
        ("Connection", "x", ", ", "y"),
        ("Upgrade", "w", "\t", "x"),
    ],
    ids=["spaces", "commas", "escapes", "semicolons", "quotes", "connection", "upgrade"],
)
def test_E1_no_pattern_backtracks(
    plain_server: Subject, size: int, name: str, start: str, unit: str, end: str
) -> None:
    value = start + unit * ((size - len(name)) // len(unit)) + end
    extra = f"{name}: {value}".encode()[:8100]
    started = time.process_time()
    answer = ask(plain_server, upgrade(extra, without=[name.encode()]))
    assert time.process_time() - started < PROMPT
    assert answer.status_code in (400, 426)


@pytest.mark.parametrize("name", ["constructor", "__proto__", "toString", "permessage-bzip2"])
def test_E1_unknown_extensions_are_declined(plain_server: Subject, name: str) -> None:
    head = expect_upgrade(plain_server, upgrade(b"Sec-WebSocket-Extensions: " + name.encode()))
    assert not wire.header_values(head, "Sec-WebSocket-Extensions")


def test_E2_greatest_number_of_headers(plain_server: Subject) -> None:
    # The five usual ones are among them.
    expect_upgrade(plain_server, upgrade(*(b"X-%d: x" % index for index in range(123))))


@pytest.mark.parametrize("count", [124, 2000])
def test_E2_too_many_headers(server: Subject, count: int) -> None:
    extra = [b"X-%d: x" % index for index in range(count)]
    expect_refusal(server, upgrade(*extra), 431)


def test_E2_endless_headers(server: Subject) -> None:
    """The parser stops at its limit, whatever goes on coming."""
    before = resident_bytes()
    start = upgrade()[:-2]
    answer = ask(server, start, *([b"X-Flood: xxxxxxxxxxxxxxxx\r\n" * 1000] * 40))
    assert answer.status_code == 431
    assert resident_bytes() - before < 8 * 2**20


@pytest.mark.parametrize("length", [8193, 65536])
def test_E3_long_header_line(server: Subject, length: int) -> None:
    expect_refusal(server, upgrade(b"X: " + b"x" * (length - 3)), 431)


@pytest.mark.parametrize("length", [8193, 65536])
def test_E3_long_request_line(server: Subject, length: int) -> None:
    line = b"GET /" + b"x" * (length - 14) + b" HTTP/1.1"
    expect_refusal(server, upgrade(line=line), 414, 431)


def test_E3_long_lines_that_are_short_enough(plain_server: Subject) -> None:
    path = b"/" + b"x" * 8000
    extra = b"X: " + b"x" * 8000
    expect_upgrade(plain_server, upgrade(extra, line=b"GET " + path + b" HTTP/1.1"))


def test_E3_long_head_of_short_lines(server: Subject) -> None:
    extra = [b"X-%d: %s" % (index, b"x" * 8000) for index in range(9)]
    expect_refusal(server, upgrade(*extra), 431)


def test_E3_endless_line(server: Subject) -> None:
    before, started = resident_bytes(), time.process_time()
    answer = ask(server, b"GET / HTTP/1.1\r\nX: ", *([b"x" * 65536] * 16))
    assert answer.status_code == 431
    assert time.process_time() - started < 5.0
    assert resident_bytes() - before < 8 * 2**20


def test_E3_long_line_byte_by_byte(plain_server: Subject) -> None:
    """Work is linear in the bytes: nothing is parsed again for each of them."""
    data = b"GET / HTTP/1.1\r\nX: " + b"x" * 9000
    started = time.process_time()
    answer = ask(plain_server, *(bytes([byte]) for byte in data))
    assert answer.status_code == 431
    assert time.process_time() - started < 5.0


BODIES = {
    "length and body": (b"Content-Length: 5", b"hello"),
    "chunked": (b"Transfer-Encoding: chunked", b"0\r\n\r\n"),
    "identity": (b"Transfer-Encoding: identity", b""),
    "length and chunked": (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "two lengths": (b"Content-Length: 0\r\nContent-Length: 5", b"hello"),
    "two equal lengths": (b"Content-Length: 0\r\nContent-Length: 0", b""),
    "list of lengths": (b"Content-Length: 0, 0", b""),
    "signed": (b"Content-Length: +5", b"hello"),
    "underscore": (b"Content-Length: 5_0", b"x" * 50),
    "negative": (b"Content-Length: -1", b""),
    "not a number": (b"Content-Length: five", b"hello"),
    "empty": (b"Content-Length:", b""),
}


@pytest.mark.parametrize(("extra", "body"), BODIES.values(), ids=BODIES)
def test_E4_request_with_a_body(server: Subject, extra: bytes, body: bytes) -> None:
    expect_refusal(server, upgrade(extra) + body, 400)


def test_E4_length_zero_is_no_body(plain_server: Subject) -> None:
    expect_upgrade(plain_server, upgrade(b"Content-Length: 0"))


LINES = {
    "LF only": upgrade(newline=b"\n"),
    "CR only": upgrade(b"X: x") .replace(b"\r\n", b"\r") + b"\r\n\r\n",
    "one LF": upgrade(b"X: x\nY: y"),
    "bare CR": upgrade(b"X: x\ry"),
    "CR CR LF": upgrade(b"X: x\r"),
    "NUL in value": upgrade(b"X: x\0y"),
    "NUL in name": upgrade(b"X\0: x"),
    "CTL in value": upgrade(b"X: x\x01y"),
    "DEL in value": upgrade(b"X: x\x7fy"),
    "obsolete folding": upgrade(b"X: x\r\n y"),
    "folding by a tab": upgrade(b"X: x\r\n\ty"),
    "leading fold": upgrade(line=b"GET / HTTP/1.1\r\n X: x"),
    "space before colon": upgrade(b"X : x"),
    "tab before colon": upgrade(b"X\t: x"),
    "empty name": upgrade(b": x"),
    "name with a parenthesis": upgrade(b"X(: x"),
    "name with a space": upgrade(b"X Y: x"),
    "name not ASCII": upgrade(b"X\xe9: x"),
    "no colon": upgrade(b"X"),
    "leading CRLF": b"\r\n" + upgrade(),
    "leading space": b" " + upgrade(),
    "two spaces": upgrade(line=b"GET  / HTTP/1.1"),
    "two spaces before the version": upgrade(line=b"GET /  HTTP/1.1"),
    "tabs": upgrade(line=b"GET\t/\tHTTP/1.1"),
    "trailing space": upgrade(line=b"GET / HTTP/1.1 "),
    "no version": upgrade(line=b"GET /"),
    "no target": upgrade(line=b"GET HTTP/1.1"),
    "empty line": upgrade(line=b""),
    "method not a token": upgrade(line=b"G(T / HTTP/1.1"),
    "binary": bytes(range(128, 256)) + b"\r\n\r\n",
    "a response": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", LINES.values(), ids=LINES)
def test_E5_line_discipline(server: Subject, data: bytes) -> None:
    expect_refusal(server, data, 400)


TARGETS = {
    "asterisk": b"*",
    "authority": b"localhost:80",
    "CTL": b"/\x01",
    "DEL": b"/\x7f",
    "not ASCII": b"/\xc3\xa9",
    "NUL": b"/\0",
    "two slashes": b"//evil/",
    "fragment": b"/#there",
    "relative": b"here",
    "query only": b"?x=y",
    "absolute, other host": b"http://evil/",
    "absolute, other port": b"http://localhost:81/",
    "absolute, other scheme": b"ftp://localhost/",
    "absolute, user": b"http://user@localhost/",
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_E8_request_target(server: Subject, target: bytes) -> None:
    expect_refusal(server, upgrade(line=b"GET " + target + b" HTTP/1.1"), 400)


@pytest.mark.parametrize(
    "target",
    [b"/", b"/a/../b/./c", b"/%00%0d%0a%zz", b"/?q=//x", b"/a?b=c&d=%20", b"http://localhost/x"],
)
def test_E8_raw_target_is_preserved(plain_server: Subject, target: bytes) -> None:
    seen: list[str] = []

    def remember(request: Any, offered: list[str]) -> None:
        seen.append(request.path)

    line = b"GET " + target + b" HTTP/1.1"
    expect_upgrade(plain_server, upgrade(line=line), select_subprotocol=remember)
    assert set(seen) == {target.decode()}


def test_E9_who_expects_an_interim_answer_gets_the_final_one(plain_server: Subject) -> None:
    """RFC 9110 section 10.1.1: without a body there is nothing to continue with."""
    head = expect_upgrade(plain_server, upgrade(b"Expect: 100-continue"))
    assert head.count(b"HTTP/1.1 ") == 1
    body = upgrade(b"Expect: 100-continue", b"Content-Length: 4") + b"body"
    expect_refusal(plain_server, body, 400)
