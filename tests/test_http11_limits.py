"""``syncws.http11``: limits at their edges, and work that is linear in the bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, SupportsIndex

import pytest
from feeding import only_outcome, outcome

from syncws.exceptions import SecurityError
from syncws.http11 import (
    MAX_BODY_SIZE,
    MAX_HEAD_SIZE,
    MAX_HEADERS,
    MAX_LINE_SIZE,
    RequestParser,
    ResponseParser,
)

Parser = type[RequestParser] | type[ResponseParser]
SIDES: list[tuple[Parser, bytes]] = [
    (RequestParser, b"GET / HTTP/1.1\r\n"),
    (ResponseParser, b"HTTP/1.1 101 x\r\n"),
]
each_side = pytest.mark.parametrize(("parser", "start"), SIDES, ids=["request", "response"])
each_excess = pytest.mark.parametrize("excess", [-1, 0, 1])


def verdict(parser: Parser, data: bytes) -> int:
    """The status of the refusal, or 0."""
    kind, *details = only_outcome(parser, data)
    if kind == "message":
        return 0
    assert (kind, details[0]) == ("error", SecurityError)
    status_code: int = details[1]
    return status_code


def test_limits_are_the_documented_ones() -> None:
    assert (MAX_LINE_SIZE, MAX_HEADERS) == (8 << 10, 128)
    assert (MAX_HEAD_SIZE, MAX_BODY_SIZE) == (64 << 10, 1 << 20)


@each_excess
def test_e3_request_line(excess: int) -> None:
    line = b"GET /" + b"x" * (MAX_LINE_SIZE + excess - 14) + b" HTTP/1.1"
    assert len(line) == MAX_LINE_SIZE + excess
    assert verdict(RequestParser, line + b"\r\n\r\n") == (414 if excess > 0 else 0)


@each_excess
def test_e3_status_line(excess: int) -> None:
    line = b"HTTP/1.1 101 " + b"x" * (MAX_LINE_SIZE + excess - 13)
    assert verdict(ResponseParser, line + b"\r\n\r\n") == (431 if excess > 0 else 0)


@each_side
@each_excess
def test_e3_header_line(parser: Parser, start: bytes, excess: int) -> None:
    line = b"Name: " + b"x" * (MAX_LINE_SIZE + excess - 6)
    assert verdict(parser, start + line + b"\r\n\r\n") == (431 if excess > 0 else 0)


@each_side
@each_excess
def test_e2_header_count(parser: Parser, start: bytes, excess: int) -> None:
    assert verdict(parser, start + b"A: b\r\n" * (MAX_HEADERS + excess) + b"\r\n") == (
        431 if excess > 0 else 0
    )


@each_side
@pytest.mark.parametrize("count", [2000, 1_000_000])
def test_e2_parsing_stops_at_the_limit(parser: Parser, start: bytes, count: int) -> None:
    instance = parser()
    lines = iter([b"A: b\r\n"] * count)
    assert instance.feed(start) is None
    with pytest.raises(SecurityError, match="128 headers") as caught:
        for line in lines:
            assert instance.feed(line) is None
    assert caught.value.status_code == 431
    assert len(list(lines)) == count - MAX_HEADERS - 1


def head_of(size: int, start: bytes) -> bytes:
    lines = [start]
    left = size - len(start) - 2
    while left:
        length = min(left, 8000)
        if 0 < left - length < 10:
            length -= 10
        lines.append(b"A: " + b"x" * (length - 5) + b"\r\n")
        left -= length
    head = b"".join(lines) + b"\r\n"
    assert len(head) == size
    return head


@each_side
@each_excess
def test_e3_head_size(parser: Parser, start: bytes, excess: int) -> None:
    head = head_of(MAX_HEAD_SIZE + excess, start)
    assert verdict(parser, head) == (431 if excess > 0 else 0)


def test_e3_head_size_counts_interim_responses() -> None:
    interim = head_of(30_000, b"HTTP/1.1 103 x\r\n")
    final = head_of(MAX_HEAD_SIZE - 30_000, b"HTTP/1.1 101 x\r\n")
    assert verdict(ResponseParser, interim + final) == 0
    assert verdict(ResponseParser, interim + b"HTTP/1.1 102 x\r\n\r\n" + final) == 431


@pytest.mark.parametrize(
    "tail",
    [b"\n", b"x\r\n", b"\0\r\n", b"\rx\r\n", b"", b"\r", b"\r\r\n"],
    ids=["bare-LF", "no-colon", "NUL", "bare-CR", "none", "CR", "CR-CR"],
)
@pytest.mark.parametrize("length", [MAX_LINE_SIZE - 1, MAX_LINE_SIZE, MAX_LINE_SIZE + 1, 9000])
def test_two_faults_at_once_have_one_verdict(length: int, tail: bytes) -> None:
    for start in (
        b"",
        b"GET / HTTP/1.1\r\n",
        head_of(MAX_HEAD_SIZE - length, b"GET / HTTP/1.1\r\n")[:-2],
    ):
        data = start + b"x" * length + tail
        assert outcome(RequestParser, [data]) == only_outcome(RequestParser, data)


class CountingBuffer(bytearray):
    """Counts the bytes that are searched, copied or moved in it, without those appended."""

    work = 0

    def find(self, wanted: Any, start: Any = 0, end: Any = math.inf) -> int:
        found = super().find(wanted, start, min(end, len(self)))
        self.work += (min(end, len(self)) if found < 0 else found + 1) - start
        return found

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        taken = super().__getitem__(key)
        self.work += len(taken) if isinstance(taken, bytearray) else 1
        return taken

    def __delitem__(self, key: SupportsIndex | slice) -> None:
        super().__delitem__(key)
        self.work += len(self)


GET = b"GET / HTTP/1.1\r\n"
REFUSED = b"HTTP/1.1 400 x\r\n"
CHUNKED = REFUSED + b"Transfer-Encoding: chunked\r\n\r\n"
HEADS: list[tuple[str, Parser, Callable[[int], bytes]]] = [
    ("request-line", RequestParser, lambda n: b"GET /" + b"x" * n),
    ("header-line", RequestParser, lambda n: GET + b"A: " + b"x" * n),
    ("many-headers", RequestParser, lambda n: GET + b"A: b\r\n" * (n // 70)),
    ("64-KiB", RequestParser, lambda n: head_of(8 * n, GET)),
    ("chunks", ResponseParser, lambda n: CHUNKED + b"1\r\nx\r\n" * n),
    ("one-chunk", ResponseParser, lambda n: CHUNKED + b"ffff\r\n" + b"x" * n),
    ("chunk-line", ResponseParser, lambda n: CHUNKED + b"1;" + b"x" * n),
    ("until-EOF", ResponseParser, lambda n: REFUSED + b"\r\n" + b"x" * n),
    ("length", ResponseParser, lambda n: REFUSED + b"Content-Length: 70000\r\n\r\n" + b"x" * n),
]


@pytest.mark.parametrize("size", [1, 3, 100, 1 << 20])
@pytest.mark.parametrize(
    ("parser", "make"), [h[1:] for h in HEADS], ids=[f"E3-{h[0]}" for h in HEADS]
)
def test_each_byte_is_touched_a_few_times(
    parser: Parser, make: Callable[[int], bytes], size: int
) -> None:
    for scale in (1000, 8000):
        data = make(scale)
        instance = parser()
        buffer = instance._buffer = CountingBuffer()
        for i in range(0, len(data), size):
            if instance.feed(data[i : i + size]) is not None:
                break
        # Searched, copied into a line, moved at the end of a chunk; a few bytes at the start
        # are looked at by every call.
        assert buffer.work <= 3 * len(data) + 4 * (len(data) // size + 1)


def test_e3_twenty_megabytes_in_single_bytes_stop_early() -> None:
    instance = RequestParser()
    stream = iter(range(20_000_000))
    with pytest.raises(SecurityError):
        for _ in stream:
            instance.feed(b"x")
    assert next(stream) == MAX_LINE_SIZE + 2


def test_d12_tiny_chunks_end_the_body_early() -> None:
    """A million chunks of one byte would keep us busy for seconds."""
    parser = ResponseParser()
    response = parser.feed(CHUNKED + b"1\r\nx\r\n" * 20_000)
    assert response is not None
    assert response.truncated
    assert 10_000 < len(response.body) < 20_000
    # Those of real servers have kilobytes.
    response = ResponseParser().feed(
        CHUNKED + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 900 + b"0\r\n"
    )
    assert response is not None
    assert not response.truncated
    assert len(response.body) == 900 * 1024
