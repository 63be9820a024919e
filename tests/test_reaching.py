"""The way to a server through proxies, plain and over TLS, and what may go wrong on it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
from proxying import Proxying
from scripted import PATIENCE, Serve, read_head, scripted_servers, stall, upgrade
from test_transport_stalled import Renegotiating

import syncws
from syncws import reaching
from syncws.exchange import Budget
from syncws.reaching import make_route, reach
from syncws.reader import client_reader
from syncws.transport import TLSTransport
from syncws.uri import parse_uri


@pytest.fixture
def scripted() -> Iterator[Serve]:
    with scripted_servers() as start:
        yield start


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> None:
    """No descriptor and no thread is left behind."""
    client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


# -- arguments --------------------------------------------------------------------

CONTEXT = ssl.create_default_context()
SERVER_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
HTTP, HTTPS = "http://proxy", "https://proxy"
BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"proxy": False}, TypeError, "proxy must be True, None or a str, not bool"),
    ({"proxy": b"http://proxy"}, TypeError, "proxy must be .* not bytes"),
    ({"proxy": ""}, syncws.InvalidProxy, "host"),
    ({"proxy": "http://proxy\r\nX: y"}, syncws.InvalidProxy, "control character"),
    ({"proxy": "http://user:a%0d%0ab@proxy"}, syncws.InvalidProxy, "control character"),
    ({"proxy": HTTP, "proxy_ssl": CONTEXT}, ValueError, "proxy_ssl is for https:// proxies"),
    ({"proxy": None, "proxy_ssl": CONTEXT}, ValueError, "proxy_ssl is for https:// proxies"),
    ({"proxy": HTTPS, "proxy_ssl": True}, TypeError, "proxy_ssl must be an ssl.SSLContext"),
    ({"proxy_ssl": SERVER_CONTEXT}, ValueError, "proxy_ssl must be a client-side context"),
    ({"proxy": HTTP, "proxy_server_hostname": "x"}, ValueError, "proxy_server_hostname is for"),
    ({"proxy": HTTPS, "proxy_server_hostname": ""}, ValueError, "proxy_server_hostname is not"),
    ({"proxy_server_hostname": b"x"}, TypeError, "proxy_server_hostname must be a str"),
    (
        {"additional_headers": {"Proxy-Authorization": "x"}},
        ValueError,
        "proxy-authorization; use proxy=",
    ),
]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("options", "kind", "text"), BAD_ARGUMENTS)
def test_f1c_bad_arguments(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        syncws.connect("ws://name.invalid/", **options)


def test_a_proxy_is_not_for_a_socket() -> None:
    for proxy in (None, True, HTTP):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            kind = ValueError if proxy == HTTP else syncws.InvalidStatus
            with pytest.raises(kind):
                syncws.connect("ws://name.invalid/", sock=ours, proxy=proxy)
            assert ours.fileno() == -1


# -- through HTTP proxies ---------------------------------------------------------


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("outer", ["http", "https"])
@pytest.mark.parametrize("inner", ["ws", "wss"])
def test_f7c_a_way_through_a_proxy(
    scripted: Serve,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    outer: str,
    inner: str,
) -> None:
    """All four; the credentials of each are for itself only."""
    requests = []

    def script(sock: socket.socket) -> None:
        class Seen:
            """A socket whose first read is noted."""

            def recv(self, size: int) -> bytes:
                data = sock.recv(size)
                requests.append(data)
                return data

            def sendall(self, data: bytes) -> None:
                sock.sendall(data)

        seen: Any = Seen()
        upgrade(seen)

    target = scripted(script, certified(authority, "name.invalid") if inner == "wss" else None)
    proxying = Proxying(target.port)
    context = certified(authority, "127.0.0.1") if outer == "https" else None
    proxy = scripted(proxying.with_password("me", "p:w"), context)
    with syncws.connect(
        f"{inner}://user:secret@name.invalid:9999/path",
        proxy=f"{outer}://me:p%3aw@127.0.0.1:{proxy.port}",
        proxy_ssl=client_context if context else None,
        ssl=client_context if inner == "wss" else None,
        close_timeout=0.1,
    ) as ws:
        assert ws.request.headers["Host"] == "name.invalid:9999"
        certificate = ws.peer_certificate
    assert (certificate is not None) is (inner == "wss")
    if certificate is not None:
        assert certificate["subjectAltName"] == (("DNS", "name.invalid"),)
    request = b"".join(requests)
    assert b"Authorization: Basic dXNlcjpzZWNyZXQ=" in request
    assert b"Proxy-Authorization" not in request
    assert b"dXNlcjpzZWNyZXQ=" not in proxying.heads[0]
    assert proxying.heads[0].startswith(b"CONNECT name.invalid:9999 HTTP/1.1\r\n")


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("credentials", ["", "me:wrong@", "other:pw@", "me@"])
def test_f7c_a_proxy_that_wants_credentials(scripted: Serve, credentials: str) -> None:
    proxy = scripted(Proxying(1).with_password("me", "pw"))
    with pytest.raises(syncws.ProxyError, match="407") as raised:
        syncws.connect("ws://name.invalid/", proxy=f"http://{credentials}127.0.0.1:{proxy.port}")
    response = raised.value.response
    assert response is not None
    assert response.status_code == 407
    assert response.headers["Proxy-Authenticate"] == "Basic realm=proxy"
    assert response.body == b"who are you?"
    assert "wrong" not in f"{raised.value!r}{raised.value}"


@pytest.mark.usefixtures("clean")
def test_f5c_a_certificate_of_ours_for_the_proxy_alone(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    proxying = Proxying(scripted(upgrade, certified(authority, "name.invalid")).port)
    context = certified(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    shown = []

    def proxy(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        certificate = sock.getpeercert()
        assert certificate
        shown.append(certificate["subjectAltName"])
        proxying.http(sock)

    address = f"https://127.0.0.1:{scripted(proxy, context).port}"
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"):
        syncws.connect("wss://name.invalid/", proxy=address, proxy_ssl=client_context)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(ours)
    authority.issue_cert("client.example").configure_cert(ours)
    with syncws.connect(
        "wss://name.invalid/", proxy=address, proxy_ssl=ours, ssl=client_context, close_timeout=0.1
    ):
        assert shown == [(("DNS", "client.example"),)]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("outer", ["http", "https"])
@pytest.mark.parametrize("names", [["127.0.0.1"], ["other.example"]])
def test_f5c_the_target_is_verified_and_not_the_proxy(
    scripted: Serve,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    outer: str,
    names: list[str],
) -> None:
    """Also by a certificate that is good for the proxy."""
    target = scripted(upgrade, certified(authority, *names))
    context = certified(authority, "127.0.0.1") if outer == "https" else None
    proxy = scripted(Proxying(target.port).http, context)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"name\.invalid") as raised:
        syncws.connect(
            "wss://name.invalid/",
            proxy=f"{outer}://127.0.0.1:{proxy.port}",
            proxy_ssl=client_context if context else None,
            ssl=client_context,
        )
    assert type(raised.value) is ssl.SSLCertVerificationError


@pytest.mark.usefixtures("clean")
def test_f5c_the_proxy_is_verified(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    proxying = Proxying(scripted(upgrade).port)
    proxy = scripted(proxying.http, certified(authority, "proxy.example"))
    address = f"https://user:secret@127.0.0.1:{proxy.port}"
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        syncws.connect("ws://name.invalid/", proxy=address, proxy_ssl=client_context)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self.signed|local issuer"):
        syncws.connect("ws://name.invalid/", proxy=address)
    assert proxying.heads == []
    with syncws.connect(
        "ws://name.invalid/",
        proxy=address,
        proxy_ssl=client_context,
        proxy_server_hostname="proxy.example",
        close_timeout=0.1,
    ):
        assert len(proxying.heads) == 1


def test_tls_in_tls_is_full_duplex(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    """Both sides send 8 MiB before either receives."""
    size = 1 << 20
    done = threading.Event()

    def handler(ws: syncws.Connection) -> None:
        for _ in range(8):
            ws.send(bytes(size), timeout=PATIENCE)
        for _ in range(8):
            assert len(ws.recv(PATIENCE)) == size
        done.set()
        ws.recv(PATIENCE)

    with syncws.serve(handler, "127.0.0.1", ssl=certified(authority, "127.0.0.1")) as server:
        proxy = scripted(Proxying(server.address[1]).http, certified(authority, "127.0.0.1"))
        with syncws.connect(
            server.url,
            ssl=client_context,
            proxy=f"https://127.0.0.1:{proxy.port}",
            proxy_ssl=client_context,
        ) as ws:
            for _ in range(8):
                ws.send(bytes(size), timeout=PATIENCE)
            for _ in range(8):
                assert len(ws.recv(PATIENCE)) == size
            assert done.wait(PATIENCE)
            waiter = ws.ping()
            assert waiter.wait(PATIENCE)
            with pytest.raises(TimeoutError):
                ws.recv(0.05)


# -- deadlines --------------------------------------------------------------------


def tls_stall(sock: socket.socket) -> None:
    """Opens the tunnel and says nothing in it."""
    read_head(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    stall(sock)


def dribbling(sock: socket.socket) -> None:
    read_head(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(200):
        sock.sendall(b"x")
        time.sleep(0.05)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("script", "uri", "outer", "step"),
    [
        (stall, "ws://name.invalid/", "http", "response to CONNECT by the proxy"),
        (dribbling, "ws://name.invalid/", "http", "response to CONNECT by the proxy"),
        (stall, "ws://name.invalid/", "https", "TLS handshake with the proxy"),
        (tls_stall, "wss://name.invalid/", "http", "in the TLS handshake "),
        (tls_stall, "ws://name.invalid/", "http", "response to the opening handshake"),
    ],
)
def test_a_proxy_gets_no_more_time(
    scripted: Serve, script: Any, uri: str, outer: str, step: str
) -> None:
    proxy = f"{outer}://127.0.0.1:{scripted(script).port}"
    started = time.monotonic()
    # Enough to come to the step, also on a busy machine.
    with pytest.raises(TimeoutError, match=rf"{step}.*open_timeout=2 s"):
        syncws.connect(uri, proxy=proxy, open_timeout=2)
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("step", ["resolving the proxy p.invalid", "connecting to the proxy p"])
def test_a_timeout_names_the_proxy(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(*_: Any) -> Any:
        time.sleep(0.1)
        raise TimeoutError

    if step.startswith("resolving"):
        monkeypatch.setattr(reaching, "resolve", time_out)
    else:
        monkeypatch.setattr(reaching, "resolve", lambda *_: [])
        monkeypatch.setattr(reaching, "connect_tcp", time_out)
    with pytest.raises(TimeoutError, match=step):
        syncws.connect("ws://name.invalid/", proxy="http://p.invalid", open_timeout=0.05)


@pytest.mark.usefixtures("clean")
def test_a_proxy_that_is_not_there_is_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=f"the proxy 127.0.0.1 port {port}"):
            syncws.connect("ws://name.invalid/", proxy=f"http://user:pw@127.0.0.1:{port}")


@pytest.mark.usefixtures("clean")
def test_a_proxy_that_resets_the_connection(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with pytest.raises(ConnectionResetError):
        syncws.connect("ws://name.invalid/", proxy=f"http://127.0.0.1:{scripted(script).port}")


# -- the transport ----------------------------------------------------------------


@pytest.fixture
def nested(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> Iterator[tuple[TLSTransport, threading.Event]]:
    """TLS inside TLS to a server that reads, and what it sets in the end."""
    ended = threading.Event()

    def server(sock: socket.socket) -> None:
        while sock.recv(65536):
            pass
        ended.set()

    target = scripted(server, certified(authority, "127.0.0.1"))
    proxy = scripted(Proxying(target.port).http, certified(authority, "127.0.0.1"))
    route = make_route(
        parse_uri(target.uri),
        ssl=client_context,
        server_hostname=None,
        proxy=f"https://127.0.0.1:{proxy.port}",
        proxy_ssl=client_context,
        proxy_server_hostname=None,
        user_agent_header=None,
    )
    transport = reach(route, Budget(PATIENCE))
    assert isinstance(transport, TLSTransport)
    yield transport, ended
    transport.close()


def test_tls_in_tls_ends_each_layer_by_its_own_alert(
    nested: tuple[TLSTransport, threading.Event],
) -> None:
    transport, ended = nested
    assert transport.peer_certificate
    assert not transport.pending()
    transport.send_before(b"x" * 1_000_000, time.monotonic() + PATIENCE)
    transport.end_output()
    assert ended.wait(PATIENCE)


@pytest.mark.parametrize("of_inner", [True, False])
def test_the_layer_below_renegotiates_first(
    nested: tuple[TLSTransport, threading.Event], of_inner: bool
) -> None:
    """An ``https://`` proxy does beside its answer, before the TLS in it begins or later."""
    transport, ended = nested
    below = transport._below
    assert isinstance(below, TLSTransport)
    lower = below.tls
    stand_in = Renegotiating(lower, 1)
    below.tls = stand_in  # type: ignore[assignment]  # a stand-in
    assert transport.send(b"x") == 1
    assert transport.stalled
    if of_inner:
        transport.complete_handshake(time.monotonic() + PATIENCE)
    else:
        transport.send_before(b"y", time.monotonic() + PATIENCE)
    assert stand_in.steps == 0
    assert not transport.stalled
    below.tls = lower
    transport.end_output()
    assert ended.wait(PATIENCE)


def test_a_layer_below_that_does_not_get_on_is_waited_for_until_the_deadline(
    nested: tuple[TLSTransport, threading.Event],
) -> None:
    transport, ended = nested
    below = transport._below
    assert isinstance(below, TLSTransport)
    lower = below.tls
    below.tls = Renegotiating(lower, 2**30)  # type: ignore[assignment]  # a stand-in
    assert transport.send(b"x") == 1
    used = time.thread_time()
    with pytest.raises(TimeoutError):
        transport.complete_handshake(time.monotonic() + 0.3)
    assert time.thread_time() - used < 0.2  # it waited
    below.tls = lower
    transport.end_output()
    assert ended.wait(PATIENCE)


def test_what_the_layer_below_does_not_take_is_kept(
    nested: tuple[TLSTransport, threading.Event],
) -> None:
    """For example while the proxy renegotiates: see test_transport_stalled.py."""
    transport, ended = nested
    below = transport._below
    assert isinstance(below, TLSTransport)
    lower = below.tls

    class Refusing:
        def write(self, data: object) -> int:
            raise ssl.SSLWantReadError

        def pending(self) -> int:
            return 0

    below.tls = Refusing()  # type: ignore[assignment]  # a stand-in
    assert not transport.stalled
    assert transport.send(b"x") == 1
    assert transport.stalled
    assert not transport.flush()
    assert transport.send(b"y") == 0
    below.tls = lower
    assert transport.flush()
    assert not transport.stalled
    transport.end_output()
    assert ended.wait(PATIENCE)
