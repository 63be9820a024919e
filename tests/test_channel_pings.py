"""Pings and pongs, and the keepalive made of them."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from channels import InThread, Meeting, interpose, owned_elsewhere
from reliability.peer import CLOSE, PING, PONG, TEXT, frame

from syncws import channel as channel_module
from syncws import output as output_module
from syncws.exceptions import ConcurrencyError, ConnectionClosedError
from syncws.frames import Close, lib, thread_scratch
from syncws.transport import CHUNK

NORMAL = Close(1000, "")


def next_ping(meeting: Meeting) -> bytes:
    """The payload of the ping that the peer gets next."""
    received = meeting.next_frame()
    assert received.opcode == PING
    return received.payload


# -- pings ----------------------------------------------------------------------------


def test_pings_are_answered_in_order() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(PING, b"one") + frame(PING) + frame(PING, b"three"))
        meeting.stepped.turns()
        answers = [meeting.next_frame() for _ in range(3)]
        assert [(answer.opcode, answer.payload) for answer in answers] == [
            (PONG, b"one"),
            (PONG, b""),
            (PONG, b"three"),
        ]


def test_a_pong_tells_the_latency_and_wakes_who_waits() -> None:
    with Meeting() as meeting:
        pending = meeting.channel.ping(b"payload")
        waiting = InThread(meeting.channel.wait_until, lambda: pending.done, None)
        while not meeting.channel.waiters:
            time.sleep(0.001)
        assert next_ping(meeting) == b"payload"
        assert meeting.channel.latency == 0.0
        meeting.peer.send_frame(PONG, b"payload")
        meeting.stepped.turns()
        assert waiting.result() is True
        assert 0 < pending.latency == meeting.channel.latency
        assert meeting.channel.pings == {}


def test_a_pong_acknowledges_the_pings_before_it() -> None:
    with Meeting() as meeting:
        pendings = [meeting.channel.ping(b"%d" % number) for number in range(4)]
        meeting.peer.send_frame(PONG, b"2")
        meeting.stepped.turns()
        assert [pending.done for pending in pendings] == [True, True, True, False]
        assert list(meeting.channel.pings) == [b"3"]


def test_an_unsolicited_pong_means_nothing() -> None:
    with Meeting() as meeting:
        pending = meeting.channel.ping(b"mine")
        meeting.peer.send(frame(PONG, b"not mine"))
        meeting.stepped.turns()
        assert not pending.done
        assert meeting.channel.latency == 0.0


def test_two_pings_with_the_same_payload_could_not_be_told_apart() -> None:
    with Meeting() as meeting:
        meeting.channel.ping(b"same")
        with pytest.raises(ConcurrencyError, match="waiting for its pong"):
            meeting.channel.ping(b"same")
        assert next_ping(meeting) == b"same"
        meeting.peer.send_frame(PONG, b"same")
        meeting.stepped.turns()
        meeting.channel.ping(b"same")
        assert next_ping(meeting) == b"same"


def test_pings_without_a_payload_get_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncws.channel.time.monotonic_ns", lambda: 2**32 - 1)
    with Meeting() as meeting:
        pendings = [meeting.channel.ping(None) for _ in range(3)]
        payloads = [next_ping(meeting) for _ in pendings]
        assert len(set(payloads)) == 3
        assert {len(payload) for payload in payloads} == {4}
        meeting.peer.send_frame(PONG, payloads[-1])
        meeting.stepped.turns()
        assert all(pending.done for pending in pendings)


def test_no_ping_follows_a_close_frame() -> None:
    with Meeting() as meeting:
        meeting.channel.start_close(NORMAL)
        with pytest.raises(ConnectionClosedError):
            meeting.channel.ping(b"late")
        assert meeting.channel.pings == {}


# -- keepalive ------------------------------------------------------------------------


def test_keepalive_pings_again_and_again() -> None:
    before = time.monotonic()
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        for _ in range(3):
            (due,) = meeting.stepped.timers("_keep_alive")
            assert before + 5.0 <= due <= time.monotonic() + 5.0
            meeting.stepped.fire("_keep_alive")
            meeting.peer.send_frame(PONG, next_ping(meeting))
            meeting.stepped.turns()
            meeting.stepped.fire("_check_life_of")
        assert not meeting.channel.gone
        assert meeting.channel.latency > 0


def test_a_silent_peer_is_told_1011_and_left() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        before = time.monotonic()
        meeting.stepped.fire("_keep_alive")
        (due,) = meeting.stepped.timers("_check_life_of")
        assert before + 3.0 <= due <= time.monotonic() + 3.0
        meeting.stepped.fire("_check_life_of")
        next_ping(meeting)
        received = meeting.next_frame()
        assert (received.opcode, received.payload) == (CLOSE, b"\x03\xf3keepalive ping timeout")
        meeting.peer.expect_end()
        with pytest.raises(ConnectionClosedError, match="keepalive") as raised:
            meeting.receive()
        assert isinstance(raised.value.__cause__, TimeoutError)


def test_a_silent_peer_ends_the_wait_of_a_receiver() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        thread = InThread(meeting.receive, None)
        while not meeting.owned:
            time.sleep(0.001)
        meeting.stepped.fire("_keep_alive")
        meeting.stepped.fire("_check_life_of")
        with pytest.raises(ConnectionClosedError, match="keepalive"):
            thread.result()


def test_any_byte_is_a_sign_of_life() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        meeting.stepped.fire("_keep_alive")
        meeting.peer.send(frame(TEXT, b"slow")[:1])
        meeting.stepped.turns()
        meeting.stepped.fire("_check_life_of")
        assert not meeting.channel.gone


def test_a_pong_that_comes_before_the_clock_starts_is_a_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread may read it while the one that pinged has not gone on yet."""
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        real = type(meeting.channel).ping

        def ping(channel: Any, payload: bytes | None) -> Any:
            pending = real(channel, payload)
            meeting.peer.send_frame(PONG, next_ping(meeting))
            with pytest.raises(TimeoutError):
                meeting.receive(0)
            assert pending.done
            return pending

        monkeypatch.setattr(type(meeting.channel), "ping", ping)
        meeting.stepped.fire("_keep_alive")
        meeting.stepped.fire("_check_life_of")
        assert not meeting.channel.gone


def test_taking_bytes_after_refusing_some_is_a_sign_of_life() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        while lib.syncws_output_size(meeting.c) == 0:
            meeting.send(bytes(CHUNK))
        meeting.stepped.fire("_keep_alive")
        assert meeting.peer.sock.recv(4 * CHUNK)
        meeting.stepped.turns()
        meeting.stepped.fire("_check_life_of")
        assert not meeting.channel.gone


def test_taking_bytes_into_an_empty_buffer_is_no_sign_of_life() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        meeting.stepped.fire("_keep_alive")
        meeting.send(b"the kernel takes it, whoever is there")
        meeting.stepped.turns()
        meeting.stepped.fire("_check_life_of")
        assert meeting.channel.gone


def test_the_clock_stands_still_while_we_do_not_read() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0, max_queue=1) as meeting:
        meeting.peer.send_frame(TEXT, b"full")
        meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        meeting.stepped.fire("_keep_alive")
        before = time.monotonic()
        for _ in range(3):
            meeting.stepped.fire("_check_life_of")
            assert not meeting.channel.gone
            assert meeting.stepped.timers("_check_life_of")[0] >= before + 3.0
        assert meeting.receive() == "full"
        meeting.stepped.turns()
        meeting.stepped.fire("_check_life_of")
        assert meeting.channel.gone


def test_an_end_that_waits_for_its_turn_stops_the_clock() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        meeting.stepped.fire("_keep_alive")
        meeting.peer.send(frame(TEXT, b"last") + frame(CLOSE))
        meeting.stepped.turns()
        life = meeting.channel._life()
        meeting.channel._check_life(life)
        assert not meeting.channel.gone


def test_pings_that_nobody_answers_do_not_pile_up() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        for _ in range(40):
            meeting.stepped.fire("_keep_alive")
        assert len(meeting.channel.pings) <= 20
        assert meeting.stepped.timers("_keep_alive")


def test_without_ping_timeout_silence_is_allowed() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=None) as meeting:
        for _ in range(40):
            meeting.stepped.fire("_keep_alive")
        assert meeting.stepped.timers("_check_life_of") == []
        assert next_ping(meeting)


def test_what_the_peer_said_while_we_did_not_read_is_heard_first() -> None:
    with Meeting(max_queue=1, ping_interval=5.0, ping_timeout=3.0) as meeting:
        meeting.peer.send_frame(TEXT, b"one")
        meeting.stepped.turns()
        assert meeting.has(lib.SYNCWS_FLAG_PAUSED)
        life = meeting.channel._life()
        meeting.peer.send_frame(PONG, b"alive")
        meeting.channel.inbound.clear()
        # The tick lifts the pause; the timer fires before the selector is asked.
        assert meeting.channel._check_paused()
        meeting.channel._check_life(life)
        assert not meeting.channel.gone


def test_what_waits_for_a_busy_thread_is_a_sign_of_life() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        life = meeting.channel._life()
        with owned_elsewhere(meeting) as let_go:
            meeting.peer.send_frame(PONG, b"alive")
            meeting.channel._check_life(life)
            assert not meeting.channel.gone
            assert len(meeting.stepped.timers("_check_life_of")) == 1
            let_go()


def test_a_peer_that_never_answers_pings_is_missed_when_it_is_gone() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        for _ in range(20):
            meeting.stepped.fire("_keep_alive")
            meeting.peer.send_frame(TEXT, b"something else")
            meeting.stepped.turns()
            meeting.stepped.fire("_check_life_of")
        assert not meeting.channel.gone
        assert len(meeting.channel.pings) == 17
        meeting.stepped.fire("_keep_alive")
        meeting.stepped.fire("_check_life_of")
        assert meeting.channel.gone


def test_keepalive_ends_with_the_connection() -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        meeting.stepped.fire("_keep_alive")
        meeting.channel.start_close(NORMAL)
        life = meeting.channel._life()
        meeting.channel._check_life(life)
        assert not meeting.channel.gone
        meeting.stepped.fire("_keep_alive")
        assert meeting.stepped.timers("_keep_alive") == []
        meeting.channel.abort()
        meeting.stepped.turns()
        # Its question is still there.
        meeting.stepped.fire("_check_life_of")


def in_reader_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the thread that makes turns it is: it waits for nobody's last words."""
    monkeypatch.setattr(output_module, "in_any_reader_thread", lambda: True)


def test_a_silent_peer_that_takes_nothing_is_missed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    in_reader_thread(monkeypatch)
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        waiting = InThread(meeting.receive, None)
        while not meeting.owned:
            time.sleep(0.001)
        meeting.peer.sock.shutdown(socket.SHUT_RD)
        meeting.stepped.fire("_keep_alive")
        assert isinstance(meeting.channel.write_error, OSError)
        meeting.stepped.fire("_check_life_of")
        with pytest.raises(ConnectionClosedError, match="keepalive") as raised:
            waiting.result()
        silence = raised.value.__cause__
        assert isinstance(silence, TimeoutError)
        assert silence.__cause__ is meeting.channel.write_error


def test_a_peer_that_takes_nothing_and_speaks_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    in_reader_thread(monkeypatch)
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        meeting.peer.sock.shutdown(socket.SHUT_RD)
        for number in range(3):
            meeting.stepped.fire("_keep_alive")
            meeting.peer.send_frame(TEXT, b"%d" % number)
            meeting.stepped.turns()
            meeting.stepped.fire("_check_life_of")
        assert [meeting.receive() for _ in range(3)] == ["0", "1", "2"]
        assert meeting.channel.pings == {}
        assert not meeting.channel.gone


def test_a_connection_that_begins_to_close_just_now_is_not_pinged() -> None:
    with Meeting(ping_interval=5.0) as meeting:
        # C knows it a moment before the state says so.
        lib.syncws_send_control(meeting.c, thread_scratch(), CLOSE, b"", 0)
        meeting.stepped.fire("_keep_alive")
        assert meeting.channel.pings == {}
        assert meeting.stepped.timers("_check_life_of") == []


def test_a_close_frame_that_another_thread_sends_just_now_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting(ping_interval=5.0, ping_timeout=3.0) as meeting:
        meeting.stepped.fire("_keep_alive")

        def flags(c: Any) -> int:
            monkeypatch.undo()
            meeting.channel.start_close(NORMAL)
            return int(lib.syncws_flags(c))

        interpose(monkeypatch, channel_module, syncws_flags=flags)
        life = meeting.channel._life()
        meeting.channel._check_life(life)
        next_ping(meeting)
        closes = meeting.peer.read_frames()
        assert [received.payload for received in closes] == [b"\x03\xe8"]
