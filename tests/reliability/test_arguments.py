"""What callers get wrong: an error that names the argument, before a byte is sent.

F1c of the catalogue (injection through arguments) and the rule of the project behind it.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.cookiejar import Cookie, CookieJar
from typing import Any

import pytest

import syncws

from . import peer as wire
from .asking import expect_upgrade, upgrade
from .subject import Outcome, Subject, collect, no_trace

# What would end a line, split a response or confuse a log, raw.
INJECTIONS = {
    "CR LF": "x\r\nX-Evil: 1",
    "CR": "x\rX-Evil: 1",
    "LF": "x\nX-Evil: 1",
    "NUL": "x\0y",
    "ESC": "x\x1b[31m",
    "DEL": "x\x7f",
    "not latin-1": "x\u20ac",
    "fullwidth CR LF": "x\u560d\u560aX-Evil: 1",
    "lone surrogate": "x\ud800",
    "trailing LF": "x\n",
    "leading CR LF": "\r\nX-Evil: 1",
}


@contextlib.contextmanager
def untouched(scheme: str = "ws") -> Iterator[str]:
    """A URI of a listener that nobody may connect to while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(BlockingIOError):
            listener.accept()


def jar_with(value: str) -> CookieJar:
    """A jar whose only cookie is for 127.0.0.1."""
    jar = CookieJar()
    site = (None, False, "127.0.0.1", False, False, "/", True)
    jar.set_cookie(Cookie(0, "name", value, *site, False, None, True, None, None, {}))
    return jar


# How each argument of connect() that becomes part of the request is given.
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "header value": lambda text: {"additional_headers": {"X-Test": text}},
    "header value in pairs": lambda text: {"additional_headers": [("X-Test", text)]},
    "header name": lambda text: {"additional_headers": {text: "x"}},
    "header name in pairs": lambda text: {"additional_headers": [(text, "x")]},
    "cookie jar": lambda text: {"cookies": jar_with(text)},
    "cookie": lambda text: {"additional_headers": {"Cookie": text}},
    "host": lambda text: {"additional_headers": {"Host": text}},
    "authorization": lambda text: {"additional_headers": {"Authorization": text}},
    "user agent": lambda text: {"user_agent_header": text},
    "user agent among the headers": lambda text: {"additional_headers": {"User-Agent": text}},
    "origin": lambda text: {"origin": text},
    "subprotocol": lambda text: {"subprotocols": [text]},
    "second subprotocol": lambda text: {"subprotocols": ["chat", text]},
}
NAMED = r"(?i)header|origin|subprotocols|X-Test|Cookie|Host|User-Agent|Authorization"


@pytest.mark.parametrize("text", INJECTIONS.values(), ids=INJECTIONS)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_F1c_injection_through_an_argument(
    place: Callable[[str], dict[str, Any]], text: str
) -> None:
    with untouched() as uri, pytest.raises(ValueError, match=NAMED) as caught:
        syncws.connect(uri, **place(text))
    assert "Evil: 1\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


URI_PLACES = {
    "path": "ws://127.0.0.1:{port}/{text}",
    "query": "ws://127.0.0.1:{port}/?q={text}",
    "host": "ws://127.0.0.1{text}:{port}/",
    "port": "ws://127.0.0.1:{port}{text}/",
    "user": "ws://{text}:password@127.0.0.1:{port}/",
    "password": "ws://user:{text}@127.0.0.1:{port}/",
    "scheme": "ws{text}://127.0.0.1:{port}/",
}


@pytest.mark.parametrize(
    "text", [text for name, text in INJECTIONS.items() if name != "not latin-1"]
)
@pytest.mark.parametrize("place", URI_PLACES.values(), ids=URI_PLACES)
def test_F1c_injection_through_the_uri(place: str, text: str) -> None:
    with untouched() as uri:
        target = place.format(port=uri.rpartition(":")[2].rstrip("/"), text=text)
        with pytest.raises(syncws.InvalidURI) as caught:
            syncws.connect(target)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).isprintable()


PROXY_PLACES = {
    "host": "http://127.0.0.1{text}:{port}",
    "port": "http://127.0.0.1:{port}{text}",
    "user": "http://{text}:password@127.0.0.1:{port}",
    "password": "socks5h://user:{text}@127.0.0.1:{port}",
    "scheme": "http{text}://127.0.0.1:{port}",
    "path": "https://127.0.0.1:{port}/{text}",
    "encoded user": "http://{encoded}:password@127.0.0.1:{port}",
    "encoded password": "http://user:{encoded}@127.0.0.1:{port}",
}


@pytest.mark.parametrize(
    "text", [text for name, text in INJECTIONS.items() if name != "not latin-1"]
)
@pytest.mark.parametrize("place", PROXY_PLACES.values(), ids=PROXY_PLACES)
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_F1c_injection_through_the_proxy(
    place: str, text: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with untouched("http") as uri:
        port = uri.rpartition(":")[2].rstrip("/")
        encoded = urllib.parse.quote(text, errors="surrogatepass")
        proxy = place.format(port=port, text=text, encoded=encoded)
        if encoded in proxy and text.isprintable():
            return  # only raw it is not well-formed
        if way == "environment":
            if "\0" in proxy or "\ud800" in proxy:
                return  # the environment has room for neither
            monkeypatch.setenv("all_proxy", proxy)
        with pytest.raises(syncws.InvalidProxy) as caught:
            syncws.connect("ws://name.invalid/", proxy=proxy if way == "argument" else True)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).isprintable()
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("part", ["user%0d%0aX-Evil:password", "user:pass%0aword", "%00:x"])
def test_F1c_encoded_injection_through_user_information(part: str) -> None:
    with untouched() as uri, pytest.raises(syncws.InvalidURI, match="control character") as caught:
        syncws.connect(uri.replace("://", f"://{part}@"))
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("a%0d%0aX-Evil:%201", b"/a%0d%0aX-Evil:%201"),
        ("\u20ac", b"/%E2%82%AC"),
        ("?q=\u20ac&%0A", b"/?q=%E2%82%AC&%0A"),
        ("%00", b"/%00"),
    ],
)
def test_F1c_what_is_encoded_stays_encoded(client: Subject, given: str, sent: bytes) -> None:
    outcome = client.start_client(collect, client.listener.uri + given)
    with client.listener.accept() as peer:
        assert peer.head.startswith(b"GET " + sent + b" HTTP/1.1\r\n")
        peer.send_close()
        peer.read_until_close()
    assert isinstance(outcome.wait().error, syncws.ConnectionClosedOK)


BAD_CONNECT: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "ssl for ws": ({"ssl": ssl.create_default_context()}, ValueError, "ssl"),
    "server_hostname for ws": ({"server_hostname": "x"}, ValueError, "server_hostname"),
    "origin of bytes": ({"origin": b"https://x"}, TypeError, "origin"),
    "empty origin": ({"origin": ""}, ValueError, "origin"),
    "origin twice": (
        {"origin": "https://x", "additional_headers": {"Origin": "https://y"}},
        ValueError,
        "origin",
    ),
    "subprotocols of str": ({"subprotocols": "chat"}, TypeError, "subprotocols"),
    "subprotocols of int": ({"subprotocols": [1]}, TypeError, "subprotocols"),
    "subprotocols of bytes": ({"subprotocols": [b"chat"]}, TypeError, "subprotocols"),
    "subprotocols with a space": ({"subprotocols": ["a b"]}, ValueError, "subprotocols"),
    "subprotocols with a comma": ({"subprotocols": ["a,b"]}, ValueError, "subprotocols"),
    "subprotocols empty": ({"subprotocols": [""]}, ValueError, "subprotocols"),
    "subprotocols twice": ({"subprotocols": ["a", "a"]}, ValueError, "subprotocols"),
    "headers of str": ({"additional_headers": "X: y"}, TypeError, "header"),
    "headers of int": ({"additional_headers": 1}, TypeError, "header"),
    "headers of triples": ({"additional_headers": [("a", "b", "c")]}, TypeError, "header"),
    "header value of int": ({"additional_headers": {"X": 1}}, TypeError, "X"),
    "header value of bytes": ({"additional_headers": {"X": b"y"}}, TypeError, "X"),
    "header name of bytes": ({"additional_headers": {b"X": "y"}}, TypeError, "header"),
    "header name empty": ({"additional_headers": {"": "y"}}, ValueError, "header"),
    "header name with a colon": ({"additional_headers": {"X:": "y"}}, ValueError, "header"),
    "header name with a space": ({"additional_headers": {"X Y": "y"}}, ValueError, "header"),
    "header of the handshake": (
        {"additional_headers": {"Sec-WebSocket-Key": "x"}},
        ValueError,
        "additional_headers",
    ),
    "header that smuggles a body": (
        {"additional_headers": {"Content-Length": "5"}},
        ValueError,
        "additional_headers",
    ),
    "header that chunks": (
        {"additional_headers": {"Transfer-Encoding": "chunked"}},
        ValueError,
        "additional_headers",
    ),
    "two hosts": (
        {"additional_headers": [("Host", "a"), ("Host", "b")]},
        ValueError,
        "Host",
    ),
    "user agent of bytes": ({"user_agent_header": b"x"}, TypeError, "User-Agent|user_agent"),
    "unknown argument": ({"max_sise": 1}, TypeError, "max_sise"),
    "logger of str": ({"logger": "x"}, TypeError, "logger"),
    "sock of int": ({"sock": 3}, TypeError, "sock"),
}
BAD_SECONDS: dict[str, tuple[Any, type[Exception]]] = {
    "str": ("1", TypeError),
    "bool": (True, TypeError),
    "list": ([1], TypeError),
    "complex": (1j, TypeError),
    "negative": (-1, ValueError),
    "zero": (0, ValueError),
    "NaN": (math.nan, ValueError),
}
SECONDS = ["open_timeout", "ping_interval", "ping_timeout", "close_timeout"]
BAD_SIZES: dict[str, tuple[Any, type[Exception]]] = {
    "str": ("1", TypeError),
    "bool": (True, TypeError),
    "float": (1.0, TypeError),
    "negative": (-1, ValueError),
    "zero": (0, ValueError),
}
SIZES = ["max_size", "max_frame_size", "max_fragments", "max_queue", "write_limit"]
for _name in SECONDS:
    for _id, (_value, _kind) in BAD_SECONDS.items():
        BAD_CONNECT[f"{_name} {_id}"] = ({_name: _value}, _kind, _name)
for _name in SIZES:
    for _id, (_value, _kind) in BAD_SIZES.items():
        BAD_CONNECT[f"{_name} {_id}"] = ({_name: _value}, _kind, _name)
BAD_CONNECT["write_limit None"] = ({"write_limit": None}, TypeError, "write_limit")


@pytest.mark.parametrize(("options", "kind", "name"), BAD_CONNECT.values(), ids=BAD_CONNECT)
def test_bad_arguments_of_connect(
    options: dict[str, Any], kind: type[Exception], name: str
) -> None:
    with untouched() as uri, pytest.raises(kind, match=name):
        syncws.connect(uri, **options)


@pytest.mark.parametrize(
    ("options", "kind", "name"),
    [
        ({"ssl": True}, TypeError, "ssl"),
        ({"ssl": "context"}, TypeError, "ssl"),
        ({"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, ValueError, "ssl"),
        ({"server_hostname": 5}, TypeError, "server_hostname"),
        ({"server_hostname": b"localhost"}, TypeError, "server_hostname"),
        ({"server_hostname": ""}, ValueError, "server_hostname"),
        ({"server_hostname": "a\0b"}, ValueError, "server_hostname"),
    ],
)
def test_bad_tls_arguments_of_connect(
    options: dict[str, Any], kind: type[Exception], name: str
) -> None:
    with untouched("wss") as uri, pytest.raises(kind, match=name):
        syncws.connect(uri, **options)


BAD_URIS = {
    "http": "http://127.0.0.1:{}/",
    "no scheme": "127.0.0.1:{}",
    "no host": "ws:///",
    "empty": "",
    "port only": "ws://:{}/",
    "fragment": "ws://127.0.0.1:{}/#x",
    "port zero": "ws://127.0.0.1:0/",
    "port too big": "ws://127.0.0.1:65536/",
    "port not a number": "ws://127.0.0.1:{}x/",
    "port in other digits": "ws://127.0.0.1:\u0661\u0662/",
    "space": "ws://127.0.0.1:{}/a b",
    "bracket": "ws://[::1:{}/",
    "two at signs": "ws://a@b@127.0.0.1:{}/",
    "backslash": "ws://evil\\@127.0.0.1:{}/",
    "lone surrogate": "ws://127.0.0.1:{}/\ud800",
    "long name": "ws://" + "a" * 300 + "/",
}


@pytest.mark.parametrize("uri", BAD_URIS.values(), ids=BAD_URIS)
def test_bad_uri(uri: str) -> None:
    with untouched() as listener, pytest.raises(syncws.InvalidURI) as caught:
        syncws.connect(uri.format(listener.rpartition(":")[2].rstrip("/")))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("uri", [None, 5, b"ws://127.0.0.1/", ["ws://127.0.0.1/"]])
def test_bad_type_of_uri(uri: Any) -> None:
    with pytest.raises(TypeError, match="uri"):
        syncws.connect(uri)


def handler(connection: Any) -> None:
    """Never called."""


BAD_SERVE: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    name: case
    for name, case in BAD_CONNECT.items()
    if name.split()[0] in (*SECONDS, *SIZES, "subprotocols", "unknown")
}
BAD_SERVE |= {
    "handler None": ({"handler": None}, TypeError, "handler"),
    "ssl of bool": ({"ssl": True}, TypeError, "ssl"),
    "ssl of a client": ({"ssl": ssl.create_default_context()}, ValueError, "ssl"),
    "origins of str": ({"origins": "https://x"}, TypeError, "origins"),
    "origins of bytes": ({"origins": [b"https://x"]}, TypeError, "origins"),
    "origins with CR LF": ({"origins": ["https://x\r\n"]}, ValueError, "origins"),
    "select_subprotocol": ({"select_subprotocol": "chat"}, TypeError, "select_subprotocol"),
    "server_header of int": ({"server_header": 1}, TypeError, "(?i)server"),
    "server_header with LF": ({"server_header": "a\nb"}, ValueError, "(?i)server"),
    "max_connections zero": ({"max_connections": 0}, ValueError, "max_connections"),
    "max_connections of str": ({"max_connections": "1"}, TypeError, "max_connections"),
    "max_connections of float": ({"max_connections": 1.5}, TypeError, "max_connections"),
    "port of str": ({"port": "80"}, TypeError, "port"),
    "port too big": ({"port": 65536}, ValueError, "port"),
    "port negative": ({"port": -1}, ValueError, "port"),
    "host of int": ({"host": 5}, TypeError, "host"),
    "origins with a path": ({"origins": ["https://x/"]}, ValueError, "origins"),
    "origins with a star": ({"origins": ["*"]}, ValueError, "origins.*re.compile"),
    "backlog of str": ({"backlog": "1"}, TypeError, "backlog"),
    "backlog too big": ({"backlog": 2**31}, ValueError, "backlog"),
    "logger of str": ({"logger": "x"}, TypeError, "logger"),
    "sock of int": ({"sock": 3}, TypeError, "sock"),
}


@pytest.mark.parametrize(("options", "kind", "name"), BAD_SERVE.values(), ids=BAD_SERVE)
def test_bad_arguments_of_serve(
    options: dict[str, Any],
    kind: type[Exception],
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = {"handler": handler, "host": "127.0.0.1", "port": 0, **options}
    with no_trace(caplog), pytest.raises(kind, match=name):
        syncws.serve(**arguments)


Call = Callable[[Any], object]
# Wrong on purpose: a type checker must not see what they are.
TEXT: Any = "1"
NUMBER: Any = 1
BAD_CALLS: dict[str, tuple[Call, type[Exception], str]] = {
    "send int": (lambda ws: ws.send(1), TypeError, "message"),
    "send None": (lambda ws: ws.send(None), TypeError, "message"),
    "send dict": (lambda ws: ws.send({}), TypeError, "message"),
    "send surrogate": (lambda ws: ws.send("\ud800"), ValueError, "surrogate"),
    "send text": (lambda ws: ws.send(b"x", text="yes"), TypeError, "text"),
    "send list text": (lambda ws: ws.send([b"x"], text=1), TypeError, "text"),
    "send timeout str": (lambda ws: ws.send("x", timeout="1"), TypeError, "timeout"),
    "send timeout bool": (lambda ws: ws.send("x", timeout=True), TypeError, "timeout"),
    "send timeout negative": (lambda ws: ws.send("x", timeout=-1), ValueError, "timeout"),
    "send timeout NaN": (lambda ws: ws.send("x", timeout=math.nan), ValueError, "timeout"),
    "send list timeout": (lambda ws: ws.send(["x"], timeout="1"), TypeError, "timeout"),
    "recv timeout str": (lambda ws: ws.recv(timeout="1"), TypeError, "timeout"),
    "recv timeout negative": (lambda ws: ws.recv(timeout=-1), ValueError, "timeout"),
    "recv timeout NaN": (lambda ws: ws.recv(timeout=math.nan), ValueError, "timeout"),
    "recv_many timeout": (lambda ws: ws.recv_many(timeout="1"), TypeError, "timeout"),
    "recv decode": (lambda ws: ws.recv(decode="utf-8"), TypeError, "decode"),
    # Not at its first piece: that is in another place of the program, or nowhere.
    "recv_streaming timeout": (lambda ws: ws.recv_streaming(timeout="1"), TypeError, "timeout"),
    "recv_streaming negative": (lambda ws: ws.recv_streaming(timeout=-1), ValueError, "timeout"),
    "recv_streaming decode": (lambda ws: ws.recv_streaming(decode=1), TypeError, "decode"),
    "ping int": (lambda ws: ws.ping(5), TypeError, "data"),
    "ping list": (lambda ws: ws.ping([1]), TypeError, "data"),
    "ping long": (lambda ws: ws.ping(b"x" * 126), ValueError, "data"),
    "ping long in UTF-8": (lambda ws: ws.ping("\u20ac" * 42), ValueError, "data"),
    "ping surrogate": (lambda ws: ws.ping("\ud800"), ValueError, "surrogate"),
    "pong int": (lambda ws: ws.pong(5), TypeError, "data"),
    "pong None": (lambda ws: ws.pong(None), TypeError, "data"),
    "pong long": (lambda ws: ws.pong(b"x" * 126), ValueError, "data"),
    "try_send str": (lambda ws: ws.try_send("x", 1), TypeError, "payload"),
    "try_send ping": (lambda ws: ws.try_send(b"x", 9), ValueError, "opcode"),
    "try_send str opcode": (lambda ws: ws.try_send(b"x", "1"), ValueError, "opcode"),
    "abort int": (lambda ws: ws.abort(5), TypeError, "reason"),
    "wait_closed timeout": (lambda ws: ws.wait_closed("1"), TypeError, "timeout"),
    "wait timeout": (lambda ws: syncws.wait([ws], TEXT), TypeError, "timeout"),
    "wait one": (lambda ws: syncws.wait(ws, 0), TypeError, "connections|iterable|Connection"),
    "wait int": (lambda ws: syncws.wait([NUMBER], 0), TypeError, "connections"),
    "broadcast int": (lambda ws: syncws.broadcast([ws], NUMBER), TypeError, "message"),
    "broadcast bad text": (
        lambda ws: syncws.broadcast([ws], b"\xff", text=True),
        ValueError,
        "utf-8",
    ),
    "broadcast surrogate": (lambda ws: syncws.broadcast([ws], "\ud800"), ValueError, "surrogate"),
}


@pytest.mark.parametrize(("call", "kind", "name"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments_of_calls(
    plain_subject: Subject, call: Call, kind: type[Exception], name: str
) -> None:
    """Nothing is written, and the connection goes on as if the call had not been made."""

    def program(connection: Any, outcome: Outcome) -> None:
        with pytest.raises(kind, match=name):
            call(connection)
        connection.send("first")
        collect(connection, outcome)

    with plain_subject.open(program) as conversation:
        first = conversation.peer.read_frame()
        assert first is not None
        assert (first.opcode, first.payload) == (wire.TEXT, b"first")
        conversation.peer.send_frame(wire.TEXT, b"second")
        conversation.expect_normal_end()
        assert conversation.outcome.messages == ["second"]


def test_broken_sock_is_closed(caplog: pytest.LogCaptureFixture, warm: None) -> None:
    """The socket belongs to ``connect()``, also when another argument is wrong."""
    with no_trace(caplog):
        ours, theirs = socket.socketpair()
        with theirs:
            with pytest.raises(ValueError, match="origin"):
                syncws.connect("ws://localhost/", sock=ours, origin="\n")
            assert ours.fileno() == -1
            assert theirs.recv(1) == b""


def test_listening_sock_with_a_bad_argument(caplog: pytest.LogCaptureFixture) -> None:
    """A server that was never made leaves the caller's socket alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with no_trace(caplog), pytest.raises(ValueError, match="max_size"):
            syncws.serve(handler, sock=listener, max_size=-1)
        assert listener.fileno() != -1


def test_hook_returns_what_cannot_be_sent(
    plain_server: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    """What the program returns is an argument, too; here the peer has to be told."""
    caplog.set_level("CRITICAL", logger="syncws.server")
    answers: list[Any] = [5, b"chat", "not offered", "chat\r\nX-Evil: 1"]
    done = threading.Event()

    def select(request: Any, offered: list[str]) -> Any:
        if answers:
            return answers.pop(0)
        done.set()
        return None

    data = upgrade(b"Sec-WebSocket-Protocol: chat")
    for _ in tuple(answers):
        with wire.dial(plain_server.address(select_subprotocol=select)) as peer:
            peer.send(data)
            assert peer.read_raw().startswith(b"HTTP/1.1 500 ")
    expect_upgrade(plain_server, data, select_subprotocol=select)
    assert done.is_set()
