"""One message in pieces: as they arrive, left in the middle, left before they came."""

from __future__ import annotations

import time
from typing import Any

import pytest
from channels import InThread, Meeting, interpose, interrupted_after, owned_elsewhere
from reliability.peer import BINARY, CLOSE, TEXT, frame

from syncws import delivery as delivery_module
from syncws import input as input_module
from syncws import streaming as streaming_module
from syncws.delivery import HIGH_WATER, Stream
from syncws.exceptions import (
    ConcurrencyError,
    ConnectionClosedError,
    ConnectionClosedOK,
    ForkedConnectionError,
)
from syncws.frames import Close, Opcode, Record, lib
from syncws.transport import CHUNK

BOUND = 10.0


def soon() -> float:
    return time.monotonic() + BOUND


def rest_of(meeting: Meeting) -> list[Record]:
    """All pieces up to the last one, as the iterator takes them."""
    pieces = [meeting.channel.next_piece(soon())]
    while not pieces[-1].last:
        pieces.append(meeting.channel.next_piece(soon()))
    meeting.channel.end_stream()
    return pieces


def joined(pieces: list[Record]) -> bytes:
    return b"".join(piece.data for piece in pieces)


# -- pieces ---------------------------------------------------------------------------


def test_pieces_come_as_they_arrive() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"one", fin=False))
        first = meeting.channel.next_piece(soon())
        assert (first.data, first.opcode, first.first, first.last) == (
            b"one",
            Opcode.TEXT,
            True,
            False,
        )
        meeting.peer.send(frame(0, b"and the next", fin=False)[:6])
        assert meeting.channel.next_piece(soon()).data == b"and "
        meeting.peer.send(frame(0, b"and the next", fin=False)[6:] + frame(0, b"!"))
        assert joined(rest_of(meeting)) == b"the next!"
        meeting.peer.send_frame(TEXT, b"whole again")
        assert meeting.receive() == "whole again"


def test_what_had_come_before_belongs_to_the_first_piece() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(BINARY, b"before", fin=False))
        meeting.stepped.turns()
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(0, b" and after"))
        pieces = rest_of(meeting)
        assert joined(pieces) == b"before and after"
        assert pieces[0].opcode == Opcode.BINARY


def test_a_message_that_is_there_comes_whole() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"whole") + frame(BINARY, b"next"))
        meeting.stepped.turns()
        assert meeting.channel.begin_stream(soon()) == "whole"
        assert meeting.receive() == b"next"


def test_the_message_behind_a_stream_stays_whole() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(BINARY, b"streamed") + frame(TEXT, b"whole"))
        assert joined(rest_of(meeting)) == b"streamed"
        assert meeting.receive() == "whole"


def test_the_reader_thread_collects_pieces_up_to_high_water() -> None:
    with Meeting(max_queue=None) as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        stream = meeting.channel.streaming
        assert stream is not None
        while not meeting.has(lib.SYNCWS_FLAG_PAUSED):
            meeting.peer.send(frame(0 if stream.pieces else BINARY, bytes(CHUNK), fin=False))
            meeting.stepped.turns(2)
        waiting = sum(len(piece.data) for piece in stream.pieces)
        assert HIGH_WATER <= waiting <= HIGH_WATER + 8 * CHUNK
        meeting.peer.send(frame(0, b"end"))
        pieces = rest_of(meeting)
        assert len(joined(pieces)) >= waiting + 3


def test_many_small_pieces_are_bounded_by_max_queue() -> None:
    with Meeting(max_queue=10, max_fragments=None) as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(BINARY, b"0", fin=False))
        for _ in range(40):
            meeting.stepped.turns(2)
            meeting.peer.send(frame(0, b"1", fin=False))
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        stream = meeting.channel.streaming
        assert stream is not None
        assert len(stream.pieces) < 40
        meeting.peer.send(frame(0, b"2"))
        assert joined(rest_of(meeting)) == b"0" + 40 * b"1" + b"2"


def test_a_piece_that_the_reader_delivers_just_now_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None

        def take(c: Any, mode: int) -> int:
            # The reader thread reads everything before this one gets to it.
            monkeypatch.undo()
            meeting.peer.send(frame(BINARY, b"all"))
            InThread(meeting.channel.read_once, lib.SYNCWS_TAKE_WAIT, 5000).result()
            return int(lib.syncws_take(c, mode))

        interpose(monkeypatch, input_module, syncws_take=take)
        # In a thread of its own: the main thread waits in slices.
        piece = InThread(meeting.channel.next_piece, None).result()
        assert (piece.data, piece.last) == (b"all", True)
        meeting.channel.end_stream()


def test_a_thread_may_wait_for_a_piece_that_another_one_reads() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        with owned_elsewhere(meeting) as let_go:
            thread = InThread(meeting.channel.next_piece, soon())
            while not meeting.has(lib.SYNCWS_FLAG_FOLLOWERS):
                time.sleep(0.001)
            stream = meeting.channel.streaming
            assert stream is not None
            stream.pieces.append(Record(lib.SYNCWS_PIECE, TEXT, b"theirs", True, False))
            let_go()
            assert thread.result().data == b"theirs"


def test_a_thread_may_begin_when_another_one_has_read() -> None:
    with Meeting() as meeting, owned_elsewhere(meeting) as let_go:
        thread = InThread(meeting.channel.begin_stream, soon())
        while not meeting.has(lib.SYNCWS_FLAG_FOLLOWERS):
            time.sleep(0.001)
        meeting.channel.inbound.append("theirs")
        let_go(lib.SYNCWS_FLAG_QUEUED)
        assert thread.result() == "theirs"


def test_a_delivery_between_the_two_looks_is_not_overlooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        late = ["late"]

        def seen_empty(c: Any, generation: int) -> None:
            if late:
                meeting.channel.inbound.append(late.pop())
                lib.syncws_set_flags(c, lib.SYNCWS_FLAG_QUEUED, 0)
            lib.syncws_seen_empty(c, generation)

        interpose(monkeypatch, delivery_module, syncws_seen_empty=seen_empty)
        assert meeting.channel.begin_stream(soon()) == "late"


def test_what_came_before_it_was_asked_for_is_the_first_piece() -> None:
    """At once: the rest may take for ever."""
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"first", fin=False))
        assert meeting.channel.read_once(lib.SYNCWS_TAKE_WAIT, 5000) == lib.SYNCWS_OK
        assert meeting.channel.begin_stream(soon()) is None
        piece = meeting.channel.next_piece(soon())
        assert (piece.data, piece.first, piece.last) == (b"first", True, False)
        meeting.peer.send(frame(0, b"last"))
        assert meeting.channel.next_piece(soon()).data == b"last"
        meeting.channel.end_stream()


# -- leaving it ------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [False, True])
def test_left_before_its_first_piece_the_message_is_whole_again(finished: bool) -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"to", fin=False))
        meeting.stepped.turns()
        if finished:
            meeting.peer.send(frame(0, b"gether") + frame(TEXT, b"next"))
            meeting.stepped.turns()
        meeting.channel.end_stream()
        if not finished:
            meeting.peer.send(frame(0, b"gether") + frame(TEXT, b"next"))
        assert [meeting.receive(), meeting.receive()] == ["together", "next"]


def test_left_before_anything_came_the_message_is_whole() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.channel.end_stream()
        meeting.channel.end_stream()
        meeting.peer.send(frame(BINARY, b"to", fin=False))
        meeting.stepped.turns()
        meeting.peer.send(frame(0, b"gether"))
        assert meeting.receive() == b"together"


def test_a_stream_may_be_taken_up_again() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"to", fin=False))
        meeting.stepped.turns()
        meeting.channel.end_stream()
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(0, b"gether"))
        assert joined(rest_of(meeting)) == b"together"


@pytest.mark.parametrize("whole", [False, True])
def test_left_in_the_middle_the_rest_is_dropped(whole: bool) -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"one", fin=False))
        assert meeting.channel.next_piece(soon()).data == b"one"
        meeting.peer.send(frame(0, b"two", fin=False))
        meeting.stepped.turns()
        stream = meeting.channel.streaming
        assert stream is not None
        meeting.channel.end_stream()
        assert not stream.pieces
        meeting.peer.send(frame(0, b"three") + frame(TEXT, b"next", fin=whole))
        if whole:
            assert meeting.receive() == "next"
        else:
            assert meeting.channel.begin_stream(soon()) is None
            meeting.peer.send(frame(0, b" one"))
            assert joined(rest_of(meeting)) == b"next one"


def test_what_came_with_the_rest_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"one", fin=False))
        meeting.channel.next_piece(soon())
        meeting.channel.end_stream()

        def leave(c: Any, flags: int) -> int:
            # The reader thread reads everything before this one waits.
            left = int(lib.syncws_leave(c, flags))
            monkeypatch.undo()
            meeting.peer.send(frame(0, b"two"), frame(TEXT, b"next ", fin=False))
            while meeting.channel.incoming is not None or not meeting.channel.decoder.buffer_length:
                meeting.stepped.turns()
            return left

        interpose(monkeypatch, streaming_module, syncws_leave=leave)
        # In a thread of its own: the main thread waits in slices.
        assert InThread(meeting.channel.begin_stream, None).result() is None
        meeting.peer.send(frame(0, b"one"))
        assert joined(rest_of(meeting)) == b"next one"


def test_waiting_for_the_rest_to_pass_ends_in_time() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"one", fin=False))
        meeting.channel.next_piece(soon())
        meeting.channel.end_stream()
        with pytest.raises(TimeoutError, match="no message"):
            meeting.channel.begin_stream(time.monotonic() + 0.05)
        meeting.peer.send(frame(0, b"two") + frame(TEXT, b"next"))
        assert meeting.receive() == "next"


def test_whole_messages_wait_for_the_end_of_a_stream() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        with pytest.raises(ConcurrencyError, match="recv_streaming"):
            meeting.receive()
        with pytest.raises(ConcurrencyError, match="recv_streaming"):
            meeting.channel.begin_stream(soon())
        meeting.channel.end_stream()
        meeting.peer.send_frame(TEXT, b"whole")
        assert meeting.receive() == "whole"


def test_an_iterator_that_was_closed_elsewhere_is_in_nobodys_way() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        stream = meeting.channel.streaming
        assert stream is not None
        # Ctrl-C between the two steps of end_stream().
        stream.fate = Stream.KEPT
        meeting.peer.send_frame(TEXT, b"whole")
        assert meeting.receive() == "whole"
        assert meeting.channel.streaming is None


# -- time and ends ---------------------------------------------------------------------


def test_no_piece_in_time() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        with pytest.raises(TimeoutError, match="rest of the message"):
            meeting.channel.next_piece(time.monotonic() + 0.05)
        meeting.peer.send_frame(TEXT, b"later")
        assert joined(rest_of(meeting)) == b"later"


def test_beginning_behind_another_reader_ends_in_time() -> None:
    with Meeting() as meeting, owned_elsewhere(meeting):
        with pytest.raises(TimeoutError, match="no message"):
            meeting.channel.begin_stream(time.monotonic() + 0.05)


def test_the_pieces_before_the_end_are_delivered() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"one", fin=False) + frame(0, b"\xff"))
        meeting.stepped.turns()
        assert meeting.channel.next_piece(soon()).data == b"one"
        with pytest.raises(ConnectionClosedError) as raised:
            meeting.channel.next_piece(soon())
        assert raised.value.sent is not None
        assert raised.value.sent.code == 1007


def test_a_stream_cannot_begin_when_the_input_has_ended() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(CLOSE, b"\x03\xe8"))
        meeting.stepped.turns()
        with pytest.raises(ConnectionClosedOK):
            meeting.channel.begin_stream(soon())


def test_a_stream_cannot_begin_behind_dropped_messages() -> None:
    """While closing, what does not fit the inbound queue is dropped, and all behind it."""
    with Meeting(close_timeout=None) as meeting:
        meeting.channel.start_close(Close(1000, ""))
        data = frame(BINARY, bytes(CHUNK)) * 32
        sender = InThread(meeting.peer.send, data)
        received = lib.syncws_received
        meeting.stepped.turn_until(lambda: received(meeting.channel.c) >= len(data))
        sender.result()
        while meeting.channel.inbound:
            meeting.receive()
        meeting.peer.send_frame(TEXT, b"late")
        with pytest.raises(TimeoutError):
            meeting.channel.begin_stream(time.monotonic() + 0.1)
        meeting.peer.send(frame(CLOSE, b"\x03\xe8"))
        with pytest.raises(ConnectionClosedOK):
            meeting.channel.begin_stream(soon())


def test_an_abort_ends_the_wait_for_a_piece() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        thread = InThread(meeting.channel.next_piece, None)
        while not meeting.owned:
            time.sleep(0.001)
        meeting.channel.abort(None, "enough")
        with pytest.raises(ConnectionClosedError, match="enough"):
            thread.result()
        with pytest.raises(ConnectionClosedError, match="enough"):
            meeting.channel.next_piece(None)


# -- signal handlers -------------------------------------------------------------------


def test_a_signal_handler_in_the_middle_of_receiving_is_refused() -> None:
    with Meeting() as meeting:
        assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_WAIT) == lib.SYNCWS_OK
        with pytest.raises(ConcurrencyError, match="middle of receiving"):
            meeting.channel.begin_stream(soon())
        lib.syncws_leave(meeting.c, 0)


@pytest.mark.parametrize("step", ["syncws_generation", "syncws_take", "syncws_leave"])
def test_an_interrupted_beginning_leaves_nothing_behind(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Meeting() as meeting:
        # Which of the modules makes the call is of no interest here.
        modules = (delivery_module, input_module, streaming_module)
        interpose(monkeypatch, *modules, **{step: interrupted_after(step)})
        with pytest.raises(KeyboardInterrupt):
            meeting.channel.begin_stream(soon())
        monkeypatch.undo()
        assert not meeting.owned
        assert meeting.channel.streaming is None
        meeting.peer.send(frame(TEXT, b"to", fin=False) + frame(0, b"gether"))
        assert meeting.receive() == "together"


@pytest.mark.parametrize("step", ["syncws_take", "syncws_finish"])
def test_an_interrupted_piece_is_not_lost(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"to", fin=False) + frame(0, b"gether"))
        interpose(monkeypatch, input_module, **{step: interrupted_after(step)})
        with pytest.raises(KeyboardInterrupt):
            meeting.channel.next_piece(soon())
        monkeypatch.undo()
        assert joined(rest_of(meeting)) == b"together"


def test_after_a_fork_the_rest_of_a_message_is_the_parents() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"one", fin=False))
        assert meeting.channel.next_piece(soon()).data == b"one"
        meeting.peer.send(frame(0, b"two"))
        meeting.stepped.turn_until(lambda: meeting.channel.incoming is None)
        meeting.channel.after_fork()
        with pytest.raises(ForkedConnectionError):
            meeting.channel.next_piece(soon())
        meeting.channel.end_stream()
        assert not meeting.channel.inbound
