"""process_request and process_response, and what becomes of what they return."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from started import Start, check_alive, echo, observed, servers
from talking import PATIENCE, RawClient, masked_frame, wait_until
from upgrading import HEADERS, request, upgrade

import syncws
from syncws.hooks import Hooks
from syncws.http11 import Headers, Response, ResponseParser
from syncws.server_connection import PendingConnection
from syncws.server_handshake import accept
from syncws.transport import Transport

PLAIN = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def start(nothing_left: Callable[[], None]) -> Iterator[Start]:
    with observed(nothing_left), servers() as start:
        yield start


def pending(**changes: Any) -> PendingConnection:
    """A peer that sent a request; its socket is of no use."""
    sock = socket.socket()
    transport = Transport(sock)
    sock.close()
    return PendingConnection(upgrade(**changes), transport, logging.getLogger("test"))


def answered(server: syncws.ThreadingServer, data: bytes) -> Response:
    """The one response to a request, after which nothing comes."""
    with RawClient(server.address) as raw:
        raw.send(data)
        received = raw.receive_rest()
    if data.startswith(b"HEAD "):
        head, end, body = received.partition(b"\r\n\r\n")
        assert end and not body
        status = re.match(rb"HTTP/1\.1 (\d+) ([^\r]*)\r\n", head + b"\r\n")
        assert status is not None
        lines = head.decode("latin-1").partition("\r\n")[2]
        headers = Headers.from_field_lines(f"{lines}\r\n")
        return Response(int(status[1]), status[2].decode(), headers)
    response = ResponseParser().feed(received)
    assert response is not None
    assert received.endswith(response.body)
    return response


def before(returned: Any, **changes: Any) -> Response | None:
    return Hooks(process_request=lambda connection, request: returned).before(pending(**changes))


# -- without I/O ------------------------------------------------------------------


def test_without_hooks_nothing_changes() -> None:
    peer = pending()
    response = accept(peer.request).response
    assert Hooks().before(peer) is None
    assert Hooks().after(peer, response) is response


@pytest.mark.parametrize("name", ["process_request", "process_response"])
def test_a_hook_that_cannot_be_called(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        syncws.serve(echo, "127.0.0.1", **{name: "hook"})


def test_none_goes_on() -> None:
    assert before(None) is None


@pytest.mark.parametrize(
    "changes", [{"Upgrade": None}, {"Upgrade": "h2c"}, {"line": "HEAD / HTTP/1.1"}]
)
def test_none_for_a_request_that_is_no_upgrade(changes: dict[str, Any]) -> None:
    response = before(None, **changes)
    assert response is not None
    assert response.status_code == 426


def test_a_bad_upgrade_is_refused_after_the_hook() -> None:
    response = before(None, Sec_WebSocket_Key="short")
    assert response is not None
    assert response.status_code == 400


def test_an_answer_is_framed() -> None:
    given = Response(
        200, "OK", Headers({"Content-Length": "99", "connection": "keep-alive", "X": "y"}), b"body"
    )
    given.headers.update([("Content-Type", "text/plain"), ("content-type", "text/html")])
    response = before(given)
    assert response is not None
    headers = response.headers
    assert headers.get_all("Content-Length") == ["4"]
    assert headers.get_all("Connection") == ["close"]
    assert headers.get_all("Content-Type") == ["text/html"]  # assigning one adds it
    assert headers["X"] == "y"
    assert len(headers.get_all("Date")) == 1
    assert given.headers["Content-Length"] == "99"  # the hook may return the same one again


def test_an_answer_keeps_its_date_and_its_upgrade() -> None:
    headers = Headers({"Date": "Thu, 01 Jan 1970 00:00:00 GMT", "Upgrade": "websocket"})
    response = before(Response(426, "", headers))
    assert response is not None
    assert response.headers.get_all("Date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert response.headers.get_all("Connection") == ["close, Upgrade"]


@pytest.mark.parametrize("status_code", [204, 304])
def test_an_answer_that_has_no_body(status_code: int) -> None:
    response = before(Response(status_code, "", Headers()))
    assert response is not None
    assert "Content-Length" not in response.headers
    with pytest.raises(ValueError, match=f"{status_code} with a body"):
        before(Response(status_code, "", Headers(), b"body"))


def changed(**attributes: Any) -> Response:
    """A response whose attributes were set after it had been checked."""
    response = Response(200, "OK", Headers())
    for name, value in attributes.items():
        setattr(response, name, value)
    return response


BAD = {
    "no response": ("OK", TypeError),
    "a tuple": ((200, "OK"), TypeError),
    "100": (Response(100, "", Headers()), ValueError),
    "101": (Response(101, "", Headers()), ValueError),
    "199": (Response(199, "", Headers()), ValueError),
    "600": (changed(status_code=600), ValueError),
    "chunked": (Response(200, "", Headers({"Transfer-Encoding": "chunked"})), ValueError),
    "a str": (changed(body="text"), TypeError),
    "E13 CRLF in a mapping": (changed(headers={"X": "y\r\nSet-Cookie: z"}), ValueError),
    "E13 CRLF in the reason": (changed(reason_phrase="OK\r\nX: y"), ValueError),
}


@pytest.mark.parametrize(("returned", "error"), BAD.values(), ids=BAD)
def test_an_answer_that_cannot_be_sent(returned: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        before(returned)


def after(hook: Callable[..., Any], response: Response | None = None) -> Response:
    peer = pending(Sec_WebSocket_Protocol="a")
    response = response or accept(peer.request, subprotocols=["a"]).response
    return Hooks(process_response=hook).after(peer, response)


def test_a_101_may_get_more_headers() -> None:
    def hook(connection: Any, request: Any, response: Response) -> None:
        response.headers["Set-Cookie"] = "a=b"
        response.headers["Server"] = "mine"

    response = after(hook)
    assert response.status_code == 101
    assert response.headers.get_all("Server") == ["mine"]
    assert response.headers["Set-Cookie"] == "a=b"
    assert "Content-Length" not in response.headers


def test_a_101_may_become_a_refusal() -> None:
    response = after(lambda connection, request, response: connection.respond(403, "no"))
    assert response.status_code == 403
    assert "Upgrade" not in response.headers


def test_a_refusal_may_become_another() -> None:
    refusal = Response(403, "Forbidden", Headers(), b"no")

    def hook(connection: Any, request: Any, response: Response) -> Response:
        assert response is refusal
        return Response(404, "Not Found", Headers())

    response = after(hook, refusal)
    assert (response.status_code, response.headers["Content-Length"]) == (404, "0")


def test_a_refusal_does_not_become_a_101() -> None:
    with pytest.raises(ValueError, match="turned a refusal into a 101"):
        after(lambda *_: Response(101, "", Headers()), Response(403, "Forbidden", Headers()))


@pytest.mark.parametrize("name", [*HEADERS, "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"])
def test_e13_a_101_remains_the_answer_to_this_request(name: str) -> None:
    def hook(connection: Any, request: Any, response: Response) -> None:
        response.headers[name] = "another"

    if name in ("Host", "Sec-WebSocket-Key", "Sec-WebSocket-Version"):
        assert after(hook).status_code == 101  # they mean nothing in a response
    else:
        with pytest.raises(ValueError, match=name):
            after(hook)


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
def test_e13_a_101_has_no_content(name: str) -> None:
    def hook(connection: Any, request: Any, response: Response) -> None:
        response.headers[name] = "0"

    with pytest.raises(ValueError, match="101 response content"):
        after(hook)


def test_e13_a_101_has_no_body() -> None:
    def hook(connection: Any, request: Any, response: Response) -> None:
        response.body = b"\x81\x00"

    with pytest.raises(ValueError, match="101 response content"):
        after(hook)


# -- with a server ----------------------------------------------------------------


def test_the_handler_gets_what_the_hook_saw(start: Start) -> None:
    seen: list[Any] = []

    def hook(connection: syncws.PendingConnection, request: syncws.Request) -> None:
        connection.username = "jo"
        seen.append((connection.id, connection.remote_address, request, connection.logger))
        seen.append(threading.current_thread())

    def handler(ws: syncws.ServerConnection) -> None:
        seen.append((ws.id, ws.remote_address, ws.request, ws.logger))
        seen.append(threading.current_thread())
        ws.send(f"{ws.username} {ws.secure}")

    server = start(handler, process_request=hook)
    with syncws.connect(server.url) as ws:
        assert ws.recv(PATIENCE) == "jo False"
        assert seen[0] == seen[2]
        assert seen[1] is seen[3]
        assert seen[1].name.startswith("syncws-handler-")


def test_a_handler_without_hooks_has_the_same_attributes(start: Start) -> None:
    server = start(lambda ws: ws.send(f"{ws.username} {ws.secure} {ws.id} {ws.remote_address[0]}"))
    with syncws.connect(server.url) as ws:
        assert re.fullmatch(r"None False [0-9a-f-]{36} 127\.0\.0\.1", ws.recv(PATIENCE))


def test_over_tls(
    start: Start, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server = start(
        lambda ws: ws.send(f"{ws.secure}"),
        ssl=server_context,
        process_request=lambda connection, request: (
            None if connection.secure else connection.respond(500, "not secure")
        ),
    )
    with syncws.connect(server.url, ssl=client_context) as ws:
        assert ws.recv(PATIENCE) == "True"


def test_a_hook_may_choose_the_handler(start: Start) -> None:
    def hook(connection: syncws.PendingConnection, request: syncws.Request) -> None:
        connection.handler = lambda ws: ws.send("chosen")

    with syncws.connect(start(echo, process_request=hook).url) as ws:
        assert ws.recv(PATIENCE) == "chosen"


def test_a_hook_refuses_an_upgrade(start: Start) -> None:
    server = start(process_request=lambda connection, request: connection.respond(503, "later"))
    with pytest.raises(syncws.InvalidStatus) as raised:
        syncws.connect(server.url)
    assert raised.value.response.status_code == 503
    assert raised.value.response.body == b"later"


def test_process_response_sets_a_cookie(start: Start) -> None:
    def hook(connection: Any, request: Any, response: syncws.Response) -> None:
        response.headers["Set-Cookie"] = "session=1"

    with syncws.connect(start(process_response=hook).url) as ws:
        assert ws.response.headers["Set-Cookie"] == "session=1"
        ws.send("hello")
        assert ws.recv(PATIENCE) == "hello"


def broken(*_: Any) -> Any:
    raise ValueError("secret")


@pytest.mark.parametrize(
    "options",
    [
        {"process_request": broken},
        {"process_response": broken},
        {"process_request": lambda *_: "OK"},
        {"process_response": lambda *_: "OK"},
    ],
    ids=["request raises", "response raises", "request is no response", "response is none"],
)
def test_e18_a_hook_that_fails_is_a_500_and_a_record(
    start: Start, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = start(**options)
    response = answered(server, request())
    assert response.status_code == 500
    assert b"secret" not in response.body
    wait_until(lambda: len(caplog.records) == 1)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("syncws.server", logging.ERROR)
    assert record.exc_info is not None


def page(connection: syncws.PendingConnection, request: syncws.Request) -> syncws.Response | None:
    match request.path:
        case "/health":
            return connection.respond(200, "fine")
        case "/large":
            return Response(200, "OK", Headers({"Content-Type": "image/png"}), b"\x89" * 5_000_000)
        case "/huge":  # more than any buffer takes
            return Response(200, "OK", Headers(), bytes(50_000_000))
        case "/nothing":
            return connection.respond(404, "no such page")
        case _:
            return None


def test_a_page(start: Start) -> None:
    server = start(process_request=page)
    response = answered(server, PLAIN)
    assert (response.status_code, response.body) == (200, b"fine")
    assert response.headers["Content-Length"] == "4"
    assert response.headers["Connection"] == "close"
    assert answered(server, PLAIN.replace(b"health", b"nothing")).status_code == 404
    check_alive(server)


def test_a_page_to_head(start: Start) -> None:
    server = start(process_request=page)
    response = answered(server, PLAIN.replace(b"GET", b"HEAD"))
    assert (response.status_code, response.headers["Content-Length"]) == (200, "4")


def test_a_refusal_to_head(start: Start) -> None:
    """Whoever decides it."""
    for options in ({}, {"process_request": page}, {"process_request": broken}):
        server = start(**options)
        assert answered(server, PLAIN.replace(b"GET", b"HEAD")).status_code in (200, 405, 500)
    server = start(lambda ws: ws.recv(), process_request=page, max_connections=1)
    with RawClient(server.address) as raw:
        raw.open()
        assert answered(server, PLAIN.replace(b"GET", b"HEAD")).status_code == 503


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_page(start: Start, method: str) -> None:
    server = start(process_request=page)
    response = answered(server, request(f"{method} / HTTP/1.1", Upgrade=None, Connection="close"))
    assert response.status_code == 426
    assert response.headers["Connection"] == "close, Upgrade"


def test_a_large_page(start: Start) -> None:
    server = start(process_request=page)
    with RawClient(server.address) as raw:
        raw.send(PLAIN.replace(b"health", b"large"))
        received = raw.receive_rest()
    assert received.endswith(b"\r\n\r\n" + b"\x89" * 5_000_000)


def test_a_large_page_over_tls(
    start: Start, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server = start(ssl=server_context, process_request=page)
    with RawClient(server.address, client_context) as raw:
        raw.send(PLAIN.replace(b"health", b"large"))
        received = raw.receive_rest()
    assert received.endswith(b"\r\n\r\n" + b"\x89" * 5_000_000)


def test_d13_a_page_that_nobody_reads_ends_in_time(start: Start) -> None:
    """Until then it counts as a connection, or a thousand of them would cost a thousand pages."""
    server = start(process_request=page, max_connections=1, open_timeout=3)
    with RawClient(server.address) as raw:
        raw.send(PLAIN.replace(b"health", b"huge"))
        wait_until(lambda: len(server._answered) == 1)
        assert answered(server, request()).status_code == 503
        wait_until(lambda: not server._openings)
    check_alive(server)


def test_g19x_a_page_that_nobody_reads_does_not_hold_a_shutdown(start: Start) -> None:
    server = start(process_request=page)
    with RawClient(server.address) as raw:
        raw.send(PLAIN.replace(b"health", b"huge"))
        wait_until(lambda: len(server._answered) == 1)
        assert server.shutdown(timeout=5) == []
        assert not server._openings


def test_a_refusal_during_a_shutdown(start: Start) -> None:
    """A hook that ends while the server shuts down is still answered for."""
    entered, release = threading.Event(), threading.Event()

    def hook(connection: syncws.PendingConnection, request: syncws.Request) -> syncws.Response:
        entered.set()
        release.wait(PATIENCE)
        return connection.respond(200, "late")

    server = start(process_request=hook)
    with RawClient(server.address) as raw:
        raw.send(PLAIN)
        assert entered.wait(PATIENCE)
        ending = threading.Thread(target=server.shutdown, kwargs={"timeout": PATIENCE})
        ending.start()
        wait_until(lambda: server.fileno() < 0 or not server._listening)
        release.set()
        assert raw.receive_rest().endswith(b"late")
        ending.join(PATIENCE)
        assert not ending.is_alive()


UNSEEN = {
    "POST": (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "OPTIONS": (b"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "E4 body": (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
    "E4 chunks": (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "E4 head with a body": (b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 400),
    "E7 no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "E7 two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "E8 asterisk": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "E8 another host": (b"GET //evil HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "E6 version": (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 505),
}


@pytest.mark.parametrize(("data", "status_code"), UNSEEN.values(), ids=UNSEEN)
def test_what_no_hook_sees(start: Start, data: bytes, status_code: int) -> None:
    called: list[Any] = []
    server = start(process_request=lambda *arguments: called.append(arguments))
    response = answered(server, data)
    assert response.status_code == status_code
    if status_code == 405:
        assert response.headers["Allow"] == "GET, HEAD"
    assert called == []


def test_a_hook_that_waits_delays_nobody_else(start: Start) -> None:
    """It is not in the reader thread, and each peer's has a thread of its own."""
    entered, release = threading.Event(), threading.Event()

    def hook(connection: syncws.PendingConnection, request: syncws.Request) -> Any:
        if request.path == "/slow":
            entered.set()
            release.wait(PATIENCE)
        return page(connection, request)

    server = start(process_request=hook)
    with RawClient(server.address) as raw:
        raw.send(request("GET /slow HTTP/1.1"))
        assert entered.wait(PATIENCE)
        check_alive(server)
        assert answered(server, PLAIN).body == b"fine"
        release.set()
        assert raw.receive_head().startswith(b"HTTP/1.1 101 ")
        raw.send(masked_frame(8, b"\x03\xe8"))
        raw.receive_rest()


def test_g20x_a_hook_that_hangs_is_reported(start: Start) -> None:
    entered, release = threading.Event(), threading.Event()

    def hook(*_: Any) -> None:
        entered.set()
        release.wait(PATIENCE)

    server = start(process_request=hook)
    with RawClient(server.address) as raw:
        raw.send(PLAIN)
        assert entered.wait(PATIENCE)
        [stuck] = server.shutdown(timeout=0.1)
        assert stuck.connection is None
        assert "in hook" in stuck.stack
        release.set()
