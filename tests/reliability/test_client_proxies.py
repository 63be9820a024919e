"""Group F of the catalogue, proxies that fail at any moment: F6c, F7c, F8c."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

import syncws

from . import peer as wire
from .subject import Outcome, Subject, collect, no_trace

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n"
REFUSED = b"HTTP/1.1 407 No\r\nContent-Length: 4\r\n\r\nno!\n"
METHOD, PASSWORD, CONNECTED = b"\5\2", b"\1\0", b"\5\0\0\3\4host\0\0"
SOCKS = METHOD + PASSWORD + CONNECTED
# How long what the client says before each of these is, for name.invalid, a user and a password.
SOCKS_REQUESTS = [4, 3 + 4 + 8, 4 + 1 + 12 + 2]


@pytest.fixture
def proxy(warm: None, caplog: pytest.LogCaptureFixture) -> Iterator[Subject]:
    """A client, whose listener plays the proxy."""
    with no_trace(caplog):
        subject = Subject("client", None)
        try:
            yield subject
        finally:
            subject.close()


def start(proxy: Subject, scheme: str, **options: object) -> Outcome:
    """Connects by way of the listener."""
    address = proxy.listener.uri.replace("ws://", f"{scheme}://user:password@")
    return proxy.start_client(collect, "ws://name.invalid/", proxy=address, **options)


def read_exactly(peer: wire.Peer, size: int) -> None:
    """What the client has to say before it goes on."""
    while size > 0:
        data = peer.sock.recv(size)
        assert data
        size -= len(data)


def talk_socks(peer: wire.Peer, replies: bytes) -> None:
    """Gives as much of the replies as there is, each when it is due."""
    sizes = [len(METHOD), len(PASSWORD), len(CONNECTED)]
    for request_size, size in zip(SOCKS_REQUESTS, sizes, strict=True):
        read_exactly(peer, request_size)
        peer.send_bytewise(replies[:size])
        replies = replies[size:]
        if not replies:
            return


def end(peer: wire.Peer, way: str) -> None:
    """Of the connection: a reset, or a FIN that no reset follows.

    What the client says next may be under way: a socket closed over it resets the connection.
    """
    if way == "RST":
        peer.reset()
        return
    peer.half_close()
    peer.read_raw()
    peer.close()


@pytest.mark.parametrize("way", ["FIN", "RST"])
@pytest.mark.parametrize("reply", [ESTABLISHED, REFUSED], ids=["200", "407"])
def test_F6c_a_reply_cut_at_every_byte(proxy: Subject, reply: bytes, way: str) -> None:
    head_size = reply.index(b"\r\n\r\n") + 4
    for offset in range(len(reply)):
        outcome = start(proxy, "http")
        peer = proxy.listener.accept_raw()
        wire.read_head(peer)
        peer.send(reply[:offset])
        end(peer, way)
        error = outcome.wait().error
        if reply is REFUSED and offset >= head_size:
            assert isinstance(error, syncws.ProxyError)
            assert error.response is not None
            assert error.response.truncated
        elif isinstance(error, OSError):
            assert way == "RST"
            assert not isinstance(error, TimeoutError)
        else:
            assert isinstance(error, syncws.ProxyError), repr(error)
            assert error.response is None


@pytest.mark.parametrize("way", ["FIN", "RST"])
def test_F8c_replies_cut_at_every_byte(proxy: Subject, way: str) -> None:
    for offset in range(len(SOCKS)):
        outcome = start(proxy, "socks5h")
        peer = proxy.listener.accept_raw()
        talk_socks(peer, SOCKS[:offset])
        end(peer, way)
        error = outcome.wait().error
        if isinstance(error, OSError):
            assert way == "RST"
            assert not isinstance(error, TimeoutError)
        else:
            assert isinstance(error, syncws.ProxyError), repr(error)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_F7c_a_proxy_that_falls_silent_at_any_byte(proxy: Subject, scheme: str) -> None:
    """All at once: each has its own deadline."""
    replies = ESTABLISHED if scheme == "http" else SOCKS
    started = time.monotonic()
    peers, outcomes = [], []
    for offset in range(0, len(replies), 1 if scheme == "socks5h" else 5):
        outcomes.append(start(proxy, scheme, open_timeout=1.0))
        peers.append(proxy.listener.accept_raw())
        if scheme == "http":
            wire.read_head(peers[-1])
            peers[-1].send(replies[:offset])
        else:
            talk_socks(peers[-1], replies[:offset])
    for outcome in outcomes:
        error = outcome.wait().error
        assert isinstance(error, TimeoutError), repr(error)
        assert "open_timeout=1.0 s" in str(error)
    assert time.monotonic() - started < 10
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
def test_F7c_an_interrupt_while_a_proxy_is_silent(
    warm: None, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    """Ctrl-C takes effect at once, and nothing is left open."""
    with no_trace(caplog), wire.Listener() as listener:
        address = listener.uri.replace("ws:", f"{scheme}:")
        peers: list[wire.Peer] = []
        interrupted: list[float] = []

        def interrupt() -> None:
            peers.append(listener.accept_raw())
            time.sleep(0.3)  # by then it waits for the proxy's first byte
            interrupted.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            syncws.connect("ws://name.invalid/", proxy=address, open_timeout=None)
        thread.join()
        assert time.monotonic() - interrupted[0] < 5
        with peers[0] as peer:
            peer.read_raw()


def test_F7c_a_tunnel_that_closes_in_the_handshake(proxy: Subject) -> None:
    """Is not the proxy's refusal any more: the server may have hung up."""
    outcome = start(proxy, "http")
    with proxy.listener.accept_raw() as peer:
        wire.read_head(peer)
        peer.send(ESTABLISHED)
        request = wire.read_head(peer)
        assert request.startswith(b"GET / HTTP/1.1\r\n")
        assert b"Proxy" not in request
        assert b"Authorization" not in request
    assert isinstance(outcome.wait().error, syncws.InvalidMessage)


def test_F7c_a_connection_lives_in_a_tunnel(proxy: Subject) -> None:
    """Messages, the closing handshake and its bound as without a proxy."""
    outcome = start(proxy, "socks5h")
    with proxy.listener.accept_raw() as peer:
        talk_socks(peer, SOCKS)
        head = wire.read_head(peer)
        peer.send(proxy.listener.response(head) + wire.frame(wire.TEXT, b"one"))
        ws = outcome.opened()
        assert ws.remote_address == proxy.listener.address
        peer.send_frame(wire.PING, b"still there?")
        frame = peer.read_frame()
        assert frame is not None
        assert (frame.opcode, frame.payload) == (wire.PONG, b"still there?")
        peer.send_close(1000)
        peer.read_until_close()
        peer.half_close()
        outcome.wait()
    assert outcome.messages == ["one"]
    assert isinstance(outcome.error, syncws.ConnectionClosedOK)
