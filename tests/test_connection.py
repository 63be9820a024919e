"""The blocking API of one connection."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from pairing import PATIENCE, InThread, Pair, eventually, frame

import syncws
from syncws import CloseCode, ConnectionClosedError, ConnectionClosedOK, State
from syncws import connection as connection_module
from syncws.frames import FrameDecoder, Opcode, Side, lib, thread_scratch


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair(close_timeout=2) as made:
        yield made


def received(pair: Pair, count: int = 1) -> list[tuple[int, Any]]:
    """What the peer reads: opcode and data of ``count`` messages and control frames."""
    decoder = FrameDecoder(Side.SERVER, max_frame_size=None, max_size=None)
    found: list[tuple[int, Any]] = []
    while len(found) < count:
        data = pair.peer.recv(65536)
        assert data, f"the stream ended after {found}"
        for record in decoder.feed(data):
            many = record.data if record.kind == lib.SYNCWS_RUN else [record.data]
            found += [(record.opcode, item) for item in many]
    return found


# -- receiving ------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 125, b"x" * 65536, b"x" * 3_000_000])
def test_recv_gives_text_as_str_and_binary_as_bytes(pair: Pair, payload: bytes) -> None:
    sending = InThread(pair.peer.sendall, frame(1, payload) + frame(2, payload))
    assert pair.connection.recv(PATIENCE) == payload.decode()
    assert pair.connection.recv() == payload
    sending.result()


@pytest.mark.parametrize(("opcode", "message"), [(1, "x"), (2, b"x"), (1, ""), (2, b"")])
def test_recv_reads_the_socket_itself(pair: Pair, opcode: int, message: str | bytes) -> None:
    held, go_on = threading.Event(), threading.Event()
    pair.reader.call_soon(lambda: (held.set(), go_on.wait(PATIENCE)))
    assert held.wait(PATIENCE)
    try:
        pair.peer.sendall(frame(opcode, b"x" if message else b""))
        assert pair.connection.recv(PATIENCE) == message
    finally:
        go_on.set()


def test_recv_converts_on_request(pair: Pair) -> None:
    pair.peer.sendall(frame(1, "é".encode()) + frame(2, b"\xc3\xa9") + frame(2, b"\xff"))
    assert pair.connection.recv(decode=False) == b"\xc3\xa9"
    assert pair.connection.recv(decode=True) == "é"
    with pytest.raises(UnicodeDecodeError):
        pair.connection.recv(decode=True)


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_recv_times_out_and_can_be_called_again(pair: Pair, timeout: float) -> None:
    with pytest.raises(TimeoutError, match="no message"):
        pair.connection.recv(timeout)
    pair.peer.sendall(frame(1, b"x"))
    assert pair.connection.recv(PATIENCE) == "x"


def test_recv_without_waiting_reads_the_socket(pair: Pair) -> None:
    pair.peer.sendall(frame(1, b"x"))
    assert eventually(lambda: _received_now(pair))


def _received_now(pair: Pair) -> bool:
    try:
        return pair.connection.recv(0) == "x"
    except TimeoutError:
        return False


def test_recv_many_takes_all_that_is_there(pair: Pair) -> None:
    pair.peer.sendall(b"".join(frame(1, b"%d" % number) for number in range(100)))
    messages: list[Any] = []
    while len(messages) < 100:
        many = pair.connection.recv_many(PATIENCE)
        assert many
        messages += many
    assert messages == [str(number) for number in range(100)]
    with pytest.raises(TimeoutError):
        pair.connection.recv_many(0)


def test_recv_streaming_gives_pieces_as_they_come(pair: Pair) -> None:
    pieces = pair.connection.recv_streaming(timeout=PATIENCE)
    pair.peer.sendall(frame(1, "aé".encode()[:2], fin=False))
    assert next(pieces) == "a"
    pair.peer.sendall(frame(9, b"?") + frame(0, "é".encode()[1:] + b"\xe2", fin=False))
    assert next(pieces) == "é"
    rest = InThread(list, pieces)
    pair.peer.sendall(frame(0, b"\x82", fin=False))
    pair.peer.sendall(frame(0, b"\xac") + frame(1, b"next"))
    assert "".join(rest.result()) == "€"
    assert pair.connection.recv(PATIENCE) == "next"
    assert received(pair) == [(Opcode.PONG, b"?")]


@pytest.mark.parametrize("decode", [None, True, False])
def test_recv_streaming_converts_on_request(pair: Pair, decode: bool | None) -> None:
    pieces = pair.connection.recv_streaming(decode)
    streamed = InThread(list, pieces)
    pair.peer.sendall(frame(2, b"a", fin=False) + frame(0, b"b"))
    joined = streamed.result()
    assert "".join(joined) == "ab" if decode else b"".join(joined) == b"ab"


def test_recv_streaming_of_a_message_that_is_there(pair: Pair) -> None:
    pair.peer.sendall(frame(1, b"whole"))
    assert eventually(lambda: pair.channel.inbound)
    assert list(pair.connection.recv_streaming(decode=False)) == [b"whole"]


def test_iteration_ends_at_a_normal_close(pair: Pair) -> None:
    pair.peer.sendall(frame(1, b"a") + frame(1, b"b") + frame(8, b"\x03\xe9"))
    assert list(pair.connection) == ["a", "b"]


def test_iteration_raises_at_any_other_end(pair: Pair) -> None:
    pair.peer.sendall(frame(1, b"a"))
    pair.peer.close()
    messages = iter(pair.connection)
    assert next(messages) == "a"
    with pytest.raises(ConnectionClosedError):
        next(messages)


def test_another_thread_may_be_faster(pair: Pair) -> None:
    class Faster:
        def __bool__(self) -> bool:
            return True

    pair.connection._inbound = Faster()  # type: ignore[assignment]  # full when looked at

    pair.peer.sendall(frame(1, b"x"))
    assert pair.connection.recv(PATIENCE) == "x"


def test_another_thread_is_faster_with_a_queued_message(pair: Pair) -> None:
    # What this thread saw in the queue, which is empty when it takes.
    pair.connection._inbound = deque(["gone"])
    pair.peer.sendall(frame(1, b"x"))
    assert pair.connection.recv(PATIENCE) == "x"


def test_a_first_call_in_a_thread_makes_its_memory(pair: Pair) -> None:
    pair.peer.sendall(frame(1, b"x"))
    assert InThread(pair.connection.recv).result() == "x"
    InThread(pair.connection.send, "y").result()
    assert received(pair) == [(1, "y")]


def test_a_call_without_memory_leaves_an_interrupted_call_the_connection(pair: Pair) -> None:
    def interrupted() -> int:
        pair.take()
        # What a signal handler does that runs here, in a thread that has no memory yet.
        with pytest.raises(syncws.ConcurrencyError):
            pair.connection.recv(PATIENCE)
        mine: int = lib.syncws_is_mine(pair.channel.c)
        lib.syncws_leave(pair.channel.c, 0)
        return mine

    assert InThread(interrupted).result() == 1


def test_memory_in_use_by_an_interrupted_call_is_left_alone(pair: Pair) -> None:
    busy = thread_scratch()
    busy.unclaimed = 1
    try:
        pair.peer.sendall(frame(1, b"x"))
        assert pair.connection.recv(PATIENCE) == "x"
        assert busy.unclaimed == 1
    finally:
        busy.unclaimed = 0


# -- sending --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "text", "expected"),
    [
        ("é", None, (1, "é")),
        (b"x", None, (2, b"x")),
        (bytearray(b"x"), None, (2, b"x")),
        (memoryview(b"x"), None, (2, b"x")),
        ("é", False, (2, b"\xc3\xa9")),
        (b"x", True, (1, "x")),
        ("", None, (1, "")),
        (["a", "b"], None, (1, "ab")),
        (iter([b"a", b"b"]), None, (2, b"ab")),
        ([b"a", b"b"], True, (1, "ab")),
        ("x" * 200_000, None, (1, "x" * 200_000)),
    ],
)
def test_send(pair: Pair, message: Any, text: bool | None, expected: tuple[int, Any]) -> None:
    sending = InThread(lambda: pair.connection.send(message, text=text, timeout=PATIENCE))
    assert received(pair) == [expected]
    sending.result()


@pytest.mark.parametrize("message", [1, None, 1.5, {"a": "b"}, [1], [["a"]]])
def test_send_refuses_other_types(pair: Pair, message: Any) -> None:
    with pytest.raises(TypeError, match="message"):
        pair.connection.send(message)
    pair.connection.send("still usable")
    assert received(pair) == [(1, "still usable")]


def test_send_refuses_lone_surrogates_before_anything_is_sent(pair: Pair) -> None:
    with pytest.raises(UnicodeEncodeError):
        pair.connection.send("\ud800")
    pair.connection.send("x")
    assert received(pair) == [(1, "x")]


def test_an_empty_iterable_sends_nothing(pair: Pair) -> None:
    pair.connection.send([])
    pair.connection.send("x")
    assert received(pair) == [(1, "x")]


def test_an_iterable_that_raises_fails_the_connection(pair: Pair) -> None:
    def fragments() -> Iterator[str]:
        yield "a"
        raise LookupError("no more")

    with pytest.raises(LookupError):
        pair.connection.send(fragments())
    assert b"\x03\xf3" in _unmasked_close(pair)
    with pytest.raises(ConnectionClosedError):
        pair.connection.send("x")


def _unmasked_close(pair: Pair) -> bytes:
    decoder = FrameDecoder(Side.SERVER)
    while True:
        for record in decoder.feed(pair.peer.recv(65536)):
            if record.opcode == Opcode.CLOSE:
                return bytes(record.data)


def test_try_send_never_waits(pair: Pair) -> None:
    assert pair.connection.try_send(b"x", Opcode.TEXT)
    assert received(pair) == [(1, "x")]
    while pair.connection.try_send(bytes(500_000), Opcode.BINARY):
        pass
    assert pair.connection.stats.bytes_unsent > 0
    pair.connection.abort()
    with pytest.raises(ConnectionClosedError):
        pair.connection.try_send(b"x", Opcode.TEXT)


def test_pings_and_pongs(pair: Pair) -> None:
    pair.connection.ping("é")
    pair.connection.pong(b"now")
    pair.connection.pong()
    assert received(pair, 3) == [(9, b"\xc3\xa9"), (10, b"now"), (10, b"")]
    with pytest.raises(syncws.ConcurrencyError, match="this data"):
        pair.connection.ping("é")
    for call in (pair.connection.ping, pair.connection.pong):
        with pytest.raises(ValueError, match="data"):
            call(b"x" * 126)
        with pytest.raises(TypeError, match="data"):
            call(5)
    pair.connection.abort()
    for call in (pair.connection.ping, pair.connection.pong):
        with pytest.raises(ConnectionClosedError):
            call(b"x")


# -- attributes -----------------------------------------------------------------------


def test_attributes(pair: Pair) -> None:
    connection = pair.connection
    assert connection.id == connection.id
    assert isinstance(connection.logger, logging.Logger)
    assert connection.request.path == "/"
    assert connection.response.status_code == 101
    assert connection.subprotocol is None
    assert connection.state is State.OPEN
    assert connection.connected
    assert connection.latency == 0.0
    assert connection.close_code is None
    assert connection.close_reason is None
    assert connection.fileno() >= 0
    assert connection.peer_certificate is None
    assert connection.local_address == connection.remote_address == ""
    assert "open" in repr(connection)
    connection.abort()
    assert eventually(lambda: connection.fileno() == -1)
    assert connection.local_address is None
    assert connection.state is State.CLOSED
    assert not connection.connected
    assert connection.close_code == CloseCode.ABNORMAL_CLOSURE
    assert connection.close_reason == ""


def test_the_peers_certificate(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    with Pair((client_context, server_context)) as pair:
        assert pair.connection.peer_certificate


# -- closing --------------------------------------------------------------------------


def test_close_is_a_handshake(pair: Pair) -> None:
    closing = InThread(pair.connection.close, 4000, "done")
    assert received(pair) == [(8, b"\x0f\xa0done")]
    pair.peer.sendall(frame(8, b"\x0f\xa0"))
    pair.peer.close()
    closing.result()
    assert pair.connection.close_code == 4000
    pair.connection.close()
    with pytest.raises(ConnectionClosedError) as raised:
        pair.connection.recv()
    assert raised.value.sent == (4000, "done")
    assert raised.value.rcvd_then_sent is False


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [(1005, "", ValueError), (999, "", ValueError), ("1000", "", TypeError), (1000, 5, TypeError)],
)
def test_close_checks_its_arguments(
    pair: Pair, code: Any, reason: Any, error: type[Exception]
) -> None:
    for call in (pair.connection.close, pair.connection.start_close):
        with pytest.raises(error):
            call(code, reason)
    assert pair.connection.connected


def test_close_is_bounded_when_the_peer_is_silent() -> None:
    with Pair(close_timeout=0.3) as pair:
        start = time.monotonic()
        pair.connection.close()
        assert time.monotonic() - start < PATIENCE
        assert pair.connection.state is State.CLOSED
        assert pair.connection.close_code == CloseCode.ABNORMAL_CLOSURE


def test_close_is_bounded_when_the_reader_thread_is_busy() -> None:
    with Pair(close_timeout=0.2) as pair:
        go_on, free = threading.Event(), list[bool]()
        pair.reader.call_soon(lambda: free.append(go_on.wait(PATIENCE)))
        pair.connection.close()
        assert pair.connection.state is State.CLOSED and not free
        go_on.set()


def test_a_context_manager_closes_normally_or_with_1011(pair: Pair) -> None:
    def converse() -> None:
        with pair.connection as entered:
            assert entered is pair.connection
            raise LookupError

    conversation = InThread(converse)
    assert received(pair) == [(8, b"\x03\xf3")]
    pair.peer.close()
    with pytest.raises(LookupError):
        conversation.result()
    with Pair() as other:

        def leave() -> None:
            with other.connection:
                pass

        leaving = InThread(leave)
        assert received(other) == [(8, b"\x03\xe8")]
        other.peer.close()
        leaving.result()


def test_messages_can_be_taken_after_close(pair: Pair) -> None:
    pair.peer.sendall(frame(1, b"early"))
    assert eventually(lambda: pair.channel.inbound)
    closing = InThread(pair.connection.close)
    pair.peer.sendall(frame(1, b"late") + frame(8, b"\x03\xe8"))
    pair.peer.close()
    closing.result()
    assert pair.connection.recv() == "early"
    assert pair.connection.recv() == "late"
    with pytest.raises(ConnectionClosedOK):
        pair.connection.recv()


def test_wait_closed(pair: Pair) -> None:
    assert not pair.connection.wait_closed(0.05)
    waiting = InThread(pair.connection.wait_closed)
    pair.peer.sendall(frame(8, b"\x03\xe8"))
    assert received(pair) == [(8, b"\x03\xe8")]
    pair.peer.close()
    assert waiting.result() is True


def test_start_close_does_not_wait(pair: Pair) -> None:
    pair.connection.start_close(CloseCode.GOING_AWAY, "bye")
    assert pair.connection.state is State.CLOSING
    assert received(pair) == [(8, b"\x03\xe9bye")]
    with pytest.raises(syncws.ConnectionClosed):
        pair.connection.send("x")


def test_g8x_close_inside_another_call_only_begins_it(pair: Pair) -> None:
    pair.take()
    try:
        start = time.monotonic()
        pair.connection.close()
        assert time.monotonic() - start < 1
        assert pair.connection.state is State.CLOSING
        with pytest.raises(syncws.ConcurrencyError):
            pair.connection.recv(1)
    finally:
        lib.syncws_leave(pair.channel.c, 0)


def test_g13x_a_dropped_connection_is_freed_and_closed(pair: Pair) -> None:
    gc.disable()
    try:
        dropped = weakref.ref(pair.connection)
        del pair.connection
        assert dropped() is None
    finally:
        gc.enable()
        pair.connection = _Nothing()  # type: ignore[assignment]  # what the fixture aborts
    assert received(pair) == [(8, b"\x03\xe9")]
    pair.peer.close()
    assert eventually(lambda: pair.channel.gone)


class _Nothing:
    def abort(self) -> None:
        """There is nothing to end."""


def test_a_broken_connection_is_no_surprise_to_close(pair: Pair) -> None:
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    pair.peer.close()
    pair.connection.close()
    with pytest.raises(syncws.ConnectionClosed):
        pair.connection.send("x")


@pytest.mark.parametrize(
    ("name", "timeout"), [("_receive", PATIENCE), ("_receive_next", None)], ids=["timed", "untimed"]
)
def test_an_interrupted_recv_loses_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, name: str, timeout: float | None
) -> None:
    calls: list[int] = []
    receive = getattr(connection_module, name)

    def interrupted(*arguments: Any) -> int:
        code: int = receive(*arguments)
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt  # at the end of the call, before its result is stored
        return code

    monkeypatch.setattr(connection_module, name, interrupted)
    pair.peer.sendall(frame(1, b"x"))
    try:
        message = pair.connection.recv(timeout)
    except KeyboardInterrupt:
        message = pair.connection.recv(timeout)
    assert message == "x"
