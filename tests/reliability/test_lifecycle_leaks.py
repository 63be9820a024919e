"""Group G, what is left behind: nothing (G12x, G13x), addresses (G14x), C memory (G21x)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import pathlib
import socket
import ssl
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

import syncws

from . import launch
from . import peer as wire
from .subject import (
    Contexts,
    Outcome,
    Subject,
    collect,
    idle,
    open_descriptors,
    resident_bytes,
    settle,
)

CYCLES = launch.storm(10_000)

pytestmark = pytest.mark.timeout(launch.storm_timeout(60))


def echo_all(connection: Any) -> None:
    """A handler; one that says "raise" ends it."""
    for message in connection:
        if message == "raise":
            raise ValueError("on purpose")
        connection.send(message)


@contextlib.contextmanager
def leaves_nothing(per_cycle: int, cycles: int) -> Iterator[None]:
    """No thread, no descriptor, no object; memory that does not grow with the cycles."""
    gc.collect()
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    objects, memory = len(gc.get_objects()), resident_bytes()
    yield
    settle(lambda: open_descriptors() - descriptors, set())
    # A server keeps its handlers' threads for a minute; when cycles overlap it has two.
    settle(lambda: len(set(threading.enumerate()) - threads) <= 3, True)
    gc.collect()
    # Caches of the interpreter may take some; a leak takes one a cycle at least. A tracer
    # (coverage) keeps four for each name that is looked up; without one there are none,
    # so this file runs without one, too (tox.ini).
    traced = 8 * cycles if sys.gettrace() is not None else 0
    assert len(gc.get_objects()) - objects < cycles // 2 + traced
    # The allocator's fragments, once, and the catalogue's bound.
    assert resident_bytes() - memory < 2 * 2**20 + per_cycle * cycles


@pytest.fixture(params=["ws", "wss"])
def secure(request: pytest.FixtureRequest) -> bool:
    """Plain and over TLS."""
    return bool(request.param == "wss")


def test_G12x_connect_echo_close(secure: bool, contexts: Contexts, warm: None) -> None:
    """The good path, both ends in this process."""
    with syncws.serve(echo_all, "127.0.0.1", 0, ssl=contexts.server if secure else None) as server:

        def cycle() -> None:
            with syncws.connect(server.url, ssl=contexts.client if secure else None) as connection:
                connection.send("x")
                assert connection.recv(timeout=5) == "x"

        for _ in range(50):
            cycle()
        settle(lambda: len(server.connections), 0)
        with leaves_nothing(50, CYCLES):
            for _ in range(CYCLES):
                cycle()
            settle(lambda: len(server.connections), 0)


def failing(kind: str, listener: wire.Listener, contexts: Contexts) -> Callable[[], object]:
    """One attempt that fails in the way of ``kind``."""
    stranger = ssl.create_default_context(cadata=trustme.CA().cert_pem.bytes().decode())
    secure = listener.uri.replace("ws:", "wss:")

    def attempt(expected: type[BaseException], uri: str, **options: Any) -> None:
        with pytest.raises(expected):
            syncws.connect(uri, **options)

    return {
        "refused certificate": lambda: attempt(ssl.SSLError, secure, ssl=stranger),
        "unknown name": lambda: attempt(OSError, "ws://nowhere.invalid/"),
        "404": lambda: attempt(syncws.InvalidStatus, listener.uri),
        "reset": lambda: attempt(ConnectionError, listener.uri),
        "end": lambda: attempt(syncws.InvalidMessage, listener.uri),
        "wrong accept": lambda: attempt(syncws.InvalidHandshake, listener.uri),
        "timeout": lambda: attempt(TimeoutError, listener.uri, open_timeout=0.005),
        "refused": lambda: attempt(ConnectionRefusedError, "ws://127.0.0.1:1/"),
        "bad argument": lambda: attempt(ValueError, listener.uri, origin="a\r\nb"),
        "loop": lambda: attempt(syncws.RedirectError, listener.uri),
        "proxy": lambda: attempt(
            syncws.ProxyError, "ws://name.invalid/", proxy=listener.uri.replace("ws:", "http:")
        ),
        "SOCKS proxy": lambda: attempt(
            syncws.ProxyError, "ws://name.invalid/", proxy=listener.uri.replace("ws:", "socks5h:")
        ),
    }[kind]


def unknown(*arguments: Any, **options: Any) -> None:
    """``socket.getaddrinfo()`` without a network."""
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def answer(kind: str, peer: wire.Peer) -> None:
    """What the other side does for :func:`failing`."""
    if kind == "timeout":
        peer.read_raw()
        return
    if kind == "SOCKS proxy":
        peer.send(b"\5\xff")
        peer.read_raw()
        return
    head = wire.read_head(peer)
    if kind in ("404", "proxy"):
        peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
    elif kind == "loop":
        peer.send(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
    elif kind == "reset":
        peer.reset()
    elif kind == "wrong accept":
        key = wire.header_values(head, "Sec-WebSocket-Key")[0].encode()
        accept = wire.accept_value(key + b"x").decode()
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
        )


@pytest.mark.parametrize(
    "kind",
    [
        "refused certificate",
        "unknown name",
        "404",
        "reset",
        "end",
        "wrong accept",
        "timeout",
        "refused",
        "bad argument",
        "loop",
        "proxy",
        pytest.param(
            "SOCKS proxy",
            marks=pytest.mark.skipif(
                (3, 13) <= sys.version_info < (3, 13, 2),
                reason="functools.singledispatchmethod leaks there, which python-socks uses",
            ),
        ),
    ],
)
def test_G12x_failed_connects(
    kind: str, contexts: Contexts, warm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way for ``connect()`` to fail."""
    threads = set(threading.enumerate())
    if kind == "unknown name":
        # What the resolver says to most names; asking a real one may take seconds.
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    cycles = CYCLES // 5 if kind in ("timeout", "refused certificate") else CYCLES
    with wire.Listener(contexts.server if kind == "refused certificate" else None) as listener:
        attempt = failing(kind, listener, contexts)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with contextlib.suppress(ssl.SSLError, ConnectionError):
                        with listener.accept_raw() as peer, contextlib.suppress(AssertionError):
                            answer(kind, peer)

        listener.sock.settimeout(None)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for _ in range(20):
            attempt()
        with leaves_nothing(50, cycles):
            for _ in range(cycles):
                attempt()
        listener.sock.shutdown(socket.SHUT_RDWR)
        thread.join(wire.PATIENCE)
    # Those that look names up are kept, as a server's handlers are.
    settle(lambda: len(set(threading.enumerate()) - threads) <= 1, True)


@pytest.mark.parametrize(
    "kind", ["reset", "handler raises", "no close", "bad request", "violation"]
)
def test_G12x_failed_connections_of_a_server(
    kind: str, warm: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Every way for a client to go wrong."""
    cycles = CYCLES // 2
    caplog.set_level("CRITICAL", "syncws")
    with syncws.serve(echo_all, "127.0.0.1", 0) as server:
        address = server.socket.getsockname()

        def cycle() -> None:
            if kind == "bad request":
                with wire.dial(address) as peer:
                    peer.send(b"GET / HTTP/1.1\r\n\r\n")
                    peer.read_raw()
                return
            with wire.connect(address) as peer:
                if kind == "reset":
                    peer.reset()
                elif kind == "handler raises":
                    peer.send_frame(wire.TEXT, b"raise")
                    peer.read_until_close()
                elif kind == "violation":
                    peer.send_frame(3)
                    peer.read_until_close()

        for _ in range(50):
            cycle()
        settle(lambda: len(server.connections), 0)
        with leaves_nothing(50, cycles):
            for _ in range(cycles):
                cycle()
            settle(lambda: len(server.connections), 0)


@pytest.mark.parametrize("subject", ["client-ws", "client-wss"], indirect=True)
@pytest.mark.parametrize("used", [False, True])
def test_G13x_dropped_connection_is_freed_and_closed(subject: Subject, used: bool) -> None:
    """Without the collector: the last reference is enough, and the peer is told 1001."""
    found: list[weakref.ref[Any]] = []

    def drop(connection: Any, outcome: Outcome) -> None:
        outcome.connection = None
        found.append(weakref.ref(connection))
        if used:
            connection.send("x")
            assert connection.recv(timeout=5) == "x"
            assert connection.ping().wait(5)
            with pytest.raises(TimeoutError):
                connection.recv(timeout=0.01)

    gc.disable()
    try:
        outcome = Outcome()
        # Once: two threads would make two.
        listener = subject.listener

        def run() -> None:
            connection = syncws.connect(
                listener.uri, ssl=None if subject.tls is None else subject.tls.client
            )
            drop(connection, outcome)

        thread = threading.Thread(target=run)
        thread.start()
        with listener.accept() as peer:
            if used:
                frame = peer.read_frame()
                assert frame is not None
                peer.send_frame(frame.opcode, frame.payload)
                ping = peer.read_frame()
                assert ping is not None
                peer.send_frame(wire.PONG, ping.payload)
            thread.join(wire.PATIENCE)
            assert [reference() for reference in found] == [None]
            _, close = peer.read_until_close()
            assert close.payload == wire.close_payload(1001)
            peer.send_close(1001)
    finally:
        gc.enable()


def test_G13x_closed_connection_is_freed(subject: Subject) -> None:
    """After a normal end too, in both roles."""
    gc.disable()
    try:
        with subject.open(collect) as conversation:
            reference = weakref.ref(conversation.outcome.opened())
            conversation.expect_normal_end()
            conversation.outcome.connection = None
            # Its exception's traceback holds the program's frames.
            conversation.outcome.error = None
            settle(lambda: reference() is None, True)
    finally:
        gc.enable()


def test_G14x_reuse_port(warm: None) -> None:
    """Two servers on one port, if both ask for it; otherwise a clear error."""
    with syncws.serve(echo_all, "127.0.0.1", 0, reuse_port=True) as first:
        port = first.socket.getsockname()[1]
        with syncws.serve(echo_all, "127.0.0.1", port, reuse_port=True):
            pass
        with pytest.raises(OSError, match="in use"):
            syncws.serve(echo_all, "127.0.0.1", port)
    # TIME_WAIT of the connections does not keep the port.
    for _ in range(3):
        with syncws.serve(echo_all, "127.0.0.1", port) as server:
            with syncws.connect(server.url) as connection:
                connection.send("x")
                assert connection.recv(timeout=5) == "x"
            server.shutdown()


def test_G14x_unix_sockets(tmp_path: pathlib.Path, warm: None) -> None:
    """A stale socket is replaced, a used one is not, a long path is refused clearly."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with syncws.unix_serve(echo_all, path):
        with syncws.unix_connect(path) as connection:
            connection.send("x")
            assert connection.recv(timeout=5) == "x"
        with pytest.raises(OSError, match="in use"):
            syncws.unix_serve(echo_all, path)
        assert path.exists()
    assert not path.exists()
    with pytest.raises(OSError, match="too long"):
        syncws.unix_serve(echo_all, tmp_path / ("x" * 200))


def test_G14x_ipv6(warm: None) -> None:
    """An address in brackets, both sides."""
    with syncws.serve(echo_all, "::1", 0) as server, syncws.connect(server.url) as connection:
        assert server.url.startswith("ws://[::1]:")
        connection.send("x")
        assert connection.recv(timeout=5) == "x"


def test_G21x_unfinished_messages_and_full_queues_are_freed(subject: Subject) -> None:
    """What C holds when a connection ends in the middle of everything goes with it."""
    big = subject.frame(wire.BINARY, bytes(2**20))

    def cycle() -> None:
        with subject.open(idle) as conversation:
            connection = conversation.outcome.opened()
            # A message that never ends, in; a queue that nobody empties, out.
            conversation.peer.send(big[:-1])
            for _ in range(64):
                connection.try_send(bytes(60_000), 2)
            settle(lambda: connection.stats.bytes_received > 2**19, True)
            conversation.peer.reset()

    def resident() -> int:
        # Tracebacks of the program's exceptions hold connections in reference cycles, and
        # the allocator keeps what it has for the next time.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return resident_bytes()

    for _ in range(10):
        cycle()
    before, cycles = resident(), launch.storm(600)
    for _ in range(cycles):
        cycle()
    # Each holds about 2 MiB; what the allocator cannot return is far from that.
    assert resident() - before < cycles * 2**20 // 2


def test_G21x_development_mode(warm: None) -> None:
    """``python -X dev``: no warning, nothing unclosed, no complaint of the allocator."""
    with syncws.serve(echo_all, "127.0.0.1", 0) as server:
        environment = ("-X", "dev", "-W", "error")
        for way in ("open client", "open server", "dropped client"):
            with launch.Program("exits", way, server.url, options=environment) as program:
                program.expect_end()
