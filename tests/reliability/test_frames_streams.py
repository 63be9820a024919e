"""Group A of the catalogue, many frames and what comes after a failure: A15 to A18."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from typing import Any

import pytest

import syncws

from . import peer as wire
from .subject import Conversation, Crash, Outcome, Subject, idle, resident_bytes

SIZES = [0, 1, 125, 126, 127, 65535, 65536]


def message(size: int, seed: int) -> tuple[int, bytes]:
    """A text or binary message, reproducible, of ``size`` bytes."""
    source = random.Random(seed * 100_003 + size)
    if seed % 2:
        return wire.BINARY, source.randbytes(size)
    return wire.TEXT, bytes(source.randrange(0x20, 0x7F) for _ in range(size))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_A15_frames_back_to_back(subject: Subject, count: int) -> None:
    for start, size in enumerate(SIZES):
        messages = [
            message(SIZES[(start + step * count) % len(SIZES)], start + step)
            for step in range(count)
        ]
        data = b"".join(subject.frame(opcode, payload) for opcode, payload in messages)
        for early in (b"", data):
            with subject.open(early=early) as conversation:
                conversation.peer.send(b"" if early else data)
                received = [conversation.peer.read_frame() for _ in range(count)]
                found = [(frame.opcode, frame.payload) for frame in received if frame]
                assert found == messages, size
                conversation.expect_normal_end()


def test_A15_runs_of_small_frames(subject: Subject) -> None:
    """Small messages are handed over in bulk: none may be lost, split or joined."""
    messages = [message(index % 40, index // 7) for index in range(3000)]
    # Empty ones, and those that look like a separator between two others.
    messages += [(wire.TEXT, b""), (wire.TEXT, b"\0"), (wire.TEXT, b"\0\0"), (wire.BINARY, b"")]
    data = b"".join(subject.frame(opcode, payload) for opcode, payload in messages)
    with subject.open() as conversation:
        sender = threading.Thread(target=conversation.peer.send, args=(data,))
        sender.start()
        received = [conversation.peer.read_frame() for _ in messages]
        sender.join(wire.PATIENCE)
        assert [(frame.opcode, frame.payload) for frame in received if frame] == messages
        conversation.expect_normal_end()


def test_A16_every_length_and_every_key(subject: Subject) -> None:
    source = random.Random(16)
    payloads = [source.randbytes(length) for length in range(301)]
    pieces = []
    for payload in payloads:
        key = source.randbytes(4) if subject.is_server else None
        # A pong of a changing length moves the frame through all alignments.
        pieces.append(subject.frame(wire.PONG, b"x" * source.randrange(64)))
        pieces.append(wire.frame(wire.BINARY, payload, mask=key))
    with subject.open() as conversation:
        sender = threading.Thread(target=conversation.peer.send, args=(b"".join(pieces),))
        sender.start()
        for payload in payloads:
            received = conversation.peer.read_frame()
            assert received is not None
            assert received.payload == payload
        sender.join(wire.PATIENCE)
        conversation.expect_normal_end()


def test_A16_every_mask_phase(plain_subject: Subject) -> None:
    payload = os.urandom(1500)
    frame = plain_subject.frame(wire.BINARY, payload)
    for offset in range(1, 300):
        with plain_subject.open() as conversation:
            conversation.peer.send(frame[:offset], frame[offset:])
            received = conversation.peer.read_frame()
            assert received is not None
            assert received.payload == payload


def test_A17_idle_program_and_an_endless_stream(subject: Subject) -> None:
    """After a violation the library ends the connection without any help."""
    with subject.open(idle, close_timeout=1) as conversation:
        peer, outcome = conversation
        outcome.opened()
        before = resident_bytes()
        peer.send(subject.frame(wire.TEXT, b"good") + subject.frame(3))
        stop = threading.Event()

        def stream() -> None:
            chunk = subject.frame(wire.BINARY, b"x" * 60_000)
            while not stop.is_set():
                try:
                    peer.sock.sendall(chunk)
                except OSError:
                    return

        streaming = threading.Thread(target=stream)
        if subject.tls is None:
            streaming.start()
        try:
            # In order: the program may still come for the good message for about a second.
            frames, close = peer.read_until_close(timeout=4.0)
            assert not frames
            assert int.from_bytes(close.payload[:2]) == 1002
            if subject.tls is not None:
                # A TLS socket is not for two threads: the stream begins only now.
                streaming.start()
            streaming.join(4.0)
            assert not streaming.is_alive(), "the library still reads the stream"
        finally:
            stop.set()
            streaming.join()
        assert resident_bytes() - before < 8 * 2**20
        outcome.release.set()
        outcome.expect_violation(1002)
        assert outcome.messages == ["good"]


def test_A17_what_follows_a_violation_is_read_and_dropped(subject: Subject) -> None:
    """Bytes left unread would turn our end of the stream into a reset, close frame and all."""
    with subject.open() as conversation:
        rest = subject.frame(wire.BINARY, b"x" * 2**20)
        conversation.peer.send(subject.frame(wire.TEXT, b"\xff"), rest, pause=0.01)
        frames, close = conversation.peer.read_until_close()
        assert not frames
        assert int.from_bytes(close.payload[:2]) == 1007
        conversation.peer.half_close()
        conversation.peer.expect_end()
        assert not conversation.peer.was_reset
        conversation.outcome.expect_violation(1007)


def test_A17_silent_peer_after_a_violation(subject: Subject) -> None:
    """A peer that never answers our close frame does not keep the connection."""
    with subject.open(close_timeout=0.5) as conversation:
        conversation.peer.send(subject.frame(3))
        _, close = conversation.peer.read_until_close(timeout=1.0)
        assert int.from_bytes(close.payload[:2]) == 1002
        conversation.outcome.expect_violation(1002)
        conversation.peer.expect_end(timeout=3.0)


def test_A17_idle_program_that_never_comes_back(subject: Subject) -> None:
    with subject.open(idle, close_timeout=0.5) as conversation:
        connection = conversation.outcome.opened()
        conversation.peer.send(subject.frame(wire.TEXT, b"\xff"))
        _, close = conversation.peer.read_until_close(timeout=4.0)
        assert int.from_bytes(close.payload[:2]) == 1007
        conversation.peer.expect_end(timeout=4.0)
        deadline = time.monotonic() + 2
        while connection.connected:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def crash_at_the_third(connection: Any, outcome: Outcome) -> None:
    """Echoes two messages and raises over the third."""
    for text in connection:
        if len(outcome.messages) == 2:
            raise Crash("no more")
        outcome.messages.append(text)
        connection.send(text)


def test_A18_program_that_raises(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    # The server reports a handler that raised: a line above WARNING, as it should be.
    caplog.set_level(logging.CRITICAL, logger="syncws.server")
    with subject.open() as other:
        with subject.open(crash_at_the_third, reraise=True) as conversation:
            data = b"".join(subject.frame(wire.TEXT, b"%d" % index) for index in range(5))
            conversation.peer.send(data)
            frames, close = conversation.peer.read_until_close()
            assert [frame.payload for frame in frames] == [b"0", b"1"]
            assert int.from_bytes(close.payload[:2]) == 1011
            assert b"no more" not in close.payload
            conversation.peer.send_close(1011)
            conversation.peer.half_close()
            conversation.peer.expect_end()
        other.peer.send_frame(wire.TEXT, b"unaffected")
        echoed = other.peer.read_frame()
        assert echoed is not None
        assert echoed.payload == b"unaffected"
        other.expect_normal_end()


@pytest.mark.parametrize("messages", [0, 1, 3])
def test_A18_messages_before_a_violation_are_delivered(subject: Subject, messages: int) -> None:
    def check(conversation: Conversation) -> None:
        conversation.expect_failure(1002, [b"%d" % index for index in range(messages)])
        assert conversation.outcome.messages == [str(index) for index in range(messages)]
        # The connection stays failed, and says so each time.
        for _ in range(2):
            with pytest.raises(syncws.ConnectionClosedError):
                conversation.outcome.connection.recv(timeout=1)
            with pytest.raises(syncws.ConnectionClosedError):
                conversation.outcome.connection.send("late")

    data = b"".join(subject.frame(wire.TEXT, b"%d" % index) for index in range(messages))
    subject.deliver(data + subject.frame(11) + subject.frame(wire.TEXT, b"never"), check)
