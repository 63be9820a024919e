"""Waiting for several connections, and the objects that calls return."""

from __future__ import annotations

import signal
import ssl
import threading
import time

import pytest
from channels import interpose
from pairing import PATIENCE, InThread, Pair, eventually, frame

import syncws
from syncws import input as input_module
from syncws import wait
from syncws.frames import lib


def test_a_message_ends_the_wait() -> None:
    with Pair() as first, Pair() as second:
        waiting = InThread(wait, [first.connection, second.connection], PATIENCE)
        assert eventually(lambda: second.channel.waiters)
        second.peer.sendall(frame(1, b"x"))
        assert waiting.result() == [second.connection]
        assert second.connection.recv(0) == "x"
        assert not first.channel.waiters
        assert not second.channel.waiters


def test_messages_that_are_there_already_count() -> None:
    with Pair() as first, Pair() as second:
        for pair in (first, second):
            pair.peer.sendall(frame(1, b"x"))
        assert eventually(lambda: first.channel.inbound and second.channel.inbound)
        assert wait([second.connection, first.connection], 0) == [
            second.connection,
            first.connection,
        ]


def test_nothing_until_the_timeout() -> None:
    with Pair() as pair:
        start = time.monotonic()
        assert wait([pair.connection], 0.3) == []
        assert time.monotonic() - start >= 0.3
        assert wait([pair.connection], 0) == []
    assert wait([], None) == []


def test_the_end_counts_as_something_to_receive() -> None:
    with Pair() as pair:
        waiting = InThread(wait, [pair.connection])
        pair.peer.close()
        assert waiting.result() == [pair.connection]
        with pytest.raises(syncws.ConnectionClosedError):
            pair.connection.recv(PATIENCE)
        assert wait([pair.connection], 0) == [pair.connection]


def test_what_tls_holds_already_counts(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    with Pair((client_context, server_context)) as pair:
        pair.peer.sendall(frame(1, b"a") + frame(1, b"b") + frame(2, b"x" * 200_000))
        assert pair.connection.recv(PATIENCE) == "a"
        for expected in ("b", b"x" * 200_000):
            assert wait([pair.connection], PATIENCE) == [pair.connection]
            assert pair.connection.recv(PATIENCE) == expected


def test_a_ping_can_be_waited_for() -> None:
    with Pair() as pair:
        waiter = pair.connection.ping(b"here")
        assert not waiter.is_set()
        assert waiter.latency == 0.0
        assert not waiter.wait(0.05)
        received = pair.peer.recv(100)
        assert len(received) == 10
        timer = threading.Timer(0.05, pair.peer.sendall, (frame(10, b"here"),))
        timer.start()
        assert waiter.wait(PATIENCE)
        assert waiter.is_set()
        assert waiter.latency > 0
        assert pair.connection.latency == waiter.latency
        assert pair.connection.stats.latency == waiter.latency
        assert waiter.wait(0)
        timer.join()


def test_a_pong_behind_messages_that_nobody_takes() -> None:
    messages = [bytes([number]) * 500_000 for number in range(10)]
    with Pair() as pair:
        waiter = pair.connection.ping(b"x")
        data = b"".join(frame(2, message) for message in messages) + frame(10, b"x")
        sending = InThread(pair.peer.sendall, data)
        assert waiter.wait(PATIENCE)
        sending.result()
        assert [pair.connection.recv(0) for _ in messages] == messages


@pytest.mark.parametrize("ending", ["close", "eof", "abort"])
def test_a_ping_whose_connection_ends(ending: str) -> None:
    with Pair() as pair:
        waiter = pair.connection.ping()
        waiting = InThread(waiter.wait, PATIENCE)
        assert eventually(lambda: pair.channel.waiters)
        if ending == "close":
            pair.peer.sendall(frame(8, b"\x03\xe8"))
        elif ending == "eof":
            pair.peer.close()
        else:
            pair.connection.abort()
        with pytest.raises(syncws.ConnectionClosed):
            waiting.result()


def test_a_connection_of_the_parent_is_refused_before_anything_is_waited_for() -> None:
    with Pair() as ours, Pair() as theirs:
        theirs.channel.forked = True
        for timeout in (0, None):
            with pytest.raises(syncws.ForkedConnectionError):
                wait([ours.connection, theirs.connection], timeout)
        assert not ours.channel.waiters
        theirs.channel.forked = False


# -- in the middle of another call ------------------------------------------------


def test_g8x_nobody_waits_for_what_the_thread_itself_is_reading() -> None:
    with Pair() as pair, Pair() as other:
        pair.take()
        try:
            for connections in ([pair.connection], [other.connection, pair.connection]):
                with pytest.raises(syncws.ConcurrencyError):
                    wait(connections)
                assert wait(connections, 0) == []
            other.peer.sendall(frame(1, b"x"))
            assert wait([other.connection], PATIENCE) == [other.connection]
            # What is there already needs nobody.
            assert wait([other.connection, pair.connection]) == [other.connection]
        finally:
            lib.syncws_leave(pair.channel.c, 0)
        assert not pair.channel.waiters


def test_g8x_a_signal_handler_does_not_wait_for_the_recv_that_it_interrupted(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[BaseException] = []
    with Pair((client_context, server_context)) as pair:

        def handler(*_: object) -> None:
            try:
                wait([pair.connection])
            except BaseException as error:
                seen.append(error)
            pair.peer.sendall(frame(1, b"x"))

        def interrupted(*arguments: object) -> int:
            if not seen:
                signal.raise_signal(signal.SIGUSR1)
            return int(lib.syncws_wait_readable(*arguments))

        interpose(monkeypatch, input_module, syncws_wait_readable=interrupted)
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            assert pair.connection.recv(PATIENCE) == "x"
        finally:
            signal.signal(signal.SIGUSR1, before)
        (error,) = seen
        assert isinstance(error, syncws.ConcurrencyError)
