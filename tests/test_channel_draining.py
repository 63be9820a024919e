"""After the last word: what is thrown away, what still leaves, who has the last word."""

from __future__ import annotations

import errno
import socket
import time

import pytest
from channels import InThread, Meeting, owned_elsewhere
from reliability.peer import BINARY, CLOSE, TEXT, frame

from syncws import channel as channel_module
from syncws import delivery as delivery_module
from syncws import ending as ending_module
from syncws.exceptions import ConnectionClosedError, ConnectionClosedOK
from syncws.frames import Close, Side, lib
from syncws.transport import CHUNK

NORMAL = Close(1000, "")
SIDES = list(Side)


def start_close(meeting: Meeting) -> None:
    meeting.channel.start_close(NORMAL)


def close_code(meeting: Meeting) -> int:
    """The code of the close frame that the peer gets next."""
    received = meeting.next_frame()
    assert received.opcode == CLOSE
    return int.from_bytes(received.payload[:2])


# -- draining --------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_what_comes_after_a_failure_is_thrown_away(side: Side) -> None:
    with Meeting(side) as meeting:
        meeting.peer.send(meeting.peer.frame(3))
        meeting.stepped.turns()
        assert close_code(meeting) == 1002
        meeting.peer.expect_end()
        thread = InThread(meeting.peer.send, bytes(8 * CHUNK))
        meeting.stepped.turn_until(lambda: not thread.is_alive())
        assert not meeting.channel.gone
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)


def test_not_more_than_the_bound_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending_module, "_DISCARD_LIMIT", 10 * CHUNK)
    with Meeting() as meeting:
        meeting.peer.send(frame(3))
        thread = InThread(meeting.peer.send, bytes(100 * CHUNK))
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        thread.result()
        assert 10 * CHUNK < meeting.channel._discarded <= 15 * CHUNK


def test_draining_lets_the_others_have_a_turn() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(3))
        meeting.stepped.turns()
        thread = InThread(meeting.peer.send, bytes(20 * CHUNK))
        most = 0
        while thread.is_alive() or not meeting.channel._discarded:
            before = meeting.channel._discarded
            meeting.stepped.turn()
            most = max(most, meeting.channel._discarded - before)
        thread.result()
        # Twice in a turn: by itself, and for an event.
        assert most <= 8 * CHUNK


def test_the_stream_is_half_closed_behind_the_close_frame_only() -> None:
    with Meeting(Side.SERVER) as meeting:
        while lib.syncws_output_size(meeting.c) == 0:
            meeting.send(bytes(CHUNK))
        meeting.peer.send(meeting.peer.frame(3))
        meeting.stepped.turns()
        assert meeting.channel._draining
        assert not meeting.channel._half_closed
        drains = []
        drain = channel_module.Channel._drain

        def counted(self: channel_module.Channel) -> None:
            drains.append(1)
            drain(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(channel_module.Channel, "_drain", counted)
            meeting.stepped.turns(20)
        # It waits for room, it does not ask for it.
        assert len(drains) <= 1
        reading = InThread(meeting.peer.read_frames)
        meeting.stepped.turn_until(lambda: not reading.is_alive())
        *messages, last = reading.result()
        assert {received.payload for received in messages} == {bytes(CHUNK)}
        assert (last.opcode, last.payload[:2]) == (CLOSE, b"\x03\xea")


def test_draining_waits_for_who_reads_just_now() -> None:
    with Meeting() as meeting:
        meeting.peer.send_close()
        with owned_elsewhere(meeting) as let_go:
            meeting.channel.end = b""
            meeting.channel.finish_input()
            meeting.stepped.turns()
            assert not meeting.channel._discarded
            let_go(lib.SYNCWS_FLAG_PARKED)
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: meeting.channel.gone)


def test_draining_a_channel_that_is_gone_closes_it() -> None:
    with Meeting() as meeting:
        meeting.peer.send_close()
        meeting.stepped.turns()
        lib.syncws_abort(meeting.c)
        meeting.channel._drain()
        assert meeting.transport.fileno() == -1


def test_a_channel_that_is_aborted_while_it_drains_is_not_watched_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        meeting.peer.send_close()
        meeting.stepped.turns()

        def aborted(memory: memoryview) -> None:
            meeting.channel.abort()

        monkeypatch.setattr(meeting.transport, "receive_into", aborted)
        meeting.stepped._callbacks.clear()
        meeting.channel._drain()
        assert meeting.channel.gone
        assert meeting.stepped._callbacks == {}


def test_draining_ends_when_the_stream_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    with Meeting() as meeting:
        meeting.peer.send_close()
        meeting.stepped.turns()

        def broken(memory: memoryview) -> int:
            raise ConnectionResetError(errno.ECONNRESET, "broken")

        monkeypatch.setattr(meeting.transport, "receive_into", broken)
        meeting.peer.send(b"x")
        meeting.stepped.turn_until(lambda: meeting.channel.gone)
        with pytest.raises(ConnectionClosedOK):
            meeting.receive()


# -- write errors ----------------------------------------------------------------


def hear_last_word(meeting: Meeting) -> None:
    """Who sends to a peer that reads no more, and closes, is told why."""
    meeting.peer.send_close(1009, b"too big")
    meeting.peer.sock.shutdown(socket.SHUT_RD)
    sender = InThread(meeting.send, bytes(100))
    meeting.stepped.turn_until(lambda: not sender.is_alive())
    with pytest.raises(ConnectionClosedError) as raised:
        sender.result()
    assert raised.value.rcvd == Close(1009, "too big")


def test_after_a_write_error_the_peer_has_the_last_word() -> None:
    with Meeting() as meeting:
        hear_last_word(meeting)


def test_the_last_word_is_heard_behind_a_full_queue() -> None:
    with Meeting(max_queue=1, max_size=1000) as meeting:
        texts = [str(number) * 1000 for number in range(9)]
        for text in texts:
            meeting.peer.send_frame(TEXT, text.encode())
            meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        hear_last_word(meeting)
        assert list(meeting.channel.inbound) == texts
        assert not meeting.channel.senders


def test_a_peer_that_has_no_last_word_is_not_heard_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "LAST_WORDS", 2000)
    with Meeting(max_queue=None, max_size=1000, close_timeout=None) as meeting:
        meeting.peer.sock.shutdown(socket.SHUT_RD)
        sender = InThread(meeting.send, bytes(100))
        meeting.stepped.turn_until(lambda: meeting.channel.senders)
        speaking = InThread(meeting.peer.send, *[frame(BINARY, bytes(1000))] * 1000)
        meeting.stepped.turn_until(lambda: not sender.is_alive())
        with pytest.raises(ConnectionClosedError) as raised:
            sender.result()
        assert isinstance(raised.value.__cause__, BrokenPipeError)
        assert len(meeting.channel.inbound) < 500
        meeting.stepped.turns()
        speaking.result()


@pytest.mark.parametrize("close_timeout", [0.1, None])
@pytest.mark.parametrize("deadline", [0.1, None])
def test_a_peer_without_last_words_is_not_waited_for(
    close_timeout: float | None, deadline: float | None
) -> None:
    with Meeting(close_timeout=close_timeout) as meeting:
        lib.syncws_output_fail(meeting.c, errno.EPIPE)
        meeting.channel.write_error = error = BrokenPipeError(errno.EPIPE, "refused")
        if close_timeout is None and deadline is None:
            # Then whatever ends the connection ends the wait.
            meeting.stepped.call_soon(meeting.channel.abort, error)
        when = None if deadline is None else time.monotonic() + deadline
        words = InThread(meeting.channel.read_last_words, when)
        meeting.stepped.turn_until(lambda: not words.is_alive())
        words.result()
        assert meeting.channel.gone
        assert meeting.channel.exception().__cause__ is error


def test_a_write_error_that_nobody_remembers_has_a_cause_all_the_same() -> None:
    with Meeting(close_timeout=0.1) as meeting:
        meeting.channel.read_last_words(None)
        assert isinstance(meeting.channel.exception().__cause__, OSError)
