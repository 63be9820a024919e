"""``syncws.delivery``: the inbound queue, and when reading stops and goes on."""

from __future__ import annotations

import errno
import ssl
from typing import Any

import pytest
from channels import (
    InThread,
    Meeting,
    owned_elsewhere,
)
from reliability.peer import BINARY, CLOSE, TEXT, frame

from syncws.delivery import HIGH_WATER, LAST_WORDS
from syncws.frames import Close, Side, lib
from syncws.input import InputChannel
from syncws.transport import CHUNK

MIB = 2**20


# -- back-pressure ---------------------------------------------------------------------


def fill(meeting: Meeting, payload: bytes) -> int:
    """Sends until the reader stops to read; how many messages it took."""
    while not meeting.has(lib.SYNCWS_FLAG_PAUSED):
        meeting.peer.send_frame(BINARY, payload)
        meeting.stepped.turns(2)
    return len(meeting.channel.inbound)


def test_reading_stops_at_high_water_and_goes_on_at_a_quarter() -> None:
    size = 16 * 1024
    with Meeting(Side.SERVER, max_queue=None) as meeting:
        count = fill(meeting, bytes(size))
        assert HIGH_WATER <= count * size <= HIGH_WATER + 8 * CHUNK
        meeting.peer.send_frame(TEXT, b"late")
        meeting.stepped.turns(10)
        assert len(meeting.channel.inbound) == count
        while len(meeting.channel.inbound) * size > HIGH_WATER // 4:
            assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
            meeting.channel.inbound.popleft()
            meeting.stepped.turn()
        assert not meeting.has(lib.SYNCWS_FLAG_PAUSED)
        meeting.stepped.turn_until(lambda: meeting.channel.inbound[-1] == "late")


def test_reading_stops_at_max_queue_and_goes_on_at_a_quarter() -> None:
    with Meeting(max_queue=100) as meeting:
        meeting.peer.send(b"".join(frame(TEXT, b"%d" % n) for n in range(150)))
        meeting.stepped.turns(3)
        meeting.peer.send_frame(TEXT, b"150")
        meeting.stepped.turns(3)
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        assert len(meeting.channel.inbound) == 150
        for number in range(125):
            assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
            meeting.stepped.turn()
            assert len(meeting.channel.inbound) == 150 - number
            assert meeting.channel.inbound.popleft() == str(number)
        meeting.stepped.turns(3)
        assert [meeting.receive(0.0) for _ in range(26)] == [str(n) for n in range(125, 151)]


def test_who_waits_reads_in_spite_of_the_pause() -> None:
    with Meeting(max_queue=1) as meeting:
        meeting.peer.send_frame(TEXT, b"one")
        meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        meeting.peer.send_frame(TEXT, b"two")
        assert meeting.receive() == "one"
        assert meeting.receive() == "two"
        assert not meeting.has(lib.SYNCWS_FLAG_PAUSED)
        meeting.stepped.turns()


def test_a_paused_channel_that_ends_is_not_asked_about_for_ever() -> None:
    with Meeting(max_queue=1) as meeting:
        meeting.peer.send_frame(TEXT, b"one")
        meeting.stepped.turns()
        assert meeting.stepped._unread
        meeting.channel.abort()
        meeting.stepped.turns()
        assert not meeting.stepped._unread
        assert meeting.receive() == "one"


def test_a_sender_that_waits_lifts_the_pause() -> None:
    with Meeting(max_queue=10, max_size=4 * MIB) as meeting:
        meeting.peer.send(b"".join(frame(TEXT, b"%d" % n) for n in range(20)))
        meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        sender = InThread(meeting.send, bytes(3 * MIB))
        # It waits for the peer, which wants to be read first.
        other = InThread(meeting.peer.send, frame(BINARY, bytes(2 * MIB)))
        meeting.stepped.turn_until(lambda: not other.is_alive())
        reading = InThread(meeting.peer.read_frame)
        meeting.stepped.turn_until(lambda: not reading.is_alive())
        assert reading.result().payload == bytes(3 * MIB)
        sender.result()


def test_a_sender_lifts_the_pause_up_to_max_size_only() -> None:
    with Meeting(Side.SERVER, max_queue=None, max_size=2 * MIB) as meeting:
        fill(meeting, bytes(CHUNK))
        meeting.channel.senders.add(1)
        meeting.channel.resume_reading()
        assert not meeting.has(lib.SYNCWS_FLAG_PAUSED)
        count = fill(meeting, bytes(CHUNK))
        assert 2 * MIB <= count * CHUNK <= 2 * MIB + 8 * CHUNK
        meeting.channel.resume_reading()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        meeting.channel.senders.clear()


def test_a_sender_that_came_after_the_pause_is_seen_at_the_next_tick() -> None:
    with Meeting(max_queue=1) as meeting:
        meeting.peer.send_frame(TEXT, b"one")
        meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        meeting.channel.senders.add(1)
        meeting.peer.send_frame(TEXT, b"two")
        meeting.stepped.turns()
        assert list(meeting.channel.inbound) == ["one", "two"]
        meeting.channel.senders.clear()


def test_nothing_pauses_once_a_close_frame_was_sent() -> None:
    with Meeting(max_queue=1) as meeting:
        meeting.peer.send_frame(TEXT, b"one")
        meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        meeting.channel.start_close(Close(1000, ""))
        meeting.peer.send_frame(TEXT, b"two")
        meeting.peer.send_close(1000)
        meeting.stepped.turns()
        assert list(meeting.channel.inbound) == ["one"]
        assert not meeting.has(lib.SYNCWS_FLAG_PAUSED)
        assert meeting.channel.closing.complete


def test_a_write_error_alone_lets_nobody_fill_the_queue() -> None:
    with Meeting(Side.SERVER, max_queue=None) as meeting:
        meeting.channel.write_error = OSError(errno.EPIPE, "refused")
        count = fill(meeting, bytes(CHUNK))
        assert HIGH_WATER <= count * CHUNK <= HIGH_WATER + 8 * CHUNK
        meeting.peer.send_frame(TEXT, b"late")
        meeting.stepped.turns(10)
        assert len(meeting.channel.inbound) == count
        while meeting.channel.inbound:
            meeting.channel.inbound.popleft()
        meeting.stepped.turn_until(lambda: meeting.channel.inbound)
        assert meeting.receive() == "late"


def test_after_a_write_error_nothing_pauses_who_waits_for_the_last_words() -> None:
    with Meeting(max_queue=1) as meeting:
        meeting.peer.send_frame(TEXT, b"one")
        meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        meeting.channel.write_error = OSError(errno.EPIPE, "refused")
        with meeting.channel.reading_on():
            meeting.peer.send_frame(TEXT, b"two")
            meeting.stepped.turns()
            assert list(meeting.channel.inbound) == ["one", "two"]
            assert not meeting.has(lib.SYNCWS_FLAG_PAUSED)


@pytest.mark.parametrize(
    ("max_size", "mark"), [(MIB, LAST_WORDS), (LAST_WORDS + MIB, LAST_WORDS + MIB)]
)
def test_last_words_are_bounded(max_size: int, mark: int) -> None:
    with Meeting(Side.SERVER, max_queue=None, max_size=max_size) as meeting:
        meeting.channel.write_error = OSError(errno.EPIPE, "refused")
        with meeting.channel.reading_on():
            count = fill(meeting, bytes(CHUNK))
            assert mark <= count * CHUNK <= mark + 8 * CHUNK
            assert meeting.channel.is_overfull()
            meeting.channel.inbound.popleft()
            meeting.channel.resume_reading()
            assert not meeting.channel.is_overfull()


def test_who_waits_for_the_end_lifts_the_pause() -> None:
    with Meeting(max_queue=1) as meeting:
        meeting.peer.send_frame(TEXT, b"0")
        meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)

        def wait() -> bool:
            with meeting.channel.reading_on():
                return meeting.channel.wait_until(lambda: meeting.channel.end is not None, None)

        waiting = InThread(wait)
        for number in range(1, 10):
            meeting.peer.send_frame(TEXT, b"%d" % number)
            meeting.stepped.turns()
        meeting.peer.half_close()
        meeting.stepped.turn_until(lambda: not waiting.is_alive())
        assert waiting.result() is True
        assert [meeting.receive() for _ in range(10)] == [str(n) for n in range(10)]
        assert not meeting.channel.senders


def test_what_comes_after_our_close_frame_is_bounded() -> None:
    payload = bytes(CHUNK)
    with Meeting(close_timeout=None) as meeting:
        meeting.channel.start_close(Close(1000, ""))
        sender = InThread(
            meeting.peer.send, *[frame(BINARY, payload)] * 64, frame(CLOSE, b"\x03\xe8")
        )
        meeting.stepped.turn_until(lambda: meeting.channel.closing.complete)
        sender.result()
        assert HIGH_WATER <= len(meeting.channel.inbound) * CHUNK <= HIGH_WATER + 8 * CHUNK


def test_once_something_was_dropped_everything_behind_it_is() -> None:
    with Meeting(close_timeout=None) as meeting:
        meeting.channel.start_close(Close(1000, ""))
        payloads = [bytes([number]) * CHUNK for number in range(1, 65)]
        frames = [frame(BINARY, payload) for payload in payloads]
        sender = InThread(meeting.peer.send, *frames[:32])
        meeting.stepped.turn_until(lambda: not sender.is_alive())
        meeting.stepped.turns(20)
        taken = [meeting.channel.inbound.popleft() for _ in range(10)]
        sender = InThread(meeting.peer.send, *frames[32:], frame(CLOSE, b"\x03\xe8"))
        meeting.stepped.turn_until(lambda: meeting.channel.closing.complete)
        sender.result()
        taken += meeting.channel.inbound
        assert taken == payloads[: len(taken)]
        assert len(taken) < 32


def test_once_something_was_dropped_a_receiver_gets_nothing() -> None:
    with Meeting(close_timeout=None) as meeting:
        meeting.channel.start_close(Close(1000, ""))
        sender = InThread(meeting.peer.send, *[frame(BINARY, bytes(CHUNK))] * 32)
        meeting.stepped.turn_until(lambda: not sender.is_alive())
        meeting.stepped.turns(20)
        while meeting.channel.inbound:
            meeting.receive()
        meeting.peer.send_frame(TEXT, b"late")
        with pytest.raises(TimeoutError):
            meeting.receive(0.1)


def test_a_wait_inside_a_wait_does_not_end_it() -> None:
    with Meeting() as meeting:
        with meeting.channel.reading_on():
            with meeting.channel.reading_on():
                pass
            assert meeting.channel.senders
        assert not meeting.channel.senders


@pytest.mark.parametrize("kept", [True, False])
def test_a_message_that_is_to_be_whole_does_not_pause_itself(kept: bool) -> None:
    with Meeting(max_size=4 * MIB) as meeting:
        assert meeting.channel.begin_stream(None) is None
        if kept:
            meeting.channel.end_stream()
        sender = InThread(meeting.peer.send, frame(BINARY, bytes(3 * MIB)))
        if kept:
            meeting.stepped.turn_until(lambda: bool(meeting.channel.inbound))
            # A bound from above, or the queue would be found full too late.
            assert meeting.channel._inbound_bytes >= 3 * MIB
            assert meeting.receive() == bytes(3 * MIB)
        else:
            meeting.stepped.turn_until(lambda: meeting.has(lib.SYNCWS_FLAG_PAUSED))
            while not meeting.channel.next_piece(None).last:
                pass
        sender.result()


def test_one_connection_does_not_keep_the_reader_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting(Side.SERVER, max_queue=None) as meeting:
        data = meeting.peer.frame(BINARY, bytes(1000)) * 48
        read_once = InputChannel.read_once
        reads = []

        def fed(self: InputChannel, *arguments: Any) -> int:
            # However much is read, there is more.
            meeting.peer.send(data)
            reads.append(1)
            return read_once(self, *arguments)

        monkeypatch.setattr(InputChannel, "read_once", fed)
        meeting.peer.send_frame(BINARY)
        meeting.stepped.turn()
        assert 1 < len(reads)
        assert 4 * CHUNK <= lib.syncws_received(meeting.c) <= 5 * CHUNK


def test_a_stale_event_is_ignored() -> None:
    with Meeting() as meeting, owned_elsewhere(meeting):
        meeting.peer.send_frame(TEXT, b"for the owner")
        meeting.channel.read_turn(CHUNK)
        assert not meeting.channel.inbound


# -- TLS --------------------------------------------------------------------------------


def test_tls_pending_data_is_not_forgotten(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with Meeting(contexts=(client_context, server_context), max_queue=10) as meeting:
        # One record holds them all, and the socket has nothing more to report.
        meeting.peer.send(b"".join(frame(TEXT, b"%d" % n) for n in range(30)))
        memory = bytearray(40)
        assert meeting.transport.receive_into(memoryview(memory)) == 40
        meeting.channel.feed(bytes(memory))
        assert meeting.transport.pending()
        meeting.stepped.turns()
        # The queue is full, and nobody asks the transport again and again.
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        assert not meeting.stepped._calls
        taken: list[Any] = []
        while len(taken) < 30:
            taken.append(meeting.channel.inbound.popleft())
            meeting.stepped.turns()
        assert taken == [str(n) for n in range(30)]
