"""Redirects: where they lead, what goes along, and which are not followed."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from proxying import Proxying
from scripted import (
    PATIENCE,
    Script,
    ScriptedServer,
    Serve,
    answer,
    read_head,
    scripted_servers,
    stall,
    upgrade,
)

import syncws
from syncws.exceptions import RedirectError
from syncws.headers import Headers
from syncws.http11 import Request, RequestParser, Response
from syncws.reader import client_reader
from syncws.redirects import Redirects, same_origin
from syncws.uri import WebSocketURI, parse_uri


@pytest.fixture
def scripted() -> Iterator[Serve]:
    with scripted_servers() as start:
        yield start


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> None:
    """No descriptor and no thread is left behind."""
    client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()


def redirect(location: str | None, status: int = 302, *extra: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Found", *extra, "Content-Length: 2"]
    if location is not None:
        lines.append(f"Location: {location}")
    return ("\r\n".join(lines) + "\r\n\r\nno").encode()


def parsed(head: bytes) -> Request:
    request = RequestParser().feed(head)
    assert request is not None
    return request


class Site:
    """A script that answers by path and remembers the requests."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.requests: list[Request] = []

    def __call__(self, sock: socket.socket) -> None:
        class Replayed:
            """Gives a head that was read already to the script that comes next."""

            def __init__(self, head: bytes) -> None:
                self.head = head

            def recv(self, size: int) -> bytes:
                head, self.head = self.head, b""
                return head or sock.recv(size)

            def sendall(self, data: bytes) -> None:
                sock.sendall(data)

        head = read_head(sock)
        request = parsed(head)
        self.requests.append(request)
        answer = self.answers.get(request.path)
        if answer is None:
            upgrade(Replayed(head))  # type: ignore[arg-type]
        else:
            sock.sendall(answer)


REQUEST = Request("/", Headers())


# -- where a Location leads -------------------------------------------------------


def follow(uri: str, location: str, most: int = 10) -> WebSocketURI:
    response = Response(302, "", Headers([("Location", location)]))
    return Redirects(most).follow(parse_uri(uri), REQUEST, response)


@pytest.mark.parametrize(
    ("uri", "location", "result"),
    [
        ("ws://h/a/b?q", "c", "ws://h/a/c"),
        ("ws://h/a/b?q", "/c?d", "ws://h/c?d"),
        ("ws://h/a/b?q", "?d", "ws://h/a/b?d"),
        ("ws://h/a/b?q", "../c", "ws://h/c"),
        ("ws://h:81/a", "/c", "ws://h:81/c"),
        ("wss://h/a", "//other/c", "wss://other/c"),
        ("ws://h/a", "ws://other:82/c", "ws://other:82/c"),
        ("ws://h/a", "wss://h/a", "wss://h/a"),
        ("ws://h/a", "http://other/c", "ws://other/c"),
        ("ws://h/a", "HTTPS://other/c", "wss://other/c"),
        ("wss://h/a", "https://other/c#fragment", "wss://other/c"),
        ("ws://h/a", "#fragment", "ws://h/a"),
        ("ws://h/a", "/c\u00c3\u00a9", "ws://h/c%C3%A9"),
        ("ws://[::1]:81/a", "/c", "ws://[::1]:81/c"),
        ("ws://[fe80::1%25eth0]/a", "/c", "ws://[fe80::1%25eth0]/c"),
        ("ws://h/a", "/\\other/c", "ws://h/\\other/c"),
    ],
)
def test_f4c_where_a_location_leads(uri: str, location: str, result: str) -> None:
    assert follow(uri, location) == parse_uri(result)


def test_f4c_only_the_program_says_who_it_is() -> None:
    assert follow("ws://me:pw@h/a", "/b") == parse_uri("ws://me:pw@h/b")
    assert follow("ws://me:pw@h/a", "ws://you:x@h/b") == parse_uri("ws://me:pw@h/b")
    assert follow("ws://h/a", "ws://you:x@h/b") == parse_uri("ws://h/b")
    for other in ("ws://g/b", "ws://h:81/b", "wss://h/b", "ws://you:x@g/b"):
        assert follow("ws://me:pw@h/a", other).username is None
        assert follow("ws://me:pw@h/a", other).password is None


@pytest.mark.parametrize(
    "location",
    [
        "",
        "ftp://h/hidden",
        "mailto:hidden",
        "ws://",
        "ws://h:0/?hidden",
        "ws://h:99999/?hidden",
        "ws://[::1/?hidden",
        "ws://user:hidden%0d%0a@h/",
        "/a b?hidden",
        "/a\tb?hidden",
        "http:// hidden/",
        "/\u00e9?hidden",
        "ws://h h/?hidden",
        "http:///hidden",
        "http:/hidden",
        "http:hidden",
        "https:?hidden",
        "///hidden",
        "//?hidden",
    ],
)
def test_f4c_a_location_that_is_none(location: str) -> None:
    with pytest.raises(RedirectError, match="its Location is not") as raised:
        follow("ws://h/a", location)
    assert "hidden" not in f"{raised.value} {raised.value.problem}"
    assert raised.value.__context__ is None


@pytest.mark.parametrize("count", [0, 2])
def test_f4c_not_one_location(count: int) -> None:
    response = Response(302, "", Headers([("Location", "/b")] * count))
    with pytest.raises(RedirectError, match=f"there are {count} Location headers"):
        Redirects(10).follow(parse_uri("ws://h/"), REQUEST, response)


VISIBLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"))
LOCATION_LIKE = st.text("htpws:/@[]%0123456789abcxyz.*-_,#?\\\u00c3\u00a9", max_size=60)


@given(
    VISIBLE | LOCATION_LIKE,
    st.sampled_from(["ws://h/a/b?q", "wss://me:pw@h:81/", "ws://[fe80::1%25e]/x", "ws://[::1]:9/"]),
)
def test_f4c_whatever_the_location_it_can_be_asked_or_is_refused(text: str, uri: str) -> None:
    before = parse_uri(uri)
    try:
        after = follow(uri, text.strip(" \t"))
    except RedirectError as error:
        assert error.__context__ is None
        return
    assert after.secure or not before.secure
    if not same_origin(before, after):
        assert after.username is None
    request = Request(after.resource_name, Headers({"Host": after.host_header}))
    assert request.serialize().count(b"\r\n") == 3


def test_same_origin() -> None:
    def same(one: str, other: str) -> bool:
        return same_origin(parse_uri(one), parse_uri(other))

    assert same("ws://h/a?b", "ws://me:pw@H:80/c")
    assert not same("ws://h/", "wss://h/")
    assert not same("ws://h/", "wss://h:80/")
    assert not same("ws://h/", "ws://h:81/")
    assert not same("ws://h/", "ws://www.h/")


# -- following --------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_f4c_a_redirect_to_the_same_origin_takes_everything_along(
    scripted: Serve, status: int
) -> None:
    site = Site({"/a?x": redirect("b", status)})
    server = scripted(site)
    with syncws.connect(
        f"ws://me:pw@127.0.0.1:{server.port}/a?x",
        additional_headers=iter(
            [("X-Token", "1"), ("Cookie", "c=d"), ("Cookie", "e=f"), ("Host", "name.invalid")]
        ),
        origin="https://origin.example",
        subprotocols=["chat"],
        close_timeout=0.1,
    ) as ws:
        assert ws.request.path == "/b"
    first, second = site.requests
    assert (first.path, second.path) == ("/a?x", "/b")
    assert first.headers["Sec-WebSocket-Key"] != second.headers["Sec-WebSocket-Key"]
    for request in site.requests:
        del request.headers["Sec-WebSocket-Key"]
    assert first.headers == second.headers
    assert second.headers["Authorization"] == "Basic bWU6cHc="
    assert second.headers["X-Token"] == "1"


@pytest.mark.usefixtures("clean")
def test_f4c_another_origin_learns_nothing(scripted: Serve) -> None:
    """And the first, when it is asked again, is not trusted any more."""
    home = Site({})
    first = scripted(home)
    away = Site({"/b": redirect(f"ws://127.0.0.1:{first.port}/c")})
    second = scripted(away)
    home.answers["/a"] = redirect(f"http://127.0.0.1:{second.port}/b")
    with syncws.connect(
        f"ws://me:secret@127.0.0.1:{first.port}/a",
        additional_headers={
            "X-Token": "secret",
            "Cookie": "c=secret",
            "Host": "secret.example",
            "User-Agent": "secret/1",
        },
        origin="https://origin.example",
        subprotocols=["chat"],
        close_timeout=0.1,
    ) as ws:
        assert ws.request.path == "/c"
    strangers = [away.requests[0], home.requests[1]]
    for request, port in zip(strangers, (second.port, first.port), strict=True):
        assert b"secret" not in request.serialize()
        assert set(request.headers) == {
            "host",
            "upgrade",
            "connection",
            "sec-websocket-key",
            "sec-websocket-version",
            "origin",
            "sec-websocket-extensions",
            "sec-websocket-protocol",
            "user-agent",
        }
        assert request.headers["Host"] == f"127.0.0.1:{port}"


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.usefixtures("clean")
def test_f4c_never_from_wss_to_ws(
    scripted: Serve, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    plain = scripted(upgrade)
    for scheme in ("ws", "http"):
        site = Site({"/": redirect(f"{scheme}://127.0.0.1:{plain.port}/b?token=hidden")})
        with pytest.raises(syncws.InsecureRedirectError, match="from wss:// to ws://") as raised:
            syncws.connect(scripted(site, server_context).uri, ssl=client_context)
        assert isinstance(raised.value, syncws.SecurityError)
        assert isinstance(raised.value, RedirectError)
        assert raised.value.response.status_code == 302
        assert "hidden" not in f"{raised.value}"
    assert plain.accepted == 0


@pytest.mark.usefixtures("clean")
def test_f4c_from_ws_to_wss_with_the_default_context(
    scripted: Serve, server_context: ssl.SSLContext
) -> None:
    """Which does not trust this server."""
    secure = scripted(upgrade, server_context)
    site = Site({"/": redirect(secure.uri)})
    with pytest.raises(ssl.SSLCertVerificationError):
        syncws.connect(scripted(site).uri)
    assert secure.accepted == 1


def test_f4c_server_hostname_is_for_the_first_server(
    scripted: Serve, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    """Or another one with the same certificate would be believed to be whoever it is."""
    context = certified(authority, "internal.example")
    site = Site({"/": redirect("/b"), "/b": redirect("/c")})
    first = scripted(site, context)
    second = scripted(upgrade, context)
    site.answers["/c"] = redirect(second.uri)
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        syncws.connect(first.uri, ssl=client_context, server_hostname="internal.example")
    assert [request.path for request in site.requests] == ["/", "/b", "/c"]


# -- not following ----------------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_f4c_a_loop(scripted: Serve) -> None:
    site = Site({"/": redirect("/a"), "/a": redirect("/b?token=hidden")})
    site.answers["/b?token=hidden"] = redirect("/a")
    with pytest.raises(RedirectError, match=r"leads back to ws://.*/a$") as raised:
        syncws.connect(scripted(site).uri)
    assert len(site.requests) == 3
    assert isinstance(raised.value, syncws.InvalidStatus)
    assert raised.value.response.body == b"no"
    with pytest.raises(RedirectError, match="leads back to"):
        syncws.connect(scripted(Site({"/": redirect("/#again")})).uri)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("most", [0, 1, 10])
def test_f4c_too_many(scripted: Serve, most: int) -> None:
    site = Site({f"/{number}": redirect(f"/{number + 1}") for number in range(12)})
    server = scripted(site)
    with pytest.raises(RedirectError, match=f"max_redirects={most}"):
        syncws.connect(f"{server.uri}{11 - most}", max_redirects=most)
    assert len(site.requests) == most + 1
    with syncws.connect(f"{server.uri}{12 - most}", max_redirects=most, close_timeout=0.1) as ws:
        assert ws.request.path == "/12"


def test_f4c_eleven_are_too_many_by_default(scripted: Serve) -> None:
    site = Site({f"/{number}": redirect(f"/{number + 1}") for number in range(11)})
    server = scripted(site)
    with pytest.raises(RedirectError, match="max_redirects=10"):
        syncws.connect(f"{server.uri}0")
    with syncws.connect(f"{server.uri}1", close_timeout=0.1):
        pass


@pytest.mark.parametrize("value", [None, True, "1", -1])
def test_a_bad_max_redirects(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match="max_redirects"):
        syncws.connect("ws://name.invalid/", max_redirects=value)  # type: ignore[arg-type]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    "location",
    [None, "ftp://h/", "/x\x01y", "/x\x7f", "ws://h:0/", "/a b"],
)
def test_f4c_a_location_on_the_wire_that_is_none(scripted: Serve, location: str | None) -> None:
    with pytest.raises(syncws.InvalidHandshake) as raised:
        syncws.connect(scripted(Site({"/": redirect(location)})).uri)
    if location is None or location.isprintable():
        assert isinstance(raised.value, RedirectError)
        assert raised.value.response.body == b"no"


def test_f4c_a_location_cannot_split_the_next_request(scripted: Serve) -> None:
    """Neither raw nor by what a client decodes."""
    encoded = "/%0d%0aX-Evil:%201?%0d%0a"
    site = Site({"/": redirect(encoded)})
    with syncws.connect(scripted(site).uri, close_timeout=0.1) as ws:
        assert ws.request.path == encoded
    # A bare CR ends no line here, and is allowed in no value.
    raw = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /\rX-Evil: 1\r\n\r\n"
    with pytest.raises(syncws.InvalidMessage):
        syncws.connect(scripted(Site({"/": raw})).uri)


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_f4c_what_is_no_redirect(scripted: Serve, status: int) -> None:
    server = scripted(Site({"/": redirect("/b", status)}))
    with pytest.raises(syncws.InvalidStatus) as raised:
        syncws.connect(server.uri)
    assert type(raised.value) is syncws.InvalidStatus


@pytest.mark.usefixtures("clean")
def test_a_socket_of_the_callers_is_not_left(scripted: Serve) -> None:
    server = scripted(Site({"/": redirect("/b")}))
    sock = socket.create_connection(("127.0.0.1", server.port))
    with pytest.raises(syncws.InvalidStatus) as raised:
        syncws.connect(server.uri, sock=sock)
    assert type(raised.value) is syncws.InvalidStatus
    assert raised.value.response.headers["Location"] == "/b"
    assert sock.fileno() == -1


# -- deadlines and proxies --------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_one_deadline_for_all_of_them(scripted: Serve) -> None:
    def slow(sock: socket.socket) -> None:
        head = read_head(sock)
        number = int(parsed(head).path[1:])
        time.sleep(0.2)
        sock.sendall(redirect(f"/{number + 1}"))

    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"open_timeout=0\.5 s"):
        syncws.connect(f"{scripted(slow).uri}0", open_timeout=0.5)
    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("clean")
def test_f7c_each_redirect_goes_through_the_proxy(scripted: Serve) -> None:
    site = Site({"/": redirect("ws://other.invalid/b")})
    proxying = Proxying(scripted(site).port)
    proxy: ScriptedServer = scripted(proxying.with_password("me", "pw"))
    with syncws.connect(
        "ws://name.invalid/", proxy=f"http://me:pw@127.0.0.1:{proxy.port}", close_timeout=0.1
    ):
        pass
    lines = [head.partition(b" HTTP")[0] for head in proxying.heads]
    assert lines == [b"CONNECT name.invalid:80", b"CONNECT other.invalid:80"]
    assert not any(b"Authorization" in request.serialize() for request in site.requests)


def test_an_error_after_a_redirect_is_what_is_raised(scripted: Serve) -> None:
    scripts: list[tuple[Script, float, type[Exception], str]] = [
        (stall, 0.5, TimeoutError, "open_timeout"),
        (answer(b"SSH\r\n"), PATIENCE, syncws.InvalidMessage, "status line"),
    ]
    for script, open_timeout, kind, text in scripts:
        site = Site({"/": redirect(scripted(script).uri)})
        with pytest.raises(kind, match=text):
            syncws.connect(scripted(site).uri, open_timeout=open_timeout)
