"""A channel and its reader: beginning, being let go of, fork, exit, errors nobody foresaw."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import threading
import time
import warnings
import weakref
from typing import Any

import pytest
from channels import PATIENCE, InThread, Meeting, SteppedReader, interpose, interrupted_after
from reliability.peer import BINARY, CLOSE, TEXT, Peer, frame

from syncws import channel as channel_module
from syncws import ending as ending_module
from syncws.channel import Channel
from syncws.exceptions import (
    ConcurrencyError,
    ConnectionClosedError,
    ConnectionClosedOK,
    ForkedConnectionError,
)
from syncws.frames import Close, Opcode, Side, lib, thread_scratch
from syncws.options import Options
from syncws.protocol import State
from syncws.reader import READ, Reader
from syncws.transport import CHUNK, Transport

NORMAL = Close(1000, "")


# -- the number of a closed descriptor ---------------------------------------------------


def test_a_descriptor_that_another_thread_has_closed_is_not_watched() -> None:
    with Meeting() as meeting:
        meeting.channel.abort()
        assert meeting.transport.fileno() < 0
        meeting.channel.watch(READ)
        assert not meeting.stepped._callbacks


def watch_successor(meeting: Meeting, descriptor: int) -> tuple[Peer, list[int]]:
    """A new connection that got the number of a closed one, and when it was ready."""
    ours, theirs = socket.socketpair()
    number = ours.detach()
    if number != descriptor:
        os.dup2(number, descriptor)
        os.close(number)
    ready: list[int] = []
    meeting.stepped.watch(descriptor, READ, ready.append)
    return Peer(theirs, is_client=False), ready


def test_who_closes_late_leaves_the_next_with_that_number_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def end(c: Any) -> int:
        # The thread in close() has claimed the descriptor, and closes it in a moment.
        result: int = lib.syncws_end(c)
        arrived.set()
        assert go_on.wait(PATIENCE)
        return result

    interpose(monkeypatch, ending_module, syncws_end=end)
    with Meeting() as meeting:
        descriptor = meeting.transport.fileno()
        meeting.stepped.turns()
        thread = InThread(meeting.channel.close, NORMAL)
        meeting.peer.read_frame()
        meeting.peer.send_close()
        meeting.peer.half_close()
        assert arrived.wait(PATIENCE)
        # The reader thread makes sure, and then accepts a connection.
        meeting.stepped.turn_until(lambda: meeting.transport.fileno() < 0)
        successor, ready = watch_successor(meeting, descriptor)
        try:
            go_on.set()
            thread.result()
            successor.send(b"x")
            meeting.stepped.turn_until(lambda: ready)
        finally:
            successor.close()
            os.close(descriptor)


# -- being let go of --------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["abort", "handshake", "eof", "violation", "keepalive"])
def test_a_closed_channel_is_released_without_the_collector(closing: str) -> None:
    stepped = SteppedReader()
    ours, theirs = socket.socketpair()
    peer = Peer(theirs, is_client=False)
    options = Options(ping_interval=5.0, ping_timeout=3.0)
    channel = Channel(Transport(ours), Side.CLIENT, stepped, options)
    reference = weakref.ref(channel)
    stepped.turns()
    stepped.fire("_keep_alive")
    gc.disable()
    try:
        if closing == "abort":
            channel.abort()
        elif closing == "handshake":
            channel.start_close(NORMAL)
            peer.send_close()
        elif closing == "violation":
            peer.send(frame(3))
        elif closing == "keepalive":
            stepped.fire("_check_life_of")
        stepped.turns()
        peer.half_close()
        stepped.turn_until(stepped.is_idle)
        assert ours.fileno() == -1
        del channel
        assert reference() is None
        if closing != "keepalive":
            # The question whether it lives is still there, and finds nobody.
            stepped.fire("_check_life_of")
    finally:
        gc.enable()
        peer.close()
        stepped.close()


def test_a_closed_channel_is_released_by_a_reader_with_a_thread() -> None:
    reader = Reader("test-reader")
    ours, theirs = socket.socketpair()
    channel = Channel(Transport(ours), Side.CLIENT, reader, Options())
    reference = weakref.ref(channel)
    gc.disable()
    try:
        channel.abort()
        del channel
        deadline = time.monotonic() + PATIENCE
        while reference() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        gc.enable()
        reader.close()
        theirs.close()


def test_an_abandoned_channel_goes_away_in_an_orderly_manner() -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"nobody wants it")
        meeting.stepped.turns()
        meeting.channel.abandoned = True
        lib.syncws_list(meeting.c, 1)
        meeting.stepped.turns()
        received = meeting.next_frame()
        assert (received.opcode, received.payload) == (CLOSE, b"\x03\xe9")
        meeting.peer.send_close(1001)
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        meeting.stepped.turns()
        assert meeting.stepped.is_idle()


def test_an_abandoned_channel_whose_input_has_ended_is_not_kept_for_grace() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"nobody wants it") + frame(CLOSE, b"\x03\xe8"))
        meeting.stepped.turns()
        meeting.channel.abandoned = True
        lib.syncws_list(meeting.c, 1)
        meeting.stepped.turns()
        received = meeting.next_frame()
        assert received.opcode == CLOSE


def test_a_channel_in_use_is_closed_by_the_last_one_out() -> None:
    with Meeting() as meeting:
        assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_WAIT) == lib.SYNCWS_OK
        meeting.channel.abort()
        meeting.stepped.turns()
        assert meeting.transport.fileno() != -1
        assert not meeting.stepped.is_idle()
        meeting.channel.left(lib.syncws_leave(meeting.c, 0))
        assert meeting.transport.fileno() == -1
        meeting.stepped.turns()
        assert meeting.stepped.is_idle()


def test_aborting_wakes_who_waits_for_anything() -> None:
    with Meeting() as meeting:
        threads = [
            InThread(meeting.receive),
            InThread(meeting.channel.wait_until, lambda: meeting.channel.gone, None),
        ]
        while not (meeting.owned and meeting.channel.waiters):
            time.sleep(0.001)
        meeting.channel.abort(ValueError("why"), "enough")
        with pytest.raises(ConnectionClosedError, match="enough") as raised:
            threads[0].result()
        assert isinstance(raised.value.__cause__, ValueError)
        assert threads[1].result() is True


# -- beginning ---------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["syncws_list"])
def test_an_interrupted_beginning_leaves_nothing_attached(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = SteppedReader()
    ours, theirs = socket.socketpair()
    with theirs:
        interpose(monkeypatch, channel_module, **{step: interrupted_after(step)})
        with pytest.raises(KeyboardInterrupt):
            Channel(Transport(ours), Side.CLIENT, stepped, Options(), frame(TEXT, b"early"))
        monkeypatch.undo()
        assert stepped.is_idle()
        assert ours.fileno() == -1
        stepped.turns()
    stepped.close()


# -- the reader thread's errors ------------------------------------------------------------


def test_an_error_that_nobody_foresaw_ends_that_connection_only() -> None:
    reader = Reader("test-reader")
    ours, theirs = socket.socketpair()
    with ours, theirs, Meeting(reader=reader) as meeting:
        error = RuntimeError("unforeseen")

        def fail(*_: Any) -> None:
            raise error

        other = Channel(Transport(ours), Side.CLIENT, reader, Options())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Channel, "control", fail)
            meeting.peer.send_frame(9)
            with pytest.raises(ConnectionClosedError, match="internal error") as raised:
                # Not for `gone`, which C says before Python knows why.
                closing = meeting.channel.closing
                meeting.channel.wait_until(lambda: closing.state is State.CLOSED, None)
                raise meeting.channel.exception()
            assert str(raised.value.__cause__) == "unforeseen"
        assert not other.gone
        other.abort()


def test_a_message_that_ctrl_c_cut_fails_the_connection() -> None:
    with Meeting() as meeting:
        assert lib.syncws_message_open(meeting.c) == lib.SYNCWS_OK
        scratch = thread_scratch()
        assert lib.syncws_frame_begin(meeting.c, scratch, Opcode.BINARY, 1) == lib.SYNCWS_OK
        assert lib.syncws_frame_write(meeting.c, scratch, b"x", 1) != lib.SYNCWS_CLOSED
        # Not a word to Python: Ctrl-C came before give_up_message().
        lib.syncws_message_close(meeting.c)
        meeting.channel.flush()
        meeting.stepped.turns()
        frames = [meeting.next_frame(), meeting.next_frame()]
        assert [(received.opcode, received.payload[:2]) for received in frames] == [
            (BINARY, b"x"),
            (CLOSE, b"\x03\xf3"),
        ]


def test_a_message_that_the_closing_handshake_cut_is_no_failure() -> None:
    """Another thread is between its fragments when both sides close normally."""
    with Meeting() as meeting:
        assert lib.syncws_message_open(meeting.c) == lib.SYNCWS_OK
        scratch = thread_scratch()
        assert lib.syncws_frame_send(meeting.c, scratch, Opcode.BINARY, b"x", 1, 0) >= 0
        meeting.channel.settle(lib.SYNCWS_PENDING)
        meeting.channel.start_close(Close(1000, ""))
        meeting.channel.give_up_message(ConcurrencyError("interrupted"))
        lib.syncws_message_close(meeting.c)
        meeting.stepped.turns()
        assert [meeting.next_frame().opcode for _ in range(2)] == [BINARY, CLOSE]
        meeting.peer.send(frame(CLOSE, b"\x03\xe8"))
        meeting.stepped.turn_until(lambda: meeting.channel.end is not None)
        assert isinstance(meeting.channel.exception(), ConnectionClosedOK)
        assert meeting.channel.exception().__cause__ is None


# -- the reader's turns ---------------------------------------------------------------------


def test_what_waits_for_room_is_written_by_the_reader() -> None:
    with Meeting() as meeting:
        count = 0
        while lib.syncws_output_size(meeting.c) == 0:
            meeting.send(bytes(CHUNK))
            count += 1
        reading = InThread(lambda: [meeting.next_frame() for _ in range(count)])
        meeting.stepped.turn_until(lambda: not reading.is_alive())
        assert {received.payload for received in reading.result()} == {bytes(CHUNK)}
        assert lib.syncws_output_size(meeting.c) == 0


def test_what_waits_for_room_leaves_before_the_answer_to_a_close_frame() -> None:
    with Meeting() as meeting:
        while lib.syncws_output_size(meeting.c) == 0:
            meeting.send(bytes(CHUNK))
        meeting.peer.send_close()
        meeting.stepped.turns()
        reading = InThread(meeting.peer.read_until_close)
        meeting.stepped.turn_until(lambda: not reading.is_alive())
        messages, close = reading.result()
        assert {received.payload for received in messages} == {bytes(CHUNK)}
        assert close.payload == b"\x03\xe8"


def test_tls_is_drained_and_half_closed_like_anything_else(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with Meeting(contexts=(client_context, server_context)) as meeting:
        meeting.peer.send(frame(TEXT, b"good") + frame(3) + bytes(100))
        assert meeting.receive() == "good"
        with pytest.raises(ConnectionClosedError):
            meeting.receive()
        meeting.stepped.turns()
        received = meeting.next_frame()
        assert (received.opcode, received.payload[:2]) == (CLOSE, b"\x03\xea")
        meeting.peer.expect_end()
        meeting.peer.sock.close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)


def test_tls_bytes_that_the_transport_holds_are_read_without_an_event(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with Meeting(contexts=(client_context, server_context)) as meeting:
        meeting.stepped.turns()
        meeting.peer.send(frame(TEXT, b"first") + frame(TEXT, b"second"))
        memory = bytearray(7)
        while meeting.transport.receive_into(memoryview(memory)) is None:
            time.sleep(0.001)
        meeting.channel.feed(bytes(memory))
        meeting.stepped.turns()
        assert list(meeting.channel.inbound) == ["first", "second"]


# -- process events ---------------------------------------------------------------------------


def test_at_exit_the_peer_is_told_without_waiting() -> None:
    with Meeting() as meeting:
        meeting.channel.leave_at_exit()
        meeting.channel.leave_at_exit()
        received = meeting.next_frame()
        assert (received.opcode, received.payload) == (CLOSE, b"\x03\xe9")
        assert not meeting.channel.gone


def test_in_a_child_the_connection_is_broken_and_the_parents_goes_on() -> None:
    with Meeting() as meeting, warnings.catch_warnings():
        # The test's watchdog is a thread, and Python warns of it.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with pytest.raises(ForkedConnectionError):
                    meeting.receive()
                assert meeting.ours.fileno() == -1
                assert meeting.channel.gone
                meeting.channel.abort()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        meeting.peer.send_frame(TEXT, b"to the parent")
        meeting.stepped.turns()
        assert meeting.receive() == "to the parent"
        meeting.send(b"from the parent")
        received = meeting.next_frame()
        assert received.payload == b"from the parent"


def test_after_fork_no_lock_of_the_parent_is_in_the_way() -> None:
    with Meeting() as meeting:
        held = InThread(meeting.channel.state_lock.acquire)
        assert held.result()
        assert InThread(meeting.channel.send_lock.acquire).result()
        meeting.channel.inbound.append("for the parent")
        meeting.channel.after_fork()
        with pytest.raises(ForkedConnectionError):
            meeting.receive(0.0)
        with pytest.raises(ForkedConnectionError):
            meeting.send(b"x")


def test_after_fork_nor_is_one_of_a_connection_that_is_closed() -> None:
    """It says how it ended, as it did before."""
    with Meeting() as meeting:
        meeting.channel.abort(None, "enough")
        meeting.stepped.turns()
        assert meeting.stepped.is_idle()
        assert InThread(meeting.channel.state_lock.acquire).result()
        assert InThread(meeting.channel.send_lock.acquire).result()
        meeting.stepped.after_fork()
        with pytest.raises(ConnectionClosedError, match="enough") as raised:
            meeting.receive(0.0)
        assert not isinstance(raised.value, ForkedConnectionError)
        meeting.channel.abort()
