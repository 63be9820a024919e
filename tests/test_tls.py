"""Contexts and certificates: the default context, and connect() over TLS with certificates."""

from __future__ import annotations

import datetime
import pathlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
from scripted import (
    PATIENCE,
    Serve,
    head_101,
    read_head,
    scripted_servers,
    upgrade,
    wait_for_end,
)

import syncws
from syncws import tls
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


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default context has not been made yet."""
    monkeypatch.setattr(tls, "_default_context", None)


# -- the default context ----------------------------------------------------------


@pytest.mark.usefixtures("fresh")
def test_the_default_context() -> None:
    context = tls.default_context()
    assert context is tls.default_context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509_ca"] > 50  # certifi's
    assert context.keylog_filename is None


@pytest.mark.usefixtures("fresh")
def test_the_default_context_offers_http_1_1_and_logs_keys_where_it_is_told(
    scripted: Serve,
    authority: trustme.CA,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    authority.configure_trust(tls.default_context())
    server_context = certified(authority, "127.0.0.1")
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    chosen = []

    def script(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        chosen.append(sock.selected_alpn_protocol())
        upgrade(sock)

    with syncws.connect(scripted(script, server_context).uri, close_timeout=0.1):
        pass
    assert chosen == ["http/1.1"]
    assert "CLIENT_TRAFFIC_SECRET_0" in log.read_text()


# -- certificates of servers ------------------------------------------------------


def certified(authority: trustme.CA, *names: str, expired: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    options = {}
    if expired:
        options["not_after"] = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


@pytest.mark.usefixtures("clean")
def test_f5c_a_certificate_that_has_expired(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    server = scripted(upgrade, certified(authority, "127.0.0.1", expired=True))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired") as raised:
        syncws.connect(server.uri, ssl=client_context)
    assert type(raised.value) is ssl.SSLCertVerificationError
    assert raised.value.verify_code == 10  # X509_V_ERR_CERT_HAS_EXPIRED


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("certificate", "host", "good"),
    [
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", False),
        ("xn--bcher-kva.example", "b\u00fccher.example", True),
        ("b.example", "A.example", False),
        ("a.example", "A.EXAMPLE", True),
    ],
)
def test_f5c_names_in_certificates(
    scripted: Serve,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    certificate: str,
    host: str,
    good: bool,
) -> None:
    server = scripted(upgrade, certified(authority, certificate))
    sock = socket.create_connection(("127.0.0.1", server.port))
    if good:
        syncws.connect(f"wss://{host}/", sock=sock, ssl=client_context, close_timeout=0.1).close()
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            syncws.connect(f"wss://{host}/", sock=sock, ssl=client_context)


# -- certificates of clients ------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_of_ours(
    scripted: Serve, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """Mutual TLS: the server sees whom it has to do with, and refuses who shows nothing."""
    server_context = certified(authority, "127.0.0.1")
    server_context.minimum_version = server_context.maximum_version = version
    server_context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server_context)
    subjects = []

    def script(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        certificate = sock.getpeercert()
        assert certificate
        subjects.append(certificate["subjectAltName"])
        upgrade(sock)

    uri = scripted(script, server_context).uri
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    # TLS 1.3: the refusal comes after our side of the handshake is complete.
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"):
        syncws.connect(uri, ssl=context)
    authority.issue_cert("client.example").configure_cert(context)
    with syncws.connect(uri, ssl=context, close_timeout=0.1) as ws:
        assert ws.peer_certificate
        assert ("IP Address", "127.0.0.1") in ws.peer_certificate["subjectAltName"]
    assert subjects == [(("DNS", "client.example"),)]


# -- sessions ---------------------------------------------------------------------


def test_session_tickets_are_no_data(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    """TLS 1.3 tickets make the socket readable when there is nothing to read."""
    server_context = certified(authority, "127.0.0.1")
    server_context.num_tickets = 20

    def script(sock: socket.socket) -> None:
        head = read_head(sock)
        sock.sendall(head_101(head) + b"\x81\x01a")
        wait_for_end(sock)

    for _ in range(2):
        server = scripted(script, server_context)
        with syncws.connect(server.uri, ssl=client_context, close_timeout=0.1) as ws:
            assert ws.recv(PATIENCE) == "a"
            with pytest.raises(TimeoutError):
                ws.recv(0.05)


def test_a_forked_child_waits_for_no_thread_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was just reading the certificates of the system."""
    monkeypatch.setattr(tls, "_context_lock", threading.RLock())
    held = threading.Thread(target=tls._context_lock.acquire)
    held.start()
    held.join()
    tls._after_fork_in_child()
    assert tls._context_lock.acquire(timeout=PATIENCE)
    assert tls.default_context() is tls.default_context()
