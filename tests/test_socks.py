"""SOCKS proxies: who looks names up, credentials, and answers that make no sense."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import python_socks
import trustme
from proxying import Proxying, dribble, read_exactly
from scripted import PATIENCE, Serve, head_101, read_head, scripted_servers, upgrade, wait_for_end

import syncws
from syncws import socks
from syncws.dialing import Address, resolve
from syncws.proxy import parse_proxy
from syncws.reader import client_reader
from syncws.uri import WebSocketURI


@pytest.fixture
def scripted() -> Iterator[Serve]:
    with scripted_servers() as start:
        yield start


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> None:
    """No descriptor and no thread is left behind."""
    client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()


def addresses(*hosts: str) -> Callable[..., list[Address]]:
    """Instead of a name server."""

    def look_up(host: str, port: int, deadline: float | None) -> list[Address]:
        found: list[Address] = []
        for each in hosts if host == "name.invalid" else [host]:
            found += resolve(each, port, deadline)
        return found

    return look_up


# -- ways that work ---------------------------------------------------------------


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("scheme", "host", "found", "asked"),
    [
        ("socks4", "name.invalid", ["192.0.2.7"], b"192.0.2.7"),
        ("socks4", "name.invalid", ["2001:db8::1", "192.0.2.7"], b"192.0.2.7"),
        ("socks4", "192.0.2.9", [], b"192.0.2.9"),
        ("socks4a", "name.invalid", [], b"name.invalid"),
        ("socks4a", "192.0.2.9", [], b"192.0.2.9"),
        ("socks5", "name.invalid", ["192.0.2.7"], b"192.0.2.7"),
        ("socks5", "name.invalid", ["2001:db8::1", "192.0.2.7"], b"192.0.2.7"),
        ("socks5", "name.invalid", ["2001:db8::1"], b"2001:db8::1"),
        ("socks5", "[2001:db8::9]", [], b"2001:db8::9"),
        ("socks5h", "name.invalid", [], b"name.invalid"),
        ("socks5h", "192.0.2.9", [], b"192.0.2.9"),
        ("socks5h", "[2001:db8::9]", [], b"2001:db8::9"),
    ],
)
def test_f8c_who_looks_the_name_up(
    scripted: Serve,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    host: str,
    found: list[str],
    asked: bytes,
) -> None:
    monkeypatch.setattr(socks, "resolve", addresses(*found))
    if not found and "invalid" in host:
        # A name that the proxy looks up must not leak to name servers from here.
        monkeypatch.setattr(socks, "resolve", lambda *_: pytest.fail("looked up here"))
    proxying = Proxying(scripted(upgrade).port)
    proxy = scripted(proxying.socks4 if scheme.startswith("socks4") else proxying.socks5)
    address = f"{scheme}://127.0.0.1:{proxy.port}"
    with syncws.connect(f"ws://{host}:8080/", proxy=address, close_timeout=0.1) as ws:
        assert ws.request.headers["Host"] == f"{host}:8080"
    assert proxying.asked == [(asked, 8080)]


@pytest.mark.usefixtures("clean")
def test_tls_through_socks(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("name.invalid").configure_cert(context)
    proxy = scripted(Proxying(scripted(upgrade, context).port).socks5)
    address = f"socks5h://127.0.0.1:{proxy.port}"
    for host in ("name.invalid", "other.invalid"):
        try:
            with syncws.connect(
                f"wss://{host}/", ssl=client_context, proxy=address, close_timeout=0.1
            ) as ws:
                assert ws.peer_certificate
        except ssl.SSLCertVerificationError:
            assert host == "other.invalid"


@pytest.mark.parametrize(
    ("scheme", "credentials", "sent"),
    [
        ("socks4a", "me@", b"me"),
        ("socks4a", "", b""),
        ("socks5h", "me:p%3aw@", b"me:p:w"),
        ("socks5h", f"{'u' * 255}:{'p' * 255}@", b"u" * 255 + b":" + b"p" * 255),
    ],
)
def test_f7c_credentials_for_socks(
    scripted: Serve, scheme: str, credentials: str, sent: bytes
) -> None:
    proxying = Proxying(scripted(upgrade).port)
    proxy = scripted(proxying.socks4 if scheme == "socks4a" else proxying.socks5)
    address = f"{scheme}://{credentials}127.0.0.1:{proxy.port}"
    with syncws.connect("ws://name.invalid/", proxy=address, close_timeout=0.1):
        pass
    assert proxying.heads == [sent]


# -- what is refused before anything is sent --------------------------------------

BAD: list[tuple[str, str, type[Exception], str]] = [
    ("socks5://me@proxy", "name.invalid", syncws.InvalidProxy, "user name and a password"),
    ("socks5://:hidden@proxy", "name.invalid", syncws.InvalidProxy, "user name and a password"),
    ("socks4://me:hidden@proxy", "name.invalid", syncws.InvalidProxy, "no password"),
    ("socks5://me:hidd%C3%A9n@proxy", "name.invalid", syncws.InvalidProxy, "ASCII"),
    (f"socks5://me:{'hidden' * 50}@proxy", "name.invalid", syncws.InvalidProxy, "at most 255"),
    ("socks4://proxy", "[::1]", syncws.ProxyError, "SOCKS4 knows no IPv6"),
    ("socks4a://proxy", "[::1]", syncws.ProxyError, "SOCKS4 knows no IPv6"),
    ("socks5h://proxy", "a" * 300, syncws.InvalidURI, "not a valid name"),
    ("socks5h://proxy", ".".join(["a" * 60] * 5), syncws.InvalidURI, "not a valid name"),
]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("proxy", "host", "kind", "text"), BAD)
def test_f8c_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, proxy: str, host: str, kind: type[Exception], text: str
) -> None:
    monkeypatch.setattr("syncws.reaching.resolve", lambda *_: pytest.fail("too late"))
    with pytest.raises(kind, match=text) as raised:
        syncws.connect(f"ws://{host}/", proxy=proxy)
    assert "hidden" not in f"{raised.value} {raised.value!r}"


def test_f8c_a_name_for_which_socks_has_no_room() -> None:
    """No URI has one, for names in URIs end at 254 characters."""
    target = WebSocketURI(False, "a" * 256, 80, "/", "")
    with pytest.raises(ValueError, match="255 bytes"):
        socks.check_socks(parse_proxy("socks5h://proxy"), target)


@pytest.mark.parametrize("problem", ["missing", "too old"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    if problem == "missing":
        monkeypatch.setitem(sys.modules, "python_socks.sync", None)
    else:
        monkeypatch.setattr(python_socks, "__version__", "2.7.1")
    with pytest.raises(ImportError, match=r"a socks5:// proxy .* 'syncws\[socks\]'"):
        syncws.connect("ws://name.invalid/", proxy="socks5://proxy")


def test_the_package_is_imported_only_when_needed() -> None:
    program = "import syncws, sys; print([n for n in sys.modules if n.startswith('python_socks')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE)
    assert done.stdout.strip() == b"[]"


# -- answers ----------------------------------------------------------------------

METHOD = b"\5\0"
GOOD_REPLIES = {
    "IPv4": b"\5\0\0\1\1\2\3\4\0\0",
    "IPv6": b"\5\0\0\4" + bytes(18),
    "name": b"\5\0\0\3\4name\0\0",
    "empty name": b"\5\0\0\3\0\0\0",
    "longest name": b"\5\0\0\3\xff" + b"a" * 255 + b"\0\0",
}


@pytest.mark.parametrize("reply", GOOD_REPLIES.values(), ids=GOOD_REPLIES)
def test_f8c_replies_byte_by_byte(scripted: Serve, reply: bytes) -> None:
    def script(sock: socket.socket) -> None:
        read_exactly(sock, 3)
        dribble(METHOD)(sock)
        read_exactly(sock, 4 + 1 + len("name.invalid") + 2)
        dribble(reply)(sock)
        sock.sendall(head_101(read_head(sock)) + b"\x81\x01a")
        wait_for_end(sock)

    proxy = f"socks5h://127.0.0.1:{scripted(script).port}"
    with syncws.connect("ws://name.invalid/", proxy=proxy, close_timeout=0.1) as ws:
        assert ws.recv(PATIENCE) == "a"


BAD_REPLIES = {
    "version of the method": [b"\4\0"],
    "no acceptable method": [b"\5\xff"],
    "unknown method": [b"\5\x7f"],
    "GSSAPI": [b"\5\1"],
    "password not offered": [b"\5\2"],
    "half a method": [b"\5"],
    "nothing": [b""],
    "HTTP": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "refused": [METHOD, b"\5\5\0\1\0\0\0\0\0\0"],
    "refused, short": [METHOD, b"\5\1\0"],
    "unknown code": [METHOD, b"\5\x42\0\1\0\0\0\0\0\0"],
    "version of the reply": [METHOD, b"\4\0\0\1\0\0\0\0\0\0"],
    "reserved byte": [METHOD, b"\5\0\1\1\0\0\0\0\0\0"],
    "type of the address": [METHOD, b"\5\0\0\2\0\0\0\0\0\0"],
    "half a reply": [METHOD, b"\5\0\0\1\0\0"],
    "half a name": [METHOD, b"\5\0\0\3\xff" + b"a" * 100],
    "name that is no text": [METHOD, b"\5\0\0\3\1\xff\0\0"],
}


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("replies", BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_f8c_replies_that_open_no_way(scripted: Serve, replies: list[bytes]) -> None:
    def script(sock: socket.socket) -> None:
        for reply in replies:
            assert sock.recv(1000)
            sock.sendall(reply)

    proxy = f"socks5h://127.0.0.1:{scripted(script).port}"
    with pytest.raises(syncws.ProxyError, match="SOCKS proxy") as raised:
        syncws.connect("ws://name.invalid/", proxy=proxy)
    assert raised.value.response is None
    assert isinstance(raised.value, syncws.InvalidHandshake)


SOCKS4_REPLIES = {
    "rejected": b"\0\x5b\0\0\0\0\0\0",
    "identd": b"\0\x5c\0\0\0\0\0\0",
    "unknown": b"\0\0\0\0\0\0\0\0",
    "version": b"\4\x5a\0\0\0\0\0\0",
    "short": b"\0\x5a\0",
    "nothing": b"",
}


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("reply", SOCKS4_REPLIES.values(), ids=SOCKS4_REPLIES)
def test_f8c_replies_of_socks4(scripted: Serve, reply: bytes) -> None:
    def script(sock: socket.socket) -> None:
        assert sock.recv(1000)
        sock.sendall(reply)

    proxy = f"socks4a://127.0.0.1:{scripted(script).port}"
    with pytest.raises(syncws.ProxyError, match="SOCKS proxy"):
        syncws.connect("ws://name.invalid/", proxy=proxy)


@pytest.mark.usefixtures("clean")
def test_f7c_a_wrong_password_for_socks(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"\5\2")
        sock.recv(1000)
        sock.sendall(b"\1\1")

    proxy = f"socks5h://me:hunter2@127.0.0.1:{scripted(script).port}"
    with pytest.raises(syncws.ProxyError, match=r"(?i)authentication") as raised:
        syncws.connect("ws://name.invalid/", proxy=proxy)
    assert "hunter2" not in f"{raised.value} {raised.value!r} {raised.value.__cause__!r}"


@pytest.mark.usefixtures("clean")
def test_a_name_without_an_address_for_socks4(
    scripted: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socks, "resolve", addresses("2001:db8::1"))
    proxy = f"socks4://127.0.0.1:{scripted(wait_for_end).port}"
    with pytest.raises(syncws.ProxyError, match=r"name\.invalid has no other"):
        syncws.connect("ws://name.invalid/", proxy=proxy)


# -- deadlines --------------------------------------------------------------------


def _dribbling(sock: socket.socket) -> None:
    sock.recv(1000)
    sock.sendall(METHOD)
    sock.recv(1000)
    sock.sendall(b"\5\0\0\3\xff")
    for _ in range(200):
        sock.sendall(b"a")
        time.sleep(0.05)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("script", [wait_for_end, _dribbling])
def test_a_socks_proxy_gets_no_more_time(scripted: Serve, script: Any) -> None:
    started = time.monotonic()
    # Enough to come to the step, also on a busy machine.
    with pytest.raises(TimeoutError, match=r"waiting for the SOCKS proxy .open_timeout=2 s"):
        syncws.connect(
            "ws://name.invalid/",
            proxy=f"socks5h://127.0.0.1:{scripted(script).port}",
            open_timeout=2,
        )
    assert time.monotonic() - started < 8


def test_a_lookup_for_socks_gets_no_more_time(
    scripted: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out(*_: Any) -> Any:
        time.sleep(0.1)
        raise TimeoutError

    monkeypatch.setattr(socks, "resolve", time_out)
    proxy = f"socks5://127.0.0.1:{scripted(wait_for_end).port}"
    with pytest.raises(TimeoutError, match=r"resolving name\.invalid"):
        syncws.connect("ws://name.invalid/", proxy=proxy, open_timeout=0.05)


@pytest.mark.usefixtures("clean")
def test_a_socks_proxy_that_resets_the_connection(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with pytest.raises(ConnectionResetError):
        syncws.connect("ws://name.invalid/", proxy=f"socks5h://127.0.0.1:{scripted(script).port}")
