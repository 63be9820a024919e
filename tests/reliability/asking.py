"""Opening requests, right and wrong, and what a server must answer.

What belongs here: building requests from raw lines and the oracle for a refusal. What does
not: any single row of group E.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from syncws.opening import FAREWELL_TIME

from . import peer as wire
from .subject import Subject

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

HEADERS: dict[bytes, bytes] = {
    b"Host": b"localhost",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}


def upgrade(
    *extra: bytes,
    line: bytes = b"GET / HTTP/1.1",
    without: Iterable[bytes] = (),
    newline: bytes = b"\r\n",
) -> bytes:
    """An opening request.

    Args:
        extra: Raw header lines, after the usual ones.
        line: The request line.
        without: Names of the usual headers to leave out.
        newline: What ends each line.
    """
    dropped = set(without)
    lines = [name + b": " + value for name, value in HEADERS.items() if name not in dropped]
    return newline.join([line, *lines, *extra, b"", b""])


def instead(name: bytes, *values: bytes) -> bytes:
    """An opening request whose header ``name`` has these values instead, none or several."""
    return upgrade(*(name + b": " + value for value in values), without=[name])


class Answer(NamedTuple):
    """A response."""

    status_code: int
    head: bytes
    body: bytes


def _ways(data: bytes, secure: bool) -> Iterator[tuple[str, list[bytes]]]:
    yield "whole", [data]
    yield "with a frame behind it", [data + wire.frame(wire.TEXT, b"x", mask=b"abcd")]
    yield "with a request behind it", [data + upgrade()]
    if not secure and len(data) <= 4096:
        yield "byte by byte", [bytes([byte]) for byte in data]
        for first, second in wire.splits(data, at_most=3):
            yield f"cut at {len(first)}", [first, second]


def ask(subject: Subject, *pieces: bytes, **options: Any) -> Answer:
    """Sends a request that must be refused; the answer, which must end the connection."""
    head_only = b"".join(pieces).startswith(b"HEAD ")
    context = None if subject.tls is None else subject.tls.client
    with wire.dial(subject.address(**options), context) as peer:
        started = time.monotonic()
        peer.send(*pieces, pause=0.001 if len(pieces) == 2 else 0)
        raw = peer.read_raw()
        # Who still sends a while after the answer may be reset.
        assert not peer.was_reset or time.monotonic() - started > FAREWELL_TIME, raw
    assert raw, "the end of the stream instead of an answer"
    head, separator, body = raw.partition(b"\r\n\r\n")
    assert separator, raw
    answer = Answer(wire.status_code(head), head, body)
    assert not body or not head_only or answer.status_code in (400, 505), raw
    # One answer and no more, whatever stood behind the request.
    assert body.count(b"HTTP/1.1") == 0, raw
    lengths = wire.header_values(head, "Content-Length")
    if head_only and not body:
        # RFC 9110 section 9.3.2: it is told what a GET would have brought, and nothing else.
        # A head that cannot be parsed has no method.
        assert len(lengths) == 1, raw
    else:
        assert lengths == [str(len(body))], raw
    tokens = ",".join(wire.header_values(head, "Connection")).lower().split(",")
    assert "close" in [token.strip() for token in tokens], raw
    assert head.isascii()
    return answer


def expect_refusal(subject: Subject, data: bytes, *status_codes: int, **options: Any) -> Answer:
    """Demands that a request is refused, in every delivery, with one of the codes."""
    answer = None
    for name, pieces in _ways(data, subject.tls is not None):
        try:
            answer = ask(subject, *pieces, **options)
            assert answer.status_code in status_codes, answer
        except BaseException as error:
            error.add_note(f"delivered {name}")
            raise
    assert answer is not None
    return answer


def expect_upgrade(subject: Subject, data: bytes, **options: Any) -> bytes:
    """Demands that a request is accepted, in every delivery; the response's head."""
    frame = wire.frame(wire.TEXT, b"first", mask=b"abcd")
    head = b""
    for pieces in ([data + frame], [*(bytes([byte]) for byte in data), frame]):
        context = None if subject.tls is None else subject.tls.client
        with wire.dial(subject.address(**options), context) as peer:
            peer.send(*pieces)
            head = wire.read_head(peer)
            assert wire.status_code(head) == 101, head
            echoed = peer.read_frame()
            assert echoed is not None
            assert echoed.payload == b"first"
            peer.send_close()
            peer.read_until_close()
    return head
