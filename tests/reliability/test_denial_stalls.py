"""Group D of the catalogue, peers that stall: D8, D9, D11 to D13, D15."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import statistics
import threading
import time
from typing import Any

import pytest

import syncws

from . import peer as wire
from .launch import storm
from .peer import Peer
from .subject import Contexts, Outcome, Subject, collect, idle, settle

MIB = 2**20


def little_room(peer: Peer) -> None:
    """The peer's kernel takes little, so that what it does not read soon backs up."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)


def much_room(peer: Peer) -> None:
    """It is going to read now."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)


# D8: peers that do not read.


def send_until_stuck(connection: Any, message: str, timeout: float = 0.3) -> tuple[int, str]:
    """How many messages were sent before one timed out, and what the timeout said."""
    for count in range(100_000):
        started = time.monotonic()
        try:
            connection.send(message, timeout=timeout)
        except TimeoutError as error:
            assert timeout - 0.05 < time.monotonic() - started < timeout + 1
            return count, str(error)
    raise AssertionError("the queue has no bound")


def test_fault_04_D8_send_times_out_and_the_connection_lives(subject: Subject) -> None:
    """Nothing of the refused message was sent: all that were accepted arrive, then more."""
    counts: list[int] = []

    def fill(connection: Any, outcome: Outcome) -> None:
        count, text = send_until_stuck(connection, "x" * 10_000)
        assert "can still be used" in text
        # What waits is bounded by write_limit.
        assert connection.stats.bytes_unsent <= MIB + 10_020
        counts.append(count)
        outcome.release.wait(wire.PATIENCE)
        connection.send("after the timeout", timeout=wire.PATIENCE)
        collect(connection, outcome)

    with subject.open(fill) as conversation:
        little_room(conversation.peer)
        settle(lambda: len(counts), 1, within=wire.PATIENCE)
        conversation.outcome.release.set()
        much_room(conversation.peer)
        for _ in range(counts[0]):
            frame = conversation.peer.read_frame()
            assert frame is not None
            assert len(frame.payload) == 10_000
        frame = conversation.peer.read_frame()
        assert frame is not None
        assert frame.payload == b"after the timeout"
        conversation.expect_normal_end()


def test_fault_04_D8_timeout_in_the_middle_of_a_message(subject: Subject) -> None:
    """A message that was cut cannot be continued: the connection is closed, and says so."""
    errors: list[BaseException] = []

    def fill(connection: Any, outcome: Outcome) -> None:
        with pytest.raises(TimeoutError, match="closed"):
            connection.send(b"x" * 32 * MIB, timeout=0.3)
        with pytest.raises(syncws.ConnectionClosedError) as caught:
            connection.send("x")
        errors.append(caught.value)
        assert connection.close_code == 1006
        collect(connection, outcome)

    with subject.open(fill) as conversation:
        little_room(conversation.peer)
        conversation.outcome.wait()
        assert isinstance(conversation.outcome.error, syncws.ConnectionClosedError)
        assert errors


@pytest.mark.parametrize("subject", ["server-ws", "server-wss"], indirect=True)
def test_D8_broadcast_waits_for_nobody(subject: Subject) -> None:
    """The peer that does not read misses messages; the other one gets all of them."""
    with subject.open(idle) as slow, subject.open(idle) as quick:
        little_room(slow.peer)
        connections = [slow.outcome.opened(), quick.outcome.opened()]
        dropped = 0
        for number in range(600):
            started = time.monotonic()
            skipped = syncws.broadcast(connections, f"{number:06}" + "x" * 20_000)
            assert time.monotonic() - started < 1
            assert connections[1] not in skipped
            dropped += len(skipped)
            assert connections[0].stats.bytes_unsent <= MIB + 20_020
            frame = quick.peer.read_frame()
            assert frame is not None
            assert int(frame.payload[:6]) == number
        assert dropped > 0
        # What the slow peer does get is whole, and in order.
        much_room(slow.peer)
        seen = []
        for _ in range(600 - dropped):
            frame = slow.peer.read_frame()
            assert frame is not None
            seen.append(int(frame.payload[:6]))
        assert seen == sorted(set(seen))
        for conversation in (slow, quick):
            conversation.outcome.release.set()
            conversation.expect_normal_end()


# D9: both send.


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("size", [32 * MIB, 65_536, 4096])
def test_fault_05_D9_both_send_before_they_read(
    scheme: str, size: int, contexts: Contexts, warm: None
) -> None:
    """32 MiB each way, as one message or as many: both finish."""
    count = 32 * MIB // size
    messages = [number.to_bytes(4) * (size // 4) for number in range(count)]
    expected = hashlib.sha256(b"".join(messages)).hexdigest()
    hashes: dict[str, str] = {}
    # So many that the queue's limit of messages would stop the reading.
    secure = scheme == "wss"

    def converse(name: str, connection: Any) -> None:
        for message in messages:
            connection.send(message, timeout=40)
        received = hashlib.sha256()
        for _ in range(count):
            received.update(connection.recv(timeout=40))
        hashes[name] = received.hexdigest()

    server = syncws.serve(
        lambda connection: converse("server", connection),
        "127.0.0.1",
        0,
        ssl=contexts.server if secure else None,
        ping_interval=2,
        ping_timeout=2,
    )
    with server:
        client = syncws.connect(server.url, ssl=contexts.client if secure else None)
        converse("client", client)
        client.close()
        assert server.shutdown() == []
    assert hashes == {"client": expected, "server": expected}


# D11, D12: too many peers, and those that do not finish their handshake.


def echo_all(connection: Any) -> None:
    """A handler."""
    for message in connection:
        connection.send(message)


def test_D11_max_connections(warm: None) -> None:
    """One too many is told 503; the others are served, and a place that is left is free."""
    with (
        syncws.serve(echo_all, "127.0.0.1", 0, max_connections=3) as server,
        contextlib.ExitStack() as stack,
    ):
        address = server.socket.getsockname()

        def status() -> int:
            with wire.dial(address) as peer:
                peer.send(wire.request(f"127.0.0.1:{address[1]}"))
                return wire.status_code(wire.read_head(peer))

        peers = [stack.enter_context(wire.connect(address)) for _ in range(3)]
        for _ in range(storm(400)):
            assert status() == 503
        for peer in peers:
            peer.send_frame(wire.TEXT, b"served")
            frame = peer.read_frame()
            assert frame is not None
            assert frame.payload == b"served"
        peers[0].send_close()
        peers[0].read_frames()
        peers[0].close()
        # Its handler needs a moment to end.
        settle(status, 101)


def dribble(peer: Peer, data: bytes, stop: threading.Event) -> None:
    """A byte every 50 ms, for as long as anybody listens."""
    with contextlib.suppress(OSError):
        for index in range(len(data)):
            peer.sock.sendall(data[index : index + 1])
            if stop.wait(0.05):
                return


LONG_REQUEST = wire.request("127.0.0.1:1", headers=[("X-Long", "x" * 4000)])


@pytest.mark.parametrize("what", ["nothing", "dribbled request", "dribbled TLS", "half a request"])
def test_D12_server_gives_up_at_open_timeout(what: str, contexts: Contexts, warm: None) -> None:
    """The time is a total: a byte now and then does not extend it."""
    secure = what == "dribbled TLS"
    stop = threading.Event()
    context = contexts.server if secure else None
    with syncws.serve(lambda ws: None, "127.0.0.1", 0, ssl=context, open_timeout=0.5) as server:
        started = time.monotonic()
        with wire.dial(server.socket.getsockname()) as peer:
            data = {
                "nothing": b"",
                "dribbled request": LONG_REQUEST,
                "dribbled TLS": client_hello(),
                "half a request": b"",
            }[what]
            if what == "half a request":
                peer.send(LONG_REQUEST[:100])
            thread = threading.Thread(target=dribble, args=(peer, data, stop))
            thread.start()
            peer.read_raw()
            assert 0.4 < time.monotonic() - started < 2.5
            stop.set()
            thread.join(wire.PATIENCE)
        settle(lambda: len(server.connections), 0)


def client_hello() -> bytes:
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("what", ["nothing", "dribbled response", "no TLS", "endless body"])
def test_D12_client_gives_up_at_open_timeout(what: str, contexts: Contexts, warm: None) -> None:
    """The same for a client: no server keeps it longer than it said."""
    stop = threading.Event()
    with wire.Listener() as listener:

        def serve() -> None:
            with listener.accept_raw() as peer:
                if what == "no TLS":
                    stop.wait(wire.PATIENCE)
                    return
                head = wire.read_head(peer)
                if what == "dribbled response":
                    dribble(peer, listener.response(head, [("X-Long", "x" * 4000)]), stop)
                elif what == "endless body":
                    peer.send(b"HTTP/1.1 404 Not Found\r\n\r\n")
                    dribble(peer, b"x" * 4000, stop)
                stop.wait(wire.PATIENCE)

        thread = threading.Thread(target=serve)
        thread.start()
        started = time.monotonic()
        expected = syncws.InvalidStatus if what == "endless body" else TimeoutError
        context = contexts.client if what == "no TLS" else None
        uri = listener.uri.replace("ws:", "wss:") if context is not None else listener.uri
        # The head of an answer without an end has to come in time.
        patience = 2.0 if what == "endless body" else 0.5
        with pytest.raises(expected):
            syncws.connect(uri, ssl=context, open_timeout=patience)
        assert patience - 0.1 < time.monotonic() - started < patience + 2
        stop.set()
        thread.join(wire.PATIENCE)


def test_D12_slow_openers_do_not_slow_the_others(warm: None) -> None:
    """Two hundred peers that dribble; the echo of a good one is as quick as ever."""
    with syncws.serve(echo_all, "127.0.0.1", 0) as server:
        address = server.socket.getsockname()
        before = threading.active_count()
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(wire.dial(address)) for _ in range(200)]
            good = stack.enter_context(wire.connect(address))
            latencies = []
            for index in range(500):
                slow[index % 200].send(LONG_REQUEST[index // 200 : index // 200 + 1])
                started = time.monotonic()
                good.send_frame(wire.TEXT, b"quick")
                assert good.read_frame() is not None
                latencies.append(time.monotonic() - started)
            assert statistics.median(latencies) < 0.05
            # No thread until the request is whole: that of the good one.
            assert threading.active_count() <= before + 1


# D13: peers that do not let go.


@pytest.mark.parametrize("manner", ["silent", "talking", "keeps TCP open"])
def test_D13_close_ends_at_close_timeout(subject: Subject, manner: str) -> None:
    """A peer never answers our close frame, or goes on sending, or holds on to TCP."""
    took: list[float] = []

    def leave(connection: Any, outcome: Outcome) -> None:
        started = time.monotonic()
        connection.close()
        took.append(time.monotonic() - started)
        assert not connection.connected
        collect(connection, outcome)

    # Our answer has to come in time.
    close_timeout = 2.0 if manner == "keeps TCP open" else 0.5
    with subject.open(leave, close_timeout=close_timeout) as conversation:
        peer = conversation.peer
        frame = peer.read_frame()
        assert frame is not None
        assert frame.opcode == wire.CLOSE
        if manner == "keeps TCP open":
            peer.send_close()
        deadline = time.monotonic() + wire.PATIENCE
        while not took and time.monotonic() < deadline:
            if manner == "talking":
                peer.send_frame(wire.BINARY, bytes(1000))
            time.sleep(0.002)
        assert took
        assert took[0] < close_timeout + 1
        code = 1000 if manner == "keeps TCP open" else 1006
        settle(lambda: conversation.outcome.wait().connection.close_code, code)
