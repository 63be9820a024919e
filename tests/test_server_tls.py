"""What a server offers over TLS: client certificates, names, protocols, sessions."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
from started import Start, observed, servers
from talking import PATIENCE, RawClient
from upgrading import request

import syncws


@pytest.fixture
def start(nothing_left: Callable[[], None]) -> Iterator[Start]:
    with observed(nothing_left), servers() as start:
        yield start


def context_of(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """A server's context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def test_mutual_tls(authority: trustme.CA, start: Start) -> None:
    """Hooks and handlers see the certificate of the client."""
    theirs = trustme.CA()
    server_context = context_of(authority, "127.0.0.1")
    theirs.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = trusting(authority)
    theirs.issue_cert("jo@example.com").configure_cert(client_context)

    def names(certificate: dict[str, object] | None) -> object:
        assert certificate is not None
        return certificate["subjectAltName"]

    def hook(connection: syncws.PendingConnection, request: syncws.Request) -> None:
        [(_, connection.username)] = names(connection.peer_certificate)  # type: ignore[misc]

    def handler(ws: syncws.ServerConnection) -> None:
        ws.send(f"{ws.username} {names(ws.peer_certificate)}")

    server = start(handler, ssl=server_context, process_request=hook)
    with syncws.connect(server.url, ssl=client_context) as ws:
        expected = "jo@example.com (('email', 'jo@example.com'),)"
        assert ws.recv(PATIENCE) == expected
        assert ws.peer_certificate is not None
    with pytest.raises(OSError):
        syncws.connect(server.url, ssl=trusting(authority))
    other = trusting(authority)
    trustme.CA().issue_cert("jo@example.com").configure_cert(other)
    with pytest.raises(OSError):
        syncws.connect(server.url, ssl=other)
    with syncws.connect(server.url, ssl=client_context) as ws:
        assert ws.recv(PATIENCE) == expected


def test_the_name_that_a_client_asks_for_chooses_the_certificate(
    authority: trustme.CA, start: Start
) -> None:
    """In a helper thread: a callback may look into a database."""
    contexts = {name: context_of(authority, name) for name in ("a.example", "b.example")}
    asked: list[tuple[str | None, str]] = []

    def choose(tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        asked.append((name, threading.current_thread().name.rpartition("-")[0]))
        if name not in contexts:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        tls.context = contexts[name]
        return None

    server_context = context_of(authority, "127.0.0.1")
    server_context.sni_callback = choose
    server = start(ssl=server_context)
    for name in contexts:
        with syncws.connect(server.url, ssl=trusting(authority), server_hostname=name) as ws:
            assert ws.peer_certificate is not None
            assert ws.peer_certificate["subjectAltName"] == (("DNS", name),)
            ws.send("hello")
            assert ws.recv(PATIENCE) == "hello"
    with pytest.raises(ssl.SSLError):
        syncws.connect(server.url, ssl=trusting(authority), server_hostname="c.example")
    helper = "syncws-server-helper"
    assert asked == [("a.example", helper), ("b.example", helper), ("c.example", helper)]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["h2", "http/1.1"], "http/1.1"),
        (["http/1.1"], "http/1.1"),
        (["h2"], None),
        ([], None),
    ],
)
def test_http_1_1_is_what_it_speaks(
    authority: trustme.CA, start: Start, offered: list[str], chosen: str | None
) -> None:
    server = start(ssl=context_of(authority, "localhost"))
    context = trusting(authority)
    if offered:
        context.set_alpn_protocols(offered)
    with RawClient(server.address, context) as raw:
        assert isinstance(raw.sock, ssl.SSLSocket)
        assert raw.sock.selected_alpn_protocol() == chosen
        assert raw.upgrade() == 101


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mutual", [False, True])
def test_sessions_are_resumed(
    authority: trustme.CA, start: Start, version: ssl.TLSVersion, mutual: bool
) -> None:
    server_context = context_of(authority, "localhost")
    client_context = trusting(authority)
    client_context.maximum_version = version
    if mutual:
        authority.configure_trust(server_context)
        server_context.verify_mode = ssl.CERT_REQUIRED
        authority.issue_cert("client").configure_cert(client_context)
    server = start(lambda ws: ws.send(str(ws.peer_certificate is not None)), ssl=server_context)

    def visit(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        with contextlib.closing(socket.create_connection(server.address)) as sock:
            tls = client_context.wrap_socket(sock, server_hostname="localhost", session=session)
            with RawClient(tls) as raw:
                raw.send(request())
                raw.receive_head()
                # The client's certificate is part of the session.
                assert raw.receive_frame() == (1, str(mutual).encode())
                assert raw.answer_close() == 1000
                assert raw.receive_rest() == b""
                return tls.session, bool(tls.session_reused)

    session, reused = visit(None)
    assert not reused
    assert session is not None
    for _ in range(2):
        again, reused = visit(session)
        assert reused
        session = again or session
