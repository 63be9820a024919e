"""Group F of the catalogue, what servers answer to a client: F2c, F3c, F11c, F12c."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import syncws
from syncws import reaching
from syncws.dialing import Address

from . import peer as wire
from .subject import Subject, collect, idle, resident_bytes

# What a response says, or how it is made from the request's head.
Answer = bytes | Callable[[bytes], bytes]


def accept_of(head: bytes) -> str:
    """The right value of ``Sec-WebSocket-Accept``."""
    (key,) = wire.header_values(head, "Sec-WebSocket-Key")
    return wire.accept_value(key.encode()).decode()


def switching(*lines: str, accept: str | None = "{}", without: str = "") -> Answer:
    """A 101 with a header more, another accept value, or one header left out."""

    def answer(head: bytes) -> bytes:
        fields = ["Upgrade: websocket", "Connection: Upgrade"]
        if accept is not None:
            fields.append(f"Sec-WebSocket-Accept: {accept.format(accept_of(head))}")
        kept = [field for field in fields if not without or not field.startswith(without)]
        return "\r\n".join(["HTTP/1.1 101 X", *kept, *lines, "", ""]).encode("latin-1")

    return answer


def swapped(head: bytes) -> bytes:
    """An accept value in the other case: base64 has both."""
    return bytes(switching(accept=accept_of(head).swapcase())(head))  # type: ignore[operator]


BAD_ANSWERS: dict[str, tuple[Answer, type[Exception]]] = {
    "accept in the other case": (swapped, syncws.InvalidHeaderValue),
    "accept without padding": (
        lambda head: switching(accept=accept_of(head).rstrip("="))(head),  # type: ignore[operator]
        syncws.InvalidHeaderValue,
    ),
    "accept with more padding": (switching(accept="{}="), syncws.InvalidHeaderValue),
    "accept in quotes": (switching(accept='"{}"'), syncws.InvalidHeaderValue),
    "accept with a tail": (switching(accept="{}, x"), syncws.InvalidHeaderValue),
    "accept that is empty": (switching(accept=""), syncws.InvalidHeader),
    "accept of the sample": (
        switching(accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        syncws.InvalidHeaderValue,
    ),
    "no accept": (switching(accept=None), syncws.InvalidHeader),
    "accept twice": (
        lambda head: switching(f"Sec-WebSocket-Accept: {accept_of(head)}")(head),  # type: ignore[operator]
        syncws.InvalidHeader,
    ),
    "no upgrade": (switching(without="Upgrade"), syncws.InvalidUpgrade),
    "upgrade to h2c": (switching("Upgrade: h2c", without="Upgrade"), syncws.InvalidUpgrade),
    "upgrade to two": (switching("Upgrade: h2c"), syncws.InvalidUpgrade),
    "upgrade to a list": (
        switching("Upgrade: websocket, h2c", without="Upgrade"),
        syncws.InvalidUpgrade,
    ),
    "no connection": (switching(without="Connection"), syncws.InvalidUpgrade),
    "connection: close": (
        switching("Connection: close", without="Connection"),
        syncws.InvalidUpgrade,
    ),
    "subprotocol not offered": (
        switching("Sec-WebSocket-Protocol: chat"),
        syncws.NegotiationError,
    ),
    "subprotocol of an injection": (
        switching("Sec-WebSocket-Protocol: \x1b[31m"),
        syncws.InvalidHandshake,
    ),
    "extension not offered": (
        switching("Sec-WebSocket-Extensions: x-unknown"),
        syncws.NegotiationError,
    ),
    "a space before the colon": (switching("X-Test : 1"), syncws.InvalidMessage),
    "a folded line": (switching("X-Test: 1\r\n 2"), syncws.InvalidMessage),
    "a NUL": (switching("X-Test: \0"), syncws.InvalidMessage),
    "a bare line feed": (switching("X-Test: 1\nX-Evil: 2"), syncws.InvalidMessage),
    "no status": (b"HTTP/1.1 \r\n\r\n", syncws.InvalidMessage),
    "status of four digits": (b"HTTP/1.1 1010 X\r\n\r\n", syncws.InvalidMessage),
    "status below 100": (b"HTTP/1.1 099 X\r\n\r\n", syncws.InvalidMessage),
    "status above 599": (b"HTTP/1.1 600 X\r\n\r\n", syncws.InvalidMessage),
    "HTTP/1.0": (b"HTTP/1.0 101 X\r\n\r\n", syncws.InvalidMessage),
    "HTTP/2": (b"HTTP/2.0 101 X\r\n\r\n", syncws.InvalidMessage),
    "no HTTP": (b"220 ready\r\n", syncws.InvalidMessage),
    "an end": (b"", syncws.InvalidMessage),
    "two lengths": (
        b"HTTP/1.1 403 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nno",
        syncws.InvalidMessage,
    ),
    "a length that is none": (
        b"HTTP/1.1 403 X\r\nContent-Length: -1\r\n\r\n",
        syncws.InvalidMessage,
    ),
    "a chunk that is none": (
        b"HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        syncws.InvalidMessage,
    ),
    "403": (b"HTTP/1.1 403 X\r\nContent-Length: 2\r\n\r\nno", syncws.InvalidStatus),
    "200": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", syncws.InvalidStatus),
}


@pytest.mark.parametrize(("answer", "kind"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_F2c_answers_that_are_refused(
    client: Subject, answer: Answer, kind: type[Exception]
) -> None:
    for bytewise in (False, True):
        outcome = client.start_client(collect)
        with client.listener.accept_raw() as peer:
            head = wire.read_head(peer)
            data = answer if isinstance(answer, bytes) else answer(head)
            peer.send_bytewise(data) if bytewise else peer.send(data)
            if client.tls is None:
                peer.half_close()
            else:
                peer.close()
            error = outcome.wait().error
        assert isinstance(error, kind), repr(error)
        assert isinstance(error, syncws.InvalidHandshake)
        assert str(error).isprintable()


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    """A response that goes on and on, in pieces of about 64 KiB."""
    yield start
    yield from itertools.repeat(piece * (65536 // len(piece)))


ENDLESS: dict[str, tuple[bytes, bytes, type[Exception]]] = {
    "headers": (b"HTTP/1.1 101 X\r\n", b"X-Test: 1\r\n", syncws.SecurityError),
    "a line": (b"HTTP/1.1 101 X\r\nX-Test: ", b"x" * 1024, syncws.SecurityError),
    "a status line": (b"HTTP/1.1 101 ", b"x" * 1024, syncws.SecurityError),
    "interim responses": (b"", b"HTTP/1.1 100 X\r\n\r\n", syncws.SecurityError),
    "a body": (b"HTTP/1.1 403 X\r\n\r\n", b"x" * 1024, syncws.InvalidStatus),
    "a long body": (
        b"HTTP/1.1 403 X\r\nContent-Length: 99999999999\r\n\r\n",
        b"x" * 1024,
        syncws.InvalidStatus,
    ),
    "chunks": (
        b"HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
        syncws.InvalidStatus,
    ),
}


@pytest.mark.parametrize(("start", "piece", "kind"), ENDLESS.values(), ids=ENDLESS)
def test_F2c_endless_answers(
    client: Subject, start: bytes, piece: bytes, kind: type[Exception]
) -> None:
    """20 MB are there to be read, 1 MiB of a body is, and memory has a bound."""
    before = resident_bytes()
    outcome = client.start_client(collect)
    with client.listener.accept_raw() as peer:
        wire.read_head(peer)
        for data in itertools.islice(endless(start, piece), 320):
            peer.send(data)
            if peer.was_reset:
                break
        error = outcome.wait().error
    assert isinstance(error, kind), repr(error)
    if isinstance(error, syncws.InvalidStatus):
        assert error.response.truncated
        assert len(error.response.body) <= 1 << 20
    assert resident_bytes() - before < 24 * 2**20


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 101 X\r\n", b"HTTP/1.1 100 X\r\n"])
def test_F2c_the_deadline_is_a_total(client: Subject, start: bytes) -> None:
    """A byte now and then does not move it."""
    outcome = client.start_client(collect, open_timeout=1.5)
    started = time.monotonic()
    with client.listener.accept_raw() as peer:
        wire.read_head(peer)
        peer.send(start)
        while not outcome._done.is_set() and time.monotonic() < started + 6:
            peer.send(b"X")
            outcome._done.wait(0.05)
        error = outcome.wait().error
    assert isinstance(error, TimeoutError)
    assert time.monotonic() - started < 5


def test_F3c_frames_glued_behind_the_response(client: Subject) -> None:
    frames = (
        wire.frame(wire.TEXT, b"one")
        + wire.frame(wire.BINARY, b"two" * 1000)
        + wire.frame(wire.TEXT, b"three")
        + wire.frame(wire.CLOSE, wire.close_payload(1000))
    )
    head_size = 200
    cuts = [None, *range(1, 10), *range(head_size - 30, head_size + 60, 7)]
    for cut in cuts:
        outcome = client.start_client(collect)
        with client.listener.accept_raw() as peer:
            data = client.listener.response(wire.read_head(peer)) + frames
            peer.send(*([data] if cut is None else [data[:cut], data[cut:]]), pause=0.001)
            peer.read_until_close()
            peer.half_close() if client.tls is None else peer.close()
            outcome.wait()
        assert outcome.messages == ["one", b"two" * 1000, "three"]
        assert isinstance(outcome.error, syncws.ConnectionClosedOK), repr(outcome.error)


def test_F11c_each_attempt_has_a_fresh_nonce(client: Subject) -> None:
    keys = set()
    for status in [b"503", b"403"] * 10:
        outcome = client.start_client(collect)
        with client.listener.accept_raw() as peer:
            keys.update(wire.header_values(wire.read_head(peer), "Sec-WebSocket-Key"))
            peer.send(b"HTTP/1.1 " + status + b" X\r\nContent-Length: 0\r\n\r\n")
            outcome.wait()
    assert len(keys) == 20


@pytest.fixture
def black_hole() -> Iterator[Address]:
    """An address at which nothing ever answers: its backlog is full."""
    with wire.Listener(backlog=0) as listener:
        sockets = []
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.address)
            sockets.append(sock)
        yield Address(socket.AF_INET, socket.SOCK_STREAM, 0, listener.address)
        for sock in sockets:
            sock.close()


def test_F12c_a_hundred_addresses_keep_the_deadline(
    black_hole: Address, monkeypatch: pytest.MonkeyPatch, warm: None
) -> None:
    monkeypatch.setattr(reaching, "resolve", lambda *_: [black_hole] * 100)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"connecting to name\.invalid"):
        syncws.connect("ws://name.invalid/", open_timeout=0.8)
    assert time.monotonic() - started < 5


def test_F12c_a_black_hole_before_an_address_that_answers(
    client: Subject, black_hole: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an AAAA record without a route does to most clients."""
    good = Address(socket.AF_INET, socket.SOCK_STREAM, 0, client.listener.address)
    monkeypatch.setattr(reaching, "resolve", lambda *_: [black_hole, good])
    scheme = client.listener.uri.partition(":")[0]
    outcome = client.start_client(idle, f"{scheme}://localhost/", open_timeout=5)
    with client.listener.accept() as peer:
        outcome.opened()
        outcome.release.set()
        peer.send_close()
        peer.read_until_close()
    outcome.wait()


def test_F12c_localhost(client: Subject) -> None:
    """Two addresses, and here only one of them listens."""
    uri = client.listener.uri.replace("127.0.0.1", "localhost")
    outcome = client.start_client(collect, uri, open_timeout=5)
    with client.listener.accept() as peer:
        outcome.opened()
        peer.send_close()
        peer.read_until_close()
    outcome.wait()


def test_F12c_a_name_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, warm: None
) -> None:
    release = threading.Event()

    def hang(*arguments: object, **options: object) -> list[object]:
        if options.get("flags"):
            raise socket.gaierror(-2, "not an address")
        release.wait(wire.PATIENCE)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match=r"resolving name\.invalid"):
            syncws.connect("ws://name.invalid/", open_timeout=0.3)
        assert time.monotonic() - started < 5
    finally:
        release.set()
