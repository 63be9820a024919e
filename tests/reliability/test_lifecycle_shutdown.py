"""Group G, the end of a server: G19x, in every state and from everywhere."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import syncws

from . import peer as wire
from .subject import Contexts, Outcome, collect, settle

CLOSE_TIMEOUT = 0.5
# close_timeout and a second.
BOUND = CLOSE_TIMEOUT + 1.0


@pytest.fixture(autouse=True)
def many_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty at once may need more than half a second to notice that they were aborted."""
    monkeypatch.setattr("syncws.serving.GRACE", 3.0)


def receive_all(connection: Any) -> None:
    """A handler."""
    collect(connection, Outcome())


def serve(handler: Callable[[Any], object] = receive_all, **options: Any) -> Any:
    """A server that serves."""
    server = syncws.serve(handler, "127.0.0.1", 0, close_timeout=CLOSE_TIMEOUT, **options)
    server.start()
    return server


def shut_down(server: Any, **options: Any) -> list[Any]:
    """Shuts down, in time."""
    started = time.monotonic()
    stuck: list[Any] = server.shutdown(**options)
    assert time.monotonic() - started < BOUND
    return stuck


@pytest.mark.parametrize("manner", ["answers", "silent", "floods"])
@pytest.mark.parametrize("count", [1, 50])
def test_G19x_peers_are_told_1001(manner: str, count: int, warm: None) -> None:
    """All at the same time: many take no longer than one."""
    server = serve()
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(wire.connect(server.socket.getsockname())) for _ in range(count)
        ]
        settle(lambda: len(server.connections), count)
        stop = threading.Event()

        def act() -> None:
            for peer in peers:
                if manner == "answers":
                    _, close = peer.read_until_close()
                    assert close.payload == wire.close_payload(1001)
                    peer.send_close(1001)
                    peer.close()
            while manner == "floods" and not stop.is_set():
                for peer in peers:
                    peer.send_frame(wire.BINARY, bytes(1000))

        thread = threading.Thread(target=act)
        thread.start()
        assert shut_down(server) == []
        stop.set()
        thread.join(wire.PATIENCE)
        if manner == "silent":
            for peer in peers:
                _, close = peer.read_until_close()
                assert close.payload == wire.close_payload(1001)
        assert server.connections == set()


@pytest.mark.parametrize("sent", [0, 1, 40])
@pytest.mark.parametrize("secure", [False, True])
def test_G19x_during_opening_handshakes(
    sent: int, secure: bool, contexts: Contexts, warm: None
) -> None:
    """Peers in the middle of their request are told 503, those in TLS are closed."""
    server = serve(ssl=contexts.server if secure else None)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(wire.dial(server.socket.getsockname())) for _ in range(20)]
        for peer in peers:
            peer.send(wire.request("127.0.0.1:1")[:sent])
        # Whom the kernel alone has accepted nobody tells anything; TLS ends a whole line of HTTP.
        settle(lambda: len(server._openings), 0 if secure and sent == 40 else 20)
        assert shut_down(server) == []
        for peer in peers:
            if secure:
                assert not peer.read_raw().startswith(b"HTTP")
            else:
                assert wire.status_code(wire.read_head(peer)) == 503


def test_G19x_twice_and_from_many_threads(warm: None) -> None:
    """Each call returns; the later ones find nothing to do."""
    server = serve()
    with wire.connect(server.socket.getsockname()):
        settle(lambda: len(server.connections), 1)
        threads = [threading.Thread(target=server.shutdown) for _ in range(5)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(wire.PATIENCE)
            assert not thread.is_alive()
        assert time.monotonic() - started < BOUND + 1
    assert shut_down(server) == []
    with pytest.raises(RuntimeError):
        server.start()


def test_G19x_before_it_serves(warm: None) -> None:
    """Nothing to end but the listening socket."""
    server = syncws.serve(receive_all, "127.0.0.1", 0)
    assert server.shutdown() == []
    assert server.fileno() == -1


def test_G19x_from_a_handler(warm: None) -> None:
    """It does not wait for itself; its own connection is closed, too."""
    results: list[Any] = []

    def end(connection: Any) -> None:
        connection.recv()
        results.append(shut_down(server))

    server = serve(end)
    with (
        wire.connect(server.socket.getsockname()) as other,
        wire.connect(server.socket.getsockname()) as peer,
    ):
        settle(lambda: len(server.connections), 2)
        peer.send_frame(wire.TEXT, b"end")
        for one in (peer, other):
            _, close = one.read_until_close()
            assert close.payload == wire.close_payload(1001)
            one.send_close(1001)
            one.close()
        settle(lambda: results, [[]], within=BOUND + 1)
    assert server.shutdown() == []


def test_G19x_from_a_signal_handler(warm: None) -> None:
    """``serve_forever()`` in the main thread, and a signal that ends it."""
    server = serve()

    def end(number: int, frame: object) -> None:
        shut_down(server)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        with wire.connect(server.socket.getsockname()) as peer:
            settle(lambda: len(server.connections), 1)
            timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            server.serve_forever()
            timer.join()
            _, close = peer.read_until_close()
            assert close.payload == wire.close_payload(1001)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_G19x_code_and_reason(warm: None) -> None:
    """Instead of 1001, if asked for; a wrong one is refused before anything is closed."""
    server = serve()
    with wire.connect(server.socket.getsockname()) as peer:
        settle(lambda: len(server.connections), 1)
        for code in (999, 1005, 1006, 1015):
            with pytest.raises(ValueError, match="code"):
                server.shutdown(code=code)
        with pytest.raises(ValueError, match="reason"):
            server.shutdown(reason="x" * 124)
        assert len(server.connections) == 1
        shut_down(server, code=1012, reason="back soon")
        _, close = peer.read_until_close()
        assert close.payload == wire.close_payload(1012, b"back soon")


def test_G19x_timeout_of_nothing(warm: None) -> None:
    """``timeout=0``: no closing handshake is waited for, whatever ``close_timeout`` says."""
    server = syncws.serve(receive_all, "127.0.0.1", 0, close_timeout=60)
    server.start()
    with wire.connect(server.socket.getsockname()):
        settle(lambda: len(server.connections), 1)
        started = time.monotonic()
        server.shutdown(timeout=0)
        assert time.monotonic() - started < 1
