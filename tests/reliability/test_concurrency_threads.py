"""Group G, threads on one connection: G1x to G6x, and fault 8."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import syncws

from . import launch
from . import peer as wire
from .subject import Contexts, Outcome, Subject, collect, idle, settle

PATIENCE = 20.0


def echo_all(connection: Any) -> None:
    """A handler."""
    for message in connection:
        connection.send(message)


@pytest.fixture(params=["ws", "wss"])
def secure(request: pytest.FixtureRequest) -> bool:
    """Plain and over TLS."""
    return bool(request.param == "wss")


@pytest.fixture
def server(secure: bool, contexts: Contexts, warm: None) -> Iterator[syncws.ThreadingServer]:
    """An echo server."""
    context = contexts.server if secure else None
    with syncws.serve(echo_all, "127.0.0.1", 0, ssl=context, close_timeout=5) as server:
        yield server


@pytest.fixture
def connect(
    server: syncws.ThreadingServer, secure: bool, contexts: Contexts
) -> Callable[..., syncws.Connection]:
    """Opens a connection to it."""

    def open_one(**options: Any) -> syncws.Connection:
        return syncws.connect(server.url, ssl=contexts.client if secure else None, **options)

    return open_one


def run_all(functions: list[Callable[[], object]], within: float = PATIENCE) -> None:
    """Runs each in a thread; raises what the first of them raised."""
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + within
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"{thread} hangs; so far: {errors}"
    if errors:
        raise errors[0]


@pytest.mark.alone
@pytest.mark.timeout(launch.storm_timeout(60))
def test_fault_08_G1x_four_senders_one_receiver(connect: Callable[..., Any]) -> None:
    """Every byte of every message arrives, in its sender's order; a ping and a closer too."""
    # Each message is two operations here and two at the server.
    count = launch.storm(10_000_000 // 5) // 16
    expected = [hashlib.sha256() for _ in range(4)]
    received = [hashlib.sha256() for _ in range(4)]
    connection = connect()
    sending = threading.Semaphore(64)
    done = threading.Event()

    def send(number: int) -> None:
        source = random.Random(number)
        for _ in range(count):
            # Mostly small; some of several TLS records, some in several frames.
            size = source.choice([0, 1, 125, 126, 1000, 1000, 20_000])
            message = bytes([number]) + source.randbytes(size)
            expected[number].update(message)
            sending.acquire()
            connection.send(message, timeout=PATIENCE)

    def receive() -> None:
        for _ in range(4 * count):
            message = connection.recv(timeout=PATIENCE)
            received[message[0]].update(message)
            sending.release()
        done.set()

    def ping() -> None:
        while not done.wait(0.001):
            assert connection.ping().wait(PATIENCE)

    run_all([*(lambda n=n: send(n) for n in range(4)), receive, ping], launch.storm_timeout(50))
    assert [one.digest() for one in received] == [one.digest() for one in expected]
    connection.close()
    assert connection.close_code == 1000


def test_G2x_send_while_another_thread_receives(connect: Callable[..., Any]) -> None:
    """Whoever is blocked in ``recv()`` is in nobody's way."""
    connection = connect()
    received: list[Any] = []
    took: list[float] = []

    def receive() -> None:
        received.extend(connection.recv(timeout=PATIENCE) for _ in range(20))

    def send() -> None:
        for number in range(20):
            time.sleep(0.01)
            started = time.monotonic()
            connection.send(str(number))
            took.append(time.monotonic() - started)

    run_all([receive, send])
    assert received == [str(number) for number in range(20)]
    assert sorted(took)[len(took) // 2] < 0.05
    connection.close()


@pytest.mark.parametrize("subject", ["server-wss", "client-wss"], indirect=True)
@pytest.mark.parametrize("program", [collect, idle])
def test_G3x_records_that_the_selector_does_not_see(subject: Subject, program: Any) -> None:
    """Many frames in one TLS record, and one frame in many: none waits for the next read."""
    messages = [b"%d" % number for number in range(200)]
    data = b"".join(subject.frame(wire.BINARY, message) for message in messages)
    with subject.open(program) as conversation:
        connection = conversation.outcome.opened()
        conversation.peer.send(data)
        if program is idle:
            settle(lambda: connection.stats.messages_queued, len(messages))
            conversation.outcome.release.set()
        settle(lambda: conversation.outcome.messages, messages)
        # A record of the greatest size, one byte of it at a time.
        payload = os.urandom(16_000)
        conversation.peer.send(subject.frame(wire.BINARY, payload))
        settle(lambda: conversation.outcome.messages[len(messages) :], [payload])
        conversation.expect_normal_end()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_G3x_record_in_pieces(version: str, contexts: Contexts, warm: None) -> None:
    """A TLS record that comes byte by byte, with a wait in each: nothing stalls, and what
    TLS itself sends (tickets of 1.3) is not taken for a message."""
    with syncws.serve(echo_all, "127.0.0.1", 0, ssl=contexts.server) as server:
        with Dribble(server.socket.getsockname()) as dribble:
            context = contexts.client
            before = context.maximum_version
            context.maximum_version = getattr(ssl.TLSVersion, version.replace(".", "_"))
            try:
                connection = syncws.connect(f"wss://127.0.0.1:{dribble.port}/", ssl=context)
            finally:
                context.maximum_version = before
            for message in ("x", "y" * 1000):
                connection.send(message)
                assert connection.recv(timeout=PATIENCE) == message
            # The reader thread's turn.
            assert connection.ping().wait(PATIENCE)
            connection.close()
            assert connection.close_code == 1000


class Dribble:
    """A proxy that passes on one byte at a time, in both directions."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._listener = wire.Listener()
        self.port = self._listener.address[1]
        self._target = target
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Dribble:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def _accept(self) -> None:
        near, far = self._listener.accept_raw(), wire.dial(self._target)
        pairs = [(near, far), (far, near)]
        threads = [threading.Thread(target=self._copy, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        near.close()
        far.close()

    def _copy(self, source: wire.Peer, sink: wire.Peer) -> None:
        try:
            while data := source.sock.recv(4096):
                sink.send_bytewise(data)
        except OSError:
            pass
        sink.half_close()


# G4x: every order of sending, receiving, pinging, closing and aborting.


def schedule(connection: Any, peer_side: Any, source: random.Random) -> list[Callable[[], object]]:
    """Some threads, each with one thing to do with the connection, at a random moment."""
    text = "x" * source.choice([1, 100, 70_000])

    def receive() -> None:
        while True:
            connection.recv(timeout=PATIENCE)

    def send() -> None:
        for _ in range(3):
            connection.send(text, timeout=PATIENCE)

    choices: list[Callable[[], object]] = [
        receive,
        receive,
        send,
        send,
        lambda: connection.ping().wait(PATIENCE),
        lambda: connection.close(1000, "one"),
        lambda: connection.close(1001, "two"),
        lambda: connection.wait_closed(PATIENCE),
        lambda: peer_side.close(1000, "three"),
        peer_side.abort,
        connection.abort,
        lambda: list(connection),
        lambda: next(connection.recv_streaming(timeout=PATIENCE)),
        lambda: syncws.wait([connection], PATIENCE),
    ]
    chosen = source.choices(choices, k=source.randint(2, 7))
    # Otherwise nothing ends them.
    return [*chosen, lambda: connection.close(3000, "last")]


@pytest.mark.alone
@pytest.mark.timeout(launch.storm_timeout(60))
def test_G4x_close_races(connect: Callable[..., Any], server: Any) -> None:
    """Whatever happens in whichever order: every call returns or raises ConnectionClosed,
    in time, and all threads see the same end."""
    source = random.Random(4)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(launch.storm(100_000) // 4):
            connection = connect()
            (peer_side,) = wait_for_connection(server)
            ends: list[tuple[Any, ...]] = []
            calls = schedule(connection, peer_side, source)
            run_all([functools.partial(guarded, call, ends) for call in calls], within=10)
            assert connection.wait_closed(PATIENCE)
            final = (connection.close_code, connection.close_reason)
            assert {end for end in ends if end[0] is not None} <= {final}, (number, ends, final)
            settle(lambda: len(server.connections), 0, within=PATIENCE)
    finally:
        sys.setswitchinterval(interval)


def wait_for_connection(server: Any) -> set[Any]:
    """The server's side of the one connection there is."""
    settle(lambda: len(server.connections), 1)
    return set(server.connections)


def guarded(call: Callable[[], object], ends: list[tuple[Any, ...]]) -> None:
    """Calls at a random moment; only ConnectionClosed and StopIteration may come out."""
    for _ in range(random.randrange(200)):
        pass
    try:
        call()
    except syncws.ConnectionClosed as error:
        if error.rcvd is not None and error.sent is not None:
            ends.append((error.rcvd.code, error.rcvd.reason))
    except syncws.ConcurrencyError:
        # recv() while recv_streaming() is under way.
        pass


@pytest.mark.timeout(launch.storm_timeout(60))
def test_G4x_exactly_one_close_frame(subject: Subject) -> None:
    """However many threads close, and the peer too."""
    for number in range(launch.storm(2000)):
        ready = threading.Barrier(4)

        def close(connection: Any, outcome: Outcome, ready: Any = ready) -> None:
            def one(code: int) -> None:
                ready.wait(PATIENCE)
                connection.close(code, str(code))

            run_all([lambda code=code: one(code) for code in (3000, 3001, 3002)])
            outcome.messages.append(str(connection.close_code))

        with subject.open(close) as conversation:
            peer = conversation.peer
            ready.wait(PATIENCE)
            if number % 2:
                peer.send_close(4000)
                frames, first = peer.read_until_close()
            else:
                frames, first = peer.read_until_close()
                peer.send_close(4000)
            assert frames == []
            peer.half_close()
            # One is all.
            peer.expect_end()
            assert int.from_bytes(first.payload[:2]) in (3000, 3001, 3002, 4000)
            assert conversation.outcome.wait().messages == ["4000"]


# G5x, G6x: messages of many threads on one wire; short and interrupted transfers.


@pytest.mark.parametrize("threads", [16])
def test_G5x_many_senders_of_all_sizes(subject: Subject, threads: int) -> None:
    """The peer decodes every message exactly once, each thread's in order, and pings only
    between frames."""
    sizes = [1, 100, 5000, 70_000, 300_000]
    count = 12

    def send_all(connection: Any, outcome: Outcome) -> None:
        def send(number: int) -> None:
            source = random.Random(number)
            for index in range(count):
                body = bytes([number, index]) * source.choice(sizes)
                if index % 4 == 3:
                    cuts = (body[at : at + 50_000] for at in range(0, len(body), 50_000))
                    connection.send(cuts, timeout=PATIENCE)
                else:
                    connection.send(body, timeout=PATIENCE)
                connection.ping()

        run_all([lambda number=number: send(number) for number in range(threads)])
        collect(connection, outcome)

    with subject.open(send_all) as conversation:
        next_index = [0] * threads
        message = b""
        while sum(next_index) < threads * count:
            frame = conversation.peer.read_frame(PATIENCE)
            assert frame is not None
            if frame.opcode == wire.PING:
                continue
            assert (frame.opcode == wire.CONTINUATION) == bool(message)
            message += frame.payload
            if frame.fin:
                number, index = message[:2]
                assert message == bytes([number, index]) * (len(message) // 2)
                assert index == next_index[number]
                next_index[number] += 1
                message = b""
        conversation.peer.send_close()
        conversation.outcome.wait()


@pytest.mark.parametrize("most_bytes", [1, 7, 1000])
def test_G6x_short_and_interrupted_transfers(most_bytes: int) -> None:
    """Every transfer moves little, every third one is interrupted: byte-exact anyway."""
    with launch.Program("serving", "faults", faults=True) as program:
        port = int(program.read_line())
        with wire.connect(("127.0.0.1", port)) as peer:
            program.tell(f"transfers {most_bytes} 3")
            program.read_line()
            for size in (0, 1, 125, 126, 5000, min(200_000, 20_000 * most_bytes)):
                payload = os.urandom(size)
                peer.send_frame(wire.BINARY, payload)
                frame = peer.read_frame(PATIENCE)
                assert frame is not None
                assert frame.payload == payload, size
            peer.send_close()
            assert peer.read_frame() == wire.Frame(wire.CLOSE, b"\x03\xe8")
        program.expect_end()
