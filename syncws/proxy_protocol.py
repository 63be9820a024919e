"""The PROXY protocol, versions 1 and 2, without I/O.

What belongs here: the header that a proxy sends before anything else. What does not: who may
send one (:mod:`.forwarded`), sockets, deadlines.

The specification is HAProxy's ``doc/proxy-protocol.txt``; sections below are its sections.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NamedTuple

from .exceptions import InvalidMessage, SecurityError
from .forwarded import Peer, socket_address

__all__ = ["MAX_HEADER_SIZE", "ProxyHeaderParser"]

MAX_HEADER_SIZE = 4096
"""Bytes in a header of version 2, with what proxies append to the addresses."""
_MAX_LINE_SIZE = 107  # section 2.1, with CRLF
_SHORTEST_LINE = len(b"PROXY UNKNOWN\r\n")

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_START = 16  # signature, version and command, family and protocol, length
_IS_PREFIX = (b"PROXY ", _SIGNATURE)

_LINE = re.compile(
    rb"PROXY (TCP[46]) ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}) "
    rb"(0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [\x20-\x7e]*)?\r\n")

_LOCAL, _PROXY = 0x20, 0x21
# Family and protocol: the size of the addresses with their ports. Datagrams are none of ours.
_INET, _INET6, _UNIX, _UNSPEC = 0x11, 0x21, 0x31, 0x00
_SIZES = {_INET: 12, _INET6: 36, _UNIX: 216, _UNSPEC: 0}
_TLV_CRC32C, _TLV_SSL = 0x03, 0x20
_CLIENT_SSL = 0x01


class _TLV(NamedTuple):
    kind: int
    start: int
    value: bytes


class ProxyHeaderParser:
    """Parses one header that comes in pieces.

    Not for use by several threads at once.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def wanted(self) -> int:
        """How many more bytes are certainly of the header; what follows is not ours to take."""
        buffer = self._buffer
        if len(buffer) < _SHORTEST_LINE:
            return _SHORTEST_LINE - len(buffer)
        if buffer[:1] != b"\r":
            return 1 if buffer[-1:] == b"\r" else 2
        if len(buffer) < _START:
            return _START - len(buffer)
        return _START + int.from_bytes(buffer[14:16]) - len(buffer)

    def feed(self, data: bytes) -> Peer | None:
        """Takes more bytes.

        Args:
            data: At most :attr:`wanted` bytes.

        Returns:
            ``None`` while bytes are missing. Then what the proxy says of its peer: nothing, if
            the connection is its own (``LOCAL``, a health check), or it knows no address.

        Raises:
            InvalidMessage: It is no valid header.
            SecurityError: It exceeds a limit.
        """
        buffer = self._buffer
        buffer += data
        if not any(buffer.startswith(start[: len(buffer)]) for start in _IS_PREFIX):
            raise InvalidMessage("the connection does not begin with a PROXY header")
        if buffer[:1] == b"\r":
            return self._binary(bytes(buffer))
        end = buffer.find(b"\n")
        if end < 0:
            if len(buffer) >= _MAX_LINE_SIZE:
                raise SecurityError(f"a PROXY header exceeds {_MAX_LINE_SIZE} bytes")
            return None
        return _line(bytes(buffer))

    def _binary(self, header: bytes) -> Peer | None:
        if len(header) < _START:
            return None
        command, family = header[12], header[13]
        size = _START + int.from_bytes(header[14:16])
        if command not in (_LOCAL, _PROXY):
            raise InvalidMessage("the version or the command of a PROXY header is unknown")
        if size > MAX_HEADER_SIZE:
            raise SecurityError(f"a PROXY header exceeds {MAX_HEADER_SIZE} bytes")
        if len(header) < size:
            return None
        if command == _LOCAL:
            # Section 2.2: whatever else it says is to be ignored.
            return Peer(None, None)
        if family not in _SIZES or size < _START + _SIZES[family]:
            raise InvalidMessage("the addresses in a PROXY header are malformed")
        secure = _secure_by(header, _START + _SIZES[family])
        if family in (_UNIX, _UNSPEC):
            return Peer(None, secure)
        length = 4 if family == _INET else 16
        address = ipaddress.ip_address(header[_START : _START + length])
        port = int.from_bytes(header[_START + 2 * length : _START + 2 * length + 2])
        return Peer(socket_address(address, port), secure)


def _line(header: bytes) -> Peer:
    """Section 2.1."""
    if _UNKNOWN.fullmatch(header) is not None:
        return Peer(None, None)
    match = _LINE.fullmatch(header)
    if match is None:
        raise InvalidMessage("a PROXY header is malformed")
    kind = ipaddress.IPv4Address if match[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, _ = kind(match[2].decode()), kind(match[3].decode())
    except ValueError:
        raise InvalidMessage("an address in a PROXY header is malformed") from None
    port, other = int(match[4]), int(match[5])
    if max(port, other) > 65535:
        raise InvalidMessage("a port in a PROXY header is malformed")
    return Peer(socket_address(source, port), None)


def _secure_by(header: bytes, start: int) -> bool | None:
    """Checks what follows the addresses (section 2.2); whether the client came over TLS."""
    secure = None
    while start < len(header):
        tlv = _tlv_at(header, start)
        start = tlv.start + len(tlv.value)
        if tlv.kind == _TLV_CRC32C:
            # Section 2.2.3: of the whole header, with zeros where the sum stands.
            zeroed = header[: tlv.start] + bytes(4) + header[tlv.start + 4 :]
            if len(tlv.value) != 4 or int.from_bytes(tlv.value) != _crc32c(zeroed):
                raise InvalidMessage("the checksum of a PROXY header is wrong")
        elif tlv.kind == _TLV_SSL:
            if len(tlv.value) < 5:
                raise InvalidMessage("what a PROXY header says of TLS is malformed")
            secure = bool(tlv.value[0] & _CLIENT_SSL)
    return secure


def _tlv_at(header: bytes, start: int) -> _TLV:
    value = header[start + 3 : start + 3 + int.from_bytes(header[start + 1 : start + 3])]
    if start + 3 > len(header) or len(value) != int.from_bytes(header[start + 1 : start + 3]):
        raise InvalidMessage("a PROXY header is malformed behind its addresses")
    return _TLV(header[start], start + 3, value)


@functools.cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


def _crc32c(data: bytes) -> int:
    """CRC-32C (RFC 9260 appendix A); the standard library has only the other one."""
    crc, table = 0xFFFFFFFF, _table()
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
