"""The arguments of a connection's methods."""

from __future__ import annotations

import array
import copy
import math
import mmap
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from pairing import PATIENCE, Pair, frame

from syncws.exceptions import ConnectionClosed
from syncws.frames import FrameDecoder, Opcode, Side, lib


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair(close_timeout=2) as made:
        yield made


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError)]
)
def test_timeouts_are_checked(pair: Pair, timeout: Any, error: type[Exception]) -> None:
    for call in (
        pair.connection.recv,
        pair.connection.recv_many,
        lambda timeout: pair.connection.recv_streaming(timeout=timeout),
        lambda timeout: pair.connection.send("x", timeout=timeout),
        lambda timeout: pair.connection.send(["x"], timeout=timeout),
        pair.connection.wait_closed,
        pair.connection.ping().wait,
    ):
        with pytest.raises(error, match="timeout"):
            call(timeout)  # type: ignore[operator]  # seven signatures, one call
    (record,) = FrameDecoder(Side.SERVER).feed(pair.peer.recv(65536))
    assert record.opcode == Opcode.PING, "nothing was sent"


def test_a_bad_argument_costs_no_message_that_is_queued(pair: Pair) -> None:
    pair.peer.sendall(frame(1, b"one") + frame(1, b"two"))
    assert pair.connection.recv(PATIENCE) == "one"
    with pytest.raises(ValueError, match="timeout"):
        pair.connection.recv(timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        pair.connection.recv_many(timeout=-1)
    with pytest.raises(TypeError, match="decode"):
        pair.connection.recv(decode="utf-8")  # type: ignore[arg-type]  # that is the test
    assert pair.connection.recv(timeout=0) == "two"


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**400], ids=["inf", "1e300", "10**400"])
def test_a_timeout_that_no_clock_reaches_waits(pair: Pair, timeout: float) -> None:
    pair.peer.sendall(frame(1, b"x") + frame(1, b"y", fin=False) + frame(0, b"z"))
    assert pair.connection.recv(timeout) == "x"
    assert "".join(map(str, pair.connection.recv_streaming(timeout=timeout))) == "yz"
    pair.connection.send("x", timeout=timeout)


def test_whatever_has_a_buffer_is_a_message(pair: Pair) -> None:
    with mmap.mmap(-1, 5000) as memory:
        memory.write(b"x" * 5000)
        pair.connection.send(memory)
    pair.connection.send(array.array("B", b"text"), text=True)
    pair.connection.send([array.array("B", b"in "), bytearray(b"parts")])
    decoder = FrameDecoder(Side.SERVER)
    found: list[tuple[int, Any]] = []
    while len(found) < 3:
        for record in decoder.feed(pair.peer.recv(65536)):
            many = record.data if record.kind == lib.SYNCWS_RUN else [record.data]
            found += [(record.opcode, data) for data in many]
    expected = [(Opcode.BINARY, b"x" * 5000), (Opcode.TEXT, "text"), (Opcode.BINARY, b"in parts")]
    assert found == expected


def test_a_buffer_is_not_kept(pair: Pair) -> None:
    def growing() -> Iterator[array.array[int]]:
        numbers = array.array("B")
        for number in b"abc":
            numbers.append(number)
            yield numbers

    pair.connection.send(growing())
    pair.connection.abort()
    with pytest.raises(ConnectionClosed), mmap.mmap(-1, 100) as memory:
        pair.connection.send(memory)


def test_a_connection_has_no_copy(pair: Pair) -> None:
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a Connection cannot be copied or pickled"):
            take(pair.connection)
    pair.connection.send("x")


def test_what_is_sent_without_waiting_is_checked(pair: Pair) -> None:
    with pytest.raises(TypeError, match="payload must be bytes, not str"):
        pair.connection.try_send("text", Opcode.TEXT)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ValueError, match="opcode must be"):
        pair.connection.try_send(b"", Opcode.PING)
    assert pair.connection.try_send(b"sent", Opcode.BINARY)
    (record,) = FrameDecoder(Side.SERVER).feed(pair.peer.recv(65536))
    assert record.data == b"sent", "and nothing else"
