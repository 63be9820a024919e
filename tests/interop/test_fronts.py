"""Conversations through nginx and HAProxy, in the configurations that the documentation gives."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

import syncws

from .conversation import PATIENCE, converse, serve_conversation
from .fronts import KINDS, Front, front
from .test_chromium import report_of_page
from .test_npm_ws import npm_ws_client

# The client, where it must not be taken for a proxy.
ELSEWHERE = "127.0.0.2"


def health(connection: syncws.PendingConnection, request: syncws.Request) -> syncws.Response | None:
    """What HAProxy's check asks for."""
    return connection.respond(200, "fine\n") if request.path == "/health" else None


def either(*hooks: Any) -> Any:
    """A hook that asks several until one of them answers."""

    def hook(connection: syncws.PendingConnection, request: syncws.Request) -> Any:
        for each in hooks:
            if (response := each(connection, request)) is not None:
                return response
        return None

    return hook


def tell(ws: syncws.ServerConnection) -> None:
    """The handler that says who the peer is."""
    if ws.request.path == "/echo":
        serve_conversation(ws)
    ws.send(f"{ws.remote_address[0]} {ws.secure}")


def serve(
    kind: str, handler: object = serve_conversation, **options: object
) -> syncws.ThreadingServer:
    """A server as the configuration of ``kind`` wants it."""
    arguments: dict[str, object] = {
        "trusted_proxies": ["127.0.0.1"],
        "proxy_protocol": kind == "haproxy-tcp",
        "process_request": health,
        **options,
    }
    return syncws.serve(handler, "127.0.0.1", 0, **arguments)  # type: ignore[arg-type]


@contextlib.contextmanager
def served(
    kind: str,
    authority: trustme.CA,
    directory: Path,
    idle: str = "60s",
    handler: object = serve_conversation,
    **options: object,
) -> Iterator[Front]:
    """A server behind a proxy."""
    with (
        serve(kind, handler, **options) as server,
        front(kind, authority, directory, server.address[1], idle) as running,
    ):
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the configurations."""
    name: str = request.param
    return name


@pytest.fixture(params=[False, True], ids=["plain", "terminated"])
def secure(request: pytest.FixtureRequest) -> bool:
    """Whether the client speaks TLS to the proxy; the proxy never does to the server."""
    value: bool = request.param
    return value


def test_syncws_through_a_front(
    kind: str,
    secure: bool,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    with served(kind, authority, tmp_path, subprotocols=["chat"]) as running:
        # A server of syncws does not repeat the reason of a close frame.
        converse(running.url(secure), client_context if secure else None, reason="")


def test_npm_ws_through_a_front(
    kind: str, secure: bool, authority: trustme.CA, tmp_path: Path
) -> None:
    root = tmp_path / "ca.pem"
    root.write_bytes(authority.cert_pem.bytes())
    with served(kind, authority, tmp_path, subprotocols=["chat"]) as running:
        npm_ws_client(running.url(secure), root if secure else None)


@pytest.mark.timeout(3 * PATIENCE)
def test_chromium_through_a_front(
    kind: str, secure: bool, authority: trustme.CA, tmp_path: Path
) -> None:
    profile, directory = tmp_path / "profile", tmp_path / "front"
    profile.mkdir()
    directory.mkdir()

    @contextlib.contextmanager
    def conversation(site: str) -> Iterator[tuple[str, Path | None]]:
        with served(kind, authority, directory, subprotocols=["chat"], origins=[site]) as running:
            yield running.url(secure), running.certificate if secure else None

    assert report_of_page(conversation, profile) == ""


def connected(
    running: Front, secure: bool, context: ssl.SSLContext, path: str = "/", **options: object
) -> syncws.Connection:
    """A connection from an address that is not the proxy's."""
    url = running.url(secure)
    port = int(url.rpartition(":")[2])
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(ELSEWHERE, 0))
    return syncws.connect(  # type: ignore[call-overload,no-any-return,unused-ignore]
        url + path, sock=sock, ssl=context if secure else None, **options
    )


def test_h6x_the_server_knows_the_client_and_believes_no_spoofed_header(
    kind: str,
    secure: bool,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    spoofed = {
        "X-Forwarded-For": "9.9.9.9",
        "X-Forwarded-Proto": "http" if secure else "https",
        "Forwarded": "for=9.9.9.9;proto=https",
    }
    with served(kind, authority, tmp_path, handler=tell) as running:
        for headers in ({}, spoofed):
            ws = connected(running, secure, client_context, additional_headers=headers)
            with ws:
                assert ws.recv(PATIENCE) == f"{ELSEWHERE} {secure}"


def test_h6x_without_the_option_the_peer_is_the_proxy(
    secure: bool, authority: trustme.CA, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    with served("nginx", authority, tmp_path, handler=tell, trusted_proxies=None) as running:
        with connected(running, secure, client_context) as ws:
            assert ws.recv(PATIENCE) == "127.0.0.1 False"


def test_e15_pages_of_the_same_site_only(
    kind: str,
    secure: bool,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    """By default, with nothing told to the server but who the proxy is."""
    with served(kind, authority, tmp_path, handler=tell) as running:
        site = running.url(secure).replace("ws", "http", 1)
        with connected(running, secure, client_context, origin=site):
            pass
        for origin in (f"{site}0", "https://example.com", "null"):
            with pytest.raises(syncws.InvalidStatus) as raised:
                connected(running, secure, client_context, origin=origin)
            assert raised.value.response.status_code == 403
        if secure:
            with pytest.raises(syncws.InvalidStatus):
                connected(running, secure, client_context, origin=site.replace("https", "http"))


def test_h6x_pings_keep_an_idle_connection_open(
    kind: str,
    secure: bool,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    """What ping_interval is for behind a proxy: three times its timeout of two seconds pass."""
    with served(kind, authority, tmp_path, idle="2s", handler=tell, ping_interval=0.1) as running:
        with connected(running, secure, client_context, "/echo", ping_interval=None) as ws:
            with pytest.raises(TimeoutError):
                ws.recv(timeout=6)
            ws.send("still here")
            assert ws.recv(PATIENCE) == "still here"


def test_h6x_an_idle_connection_without_pings_is_cut(
    kind: str, authority: trustme.CA, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    """The other half of the advice: it is the pings that matter."""
    with served(kind, authority, tmp_path, idle="1s", handler=tell, ping_interval=None) as running:
        with connected(running, False, client_context, "/echo", ping_interval=None) as ws:
            with pytest.raises(syncws.ConnectionClosedError):
                ws.recv(PATIENCE)
            assert ws.close_code == 1006


def test_a_page_through_a_front(
    kind: str, secure: bool, authority: trustme.CA, tmp_path: Path
) -> None:
    root = tmp_path / "ca.pem"
    root.write_bytes(authority.cert_pem.bytes())
    with served(kind, authority, tmp_path) as running:
        url = running.url(secure).replace("ws", "http", 1)
        for path, status in (("/health", "200"), ("/", "426")):
            command = ["curl", "--silent", "--cacert", str(root), "--write-out", "%{http_code}"]
            result = subprocess.run(
                [*command, url + path], capture_output=True, text=True, timeout=PATIENCE, check=True
            )
            assert result.stdout.endswith(status)


@pytest.mark.parametrize("http_kind", ["nginx", "haproxy"])
def test_e11_a_failed_upgrade_opens_no_tunnel(
    http_kind: str, authority: trustme.CA, tmp_path: Path
) -> None:
    """A proxy that took 426 for a success would pass on what follows without looking at it."""
    seen: list[tuple[str, str]] = []

    def note(connection: syncws.PendingConnection, request: syncws.Request) -> None:
        if request.path != "/health":
            seen.append((request.path, ", ".join(request.headers.get_all("X-Forwarded-For"))))
        return None

    first = (
        "GET /first HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 1777\r\n\r\n"
    )
    second = (
        "GET /second HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 9.9.9.9\r\n"
        "Connection: close\r\n\r\n"
    )
    with served(http_kind, authority, tmp_path, process_request=either(health, note)) as running:
        port = int(running.plain.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall((first + second).encode())
            received = b""
            while data := sock.recv(65536):
                received += data
    assert received.startswith(b"HTTP/1.1 426 ")
    assert seen[0][0] == "/first"
    # The second comes with the mark of a proxy that has read it, or not at all.
    assert seen[1:] in ([], [("/second", "9.9.9.9, 127.0.0.1")])


def test_nobody_goes_around_haproxy(authority: trustme.CA, tmp_path: Path) -> None:
    """A server that wants the PROXY protocol has nothing to say to anybody else."""
    with serve("haproxy-tcp") as server:
        with pytest.raises((syncws.InvalidHandshake, OSError)):
            syncws.connect(server.url)
