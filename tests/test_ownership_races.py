"""Interleavings that once lost a message, a wake-up, a connection or time; each is forced.

What belongs here: one test for each defect found by reviewing who reads a connection and who
waits for it, with pauses at named points. What does not: luck (``test_ownership_stress.py``).
"""

from __future__ import annotations

import gc
import ssl
import threading
import time
import weakref
from typing import Any

import pytest
from pairing import InThread, Pair, eventually, frame

import syncws.connection as connection_module
from syncws.exceptions import ConnectionClosed
from syncws.frames import lib, thread_scratch
from syncws.input import InputChannel
from syncws.output import OutputChannel

TEXT, BINARY, CONTINUATION, CLOSE = 1, 2, 0, 8


def test_a_wait_that_times_out_while_another_thread_follows() -> None:
    # The main thread waits in slices; at the end of each it still owned the channel, and
    # took itself for a second receiver.
    with Pair() as pair:

        def follow() -> str:
            time.sleep(0.1)
            message: str = pair.connection.recv(5)
            return message

        following = InThread(follow)
        sending = threading.Timer(0.7, pair.peer.sendall, [frame(TEXT, b"a") + frame(TEXT, b"b")])
        sending.start()
        assert {pair.connection.recv(5), following.result()} == {"a", "b"}


def owned(pair: Pair) -> bool:
    """Whether another thread is inside a receiving call."""
    code = lib.syncws_take(pair.channel.c, lib.SYNCWS_TAKE_WAIT)
    if code == lib.SYNCWS_OK:
        lib.syncws_leave(pair.channel.c, 0)
    return bool(code == lib.SYNCWS_BUSY)


def test_a_signal_handler_that_polls_another_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    # It found the message that C had for the outer call, and gave it to its own connection.
    monkeypatch.setattr("syncws.transport.PYTHON_IO", False)
    with Pair() as outer, Pair() as inner:
        receive = connection_module._receive

        def interrupted(c: Any, *arguments: Any) -> Any:
            # This thread must read it, and not the reader thread.
            held, go_on = threading.Event(), threading.Event()
            outer.reader.call_soon(lambda: (held.set(), go_on.wait(30)))
            assert held.wait(30)
            outer.peer.sendall(frame(TEXT, b"for the outer call"))
            code = receive(c, *arguments)
            go_on.set()
            assert thread_scratch().unclaimed == 1
            monkeypatch.setattr(connection_module, "_receive", receive)
            with pytest.raises(TimeoutError):
                inner.connection.recv(0)
            return code

        monkeypatch.setattr(connection_module, "_receive", interrupted)
        assert outer.connection.recv(5) == "for the outer call"
        assert not inner.channel.inbound


def test_an_abort_while_a_large_message_waits_for_the_queue() -> None:
    # The queue of a dead connection never gets shorter: the sender asked for ever.
    with Pair(write_limit=1000) as pair:
        while pair.connection.try_send(b"x" * 60_000, BINARY):
            pass
        sending = InThread(pair.connection.send, b"x" * 200_000)
        assert eventually(lambda: pair.channel.senders)
        pair.connection.abort()
        with pytest.raises(ConnectionClosed):
            sending.result()


def test_a_message_whose_streaming_timed_out_before_its_first_piece() -> None:
    with Pair() as pair:
        with pytest.raises(TimeoutError):
            list(pair.connection.recv_streaming(timeout=0.01))
        pair.peer.sendall(frame(TEXT, b"o", fin=False) + frame(CONTINUATION, b"ne"))
        pair.peer.sendall(frame(TEXT, b"two"))
        assert pair.connection.recv(5) == "one"
        assert pair.connection.recv(5) == "two"


def test_streaming_begins_again_in_the_middle_of_a_message_that_was_left() -> None:
    with Pair() as pair:
        pair.peer.sendall(frame(TEXT, b"a", fin=False))
        for piece in pair.connection.recv_streaming():
            assert piece == "a"
            break
        streaming = InThread(lambda: list(pair.connection.recv_streaming(timeout=30)))
        assert eventually(lambda: owned(pair))
        pair.peer.sendall(frame(CONTINUATION, b"b") + frame(TEXT, b"next"))
        assert "".join(streaming.result()) == "next"


def test_a_piece_that_came_between_looking_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pair() as pair:
        read_once = InputChannel.read_once
        paused = []

        def late(self: InputChannel, mode: int, *arguments: Any) -> int:
            if mode == lib.SYNCWS_TAKE_WAIT and not self.reader.in_thread() and not paused:
                paused.append(True)
                pair.peer.sendall(frame(BINARY, b"all of it"))
                assert eventually(lambda: self.incoming is None)
            return read_once(self, mode, *arguments)

        monkeypatch.setattr(InputChannel, "read_once", late)
        streaming = InThread(lambda: list(pair.connection.recv_streaming()))
        assert streaming.result() == [b"all of it"]
        assert paused


def test_a_pause_that_begins_while_close_asks_for_the_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Pair(max_queue=4, close_timeout=8) as pair:
        should_pause = InputChannel._should_pause
        decided, go_on = threading.Event(), threading.Event()

        def slow(self: InputChannel) -> bool:
            result = should_pause(self)
            if result and self.reader.in_thread() and not decided.is_set():
                decided.set()
                go_on.wait(5)
            return result

        monkeypatch.setattr(InputChannel, "_should_pause", slow)
        pair.peer.sendall(frame(TEXT, b"m") * 8)
        assert decided.wait(5)
        closing = InThread(pair.connection.close)
        assert eventually(lambda: pair.channel.closing.sent)
        time.sleep(0.05)
        go_on.set()
        pair.peer.sendall(frame(CLOSE, b"\x03\xe8"))
        pair.peer.close()
        started = time.monotonic()
        closing.result()
        assert time.monotonic() - started < 4


def test_a_keepalive_that_cannot_be_written_does_not_stop_the_reader() -> None:
    with Pair(max_queue=4, ping_interval=0.05, ping_timeout=60, close_timeout=60) as pair:
        pair.peer.sendall(frame(TEXT, b"m") * 8)
        assert eventually(lambda: lib.syncws_flags(pair.channel.c) & lib.SYNCWS_FLAG_PAUSED)
        pair.peer.close()
        for _ in range(20):
            answered = threading.Event()
            pair.reader.call_soon(answered.set)
            assert answered.wait(10)
            time.sleep(0.02)


def test_tls_records_behind_one_that_a_thread_took(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    # The selector has nothing to report: the bytes are in memory already.
    with Pair((client_context, server_context)) as pair:
        time.sleep(0.1)  # armed, so the watch need not be renewed
        receiving = InThread(pair.connection.recv, 5)
        time.sleep(0.1)
        # Nor had it when it could: the thread was faster.
        go_on = threading.Event()
        pair.reader.call_soon(go_on.wait, 5)
        pair.peer.sendall(frame(BINARY, b"x" * 16_370) * 3)
        receiving.result()
        go_on.set()
        assert eventually(lambda: len(pair.channel.inbound) == 2)


def test_wait_closed_behind_a_full_queue() -> None:
    with Pair(max_queue=4) as pair:
        data = frame(TEXT, b"m" * 20_000) * 20 + frame(CLOSE, b"\x03\xe8")
        sending = InThread(pair.peer.sendall, data)
        assert eventually(lambda: lib.syncws_flags(pair.channel.c) & lib.SYNCWS_FLAG_PAUSED)
        waiting = InThread(pair.connection.wait_closed)
        sending.result()
        pair.peer.close()
        assert waiting.result()
        assert len(pair.connection.recv_many()) == 20


def test_ctrl_c_between_the_decision_to_close_and_the_close_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Pair() as pair:
        send_control = OutputChannel.send_control

        def interrupted(*_: Any) -> int:
            monkeypatch.setattr(OutputChannel, "send_control", send_control)
            raise KeyboardInterrupt

        monkeypatch.setattr(OutputChannel, "send_control", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pair.connection.start_close()
        assert pair.peer.recv(1) == b"\x88"  # the reader thread sends it


@pytest.mark.parametrize("way", ["close", "abort", "drop", "eof", "refused", "timeout", "recv"])
def test_a_closed_connection_is_freed_without_the_collector(way: str) -> None:
    gc.collect()
    gc.disable()
    try:
        pair = Pair(ping_interval=0.02, ping_timeout=30, close_timeout=1, write_limit=1000)
        reference = weakref.ref(pair.channel)
        connection: Any = pair.connection
        time.sleep(0.05)  # a question about the peer's life is open
        if way != "timeout":
            pair.peer.close()
        try:
            if way == "close":
                connection.close()
            elif way == "abort":
                connection.abort()
            elif way == "refused":
                while True:
                    connection.send(b"x")
            elif way == "timeout":
                connection.send(b"x" * 10_000_000, timeout=0.05)
            elif way == "recv":
                connection.recv()
        except (ConnectionClosed, TimeoutError):
            pass
        del pair.channel, pair.connection, connection
        assert eventually(lambda: reference() is None), gc.get_referrers(reference())
        pair.peer.close()
        pair.reader.close()
    finally:
        gc.enable()
