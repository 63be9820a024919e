"""A scripted conversation, cut at every byte offset, in both roles.

The peer's half of a conversation stops after each of its bytes: by FIN, by RST, by silence,
by a half-close. Whatever was whole before the cut has been delivered, then comes the
documented exception within its deadline, and nothing is left behind.
"""

from __future__ import annotations

import functools
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import syncws

from . import peer as wire
from .asking import upgrade
from .peer import Listener, Peer
from .subject import Outcome, Subject, collect, no_trace

# Seconds in which a cut that the network reports must have ended the connection.
DEADLINE = 3.0

# What the silent peers get, who may be held up on their way to where they fall silent.
LIVELY: dict[str, Any] = {"ping_interval": 1.0, "ping_timeout": 1.0, "close_timeout": 0.2}


class Step(NamedTuple):
    """Bytes that the peer sends, and what the program has received once they are whole."""

    data: bytes
    message: str | bytes | None = None
    closes: bool = False


def script(key: bytes | None) -> list[Step]:
    """The frames of the conversation: all kinds, all header sizes but the longest."""

    def frame(opcode: int, payload: bytes = b"", **fields: Any) -> bytes:
        return wire.frame(opcode, payload, mask=key, **fields)

    return [
        Step(frame(wire.TEXT, b"hello"), "hello"),
        Step(frame(wire.PING, b"ping")),
        Step(frame(wire.BINARY, bytes(range(20)), fin=False)),
        Step(frame(wire.CONTINUATION, b"", fin=False)),
        Step(frame(wire.PONG)),
        Step(frame(wire.CONTINUATION, bytes(range(20, 30))), bytes(range(30))),
        Step(frame(wire.TEXT, "€ §".encode()[:1], fin=False)),
        Step(frame(wire.CONTINUATION, "€ §".encode()[1:]), "€ §"),
        Step(frame(wire.BINARY, b"x" * 130), b"x" * 130),
        Step(frame(wire.TEXT), ""),
        Step(frame(wire.CLOSE, wire.close_payload(1001, b"bye")), closes=True),
    ]


def expected(steps: list[Step], sent: int) -> tuple[list[str | bytes], bool]:
    """What the program must have received of the first ``sent`` bytes, and if they end well."""
    messages: list[str | bytes] = []
    position = 0
    for step in steps:
        position += len(step.data)
        if position > sent:
            return messages, False
        if step.message is not None:
            messages.append(step.message)
        if step.closes:
            return messages, True
    return messages, False


Cut = Callable[[Peer], None]


def cut_by_fin(peer: Peer) -> None:
    """The peer is gone; what we write to it is answered by a reset."""
    peer.close()


def cut_by_reset(peer: Peer) -> None:
    """The network says at once that the peer is gone."""
    peer.reset()


def cut_by_half_close(peer: Peer) -> None:
    """The peer sends nothing more but reads to the end."""
    peer.half_close()
    peer.read_raw(timeout=DEADLINE)
    peer.close()


CUTS: dict[str, Cut] = {"FIN": cut_by_fin, "RST": cut_by_reset, "half-close": cut_by_half_close}


def check_outcome(outcome: Outcome, steps: list[Step], sent: int, reset: bool) -> None:
    """Demands what the program must see of a conversation that was cut."""
    messages, closed = expected(steps, sent)
    outcome.wait(DEADLINE)
    if reset:
        # A reset may overtake what the kernel had not handed out yet.
        assert outcome.messages == messages[: len(outcome.messages)], sent
    else:
        assert outcome.messages == messages, sent
    error = outcome.error
    assert isinstance(error, syncws.ConnectionClosed), (sent, error)
    if closed and not reset:
        assert isinstance(error, syncws.ConnectionClosedOK), sent
        assert error.rcvd is not None
        assert (error.rcvd.code, error.rcvd.reason) == (1001, "bye")
    elif not closed:
        assert isinstance(error, syncws.ConnectionClosedError), (sent, error)
        assert error.rcvd is None


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_cut_in_the_conversation(plain_subject: Subject, cut: Cut) -> None:
    steps = script(plain_subject.key)
    data = b"".join(step.data for step in steps)
    for offset in range(len(data) + 1):
        with plain_subject.open(collect) as conversation:
            conversation.peer.send(data[:offset])
            cut(conversation.peer)
            check_outcome(conversation.outcome, steps, offset, cut is cut_by_reset)
        if not plain_subject.is_server:
            settle_closed(conversation.outcome)


def settle_closed(outcome: Outcome) -> None:
    """Waits until the connection has come to its end."""
    assert outcome.connection.wait_closed(DEADLINE)
    assert not outcome.connection.connected


@pytest.mark.parametrize("cut", [cut_by_fin, cut_by_reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("role", ["server", "client"])
def test_cut_in_the_conversation_over_tls(
    role: str, cut: Cut, contexts: Any, warm: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream cut without close_notify is no end: an attacker could have cut it."""
    with no_trace(caplog):
        subject = Subject(role, contexts)
        try:
            steps = script(subject.key)
            data = b"".join(step.data for step in steps)
            for offset in [*range(0, len(data), 11), len(data)]:
                with subject.open(collect) as conversation:
                    conversation.peer.send(data[:offset])
                    cut(conversation.peer)
                    check_outcome(conversation.outcome, steps, offset, cut is cut_by_reset)
            subject.check_alive()
        finally:
            subject.close()


@pytest.mark.parametrize("ciphertext", range(0, 2000, 67))
def test_cut_in_the_tls_stream(
    contexts: Any, warm: None, caplog: pytest.LogCaptureFixture, ciphertext: int
) -> None:
    """The server's TLS stream is cut anywhere, also inside its handshake and its records."""
    with no_trace(caplog), Listener() as listener:
        subject = Subject("client", contexts)
        outcome = subject.start_client(collect, listener.uri.replace("ws:", "wss:"), open_timeout=5)
        with listener.accept_raw() as peer:
            send_ciphertext(peer, listener, contexts.server, ciphertext)
        outcome.wait(DEADLINE)
        assert isinstance(outcome.error, OSError | syncws.WebSocketError), repr(outcome.error)
        assert not isinstance(outcome.error, syncws.ConnectionClosedOK | TimeoutError)
        subject.close()


def send_ciphertext(peer: Peer, listener: Listener, context: ssl.SSLContext, count: int) -> None:
    """Plays a TLS server up to its first message, and stops after ``count`` bytes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    answered = False
    while count > 0:
        try:
            if not answered:
                head = tls.read(65536)
                tls.write(listener.response(head) + wire.frame(wire.TEXT, b"hello"))
                answered = True
        except ssl.SSLWantReadError:
            pass
        data = outgoing.read(count)
        count -= len(data)
        peer.send(data)
        if answered and not outgoing.pending:
            return
        if count > 0:
            incoming.write(peer.sock.recv(65536))


def test_cut_in_the_request(plain_server: Subject) -> None:
    """No handler ever runs, whatever the cut, and the server does not wait."""
    request = upgrade()
    for cut in CUTS.values():
        for offset in range(len(request)):
            with wire.dial(plain_server.address()) as peer:
                peer.send(request[:offset])
                cut(peer)
    assert not plain_server.server().connections


@pytest.mark.parametrize("name", CUTS)
def test_cut_in_the_response(name: str, warm: None, caplog: pytest.LogCaptureFixture) -> None:
    """``connect()`` raises what it documents, and at once."""
    with no_trace(caplog):
        subject = Subject("client", None)
        try:
            for offset in range(cut_length(subject)):
                outcome = subject.start_client(open_timeout=5)
                with subject.listener.accept_raw() as peer:
                    head = wire.read_head(peer)
                    peer.send(subject.listener.response(head)[:offset])
                    CUTS[name](peer)
                    outcome.wait(DEADLINE)
                assert isinstance(outcome.error, syncws.InvalidHandshake | OSError), (
                    offset,
                    outcome.error,
                )
                assert not isinstance(outcome.error, TimeoutError), offset
        finally:
            subject.close()


def cut_length(subject: Subject) -> int:
    """How long a response is; every one is as long."""
    return len(subject.listener.response(upgrade()))


def in_batches(offsets: range, size: int = 128) -> Iterator[list[int]]:
    """The offsets, so many at a time: silence is waited for by all of a batch together."""
    for start in range(0, len(offsets), size):
        yield list(offsets[start : start + size])


@pytest.mark.alone
def test_silence_in_the_conversation(plain_subject: Subject) -> None:
    """The keepalive notices, tells the peer 1011, and every call returns."""
    steps = script(plain_subject.key)
    data = b"".join(step.data for step in steps)
    # The whole of it is no silence any more.
    for offsets in in_batches(range(len(data))):
        conversations = []
        try:
            for offset in offsets:
                conversations.append(plain_subject.open(collect, **LIVELY))
                conversations[-1].peer.send(data[:offset])
            started = time.monotonic()
            for offset, conversation in zip(offsets, conversations, strict=True):
                outcome = conversation.outcome.wait(2 * DEADLINE)
                assert outcome.messages == expected(steps, offset)[0], offset
                error = outcome.error
                assert isinstance(error, syncws.ConnectionClosedError), (offset, error)
                assert error.rcvd is None
                assert error.sent is not None
                assert error.sent.code == 1011
                _, close = conversation.peer.read_until_close()
                assert struct.unpack("!H", close.payload[:2]) == (1011,)
            assert time.monotonic() - started < 2 * DEADLINE
        finally:
            for conversation in conversations:
                conversation.peer.close()


@pytest.mark.alone
def test_silence_and_a_receive_timeout(plain_subject: Subject) -> None:
    """``recv(timeout=)`` raises in time wherever the stream stops, and loses nothing."""
    steps = script(plain_subject.key)
    data = b"".join(step.data for step in steps[:-1])

    def impatient(offset: int, connection: Any, outcome: Outcome) -> None:
        whole = len(expected(steps, offset)[0])
        deadline = time.monotonic() + wire.PATIENCE
        while True:
            try:
                outcome.messages.append(connection.recv(timeout=0.2))
            except TimeoutError:
                # Too early only if the peer was held up: what is lost never comes.
                if len(outcome.messages) >= whole or time.monotonic() > deadline:
                    break
        timed_out[offset].set()
        outcome.release.wait(2 * wire.PATIENCE)
        collect(connection, outcome)

    for offsets in in_batches(range(0, len(data), 3)):
        conversations = []
        timed_out = {offset: threading.Event() for offset in offsets}
        try:
            for offset in offsets:
                conversations.append(plain_subject.open(functools.partial(impatient, offset)))
                conversations[-1].peer.send(data[:offset])
            for offset, conversation in zip(offsets, conversations, strict=True):
                assert timed_out[offset].wait(2 * wire.PATIENCE), offset
                assert conversation.outcome.messages == expected(steps, offset)[0], offset
                conversation.outcome.release.set()
                conversation.peer.send(data[offset:] + steps[-1].data)
            for conversation in conversations:
                conversation.peer.read_until_close()
                conversation.peer.half_close()
                outcome = conversation.outcome.wait(DEADLINE)
                assert outcome.messages == expected(steps, 10**6)[0]
                assert isinstance(outcome.error, syncws.ConnectionClosedOK)
        finally:
            for conversation in conversations:
                conversation.peer.close()


@pytest.mark.alone
def test_silence_in_the_request(plain_server: Subject) -> None:
    """``open_timeout`` ends what never becomes a request."""
    request = upgrade()
    for offsets in in_batches(range(len(request)), size=256):
        peers = []
        try:
            for offset in offsets:
                peers.append(wire.dial(plain_server.address(open_timeout=0.4)))
                peers[-1].send(request[:offset])
            started = time.monotonic()
            for peer in peers:
                peer.read_raw(timeout=2 * DEADLINE)
            assert time.monotonic() - started < 2 * DEADLINE
        finally:
            for peer in peers:
                peer.close()


@pytest.mark.alone
def test_silence_in_the_response(warm: None, caplog: pytest.LogCaptureFixture) -> None:
    """``open_timeout`` is a total: ``connect()`` raises ``TimeoutError`` by then."""
    with no_trace(caplog):
        subject = Subject("client", None)
        try:
            for offsets in in_batches(range(cut_length(subject))):
                pairs = []
                for offset in offsets:
                    outcome = subject.start_client(open_timeout=2)
                    peer = subject.listener.accept_raw()
                    peer.send(subject.listener.response(wire.read_head(peer))[:offset])
                    pairs.append((outcome, peer))
                started = time.monotonic()
                for outcome, peer in pairs:
                    outcome.wait(2 * DEADLINE)
                    peer.close()
                    assert isinstance(outcome.error, TimeoutError), outcome.error
                assert time.monotonic() - started < 2 * DEADLINE
        finally:
            subject.close()


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_cut_while_sending(plain_subject: Subject, cut: Cut) -> None:
    """A ``send()`` that waits for the peer ends with the connection."""
    started = threading.Event()

    def send_much(connection: Any, outcome: Outcome) -> None:
        started.set()
        while True:
            connection.send(b"x" * 2**20, timeout=20)

    with plain_subject.open(send_much) as conversation:
        assert started.wait(wire.PATIENCE)
        # Both directions are full once nothing more can be read without our help.
        conversation.peer.sock.recv(1)
        if cut is cut_by_half_close:
            conversation.peer.half_close()
        else:
            cut(conversation.peer)
        if cut is cut_by_half_close:
            conversation.peer.read_raw(timeout=2 * DEADLINE)
        error = conversation.outcome.wait(2 * DEADLINE).error
        assert isinstance(error, syncws.ConnectionClosedError), error
        assert error.rcvd is None
