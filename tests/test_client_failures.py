"""connect() when one of its steps fails: the error, the deadline, and what is left behind."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trustme
from scripted import (
    PATIENCE,
    Serve,
    answer,
    read_head,
    scripted_servers,
    stall,
    upgrade,
    wait_for_end,
)

import syncws
from syncws import reaching
from syncws.reader import client_reader
from syncws.transport import Transport


@pytest.fixture
def scripted() -> Iterator[Serve]:
    with scripted_servers() as start:
        yield start


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> None:
    """No descriptor and no thread is left behind."""
    client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()


# -- arguments --------------------------------------------------------------------

BAD_ARGUMENTS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("http://127.0.0.1/", {}, syncws.InvalidURI, "scheme|URI"),
    ("ws://127.0.0.1/\r\nX: y", {}, syncws.InvalidURI, "URI"),
    ("ws://127.0.0.1/", {"ssl": ssl.create_default_context()}, ValueError, "ssl is for wss"),
    ("ws://127.0.0.1/", {"server_hostname": "x"}, ValueError, "server_hostname is for wss"),
    ("wss://127.0.0.1/", {"server_hostname": b"x"}, TypeError, "server_hostname must be a str"),
    ("wss://127.0.0.1/", {"server_hostname": ""}, ValueError, "server_hostname is not a valid"),
    ("wss://127.0.0.1/", {"server_hostname": "a\0b"}, ValueError, "server_hostname is not"),
    ("wss://127.0.0.1/", {"server_hostname": "x" * 64}, ValueError, "server_hostname is not"),
    ("wss://127.0.0.1/", {"ssl": True}, TypeError, "ssl must be an ssl.SSLContext"),
    (
        "wss://127.0.0.1/",
        {"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
        ValueError,
        "ssl must be a client-side context",
    ),
    ("ws://127.0.0.1/", {"additional_headers": ["A: b"]}, TypeError, "additional_headers: each"),
    ("ws://127.0.0.1/", {"additional_headers": {"A": "\n"}}, ValueError, "additional_headers: the"),
    ("ws://127.0.0.1/", {"open_timeout": 0}, ValueError, "open_timeout must be positive"),
    ("ws://127.0.0.1/", {"open_timeout": "1"}, TypeError, "open_timeout must be a number"),
    ("ws://127.0.0.1/", {"ping_interval": -1}, ValueError, "ping_interval"),
    ("ws://127.0.0.1/", {"max_size": 0}, ValueError, "max_size"),
    ("ws://127.0.0.1/", {"origin": "a\r\nb"}, ValueError, "origin"),
    ("ws://127.0.0.1/", {"subprotocols": ["a b"]}, ValueError, "subprotocol"),
    ("ws://127.0.0.1/", {"subprotocols": "ab"}, TypeError, "subprotocol"),
    ("ws://127.0.0.1/", {"additional_headers": {"A": "b\r\nC: d"}}, ValueError, "header A"),
    ("ws://127.0.0.1/", {"additional_headers": {"A\r\nB": "c"}}, ValueError, "header"),
    ("ws://127.0.0.1/", {"user_agent_header": "a\0b"}, ValueError, "User-Agent"),
]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("uri", "options", "kind", "text"), BAD_ARGUMENTS)
def test_f1c_a_bad_argument_is_refused_before_anything_is_sent(
    uri: str, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """The socket given is closed, as with any failure, and its peer saw no byte."""
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(kind, match=text):
            syncws.connect(uri, sock=ours, **options)
        assert theirs.recv(100) == b""
        assert ours.fileno() == -1


def test_unix_connect_takes_no_socket(tmp_path: pathlib.Path) -> None:
    with pytest.raises(TypeError, match="does not take sock"):
        syncws.unix_connect(tmp_path, sock=None)


def _listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


UNFIT = {
    "unconnected TCP": (socket.socket, "connected"),
    "unconnected Unix": (partial(socket.socket, socket.AF_UNIX), "connected"),
    "listening": (_listening, "connected"),
    "datagrams": (partial(socket.socket, type=socket.SOCK_DGRAM), "stream socket"),
}


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("make", "text"), UNFIT.values(), ids=UNFIT)
def test_a_socket_that_is_no_connection(make: Callable[[], socket.socket], text: str) -> None:
    with make() as sock, pytest.raises(ValueError, match=f"sock must be.*{text}"):
        syncws.connect("ws://localhost/", sock=sock)


@pytest.mark.usefixtures("clean")
def test_a_socket_that_speaks_tls_by_itself() -> None:
    ours, theirs = socket.socketpair()
    context = ssl.create_default_context()
    with (
        theirs,
        context.wrap_socket(
            ours, server_hostname="localhost", do_handshake_on_connect=False
        ) as sock,
        pytest.raises(TypeError, match="sock must be a plain socket"),
    ):
        syncws.connect("wss://localhost/", sock=sock)


@pytest.mark.usefixtures("clean")
def test_a_socket_that_was_reset_is_no_wrong_argument() -> None:
    with _listening() as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    with pytest.raises(OSError):
        syncws.connect("ws://localhost/", sock=ours)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"unknown_option": 1}, TypeError, "unknown_option"),
        ({"origin": "a\r\nb"}, ValueError, "origin"),
        ({"open_timeout": 0}, ValueError, "open_timeout"),
        ({"proxy": "http://proxy"}, ValueError, "proxy is for TCP connections"),
    ],
)
def test_f1c_unix_connect_with_a_bad_argument_does_not_connect(
    tmp_path: pathlib.Path, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(kind, match=text):
            syncws.unix_connect(path, **options)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.usefixtures("clean")
def test_unix_connect_does_not_follow_redirects(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "socket")
    answered = threading.Event()

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            read_head(sock)
            sock.sendall(b"HTTP/1.1 302 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
            answered.set()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with pytest.raises(syncws.InvalidStatus) as raised:
            syncws.unix_connect(path)
        thread.join(10)
    assert answered.is_set()
    assert type(raised.value) is syncws.InvalidStatus


@pytest.mark.usefixtures("clean")
def test_unix_connect_over_tls(
    tmp_path: pathlib.Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    path = tmp_path / "socket"
    with syncws.unix_serve(lambda ws: ws.send("hello"), path, ssl=server_context):
        with syncws.unix_connect(path, "wss://localhost/", ssl=client_context) as ws:
            assert ws.recv(10) == "hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            syncws.unix_connect(path, "wss://name.invalid/", ssl=client_context)


def test_unix_connect_names_the_path(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        syncws.unix_connect(tmp_path / "nowhere")
    with pytest.raises(OSError, match="too long"):
        syncws.unix_connect(tmp_path / ("x" * 200))


# -- failures of each step --------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1 port {port}"):
            syncws.connect(f"ws://127.0.0.1:{port}/")


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("status", "body", "pieces"),
    [
        (403, b"no", [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n", b"no"]),
        (200, b"yes", [b"HTTP/1.1 200 OK\r\n\r\nye", b"s"]),
        (503, b"", [b"HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n"]),
        (302, b"ab", [b"HTTP/1.1 302 Found\r\nContent-Length: 5\r\n\r\nab"]),
    ],
)
def test_the_server_refuses(scripted: Serve, status: int, body: bytes, pieces: list[bytes]) -> None:
    with pytest.raises(syncws.InvalidStatus) as raised:
        syncws.connect(scripted(answer(*pieces)).uri)
    assert raised.value.response.status_code == status
    assert raised.value.response.body == body


@pytest.mark.usefixtures("clean")
def test_a_refusal_whose_body_never_ends_is_a_refusal(
    scripted: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 401 Unauthorized\r\n\r\nhalf")
        wait_for_end(sock)

    received = b""
    receive_before = Transport.receive_before

    def until_half(self: Transport, deadline: float | None) -> bytes:
        # The deadline passes when so much is here, however long that has taken.
        nonlocal received
        data = receive_before(self, 0.0 if received.endswith(b"half") else deadline)
        received += data
        return data

    monkeypatch.setattr(Transport, "receive_before", until_half)
    with pytest.raises(syncws.InvalidStatus) as raised:
        syncws.connect(scripted(script).uri, open_timeout=PATIENCE)
    assert raised.value.response.status_code == 401
    assert raised.value.response.body == b"half"


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 101 Swi"],
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"],
        [b"HTTP/1.1 101 OK\r\n" + b"A: b\r\n" * 200],
        [b"HTTP/1.1 101 " + b"x" * 70000],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 20],
    ],
)
def test_f2c_the_answer_is_not_one(scripted: Serve, pieces: list[bytes]) -> None:
    with pytest.raises(syncws.InvalidHandshake):
        syncws.connect(scripted(answer(*pieces)).uri)


@pytest.mark.usefixtures("clean")
def test_the_server_resets_the_connection(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with pytest.raises(ConnectionResetError):
        syncws.connect(scripted(script).uri)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("secure", [False, True])
def test_d12_a_server_that_says_nothing(
    scripted: Serve, secure: bool, client_context: ssl.SSLContext
) -> None:
    server = scripted(stall)
    uri = server.uri.replace("ws:", "wss:") if secure else server.uri
    step = "TLS handshake" if secure else "waiting for the response"
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"{step}.*open_timeout=0\.3 s"):
        syncws.connect(uri, ssl=client_context if secure else None, open_timeout=0.3)
    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("clean")
def test_d12_a_server_that_dribbles_gets_no_more_time(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 101 OK\r\nX: ")
        for _ in range(200):
            sock.sendall(b"x")
            time.sleep(0.05)

    started = time.monotonic()
    with pytest.raises(TimeoutError, match="waiting for the response"):
        syncws.connect(scripted(script).uri, open_timeout=0.5)
    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("clean")
def test_a_server_that_does_not_read_the_request(scripted: Serve) -> None:
    given_up = threading.Event()  # closing before that would be a reset
    server = scripted(lambda sock: given_up.wait(PATIENCE))
    headers = [("X-Long", "x" * 8000)] * 1000
    with pytest.raises(TimeoutError, match="sending the request"):
        syncws.connect(server.uri, additional_headers=headers, open_timeout=1)
    given_up.set()


@pytest.mark.parametrize("step", ["resolving name.invalid", "connecting to name.invalid port 80"])
def test_a_timeout_names_the_step(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(*_: Any) -> Any:
        time.sleep(0.1)
        raise TimeoutError

    if step.startswith("resolving"):
        monkeypatch.setattr(reaching, "resolve", time_out)
    else:
        monkeypatch.setattr(reaching, "resolve", lambda *_: [])
        monkeypatch.setattr(reaching, "connect_tcp", time_out)
    with pytest.raises(TimeoutError, match=step) as raised:
        syncws.connect("ws://name.invalid/", open_timeout=0.05)
    assert "open_timeout=0.05 s" in str(raised.value)


@pytest.mark.parametrize("open_timeout", [None, 10])
def test_a_timeout_of_the_kernel_stays_what_it_is(
    monkeypatch: pytest.MonkeyPatch, open_timeout: float | None
) -> None:
    def time_out(*_: Any) -> Any:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(reaching, "connect_tcp", time_out)
    with pytest.raises(TimeoutError) as raised:
        syncws.connect("ws://127.0.0.1/", open_timeout=open_timeout)
    assert raised.value.errno == 110
    assert "open_timeout" not in str(raised.value)


def test_a_unix_server_that_does_not_accept(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as first:
        sock.bind(path)
        sock.listen(0)
        first.connect(path)
        with pytest.raises(TimeoutError, match=r"Unix socket.*open_timeout=0\.1 s"):
            syncws.unix_connect(path, open_timeout=0.1)


@pytest.mark.usefixtures("clean")
def test_an_interrupt_ends_it_at_once_and_closes(scripted: Serve) -> None:
    started = 0.0

    def script(sock: socket.socket) -> None:
        nonlocal started
        read_head(sock)  # now the client is in the middle of it
        started = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
        wait_for_end(sock)

    server = scripted(script)
    with pytest.raises(KeyboardInterrupt):
        syncws.connect(server.uri, open_timeout=None)
    assert time.monotonic() - started < 3


# -- TLS --------------------------------------------------------------------------


def certified(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["elsewhere.example"], "IP address mismatch"),
        (["*.0.0.1"], "IP address mismatch"),
        (["127.0.0.2"], "IP address mismatch"),
    ],
)
def test_f5c_the_certificate_of_another_host(
    scripted: Serve,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    names: list[str],
    text: str,
) -> None:
    server = scripted(upgrade, certified(authority, *names))
    with pytest.raises(ssl.SSLCertVerificationError, match=text):
        syncws.connect(server.uri, ssl=client_context)


@pytest.mark.usefixtures("clean")
def test_f5c_the_certificate_of_an_unknown_authority(
    scripted: Serve, server_context: ssl.SSLContext
) -> None:
    """Which the default context does not trust."""
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self.signed|local issuer"):
        syncws.connect(scripted(upgrade, server_context).uri)


def test_f5c_server_hostname_is_who_must_be_there(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    server = scripted(upgrade, certified(authority, "elsewhere.example"))
    with syncws.connect(
        server.uri, ssl=client_context, server_hostname="elsewhere.example", close_timeout=0.1
    ) as ws:
        assert ws.peer_certificate
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        syncws.connect(server.uri, ssl=client_context, server_hostname="other.example")


def test_f5c_a_name_with_the_dot_of_the_root(
    scripted: Serve, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    server = scripted(upgrade, server_context)
    sock = socket.create_connection(("127.0.0.1", server.port))
    with syncws.connect("wss://localhost./", sock=sock, ssl=client_context, close_timeout=0.1):
        pass


def test_f5c_a_caller_may_switch_the_checks_off(scripted: Serve, authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    server = scripted(upgrade, certified(authority, "elsewhere.example"))
    with syncws.connect(server.uri, ssl=context, close_timeout=0.1):
        pass


@pytest.mark.usefixtures("clean")
def test_tls_to_a_server_that_does_not_speak_it(
    scripted: Serve, client_context: ssl.SSLContext
) -> None:
    server = scripted(lambda sock: sock.sendall(b"SSH-2.0-OpenSSH\r\n"))
    with pytest.raises(ssl.SSLError):
        syncws.connect(server.uri.replace("ws:", "wss:"), ssl=client_context)
