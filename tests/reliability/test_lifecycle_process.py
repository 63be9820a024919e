"""Group G, processes: fork (G9x), the end of the interpreter (G10x), clocks (G15x),
descriptors beyond 1023 (G16x)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from . import launch
from . import peer as wire
from .subject import Subject

FORKED = [
    "use",
    "drop",
    "exit",
    "open another",
    "reader busy",
    "server",
    "server before it serves",
    "multiprocessing",
]

EXITS = [
    "open client",
    "dropped client",
    "many clients",
    "open server",
    "blocked recv",
    "blocked send",
    "stuck handler",
    "busy threads",
    "exit in handler",
    "os._exit",
    "in atexit",
    "exception hook",
]

# The same where something waits for a thread that is inside a call.
HELD_UP = ["log handler", "full log handler", "joined receiver", "slow exit"]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Subject:
    """An echo server here; the program under test is a client, or brings its own."""
    subject = Subject("server", None)
    request.addfinalizer(subject.close)
    return subject


@pytest.mark.parametrize("what", FORKED)
def test_fault_20_G9x_fork(server: Subject, what: str) -> None:
    """The child is refused, and nothing that it does reaches the parent's peers."""
    assert launch.run("forking", server.server().url, what).splitlines() == ["done"]
    server.check_alive()


@contextlib.contextmanager
def keys_used(listener: wire.Listener) -> Iterator[list[bytes]]:
    """Echoes to every client, one frame at a time, and notes its masking keys."""
    keys: list[bytes] = []
    threads: list[threading.Thread] = []

    def converse(peer: wire.Peer) -> None:
        with peer:
            while True:
                start = peer.received
                while (found := wire.parse_frame(start)) is None:
                    if not peer._fill():
                        return
                    start = peer.received
                frame, size = found
                # No frame here is longer than 125 bytes.
                keys.append(start[2:6])
                peer.received = start[size:]
                answer = {wire.PING: wire.PONG}.get(frame.opcode, frame.opcode)
                peer.send_frame(answer, frame.payload)
                if frame.opcode == wire.CLOSE:
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=converse, args=(listener.accept(),)))
                threads[-1].start()

    listener.sock.settimeout(None)
    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield keys
    finally:
        with contextlib.suppress(OSError):
            listener.sock.shutdown(2)
        acceptor.join(wire.PATIENCE)
        for thread in threads:
            thread.join(wire.PATIENCE)


def test_G9x_parent_and_child_use_different_masking_keys() -> None:
    """Keys that were fetched before the fork are not used by both."""
    with wire.Listener() as listener:
        with keys_used(listener) as keys:
            assert launch.run("forking", listener.uri, "masks").splitlines() == ["done"]
    assert len(keys) > 128
    # 4 bytes each: two of 150 meet by chance once in 380,000 runs; of the same keys all would.
    assert len(set(keys)) >= len(keys) - 1


@pytest.mark.parametrize("way", EXITS)
def test_fault_21_G10x_interpreter_ends(server: Subject, way: str) -> None:
    """Status 0, at once, and not a word on the error stream."""
    for _ in range(launch.storm(60)):
        with launch.Program("exits", way, server.server().url) as program:
            assert program.read_line() == "ending"
            started = time.monotonic()
            program.expect_end()
            assert time.monotonic() - started < 1.0
    server.check_alive()


@pytest.mark.parametrize("way", HELD_UP)
def test_fault_21_G10x_interpreter_that_waits_for_a_daemon_thread_ends(
    server: Subject, way: str
) -> None:
    """Status 0, within seconds, and not a word on the error stream."""
    for _ in range(launch.storm(60)):
        with launch.Program("exits", way, server.server().url) as program:
            assert program.read_line() == "ending"
            started = time.monotonic()
            program.expect_end()
            assert time.monotonic() - started < 10.0
    server.check_alive()


def test_fault_23_G15x_clock_jumps() -> None:
    """The time of day jumps by an hour, both ways: nothing happens."""
    with launch.Program("serving", "faults", faults=True) as program:
        port = int(program.read_line())
        with wire.connect(("127.0.0.1", port)) as peer:
            for seconds in (3600, -3600, 0):
                program.tell(f"shift {seconds}")
                assert program.read_line() == '"ok"'
                peer.send_frame(wire.TEXT, b"what time is it?")
                frame = peer.read_frame()
                assert frame is not None
                assert frame.payload == b"what time is it?"
                # An opening handshake with its deadline; an idle moment for the timers.
                with wire.connect(("127.0.0.1", port)) as fresh:
                    time.sleep(0.1)
                    fresh.send_close()
                    assert fresh.read_frame() is not None
            peer.send_close()
            assert peer.read_frame() == wire.Frame(wire.CLOSE, b"\x03\xe8")
        program.tell("shutdown")
        program.read_line()
        program.expect_end()


def test_G16x_descriptors_beyond_1023() -> None:
    """Nothing here uses select(), which cannot name them."""
    assert launch.run("high_descriptors").splitlines() == ["done"]
