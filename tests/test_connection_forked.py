"""A connection in a forked child of its process: it is the parent's."""

from __future__ import annotations

import contextlib
import os
import traceback
import warnings
from collections.abc import Callable

import pytest
from pairing import PATIENCE, Pair, eventually, frame

import syncws
from syncws import Opcode, State


def in_child(work: Callable[[], object]) -> None:
    """Runs ``work`` in a forked child; it must not raise."""
    with warnings.catch_warnings():
        # There are other threads, and Python warns of it.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_forked_connection_says_so() -> None:
    with Pair() as pair:
        pair.channel.abort()
        pair.channel.forked = True
        for call in (
            pair.connection.close,
            pair.connection.recv,
            lambda: pair.connection.send("x"),
        ):
            with pytest.raises(syncws.ForkedConnectionError):
                call()
        pair.channel.forked = False


def test_every_call_in_the_child_is_refused() -> None:
    with Pair(close_timeout=2) as pair:
        ws = pair.connection
        waiter = ws.ping()
        pieces = ws.recv_streaming(timeout=PATIENCE)
        pair.peer.sendall(frame(1, b"begun", fin=False))
        assert next(pieces) == "begun"
        calls: dict[str, Callable[[], object]] = {
            "recv": lambda: ws.recv(0),
            "recv_many": lambda: ws.recv_many(0),
            "recv_streaming": lambda: next(ws.recv_streaming(timeout=0)),
            "the pieces of before": lambda: next(pieces),
            "the same again": lambda: next(pieces),
            "iter": lambda: next(iter(ws)),
            "send": lambda: ws.send("x"),
            "send a large one": lambda: ws.send(bytes(10**6)),
            "send fragments": lambda: ws.send(iter(["x"])),
            "try_send": lambda: ws.try_send(b"x", Opcode.TEXT),
            "ping": ws.ping,
            "pong": ws.pong,
            "PingWaiter.wait": lambda: waiter.wait(0.1),
            "close": ws.close,
            "start_close": ws.start_close,
            "wait_closed": lambda: ws.wait_closed(0.1),
            "abort": ws.abort,
            "wait": lambda: syncws.wait([ws], 0),
            "broadcast": lambda: syncws.broadcast([ws], "x"),
        }

        def refused() -> None:
            accepted = []
            for name, call in calls.items():
                try:
                    call()
                except syncws.ForkedConnectionError:
                    continue
                accepted.append(name)
            assert accepted == []
            assert ws.state is State.CLOSED
            assert ws.fileno() == -1

        in_child(refused)
        # Nothing of that reached the parent or its peer.
        pair.peer.sendall(frame(0, b", ended"))
        assert "".join(pieces) == ", ended"  # type: ignore[arg-type]
        assert ws.connected
        pair.peer.sendall(frame(1, b"next"))
        assert ws.recv(PATIENCE) == "next"


def test_what_was_queued_is_for_the_parent() -> None:
    with Pair() as pair:
        pair.peer.sendall(b"".join(frame(1, text) for text in (b"one", b"two", b"three")))
        assert eventually(lambda: len(pair.channel.inbound) == 3)

        def receive_nothing() -> None:
            for receive in (pair.connection.recv, pair.connection.recv_many):
                with pytest.raises(syncws.ForkedConnectionError):
                    receive(0)
            assert pair.connection.stats.messages_queued == 0

        in_child(receive_nothing)
        assert pair.connection.recv_many(0) == ["one", "two", "three"]


def test_so_is_what_was_queued_when_it_ended() -> None:
    with Pair() as pair:
        pair.peer.sendall(frame(1, b"the last one"))
        assert eventually(lambda: pair.channel.inbound)
        pair.connection.abort("enough")

        def receive_nothing() -> None:
            with pytest.raises(syncws.ConnectionClosedError, match="enough"):
                pair.connection.recv(0)
            pair.connection.abort()
            assert pair.connection.wait_closed(0)

        in_child(receive_nothing)
        assert pair.connection.recv(0) == "the last one"


def test_the_end_of_the_child_is_not_the_parents() -> None:
    with Pair(close_timeout=2) as pair:

        def leave() -> None:
            for call in (pair.connection.abort, pair.connection.close):
                with contextlib.suppress(syncws.ForkedConnectionError):
                    call()

        in_child(leave)
        pair.peer.settimeout(0.05)
        with pytest.raises(TimeoutError):
            pair.peer.recv(1)
        pair.peer.settimeout(PATIENCE)
        pair.connection.send("still here")
        assert pair.peer.recv(100)
