"""serve(trusted_proxies=): who the peer is for hooks, handlers and the origin check."""

from __future__ import annotations

import pathlib
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from started import Start, observed, servers
from talking import RawClient
from upgrading import request

import syncws

LOOPBACK = ["127.0.0.0/8", "::1"]


@pytest.fixture
def start(nothing_left: Callable[[], None]) -> Iterator[Start]:
    with observed(nothing_left), servers() as start:
        yield start


def tell(ws: syncws.ServerConnection) -> None:
    """The handler that says who the peer is."""
    ws.send(f"{ws.remote_address[0]} {ws.secure}")


def told(
    server: syncws.ThreadingServer, extra: str, context: ssl.SSLContext | None = None
) -> tuple[str, str]:
    """Whom the server takes a peer for, and what was its address in truth."""
    with RawClient(server.address, context) as raw:
        raw.open(extra=extra)
        _, payload = raw.receive_frame()
        assert raw.answer_close() == 1000
        return payload.decode(), raw.sock.getsockname()[0]


def spoofed(address: str = "9.9.9.9", proto: str = "https") -> str:
    return f"X-Forwarded-For: {address}\r\nX-Forwarded-Proto: {proto}\r\n"


@pytest.mark.parametrize(
    "options", [{}, {"trusted_proxies": []}, {"trusted_proxies": ["10.0.0.1"]}]
)
@pytest.mark.parametrize("extra", [spoofed(), "Forwarded: for=9.9.9.9;proto=https\r\n"])
def test_h6x_nobody_is_trusted_by_default(
    start: Start, options: dict[str, Any], extra: str
) -> None:
    said, truth = told(start(tell, **options), extra)
    assert said == f"{truth} False"


def test_a_trusted_proxy_is_believed(start: Start) -> None:
    server = start(tell, trusted_proxies=LOOPBACK)
    assert told(server, spoofed())[0] == "9.9.9.9 True"
    assert told(server, "")[0] == "127.0.0.1 False"


def test_a_trusted_proxy_may_talk_tls_for_a_plain_client(
    start: Start, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, ssl=server_context)
    assert told(server, spoofed(proto="http"), client_context)[0] == "9.9.9.9 False"
    assert told(server, "", client_context)[0] == "127.0.0.1 True"


def test_hooks_see_the_same(start: Start) -> None:
    def hook(connection: syncws.PendingConnection, request: syncws.Request) -> syncws.Response:
        return connection.respond(200, f"{connection.remote_address} {connection.secure}")

    server = start(tell, trusted_proxies=LOOPBACK, process_request=hook)
    with RawClient(server.address) as raw:
        raw.send(request(extra=spoofed("[2001:db8::1]:99")))
        assert raw.expect_refusal(200).endswith(b"\r\n\r\n('2001:db8::1', 99, 0, 0) True")


@pytest.mark.parametrize(
    ("proto", "origin", "status"),
    [
        ("https", "https://example.com", 101),
        ("https", "http://example.com", 403),
        ("http", "http://example.com", 101),
    ],
)
def test_e15_the_origin_of_a_page_behind_a_proxy(
    start: Start, proto: str, origin: str, status: int
) -> None:
    server = start(tell, trusted_proxies=LOOPBACK)
    with RawClient(server.address) as raw:
        assert raw.upgrade(Origin=origin, extra=spoofed(proto=proto)) == status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_h6x_headers_that_contradict_each_other_are_refused(start: Start, method: str) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, process_request=lambda connection, request: None)
    with RawClient(server.address) as raw:
        raw.send(request(f"{method} / HTTP/1.1", extra=spoofed() + "Forwarded: for=1.2.3.4\r\n"))
        answer = raw.receive_rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"contradict each other.\n") == (method == "GET")


def test_a_proxy_on_a_unix_socket(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "socket"
    with syncws.unix_serve(tell, path, trusted_proxies=["unix:"], close_timeout=1) as server:
        with RawClient(server.address) as raw:
            raw.open(extra=spoofed())
            assert raw.receive_frame() == (1, b"9.9.9.9 True")
            assert raw.answer_close() == 1000


@pytest.mark.parametrize("value", ["127.0.0.1", ["localhost"]])
def test_a_bad_argument(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="trusted_proxies"):
        syncws.serve(tell, "127.0.0.1", trusted_proxies=value)
