"""TLS that can write nothing before it has read: what a renegotiation of TLS 1.2 does.

Python's TLS cannot be told to renegotiate, so a stand-in refuses to write here; the real thing
is in ``interop/test_openssl.py``.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pairing import PATIENCE, InThread, Pair, eventually

from syncws.frames import lib
from syncws.transport import TLSTransport


class Refusing:
    """An ``SSLObject`` that wants to read before it writes, until it is told otherwise."""

    def __init__(self, tls: ssl.SSLObject) -> None:
        self.tls = tls
        self.released = threading.Event()
        self.refusals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tls, name)

    def write(self, data: Any) -> int:
        if self.released.is_set():
            return self.tls.write(data)
        self.refusals += 1
        raise ssl.SSLWantReadError


@pytest.fixture
def pair(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> Iterator[Pair]:
    with Pair((client_context, server_context), ping_interval=None, close_timeout=2) as made:
        yield made


@pytest.fixture
def refusing(pair: Pair) -> Refusing:
    transport = pair.connection._channel.transport
    assert isinstance(transport, TLSTransport)
    stand_in = Refusing(transport.tls)
    transport.tls = stand_in  # type: ignore[assignment]  # a stand-in
    return stand_in


def read(pair: Pair, count: int) -> None:
    while count > 0:
        count -= len(pair.peer.recv(65536))


def test_what_waits_leaves_when_it_can_and_nothing_spins(pair: Pair, refusing: Refusing) -> None:
    pair.connection.send("x")  # taken, within write_limit
    assert eventually(lambda: refusing.refusals > 3)
    assert pair.connection._channel.transport.stalled
    before, started = refusing.refusals, time.monotonic()
    pair.peer.sendall(b"\x81\x01y")
    assert pair.connection.recv(5) == "y", "the other direction goes on"
    threading.Event().wait(0.3)
    # Every 20 ms, and once for what was received: a selector that reports room at once
    # would have asked many thousand times.
    assert refusing.refusals - before < 10 + 60 * (time.monotonic() - started)
    refusing.released.set()
    read(pair, 7)
    assert not pair.connection._channel.transport.stalled


def test_a_peer_that_stalls_us_shows_no_sign_of_life_by_that(
    pair: Pair, refusing: Refusing
) -> None:
    pair.connection.send("x")
    assert eventually(lambda: refusing.refusals > 3)
    before, refusals = lib.syncws_drained(pair.channel.c), refusing.refusals
    assert eventually(lambda: refusing.refusals > refusals + 5)
    assert lib.syncws_drained(pair.channel.c) == before


def test_a_blocked_sender_goes_on_when_it_can(pair: Pair, refusing: Refusing) -> None:
    sending = InThread(pair.connection.send, b"x" * 3_000_000)
    assert eventually(lambda: pair.connection._channel.senders and refusing.refusals > 10)
    refusing.released.set()
    read(pair, 3_000_000 + 14)
    sending.result()


def test_a_blocked_sender_keeps_its_deadline(pair: Pair, refusing: Refusing) -> None:
    with pytest.raises(TimeoutError):
        pair.connection.send(b"x" * 3_000_000, timeout=0.1)
    pair.connection.abort()


def test_a_close_frame_waits_likewise(pair: Pair, refusing: Refusing) -> None:
    closing = InThread(pair.connection.close)
    assert eventually(lambda: refusing.refusals > 3)
    pair.peer.sendall(b"\x88\x02\x03\xe8")
    refusing.released.set()
    read(pair, 8)
    closing.result()
    assert pair.connection.close_code == 1000


def test_nothing_is_written_before_all_that_came_is_read(pair: Pair, refusing: Refusing) -> None:
    """OpenSSL fails when it meets data where the handshake should go on."""
    transport = pair.connection._channel.transport
    assert isinstance(transport, TLSTransport)
    with pair.connection._channel.state_lock:
        assert transport.send(b"x") == 0
        assert transport.stalled
        refused = refusing.refusals
        transport._incoming.write(b"more")
        assert transport.send(b"x") == 0
        assert refusing.refusals == refused
        assert transport._incoming.read() == b"more"
        assert transport.send(b"") == 0


# A record full of HelloRequest (RFC 5246 section 7.4.1.1), any number of which OpenSSL ignores.
HELLO_REQUESTS = b"\x16\x03\x03\x40\x00" + bytes(4) * 4096


def test_g3x_endless_requests_to_renegotiate_do_not_put_off_the_deadline(
    client_context: ssl.SSLContext,
) -> None:
    ours, theirs = socket.socketpair()

    def flood() -> int:
        theirs.settimeout(PATIENCE)
        theirs.recv(65536)
        for number in range(20_000):
            try:
                theirs.sendall(HELLO_REQUESTS)
            except OSError:
                return number
        return 20_000

    with theirs:
        flooding = InThread(flood)
        transport = TLSTransport(ours, client_context, server_hostname="localhost")
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            transport.complete_handshake(started + 0.2)
        assert time.monotonic() - started < 5
        transport.close()
        assert flooding.result() < 20_000


class Renegotiating:
    """An ``SSLObject`` that wants its handshake to go on before it writes."""

    def __init__(self, tls: ssl.SSLObject, steps: int) -> None:
        self.tls = tls
        self.steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tls, name)

    def write(self, data: Any) -> int:
        if self.steps:
            raise ssl.SSLWantReadError
        return self.tls.write(data)

    def do_handshake(self) -> None:
        if self.steps > 1:
            self.steps -= 1
            raise ssl.SSLWantReadError
        self.steps = 0


def test_before_the_connection_is_open_the_sender_goes_on_with_the_handshake(pair: Pair) -> None:
    transport = pair.connection._channel.transport
    assert isinstance(transport, TLSTransport)
    transport.tls = Renegotiating(transport.tls, 1)  # type: ignore[assignment]  # a stand-in
    with pair.connection._channel.state_lock:
        transport.send_before(b"x" * 9, time.monotonic() + PATIENCE)
    assert not transport.stalled
    read(pair, 9)


def test_it_waits_for_a_peer_that_does_not_until_the_deadline(pair: Pair) -> None:
    transport = pair.connection._channel.transport
    assert isinstance(transport, TLSTransport)
    transport.tls = Renegotiating(transport.tls, 2**30)  # type: ignore[assignment]  # a stand-in
    with pair.connection._channel.state_lock:
        started = time.monotonic()
        used = time.thread_time()
        with pytest.raises(TimeoutError):
            transport.send_before(b"x", started + 0.3)
        assert time.monotonic() - started < 5
        assert time.thread_time() - used < 0.2  # it waited
    pair.connection.abort()
