"""Proxies that follow a script or really connect: HTTP and SOCKS as bytes.

What belongs here: what the tests of proxies share. What does not: anything that imports the
modules under test.
"""

from __future__ import annotations

import base64
import select
import socket
from collections.abc import Callable
from typing import Any

from scripted import PATIENCE, Script, read_head

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, data
        data += piece
    return data


def relay(one: socket.socket, other: socket.socket) -> None:
    """Moves bytes both ways until one side ends."""
    while True:
        held: list[Any] = [sock for sock in (one, other) if getattr(sock, "pending", int)()]
        for sock in held or select.select([one, other], [], [], PATIENCE)[0]:
            data = sock.recv(65536)
            if not data:
                return
            (other if sock is one else one).sendall(data)


class Proxying:
    """The script of a proxy that connects to ``port`` of this machine, whatever it is asked for.

    Attributes:
        heads: What clients said to the proxy.
        asked: ``(host, port)`` for SOCKS.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[bytes] = []
        self.asked: list[tuple[bytes, int]] = []

    def _connect(self, sock: socket.socket, reply: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as upstream:
            sock.sendall(reply)
            relay(sock, upstream)

    def http(self, sock: socket.socket) -> None:
        self.heads.append(read_head(sock))
        self._connect(sock, ESTABLISHED)

    def with_password(self, username: str, password: str) -> Script:
        expected = base64.b64encode(f"{username}:{password}".encode())

        def script(sock: socket.socket) -> None:
            self.heads.append(read_head(sock))
            if b"Proxy-Authorization: Basic " + expected + b"\r\n" in self.heads[-1]:
                return self._connect(sock, ESTABLISHED)
            body = b"who are you?"
            sock.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b"Proxy-Authenticate: Basic realm=proxy\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            return None

        return script

    def socks4(self, sock: socket.socket) -> None:
        """SOCKS4 and 4a."""
        version, command = read_exactly(sock, 2)
        assert (version, command) == (4, 1)
        port = int.from_bytes(read_exactly(sock, 2))
        address = read_exactly(sock, 4)
        user = self._up_to_nul(sock)
        host = socket.inet_ntoa(address).encode()
        if address[:3] == b"\0\0\0" and address[3]:
            host = self._up_to_nul(sock)
        self.heads.append(user)
        self.asked.append((host, port))
        self._connect(sock, b"\0\x5a\0\0\0\0\0\0")

    def socks5(self, sock: socket.socket) -> None:
        """SOCKS5, with a password if one is offered."""
        version, count = read_exactly(sock, 2)
        assert version == 5
        methods = read_exactly(sock, count)
        method = 2 if 2 in methods else 0
        sock.sendall(bytes([5, method]))
        if method:
            assert read_exactly(sock, 1) == b"\1"
            user = read_exactly(sock, read_exactly(sock, 1)[0])
            password = read_exactly(sock, read_exactly(sock, 1)[0])
            self.heads.append(user + b":" + password)
            sock.sendall(b"\1\0")
        version, command, _, kind = read_exactly(sock, 4)
        assert (version, command) == (5, 1)
        if kind == 3:
            host = read_exactly(sock, read_exactly(sock, 1)[0])
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, read_exactly(sock, size)).encode()
        self.asked.append((host, int.from_bytes(read_exactly(sock, 2))))
        self._connect(sock, b"\5\0\0\1\0\0\0\0\0\0")

    @staticmethod
    def _up_to_nul(sock: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"\0"):
            data += read_exactly(sock, 1)
        return data[:-1]


def dribble(data: bytes) -> Callable[[socket.socket], None]:
    """Sends one byte at a time."""

    def send(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            sock.sendall(bytes([byte]))

    return send
