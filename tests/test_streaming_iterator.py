"""The iterator of recv_streaming(): what a timeout, an error and the end leave behind."""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import inspect
import sys
import threading
import time
import types
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from extending import agreed
from pairing import PATIENCE, InThread, Pair, eventually, frame
from reliability import peer as wire

from syncws import delivery as delivery_module
from syncws import streaming as streaming_module
from syncws.delivery import Stream
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
        with pytest.raises(TimeoutError, match=r"no message|rest of the message"):
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


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_loop_that_ends_in_a_timeout_leaves_nothing(pair: Pair) -> None:
    try:
        for _ in pair.connection.recv_streaming(timeout=SHORT):
            pass
    except TimeoutError:
        # Here, where the traceback is alive.
        pair.peer.sendall(frame(TEXT, b"whole"))
        assert pair.connection.recv(PATIENCE) == "whole"
    else:
        pytest.fail("nothing was sent")


@pytest.mark.usefixtures("no_collector")
def test_an_iterator_that_timed_out_goes_with_its_variable(pair: Pair) -> None:
    def receive() -> None:
        pieces = pair.connection.recv_streaming(timeout=SHORT)
        with contextlib.suppress(TimeoutError):
            next(pieces)
            pytest.fail("nothing was sent")
        with contextlib.suppress(TimeoutError):
            next(pieces)

    receive()
    pair.peer.sendall(frame(TEXT, b"whole"))
    assert pair.connection.recv(PATIENCE) == "whole"


def test_a_message_that_came_after_the_timeout_is_put_back(pair: Pair) -> None:
    pieces = pair.connection.recv_streaming(timeout=SHORT)
    with pytest.raises(TimeoutError):
        next(pieces)
    stream = pair.channel.streaming
    assert stream is not None
    pair.peer.sendall(frame(TEXT, b"whole"))
    assert eventually(lambda: stream.finished)
    del pieces
    assert pair.connection.recv(PATIENCE) == "whole"


@pytest.mark.usefixtures("no_collector")
def test_the_collector_frees_an_iterator_with_its_connection() -> None:
    """In an order of its own: C may be gone before the generator."""

    class Node:
        pass

    for _ in range(3):
        node: Any = Node()
        node.pair = Pair(close_timeout=2)
        node.pieces = node.pair.connection.recv_streaming(timeout=SHORT)
        with pytest.raises(TimeoutError):
            next(node.pieces)
        stream = node.pair.channel.streaming
        node.pair.peer.sendall(frame(TEXT, b"whole"))
        assert eventually(functools.partial(getattr, stream, "finished"))
        node.pair.close()
        node.itself = node
    del node, stream
    assert gc.collect() > 0


class Interrupting:
    """Raises where the interpreter looks for signals: when functions begin, and after C's."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, code_frame: types.FrameType, event: str, _: Any) -> None:
        code = code_frame.f_code
        ours = code.co_filename in (streaming_module.__file__, delivery_module.__file__)
        # What a profiler raises as a generator goes on passes by its `try`; a signal does not.
        begins = event == "call" and not code.co_flags & inspect.CO_GENERATOR
        if ours and (begins or event == "c_return"):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("pieces_first", [False, True])
def test_an_interrupt_anywhere_leaves_no_hole(pieces_first: bool) -> None:
    """What was given is the beginning of the message, and the next message can be received."""
    data = frame(TEXT, b"one ", fin=False) + frame(CONTINUATION, b"two")
    for after in range(1, 200):
        interrupting = Interrupting(after)
        found: list[str | bytes] = []
        with Pair(close_timeout=2) as pair:
            if pieces_first:
                pair.peer.sendall(data)
            else:
                pair.peer.sendall(frame(TEXT, b"one two"))
                assert eventually(lambda: pair.channel.inbound)
            pieces = pair.connection.recv_streaming(timeout=PATIENCE)
            try:
                sys.setprofile(interrupting)
                for piece in pieces:
                    found.append(piece)
            except KeyboardInterrupt:
                sys.setprofile(None)
                assert "one two".startswith("".join(map(str, found)))
                with contextlib.suppress(RuntimeError):
                    found += list(pieces)
                    assert "".join(map(str, found)) == "one two"
            finally:
                sys.setprofile(None)
            del pieces
            pair.peer.sendall(frame(TEXT, b"next"))
            assert pair.connection.recv(PATIENCE) in ("one two", "next")
        if interrupting.left > 0:
            break
    assert interrupting.left > 0, "the iterator runs more lines"


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


@pytest.mark.parametrize("timeout", [None, 0, PATIENCE])
def test_they_are_refused_at_once_by_any_thread(pair: Pair, timeout: float | None) -> None:
    pieces = pair.connection.recv_streaming(timeout=PATIENCE)
    pair.peer.sendall(frame(TEXT, b"one ", fin=False))
    assert next(pieces) == "one "
    for behind in (False, True):
        if behind:
            # A message waits that could be taken.
            pair.peer.sendall(frame(CONTINUATION, b"two") + frame(TEXT, b"next"))
            assert eventually(lambda: pair.channel.inbound)
        for call in (pair.connection.recv, pair.connection.recv_many):
            with pytest.raises(ConcurrencyError, match="recv_streaming"):
                InThread(call, timeout).result()
    assert list(pieces) == ["two"]
    assert pair.connection.recv(PATIENCE) == "next"


COMPRESSOR = zlib.compressobj(9, zlib.DEFLATED, -15)
COMPRESSED = COMPRESSOR.compress("é first".encode()) + COMPRESSOR.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("data", "codec"),
    [
        (wire.frame(TEXT, "é first".encode()), False),
        # From its beginning nothing comes yet.
        (wire.frame(TEXT, COMPRESSED[:-4], rsv=4), True),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_message_of_which_nothing_could_be_given_is_kept(
    data: bytes, codec: bool, again: bool
) -> None:
    with Pair(close_timeout=2, extensions=agreed()[:1] if codec else ()) as pair:
        pair.peer.sendall(data[:3])
        pieces = pair.connection.recv_streaming(timeout=SHORT)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                next(pieces)
        pieces.close()
        if again:
            # Who takes it up gets all of it.
            pieces = pair.connection.recv_streaming(timeout=SHORT)
            with pytest.raises(TimeoutError):
                next(pieces)
        pair.peer.sendall(data[3:])
        if again:
            assert "".join(map(str, patiently(pieces))) == "é first"
        else:
            assert pair.connection.recv(PATIENCE) == "é first"


def test_an_interrupt_while_it_is_closed_loses_no_message() -> None:
    """One of which no piece was taken."""
    for after in range(1, 100):
        interrupting = Interrupting(after)
        with Pair(close_timeout=2) as pair:
            pieces = pair.connection.recv_streaming(timeout=SHORT)
            with pytest.raises(TimeoutError):
                next(pieces)
            stream = pair.channel.streaming
            pair.peer.sendall(frame(TEXT, b"whole"))
            assert eventually(functools.partial(getattr, stream, "finished"))
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    sys.setprofile(interrupting)
                    pieces.close()
                finally:
                    sys.setprofile(None)
            del pieces  # if it came before anything was done
            pair.peer.sendall(frame(TEXT, b"next"))
            assert [pair.connection.recv(PATIENCE) for _ in range(2)] == ["whole", "next"]
        if interrupting.left > 0:
            break
    assert interrupting.left > 0, "closing takes more calls"


def test_closing_leaves_the_next_stream_alone(pair: Pair) -> None:
    """Another thread has begun it in the middle."""
    channel, following = pair.channel, Stream()

    class Pieces(collections.deque[Any]):
        def clear(self) -> None:
            channel.streaming = following

    pair.peer.sendall(frame(TEXT, b"one", fin=False))
    pieces = pair.connection.recv_streaming(timeout=PATIENCE)
    assert next(pieces) == "one"
    assert channel.streaming is not None
    channel.streaming.pieces = Pieces()
    pieces.close()
    assert channel.streaming is following


def test_one_call_at_a_time(pair: Pair) -> None:
    pieces = pair.connection.recv_streaming(timeout=PATIENCE)
    waiting = InThread(next, pieces)
    assert eventually(lambda: pair.channel.streaming is not None)
    with pytest.raises(ConcurrencyError, match="in the middle of another call"):
        next(pieces)
    pair.peer.sendall(frame(TEXT, b"one"))
    assert waiting.result() == "one"
    assert list(pieces) == []
    pieces.close()
    assert list(pieces) == []
