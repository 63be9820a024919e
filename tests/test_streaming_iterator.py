"""The iterator of recv_streaming(): what a timeout, an error and the end leave behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from pairing import PATIENCE, InThread, Pair, frame

from syncws.exceptions import ConcurrencyError, ConnectionClosedError
from syncws.frames import lib

CONTINUATION, TEXT, BINARY = 0, 1, 2
SHORT = 0.02


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair(close_timeout=2) as made:
        yield made


def patiently(pieces: Iterator[str | bytes]) -> Iterator[str | bytes]:
    """They come when the machine lets them: timeouts are no end."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            yield next(pieces)
        except TimeoutError:
            continue
        except StopIteration:
            return


def test_it_goes_on_after_timeouts(pair: Pair) -> None:
    pieces = pair.connection.recv_streaming(timeout=SHORT)
    for data in (frame(TEXT, b"one ", fin=False), frame(CONTINUATION, b"two")):
        with pytest.raises(TimeoutError, match="rest of the message"):
            next(pieces)
        pair.peer.sendall(data)
        assert next(patiently(pieces)) == data[2:].decode()
    assert list(patiently(pieces)) == list(pieces) == []
    pair.peer.sendall(frame(TEXT, b"whole"))
    assert pair.connection.recv(PATIENCE) == "whole"


def test_it_goes_on_after_waiting_for_another_reader(pair: Pair) -> None:
    c, taken, leave = pair.channel.c, threading.Event(), threading.Event()

    def read() -> None:
        pair.take()
        taken.set()
        leave.wait(PATIENCE)
        lib.syncws_leave(c, 0)

    reading = InThread(read)
    assert taken.wait(PATIENCE)
    pieces = pair.connection.recv_streaming(timeout=SHORT)
    for _ in range(2):
        with pytest.raises(TimeoutError, match="no message"):
            next(pieces)
    leave.set()
    reading.result()
    pair.peer.sendall(frame(TEXT, b"one"))
    assert list(patiently(pieces)) == ["one"]


def test_a_loop_that_ends_in_a_timeout_leaves_nothing(pair: Pair) -> None:
    try:
        for _ in pair.connection.recv_streaming(timeout=SHORT):
            pytest.fail("nothing was sent")
    except TimeoutError:
        # Here, where the traceback is alive.
        pair.peer.sendall(frame(TEXT, b"whole"))
        assert pair.connection.recv(PATIENCE) == "whole"


def test_an_end_in_the_middle_does_not_look_like_that_of_the_message(pair: Pair) -> None:
    pair.peer.sendall(frame(TEXT, b"one", fin=False))
    pieces = pair.connection.recv_streaming(timeout=PATIENCE)
    assert next(pieces) == "one"
    pair.peer.sendall(frame(CONTINUATION, b"\xff"))
    for _ in range(2):
        with pytest.raises(ConnectionClosedError):
            next(pieces)


def test_neither_does_an_error(pair: Pair) -> None:
    pair.peer.sendall(frame(BINARY, b"\xff", fin=False))
    pieces = pair.connection.recv_streaming(decode=True, timeout=PATIENCE)
    with pytest.raises(UnicodeDecodeError):
        next(pieces)
    with pytest.raises(RuntimeError, match="in the middle of its message"):
        next(pieces)


def test_close_drops_the_rest(pair: Pair) -> None:
    pair.peer.sendall(frame(TEXT, b"one", fin=False))
    pieces = pair.connection.recv_streaming(timeout=PATIENCE)
    assert iter(pieces) is pieces
    assert next(pieces) == "one"
    pieces.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(pieces)
    pair.peer.sendall(frame(CONTINUATION, b"two") + frame(TEXT, b"next"))
    assert pair.connection.recv(PATIENCE) == "next"


def test_whole_messages_are_refused_meanwhile_whatever_the_timeout(pair: Pair) -> None:
    pieces = pair.connection.recv_streaming(timeout=SHORT)
    with pytest.raises(TimeoutError):
        next(pieces)
    for receive in (pair.connection.recv, pair.connection.recv_many):
        for timeout in (0, SHORT, None):
            with pytest.raises(ConcurrencyError, match="recv_streaming"):
                receive(timeout)
