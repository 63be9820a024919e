"""route(): which handler is called, with what, and what is answered where there is none."""

from __future__ import annotations

import pathlib
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from started import observed
from talking import PATIENCE, RawClient
from upgrading import request
from werkzeug.routing import Map, Rule, Subdomain, Submount

import syncws


def told(name: str) -> Callable[..., None]:
    """A handler that tells its name and its arguments."""

    def handler(ws: syncws.ServerConnection, **values: Any) -> None:
        ws.send(repr((name, values)))

    return handler


def page(
    connection: syncws.PendingConnection, request: syncws.Request, **values: Any
) -> syncws.Response | None:
    """A page that tells its arguments; there is none without any."""
    return connection.respond(200, repr(values)) if values else None


RULES = [
    Rule("/", endpoint=told("root")),
    Rule("/both", endpoint=told("both")),
    Rule("/both", endpoint=page, methods=["GET"], defaults={"both": True}),
    Rule("/numbers/<int:number>", endpoint=told("number")),
    Rule("/numbers/<float(signed=True):number>", endpoint=told("float")),
    Rule("/ids/<uuid:id>", endpoint=told("uuid")),
    Rule("/names/<name>", endpoint=told("name")),
    Rule("/files/<path:name>", endpoint=told("path")),
    Rule("/slash/", endpoint=told("slash")),
    Rule("/rooms/<name>/", endpoint=told("room")),
    Rule("/marked", endpoint=told("marked"), websocket=True, methods=["GET"]),
    Rule("/pages/<int:number>", endpoint=page, methods=["GET"]),
    Rule("/empty", endpoint=page, methods=["GET"]),
    Rule("/posted", endpoint=page, methods=["POST"]),
    Rule("/old", redirect_to="both"),
    Rule("/away", redirect_to="https://example.org/x"),
    Submount("/below", [Rule("/it", endpoint=told("below"))]),
]


@pytest.fixture(scope="module")
def server() -> Iterator[syncws.ThreadingServer]:
    with syncws.route(Map(RULES), "127.0.0.1", close_timeout=1) as server:
        yield server


def ask(server: syncws.ThreadingServer, path: str, host: str = "localhost") -> str:
    """What the handler of a path says."""
    with RawClient(server.address) as raw:
        raw.open(line=f"GET {path} HTTP/1.1", Host=host)
        opcode, payload = raw.receive_frame()
        assert opcode == 1
        assert raw.answer_close() == 1000
        return payload.decode()


def refused(server: syncws.ThreadingServer, line: str, **changes: Any) -> tuple[int, str]:
    """The status of a refusal and its ``Location`` or ``Allow``."""
    with RawClient(server.address) as raw:
        raw.send(request(f"{line} HTTP/1.1", **changes))
        head = raw.receive_rest().partition(b"\r\n\r\n")[0].decode()
    fields = dict(row.split(": ", 1) for row in head.split("\r\n")[1:])
    return int(head.split()[1]), fields.get("Location", fields.get("Allow", ""))


ID = uuid.UUID("6f9619ff-8b86-4d01-b42d-00cf4fc964ff")


@pytest.mark.parametrize(
    ("path", "name", "values"),
    [
        ("/", "root", {}),
        ("/?query=1", "root", {}),
        ("/both", "both", {}),
        ("/numbers/7", "number", {"number": 7}),
        ("/numbers/-7.5", "float", {"number": -7.5}),
        (f"/ids/{ID}", "uuid", {"id": ID}),
        ("/names/J%C3%BCrgen%20x", "name", {"name": "J\u00fcrgen x"}),
        ("/names/a+b", "name", {"name": "a+b"}),
        ("/files/a/b.txt", "path", {"name": "a/b.txt"}),
        ("/marked", "marked", {}),
        ("/below/it", "below", {}),
        ("http://localhost/numbers/8", "number", {"number": 8}),
    ],
)
def test_a_handler_and_its_arguments(
    server: syncws.ThreadingServer, path: str, name: str, values: dict[str, Any]
) -> None:
    assert ask(server, path) == repr((name, values))


@pytest.mark.parametrize(
    ("path", "status_code", "field"),
    [
        ("/nothing", 404, ""),
        ("/numbers/x", 404, ""),
        ("/names/%ff", 404, ""),
        ("/names/a%2Fb", 404, ""),
        ("/pages/1", 404, ""),  # no WebSocket
        ("/posted", 405, "POST"),
        ("/slash", 308, "/slash/"),
        ("/slash?a=b&c", 308, "/slash/?a=b&c"),
        ("/files//a", 308, "/files/a"),
        ("/old", 308, "/both"),
        ("/away", 308, "https://example.org/x"),
    ],
)
def test_a_path_without_a_handler(
    server: syncws.ThreadingServer, path: str, status_code: int, field: str
) -> None:
    assert refused(server, f"GET {path}") == (status_code, field)


def test_e13_a_redirect_cannot_be_split(server: syncws.ThreadingServer) -> None:
    path = "/rooms/a%0d%0aSet-Cookie:%20b%00%c3%a9?c=%0d%0a"
    expected = "/rooms/a%0D%0ASet-Cookie:%20b%00%C3%A9/?c=%0d%0a"
    assert refused(server, f"GET {path}") == (308, expected)
    # To another host neither: urllib would read //evil as one.
    assert refused(server, "GET /%2Fevil.example/")[0] == 404
    status_code, location = refused(server, "GET /rooms/%2F/evil.example")
    assert (status_code, location) == (308, "/rooms/evil.example/")


@pytest.mark.parametrize(
    ("line", "status_code", "field"),
    [
        ("GET /nothing", 404, ""),
        ("GET /pages/x", 404, ""),
        ("GET /pages/1", 200, ""),
        ("HEAD /pages/1", 200, ""),
        ("GET /both", 200, ""),
        ("GET /posted", 405, "POST"),
        ("GET /empty", 426, ""),
        ("GET /", 426, ""),
        ("GET /marked", 426, ""),
        ("GET /slash", 404, ""),  # only a WebSocket is redirected to a WebSocket
    ],
)
def test_a_plain_request(
    server: syncws.ThreadingServer, line: str, status_code: int, field: str
) -> None:
    assert refused(server, line, Upgrade=None, Connection="close") == (status_code, field)


def test_a_bad_upgrade_to_a_handler(server: syncws.ThreadingServer) -> None:
    assert refused(server, "GET /", Sec_WebSocket_Version="12")[0] == 426


def test_a_client_follows_the_redirect(server: syncws.ThreadingServer) -> None:
    with syncws.connect(f"{server.url}slash?a=b") as ws:
        assert ws.recv(PATIENCE) == repr(("slash", {}))


def test_hosts(nothing_left: Callable[[], None]) -> None:
    rules = [
        Rule("/", endpoint=told("a"), host="a.example"),
        Rule("/", endpoint=told("port"), host="a.example:8080"),
        Rule("/", endpoint=told("other"), host="<name>.example"),
    ]
    url_map = Map(rules, host_matching=True)
    with observed(nothing_left), syncws.route(url_map, "127.0.0.1", close_timeout=1) as server:
        for host, told_ in {
            "a.example": ("a", {}),
            "A.EXAMPLE:80": ("a", {}),
            "a.example:8080": ("port", {}),
            "b.example": ("other", {"name": "b"}),
        }.items():
            assert ask(server, "/", host) == repr(told_)
        assert refused(server, "GET /", Host="evil")[0] == 404
        assert refused(server, "GET /", Host="[::1]:99")[0] == 404


def test_subdomains(nothing_left: Callable[[], None]) -> None:
    rules = [
        Rule("/", endpoint=told("top")),
        Subdomain("<name>", [Rule("/", endpoint=told("sub")), Rule("/x/", endpoint=told("x"))]),
    ]
    with (
        observed(nothing_left),
        syncws.route(Map(rules), "127.0.0.1", server_name="Example.com", close_timeout=1) as server,
    ):
        assert ask(server, "/", "example.com") == repr(("top", {}))
        assert ask(server, "/", "a.example.com") == repr(("sub", {"name": "a"}))
        assert refused(server, "GET /x", Host="a.example.com") == (308, "/x/")
        assert refused(server, "GET /", Host="evilexample.com")[0] == 404


def test_over_tls_a_redirect_stays_there(
    server_context: Any, client_context: Any, nothing_left: Callable[[], None]
) -> None:
    url_map = Map([Rule("/slash/", endpoint=told("slash"))])
    with (
        observed(nothing_left),
        syncws.route(url_map, "127.0.0.1", ssl=server_context, close_timeout=1) as server,
        RawClient(server.address, client_context) as raw,
    ):
        raw.send(request("GET /slash HTTP/1.1"))
        assert b"\r\nLocation: /slash/\r\n" in raw.receive_rest()


def test_a_hook_comes_first(nothing_left: Callable[[], None]) -> None:
    def hook(
        connection: syncws.PendingConnection, request: syncws.Request
    ) -> syncws.Response | None:
        connection.username = "jo"
        return connection.respond(403, "no") if request.path == "/nothing" else None

    def handler(ws: syncws.ServerConnection, number: int) -> None:
        ws.send(f"{ws.username} {number}")

    url_map = Map([Rule("/<int:number>", endpoint=handler)])
    with (
        observed(nothing_left),
        syncws.route(url_map, "127.0.0.1", process_request=hook, close_timeout=1) as server,
    ):
        assert ask(server, "/12") == "jo 12"
        assert refused(server, "GET /nothing")[0] == 403
        assert refused(server, "GET /other")[0] == 404


def test_a_unix_socket(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "socket"
    with syncws.unix_route(Map([Rule("/a", endpoint=told("a"))]), path, close_timeout=1):
        with syncws.unix_connect(path, "ws://localhost/a") as ws:
            assert ws.recv(PATIENCE) == repr(("a", {}))


@pytest.mark.parametrize(
    ("url_map", "options", "pattern"),
    [
        ([Rule("/", endpoint=page)], {}, "url_map"),
        (Map([Rule("/", endpoint="name")]), {}, "endpoint of '/'"),
        (Map([]), {"server_name": b"x"}, "server_name"),
        (Map([]), {"process_request": "x"}, "process_request"),
    ],
)
def test_a_bad_argument(url_map: Any, options: dict[str, Any], pattern: str) -> None:
    with pytest.raises(TypeError, match=pattern):
        syncws.route(url_map, "127.0.0.1", **options)


def test_rules_that_are_never_matched_need_no_endpoint() -> None:
    rules = [Rule("/", endpoint="name", build_only=True), Rule("/x", redirect_to="/y")]
    syncws.route(Map(rules), "127.0.0.1").shutdown()


def test_without_werkzeug(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "werkzeug"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "werkzeug", None)
    with pytest.raises(ImportError, match=r"pip install 'syncws\[routing\]'"):
        syncws.route(Map([]), "127.0.0.1")
