"""Addresses of proxies, the environment, and CONNECT."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxying import ESTABLISHED, Proxying, dribble
from scripted import (
    PATIENCE,
    Serve,
    answer,
    head_101,
    read_head,
    scripted_servers,
    upgrade,
    wait_for_end,
)

import syncws
from syncws import reaching
from syncws.dialing import Address, resolve
from syncws.proxy import Proxy, _is_excepted, choose_proxy, parse_proxy
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


# -- addresses --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy.example", Proxy("http", "proxy.example", 80)),
        ("http://proxy.example/", Proxy("http", "proxy.example", 80)),
        ("HTTPS://Proxy.Example", Proxy("https", "proxy.example", 443)),
        ("proxy.example:3128", Proxy("http", "proxy.example", 3128)),
        ("10.0.0.1:3128", Proxy("http", "10.0.0.1", 3128)),
        ("[::1]:3128", Proxy("http", "::1", 3128)),
        ("http://a:b%40c@proxy:1", Proxy("http", "proxy", 1, "a", "b@c")),
        ("http://a@proxy", Proxy("http", "proxy", 80, "a", "")),
        ("http://b\u00fccher.example", Proxy("http", "xn--bcher-kva.example", 80)),
        ("socks4://proxy", Proxy("socks4", "proxy", 1080)),
        ("socks4a://proxy", Proxy("socks4a", "proxy", 1080)),
        ("socks5://proxy", Proxy("socks5", "proxy", 1080)),
        ("socks5h://proxy:9050", Proxy("socks5h", "proxy", 9050)),
        ("socks://proxy", Proxy("socks5h", "proxy", 1080)),
    ],
)
def test_addresses(text: str, proxy: Proxy) -> None:
    assert parse_proxy(text) == proxy


BAD_PROXIES = {
    "http://hidden:hidden@proxy/path": "path",
    "http://proxy?hidden": "query",
    "http://proxy#hidden": "fragment",
    "ftp://hidden@proxy": "scheme must be one of http, https, socks4",
    "http://hidden:hid den@proxy": "space",
    "http://hidden:hidden\r\nX: y@proxy": "control character",
    "http://hidden:hidden%0a@proxy": "control character",
    "http://hidden:%ff@proxy": "UTF-8",
    "http://proxy:0": "port",
    "http://proxy:65536": "port",
    "http://pro\0xy": "control character",
    "http://pr\x1boxy": "control character",
    "http://a@hidden@proxy": "'@'",
    "http://": "host",
    "": "host",
    "http://" + "a" * 300: "name",
}


@pytest.mark.parametrize(("text", "problem"), BAD_PROXIES.items())
def test_f1c_what_is_no_address_of_a_proxy(text: str, problem: str) -> None:
    with pytest.raises(syncws.InvalidProxy, match=problem) as raised:
        parse_proxy(text)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, syncws.WebSocketError)
    assert "hidden" not in f"{raised.value!r} {raised.value} {raised.value.proxy}"
    assert raised.value.__context__ is None


ADDRESS_LIKE = st.text("htps:/@[]%0123456789abcxyz.*-_,#?\\ \u00e9\ud800", max_size=60)


@given(st.text() | ADDRESS_LIKE)
def test_f1c_whatever_the_text_it_is_an_address_or_not(text: str) -> None:
    with contextlib.suppress(syncws.InvalidProxy):
        proxy = parse_proxy(text)
        assert 1 <= proxy.port <= 65535
        assert proxy.host.isascii()
        assert "\n" not in f"{proxy!r}"


@given(
    st.text() | ADDRESS_LIKE,
    st.sampled_from(["example.com", "10.0.0.1", "[::1]", "[fe80::1%25e]", "b\u00fccher.example"]),
)
def test_f7c_no_proxy_may_be_any_text(text: str, host: str) -> None:
    target = parse_uri(f"ws://{host}/")
    assert _is_excepted(target.host.partition("%")[0], target.port, text) in (True, False)


def test_f7c_no_credentials_in_the_repr() -> None:
    text = repr(parse_proxy("http://user:hunter2@proxy.example:3128"))
    assert text == "<Proxy http://***@proxy.example:3128>"
    assert repr(parse_proxy("https://[::1]")) == "<Proxy https://[::1]:443>"


# -- the environment --------------------------------------------------------------

VARIABLES = ["ws", "wss", "http", "https", "socks", "all", "no"]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable is set."""
    for name in VARIABLES:
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_PROXY".upper(), raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)


def chosen(uri: str, **variables: str) -> str | None:
    """The host of the proxy chosen."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        proxy = choose_proxy(parse_uri(uri))
    return None if proxy is None else proxy.host


WS, WSS = "ws://example.com/", "wss://example.com/"


@pytest.mark.parametrize(
    ("uri", "order"),
    [
        (WS, ["ws", "socks", "https", "http", "all"]),
        (WSS, ["wss", "socks", "https", "all"]),
    ],
)
def test_f7c_the_order_of_the_variables(uri: str, order: list[str]) -> None:
    assert chosen(uri) is None
    for index in range(len(order)):
        later = {f"{name}_proxy": f"{name}.example" for name in order[index:]}
        assert chosen(uri, **later) == f"{order[index]}.example"
        upper = {name.upper(): value for name, value in later.items()}
        assert chosen(uri, **upper) == f"{order[index]}.example"
        # What is in lower case counts, also if it is empty.
        assert chosen(uri, **upper, **{f"{order[index]}_proxy": "low"}) == "low"
        nothing = {f"{order[index]}_proxy": ""}
        assert chosen(uri, **{f"{order[index]}_PROXY".upper(): "up"}, **nothing) is None
    for name in set(VARIABLES) - set(order) - {"no"}:
        assert chosen(uri, **{f"{name}_proxy": "proxy"}) is None


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("proxy:1", "socks5h"),
        ("http://proxy:1", "socks5h"),
        ("socks4://proxy:1", "socks4"),
        ("https://proxy:1", "https"),
    ],
)
def test_socks_proxy_is_one_for_socks(
    monkeypatch: pytest.MonkeyPatch, value: str, scheme: str
) -> None:
    monkeypatch.setenv("socks_proxy", value)
    assert choose_proxy(parse_uri(WS)) == Proxy(scheme, "proxy", 1)


def test_f7c_http_proxy_may_be_a_header_of_a_cgi_request() -> None:
    """httpoxy: the header ``Proxy`` becomes HTTP_PROXY. Nothing becomes http_proxy."""
    assert chosen(WS, HTTP_PROXY="proxy") == "proxy"
    assert chosen(WS, HTTP_PROXY="proxy", REQUEST_METHOD="GET") is None
    assert chosen(WS, http_proxy="proxy", REQUEST_METHOD="GET") == "proxy"
    assert chosen(WSS, HTTPS_PROXY="proxy", REQUEST_METHOD="GET") == "proxy"


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(syncws.InvalidProxy, match="wss_proxy in the environment") as raised:
        chosen(WSS, WSS_PROXY="ftp://user:hidden@proxy")
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        "ws://localhost/",
        "ws://a.localhost/",
        "ws://localhost./",
        "ws://127.0.0.1/",
        "ws://127.9.9.9/",
        "ws://[::1]/",
        "ws://[::ffff:127.0.0.1]/",
    ],
)
def test_this_machine_needs_no_proxy(uri: str) -> None:
    assert chosen(uri, all_proxy="proxy") is None


@pytest.mark.parametrize("uri", ["ws://127.example.com/", "ws://mylocalhost/", "ws://[fe80::1]/"])
def test_another_machine_may_need_one(uri: str) -> None:
    assert chosen(uri, all_proxy="proxy") == "proxy"


@pytest.mark.parametrize(
    ("no_proxy", "uri", "excepted"),
    [
        ("", WS, False),
        ("*", WS, True),
        ("example.com", WS, True),
        ("EXAMPLE.com", WS, True),
        (".example.com", WS, True),
        ("*.example.com", WS, True),
        ("example.com.", WS, True),
        ("example.com", "ws://example.com./", True),
        ("other, example.com", WS, True),
        ("other example.com", WS, True),
        (",, ,", WS, False),
        (".", WS, False),
        ("example.com", "ws://a.example.com/", True),
        ("example.com", "ws://notexample.com/", False),
        ("a.example.com", WS, False),
        ("com", WS, True),
        ("b\u00fccher.example", "ws://b\u00fccher.example/", True),
        ("b\u00fccher.example", "ws://a.b\u00fccher.example/", True),
        ("\u00fc" * 300, WS, False),
        ("example.com:80", WS, True),
        ("example.com:443", WS, False),
        ("example.com:443", WSS, True),
        ("*:80", WS, True),
        ("*:81", WS, False),
        ("*:80", "ws://10.0.0.1/", True),
        ("10.0.0.0/8", "ws://[::ffff:10.0.0.1]/", True),
        ("example.com:" + "9" * 5000, WS, False),
        ("10.0.0.0/" + "9" * 5000, "ws://10.0.0.1/", False),
        ("10.0.0.1", "ws://10.0.0.1/", True),
        ("10.0.0.1:81", "ws://10.0.0.1/", False),
        ("10.0.0.1:80", "ws://10.0.0.1/", True),
        ("0.0.0.1", "ws://10.0.0.1/", False),
        ("10.0.0.0/8", "ws://10.1.2.3/", True),
        ("10.1.2.9/24", "ws://10.1.2.3/", True),
        ("10.0.0.0/8", "ws://11.1.2.3/", False),
        ("10.0.0.0/8", WS, False),
        ("example.com", "ws://10.0.0.1/", False),
        ("2001:db8::1", "ws://[2001:db8::1]/", True),
        ("[2001:db8::1]", "ws://[2001:db8::1]/", True),
        ("[2001:db8::1]:80", "ws://[2001:db8::1]/", True),
        ("[2001:db8::1]:81", "ws://[2001:db8::1]/", False),
        ("2001:db8::/32", "ws://[2001:db8::1]/", True),
        ("fe80::/10", "ws://[fe80::1%25eth0]/", True),
        ("2001:db8::/32", "ws://10.0.0.1/", False),
    ],
)
def test_f7c_no_proxy(no_proxy: str, uri: str, excepted: bool) -> None:
    assert (chosen(uri, all_proxy="proxy", no_proxy=no_proxy) is None) is excepted
    assert (chosen(uri, all_proxy="proxy", NO_PROXY=no_proxy) is None) is excepted


def test_f7c_the_environment_is_used_unless_it_is_not_wanted(
    scripted: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(upgrade)
    proxying = Proxying(server.port)
    proxy = scripted(proxying.http)

    def look_up(host: str, port: int, deadline: float | None) -> list[Address]:
        return resolve("127.0.0.1", server.port if host == "name.invalid" else port, deadline)

    monkeypatch.setattr(reaching, "resolve", look_up)
    monkeypatch.setenv("ws_proxy", f"http://127.0.0.1:{proxy.port}")
    ways_to_say: list[tuple[dict[str, Any], int]] = [
        ({}, 1),
        ({"proxy": True}, 2),
        ({"proxy": None}, 2),
    ]
    for options, ways in ways_to_say:
        with syncws.connect("ws://name.invalid/", close_timeout=0.1, **options):
            pass
        assert len(proxying.heads) == ways
    monkeypatch.setenv("no_proxy", "name.invalid")
    with syncws.connect("ws://name.invalid/", close_timeout=0.1):
        pass
    assert proxying.heads == [proxying.heads[0]] * 2
    assert proxying.heads[0].startswith(b"CONNECT name.invalid:80 HTTP/1.1\r\n")


def test_choosing_costs_nothing_without_a_proxy() -> None:
    """Some look-ups in the environment; a connection takes a hundred times as long."""
    target = parse_uri(WS)
    best = min(_time(lambda: choose_proxy(target)) for _ in range(20))
    assert best < 0.001


def _time(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


# -- CONNECT ----------------------------------------------------------------------

GOOD_REPLIES = {
    "usual": ESTABLISHED,
    "no reason": b"HTTP/1.1 200\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n",
    "another 2xx": b"HTTP/1.1 204 No Content\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "length of a body that is none": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
    "length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "1xx first": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"
    + ESTABLISHED,
}


@pytest.mark.parametrize("pace", ["whole", "byte by byte"])
@pytest.mark.parametrize("reply", GOOD_REPLIES.values(), ids=GOOD_REPLIES)
def test_f6c_replies_that_open_the_tunnel(scripted: Serve, reply: bytes, pace: str) -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        if pace == "whole":
            sock.sendall(reply)
        else:
            dribble(reply)(sock)
        sock.sendall(head_101(read_head(sock)) + b"\x81\x01a")
        wait_for_end(sock)

    proxy = f"http://127.0.0.1:{scripted(script).port}"
    with syncws.connect("ws://name.invalid/", proxy=proxy, close_timeout=0.1) as ws:
        assert ws.recv(PATIENCE) == "a"
        assert ws.request.headers["Host"] == "name.invalid"


BAD_REPLIES: dict[str, tuple[bytes, str, int | None]] = {
    "403": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "HTTP 403", 403),
    "407": (b"HTTP/1.1 407 \r\nContent-Length: 2\r\n\r\nno", "user:password@host", 407),
    "502 to the end": (b"HTTP/1.1 502 Bad\r\n\r\nno", "HTTP 502", 502),
    "redirect": (b"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 2\r\n\r\nno", "302", 302),
    "101": (b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\nno", "HTTP 101", 101),
    "unknown": (b"HTTP/1.1 499 X\r\nContent-Length: 2\r\n\r\nno", "HTTP 499$", 499),
    "bytes behind the head": (ESTABLISHED + b"SSH-2.0\r\n", "more than the head", 200),
    "a body": (b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nno", "more than the head", 200),
    "nothing": (b"", "without a response", None),
    "half": (ESTABLISHED[:-2], "in the middle", None),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", "malformed", None),
    "HTTP/2": (b"HTTP/2 200\r\n\r\n", "malformed", None),
    "line feeds": (ESTABLISHED.replace(b"\r", b""), "CRLF", None),
    "status beyond a segment": (b"HTTP/1.1 2000 OK\r\n\r\n", "malformed", None),
    "long header": (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000, "exceeds", None),
    "many headers": (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000, "malformed", None),
    "endless 1xx": (b"HTTP/1.1 100 C\r\n\r\n" * 100, "interim", None),
}


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("reply", "text", "status"), BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_f6c_replies_that_open_no_tunnel(
    scripted: Serve, reply: bytes, text: str, status: int | None
) -> None:
    proxy = f"http://user:hunter2@127.0.0.1:{scripted(answer(reply)).port}"
    with pytest.raises(syncws.ProxyError, match=text) as raised:
        syncws.connect("ws://name.invalid/?token=hunter2", proxy=proxy)
    error = raised.value
    assert isinstance(error, syncws.InvalidHandshake)
    assert (None if error.response is None else error.response.status_code) == status
    if error.response is not None and status not in (200, 101):
        assert error.response.body == b"no"
    assert "hunter2" not in f"{error} {error!r} {error.__cause__!r}"


@pytest.mark.usefixtures("clean")
def test_f6c_a_20_mb_header_is_not_read(scripted: Serve) -> None:
    sent = []

    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nA: ")
        for _ in range(320):
            sock.sendall(b"x" * 65536)
            sent.append(65536)

    with pytest.raises(syncws.ProxyError, match="exceeds"):
        syncws.connect("ws://name.invalid/", proxy=f"http://127.0.0.1:{scripted(script).port}")
    assert sum(sent) < 20_000_000


@pytest.mark.usefixtures("clean")
def test_f6c_the_body_of_a_refusal_is_bounded(scripted: Serve) -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 407 No\r\n\r\n")
        while True:
            sock.sendall(b"x" * 65536)

    with pytest.raises(syncws.ProxyError) as raised:
        syncws.connect("ws://name.invalid/", proxy=f"http://127.0.0.1:{scripted(script).port}")
    assert raised.value.response is not None
    assert len(raised.value.response.body) == 1 << 20
    assert raised.value.response.truncated


@pytest.mark.parametrize(
    ("uri", "authority"),
    [
        ("ws://name.invalid/", "name.invalid:80"),
        ("ws://name.invalid:8080/", "name.invalid:8080"),
        ("ws://[::1]/", "[::1]:80"),
        ("ws://[fe80::1%25eth0]:1/", "[fe80::1]:1"),
    ],
)
def test_what_the_proxy_is_asked(scripted: Serve, uri: str, authority: str) -> None:
    heads = []

    def script(sock: socket.socket) -> None:
        heads.append(read_head(sock))

    proxy = f"http://127.0.0.1:{scripted(script).port}"
    for agent in ("test/1", None):
        with pytest.raises(syncws.ProxyError):
            syncws.connect(
                uri,
                proxy=proxy,
                user_agent_header=agent,
                additional_headers={"Authorization": "hidden"},
                origin="https://hidden.example",
            )
    request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    assert heads == [f"{request}User-Agent: test/1\r\n\r\n".encode(), f"{request}\r\n".encode()]
