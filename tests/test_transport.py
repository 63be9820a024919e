"""The byte streams: partial reads and writes, TLS between BIOs, deadlines."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from syncws.transport import (
    CHUNK,
    PYTHON_IO,
    READ,
    WRITE,
    TLSTransport,
    Transport,
    remaining,
    wait_for,
)

BOUND = 10.0  # seconds; far more than anything here takes


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@contextlib.contextmanager
def tls_pair(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> Iterator[tuple[TLSTransport, TLSTransport]]:
    with connected() as (ours, theirs):
        server = TLSTransport(theirs, server_context, server_side=True)
        client = TLSTransport(ours, client_context, server_hostname="localhost")
        deadline = time.monotonic() + BOUND
        thread = threading.Thread(target=server.complete_handshake, args=(deadline,))
        thread.start()
        client.complete_handshake(deadline)
        thread.join(BOUND)
        yield server, client


def read_all(transport: Transport, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += transport.receive_before(time.monotonic() + BOUND)
    return data


def test_remaining() -> None:
    assert remaining(None) is None
    assert remaining(time.monotonic() - 1) == 0.0
    left = remaining(time.monotonic() + 100)
    assert left is not None
    assert 90 < left <= 100


def test_plain_receive_says_nothing_now_and_end() -> None:
    with connected() as (ours, theirs):
        transport = Transport(ours)
        assert transport.receive() is None
        theirs.sendall(b"hello")
        assert transport.receive(2) == b"he"
        assert transport.receive() == b"llo"
        theirs.shutdown(socket.SHUT_WR)
        assert transport.receive() == b""
        assert transport.fileno() == ours.fileno()
        assert transport.external is PYTHON_IO
        assert transport.peer_certificate is None
        assert not transport.pending()
        assert transport.flush()
        assert transport.handshake() == 0


def test_plain_send_takes_what_fits() -> None:
    with connected() as (ours, theirs):
        transport = Transport(ours)
        data = os.urandom(8 * 2**20)
        taken = transport.send(data)
        assert 0 < taken < len(data)
        while sent := transport.send(data[taken:]):
            taken += sent
        assert transport.send(b"x") == 0
        received = b""
        theirs.settimeout(BOUND)
        while len(received) < taken:
            received += theirs.recv(CHUNK)
        assert received == data[:taken]


def test_send_before_and_receive_before_move_everything() -> None:
    with connected() as (ours, theirs):
        sender, receiver = Transport(ours), Transport(theirs)
        data = os.urandom(4 * 2**20)
        thread = threading.Thread(target=sender.send_before, args=(data, time.monotonic() + BOUND))
        thread.start()
        assert read_all(receiver, len(data)) == data
        thread.join(BOUND)


def test_every_wait_ends_at_its_deadline() -> None:
    with connected() as (ours, _):
        transport = Transport(ours)
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            transport.receive_before(start + 0.3)
        with pytest.raises(TimeoutError):
            transport.send_before(bytes(64 * 2**20), time.monotonic() + 0.3)
        with pytest.raises(TimeoutError):  # full, and the time is over
            transport.send_before(b"x", time.monotonic())
        assert 0.6 <= time.monotonic() - start < BOUND


def test_a_wait_without_deadline_ends_with_the_data() -> None:
    with connected() as (ours, theirs):
        timer = threading.Timer(0.3, theirs.send, (b"x",))
        timer.start()
        wait_for(ours, READ, None)
        timer.join(BOUND)
        assert Transport(ours).receive() == b"x"


def test_half_close_close_and_abort() -> None:
    with connected() as (ours, theirs):
        transport = Transport(ours)
        transport.end_output()
        assert theirs.recv(1) == b""
        transport.close()
        transport.close()
        transport.end_output()
        assert transport.fileno() == -1
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        with theirs:
            theirs.settimeout(BOUND)
            transport = Transport(ours)
            transport.abort()
            with pytest.raises(ConnectionResetError):
                theirs.recv(1)
            transport.abort()


def test_tls_moves_bytes_both_ways(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with tls_pair(server_context, client_context) as (server, client):
        assert client.external
        assert client.tls.version() is not None
        assert client.peer_certificate
        assert client.receive() is None
        data = os.urandom(2**20)
        thread = threading.Thread(target=server.send_before, args=(data, time.monotonic() + BOUND))
        thread.start()
        assert read_all(client, len(data)) == data
        thread.join(BOUND)
        assert client.send(b"") == 0
        assert client.send(b"back") == 4
        assert read_all(server, 4) == b"back"


def test_tls_refused_bytes_are_neither_lost_nor_repeated(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with tls_pair(server_context, client_context) as (server, client):
        data = os.urandom(16 * 2**20)
        taken = 0
        while sent := client.send(data[taken:]):
            taken += sent
        assert 0 < taken < len(data)
        assert not client.flush()
        received = b""
        while len(received) < taken:
            client.flush()
            received += server.receive() or b""
        assert received == data[:taken]
        assert client.flush()


def test_g3x_what_tls_holds_already_is_pending(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with tls_pair(server_context, client_context) as (server, client):
        server.send(b"x" * 10_000)
        assert read_all(client, 1)
        server.send(b"y" * 10_000)
        wait_for(client.sock, READ, time.monotonic() + BOUND)
        assert client.receive(1) == b"y"
        assert client.pending()
        assert read_all(client, 9_999) == b"y" * 9_999
        assert client.receive() is None
        assert not client.pending()


def test_tls_records_that_come_together_are_read_together(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with tls_pair(server_context, client_context) as (server, client):
        assert client.receive() is None  # session tickets
        records = [_sealed(server, data) for data in (b"first", b"second", b"third")]
        server.sock.sendall(b"".join(records)[:-1])
        wait_for(client.sock, READ, time.monotonic() + BOUND)
        assert client.receive() == b"firstsecond"
        assert client.receive() is None
        server.sock.sendall(records[2][-1:])
        wait_for(client.sock, READ, time.monotonic() + BOUND)
        assert client.receive() == b"third"


@pytest.mark.parametrize("end", ["close_notify", "garbage"])
def test_what_tls_brought_before_its_end_is_not_hidden_by_it(
    end: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with tls_pair(server_context, client_context) as (server, client):
        assert client.receive() is None
        data = _sealed(server, b"first") + _sealed(server, b"second")
        if end == "garbage":
            data += b"\x17\x03\x03\x00\x20" + bytes(32)
        else:
            with pytest.raises(ssl.SSLWantReadError):
                server.tls.unwrap()
            data += server._outgoing.read()
        # TCP goes on: nothing else will make the socket readable.
        server.sock.sendall(data)
        wait_for(client.sock, READ, time.monotonic() + BOUND)
        assert client.receive() == b"firstsecond"
        if end == "garbage":
            assert client.pending()
            with pytest.raises(ssl.SSLError):
                client.receive()
        for _ in range(2):
            assert client.pending()
            assert client.receive() == b""


def _sealed(transport: TLSTransport, data: bytes) -> bytes:
    """The record of ``data``, unsent."""
    transport.tls.write(data)
    return transport._outgoing.read()


def test_tls_ends_with_and_without_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with tls_pair(server_context, client_context) as (server, client):
        server.send(b"last")
        server.end_output()
        assert read_all(client, 4) == b"last"
        assert client.receive_before(time.monotonic() + BOUND) == b""
    with tls_pair(server_context, client_context) as (server, client):
        server.sock.shutdown(socket.SHUT_WR)
        assert client.receive_before(time.monotonic() + BOUND) == b""


def test_tls_reading_survives_a_broken_pipe_while_flushing(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_pair(server_context, client_context) as (server, client):
        server.send(b"x")
        wait_for(client.sock, READ, time.monotonic() + BOUND)

        def broken() -> bool:
            raise BrokenPipeError(errno.EPIPE, "broken pipe")

        monkeypatch.setattr(client, "flush", broken)
        assert client.receive_before(time.monotonic() + BOUND) == b"x"


def test_tls_gives_up_a_peer_that_demands_answers_and_takes_none(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with tls_pair(server_context, client_context) as (server, client):
        while client.send(bytes(CHUNK)):
            pass
        client._unsent += bytes(5 * CHUNK)
        server.send(b"unread")
        wait_for(client.sock, READ, time.monotonic() + BOUND)
        assert client.receive() == b"unread"
        with pytest.raises(OSError, match="takes no answer"):
            client.receive()


def test_g3x_tls_renegotiated_keys_do_not_stall_reading(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    # TLS 1.3 session tickets make the socket readable with nothing to read.
    with tls_pair(server_context, client_context) as (server, client):
        assert client.receive() is None
        server.send(b"x")
        assert read_all(client, 1) == b"x"


def test_tls_handshake_fails_with_the_reason(server_context: ssl.SSLContext) -> None:
    with connected() as (ours, theirs):
        server = TLSTransport(theirs, server_context, server_side=True)
        client = TLSTransport(ours, ssl.create_default_context(), server_hostname="localhost")
        deadline = time.monotonic() + BOUND
        errors: list[BaseException] = []

        def serve() -> None:
            try:
                server.complete_handshake(deadline)
            except ssl.SSLError as error:
                errors.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ssl.SSLCertVerificationError):
            client.complete_handshake(deadline)
        thread.join(BOUND)
        assert isinstance(errors[0], ssl.SSLError), "the alert tells the server"


def test_tls_handshake_has_a_deadline(client_context: ssl.SSLContext) -> None:
    with connected() as (ours, _):
        client = TLSTransport(ours, client_context, server_hostname="localhost")
        with pytest.raises(TimeoutError):
            client.complete_handshake(time.monotonic() + 0.3)


def test_tls_handshake_with_a_peer_that_leaves(client_context: ssl.SSLContext) -> None:
    with connected() as (ours, theirs):
        client = TLSTransport(ours, client_context, server_hostname="localhost")
        theirs.close()
        with pytest.raises((ssl.SSLError, OSError)):
            client.complete_handshake(time.monotonic() + BOUND)


class Stingy:
    """A socket that takes a little at a time, and nothing every other time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.turn = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def send(self, data: bytes) -> int:
        self.turn += 1
        if self.turn % 2:
            raise BlockingIOError
        return self.sock.send(bytes(data)[:100])


def test_g6x_tls_handshake_and_data_in_small_pieces(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with connected() as (ours, theirs):
        server = TLSTransport(theirs, server_context, server_side=True)
        client = TLSTransport(ours, client_context, server_hostname="localhost")
        server.sock = Stingy(server.sock)  # type: ignore[assignment]  # a stand-in
        client.sock = Stingy(client.sock)  # type: ignore[assignment]  # a stand-in
        deadline = time.monotonic() + BOUND
        done: set[TLSTransport] = set()
        while len(done) < 2 and time.monotonic() < deadline:
            for transport in (server, client):
                if not transport.handshake():
                    done.add(transport)
        assert len(done) == 2
        data = os.urandom(20_000)
        received = b""
        taken = 0
        while len(received) < len(data) and time.monotonic() < deadline:
            taken += client.send(data[taken:])
            client.flush()
            received += server.receive() or b""
        assert received == data


def test_send_before_flushes_what_a_transport_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected() as (ours, theirs):
        transport = Transport(ours)
        answers = [True, False]
        monkeypatch.setattr(transport, "flush", lambda: answers.pop())
        transport.send_before(b"x", time.monotonic() + BOUND)
        assert answers == []
        assert theirs.recv(1) == b"x"


def test_a_socket_that_is_ready_without_anything_to_read_is_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = Transport(ours)
        theirs.sendall(b"x")
        receive, answers = transport.receive, [None]
        monkeypatch.setattr(
            transport, "receive", lambda size: answers.pop() if answers else receive(size)
        )
        assert transport.receive_before(time.monotonic() + 30) == b"x"
        assert answers == []


def test_a_handshake_that_cannot_write_waits_for_both(
    client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be written may never go, if the peer has ended it all meanwhile."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        below = Transport(ours)
        client = TLSTransport(below, client_context, server_hostname="localhost")
        with monkeypatch.context() as patch:
            patch.setattr(below, "send", lambda data: 0)
            assert client.handshake() == READ | WRITE
        assert client.handshake() == READ
        assert theirs.recv(1) == b"\x16"
