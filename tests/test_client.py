"""connect() when all goes well: requests, responses, sockets, and the end of a connection."""

from __future__ import annotations

import gc
import logging
import pathlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from scripted import (
    PATIENCE,
    Serve,
    head_101,
    read_head,
    scripted_servers,
    upgrade,
    wait_for_end,
)
from upgrading import KEY

import syncws
from syncws.reader import client_reader


@pytest.fixture
def scripted() -> Iterator[Serve]:
    with scripted_servers() as start:
        yield start


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> None:
    """No descriptor and no thread is left behind."""
    client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()


# -- success ----------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("secure", [False, True])
def test_connects(
    scripted: Serve,
    secure: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    server = scripted(upgrade, server_context if secure else None)
    ws = syncws.connect(server.uri, ssl=client_context if secure else None, close_timeout=0.2)
    assert ws.state is syncws.State.OPEN
    assert ws.request.path == "/"
    assert ws.request.headers["Host"] == f"127.0.0.1:{server.port}"
    assert ws.response.status_code == 101
    assert ws.subprotocol is None
    assert ws.logger.name == "syncws.client"
    assert ws.fileno() >= 0
    assert ws.remote_address == ("127.0.0.1", server.port)
    ws.close()


def test_f3c_frames_behind_the_101_are_delivered(scripted: Serve) -> None:
    frames = b"\x81\x01a\x82\x01b\x81\x01c\x88\x02\x03\xe8"

    def script(sock: socket.socket) -> None:
        sock.sendall(head_101(read_head(sock)) + frames)
        assert sock.recv(100)[0] == 0x88  # the answer to the close frame

    server = scripted(script)
    with syncws.connect(server.uri) as ws:
        assert [ws.recv(PATIENCE) for _ in range(3)] == ["a", b"b", "c"]
        with pytest.raises(syncws.ConnectionClosedOK):
            ws.recv(PATIENCE)


def test_a_response_byte_by_byte_with_a_frame_behind(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        for byte in head_101(read_head(sock)) + b"\x81\x01a":
            sock.sendall(bytes([byte]))
        wait_for_end(sock)

    with syncws.connect(scripted(script).uri, close_timeout=0.2) as ws:
        assert ws.recv(PATIENCE) == "a"


def test_arguments_reach_the_request_and_the_connection(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(head_101(read_head(sock), "Sec-WebSocket-Protocol: b"))
        wait_for_end(sock)

    server = scripted(script)
    logger = logging.getLogger("test.client")
    ws = syncws.connect(
        server.uri + "path?query",
        origin="https://example.com",
        subprotocols=["a", "b"],
        additional_headers={"X-Test": "1"},
        user_agent_header=None,
        close_timeout=0.1,
        logger=logger,
    )
    assert ws.request.path == "/path?query"
    assert ws.request.headers["Origin"] == "https://example.com"
    assert ws.request.headers["X-Test"] == "1"
    assert "User-Agent" not in ws.request.headers
    assert ws.subprotocol == "b"
    assert ws.logger is logger
    started = time.monotonic()
    ws.close()
    assert time.monotonic() - started < 3  # close_timeout arrived, too


def test_a_logger_that_wants_to_know_is_told(
    scripted: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(upgrade)
    with caplog.at_level(logging.DEBUG, "syncws.client"):
        ws = syncws.connect(server.uri + "path?token=secret")
    ws.abort()
    [record] = caplog.records
    address = f"ws://127.0.0.1:{server.port}/path?***"
    assert record.getMessage() == f"connection {ws.id} to <WebSocketURI {address}> opened"


def test_f11c_each_attempt_has_a_key_of_its_own(scripted: Serve) -> None:
    server = scripted(upgrade)
    keys = set()
    for _ in range(5):
        with syncws.connect(server.uri, close_timeout=0.1) as ws:
            keys.add(ws.request.headers["Sec-WebSocket-Key"])
    assert len(keys) == 5
    assert KEY not in keys


def test_a_socket_of_the_callers(scripted: Serve) -> None:
    server = scripted(upgrade)
    sock = socket.create_connection(("127.0.0.1", server.port))
    with syncws.connect("ws://somewhere.else/", sock=sock, close_timeout=0.1) as ws:
        assert ws.fileno() == sock.fileno()
        assert ws.request.headers["Host"] == "somewhere.else"
    assert sock.fileno() == -1


def test_a_unix_socket(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "socket"
    with syncws.unix_serve(lambda ws: ws.send(ws.recv()), path):
        with syncws.unix_connect(path) as ws:
            ws.send("hello")
            assert ws.recv(PATIENCE) == "hello"
            assert ws.request.headers["Host"] == "localhost"


# -- leaks ------------------------------------------------------------------------


def test_g12x_a_connection_that_is_dropped_is_closed(scripted: Serve) -> None:
    """Without ``with`` and without close(): the collector closes it."""
    ended = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(head_101(read_head(sock)))
        wait_for_end(sock)
        ended.set()

    server = scripted(script)
    ws = syncws.connect(server.uri, close_timeout=0.2)
    del ws
    gc.collect()
    assert ended.wait(PATIENCE)
