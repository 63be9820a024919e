"""``syncws.server_handshake``, the server's side: raw bytes in, the status of the answer out.

The tables carry the ids of section 4.E of the reliability catalogue.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from feeding import cuts
from hypothesis import given
from hypothesis import strategies as st
from upgrading import HEADERS, KEY, answer, check_shape, request, status_of, upgrade

from syncws.handshake import error_response
from syncws.headers import Headers
from syncws.http11 import RequestParser, Response
from syncws.server_handshake import accept


def spaces(count: int) -> str:
    return "b" + " " * (count - 2) + "x"


def escapes(count: int) -> str:
    return 'a; b="' + "\\c" * ((count - 6) // 2)


CASES: list[tuple[str, bytes, int]] = [
    ("good", request(), 101),
    ("E1-protocol-spaces", request(Sec_WebSocket_Protocol=spaces(4000)), 400),
    ("E1-extension-spaces", request(Sec_WebSocket_Extensions=spaces(4000)), 400),
    ("E1-extension-escapes", request(Sec_WebSocket_Extensions=escapes(4000)), 400),
    (
        "E1-extension-constructor",
        request(Sec_WebSocket_Extensions="constructor, __proto__; a"),
        101,
    ),
    ("E1-upgrade-spaces", request(Upgrade=spaces(4000)), 426),
    ("E1-connection-spaces", request(Connection=spaces(4000)), 426),
    ("E2-headers-129", request(extra="A: b\r\n" * 124), 431),
    ("E3-line-8193", request(extra="A: " + "b" * 8190 + "\r\n"), 431),
    ("E3-line-8192", request(extra="A: " + "b" * 8189 + "\r\n"), 101),
    ("E3-target", request("GET /" + "b" * 8192 + " HTTP/1.1"), 414),
    ("E4-length-5-with-body", request(Content_Length="5") + b"abcde", 400),
    ("E4-length-0", request(Content_Length="0"), 101),
    ("E4-chunked", request(Transfer_Encoding="chunked"), 400),
    ("E4-identity", request(Transfer_Encoding="identity"), 400),
    ("E4-length-and-chunked", request(Content_Length="0", Transfer_Encoding="chunked"), 400),
    ("E4-two-lengths", request(Content_Length="0", extra="content-length: 0\r\n"), 400),
    ("E4-length-plus", request(Content_Length="+5"), 400),
    ("E4-length-underscore", request(Content_Length="5_0"), 400),
    ("E4-length-minus-0", request(Content_Length="-0"), 400),
    ("E4-length-empty", request(Content_Length=""), 400),
    ("E5-LF-only", request().replace(b"\r\n", b"\n"), 400),
    ("E5-LF-in-headers", request(extra="A: b\n"), 400),
    ("E5-final-LF", request()[:-2] + b"\n", 400),
    ("E5-bare-CR", request(extra="A: b\rc\r\n"), 400),
    ("E5-CR-only", request().replace(b"\r\n", b"\r") + b"\r\n\r\n", 400),
    ("E5-CR-CR-LF", request(extra="A: b\r\r\n"), 400),
    ("E5-NUL-in-value", request(extra="A: b\0c\r\n"), 400),
    ("E5-NUL-in-name", request(extra="A\0: b\r\n"), 400),
    ("E5-fold-space", request(extra="A: b\r\n c\r\n"), 400),
    ("E5-fold-tab", request(extra="A: b\r\n\tc\r\n"), 400),
    ("E5-fold-first", b"GET / HTTP/1.1\r\n A: b\r\n" + request()[16:], 400),
    ("E5-space-before-colon", request(extra="A : b\r\n"), 400),
    ("E5-tab-before-colon", request(extra="A\t: b\r\n"), 400),
    ("E5-empty-name", request(extra=": b\r\n"), 400),
    ("E5-no-colon", request(extra="Ab\r\n"), 400),
    ("E5-name-parenthesis", request(extra="A(: b\r\n"), 400),
    ("E5-name-latin", request(extra="A\xe4: b\r\n"), 400),
    ("E5-ESC-in-value", request(extra="A: \x1b[2J\r\n"), 400),
    ("E5-DEL-in-value", request(extra="A: \x7f\r\n"), 400),
    ("E5-leading-CRLF", b"\r\n" + request(), 400),
    ("E5-leading-space", b" " + request(), 400),
    ("E5-two-spaces-1", request("GET  / HTTP/1.1"), 400),
    ("E5-two-spaces-2", request("GET /  HTTP/1.1"), 400),
    ("E5-trailing-space", request("GET / HTTP/1.1 "), 400),
    ("E5-tabs", request("GET\t/\tHTTP/1.1"), 400),
    ("E5-VT", request("GET /\x0bx HTTP/1.1"), 400),
    ("E5-HTTP/0.9", b"GET /\r\n", 400),
    ("E6-POST", request("POST / HTTP/1.1"), 405),
    ("E6-POST-body", request("POST / HTTP/1.1", Content_Length="5") + b"abcde", 405),
    ("E6-HEAD", request("HEAD / HTTP/1.1"), 405),
    ("E6-get", request("get / HTTP/1.1"), 405),
    ("E6-CONNECT", request("CONNECT example.com:80 HTTP/1.1"), 405),
    ("E6-HTTP/1.0", request("GET / HTTP/1.0"), 505),
    ("E6-HTTP/2.0", request("GET / HTTP/2.0"), 505),
    ("E6-PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("E6-HTTP/1.10", request("GET / HTTP/1.10"), 400),
    ("E6-http/1.1", request("GET / http/1.1"), 400),
    ("E6-HTTP/1", request("GET / HTTP/1"), 400),
    ("E7-none", request(Host=None), 400),
    ("E7-two", request(extra="host: example.com\r\n"), 400),
    ("E7-empty", request(Host=""), 400),
    ("E7-CR", request(Host="example\rcom"), 400),
    ("E7-userinfo", request(Host="u:p@example.com"), 400),
    ("E7-port-letters", request(Host="example.com:http"), 400),
    ("E7-port-65536", request(Host="example.com:65536"), 400),
    ("E7-port-0", request(Host="example.com:0"), 400),
    ("E7-list", request(Host="example.com, evil.com"), 400),
    ("E7-path", request(Host="example.com/x"), 400),
    ("E7-non-ASCII", request(Host="ex\xe4mple.com"), 400),
    ("E7-IPv6-open", request(Host="[::1"), 400),
    ("E7-IPv6", request(Host="[::1]:8000"), 101),
    ("E7-port", request(Host="example.com:8000"), 101),
    ("E8-asterisk", request("GET * HTTP/1.1"), 400),
    ("E8-authority", request("GET example.com:80 HTTP/1.1"), 400),
    ("E8-relative", request("GET x HTTP/1.1"), 400),
    ("E8-query-only", request("GET ?x HTTP/1.1"), 400),
    ("E8-CTL", request("GET /\x01 HTTP/1.1"), 400),
    ("E8-DEL", request("GET /\x7f HTTP/1.1"), 400),
    ("E8-non-ASCII", request("GET /\xe4 HTTP/1.1"), 400),
    ("E8-two-slashes", request("GET //evil HTTP/1.1"), 400),
    ("E8-fragment", request("GET /#x HTTP/1.1"), 400),
    ("E8-long", request("GET /" + "x" * 2000 + " HTTP/1.1"), 101),
    ("E8-absolute", request("GET http://example.com/x?y HTTP/1.1"), 101),
    ("E8-absolute-port", request("GET WSS://Example.com:443 HTTP/1.1"), 101),
    (
        "E8-absolute-default-port",
        request("GET ws://example.com?x HTTP/1.1", Host="example.com:80"),
        101,
    ),
    ("E8-absolute-other-port", request("GET http://example.com:81/ HTTP/1.1"), 400),
    ("E8-absolute-other-host", request("GET http://evil.com/ HTTP/1.1"), 400),
    ("E8-absolute-userinfo", request("GET http://u@example.com/ HTTP/1.1"), 400),
    ("E8-absolute-fragment", request("GET http://example.com/#x HTTP/1.1"), 400),
    ("E8-absolute-no-host", request("GET http:///x HTTP/1.1"), 400),
    ("E8-absolute-scheme", request("GET ftp://example.com/x HTTP/1.1"), 400),
    ("E9-h2c", request(Upgrade="h2c"), 426),
    ("E9-h2c-websocket", request(Upgrade="h2c, websocket"), 426),
    ("E9-websocket-h2c", request(extra="Upgrade: h2c\r\n"), 426),
    ("E9-websocket-twice", request(extra="Upgrade: websocket\r\n"), 426),
    ("E9-websocket-version", request(Upgrade="websocket/13"), 426),
    ("E9-missing-upgrade", request(Upgrade=None), 426),
    ("E9-empty-upgrade", request(Upgrade=""), 426),
    ("E9-missing-connection", request(Connection=None), 426),
    ("E9-close", request(Connection="close"), 426),
    ("E9-upgrade-substring", request(Connection="no-upgrade"), 426),
    ("E9-keep-alive-upgrade", request(Connection="keep-alive, Upgrade"), 101),
    ("E9-two-connections", request(Connection="keep-alive", extra="Connection: ,upgrade\r\n"), 101),
    ("E9-case", request(Upgrade="WebSocket", Connection="upgrade"), 101),
    ("E10-none", request(Sec_WebSocket_Key=None), 400),
    ("E10-empty", request(Sec_WebSocket_Key=""), 400),
    ("E10-15-bytes", request(Sec_WebSocket_Key="A" * 20), 400),
    ("E10-17-bytes", request(Sec_WebSocket_Key="A" * 23 + "="), 400),
    ("E10-not-base64", request(Sec_WebSocket_Key="!" * 22 + "=="), 400),
    ("E10-twice", request(extra=f"Sec-WebSocket-Key: {KEY}\r\n"), 400),
    ("E10-unpadded", request(Sec_WebSocket_Key="A" * 24), 400),
    ("E10-22-unpadded", request(Sec_WebSocket_Key="A" * 22), 400),
    ("E10-47", request(Sec_WebSocket_Key="A" * 47), 400),
    ("E10-inner-space", request(Sec_WebSocket_Key="A" * 10 + " " + "A" * 11 + "=="), 400),
    ("E10-URL-alphabet", request(Sec_WebSocket_Key="-_" * 11 + "=="), 400),
    ("E10-outer-space", request(Sec_WebSocket_Key=f" {KEY}\t"), 101),
    ("E11-none", request(Sec_WebSocket_Version=None), 426),
    ("E11-8", request(Sec_WebSocket_Version="8"), 426),
    ("E11-12", request(Sec_WebSocket_Version="12"), 426),
    ("E11-list", request(Sec_WebSocket_Version="8, 13"), 426),
    ("E11-013", request(Sec_WebSocket_Version="013"), 426),
    ("E11-twice", request(extra="Sec-WebSocket-Version: 13\r\n"), 426),
    ("E12-non-ASCII", request(Sec_WebSocket_Protocol="\xff\xfe"), 400),
    ("E12-empty", request(Sec_WebSocket_Protocol=""), 400),
    ("E12-empty-item", request(Sec_WebSocket_Protocol="a,,b"), 400),
    ("E12-duplicate", request(Sec_WebSocket_Protocol="a, a"), 400),
    (
        "E12-duplicate-header",
        request(Sec_WebSocket_Protocol="a", extra="Sec-WebSocket-Protocol: a\r\n"),
        400,
    ),
    ("E12-quotes", request(Sec_WebSocket_Protocol='"a"'), 400),
    ("E12-10000-duplicates", request(Sec_WebSocket_Protocol=",".join("a" * 4000)), 400),
    ("E12-128", request(Sec_WebSocket_Protocol=",".join(f"a{i}" for i in range(128))), 101),
    ("E12-129", request(Sec_WebSocket_Protocol=",".join(f"a{i}" for i in range(129))), 400),
    ("E12-case-differs", request(Sec_WebSocket_Protocol="a, A"), 101),
    ("E12-extension-empty", request(Sec_WebSocket_Extensions=""), 400),
    ("E12-extension-empty-item", request(Sec_WebSocket_Extensions="a,,b"), 400),
    ("E12-extension-value", request(Sec_WebSocket_Extensions="a=b"), 400),
    ("E12-extension-unclosed", request(Sec_WebSocket_Extensions='a; b="c'), 400),
    (
        "E12-extension-deflate",
        request(Sec_WebSocket_Extensions='permessage-deflate; client_max_window_bits="10" ;x, y'),
        101,
    ),
]


@pytest.mark.parametrize(("data", "status_code"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_status(data: bytes, status_code: int) -> None:
    assert status_of(data) == status_code


def test_e12_ten_thousand_subprotocols_in_several_lines() -> None:
    tokens = [f"{i:x}" for i in range(10_000)]
    lines = [", ".join(tokens[i : i + 1000]) for i in range(0, 10_000, 1000)]
    data = request(extra="".join(f"Sec-WebSocket-Protocol: {line}\r\n" for line in lines))
    response, _ = answer([data])
    assert response is not None
    assert response.status_code == 400


@pytest.mark.parametrize(
    "name",
    [
        "Sec_WebSocket_Protocol",
        "Sec_WebSocket_Extensions",
        "Upgrade",
        "Connection",
        "Origin",
        "Host",
    ],
)
@pytest.mark.parametrize("attack", ["spaces", "escapes", "tokens", "commas", "parameters"])
def test_e1_no_value_takes_long(name: str, attack: str) -> None:
    # 100 times what it takes; quadratic work on 8 KB would be far above it.
    values = {
        "spaces": spaces(8000),
        "escapes": escapes(8000),
        "tokens": "a" * 7999 + "(",
        "commas": ", " * 3999 + "(",
        "parameters": "a" + ";a = b" * 1300 + " (",
    }
    data = request(**{name: values[attack]})
    took = []
    for _ in range(3):
        start = time.process_time()
        answer([data])
        took.append(time.process_time() - start)
    assert min(took) < 0.05


def test_e9_nothing_of_the_request_is_in_a_refusal() -> None:
    for data in (
        request(Upgrade="attack"),
        request(Connection="attack"),
        request(Sec_WebSocket_Version="attack"),
        request(Sec_WebSocket_Key="attack"),
        request(Sec_WebSocket_Protocol="attack attack"),
        request(Sec_WebSocket_Extensions="attack attack"),
        request(Host="attack attack"),
        request("GET attack HTTP/1.1"),
        request("attack / HTTP/1.1"),
        request("GET / attack"),
        request(Origin="attack"),
        request(extra="attack\r\n"),
    ):
        response, _ = answer([data])
        assert response is not None
        assert response.status_code >= 400
        assert b"attack" not in response.serialize()


FRAMES = b"\x81\x81abcd\x00\x88\x80abcd"


@pytest.mark.parametrize(
    "rest", [FRAMES, b"GET / HTTP/1.1\r\n\r\n"], ids=["E14-frame", "E14-request"]
)
def test_pipelined_bytes_are_kept(rest: bytes) -> None:
    for pieces in cuts(request() + rest):
        response, left = answer(pieces)
        assert response is not None
        assert (response.status_code, left) == (101, rest)


def test_e8_raw_target_is_kept() -> None:
    target = "http://example.com/a%2Fb/../c?d=%00"
    parsed = RequestParser().feed(request(f"GET {target} HTTP/1.1"))
    assert parsed is not None
    assert parsed.path == target


def test_accept_value_of_the_rfc() -> None:
    # RFC 6455 section 1.3.
    response, subprotocol, _ = accept(upgrade(), server_header=None)
    assert subprotocol is None
    assert response == Response(
        101,
        "Switching Protocols",
        Headers(
            [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ]
        ),
    )


def test_server_header() -> None:
    assert accept(upgrade())[0].headers["Server"].startswith("syncws/")
    assert accept(upgrade(), server_header="x")[0].headers["Server"] == "x"


def test_e13_error_response_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="header X"):
        error_response(400, "text", {"X": "a\r\nb"})
    response = error_response(503, "Too many connections.", {"Retry-After": "1"})
    check_shape(response)
    assert response.headers["Retry-After"] == "1"
    assert response.reason_phrase == "Service Unavailable"
    assert response.body == b"Too many connections.\n"


def combinations() -> Iterator[dict[str, Any]]:
    for upgrade_, connection, version in itertools.product(
        ["websocket", "h2c", None], ["Upgrade", "close", None], ["13", "12", None]
    ):
        yield {"Upgrade": upgrade_, "Connection": connection, "Sec_WebSocket_Version": version}


def test_only_the_right_combination_is_upgraded() -> None:
    upgraded = []
    for combination in combinations():
        response, _ = answer([request(**combination)])
        assert response is not None
        if response.status_code == 101:
            upgraded.append(combination)
    assert upgraded == [
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    ]


fields = st.sampled_from(
    [*HEADERS, "Origin", "Content-Length", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"]
)
texts = st.sampled_from(
    [*HEADERS.values(), "a, b", "a;b=c", "http://example.com", "", "0"]
) | st.from_regex(r"[\t\x20-\x7e\xff]{0,12}", fullmatch=True)


@given(
    st.lists(st.tuples(fields, texts), max_size=3),
    st.from_regex(r"[!-~]{1,8}", fullmatch=True) | st.just("/"),
)
def test_any_request_gets_an_answer(extra: list[tuple[str, str]], target: str) -> None:
    changed = {name.replace("-", "_"): None for name, _ in extra[1:]}
    lines = "".join(f"{name}: {value}\r\n" for name, value in extra)
    response, _ = answer([request(f"GET {target} HTTP/1.1", lines, **changed)], subprotocols=["a"])
    assert response is not None
    assert response.status_code in (101, 400, 403, 426)
    check_shape(response)
