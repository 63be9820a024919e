"""Group E of the catalogue, the upgrade: E6, E7, E9 to E15."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from . import peer as wire
from .asking import ask, expect_refusal, expect_upgrade, instead, upgrade
from .subject import Subject

REQUEST_LINES = {
    "POST": (b"POST / HTTP/1.1", 405),
    "HEAD": (b"HEAD / HTTP/1.1", 405),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1", 405),
    "OPTIONS": (b"OPTIONS * HTTP/1.1", 405),
    "lower case": (b"get / HTTP/1.1", 405),
    "1.0": (b"GET / HTTP/1.0", 505),
    "1.2": (b"GET / HTTP/1.2", 505),
    "2.0": (b"GET / HTTP/2.0", 505),
    "2.0 preface": (b"PRI * HTTP/2.0", 505),
    "1.10": (b"GET / HTTP/1.10", 400),
    "01.1": (b"GET / HTTP/01.1", 400),
    "http/1.1": (b"GET / http/1.1", 400),
    "other protocol": (b"GET / ICY/1.1", 400),
}


@pytest.mark.parametrize(("line", "status_code"), REQUEST_LINES.values(), ids=REQUEST_LINES)
def test_E6_method_and_version(server: Subject, line: bytes, status_code: int) -> None:
    answer = expect_refusal(server, upgrade(line=line), status_code)
    if status_code == 405:
        assert wire.header_values(answer.head, "Allow") == ["GET"]


HOSTS: dict[str, list[bytes]] = {
    "none": [],
    "two": [b"localhost", b"localhost"],
    "empty": [b""],
    "list": [b"localhost, localhost"],
    "user": [b"user@localhost"],
    "port not a number": [b"localhost:http"],
    "port too big": [b"localhost:65536"],
    "negative port": [b"localhost:-1"],
    "bare CR": [b"local\rhost"],
    "space": [b"local host"],
    "path": [b"localhost/x"],
    "not ASCII": [b"localh\xf6st"],
    "open bracket": [b"[::1"],
    "not an address": [b"[::x]"],
}


@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
def test_E7_host(server: Subject, hosts: list[bytes]) -> None:
    expect_refusal(server, instead(b"Host", *hosts), 400)


@pytest.mark.parametrize("host", [b"localhost:80", b"[::1]:8080", b"127.0.0.1", b"a.b-c.example"])
def test_E7_valid_hosts(plain_server: Subject, host: bytes) -> None:
    expect_upgrade(plain_server, instead(b"Host", host))


UPGRADES: dict[str, tuple[bytes, list[bytes]]] = {
    "h2c": (b"Upgrade", [b"h2c"]),
    "h2c and websocket": (b"Upgrade", [b"h2c, websocket"]),
    "websocket and h2c": (b"Upgrade", [b"websocket, h2c"]),
    "two headers": (b"Upgrade", [b"websocket", b"h2c"]),
    "no upgrade": (b"Upgrade", []),
    "empty upgrade": (b"Upgrade", [b""]),
    "websocket with a version": (b"Upgrade", [b"websocket/13"]),
    "longer token": (b"Upgrade", [b"websockets"]),
    "close": (b"Connection", [b"close"]),
    "keep-alive": (b"Connection", [b"keep-alive"]),
    "no connection": (b"Connection", []),
    "upgrade inside a token": (b"Connection", [b"no-upgrade"]),
}


@pytest.mark.parametrize(("name", "values"), UPGRADES.values(), ids=UPGRADES)
def test_E9_no_upgrade_to_websocket(server: Subject, name: bytes, values: list[bytes]) -> None:
    answer = expect_refusal(server, instead(name, *values), 426)
    assert wire.header_values(answer.head, "Upgrade") == ["websocket"]
    assert b"h2c" not in answer.head + answer.body


@pytest.mark.parametrize(
    "data",
    [
        instead(b"Connection", b"keep-alive, Upgrade"),
        instead(b"Connection", b"keep-alive", b"upgrade"),
        instead(b"Upgrade", b"WebSocket"),
        upgrade().lower().replace(b"get / http", b"GET / HTTP"),
        upgrade().replace(b": ", b":\t \t").replace(b"GET:\t \t", b"GET "),
    ],
    ids=["list", "two headers", "case of the value", "case of the names", "white space"],
)
def test_E9_upgrade_in_unusual_writing(plain_server: Subject, data: bytes) -> None:
    # Lower case changes the key into another valid one.
    expect_upgrade(plain_server, data)


KEYS: dict[str, list[bytes]] = {
    "15 bytes": [b"AAAAAAAAAAAAAAAAAAAA"],
    "17 bytes": [b"AAAAAAAAAAAAAAAAAAAAAAA="],
    "not base64": [b"!!!!!!!!!!!!!!!!!!!!!!=="],
    "url-safe base64": [b"-_AAAAAAAAAAAAAAAAAAAA=="],
    "twice": [b"dGhlIHNhbXBsZSBub25jZQ=="] * 2,
    "list": [b"dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="],
    "24 characters unpadded": [b"AAAAAAAAAAAAAAAAAAAAAAAA"],
    "47 characters": [b"A" * 47],
    "8000 characters": [b"A" * 8000],
    "none": [],
    "empty": [b""],
    "inner space": [b"dGhlIHNhbXBs ZSBub25jZQ="],
    "too little padding": [b"dGhlIHNhbXBsZSBub25jZQ="],
    "not ASCII": [b"dGhlIHNhbXBsZSBub25j\xe9Q=="],
}


@pytest.mark.parametrize("values", KEYS.values(), ids=KEYS)
def test_E10_key(server: Subject, values: list[bytes]) -> None:
    expect_refusal(server, instead(b"Sec-WebSocket-Key", *values), 400)


VERSIONS: dict[str, list[bytes]] = {
    "none": [],
    "empty": [b""],
    "0": [b"0"],
    "8": [b"8"],
    "12": [b"12"],
    "14": [b"14"],
    "8 and 13": [b"8, 13"],
    "013": [b"013"],
    "+13": [b"+13"],
    "1_3": [b"1_3"],
    "twice": [b"13", b"13"],
}


@pytest.mark.parametrize("values", VERSIONS.values(), ids=VERSIONS)
def test_E11_version(server: Subject, values: list[bytes]) -> None:
    answer = expect_refusal(server, instead(b"Sec-WebSocket-Version", *values), 426)
    assert wire.header_values(answer.head, "Sec-WebSocket-Version") == ["13"]
    assert wire.header_values(answer.head, "Upgrade") == ["websocket"]


PROTOCOLS = {
    "not ASCII": b"\xff\xfe",
    "empty": b"",
    "empty element": b"a,,b",
    "trailing comma": b"a,",
    "duplicate": b"a, a",
    "space inside": b"a b",
    "quoted": b'"a"',
    "2000 tokens": b",".join(b"%d" % index for index in range(1500)),
}


@pytest.mark.parametrize("value", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("supported", [None, ("a",)], ids=["none", "one"])
def test_E12_malformed_subprotocols(
    server: Subject, value: bytes, supported: tuple[str, ...] | None
) -> None:
    data = upgrade(b"Sec-WebSocket-Protocol: " + value)
    expect_refusal(server, data, 400, subprotocols=supported)


def test_E12_duplicate_subprotocol_in_two_headers(plain_server: Subject) -> None:
    header = b"Sec-WebSocket-Protocol: a"
    expect_refusal(plain_server, upgrade(header, header), 400)


def splitting(request: object, offered: list[str]) -> str:
    """A hook that an attacker controls."""
    return "a\r\nSet-Cookie: evil=1\r\n\r\nHTTP/1.1 200 OK"


def test_E13_subprotocol_that_would_split_the_response(
    server: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    # The server reports a hook that failed: a line above WARNING, as it should be.
    caplog.set_level(logging.CRITICAL, logger="syncws.server")
    data = upgrade(b"Sec-WebSocket-Protocol: a")
    answer = expect_refusal(server, data, 500, select_subprotocol=splitting)
    assert b"evil" not in answer.head + answer.body
    assert b"200" not in answer.head + answer.body


@pytest.mark.parametrize("value", ["x\r\nSet-Cookie: evil=1", "x\ny", "x\ry", "x\0y"])
def test_E13_server_header_that_would_split_the_response(value: str) -> None:
    import syncws

    with pytest.raises(ValueError, match=r"(?i)server"):
        syncws.serve(lambda connection: None, "127.0.0.1", 0, server_header=value)


def test_E14_second_request_behind_an_accepted_one(server: Subject) -> None:
    """It is not a frame: its first byte sets reserved bits."""
    context = None if server.tls is None else server.tls.client
    with wire.dial(server.address(), context) as peer:
        peer.send(upgrade() + upgrade())
        wire.read_head(peer)
        frames, close = peer.read_until_close()
        assert not frames
        assert int.from_bytes(close.payload[:2]) == 1002


def test_E14_half_a_frame_behind_the_request(plain_server: Subject) -> None:
    frame = wire.frame(wire.TEXT, b"pipelined", mask=b"abcd")
    for offset in range(1, len(frame)):
        with plain_server.open(early=frame[:offset]) as conversation:
            conversation.peer.send(frame[offset:])
            echoed = conversation.peer.read_frame()
            assert echoed is not None
            assert echoed.payload == b"pipelined"


def test_E14_many_bytes_behind_a_refused_request(server: Subject) -> None:
    """They are read and dropped, so that no reset destroys the answer."""
    answer = ask(server, instead(b"Upgrade"), *([b"x" * 65536] * 4))
    assert answer.status_code == 426


HOST = b"example.com"
FOREIGN = {
    "evil": b"https://evil.com",
    "null": b"null",
    "prefixed": b"https://evil-example.com",
    "suffixed": b"https://example.com.evil.com",
    "subdomain": b"https://sub.example.com",
    "other port": b"https://example.com:444",
    "user": b"https://example.com@evil.com",
    "user before the host": b"https://evil.com@example.com",
    "path": b"https://example.com/path",
    "other scheme": b"file://example.com",
    "extension": b"chrome-extension://example.com",
    "empty": b"",
    "host only": b"example.com",
    "not ASCII": b"https://ex\xe4mple.com",
}


def from_origin(*origins: bytes) -> bytes:
    """A request to ``HOST`` with these ``Origin`` headers."""
    extra = [b"Host: " + HOST, *(b"Origin: " + origin for origin in origins)]
    return upgrade(*extra, without=[b"Host"])


@pytest.mark.parametrize("origin", FOREIGN.values(), ids=FOREIGN)
def test_E15_foreign_origin_is_refused_by_default(server: Subject, origin: bytes) -> None:
    expect_refusal(server, from_origin(origin), 403)


def test_E15_two_origins(server: Subject) -> None:
    expect_refusal(server, from_origin(b"https://example.com", b"https://evil.com"), 403)


def test_E15_plain_page_may_not_open_a_secure_socket(server: Subject) -> None:
    if server.tls is None:
        # A proxy may have ended TLS, so both are the same origin.
        expect_upgrade(server, from_origin(b"http://example.com"))
    else:
        expect_refusal(server, from_origin(b"http://example.com"), 403)


@pytest.mark.parametrize(
    "origins",
    [[b"https://example.com"], [b"HTTPS://EXAMPLE.COM"], [b"https://example.com:443"], []],
)
def test_E15_same_origin_or_none_is_accepted(server: Subject, origins: list[bytes]) -> None:
    expect_upgrade(server, from_origin(*origins))


ALLOWED: tuple[Any, ...] = ("https://good.com", re.compile(r"https://[a-z]+\.good\.com"))


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.com",
        b"https://good.com.evil.com",
        b"https://evil-good.com",
        b"http://good.com",
        b"https://good.com:8443",
        b"HTTPS://GOOD.COM",
        b"https://x.good.com.evil.com",
        b"https://evil.com/https://x.good.com",
        b"https://example.com",
    ],
)
def test_E15_origin_that_is_not_listed(plain_server: Subject, origin: bytes) -> None:
    expect_refusal(plain_server, from_origin(origin), 403, origins=ALLOWED)


@pytest.mark.parametrize("origin", [b"https://good.com", b"https://x.good.com"])
def test_E15_origin_that_is_listed(plain_server: Subject, origin: bytes) -> None:
    expect_upgrade(plain_server, from_origin(origin), origins=ALLOWED)


def test_E15_missing_origin_is_accepted_only_if_listed(plain_server: Subject) -> None:
    expect_refusal(plain_server, from_origin(), 403, origins=ALLOWED)
    expect_upgrade(plain_server, from_origin(), origins=(*ALLOWED, None))
