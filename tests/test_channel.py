"""How a connection ends: the closing handshake, and ends that wait for their turn."""

from __future__ import annotations

import time
from typing import Any

import pytest
from channels import PATIENCE, InThread, Meeting, interpose, interrupted_after
from reliability.peer import BINARY, CLOSE, TEXT, frame

from syncws import channel as channel_module
from syncws.channel import GRACE
from syncws.exceptions import ConnectionClosedError, ConnectionClosedOK
from syncws.frames import Close, Side, lib
from syncws.protocol import State

NORMAL = Close(1000, "")
SIDES = list(Side)


def start_close(meeting: Meeting) -> None:
    meeting.channel.start_close(NORMAL)


def close_code(meeting: Meeting) -> int:
    """The code of the close frame that the peer gets next."""
    received = meeting.next_frame()
    assert received.opcode == CLOSE
    return int.from_bytes(received.payload[:2])


def expect_answer(meeting: Meeting, code: int | None) -> None:
    """A close frame with that code, or the end without one."""
    if code is None:
        meeting.peer.expect_end()
    else:
        assert close_code(meeting) == code


# -- the handshake ---------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_we_begin_to_close(side: Side) -> None:
    with Meeting(side) as meeting:
        meeting.channel.start_close(Close(1001, "bye"))
        assert meeting.channel.closing.state is State.CLOSING
        received = meeting.next_frame()
        assert (received.opcode, received.payload) == (CLOSE, b"\x03\xe9bye")
        meeting.peer.send_close(1001)
        meeting.stepped.turn_until(lambda: meeting.channel.closing.complete)
        meeting.stepped.turns()
        if side is Side.SERVER:
            # The server ends TCP, in its own direction first (section 7.1.1).
            meeting.peer.expect_end()
        assert not meeting.channel.gone
        meeting.peer.close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        with pytest.raises(ConnectionClosedOK) as raised:
            meeting.receive()
        assert raised.value.rcvd_then_sent is False
        meeting.stepped.turns()
        assert meeting.transport.fileno() == -1


@pytest.mark.parametrize("side", SIDES)
def test_the_peer_begins_to_close(side: Side) -> None:
    with Meeting(side) as meeting:
        meeting.peer.send_close(3000, b"enough")
        meeting.stepped.turns()
        assert close_code(meeting) == 3000
        if side is Side.SERVER:
            meeting.peer.expect_end()
        else:
            # The server ends TCP.
            meeting.peer.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                meeting.peer.sock.recv(1)
        meeting.peer.close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        with pytest.raises(ConnectionClosedError) as raised:
            meeting.receive()
        assert raised.value.rcvd == Close(3000, "enough")
        assert raised.value.rcvd_then_sent is True


def test_both_begin_at_once() -> None:
    with Meeting() as meeting:
        meeting.peer.send_close(1000)
        start_close(meeting)
        assert close_code(meeting) == 1000
        meeting.peer.close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        with pytest.raises(ConnectionClosedOK):
            meeting.receive()


def test_only_one_close_frame_is_sent() -> None:
    with Meeting() as meeting:
        start_close(meeting)
        meeting.channel.start_close(Close(1001, "again"))
        meeting.channel.fail(ValueError("late"), 1011, "late")
        meeting.peer.send_close()
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        frames = meeting.peer.read_frames()
        assert [received.payload for received in frames] == [b"\x03\xe8"]


def test_closing_answers_a_close_frame_that_is_there_already() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"last") + frame(CLOSE, b"\x03\xe9"))
        meeting.stepped.turns()
        start_close(meeting)
        assert close_code(meeting) == 1001
        assert meeting.receive() == "last"


def test_messages_that_come_while_we_close_are_delivered() -> None:
    with Meeting() as meeting:
        start_close(meeting)
        meeting.peer.send(frame(TEXT, b"late") + frame(CLOSE, b"\x03\xe8"))
        meeting.stepped.turn_until(lambda: meeting.channel.closing.complete)
        assert meeting.receive() == "late"
        with pytest.raises(ConnectionClosedOK):
            meeting.receive()


def test_failing_the_connection_tells_the_peer_why() -> None:
    with Meeting() as meeting:
        error = ValueError("ours")
        meeting.channel.fail(error, 1011, "internal error")
        received = meeting.next_frame()
        assert received.payload == b"\x03\xf3internal error"
        meeting.peer.close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        assert meeting.channel.exception().__cause__ is error


def test_a_malformed_close_frame_is_a_violation() -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(CLOSE, b"\x03")
        meeting.stepped.turns()
        assert close_code(meeting) == 1002
        # After a failure a client ends TCP, too: the peer may never do it.
        meeting.peer.expect_end()


# -- ends that wait for their turn -----------------------------------------------


def end_with_close(meeting: Meeting) -> None:
    meeting.peer.send_close(1000)


def end_with_violation(meeting: Meeting) -> None:
    meeting.peer.send(meeting.peer.frame(3))


def end_with_eof(meeting: Meeting) -> None:
    meeting.peer.half_close()


ENDS = pytest.mark.parametrize(
    ("end", "code"), [(end_with_close, 1000), (end_with_violation, 1002), (end_with_eof, None)]
)


@ENDS
@pytest.mark.parametrize("side", SIDES)
def test_the_echo_of_the_last_good_message_leaves_first(
    side: Side, end: Any, code: int | None
) -> None:
    with Meeting(side) as meeting:
        meeting.peer.send_frame(TEXT, b"last")
        end(meeting)
        meeting.stepped.turns()
        assert meeting.channel.closing.state is State.OPEN
        assert meeting.receive() == "last"
        meeting.stepped.turns()
        meeting.send(b"echo of the last")
        with pytest.raises(ConnectionClosedError if code != 1000 else ConnectionClosedOK):
            meeting.receive()
        meeting.stepped.turns()
        echo = meeting.next_frame()
        assert (echo.opcode, echo.payload) == (BINARY, b"echo of the last")
        expect_answer(meeting, code)


@ENDS
def test_a_program_that_does_not_come_back_is_not_waited_for(end: Any, code: int | None) -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"last")
        meeting.stepped.turns()
        assert meeting.receive() == "last"
        end(meeting)
        before = time.monotonic()
        meeting.stepped.turns()
        assert meeting.channel.closing.state is State.OPEN
        (due,) = meeting.stepped.timers("finish_input")
        assert before <= due <= time.monotonic() + GRACE
        meeting.stepped.turns()
        meeting.stepped.fire("finish_input")
        expect_answer(meeting, code)


@pytest.mark.parametrize(("close_timeout", "grace"), [(None, GRACE), (0.1, 0.1), (10.0, GRACE)])
def test_the_grace_is_no_longer_than_close_timeout(
    close_timeout: float | None, grace: float
) -> None:
    with Meeting(close_timeout=close_timeout) as meeting:
        meeting.peer.send(frame(TEXT, b"last") + frame(CLOSE))
        before = time.monotonic()
        meeting.stepped.turns()
        (due,) = meeting.stepped.timers("finish_input")
        assert before + grace <= due <= time.monotonic() + grace
        # Asked again, it is not put off.
        lib.syncws_list(meeting.c, 1)
        assert meeting.stepped.timers("finish_input") == [due]


@ENDS
def test_the_grace_counts_from_the_message_on(
    end: Any, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"last")
        assert meeting.receive() == "last"
        time.sleep(0.05)
        ago = lib.syncws_handed_ago(meeting.c)
        assert 30 <= ago < 1000 * PATIENCE
        monkeypatch.setattr(channel_module, "GRACE", 0.03)
        end(meeting)
        meeting.stepped.turns()
        assert meeting.stepped.timers("finish_input") == []
        expect_answer(meeting, code)


def test_when_a_queued_message_was_taken_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "GRACE", 0.03)
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"last")
        assert meeting.receive() == "last"
        meeting.peer.send_frame(TEXT, b"queued")
        meeting.stepped.turns()
        time.sleep(0.05)
        assert lib.syncws_handed_ago(meeting.c) == 0
        meeting.peer.send(frame(CLOSE))
        meeting.stepped.turns()
        assert meeting.stepped.timers("finish_input")
        assert meeting.channel.take_queued() == "queued"


@pytest.mark.parametrize("whole", [True, False])
def test_who_receives_in_pieces_may_answer_as_well(whole: bool) -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(time.monotonic() + PATIENCE) is None
        meeting.peer.send(frame(TEXT, b"question", fin=whole))
        assert meeting.channel.next_piece(time.monotonic() + PATIENCE).data == b"question"
        if whole:
            meeting.channel.end_stream()
        meeting.peer.send(frame(CLOSE))
        meeting.stepped.turns()
        assert meeting.channel.closing.state is State.OPEN
        meeting.stepped.fire("finish_input")
        meeting.next_frame()


def test_who_comes_back_for_more_has_been_handed_nothing() -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"last")
        assert meeting.receive() == "last"
        time.sleep(0.05)
        with pytest.raises(TimeoutError):
            meeting.receive(0.01)
        assert lib.syncws_handed_ago(meeting.c) == 0


@ENDS
def test_an_end_is_acted_on_at_once_if_nothing_was_handed_out(end: Any, code: int | None) -> None:
    with Meeting() as meeting:
        end(meeting)
        meeting.stepped.turns()
        assert meeting.stepped.timers("finish_input") == []
        expect_answer(meeting, code)


@ENDS
def test_an_end_is_acted_on_at_once_for_who_waits_for_it(end: Any, code: int | None) -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"never taken")
        end(meeting)
        meeting.stepped.turns()
        meeting.channel.hurry = True
        lib.syncws_list(meeting.c, 1)
        meeting.stepped.turns()
        assert meeting.channel.closing.state is not State.OPEN
        assert meeting.receive() == "never taken"


def test_acting_on_the_end_happens_once() -> None:
    with Meeting() as meeting:
        meeting.channel.finish_input()
        meeting.peer.send_close()
        meeting.stepped.turns()
        meeting.channel.finish_input()
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        assert len(meeting.peer.read_frames()) == 1


def test_two_threads_that_act_on_the_end_at_once_act_once() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"x") + frame(CLOSE, b"\x03\xe8"))
        meeting.stepped.turns()
        channel, lock = meeting.channel, meeting.channel.state_lock

        class Contended:
            """The lock, which another thread gets first."""

            def __enter__(self) -> None:
                channel.state_lock = lock
                InThread(channel.finish_input).result()
                lock.acquire()

            def __exit__(self, *_: object) -> None:
                lock.release()

        contended: Any = Contended()
        channel.state_lock = contended
        channel.finish_input()
        assert channel.state_lock is lock
        assert channel.closing.rcvd_then_sent is True
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        assert len(meeting.peer.read_frames()) == 1


# -- Ctrl-C ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "begun"),
    [("syncws_set_flags", False), ("syncws_set_flags", True), ("syncws_list", True)],
)
def test_closing_goes_on_where_ctrl_c_stopped_it(
    step: str, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Meeting() as meeting:
        if begun:
            meeting.peer.send(frame(TEXT, b"x") + frame(CLOSE, b"\x03\xe8"))
            meeting.stepped.turns()
        interpose(monkeypatch, **{step: interrupted_after(step)})
        with pytest.raises(KeyboardInterrupt):
            start_close(meeting)
        monkeypatch.undo()
        meeting.stepped.turns()
        assert close_code(meeting) == 1000


@pytest.mark.parametrize("begun", [False, True])
def test_a_close_frame_that_ctrl_c_held_back_is_sent_by_the_reader(
    begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Meeting() as meeting:
        if begun:
            meeting.peer.send(frame(TEXT, b"x") + frame(CLOSE, b"\x03\xe8"))
            meeting.stepped.turns()
        with monkeypatch.context() as patch:

            def interrupted(self: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(channel_module.Channel, "_bound_closing", interrupted)
            with pytest.raises(KeyboardInterrupt):
                start_close(meeting)
        assert meeting.channel.closing.sent == NORMAL
        meeting.stepped.turns()
        assert close_code(meeting) == 1000
        assert meeting.stepped.timers("_close_timed_out")
        if not begun:
            meeting.peer.send_close()
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)


def test_an_end_that_ctrl_c_held_back_is_acted_on_by_the_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"x")
        meeting.peer.half_close()
        meeting.stepped.turns()
        assert meeting.receive() == "x"
        with monkeypatch.context() as patch:

            def interrupted(self: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(channel_module.Channel, "_act_on_end", interrupted)
            with pytest.raises(KeyboardInterrupt):
                meeting.receive()
        assert not meeting.channel.gone
        meeting.stepped.turns()
        assert meeting.channel.gone


# -- time ------------------------------------------------------------------------


def test_a_peer_that_does_not_answer_the_close_frame_is_left() -> None:
    with Meeting(close_timeout=5.0) as meeting:
        before = time.monotonic()
        start_close(meeting)
        (due,) = meeting.stepped.timers("_close_timed_out")
        assert before + 5.0 <= due <= time.monotonic() + 5.0
        meeting.stepped.fire("_close_timed_out")
        with pytest.raises(ConnectionClosedError, match="close_timeout") as raised:
            meeting.receive()
        assert isinstance(raised.value.__cause__, TimeoutError)
        meeting.channel._close_timed_out()


def test_a_peer_that_does_not_end_tcp_is_left_without_complaint() -> None:
    with Meeting() as meeting:
        meeting.peer.send_close()
        meeting.stepped.turns()
        meeting.stepped.fire("_close_timed_out")
        with pytest.raises(ConnectionClosedOK):
            meeting.receive()
        assert [received.opcode for received in meeting.peer.read_frames()] == [CLOSE]


def test_without_close_timeout_there_is_no_timer() -> None:
    with Meeting(close_timeout=None) as meeting:
        start_close(meeting)
        assert meeting.stepped.timers("_close_timed_out") == []
