"""``syncws.negotiation``, through the handshake: origins, subprotocols, options of a server.

The tables carry the ids of section 4.E of the reliability catalogue.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from upgrading import check_shape, request, status_of, upgrade

from syncws.exceptions import NegotiationError
from syncws.http11 import Request, RequestParser
from syncws.server_handshake import accept, check_server_options, check_upgrade

# (id, Origin, Host, over TLS, allowed by default)
ORIGINS: list[tuple[str, str | None, str, bool, bool]] = [
    ("none", None, "good.com", False, True),
    ("same", "http://good.com", "good.com", False, True),
    ("same-https-behind-proxy", "https://good.com", "good.com", False, True),
    ("same-TLS", "https://good.com", "good.com", True, True),
    ("scheme-TLS", "http://good.com", "good.com", True, False),
    ("same-port", "http://good.com:8000", "good.com:8000", False, True),
    ("default-port-of-origin", "http://good.com:80", "good.com", False, True),
    ("default-port-of-host", "http://good.com", "good.com:80", False, True),
    ("default-port-TLS", "https://good.com", "good.com:443", True, True),
    ("default-port-of-other-scheme", "http://good.com", "good.com:443", False, False),
    ("case", "HTTP://GOOD.com", "good.COM", False, True),
    ("IPv6", "http://[::1]:8000", "[::1]:8000", False, True),
    ("evil", "http://evil.com", "good.com", False, False),
    ("null", "null", "good.com", False, False),
    ("suffix", "http://evil-good.com", "good.com", False, False),
    ("prefix", "http://good.com.evil.com", "good.com", False, False),
    ("subdomain", "http://a.good.com", "good.com", False, False),
    ("port", "http://good.com:8000", "good.com", False, False),
    ("port-of-host", "http://good.com", "good.com:8000", False, False),
    ("userinfo", "http://good.com@evil.com", "good.com", False, False),
    ("userinfo-reversed", "http://evil.com@good.com", "good.com", False, False),
    ("path", "http://good.com/", "good.com", False, False),
    ("list", "http://good.com http://evil.com", "good.com", False, False),
    ("commas", "http://good.com, http://evil.com", "good.com", False, False),
    ("scheme", "chrome-extension://good.com", "good.com", False, False),
    ("bare-host", "good.com", "good.com", False, False),
    ("empty", "", "good.com", False, False),
    ("bad-port", "http://good.com:x", "good.com", False, False),
    ("trailing-dot", "http://good.com.", "good.com", False, False),
]


@pytest.mark.parametrize(
    ("origin", "host", "secure", "allowed"),
    [o[1:] for o in ORIGINS],
    ids=[f"E15-{o[0]}" for o in ORIGINS],
)
def test_same_origin_by_default(origin: str | None, host: str, secure: bool, allowed: bool) -> None:
    data = request(Origin=origin, Host=host)
    assert status_of(data, secure=secure) == (101 if allowed else 403)


@pytest.mark.parametrize(
    ("second", "origins"),
    [
        ("http://example.com", None),
        ("http://evil.com", None),
        ("http://example.com", ["http://example.com"]),
    ],
    ids=["E15-two-equal", "E15-two", "E15-two-configured"],
)
def test_two_origins(second: str, origins: Any) -> None:
    data = request(Origin="http://example.com", extra=f"Origin: {second}\r\n")
    assert status_of(data, origins=origins) == 403


CONFIGURED: list[tuple[str, list[Any], str | None, bool]] = [
    ("equal", ["https://a.com", "https://good.com"], "https://good.com", True),
    ("other", ["https://good.com"], "https://evil.com", False),
    ("same-origin-not-listed", ["https://good.com"], "http://example.com", False),
    ("case", ["https://good.com"], "https://GOOD.com", False),
    ("port", ["https://good.com"], "https://good.com:8443", False),
    ("suffix", ["https://good.com"], "https://good.com.evil", False),
    ("none-not-listed", ["https://good.com"], None, False),
    ("none-listed", ["https://good.com", None], None, True),
    ("none-only", [None], "https://good.com", False),
    ("nobody", [], None, False),
    ("regex", [re.compile(r"https://[a-z]+\.good\.com")], "https://a.good.com", True),
    ("regex-in-full", [re.compile(r"https://[a-z]+\.good\.com")], "https://a.good.com.evil", False),
    ("regex-at-the-start", [re.compile(r"good\.com")], "https://good.com", False),
    ("regex-and-none", [re.compile(".*")], None, False),
    ("null-listed", ["null"], "null", True),
]


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [c[1:] for c in CONFIGURED],
    ids=[f"E15-{c[0]}" for c in CONFIGURED],
)
def test_configured_origins(origins: list[Any], origin: str | None, allowed: bool) -> None:
    check_server_options(origins=origins)
    assert status_of(request(Origin=origin), origins=origins) == (101 if allowed else 403)


# (supported, offered, chosen; None: none; "refused": 400)
SUBPROTOCOLS: list[tuple[list[str] | None, str | None, str | None]] = [
    (None, None, None),
    (None, "a, b", None),
    ([], "a", None),
    (["a"], "a", "a"),
    (["a", "b"], "b, a", "a"),
    (["c", "b"], "a,b", "b"),
    (["c"], "a, b", "refused"),
    (["A"], "a", "refused"),
    (["a"], None, "refused"),
]


@pytest.mark.parametrize(("supported", "offered", "chosen"), SUBPROTOCOLS)
def test_subprotocol(supported: list[str] | None, offered: str | None, chosen: str | None) -> None:
    response, subprotocol, _ = accept(
        upgrade(Sec_WebSocket_Protocol=offered), subprotocols=supported
    )
    check_shape(response)
    if chosen == "refused":
        assert (response.status_code, subprotocol) == (400, None)
    else:
        assert (response.status_code, subprotocol) == (101, chosen)
        assert response.headers.get("Sec-WebSocket-Protocol") == chosen


def test_subprotocols_of_several_headers() -> None:
    parsed = RequestParser().feed(
        request(extra="Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b,c\r\n")
    )
    assert parsed is not None
    assert check_upgrade(parsed) is None
    assert accept(parsed, subprotocols=["c"])[1] == "c"


def test_select_subprotocol() -> None:
    asked: list[tuple[Request, list[str]]] = []

    def select(request: Request, offered: list[str]) -> str | None:
        asked.append((request, list(offered)))
        offered.clear()
        return "b" if asked[-1][1] else None

    offering = upgrade(Sec_WebSocket_Protocol="a, b")
    response, subprotocol, _ = accept(offering, subprotocols=["a"], select_subprotocol=select)
    assert (subprotocol, response.headers["Sec-WebSocket-Protocol"]) == ("b", "b")
    silent = upgrade()
    response, subprotocol, _ = accept(silent, subprotocols=["a"], select_subprotocol=select)
    assert (subprotocol, response.status_code) == (None, 101)
    assert asked == [(offering, ["a", "b"]), (silent, [])]


def test_select_subprotocol_may_refuse() -> None:
    def select(request: Request, offered: list[str]) -> str | None:
        raise NegotiationError("s3cret")

    response, subprotocol, _ = accept(upgrade(), select_subprotocol=select)
    assert (response.status_code, subprotocol) == (400, None)
    assert b"s3cret" not in response.body


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("a\r\nX-Evil: 1", ValueError),
        ("c", ValueError),
        ("", ValueError),
        (b"a", TypeError),
        (True, TypeError),
    ],
    ids=["E13-CRLF", "E13-not-offered", "E13-empty", "E13-bytes", "E13-bool"],
)
def test_select_subprotocol_returns_nonsense(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="select_subprotocol"):
        accept(
            upgrade(Sec_WebSocket_Protocol="a"), select_subprotocol=lambda request, offered: value
        )


def test_e18_exceptions_of_the_user_come_through() -> None:
    def select(request: Request, offered: list[str]) -> str | None:
        raise LookupError("s3cret")

    with pytest.raises(LookupError):
        accept(upgrade(), select_subprotocol=select)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"origins": "http://h"}, TypeError, "origins"),
        ({"origins": re.compile("x")}, TypeError, "origins"),
        ({"origins": iter(["http://h"])}, TypeError, "origins"),
        ({"origins": [b"http://h"]}, TypeError, "origins.*bytes"),
        ({"origins": [re.compile(b"x")]}, TypeError, "origins"),
        ({"origins": ["http://h\r\n"]}, ValueError, "origins"),
        ({"origins": [""]}, ValueError, "origins"),
        ({"subprotocols": "chat"}, TypeError, "subprotocols"),
        ({"subprotocols": iter(["chat"])}, TypeError, "subprotocols"),
        ({"subprotocols": [b"chat"]}, TypeError, "subprotocols.*bytes"),
        ({"subprotocols": ["a b"]}, ValueError, "subprotocols.*token"),
        ({"subprotocols": [""]}, ValueError, "subprotocols.*token"),
        ({"subprotocols": ["a", "b", "a"]}, ValueError, "subprotocols.*twice"),
        ({"select_subprotocol": "chat"}, TypeError, "select_subprotocol"),
        ({"server_header": "a\nb"}, ValueError, "Server"),
        ({"server_header": 1}, TypeError, "Server"),
    ],
)
def test_server_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check_server_options(**options)


def test_good_server_options() -> None:
    check_server_options()
    check_server_options(
        origins={"http://h", None, re.compile("x")},
        subprotocols=("a", "b"),
        select_subprotocol=lambda request, offered: None,
        server_header=None,
    )
