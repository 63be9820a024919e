"""The reader thread's part of the server's opening handshake."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from talking import PATIENCE, RawClient, wait_until
from upgrading import request

from syncws import opening as module
from syncws import reader
from syncws.handshake import error_response
from syncws.opening import Opening
from syncws.reader import Reader
from syncws.workers import Workers


class Server:
    """Turns every accepted socket into an opening, and notes what becomes of it."""

    def __init__(
        self, context: ssl.SSLContext | None = None, open_timeout: float | None = PATIENCE
    ) -> None:
        self.context = context
        self.open_timeout = open_timeout
        self.reader = Reader("test-reader")
        self.workers = Workers("test-tls", limit=4)
        self.admitted: list[Opening] = []
        self.ended: list[Opening] = []
        self.openings: list[Opening] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        reader.failures.clear()

    def connect(self, context: ssl.SSLContext | None = None) -> RawClient:
        """A raw client that the server has accepted."""
        sock = socket.create_connection(self.listener.getsockname())
        accepted, _ = self.listener.accept()
        self.begin(accepted)
        return RawClient(sock, context)

    def begin(self, sock: socket.socket) -> Opening:
        opening = Opening(
            sock,
            reader=self.reader,
            context=self.context,
            tls_workers=self.workers,
            open_timeout=self.open_timeout,
            admit=self.admitted.append,
            ended=self.ended.append,
        )
        self.openings.append(opening)
        self.call(opening.start)
        return opening

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Runs a function in the reader thread and waits for it."""
        done = threading.Event()
        self.reader.call_soon(function, *arguments)
        self.reader.call_soon(done.set)
        assert done.wait(PATIENCE)

    def close(self) -> None:
        for opening in self.openings:
            self.call(opening.close)
        self.workers.close()
        self.workers.join(PATIENCE)
        self.reader.close()
        self.listener.close()
        assert list(reader.failures) == []


@pytest.fixture
def server(nothing_left: Callable[[], None]) -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def tls_server(
    server_context: ssl.SSLContext, nothing_left: Callable[[], None]
) -> Iterator[Server]:
    server = Server(server_context)
    yield server
    server.close()


def test_a_request_is_admitted(server: Server) -> None:
    with server.connect() as raw:
        raw.send(request() + b"early")
        wait_until(lambda: bool(server.admitted))
        [opening] = server.admitted
        assert opening.request is not None
        assert opening.request.headers["Host"] == "example.com"
        assert opening.early_data == b"early"
        assert opening.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert opening.transport.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert server.ended == []
        assert opening.deadline is not None


def test_a_request_byte_by_byte(server: Server) -> None:
    with server.connect() as raw:
        for byte in request():
            raw.send(bytes([byte]))
        wait_until(lambda: bool(server.admitted))


def test_without_a_timeout(server: Server) -> None:
    server.open_timeout = None
    with server.connect() as raw:
        raw.send(request())
        wait_until(lambda: bool(server.admitted))
        assert server.admitted[0].deadline is None


def test_a_unix_socket(server: Server) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        server.begin(ours)
        theirs.sendall(request())
        wait_until(lambda: bool(server.admitted))


REFUSALS = [
    ("POST / HTTP/1.1", {}, 405),
    ("GET / HTTP/1.0", {}, 505),
    ("GET / HTTP/2.0", {}, 505),
    ("GET /", {}, 400),
    ("GET /" + "x" * 9000 + " HTTP/1.1", {}, 414),
    ("GET / HTTP/1.1", {"Upgrade": None}, 426),
    ("GET / HTTP/1.1", {"Sec_WebSocket_Version": "8"}, 426),
    ("GET / HTTP/1.1", {"Sec_WebSocket_Key": "short"}, 400),
    ("GET / HTTP/1.1", {"Host": None}, 400),
    ("GET / HTTP/1.1", {"X_Long": "x" * 9000}, 431),
]


@pytest.mark.parametrize(("line", "changes", "status"), REFUSALS)
@pytest.mark.parametrize("more", [b"", b"more", b"x" * 100_000])
def test_a_bad_request_is_answered_before_the_end(
    server: Server, line: str, changes: dict[str, Any], status: int, more: bytes
) -> None:
    """Also if the peer goes on sending: its answer is not lost in a reset."""
    with server.connect() as raw:
        raw.send(request(line, **changes) + more)
        raw.expect_refusal(status)
    wait_until(lambda: bool(server.ended))
    assert server.admitted == []


def test_a_refusal_over_tls(tls_server: Server, client_context: ssl.SSLContext) -> None:
    with tls_connect(tls_server, client_context) as raw:
        raw.send(request("POST / HTTP/1.1"))
        raw.expect_refusal(405)
    wait_until(lambda: bool(tls_server.ended))


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
@pytest.mark.parametrize("reset", [False, True])
def test_e19_a_peer_that_leaves(server: Server, sent: bytes, reset: bool) -> None:
    with server.connect() as raw:
        raw.send(sent)
        if reset:
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: bool(server.ended))
    assert server.admitted == []


@pytest.mark.parametrize("dribble", [False, True])
def test_d12_a_peer_that_takes_too_long(server: Server, dribble: bool) -> None:
    server.open_timeout = 0.3
    started = time.monotonic()
    with server.connect() as raw:
        if dribble:
            # Until the answer is there: bytes for which it is closed already bring a reset.
            while not select.select([raw.sock], [], [], 0.02)[0]:
                raw.send(b"G")
            raw.expect_refusal(408)
        else:
            assert raw.sock.recv(100) == b"", "nothing was asked, so nothing is answered"
        wait_until(lambda: bool(server.ended))
        assert 0.2 < time.monotonic() - started < PATIENCE


def test_d12_peers_that_dribble_cost_no_thread(server: Server) -> None:
    server.call(len, ())
    before = threading.enumerate()
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(server.connect()).send(b"GET / HTTP/1.1\r\nHost: ")
        # Those of other tests may end meanwhile.
        assert set(threading.enumerate()) <= set(before)


def test_a_peer_gone_before_it_begins(server: Server) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    server.begin(ours)
    wait_until(lambda: bool(server.ended))


def test_no_transport_before_there_is_one(server: Server) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        opening = Opening(
            ours,
            reader=server.reader,
            context=None,
            tls_workers=server.workers,
            open_timeout=None,
            admit=server.admitted.append,
            ended=server.ended.append,
        )
        with pytest.raises(RuntimeError, match="not begun"):
            _ = opening.transport


# -- turning away -----------------------------------------------------------------

FAREWELL = error_response(503, "Not now.")


@pytest.mark.parametrize("open_timeout", [None, PATIENCE])
def test_turning_away_in_the_middle_of_a_request(
    server: Server, open_timeout: float | None
) -> None:
    server.open_timeout = open_timeout
    with server.connect() as raw:
        raw.send(b"GET / HTTP/1.1\r\n")
        server.call(server.openings[0].turn_away, FAREWELL)
        raw.expect_refusal(503)
    wait_until(lambda: bool(server.ended))
    server.call(server.openings[0].turn_away, FAREWELL)  # too late, and harmless
    assert len(server.ended) == 1


def test_a_peer_that_does_not_leave_is_left(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAREWELL_TIME", PATIENCE)
    with server.connect() as raw:
        started = time.monotonic()
        server.call(server.openings[0].turn_away, FAREWELL, 60.0)
        raw.expect_refusal(503)
        assert server.ended == []
        # Impatience may come later.
        server.call(server.openings[0].turn_away, FAREWELL, 0.2)
        wait_until(lambda: bool(server.ended))
        assert time.monotonic() - started < 5
        assert raw.sock.recv(100) == b""


def test_a_peer_that_does_not_read_the_answer(server: Server) -> None:
    body = error_response(503, "x")
    body.body = b"x" * 20_000_000
    with server.connect() as raw:
        server.call(server.openings[0].turn_away, body, 60.0)
        assert server.ended == []
        assert len(raw.receive_rest()) > 20_000_000
    wait_until(lambda: bool(server.ended))


def test_a_peer_that_resets_while_it_is_answered(server: Server) -> None:
    body = error_response(503, "x")
    body.body = b"x" * 20_000_000
    with server.connect() as raw:
        server.call(server.openings[0].turn_away, body, 60.0)
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: bool(server.ended))


def test_a_peer_that_resets_after_the_answer(server: Server) -> None:
    with server.connect() as raw:
        server.call(server.openings[0].turn_away, FAREWELL, 60.0)
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: bool(server.ended))


def test_e3_a_peer_that_never_stops_sending(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAREWELL_BYTES", 1_000_000)
    monkeypatch.setattr(module, "_TURN", 1)
    with server.connect() as raw:
        server.call(server.openings[0].turn_away, FAREWELL, 60.0)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(500):
                raw.send(b"x" * 65536)
        wait_until(lambda: bool(server.ended))


# -- TLS --------------------------------------------------------------------------


def tls_connect(server: Server, context: ssl.SSLContext) -> RawClient:
    return server.connect(context)


def test_tls(tls_server: Server, client_context: ssl.SSLContext) -> None:
    with tls_connect(tls_server, client_context) as raw:
        raw.send(request() + b"early")
        wait_until(lambda: bool(tls_server.admitted))
        assert tls_server.admitted[0].early_data == b"early"
        assert tls_server.admitted[0].transport.tls is not None


def test_a_request_that_comes_with_the_end_of_the_handshake(
    tls_server: Server, client_context: ssl.SSLContext
) -> None:
    """It is in the TLS object already: the socket will not become readable."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with tls_server.connect() as raw:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.send(outgoing.read())
                incoming.write(raw.sock.recv(65536))
        tls.write(request())
        raw.send(outgoing.read())
        wait_until(lambda: bool(tls_server.admitted))


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\xff\xfe" * 5])
def test_e20_garbage_on_a_tls_port(tls_server: Server, hello: bytes) -> None:
    with tls_server.connect() as raw:
        raw.send(hello)
        wait_until(lambda: bool(tls_server.ended))


def test_e20_tls_on_a_plain_port(server: Server) -> None:
    with server.connect() as raw:
        raw.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        raw.expect_refusal(400)


def test_d12_a_tls_peer_that_says_nothing_costs_no_tls_object(tls_server: Server) -> None:
    tls_server.open_timeout = 0.3
    with tls_server.connect():
        assert tls_server.openings[0]._transport is None
        wait_until(lambda: bool(tls_server.ended))
        assert tls_server.workers._started == 0


def test_d12_a_tls_peer_that_stops_in_the_middle(
    tls_server: Server, client_context: ssl.SSLContext
) -> None:
    tls_server.open_timeout = 0.3
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    with tls_server.connect() as raw:
        raw.send(hello[:50])
        time.sleep(0.05)
        with contextlib.suppress(OSError):  # on a slow machine it is given up already
            raw.send(hello[50:-10])
        wait_until(lambda: bool(tls_server.ended))


def test_turning_away_before_tls_is_ready(tls_server: Server) -> None:
    with tls_server.connect() as raw:
        tls_server.call(tls_server.openings[0].turn_away, FAREWELL)
        assert raw.sock.recv(100) == b""
    assert len(tls_server.ended) == 1


class SlowSNI:
    """A server-name callback that hangs until it is released."""

    def __init__(self, context: ssl.SSLContext, error: BaseException | None = None) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.error = error
        context.sni_callback = self.call

    def call(self, *_: Any) -> None:
        self.entered.set()
        assert self.release.wait(PATIENCE)
        if self.error is not None:
            raise self.error


@pytest.fixture
def sni_context(authority: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def hello_of(client_context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = client_context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_a_users_callback_that_hangs_is_waited_for_before_the_socket_is_closed(
    sni_context: ssl.SSLContext, client_context: ssl.SSLContext, nothing_left: object
) -> None:
    """Until then the TLS object is in use; the reader thread goes on meanwhile."""
    sni = SlowSNI(sni_context)
    server = Server(sni_context)
    with server.connect() as raw:
        raw.send(hello_of(client_context))
        assert sni.entered.wait(PATIENCE)
        timer = server.openings[0]._timer
        assert timer is not None
        server.call(timer.run)  # open_timeout passes now, and not before the callback is called
        assert server.openings[0]._abandoned
        server.call(server.openings[0].close)
        assert server.ended == []
        sni.release.set()
        wait_until(lambda: bool(server.ended))
    server.close()


def test_a_users_callback_that_outlives_the_reader(
    sni_context: ssl.SSLContext, client_context: ssl.SSLContext, nothing_left: object
) -> None:
    sni = SlowSNI(sni_context)
    server = Server(sni_context)
    with server.connect() as raw:
        raw.send(hello_of(client_context))
        assert sni.entered.wait(PATIENCE)
        server.reader.close()
        sni.release.set()
        assert raw.receive_rest() is not None
    server.workers.close()
    server.workers.join(PATIENCE)
    server.listener.close()


def test_no_thread_for_tls(
    tls_server: Server, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with tls_server.connect() as raw:
        monkeypatch.setattr(tls_server.workers, "submit", fail)
        raw.send(hello_of(client_context))
        wait_until(lambda: bool(tls_server.ended))


def test_a_request_that_is_here_already_is_not_waited_for(server: Server) -> None:
    with server.listener, socket.create_connection(server.listener.getsockname()) as client:
        client.sendall(request())
        accepted, _ = server.listener.accept()
        select.select([accepted], [], [], PATIENCE)
        opening = server.begin(accepted)
        assert server.admitted == [opening]
        assert not opening._watched
        assert opening._timer is None
        opening.transport.close()


def test_a_bad_request_that_is_here_already_is_answered(server: Server) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(request("POST / HTTP/1.1"))
        server.begin(ours)
        theirs.settimeout(PATIENCE)
        assert theirs.recv(4096).startswith(b"HTTP/1.1 405 ")
        theirs.close()
        wait_until(lambda: bool(server.ended))
