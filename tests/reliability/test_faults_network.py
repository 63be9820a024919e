"""The fault matrix, what networks and peers do: faults 6, 7, 9 to 12, 22, and row D15."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import socket
import struct
import threading
import time
from typing import Any

import pytest

import syncws

from . import peer as wire
from .peer import Peer
from .subject import Contexts, Outcome, Subject, collect, idle, no_trace, settle

MIB = 2**20

# Linux: a classic BPF program of one instruction, "return 0": every packet is dropped.
SO_ATTACH_FILTER = 26


def vanish(peer: Peer) -> None:
    """The network between us is gone: packets for the peer are lost, unacknowledged.

    Its own end of stream would be seen too, so the peer must stay as it is.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(instruction))
    peer.sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def expect_abnormal_end(outcome: Outcome, within: float) -> syncws.ConnectionClosedError:
    """The program learns, in time, that the connection broke; 1006."""
    started = time.monotonic()
    outcome.wait(within + 5)
    assert time.monotonic() - started < within
    error = outcome.error
    assert isinstance(error, syncws.ConnectionClosedError), repr(error)
    assert error.rcvd is None
    assert outcome.connection.close_code == 1006
    return error


def fill(connection: Any, outcome: Outcome) -> None:
    """Sends until it can no more, without a timeout of its own."""
    while True:
        connection.send(b"x" * 50_000)


def is_blocked(connection: Any) -> bool:
    """Its queue is as full as makes ``send()`` wait."""
    return bool(connection.stats.bytes_unsent > MIB // 2)


@pytest.mark.parametrize("program", [collect, idle, fill])
def test_fault_09_D15_black_hole(subject: Subject, program: Any) -> None:
    """Whatever the program does, idle or blocked in ``send()``, keepalive finds out."""
    with subject.open(program, ping_interval=0.3, ping_timeout=0.3) as conversation:
        connection = conversation.outcome.opened()
        vanish(conversation.peer)
        settle(lambda: connection.state is syncws.State.CLOSED, True, within=3)
        conversation.outcome.release.set()
        expect_abnormal_end(conversation.outcome, 2)
        # Leave without a word: TCP would go on for minutes.
        conversation.peer.reset()


@pytest.mark.parametrize("program", [collect, fill])
def test_fault_07_D15_keepalive_ends_a_peer_that_accepts_nothing(
    subject: Subject, program: Any
) -> None:
    """Its TCP is alive and it is not: it neither reads nor writes."""
    with subject.open(program, ping_interval=0.3, ping_timeout=0.3) as conversation:
        expect_abnormal_end(conversation.outcome, 5)


def test_fault_07_keepalive_spares_a_peer_that_reads_slowly(subject: Subject) -> None:
    """It takes a little now and then: that is life, and the send goes on."""
    stop = threading.Event()

    def send_much(connection: Any, outcome: Outcome) -> None:
        for _ in range(200):
            connection.send(b"x" * 100_000)
        stop.set()
        collect(connection, outcome)

    with subject.open(send_much, ping_interval=0.2, ping_timeout=3) as conversation:
        total, deadline = 0, time.monotonic() + 40
        while total < 200 * 100_000:
            assert time.monotonic() < deadline
            frame = conversation.peer.read_frame()
            assert frame is not None, conversation.outcome.error
            if frame.opcode == wire.BINARY:
                total += len(frame.payload)
            # Pings are never answered here, for longer than their timeout: taking bytes is what
            # counts.
            time.sleep(0.02)
        assert stop.wait(wire.PATIENCE)
        conversation.peer.send_close()
        conversation.outcome.wait()


def test_fault_09_idle_peer_that_answers_pings_stays(subject: Subject) -> None:
    """The opposite: nothing but pongs comes, for many intervals."""
    with subject.open(collect, ping_interval=0.1, ping_timeout=2) as conversation:
        for _ in range(24):
            frame = conversation.peer.read_frame()
            assert frame is not None
            assert frame.opcode == wire.PING
            conversation.peer.send_frame(wire.PONG, frame.payload)
        assert conversation.outcome.opened().latency > 0
        conversation.peer.send_close()
        conversation.outcome.wait()
        assert isinstance(conversation.outcome.error, syncws.ConnectionClosedOK)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 10, 20, 1000])
def test_fault_10_reset_in_the_middle_of_a_frame(subject: Subject, cut: int) -> None:
    """What came before is delivered; the rest is an error, at once."""
    data = subject.frame(wire.TEXT, b"whole")
    with subject.open() as conversation:
        conversation.peer.send(data)
        assert conversation.peer.read_frame() is not None
        conversation.peer.send(subject.frame(wire.BINARY, bytes(65_536))[:cut])
        conversation.peer.reset()
        expect_abnormal_end(conversation.outcome, 2)
        assert conversation.outcome.messages == ["whole"]


@pytest.mark.parametrize("cut", [0, 1, 5, 1000])
def test_fault_12_end_of_stream_in_the_middle_of_a_message(subject: Subject, cut: int) -> None:
    """FIN, and the peer goes on reading: no hang, and no half message."""
    with subject.open() as conversation:
        conversation.peer.send(subject.frame(wire.TEXT, b"begin", fin=False))
        conversation.peer.send(subject.frame(wire.CONTINUATION, bytes(65_536))[:cut])
        conversation.peer.half_close()
        expect_abnormal_end(conversation.outcome, 2)
        assert conversation.outcome.messages == []
        conversation.peer.read_raw()


def test_fault_11_peer_is_killed(warm: None) -> None:
    """``kill -9``: its kernel closes for it, with unread data or without."""
    from . import launch

    outcomes: list[Outcome] = []

    def handle(connection: Any) -> None:
        # Before the test knows of this connection: it kills the victim then, and sending would
        # fail.
        connection.send("x" * 1000)
        outcome = Outcome()
        outcomes.append(outcome)
        outcome.run(connection, collect)

    with syncws.serve(handle, "127.0.0.1", 0) as server:
        for _ in range(launch.storm(100)):
            with launch.Program("exits", "killed", server.url) as program:
                settle(lambda: bool(outcomes), True, within=20)
                os.kill(program.process.pid, signal.SIGKILL)
            expect_abnormal_end(outcomes.pop(), 2)
        settle(lambda: len(server.connections), 0)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_fault_06_shutdown_with_a_blocked_send(
    scheme: str,
    contexts: Contexts,
    caplog: pytest.LogCaptureFixture,
    warm: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Handlers blocked in ``send()`` do not keep ``shutdown()``: close_timeout and a second."""
    # What they get to notice.
    monkeypatch.setattr("syncws.serving.GRACE", 3.0)
    secure = scheme == "wss"
    outcomes = [Outcome() for _ in range(3)]
    waiting = iter(outcomes)
    with no_trace(caplog):
        server = syncws.serve(
            lambda connection: next(waiting).run(connection, fill),
            "127.0.0.1",
            0,
            ssl=contexts.server if secure else None,
            close_timeout=0.5,
        )
        server.start()
        with contextlib.ExitStack() as stack:
            for _ in outcomes:
                tls = contexts.client if secure else None
                stack.enter_context(wire.connect(server.socket.getsockname(), tls))
            for outcome in outcomes:
                connection = outcome.opened()
                settle(functools.partial(is_blocked, connection), True, within=5)
            started = time.monotonic()
            assert server.shutdown() == []
            assert time.monotonic() - started < 1.5
            for outcome in outcomes:
                expect_abnormal_end(outcome, 1)


def test_fault_22_G20x_handler_never_returns(warm: None) -> None:
    """``shutdown()`` returns in time and reports what is stuck, and where."""
    release = threading.Event()

    def stuck_on_purpose(connection: Any) -> None:
        release.wait(wire.PATIENCE)

    server = syncws.serve(stuck_on_purpose, "127.0.0.1", 0, close_timeout=0.3)
    server.start()
    try:
        with wire.connect(server.socket.getsockname()) as peer:
            settle(lambda: len(server.connections), 1)
            started = time.monotonic()
            (stuck,) = server.shutdown()
            assert time.monotonic() - started < 0.3 + 2 * 0.5 + 1
            assert "stuck_on_purpose" in stuck.stack
            assert stuck.connection is not None
            assert not stuck.connection.connected
            _, close = peer.read_until_close()
            assert close.payload[:2] == wire.close_payload(1001)
    finally:
        release.set()
    settle(lambda: [t for t in threading.enumerate() if t.name == stuck.thread_name], [])


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_fault_22_G20x_handler_raises(
    error: type[BaseException], warm: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection is closed with 1011; the next peer is served, and shutdown works."""

    def fail(connection: Any) -> None:
        if connection.recv() == "fail":
            raise error("on purpose")
        connection.send("fine")

    with syncws.serve(fail, "127.0.0.1", 0) as server:
        address = server.socket.getsockname()
        for _ in range(5):
            with wire.connect(address) as peer:
                peer.send_frame(wire.TEXT, b"fail")
                _, close = peer.read_until_close()
                assert close.payload[:2] == wire.close_payload(1011)
                # Not a word of what went wrong.
                assert b"purpose" not in close.payload
        with wire.connect(address) as peer:
            peer.send_frame(wire.TEXT, b"go")
            frames, close = peer.read_until_close()
            assert frames[0].payload == b"fine"
        assert server.shutdown() == []
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 5
    caplog.clear()


def test_G20x_handler_closes_its_connection_in_every_way(subject: Subject) -> None:
    """By ``close()``, and by ``abort()``: nothing is closed twice."""
    for method, code in (("close", 1000), ("abort", None)):

        def leave(connection: Any, outcome: Outcome, method: str = method) -> None:
            getattr(connection, method)()

        with subject.open(leave) as conversation:
            if code is None:
                assert conversation.peer.read_frames() == []
            else:
                _, close = conversation.peer.read_until_close()
                assert close.payload == wire.close_payload(code)
                conversation.peer.send_close(code)
                conversation.peer.half_close()
                conversation.peer.expect_end()
