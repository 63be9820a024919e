"""``close()`` reads to the end itself; what it cannot do, the reader thread does.

What belongs here: the interleavings of the thread in ``close()`` with the peer, with other
threads and with Ctrl-C, forced. What does not: every interleaving (``test_ownership_model.py``),
what the reader thread does alone (``test_channel.py``, ``test_channel_draining.py``).

The reader's thread is the test's, so nothing that happens without a turn is its doing.
"""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest
from channels import (
    PATIENCE,
    InThread,
    Meeting,
    interpose,
    interrupted_after,
    native,
    owned_elsewhere,
)
from pairing import Pair
from reliability.peer import CLOSE, TEXT, frame

from syncws import ending as ending_module
from syncws.exceptions import ConnectionClosedError, ConnectionClosedOK, ProtocolError
from syncws.frames import Close, Side, lib, thread_scratch
from syncws.protocol import State
from syncws.reader import Reader
from syncws.transport import CHUNK

NORMAL = Close(1000, "")
SIDES = list(Side)
CLOSE_FRAME = {
    Side.CLIENT: frame(CLOSE, b"\x03\xe8"),
    Side.SERVER: b"\x88\x82\0\0\0\0\x03\xe8",
}


def closing(meeting: Meeting) -> InThread:
    """A thread in close(), after its close frame."""
    thread = InThread(meeting.channel.close, NORMAL)
    assert meeting.next_frame().opcode == CLOSE
    return thread


def is_over(meeting: Meeting) -> bool:
    return meeting.channel.gone and meeting.transport.fileno() < 0


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("looked", [False, True])
def test_close_needs_no_reader_thread(side: Side, looked: bool) -> None:
    with Meeting(side) as meeting:
        if looked:
            meeting.stepped.turns()
        thread = closing(meeting)
        meeting.peer.send(CLOSE_FRAME[side])
        if side is Side.SERVER:
            meeting.peer.expect_end()  # the server ends TCP first (RFC 6455 section 7.1.1)
        meeting.peer.half_close()
        thread.result()
        assert is_over(meeting)
        assert meeting.channel.closing.exception().__class__ is ConnectionClosedOK
        # What the reader thread has never seen leaves nothing there; the rest is its own.
        assert meeting.stepped.is_idle() is not looked
        meeting.stepped.turns(2)
        assert meeting.stepped.is_idle()
        assert meeting.stepped._callbacks == {}


def test_what_came_before_the_close_frame_can_still_be_received() -> None:
    with Meeting() as meeting:
        thread = closing(meeting)
        meeting.peer.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
        meeting.peer.send(frame(TEXT, b"three") + CLOSE_FRAME[Side.CLIENT])
        meeting.peer.half_close()
        thread.result()
        assert [meeting.receive() for _ in range(3)] == ["one", "two", "three"]
        with pytest.raises(ConnectionClosedOK):
            meeting.receive()


def test_a_receiver_gets_its_message_and_then_the_end_at_once() -> None:
    with Meeting() as meeting:
        thread = closing(meeting)
        first = InThread(meeting.receive)
        meeting.peer.send(frame(TEXT, b"one"))
        assert first.result() == "one"
        second = InThread(meeting.receive)
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        with pytest.raises(ConnectionClosedOK):
            second.result()
        # TCP has not ended.
        assert not meeting.channel.gone
        meeting.peer.half_close()
        thread.result()


def test_two_threads_close_at_the_same_time() -> None:
    with Meeting() as meeting:
        first = closing(meeting)
        second = InThread(meeting.channel.close, NORMAL)
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        meeting.peer.half_close()
        first.result()
        second.result()
        assert is_over(meeting)
        assert meeting.peer.read_frames() == []


def test_close_waits_for_who_reads_just_now() -> None:
    with Meeting() as meeting:
        with owned_elsewhere(meeting) as let_go:
            thread = closing(meeting)
            meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
            meeting.peer.half_close()
            let_go()
        thread.result()
        assert is_over(meeting)


def test_close_goes_on_behind_a_receiver_that_read_the_close_frame() -> None:
    with Meeting() as meeting:
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        receiver = InThread(meeting.receive)
        with pytest.raises(ConnectionClosedOK):
            receiver.result()
        assert meeting.next_frame().opcode == CLOSE
        assert not meeting.channel.gone
        thread = InThread(meeting.channel.close, NORMAL)
        meeting.peer.half_close()
        thread.result()
        assert is_over(meeting)
        assert meeting.channel.closing.rcvd_then_sent is True


def test_a_receiver_that_read_the_end_of_tcp_too_leaves_nothing_to_do() -> None:
    with Meeting() as meeting:
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        meeting.peer.half_close()
        receiver = InThread(meeting.receive)
        with pytest.raises(ConnectionClosedOK):
            receiver.result()
        assert is_over(meeting)
        meeting.channel.close(NORMAL)


def test_while_something_has_to_be_written_first_the_reader_thread_does_it_all() -> None:
    with Meeting(small_buffers=True) as meeting:
        while lib.syncws_output_size(meeting.c) == 0:
            meeting.send(bytes(CHUNK))
        thread = InThread(meeting.channel.close, NORMAL)
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])

        def read() -> None:
            while meeting.next_frame().opcode != CLOSE:
                pass
            meeting.peer.half_close()

        reading = InThread(read)
        meeting.stepped.turn_until(lambda: not thread.is_alive())
        thread.result()
        reading.result()
        assert is_over(meeting)


def test_what_waits_behind_the_peers_close_frame_is_written_by_the_reader_thread() -> None:
    with Meeting(Side.SERVER, small_buffers=True) as meeting:
        meeting.peer.send(CLOSE_FRAME[Side.SERVER])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(meeting.channel.__class__, "flush", lambda self: lib.SYNCWS_PENDING)
            receiver = InThread(meeting.receive)
            with pytest.raises(ConnectionClosedOK):
                receiver.result()
            meeting.stepped.turns()
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: is_over(meeting))


@pytest.mark.parametrize("answered", [False, True])
def test_a_peer_that_does_not_end_is_left_by_the_calling_thread(answered: bool) -> None:
    with Meeting(close_timeout=0.5) as meeting:
        if answered:
            # Before it is asked for: this thread may be late, and the other does not wait.
            meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        closing(meeting).result()
        assert is_over(meeting)
        error = meeting.channel.exception()
        assert isinstance(error, ConnectionClosedOK if answered else ConnectionClosedError)
        assert (error.__cause__ is None) is answered


def test_a_reader_thread_that_does_not_come_to_it_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting(close_timeout=0.01) as meeting:
        # As if something had to be written first.
        monkeypatch.setattr(meeting.channel.__class__, "_read_to_end", lambda self: None)
        InThread(meeting.channel.close, NORMAL).result()
        assert is_over(meeting)
        with pytest.raises(ConnectionClosedError, match="close_timeout"):
            meeting.receive()


def test_an_end_that_is_found_while_another_thread_reads_is_left_to_it() -> None:
    with Meeting() as meeting:
        with owned_elsewhere(meeting) as let_go:
            meeting.channel.end = b""
            InThread(meeting.channel.finish_input).result()
            assert meeting.next_frame().opcode == CLOSE
            assert not meeting.channel._draining
            let_go(lib.SYNCWS_FLAG_PARKED)
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: is_over(meeting))


def test_without_close_timeout_the_wait_has_no_bound() -> None:
    with Meeting(close_timeout=None) as meeting:
        thread = closing(meeting)
        thread.join(0.3)
        assert thread.is_alive()
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        meeting.peer.half_close()
        thread.result()


def test_an_end_without_a_close_frame_is_an_end() -> None:
    with Meeting() as meeting:
        thread = closing(meeting)
        meeting.peer.half_close()
        thread.result()
        assert is_over(meeting)
        with pytest.raises(ConnectionClosedError, match="without a close frame"):
            meeting.receive()


def test_a_broken_stream_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    native(monkeypatch)
    with Meeting() as meeting:

        def broken(c: Any, scratch: Any, milliseconds: int) -> int:
            scratch.error_number = errno.ECONNRESET
            return int(lib.SYNCWS_READ_FAILED)

        interpose(monkeypatch, syncws_read=broken)
        meeting.channel.close(NORMAL)
        assert is_over(meeting)
        with pytest.raises(ConnectionClosedError) as raised:
            meeting.receive()
        assert isinstance(raised.value.__cause__, OSError)


def test_a_violation_in_the_answer_is_told_apart() -> None:
    with Meeting() as meeting:
        thread = closing(meeting)
        meeting.peer.send(frame(3))
        meeting.peer.half_close()
        thread.result()
        assert isinstance(meeting.channel.exception().__cause__, ProtocolError)


def test_not_more_than_the_bound_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending_module, "_DISCARD_LIMIT", 10 * CHUNK)
    with Meeting() as meeting:
        thread = closing(meeting)
        sender = InThread(meeting.peer.send, frame(3) + bytes(100 * CHUNK))
        thread.result()
        sender.result()
        assert is_over(meeting)
        assert 10 * CHUNK < meeting.channel._discarded <= 15 * CHUNK


def test_a_thread_that_waits_for_room_closes_the_descriptor_last() -> None:
    with Meeting(write_limit=1, small_buffers=True) as meeting:
        waits, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            # As a sender in poll(), which shutdown() wakes.
            waits.set()
            while not lib.syncws_flags(meeting.c) & lib.SYNCWS_FLAG_GONE:
                lib.syncws_wait_writable(meeting.c, 10_000)
            go_on.wait(PATIENCE)
            meeting.channel.reap()

        while lib.syncws_output_size(meeting.c) == 0:
            lib.syncws_post(meeting.c, thread_scratch(), 0x82, bytes(999), 999)
        user = InThread(wait)
        assert waits.wait(PATIENCE)
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        meeting.peer.half_close()
        go_on.set()
        with pytest.raises(ConnectionClosedOK):
            InThread(meeting.receive).result()
        meeting.stepped.turns()
        meeting.channel.abort()
        user.result()
        meeting.stepped.turn_until(lambda: is_over(meeting))


def test_the_owner_cannot_end_under_a_thread_that_uses_the_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        # As if another thread were in poll() at that moment.
        interpose(monkeypatch, ending_module, syncws_end=lambda c: 0)
        thread = closing(meeting)
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        meeting.peer.half_close()
        thread.result()
        assert is_over(meeting)
        assert isinstance(meeting.channel.exception(), ConnectionClosedOK)


# -- Ctrl-C ----------------------------------------------------------------------


STEPS = [
    "syncws_output_idle",
    "syncws_take",
    "syncws_set_flags",
    "syncws_wait_readable",
    "syncws_end",
    "syncws_finish",
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("looked", [False, True])
def test_closing_to_the_end_goes_on_where_ctrl_c_stopped_it(
    step: str, side: Side, looked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Meeting(side) as meeting:
        if looked:
            meeting.stepped.turns()
        call, begun = interrupted_after(step), threading.Event()

        def interrupted(*arguments: Any) -> Any:
            begun.set()
            return call(*arguments)

        interpose(monkeypatch, ending_module, **{step: interrupted})
        thread = closing(meeting)
        meeting.peer.send(CLOSE_FRAME[side])
        if step == "syncws_wait_readable":
            assert begun.wait(PATIENCE)  # for the end of TCP
        meeting.peer.half_close()
        with pytest.raises(KeyboardInterrupt):
            thread.result()
        monkeypatch.undo()
        assert not lib.syncws_is_mine(meeting.c)
        meeting.stepped.turn_until(lambda: is_over(meeting))
        meeting.stepped.turns(2)
        assert meeting.stepped.is_idle()
        assert isinstance(meeting.channel.exception(), ConnectionClosedOK)


def test_messages_that_ctrl_c_stopped_close_from_delivering_are_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        claim = meeting.channel.__class__._claim

        def interrupted(self: Any, scratch: Any) -> None:
            monkeypatch.setattr(meeting.channel.__class__, "_claim", claim)
            raise KeyboardInterrupt

        monkeypatch.setattr(meeting.channel.__class__, "_claim", interrupted)
        thread = closing(meeting)
        meeting.peer.send(frame(TEXT, b"one"))
        with pytest.raises(KeyboardInterrupt):
            thread.result()
        assert meeting.receive() == "one"
        meeting.peer.send(CLOSE_FRAME[Side.CLIENT])
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: is_over(meeting))


def test_closing_that_was_stopped_is_still_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with Meeting() as meeting:
        interpose(
            monkeypatch, ending_module, syncws_output_idle=interrupted_after("syncws_output_idle")
        )
        thread = closing(meeting)
        with pytest.raises(KeyboardInterrupt):
            thread.result()
        assert meeting.stepped.timers("_close_timed_out")
        meeting.stepped.fire("_close_timed_out")
        assert is_over(meeting)


def test_a_signal_handler_inside_another_call_only_begins_to_close() -> None:
    with Meeting() as meeting:
        assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_WAIT) == lib.SYNCWS_OK
        meeting.channel.close(NORMAL)
        assert meeting.channel.closing.state is State.CLOSING
        assert not meeting.channel.gone
        lib.syncws_leave(meeting.c, 0)
        assert meeting.next_frame().opcode == CLOSE


def test_the_end_of_a_channel_is_left_to_its_subclass() -> None:
    with Meeting() as meeting, pytest.raises(NotImplementedError):
        ending_module.EndingChannel.on_ready(meeting.channel, 0)


@pytest.mark.parametrize("own", [True, False])
def test_a_finalizer_in_a_reader_thread_waits_for_nobody(own: bool) -> None:
    """The collector runs it wherever it comes to; the connections of that reader go on."""
    other = Reader("another-reader")
    with Pair(close_timeout=60) as pair:
        closed = threading.Event()
        reader = pair.reader if own else other
        reader.call_soon(lambda: (pair.connection.close(), closed.set()))
        assert closed.wait(PATIENCE)
        assert pair.connection.state is State.CLOSING
        assert pair.peer.recv(100)[:2] == b"\x88\x82"
        pair.peer.sendall(frame(CLOSE, b"\x03\xe8"))
        pair.peer.close()
        assert pair.connection.wait_closed(PATIENCE)
        assert pair.connection.close_code == 1000
    other.close()


def test_a_write_error_in_another_reader_thread_waits_for_no_last_words() -> None:
    other = Reader("another-reader")
    with Pair(close_timeout=60) as pair:
        raised: list[BaseException] = []
        done = threading.Event()

        def send() -> None:
            try:
                pair.channel.raise_closed(lib.SYNCWS_WRITE_FAILED, None)
            except Exception as error:
                raised.append(error)
            done.set()

        other.call_soon(send)
        assert done.wait(PATIENCE)
        [error] = raised
        assert isinstance(error, ConnectionClosedError)
    other.close()
