"""Group D of the catalogue, peers that send too much or too little at a time: D1 to D7,
D10, D14, D16."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from . import peer as wire
from .launch import storm, storm_timeout
from .peer import Peer
from .subject import Outcome, Subject, collect, idle, resident_bytes, settle

MIB = 2**20

pytestmark = pytest.mark.timeout(storm_timeout(60))


def flood(peer: Peer, data: bytes) -> threading.Thread:
    """Sends ``data`` in a thread of its own: the subject may stop reading.

    The peer must not read meanwhile: its ``SSLSocket`` is not safe in two threads.
    """
    peer.sock.settimeout(60)
    thread = threading.Thread(target=peer.send, args=(data,))
    thread.start()
    return thread


def finish(thread: threading.Thread) -> None:
    """Waits for a :func:`flood` that must end."""
    thread.join(30)
    assert not thread.is_alive(), "nobody reads the flood"


@pytest.mark.parametrize("size", [0, 1])
def test_D1_tiny_fragments_are_refused(subject: Subject, size: int) -> None:
    """1008 once the free fragments are used up; the rest of the flood is thrown away."""
    fragment = subject.frame(wire.CONTINUATION, b"x" * size, fin=False)
    data = subject.frame(wire.TEXT, b"x" * size, fin=False) + fragment * storm(1_000_000)
    with subject.open() as conversation:
        before = resident_bytes()
        conversation.peer.send(data)
        frames, close = conversation.peer.read_until_close()
        assert (frames, int.from_bytes(close.payload[:2])) == ([], 1008)
        conversation.outcome.expect_violation(1008)
        assert resident_bytes() - before < MIB


@pytest.mark.parametrize("size", [0, 1])
def test_fault_17_D1_tiny_fragments_cost_no_memory(subject: Subject, size: int) -> None:
    """With the limit lifted, a fragment costs what it carries and nothing else."""
    count = storm(1_000_000)
    fragment = subject.frame(wire.CONTINUATION, b"x" * size, fin=False)
    last = subject.frame(wire.CONTINUATION, b"")
    data = subject.frame(wire.TEXT, b"", fin=False) + fragment * count
    with subject.open(collect, max_fragments=None) as conversation:
        channel = conversation.outcome.opened()
        conversation.peer.send_frame(wire.TEXT, b"warm up")
        settle(lambda: len(conversation.outcome.messages), 1)
        before, started = resident_bytes(), time.process_time()
        conversation.peer.send(data)
        settle(lambda: channel.stats.bytes_received >= len(data), True, within=30)
        # 15 to 28 times as much as they carry is what others paid for each.
        assert resident_bytes() - before < MIB
        assert time.process_time() - started < 10
        conversation.peer.send(last)
        settle(lambda: len(conversation.outcome.messages), 2)
        assert conversation.outcome.messages[1] == "x" * size * count
        conversation.expect_normal_end()


def test_fault_17_D1_fragments_that_earn_their_keep(subject: Subject) -> None:
    """Autobahn 9.3.1: 4 MiB in fragments of 64 bytes are no flood."""
    fragment = subject.frame(wire.CONTINUATION, b"x" * 64, fin=False)
    data = subject.frame(wire.BINARY, b"", fin=False) + fragment * 65_535
    with subject.open(collect) as conversation:
        conversation.peer.send(data + subject.frame(wire.CONTINUATION, b"y"))
        settle(lambda: len(conversation.outcome.messages), 1, within=10)
        assert conversation.outcome.messages == [b"x" * 64 * 65_535 + b"y"]
        conversation.expect_normal_end()


def test_fault_13_D2_one_byte_per_segment(plain_subject: Subject) -> None:
    """The end of a 1 MiB frame comes byte by byte: delivered exactly, not copied each time."""
    size, dribbled = MIB, storm(MIB)
    payload = bytes(range(256)) * (size // 256)
    data = plain_subject.frame(wire.BINARY, payload)
    with plain_subject.open(collect, ping_interval=None) as conversation:
        before, started = resident_bytes(), time.monotonic()
        conversation.peer.send(data[:-dribbled])
        conversation.peer.send_bytewise(data[-dribbled:])
        settle(lambda: len(conversation.outcome.messages), 1, within=10)
        took = time.monotonic() - started
        assert conversation.outcome.messages == [payload]
        # A copy of 1 MiB for each byte would take minutes.
        assert took < storm_timeout(10)
        assert resident_bytes() - before < 4 * MIB
        conversation.expect_normal_end()


def test_fault_13_whole_conversation_in_one_byte_segments(subject: Subject) -> None:
    """From the first byte on, both ways as far as this peer decides."""
    with subject.open() as conversation:
        peer = conversation.peer
        for opcode, payload in ((wire.TEXT, "ä€😀".encode()), (wire.BINARY, bytes(300))):
            peer.send_bytewise(peer.frame(opcode, payload))
            frame = peer.read_frame()
            assert frame is not None
            assert (frame.opcode, frame.payload) == (opcode, payload)
        peer.send_bytewise(peer.frame(wire.PING, b"dribbled"))
        frame = peer.read_frame()
        assert frame is not None
        assert (frame.opcode, frame.payload) == (wire.PONG, b"dribbled")
        peer.send_bytewise(peer.frame(wire.CLOSE, wire.close_payload(1000)))
        _, close = peer.read_until_close()
        assert close.payload == wire.close_payload(1000)


def test_D3_dribbled_while_nobody_receives(subject: Subject) -> None:
    """A frame in thousands of reads while the program is busy is complete when it comes."""
    payload = b"abcd" * 32_768
    data = subject.frame(wire.BINARY, payload)
    step = len(data) // 2048
    with subject.open(idle) as conversation:
        conversation.peer.send(*(data[at : at + step] for at in range(0, len(data), step)))
        channel = conversation.outcome.opened()
        settle(lambda: channel.stats.messages_queued, 1)
        conversation.outcome.release.set()
        settle(lambda: conversation.outcome.messages, [payload])
        conversation.expect_normal_end()


def test_D4_messages_flood_a_slow_program(subject: Subject) -> None:
    """TCP's window closes; nothing is lost; reading goes on when the program does."""
    size, count = 4096, storm(1_000_000_000 // 4096)
    frames = [subject.frame(wire.BINARY, b"%08d" % number * (size // 8)) for number in range(64)]
    data = b"".join(frames) * (count // 64)
    with subject.open(idle) as conversation:
        before = resident_bytes()
        sender = flood(conversation.peer, data)
        connection = conversation.outcome.opened()
        received = -1
        while received != connection.stats.bytes_received:
            received = connection.stats.bytes_received
            time.sleep(0.1)
        # 1 MiB is the high-water mark; one read may go beyond it.
        assert received < 2 * MIB, received
        assert sender.is_alive()
        assert resident_bytes() - before < 8 * MIB
        counted = 0

        def count_down(message: Any) -> None:
            nonlocal counted
            assert message == b"%08d" % (counted % 64) * (size // 8)
            counted += 1

        conversation.outcome.messages = Counting(count_down)
        conversation.outcome.release.set()
        finish(sender)
        settle(lambda: counted, count // 64 * 64, within=30)
        assert resident_bytes() - before < 16 * MIB
        conversation.expect_normal_end()


class Counting:
    """Looks at each message instead of keeping it."""

    def __init__(self, look: Any) -> None:
        self.append = look


@pytest.mark.parametrize("program", [idle, collect])
def test_D5_ping_flood_of_a_peer_that_does_not_read(subject: Subject, program: Any) -> None:
    """Of the pongs that the socket refuses only the newest is kept."""
    count = storm(1_000_000)
    payloads = [b"%0120d" % number for number in range(count)]
    data = b"".join(subject.frame(wire.PING, payload) for payload in payloads)
    with subject.open(program, ping_interval=None) as conversation:
        connection = conversation.outcome.opened()
        before = resident_bytes()
        conversation.peer.sock.settimeout(storm_timeout(30))
        conversation.peer.send(data)
        settle(lambda: connection.stats.bytes_received >= len(data), True, within=30)
        assert connection.stats.bytes_unsent < 256 * 1024
        assert resident_bytes() - before < 4 * MIB
        seen = []
        while not seen or seen[-1] != count - 1:
            frame = conversation.peer.read_frame()
            assert frame is not None
            assert frame.opcode == wire.PONG
            seen.append(int(frame.payload))
        # In order, the newest last; what is missing was refused by the socket.
        assert seen == sorted(set(seen))
        conversation.outcome.release.set()
        conversation.expect_normal_end()


def test_D6_unsolicited_pongs(subject: Subject) -> None:
    """Ignored, at no more than what reading them costs."""
    data = subject.frame(wire.PONG, b"did you call?") * storm(1_000_000)
    with subject.open() as conversation:
        before, started = resident_bytes(), time.process_time()
        conversation.peer.sock.settimeout(storm_timeout(30))
        conversation.peer.send(data, subject.frame(wire.TEXT, b"and?"))
        frame = conversation.peer.read_frame(storm_timeout(30))
        assert frame is not None
        assert frame.payload == b"and?"
        assert resident_bytes() - before < MIB
        assert time.process_time() - started < storm_timeout(10)
        conversation.expect_normal_end()


def test_D7_empty_messages_flood_a_slow_program(subject: Subject) -> None:
    """The queue's bound counts messages too: an empty one is not free."""
    count = storm(1_000_000)
    data = subject.frame(wire.TEXT, b"") * count
    with subject.open(idle) as conversation:
        sender = flood(conversation.peer, data)
        connection = conversation.outcome.opened()
        settle(lambda: connection.stats.messages_queued >= 1024, True, within=wire.PATIENCE)
        queued = -1
        while queued != connection.stats.messages_queued:
            queued = connection.stats.messages_queued
            time.sleep(0.1)
        # `max_queue`, and what one read of 64 KiB may bring above it.
        assert 1024 <= queued <= 1024 + 65_536 // 2, queued
        conversation.outcome.release.set()
        finish(sender)
        settle(lambda: len(conversation.outcome.messages), count, within=30)
        assert set(conversation.outcome.messages) == {""}
        conversation.expect_normal_end()


def test_D10_no_thread_per_message(subject: Subject) -> None:
    """Any number of messages, and of connections, costs at most a thread per connection."""
    most = 0

    def watch(connection: Any, outcome: Outcome) -> None:
        nonlocal most
        for _ in range(storm(100_000)):
            connection.recv()
            most = max(most, threading.active_count())
        collect(connection, outcome)

    data = subject.frame(wire.TEXT, b"x") * storm(100_000)
    before = threading.active_count()
    with subject.open(watch) as conversation:
        conversation.peer.send(data)
        conversation.expect_normal_end()
    # The handler or the program, a server's two threads, and the TLS helpers.
    assert most <= before + 7


def test_D14_message_that_never_ends(subject: Subject) -> None:
    """Bounded by ``max_size``; a receiver's timeout holds; the connection lives on."""
    timeouts: list[float] = []

    def patient(connection: Any, outcome: Outcome) -> None:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                connection.recv(timeout=0.2)
            timeouts.append(time.monotonic() - started)
        connection.send("ready")
        collect(connection, outcome)

    with subject.open(patient, max_size=MIB) as conversation:
        peer = conversation.peer
        peer.send(subject.frame(wire.BINARY, bytes(65_536), fin=False))
        frame = peer.read_frame()
        assert frame is not None
        assert frame.payload == b"ready"
        assert all(0.15 < seconds < 2 for seconds in timeouts), timeouts
        # What is announced counts, before it comes.
        peer.send(subject.frame(wire.CONTINUATION, bytes(65_536), fin=False) * 15)
        peer.send(subject.header(wire.CONTINUATION, 1, fin=False))
        conversation.expect_failure(1009)


def test_D16_many_headers_of_one_name(plain_subject: Subject) -> None:
    """As many as are allowed, all of one name or all different, cost no more than others."""
    for name in ("X-Same", "X-%d"):
        headers = [(name.replace("%d", str(number)), "x" * 100) for number in range(110)]
        # Not the time of day, which others take some of.
        started = time.process_time()
        if plain_subject.is_server:
            peer = wire.connect(plain_subject.address(), headers=headers)
        else:
            outcome = plain_subject.start_client()
            peer = plain_subject.listener.accept(headers=headers)
            assert len(outcome.opened().response.headers.get_all(headers[0][0])) in (1, 110)
        assert time.process_time() - started < 1
        peer.send_close()
        assert peer.read_frame() is not None
        peer.close()
