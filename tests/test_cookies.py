"""A jar of the standard library: what is sent from it, and what comes into it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from typing import Any

import pytest
from scripted import PATIENCE, Serve, head_101, read_head, scripted_servers, wait_for_end

import syncws
from syncws.cookies import cookie_header, store_cookies
from syncws.headers import Headers
from syncws.http11 import RequestParser, Response
from syncws.reader import client_reader
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


def cookie(name: str, value: str, domain: str, path: str = "/", secure: bool = False) -> Cookie:
    return Cookie(
        version=0,
        name=name,
        value=value,
        port=None,
        port_specified=False,
        domain=domain,
        domain_specified=domain.startswith("."),
        domain_initial_dot=domain.startswith("."),
        path=path,
        path_specified=True,
        secure=secure,
        expires=None,
        discard=True,
        comment=None,
        comment_url=None,
        rest={},
    )


def jar_of(*cookies: Cookie) -> CookieJar:
    jar = CookieJar()
    for each in cookies:
        jar.set_cookie(each)
    return jar


def cookies_of(jar: CookieJar) -> dict[str, str | None]:
    return {each.name: each.value for each in jar}


# -- which cookies ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "header"),
    [
        ("ws://example.com/", "a=1"),
        ("ws://example.com:8080/?query", "a=1"),
        ("wss://example.com/", "a=1; s=3"),
        ("ws://example.com/deep/path", "p=2; a=1"),
        ("ws://www.example.com/", "a=1; d=4"),  # the default policy of jars is liberal
        ("ws://other.example/", None),
        ("ws://example.com.evil.example/", None),
        ("ws://127.0.0.1/", "i=5"),
        ("ws://[::1]:81/", None),
    ],
)
def test_what_is_sent(uri: str, header: str | None) -> None:
    jar = jar_of(
        cookie("a", "1", "example.com"),
        cookie("p", "2", "example.com", "/deep"),
        cookie("s", "3", "example.com", secure=True),
        cookie("d", "4", ".www.example.com"),
        cookie("i", "5", "127.0.0.1"),
    )
    assert cookie_header(jar, parse_uri(uri)) == header


@pytest.mark.parametrize(
    ("line", "stored"),
    [
        ("a=1", {"a": "1"}),
        ("a=1; Path=/; Secure; HttpOnly", {"a": "1"}),
        ("a=1; Domain=example.com", {"a": "1"}),
        ("a=1; Domain=other.example", {}),
        ("a=1; Max-Age=0", {}),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", {}),
        ("", {}),
    ],
)
def test_what_is_stored(line: str, stored: dict[str, str]) -> None:
    jar = CookieJar()
    headers = Headers([("Set-Cookie", line)])
    store_cookies(jar, parse_uri("wss://www.example.com/"), Response(101, "", headers))
    assert cookies_of(jar) == stored


def test_several_are_stored_and_replaced() -> None:
    jar = jar_of(cookie("a", "0", "example.com"))
    lines = [("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("Set-Cookie2", "c=3")]
    store_cookies(jar, parse_uri("ws://example.com/"), Response(200, "", Headers(lines)))
    assert cookies_of(jar) == {"a": "1", "b": "2"}


def test_the_policy_of_the_jar_decides() -> None:
    jar = CookieJar(DefaultCookiePolicy(blocked_domains=["example.com"], rfc2965=True))
    target = parse_uri("ws://example.com/")
    store_cookies(jar, target, Response(200, "", Headers([("Set-Cookie", "a=1")])))
    assert cookies_of(jar) == {}
    strict = CookieJar(DefaultCookiePolicy(rfc2965=True, strict_ns_domain=3))
    strict.set_cookie(cookie("a", "1", "example.com"))
    assert cookie_header(strict, target) == "a=1"


# -- connect() --------------------------------------------------------------------


def setting(*lines: str, status: str = "101") -> Callable[[socket.socket], None]:
    """Sets a cookie for each line, and accepts, or refuses with a status."""

    def script(sock: socket.socket) -> None:
        head = read_head(sock)
        fields = [f"Set-Cookie: {line}" for line in lines]
        if status == "101":
            sock.sendall(head_101(head, *fields))
            wait_for_end(sock)
        else:
            start = [f"HTTP/1.1 {status} X", "Content-Length: 0", *fields]
            sock.sendall("\r\n".join([*start, "\r\n"]).encode())

    return script


@pytest.mark.usefixtures("clean")
def test_a_jar_is_read_and_updated(scripted: Serve) -> None:
    server = scripted(setting("a=2", "b=3"))
    jar = jar_of(cookie("a", "1", "127.0.0.1"))
    with syncws.connect(server.uri, cookies=jar, close_timeout=0.1) as ws:
        assert ws.request.headers["Cookie"] == "a=1"
    assert cookies_of(jar) == {"a": "2", "b": "3"}
    with syncws.connect(server.uri, cookies=jar, close_timeout=0.1) as ws:
        assert ws.request.headers["Cookie"] == "a=2; b=3"


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("status", ["401", "403", "503", "200", "302"])
def test_a_refusal_sets_cookies_too(scripted: Serve, status: str) -> None:
    jar = CookieJar()
    with pytest.raises(syncws.InvalidStatus):
        syncws.connect(scripted(setting("a=1", status=status)).uri, cookies=jar)
    assert cookies_of(jar) == {"a": "1"}


@pytest.mark.usefixtures("clean")
def test_f4c_a_server_may_set_a_cookie_and_redirect_to_itself(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        head = read_head(sock)
        if b"Cookie: session=1" in head:
            sock.sendall(head_101(head))
            wait_for_end(sock)
        else:
            sock.sendall(
                b"HTTP/1.1 302 X\r\nLocation: /\r\nSet-Cookie: session=1\r\n"
                b"Content-Length: 0\r\n\r\n"
            )

    server = scripted(script)
    with syncws.connect(server.uri, cookies=CookieJar(), close_timeout=0.1):
        pass
    with pytest.raises(syncws.RedirectError, match="leads back"):
        syncws.connect(server.uri)
    deaf = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    with pytest.raises(syncws.RedirectError, match="leads back"):
        syncws.connect(server.uri, cookies=deaf)


@pytest.mark.usefixtures("clean")
def test_f4c_a_redirect_takes_only_the_cookies_that_the_jar_allows(scripted: Serve) -> None:
    requests = []

    def script(sock: socket.socket) -> None:
        head = read_head(sock)
        request = RequestParser().feed(head)
        assert request is not None
        requests.append(request)
        if request.path == "/":
            location = f"ws://localhost:{server.port}/b"
            sock.sendall(
                f"HTTP/1.1 307 X\r\nLocation: {location}\r\n"
                "Set-Cookie: b=2\r\nContent-Length: 0\r\n\r\n".encode()
            )
        else:
            sock.sendall(head_101(head, "Set-Cookie: d=4"))
            wait_for_end(sock)

    server = scripted(script)
    jar = jar_of(cookie("a", "1", "127.0.0.1"), cookie("c", "3", "localhost.local"))
    with syncws.connect(server.uri, cookies=jar, close_timeout=0.1):
        pass
    assert [request.headers.get("Cookie") for request in requests] == ["a=1", "c=3"]
    assert cookies_of(jar) == {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert {each.name: each.domain for each in jar}["d"] == "localhost.local"


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("value", ["1\r\nX-Evil: hidden", "hidden\0", "hidden\u20ac", "hidden\x1b"])
def test_f1c_a_cookie_that_cannot_be_sent(value: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(ValueError, match="header Cookie") as raised:
            syncws.connect("ws://h/", sock=ours, cookies=jar_of(cookie("a", value, "h.local")))
        assert theirs.recv(100) == b""
    assert "hidden" not in str(raised.value)


def test_f9c_cookies_are_not_shown(scripted: Serve) -> None:
    server = scripted(setting("a=hidden"))
    jar = jar_of(cookie("b", "hidden", "127.0.0.1"))
    with syncws.connect(server.uri, cookies=jar, close_timeout=0.1) as ws:
        assert "hidden" not in f"{ws.request!r} {ws.response!r} {ws!r}"


@pytest.mark.parametrize("value", ["a=b", {"a": "b"}, True, CookieJar])
def test_what_is_no_jar(value: Any) -> None:
    with pytest.raises(TypeError, match=r"cookies must be a http\.cookiejar\.CookieJar"):
        syncws.connect("ws://name.invalid/", cookies=value)


def test_a_jar_and_a_header_are_too_much() -> None:
    with pytest.raises(ValueError, match="both cookies and additional_headers"):
        syncws.connect(
            "ws://name.invalid/", cookies=CookieJar(), additional_headers={"cookie": "a=b"}
        )
    with pytest.raises(OSError):
        syncws.connect("ws://127.0.0.1:1/", cookies=CookieJar(), additional_headers={"x": "y"})


def test_one_jar_for_many_threads(scripted: Serve) -> None:
    jar = jar_of(*[cookie(f"n{number}", "v", "127.0.0.1") for number in range(20)])
    uris = [scripted(setting(f"t{number}=1")).uri for number in range(4)]
    errors: list[BaseException] = []

    def run(uri: str) -> None:
        try:
            for _ in range(10):
                syncws.connect(uri, cookies=jar, close_timeout=0.1).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(uri,)) for uri in uris]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []
    assert len(cookies_of(jar)) == 24


def test_nothing_is_imported_for_programs_without_cookies() -> None:
    program = """
import sys, syncws
print("http.cookiejar" in sys.modules, "urllib.request" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE)
    assert done.stdout.split() == [b"False", b"False"]
