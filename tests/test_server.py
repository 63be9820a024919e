"""serve(), unix_serve() and broadcast(): what users call."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from extending import ClientOffer, ServerOffer
from pairing import Pair
from talking import PATIENCE, RawClient, masked_frame, wait_until

import syncws
from syncws.reader import client_reader
from syncws.server import broadcast


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message)


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> None:
    client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()


# -- serving ----------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_echo() -> None:
    with syncws.serve(echo) as server, syncws.connect(server.url) as ws:
        for message in ("text", b"binary", "", "x" * 200_000):
            ws.send(message)
            assert ws.recv(PATIENCE) == message


@pytest.mark.usefixtures("clean")
def test_echo_over_tls(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    with syncws.serve(echo, "127.0.0.1", ssl=server_context) as server:
        assert server.url.startswith("wss://127.0.0.1:")
        with syncws.connect(server.url, ssl=client_context) as ws:
            ws.send("x" * 200_000)
            assert ws.recv(PATIENCE) == "x" * 200_000


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        ("127.0.0.1", r"ws://127\.0\.0\.1:\d+/"),
        ("0.0.0.0", r"ws://127\.0\.0\.1:\d+/"),
        ("::1", r"ws://\[::1\]:\d+/"),
        ("localhost", r"ws://(127\.0\.0\.1|\[::1\]):\d+/"),
        (None, r"ws://(127\.0\.0\.1|\[::1\]):\d+/"),
    ],
)
def test_its_url_can_be_connected_to(host: str | None, pattern: str) -> None:
    try:
        server = syncws.serve(echo, host)
    except OSError:
        if host != "::1":
            raise
        return  # no IPv6 here: there is no such server
    with server:
        assert re.fullmatch(pattern, server.url)
        with syncws.connect(server.url) as ws:
            ws.send("hello")
            assert ws.recv(PATIENCE) == "hello"


def test_what_a_server_tells_of_itself() -> None:
    server = syncws.serve(echo, "127.0.0.1")
    assert server.socket is server.sockets[0]
    assert server.fileno() == server.socket.fileno()
    assert server.address == server.socket.getsockname()
    assert server.logger.name == "syncws.server"
    assert server.connections == set()
    server.shutdown()
    assert server.fileno() == -1


@pytest.mark.usefixtures("clean")
def test_a_unix_socket(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "socket"
    with syncws.unix_serve(echo, path, close_timeout=1) as server:
        assert server.address == str(path)
        assert server.url == "ws://localhost/"
        with syncws.unix_connect(path, server.url) as ws:
            ws.send("hello")
            assert ws.recv(PATIENCE) == "hello"
    assert not path.exists()


@pytest.mark.parametrize("listening", [False, True])
def test_a_socket_of_the_callers(listening: bool) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listening:
        sock.listen()
    with syncws.serve(echo, sock=sock) as server:
        assert server.sockets == (sock,)
        with syncws.connect(server.url) as ws:
            ws.send("hello")
            assert ws.recv(PATIENCE) == "hello"
    assert sock.fileno() == -1


def test_two_servers_share_a_port() -> None:
    with syncws.serve(echo, "127.0.0.1", reuse_port=True) as first:
        with syncws.serve(echo, "127.0.0.1", first.address[1], reuse_port=True) as second:
            assert first.address == second.address


def test_options_reach_the_connection() -> None:
    def handler(ws: syncws.Connection) -> None:
        ws.send(str(ws.logger.name))
        ws.recv()

    logger = logging.getLogger("test.server")
    with syncws.serve(handler, "127.0.0.1", max_size=10, logger=logger) as server:
        with syncws.connect(server.url) as ws:
            assert ws.recv(PATIENCE) == "test.server"
            ws.send("x" * 11)
            with pytest.raises(syncws.ConnectionClosedError) as raised:
                ws.recv(PATIENCE)
            assert raised.value.rcvd is not None
            assert raised.value.rcvd.code == 1009


def test_the_handshake_is_negotiated() -> None:
    def choose(request: syncws.Request, offered: Any) -> str:
        assert threading.current_thread().name.startswith("syncws-handler-")
        return str(offered[-1])

    with syncws.serve(
        echo, "127.0.0.1", origins=["https://a.example"], select_subprotocol=choose
    ) as server:
        with syncws.connect(server.url, origin="https://a.example", subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"
        with pytest.raises(syncws.InvalidStatus) as raised:
            syncws.connect(server.url, origin="https://b.example")
        assert raised.value.response.status_code == 403


def test_same_origin_by_default() -> None:
    with syncws.serve(echo, "127.0.0.1") as server:
        host = f"127.0.0.1:{server.address[1]}"
        with syncws.connect(server.url, origin=f"http://{host}"):
            pass
        with pytest.raises(syncws.InvalidStatus):
            syncws.connect(server.url, origin="http://127.0.0.1:1")


def test_secure_servers_want_secure_origins(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with syncws.serve(echo, "127.0.0.1", ssl=server_context) as server:
        host = f"127.0.0.1:{server.address[1]}"
        with syncws.connect(server.url, ssl=client_context, origin=f"https://{host}"):
            pass
        with pytest.raises(syncws.InvalidStatus):
            syncws.connect(server.url, ssl=client_context, origin=f"http://{host}")


async def coroutine(ws: syncws.Connection) -> None:
    """What nobody would await."""


BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"handler": None}, TypeError, "handler must be callable"),
    ({"ssl": True}, TypeError, r"ssl must be an ssl\.SSLContext"),
    ({"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}, ValueError, "ssl must be a server-side"),
    ({"open_timeout": -1}, ValueError, "open_timeout must be positive"),
    ({"max_connections": 0}, ValueError, "max_connections must be at least 1"),
    ({"origins": "https://a.example"}, TypeError, "origins"),
    ({"subprotocols": ["a b"]}, ValueError, "subprotocol"),
    ({"handler": coroutine}, TypeError, "handler must be a plain function"),
    ({"process_request": coroutine}, TypeError, "process_request must be a plain function"),
    ({"select_subprotocol": 1}, TypeError, "select_subprotocol must be callable"),
    ({"proxy_protocol": 1}, TypeError, "proxy_protocol must be a bool, not int"),
    ({"server_header": "a\r\nb"}, ValueError, "Server"),
    ({"ping_timeout": 0}, ValueError, "ping_timeout"),
    ({"write_limit": None}, TypeError, "write_limit"),
]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("options", "kind", "text"), BAD_ARGUMENTS)
@pytest.mark.parametrize("unix", [False, True])
def test_a_bad_argument_is_named(
    options: dict[str, Any],
    kind: type[Exception],
    text: str,
    unix: bool,
    tmp_path: pathlib.Path,
) -> None:
    options = {"handler": echo, **options}
    with pytest.raises(kind, match=text):
        if unix:
            syncws.unix_serve(path=tmp_path / "socket", **options)
        else:
            syncws.serve(**options)
    assert not (tmp_path / "socket").exists()


def test_a_host_that_is_no_name() -> None:
    with pytest.raises(TypeError, match="host must be a str or None, not bytes"):
        syncws.serve(echo, b"localhost")  # type: ignore[arg-type]  # that is the point


def test_a_unix_server_that_cannot_listen_names_the_path(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        syncws.unix_serve(echo, tmp_path / "nowhere" / "socket")


def test_a_socket_that_is_not_bound() -> None:
    """listen() would choose a free port of every interface."""
    with socket.socket() as sock, pytest.raises(ValueError, match="sock must be bound"):
        syncws.serve(echo, sock=sock)


def test_a_choice_of_tcp_is_checked() -> None:
    with pytest.raises(TypeError, match="reuse_port must be a bool, not str"):
        syncws.serve(echo, reuse_port="no")  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("name", ["host", "port", "sock", "reuse_port"])
def test_a_unix_server_has_no_address(name: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(TypeError, match=f"unix_serve\\(\\) does not take {name}"):
        options: dict[str, Any] = {name: None}
        syncws.unix_serve(echo, tmp_path / "socket", **options)


# -- broadcast --------------------------------------------------------------------


class Audience:
    """A server that keeps its connections open and reads them, and raw clients of it."""

    def __init__(self, **options: Any) -> None:
        self.server = syncws.serve(self.handle, "127.0.0.1", close_timeout=0.5, **options)
        self.server.start()
        self.clients: list[RawClient] = []
        self.ready = threading.Semaphore(0)

    def handle(self, ws: syncws.Connection) -> None:
        self.ready.release()
        for _ in ws:
            pass

    def join(self) -> RawClient:
        raw = RawClient(self.server.address).open()
        self.clients.append(raw)
        assert self.ready.acquire(timeout=PATIENCE)
        return raw

    def close(self) -> None:
        for raw in self.clients:
            raw.sock.close()
        self.server.shutdown()


@pytest.fixture
def audience(clean: None) -> Iterator[Audience]:
    audience = Audience()
    yield audience
    audience.close()


@pytest.mark.parametrize(
    ("message", "text", "opcode"),
    [
        ("héllo", None, 1),
        ("héllo", True, 1),
        ("héllo", False, 2),
        ("héllo".encode(), None, 2),
        ("héllo".encode(), True, 1),
        (bytearray("héllo".encode()), False, 2),
        (memoryview("héllo".encode()), None, 2),
    ],
)
def test_a_broadcast_reaches_everybody(
    audience: Audience, message: Any, text: bool | None, opcode: int
) -> None:
    clients = [audience.join() for _ in range(3)]
    assert len(audience.server.connections) == 3
    assert broadcast(audience.server.connections, message, text=text) == []
    for raw in clients:
        assert raw.receive_frame() == (opcode, "héllo".encode())


def test_d8_a_slow_peer_keeps_nobody_waiting(audience: Audience) -> None:
    """It misses messages, and the caller learns that; the others get them all."""
    slow, fast = audience.join(), audience.join()
    frame = 4 + 60_000
    received = [0]

    def receive() -> None:
        while data := fast.sock.recv(65536):
            received[0] += len(data)

    def has_received(size: int) -> bool:
        return received[0] >= size

    thread = threading.Thread(target=receive)
    thread.start()
    skipped: list[syncws.Connection] = []
    sent = 0
    deadline = time.monotonic() + PATIENCE
    while not skipped and time.monotonic() < deadline:
        wait_until(partial(has_received, (sent - 5) * frame))
        skipped = broadcast(audience.server.connections, b"x" * 60_000)
        sent += 1
    [connection] = skipped
    assert connection.remote_address == slow.sock.getsockname()
    assert connection.stats.bytes_unsent <= 2**20 + frame
    wait_until(lambda: received[0] == sent * frame)
    audience.server.shutdown(timeout=0.2)
    thread.join(PATIENCE)
    assert connection.remote_address == slow.sock.getsockname()  # for logs, when it has ended


def test_closed_connections_are_passed_over(audience: Audience) -> None:
    gone, here = audience.join(), audience.join()
    connections = audience.server.connections
    gone.send(masked_frame(8, b"\x03\xe8"))
    gone.answer_close()
    wait_until(lambda: len(audience.server.connections) == 1)
    assert broadcast(connections, "hello") == []
    assert here.receive_frame() == (1, b"hello")


@pytest.mark.parametrize("log_fails", [False, True])
def test_a_broadcast_goes_on_behind_an_extension_that_raises(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, log_fails: bool
) -> None:
    """Who missed it is returned, and the log says why."""
    offer = ServerOffer("adding")
    with (
        syncws.serve(echo, "127.0.0.1", extensions=[offer], compression=None) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(
                syncws.connect(server.url, extensions=[ClientOffer("adding")], compression=None)
            )
            for _ in range(3)
        ]
        wait_until(lambda: len(server.connections) == 3)
        by_address = {each.remote_address: each for each in server.connections}
        connections = [by_address[client.local_address] for client in clients]
        broken = connections[0]

        def encode(fragment: syncws.Fragment) -> syncws.Fragment:
            raise LookupError("no encoding")

        if log_fails:
            monkeypatch.setattr(broken.logger, "error", encode)
        with monkeypatch.context() as patch:
            patch.setattr(broken.extensions[0], "encode", encode)
            assert broadcast(connections, "news") == [broken]
        for client in clients[1:]:
            assert client.recv(PATIENCE) == "news"
        # It has failed no more than by a send() that raises the same.
        assert broadcast(connections, "more") == []
        assert [client.recv(PATIENCE) for client in clients] == ["more"] * 3
    if not log_fails:
        [record] = caplog.records
        assert record.levelno == logging.ERROR and record.name == "syncws.server"
        assert str(broken.id) in record.getMessage()
        assert record.exc_info is not None and isinstance(record.exc_info[1], LookupError)


def test_g9x_a_broadcast_to_connections_of_the_parent_reaches_nobody(audience: Audience) -> None:
    raw = audience.join()
    with Pair() as pair:
        pair.channel.forked = True
        with pytest.raises(syncws.ForkedConnectionError):
            broadcast([*audience.server.connections, pair.connection], "hello")
        pair.channel.forked = False
    assert broadcast(audience.server.connections, "behind it") == []
    assert raw.receive_frame() == (1, b"behind it")


@pytest.mark.parametrize("message", [1, None, ["a"], object()])
def test_a_broadcast_of_something_else(audience: Audience, message: Any) -> None:
    audience.join()
    with pytest.raises(TypeError, match="message must be str or bytes-like"):
        broadcast(audience.server.connections, message)


@pytest.mark.parametrize("option", ["text", "compress"])
def test_options_of_a_broadcast_are_checked(audience: Audience, option: str) -> None:
    options: dict[str, Any] = {option: "no"}
    with pytest.raises(TypeError, match=f"{option} must be True, False or None, not str"):
        broadcast([], b"x", **options)


def test_a_broadcast_of_text_that_is_not(audience: Audience) -> None:
    audience.join()
    with pytest.raises(UnicodeDecodeError):
        broadcast(audience.server.connections, b"\xff", text=True)


# -- many cycles ------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_g12x_nothing_is_left_of_five_hundred_connections() -> None:
    with syncws.serve(echo, "127.0.0.1") as server:
        with syncws.connect(server.url):
            pass
        wait_until(lambda: not server.connections)
        before = len(os.listdir("/dev/fd"))
        for _ in range(500):
            with syncws.connect(server.url) as ws:
                ws.send("x")
                assert ws.recv(PATIENCE) == "x"
        wait_until(lambda: not server.connections)
        wait_until(lambda: len(os.listdir("/dev/fd")) <= before)
        assert threading.active_count() < 20


@pytest.mark.usefixtures("clean")
def test_g12x_nothing_is_left_of_those_that_failed() -> None:
    with syncws.serve(echo, "127.0.0.1", origins=[]) as server:
        with pytest.raises(syncws.InvalidStatus):
            syncws.connect(server.url)
        before = len(os.listdir("/dev/fd"))
        for number in range(100):
            with contextlib.ExitStack() as stack:
                if number % 2:
                    with pytest.raises(syncws.InvalidStatus):
                        syncws.connect(server.url)
                else:
                    raw = stack.enter_context(RawClient(server.address))
                    raw.send(b"nonsense\r\n\r\n")
        wait_until(lambda: len(os.listdir("/dev/fd")) <= before)
