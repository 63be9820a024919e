"""The PROXY protocol: headers as bytes, and servers that want one."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from started import Start, observed, servers
from talking import PATIENCE, RawClient, masked_frame, wait_until
from upgrading import request

import syncws
from syncws.exceptions import InvalidMessage, SecurityError
from syncws.forwarded import Peer
from syncws.proxy_protocol import MAX_HEADER_SIZE, ProxyHeaderParser

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOOPBACK = ["127.0.0.0/8"]


def parsed(stream: bytes, piece: int = MAX_HEADER_SIZE) -> tuple[Peer, bytes]:
    """The result, and what was left in the stream, which is read as a server reads it."""
    parser = ProxyHeaderParser()
    while True:
        assert parser.wanted > 0
        size = min(parser.wanted, piece)
        data, stream = stream[:size], stream[size:]
        assert data, "it wants more than there is"
        peer = parser.feed(data)
        if peer is not None:
            return peer, stream


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def binary(
    addresses: bytes = b"", tlvs: bytes = b"", *, command: int = 0x21, family: int = 0x11
) -> bytes:
    rest = addresses + tlvs
    return SIGNATURE + bytes([command, family]) + len(rest).to_bytes(2) + rest


def inet(source: str = "1.2.3.4", port: int = 567) -> bytes:
    packed = ipaddress.ip_address(source).packed
    return packed + packed + port.to_bytes(2) + (80).to_bytes(2)


def crc32c(data: bytes) -> int:
    """Bit by bit, as its definition says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def summed(header: bytes) -> bytes:
    """A header whose last four bytes become its checksum."""
    return header[:-4] + crc32c(header).to_bytes(4)


V6 = "2001:db8::1"
GOOD: dict[str, tuple[bytes, Any, bool | None]] = {
    "v1": (b"PROXY TCP4 1.2.3.4 5.6.7.8 567 80\r\n", ("1.2.3.4", 567), None),
    "v1 shortest": (b"PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n", ("1.1.1.1", 0), None),
    "v1 v6": (b"PROXY TCP6 2001:db8::1 ::1 9 80\r\n", (V6, 9, 0, 0), None),
    "v1 longest": (
        b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
        (":".join(["ffff"] * 8), 65535, 0, 0),
        None,
    ),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None, None),
    "v1 unknown with more": (b"PROXY UNKNOWN 1.2.3.4 whatever\r\n", None, None),
    "v2": (binary(inet()), ("1.2.3.4", 567), None),
    "v2 v6": (binary(inet(V6), family=0x21), (V6, 567, 0, 0), None),
    "v2 mapped": (binary(inet("::ffff:1.2.3.4"), family=0x21), ("1.2.3.4", 567), None),
    "v2 unix": (binary(bytes(216), family=0x31), None, None),
    "v2 unspecified": (binary(b"", family=0x00), None, None),
    "v2 local": (binary(b"", command=0x20, family=0x00), None, None),
    "v2 local with an address": (binary(inet(), command=0x20), None, None),
    "v2 local with garbage": (binary(b"\xff" * 9, command=0x20, family=0xFF), None, None),
    "v2 noop": (binary(inet(), tlv(4, b"\0\0\0")), ("1.2.3.4", 567), None),
    "v2 unknown tlv": (binary(inet(), tlv(0xEE, b"x" * 300)), ("1.2.3.4", 567), None),
    "v2 tls": (binary(inet(), tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))),
               ("1.2.3.4", 567), True),
    "v2 no tls": (binary(inet(), tlv(0x20, b"\x00\0\0\0\1")), ("1.2.3.4", 567), False),
    "v2 checksum": (summed(binary(inet(), tlv(3, bytes(4)))), ("1.2.3.4", 567), None),
    "v2 unspecified tls": (binary(tlv(0x20, b"\x01\0\0\0\0"), family=0), None, True),
    "v2 longest": (
        binary(inet(), tlv(4, bytes(MAX_HEADER_SIZE - 16 - 12 - 3))),
        ("1.2.3.4", 567),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("header", "address", "secure"), GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("piece", [1, 2, 15, 16, 17, 4096])
def test_a_header(header: bytes, address: Any, secure: bool | None, piece: int) -> None:
    """Whatever follows is left in the socket."""
    assert parsed(header + b"GET", piece) == (Peer(address, secure), b"GET")


def test_the_longest_line_is_one_of_the_specification() -> None:
    assert max(len(header) for header, _, _ in GOOD.values() if header[:1] == b"P") == 104


BAD = {
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh",
    "lower case": b"proxy TCP4 1.2.3.4 5.6.7.8 567 80\r\n",
    "another protocol": b"PROXY UDP4 1.2.3.4 5.6.7.8 567 80\r\n",
    "families mixed": b"PROXY TCP4 2001:db8::1 ::1 567 80\r\n",
    "families mixed, other": b"PROXY TCP6 1.2.3.4 5.6.7.8 567 80\r\n",
    "destination": b"PROXY TCP4 1.2.3.4 5.6.7.888 567 80\r\n",
    "leading zero": b"PROXY TCP4 01.2.3.4 5.6.7.8 567 80\r\n",
    "port too big": b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 80\r\n",
    "port negative": b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 80\r\n",
    "port with zeros": b"PROXY TCP4 1.2.3.4 5.6.7.8 00567 80\r\n",
    "port missing": b"PROXY TCP4 1.2.3.4 5.6.7.8 567\r\n",
    "too many": b"PROXY TCP4 1.2.3.4 5.6.7.8 567 80 90\r\n",
    "two spaces": b"PROXY  TCP4 1.2.3.4 5.6.7.8 567 80\r\n",
    "tab": b"PROXY TCP4\t1.2.3.4 5.6.7.8 567 80\r\n",
    "bare LF": b"PROXY TCP4 1.2.3.4 5.6.7.8 567 80\n" + b"x" * 9,
    "CR inside": b"PROXY TCP4 1.2.3.4\r5.6.7.8 567 80\r\n",
    "unknown with a CR": b"PROXY UNKNOWN \r \r\n",
    "endless": b"PROXY UNKNOWN " + b"x" * 200,
    "signature": SIGNATURE[:11] + b"\r" + binary(inet())[12:],
    "version 1": binary(inet(), command=0x11),
    "version 3": binary(inet(), command=0x31),
    "command": binary(inet(), command=0x22),
    "datagrams": binary(inet(), family=0x12),
    "family": binary(inet(), family=0x41),
    "too short": binary(inet()[:11]),
    "too short v6": binary(inet(), family=0x21),
    "too long": SIGNATURE + b"\x21\x11" + (MAX_HEADER_SIZE - 15).to_bytes(2) + bytes(5000),
    "longest": SIGNATURE + b"\x21\x11\xff\xff" + bytes(70000),
    "tlv head": binary(inet(), b"\x04\x00"),
    "tlv value": binary(inet(), b"\x04\x00\x02x"),
    "checksum": binary(inet(), tlv(3, b"\1\2\3\4")),
    "checksum size": binary(inet(), tlv(3, b"\1\2\3")),
    "tls tlv": binary(inet(), tlv(0x20, b"\1\0\0\0")),
}


@pytest.mark.parametrize("header", BAD.values(), ids=BAD)
@pytest.mark.parametrize("piece", [1, 16, 4096])
def test_a_bad_header(header: bytes, piece: int) -> None:
    with pytest.raises(InvalidMessage):
        parsed(header, piece)


def test_limits_are_named() -> None:
    for name in ("endless", "longest"):
        with pytest.raises(SecurityError, match="exceeds"):
            parsed(BAD[name])


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\0"]),
)
def test_any_bytes_have_a_verdict(rest: bytes, start: bytes) -> None:
    parser = ProxyHeaderParser()
    stream = start + rest
    while stream:
        size = parser.wanted
        data, stream = stream[:size], stream[size:]
        try:
            if parser.feed(data) is not None:
                return
        except InvalidMessage:
            return
    assert parser.wanted <= MAX_HEADER_SIZE


# -- with a server ----------------------------------------------------------------


@pytest.fixture
def start(nothing_left: Callable[[], None]) -> Iterator[Start]:
    with observed(nothing_left), servers() as start:
        yield start


def tell(ws: syncws.ServerConnection) -> None:
    ws.send(f"{ws.remote_address[0]} {ws.secure}")


def told(raw: RawClient, header: bytes, **changes: Any) -> str:
    """Whom the server takes a peer for."""
    raw.send(header + request(**changes))
    assert raw.receive_head().startswith(b"HTTP/1.1 101 ")
    _, payload = raw.receive_frame()
    assert raw.answer_close() == 1000
    return payload.decode()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (GOOD["v1"][0], "1.2.3.4 False"),
        (GOOD["v2"][0], "1.2.3.4 False"),
        (GOOD["v2 tls"][0], "1.2.3.4 True"),
        (GOOD["v2 local"][0], "127.0.0.1 False"),
        (GOOD["v1 unknown"][0], "127.0.0.1 False"),
    ],
)
def test_the_peer_is_the_one_that_the_header_names(
    start: Start, header: bytes, expected: str
) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True)
    with RawClient(server.address) as raw:
        assert told(raw, header) == expected


FORGED = b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # It names whom nobody trusts,
        ("v1", "1.2.3.4 False"),
        # or nobody: then the headers may be anybody's.
        ("v1 unknown", "127.0.0.1 False"),
        ("v2 local", "127.0.0.1 False"),
        ("v2 unix", "127.0.0.1 False"),
        ("v2 unspecified", "127.0.0.1 False"),
    ],
)
def test_who_is_not_named_is_not_believed_in_headers(
    start: Start, name: str, expected: str
) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True)
    with RawClient(server.address) as raw:
        forged = request().replace(b"\r\n\r\n", b"\r\n" + FORGED + b"\r\n")
        raw.send(GOOD[name][0] + forged)
        assert raw.receive_head().startswith(b"HTTP/1.1 101 ")
        assert raw.receive_frame()[1].decode() == expected
        assert raw.answer_close() == 1000


def test_byte_by_byte(start: Start) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True)
    for name in ("v1", "v2"):
        with RawClient(server.address) as raw:
            for byte in GOOD[name][0]:
                raw.send(bytes([byte]))
            assert told(raw, b"") == "1.2.3.4 False"


def test_before_tls(
    start: Start, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True, ssl=server_context)
    for name in ("v1", "v2"):
        with socket.create_connection(server.address) as sock:
            sock.sendall(GOOD[name][0])
            with RawClient(sock, client_context) as raw:
                assert told(raw, b"") == "1.2.3.4 True"


def test_h6x_headers_of_whom_the_header_names_are_believed_if_it_is_a_proxy(start: Start) -> None:
    server = start(tell, trusted_proxies=[*LOOPBACK, "10.0.0.0/8"], proxy_protocol=True)
    spoofed = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n"
    with RawClient(server.address) as raw:
        assert told(raw, binary(inet("1.2.3.4")), extra=spoofed) == "1.2.3.4 False"
    with RawClient(server.address) as raw:
        assert told(raw, binary(inet("10.1.2.3")), extra=spoofed) == "9.9.9.9 True"


@pytest.mark.parametrize(
    "name", ["http", "tls", "checksum", "version 3", "longest", "port too big"]
)
def test_h6x_no_header_no_service(start: Start, name: str) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True)
    with RawClient(server.address) as raw:
        with contextlib.suppress(OSError):  # it may be closed before all of it is sent
            raw.send(BAD[name])
        assert closed_without_a_word(raw)
        wait_until(lambda: not server._openings)


def test_h6x_a_header_that_breaks_off(start: Start) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True)
    with RawClient(server.address) as raw:
        raw.send(GOOD["v2"][0][:20])
        raw.sock.shutdown(socket.SHUT_WR)
        assert closed_without_a_word(raw)


@pytest.mark.parametrize("reset", [False, True])
def test_e19_a_peer_that_vanishes_at_every_byte(
    start: Start, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True)
    for name in ("v1", "v2"):
        header = GOOD[name][0]
        for offset in range(len(header) + 1):
            with RawClient(server.address) as raw:
                raw.send(header[:offset])
                if reset:
                    raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: not server._openings)
    assert caplog.records == []
    with RawClient(server.address) as raw:
        assert told(raw, GOOD["v1"][0]) == "1.2.3.4 False"


def test_d12_a_header_that_does_not_come(start: Start) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True, open_timeout=0.2)
    with RawClient(server.address) as raw:
        raw.send(b"PROXY ")
        assert closed_without_a_word(raw)


def test_a_reset_in_the_header(start: Start) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True)
    with RawClient(server.address) as raw:
        raw.send(b"PROXY ")
        wait_until(lambda: len(server._openings) == 1)
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: not server._openings)


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8"]])
def test_h6x_strangers_are_closed(start: Start, trusted: list[str]) -> None:
    server = start(tell, trusted_proxies=trusted, proxy_protocol=True)
    with RawClient(server.address) as raw:
        assert closed_without_a_word(raw)


def closed_without_a_word(raw: RawClient) -> bool:
    """Whether the server ends the connection, with a reset if it had unread bytes."""
    raw.sock.settimeout(PATIENCE)
    try:
        return raw.sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_h6x_a_header_that_nobody_asked_for(start: Start) -> None:
    server = start(tell, trusted_proxies=LOOPBACK)
    for name in ("v1", "v2"):
        with RawClient(server.address) as raw:
            raw.send(GOOD[name][0] + request())
            raw.expect_refusal(400)


def test_shutdown_while_the_header_is_awaited(start: Start) -> None:
    server = start(tell, trusted_proxies=LOOPBACK, proxy_protocol=True)
    with RawClient(server.address) as raw:
        raw.send(b"PROXY ")
        wait_until(lambda: len(server._openings) == 1)
        assert server.shutdown(timeout=5) == []
        assert raw.receive_rest().startswith(b"HTTP/1.1 503 ")


def test_early_data_behind_the_header(start: Start) -> None:
    server = start(
        lambda ws: ws.send(ws.recv(PATIENCE)), trusted_proxies=LOOPBACK, proxy_protocol=True
    )
    with RawClient(server.address) as raw:
        raw.send(GOOD["v2"][0] + request() + masked_frame(1, b"hi"))
        assert raw.receive_head().startswith(b"HTTP/1.1 101 ")
        assert raw.receive_frame() == (1, b"hi")
        assert raw.answer_close() == 1000


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"proxy_protocol": True}, ValueError),
        ({"proxy_protocol": 1, "trusted_proxies": []}, TypeError),
    ],
)
def test_a_bad_argument(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="proxy_protocol"):
        syncws.serve(tell, "127.0.0.1", **options)
