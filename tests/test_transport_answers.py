"""What TLS itself wants to say while it reads, and records that bring no data.

Python's TLS cannot be told to renegotiate or to update keys, so stand-ins for OpenSSL do here
what that makes it do.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from channels import PATIENCE, Meeting
from reliability.peer import TEXT, frame

from syncws.frames import lib
from syncws.transport import READ, TLSTransport, Transport, wait_for


class Answering:
    """An ``SSLObject`` that answers each record it reads."""

    def __init__(self, transport: TLSTransport, answer: bytes) -> None:
        self.tls = transport.tls
        self.transport = transport
        self.answer = answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tls, name)

    def read(self, size: int, memory: memoryview) -> int:
        count = int(self.tls.read(size, memory))
        self.transport._outgoing.write(self.answer)
        return count


class Wanting:
    """An ``SSLObject`` to which everything is a record without data."""

    def __init__(self, transport: TLSTransport) -> None:
        self.tls = transport.tls
        self.transport = transport
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tls, name)

    def read(self, size: int, memory: memoryview) -> int:
        self.transport._incoming.read()
        self.tries += 1
        raise ssl.SSLWantReadError


@pytest.fixture
def meeting(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> Iterator[Meeting]:
    with Meeting(contexts=(client_context, server_context)) as made:
        yield made


def transport_of(meeting: Meeting) -> TLSTransport:
    assert isinstance(meeting.transport, TLSTransport)
    return meeting.transport


def stand_in(transport: TLSTransport, tls: object) -> None:
    # As in test_transport_stalled.py: not an SSLObject, which can be made by a context only.
    transport.tls = tls  # type: ignore[assignment]


def raw_bytes(meeting: Meeting) -> bytes:
    """What has arrived at the peer's socket, below its TLS."""
    sock = meeting.peer.sock
    assert isinstance(sock, ssl.SSLSocket)
    with socket.socket(fileno=os.dup(sock.fileno())) as below:
        below.setblocking(False)
        try:
            return below.recv(2**20)
        except BlockingIOError:
            return b""


def test_what_tls_answers_leaves_without_another_call(meeting: Meeting) -> None:
    transport = transport_of(meeting)
    stand_in(transport, Answering(transport, b"answer"))
    meeting.peer.send(b"first")
    meeting.peer.send(b"second")
    memory = memoryview(bytearray(100))
    received = b""
    while received != b"firstsecond":
        wait_for(transport.sock, READ, time.monotonic() + PATIENCE)
        count = transport.receive_into(memory)
        received += bytes(memory[: count or 0])
    assert raw_bytes(meeting) == b"answeranswer"
    assert not transport.holds_output()


def test_an_answer_that_the_socket_refuses_leaves_when_there_is_room(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = transport_of(meeting)
    stand_in(transport, Answering(transport, b"answer"))
    full = True
    send = Transport.send

    def sent(data: Any) -> int:
        return 0 if full else send(transport._below, data)

    monkeypatch.setattr(transport._below, "send", sent)
    meeting.peer.send_frame(TEXT, b"x")
    assert meeting.receive() == "x"
    assert transport.owing
    full = False
    meeting.stepped.turn_until(lambda: not transport.owing)
    assert raw_bytes(meeting) == b"answer"
    assert lib.syncws_output_size(meeting.c) == 0


def test_answers_that_the_peer_does_not_take_are_bounded(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = transport_of(meeting)
    stand_in(transport, Answering(transport, bytes(100_000)))
    monkeypatch.setattr(transport._below, "send", lambda data: 0)
    data = frame(TEXT, b"x")
    memory = memoryview(bytearray(100))
    with pytest.raises(OSError, match="takes no answer"):
        for _ in range(20):
            meeting.peer.send(data)
            wait_for(transport.sock, READ, time.monotonic() + PATIENCE)
            assert transport.receive_into(memory) == len(data)
    assert transport._outgoing.pending + len(transport._unsent) <= 500_000


def test_a_stalled_write_waits_for_the_rest_of_a_record(meeting: Meeting) -> None:
    transport = transport_of(meeting)
    meeting.peer.send(b"x" * 100)
    wait_for(transport.sock, READ, time.monotonic() + PATIENCE)
    # OpenSSL keeps the other half, and the BIO is empty.
    memory = memoryview(bytearray(transport.tls.pending() + 50))
    while not transport.tls.pending():
        transport.receive_into(memory[:50])
    transport._stalled = True
    assert transport.send(b"data") == 0
    assert transport.receive_into(memory) == 50
    assert transport.send(b"data") == 4


def test_records_without_data_do_not_keep_a_thread(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = transport_of(meeting)
    wanting = Wanting(transport)
    stand_in(transport, wanting)
    monkeypatch.setattr(transport._below, "receive_into", lambda memory: 10)
    assert transport.receive_into(memoryview(bytearray(100))) is None
    assert 2 < wanting.tries < 10
    meeting.peer.send(b"keeps the socket readable")
    with pytest.raises(TimeoutError):
        transport.receive_before(time.monotonic() + 0.2)


def test_what_the_layer_below_holds_is_not_waited_for(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = transport_of(meeting)
    received = iter([None, b"data"])
    monkeypatch.setattr(transport, "receive", lambda size: next(received))
    monkeypatch.setattr(transport, "pending", lambda: True)
    assert transport.receive_before(time.monotonic() + PATIENCE) == b"data"


def test_a_peer_that_takes_a_little_of_what_is_kept_is_alive(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = transport_of(meeting)
    room = 0
    send = Transport.send

    def sent(data: Any) -> int:
        nonlocal room
        part = memoryview(data)[:room]
        room = 0
        return send(transport._below, part) if part else 0

    monkeypatch.setattr(transport._below, "send", sent)
    meeting.channel.send_control(0x9, b"a ping")
    before = lib.syncws_drained(meeting.c)
    assert meeting.channel.flush() == lib.SYNCWS_PENDING
    assert lib.syncws_drained(meeting.c) == before
    for number in range(1, 4):
        room = 3
        assert meeting.channel.flush() == lib.SYNCWS_PENDING
        assert lib.syncws_drained(meeting.c) == before + number
