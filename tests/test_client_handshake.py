"""``syncws.client_handshake``, the client's side: what is sent, and which answers are believed.

The tables carry the ids of section 4.F of the reliability catalogue.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncws.client_handshake import ClientHandshake
from syncws.exceptions import (
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderFormat,
    InvalidHeaderValue,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
)
from syncws.headers import Headers
from syncws.http11 import Request, RequestParser, Response, ResponseParser
from syncws.server_handshake import accept, check_upgrade
from syncws.uri import parse_uri
from syncws.version import version

URI = parse_uri("ws://example.com/chat?room=1")


def test_default_request() -> None:
    request = ClientHandshake(URI).request
    key = request.headers["Sec-WebSocket-Key"]
    assert len(base64.b64decode(key, validate=True)) == 16
    assert request.serialize().decode() == (
        "GET /chat?room=1 HTTP/1.1\r\n"
        "Host: example.com\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        f"User-Agent: syncws/{version}\r\n"
        "\r\n"
    )


def test_every_option() -> None:
    request = ClientHandshake(
        parse_uri("wss://us%40er:p%3Aa:\u00fc@[::1]:8443/"),
        origin="https://example.com",
        subprotocols=("b", "a"),
        additional_headers=[("Cookie", "a=b"), ("X", "1"), ("X", "2")],
        user_agent_header="agent",
    ).request
    headers = request.headers
    assert request.path == "/"
    assert headers["Host"] == "[::1]:8443"
    assert headers["Origin"] == "https://example.com"
    assert headers["Sec-WebSocket-Protocol"] == "b, a"
    assert headers["Authorization"].startswith("Basic ")
    assert base64.b64decode(headers["Authorization"][6:]).decode() == "us@er:p:a:\u00fc"
    assert headers["Cookie"] == "a=b"
    assert headers.get_all("X") == ["1", "2"]
    assert headers["User-Agent"] == "agent"
    assert check_upgrade(request) is None


def test_f9c_the_request_shows_no_credentials() -> None:
    request = ClientHandshake(
        parse_uri("ws://user:s3cret@h/?token=s3cret"), additional_headers={"Cookie": "s3cret"}
    ).request
    encoded = base64.b64encode(b"user:s3cret").decode()
    assert encoded in request.serialize().decode()
    assert "s3cret" not in repr(request)
    assert encoded not in repr(request)


def test_replaced_and_missing_defaults() -> None:
    def headers(**options: Any) -> Headers:
        return ClientHandshake(URI, **options).request.headers

    assert headers(additional_headers={"host": "other:81"}).get_all("Host") == ["other:81"]
    assert headers(additional_headers={"USER-AGENT": "x"}).get_all("User-Agent") == ["x"]
    assert "User-Agent" not in headers(user_agent_header=None)
    assert "Sec-WebSocket-Protocol" not in headers(subprotocols=[])
    assert headers(additional_headers={"origin": "null"})["Origin"] == "null"
    authorization = headers(additional_headers={"Authorization": "Bearer x"})["Authorization"]
    assert authorization == "Bearer x"
    assert headers(additional_headers=Headers({"A": "b"}))["A"] == "b"


def test_f11c_nonces_do_not_repeat() -> None:
    keys = [ClientHandshake(URI).request.headers["Sec-WebSocket-Key"] for _ in range(50_000)]
    assert len(set(keys)) == 50_000
    numbers = [int.from_bytes(base64.b64decode(key)) for key in keys[:5000]]
    # Each of the 128 bits is set about half of the time: 6 sigma are 212.
    for bit in range(128):
        assert 2200 < sum(number >> bit & 1 for number in numbers) < 2800


CONTROLS = [
    ("CR", "\r"),
    ("LF", "\n"),
    ("CRLF", "\r\nX-Evil: 1"),
    ("NUL", "\0"),
    ("ESC", "\x1b"),
    ("nonlatin", "\u20ac"),
]
ARGUMENTS: list[tuple[str, Any]] = [
    ("header-name", lambda text: {"additional_headers": {f"X{text}": "1"}}),
    ("header-value", lambda text: {"additional_headers": {"X": f"a{text}b"}}),
    ("header-end", lambda text: {"additional_headers": {"X": f"a{text}"}}),
    ("list-name", lambda text: {"additional_headers": [(f"X{text}", "1")]}),
    ("list-value", lambda text: {"additional_headers": [("A", "b"), ("X", f"a{text}b")]}),
    ("subprotocol", lambda text: {"subprotocols": ["a", f"b{text}"]}),
    ("origin", lambda text: {"origin": f"http://h{text}"}),
    ("host", lambda text: {"additional_headers": {"Host": f"h{text}"}}),
    ("cookie", lambda text: {"additional_headers": {"Cookie": f"a=b{text}"}}),
    ("user-agent", lambda text: {"user_agent_header": f"agent{text}"}),
]
INJECTIONS = [
    (f"F1c-{place}-{name}", argument(text))
    for place, argument in ARGUMENTS
    for name, text in CONTROLS
]


@pytest.mark.parametrize("options", [i[1] for i in INJECTIONS], ids=[i[0] for i in INJECTIONS])
def test_what_cannot_be_sent_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"header|subprotocols|origin|Host") as caught:
        ClientHandshake(URI, **options)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        *[
            ({"additional_headers": {name: "x"}}, f"(?i){name}")
            for name in (
                "Connection",
                "UPGRADE",
                "Sec-WebSocket-Key",
                "Sec-WebSocket-Version",
                "Sec-WebSocket-Accept",
                "Sec-WebSocket-Extensions",
                "Content-Length",
                "Transfer-Encoding",
            )
        ],
        ({"additional_headers": {"Sec-WebSocket-Protocol": "x"}}, "use subprotocols="),
        ({"additional_headers": {"Host": ""}}, "Host"),
        ({"additional_headers": {"Host": "u@h"}}, "Host"),
        ({"additional_headers": {"Host": "h:0"}}, "Host"),
        ({"additional_headers": [("Host", "h"), ("host", "h")]}, "Host more than once"),
        ({"additional_headers": [("Origin", "h"), ("Origin", "h")]}, "Origin more than once"),
        ({"additional_headers": {"Origin": "http://h"}, "origin": "http://h"}, "origin and"),
        ({"origin": ""}, "origin"),
        ({"origin": "http://a http://b"}, "origin"),
        ({"subprotocols": [""]}, "subprotocols"),
        ({"subprotocols": ["a, b"]}, "subprotocols"),
        ({"subprotocols": ["a", "a"]}, "subprotocols: 'a' comes twice"),
    ],
)
def test_wrong_values(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ClientHandshake(URI, **options)


def test_authorization_comes_from_one_place() -> None:
    with pytest.raises(ValueError, match="uri and additional_headers") as caught:
        ClientHandshake(
            parse_uri("ws://u:s3cret@h"), additional_headers={"Authorization": "s3cret"}
        )
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"additional_headers": "X: 1"}, "headers"),
        ({"additional_headers": ["X: 1"]}, "pair"),
        ({"additional_headers": {"X": 1}}, "header X"),
        ({"subprotocols": "chat"}, "subprotocols"),
        ({"subprotocols": [b"chat"]}, "subprotocols"),
        ({"origin": b"http://h"}, "origin"),
        ({"user_agent_header": b"agent"}, "User-Agent"),
    ],
)
def test_wrong_types(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        ClientHandshake(URI, **options)


def reply(handshake: ClientHandshake, extra: str = "", **changes: str | None) -> Response:
    """A good answer with some headers replaced, left out or added, as it is received."""
    good = accept(handshake.request).response
    fields: dict[str, str | None] = {"Upgrade": "websocket", "Connection": "Upgrade"}
    fields["Sec-WebSocket-Accept"] = good.headers["Sec-WebSocket-Accept"]
    for name, value in changes.items():
        fields[name.replace("_", "-")] = value
    lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value is not None]
    head = f"HTTP/1.1 101 Switching Protocols\r\n{''.join(lines)}{extra}\r\n"
    response = ResponseParser().feed(head.encode("latin-1"))
    assert response is not None
    return response


def test_the_accept_value_of_the_rfc(monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 6455 section 1.3.
    monkeypatch.setattr("os.urandom", lambda size: b"the sample nonce"[:size])
    handshake = ClientHandshake(URI)
    assert handshake.request.headers["Sec-WebSocket-Key"] == "dGhlIHNhbXBsZSBub25jZQ=="
    handshake.check_response(reply(handshake, Sec_WebSocket_Accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))


GOOD: list[tuple[str, dict[str, str | None], str | None]] = [
    ("plain", {}, None),
    ("case", {"Upgrade": "WebSocket", "Connection": "upgrade"}, None),
    ("list", {"Connection": "keep-alive,\tUPGRADE ,"}, None),
    ("two-connections", {"extra": "Connection: keep-alive\r\n"}, None),
    ("subprotocol", {"Sec_WebSocket_Protocol": "b"}, "b"),
    ("other-headers", {"extra": "Server: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"}, None),
]


@pytest.mark.parametrize(
    ("changes", "subprotocol"), [g[1:] for g in GOOD], ids=[g[0] for g in GOOD]
)
def test_good_answers(changes: dict[str, Any], subprotocol: str | None) -> None:
    handshake = ClientHandshake(URI, subprotocols=["a", "b"])
    assert handshake.subprotocol is None
    handshake.check_response(reply(handshake, **changes))
    assert handshake.subprotocol == subprotocol


WRONG = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
BAD: list[tuple[str, dict[str, str | None], type[InvalidHandshake], str]] = [
    ("no-upgrade", {"Upgrade": None}, InvalidUpgrade, "missing Upgrade"),
    ("empty-upgrade", {"Upgrade": ""}, InvalidUpgrade, "empty Upgrade"),
    ("h2c", {"Upgrade": "h2c"}, InvalidUpgrade, "h2c"),
    ("h2c-websocket", {"Upgrade": "h2c, websocket"}, InvalidUpgrade, "Upgrade"),
    ("two-upgrades", {"extra": "Upgrade: websocket\r\n"}, InvalidUpgrade, "Upgrade"),
    ("no-connection", {"Connection": None}, InvalidUpgrade, "missing Connection"),
    ("close", {"Connection": "close"}, InvalidUpgrade, "close"),
    ("no-accept", {"Sec_WebSocket_Accept": None}, InvalidHeader, "missing Sec-WebSocket-Accept"),
    ("wrong-accept", {"Sec_WebSocket_Accept": WRONG}, InvalidHeaderValue, "Accept"),
    ("latin-accept", {"Sec_WebSocket_Accept": "\xe4" * 28}, InvalidHeaderValue, "Accept"),
    (
        "empty-accept",
        {"Sec_WebSocket_Accept": ""},
        InvalidHeaderValue,
        "empty Sec-WebSocket-Accept",
    ),
    ("subprotocol", {"Sec_WebSocket_Protocol": "c"}, NegotiationError, "'c'"),
    ("subprotocol-case", {"Sec_WebSocket_Protocol": "A"}, NegotiationError, "'A'"),
    ("empty-subprotocol", {"Sec_WebSocket_Protocol": ""}, NegotiationError, "''"),
    ("subprotocol-list", {"Sec_WebSocket_Protocol": "a, b"}, NegotiationError, "'a, b'"),
    ("two-subprotocols", {"extra": "Sec-WebSocket-Protocol: a\r\n" * 2}, InvalidHeader, "Protocol"),
    (
        "extension",
        {"Sec_WebSocket_Extensions": "permessage-deflate"},
        NegotiationError,
        "permessage-deflate",
    ),
    ("bad-extension", {"Sec_WebSocket_Extensions": "a;"}, InvalidHeaderFormat, "Extensions"),
]


@pytest.mark.parametrize(
    ("changes", "error", "text"), [b[1:] for b in BAD], ids=[f"F2c-{b[0]}" for b in BAD]
)
def test_bad_answers(changes: dict[str, Any], error: type[InvalidHandshake], text: str) -> None:
    handshake = ClientHandshake(URI, subprotocols=["a", "b"])
    with pytest.raises(error, match=re.escape(text)):
        handshake.check_response(reply(handshake, **changes))
    assert handshake.subprotocol is None


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.swapcase(),
        lambda value: value[:-1],
        lambda value: value + "=",
        lambda value: value + value,
        lambda value: f"{value}, {value}",
        lambda value: f'"{value}"',
    ],
    ids=["F2c-case", "F2c-no-padding", "F2c-padding", "F2c-twice", "F2c-list", "F2c-quotes"],
)
def test_almost_the_accept_value(change: Any) -> None:
    handshake = ClientHandshake(URI)
    value = accept(handshake.request).response.headers["Sec-WebSocket-Accept"]
    with pytest.raises(InvalidHeaderValue):
        handshake.check_response(reply(handshake, Sec_WebSocket_Accept=change(value)))
    with pytest.raises(InvalidHeader):
        handshake.check_response(reply(handshake, extra=f"Sec-WebSocket-Accept: {value}\r\n"))
    handshake.check_response(reply(handshake))


def test_a_subprotocol_without_an_offer() -> None:
    handshake = ClientHandshake(URI)
    with pytest.raises(NegotiationError):
        handshake.check_response(reply(handshake, Sec_WebSocket_Protocol="a"))


@pytest.mark.parametrize("status_code", [200, 204, 301, 401, 403, 404, 426, 500, 503])
def test_other_statuses(status_code: int) -> None:
    handshake = ClientHandshake(URI)
    response = reply(handshake)
    response.status_code = status_code
    response.body = b"text"
    with pytest.raises(InvalidStatus, match=f"HTTP {status_code}") as caught:
        handshake.check_response(response)
    assert caught.value.response is response


texts = st.text(max_size=20)


@given(
    texts,
    texts | st.none(),
    st.lists(texts, max_size=3),
    st.lists(st.tuples(texts, texts), max_size=3),
    texts | st.none(),
)
def test_whatever_is_accepted_is_one_request(
    path: str,
    origin: str | None,
    subprotocols: list[str],
    additional: list[tuple[str, str]],
    agent: str | None,
) -> None:
    try:
        handshake = ClientHandshake(
            parse_uri(f"ws://h/{path}"),
            origin=origin,
            subprotocols=subprotocols,
            additional_headers=additional,
            user_agent_header=agent,
        )
    except ValueError:
        return
    parser = RequestParser()
    parsed = parser.feed(handshake.request.serialize())
    assert parsed == handshake.request
    assert parser.rest == b""


names = st.from_regex(r"[a-z]{1,5}", fullmatch=True)


@given(st.lists(names, unique=True, max_size=4), st.lists(names, unique=True, max_size=4))
def test_both_sides_agree(offered: list[str], supported: list[str]) -> None:
    handshake = ClientHandshake(URI, subprotocols=offered)
    request = RequestParser().feed(handshake.request.serialize())
    assert isinstance(request, Request)
    assert check_upgrade(request) is None
    response, subprotocol, _ = accept(request, subprotocols=supported)
    if supported and not set(offered) & set(supported):
        assert response.status_code == 400
        return
    received = ResponseParser().feed(response.serialize())
    assert received is not None
    handshake.check_response(received)
    assert (
        handshake.subprotocol == subprotocol == next((s for s in supported if s in offered), None)
    )
