"""A raw client of a syncws server: HTTP and frames as bytes.

What belongs here: what the tests of the server's modules share. What does not: anything
that imports the modules under test.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from upgrading import request

PATIENCE = 10.0
KEY = b"\x37\xfa\x21\x3d"


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def masked_frame(opcode: int, payload: bytes = b"") -> bytes:
    """A frame of up to 125 bytes as a client must send it."""
    masked = bytes(byte ^ KEY[index % 4] for index, byte in enumerate(payload))
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + KEY + masked


class RawClient:
    """A socket with a buffer.

    Args:
        address: Of the server, or a socket that is connected to it.
        context: For TLS.
    """

    def __init__(self, address: Any, context: ssl.SSLContext | None = None) -> None:
        if isinstance(address, socket.socket):
            self.sock = address
        elif isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address[:2])
        self.sock.settimeout(PATIENCE)
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self.buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        while len(self.buffer) < size:
            data = self.sock.recv(65536)
            assert data, f"the stream ended after {self.buffer!r}"
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def receive_head(self) -> bytes:
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            assert data, f"the stream ended after {self.buffer!r}"
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    def receive_rest(self) -> bytes:
        """Everything up to the end of the stream, which must come."""
        while data := self.sock.recv(65536):
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def upgrade(self, **changes: Any) -> int:
        """Sends a request and reads the answer's head; the status."""
        self.send(request(**changes))
        return int(self.receive_head().split(b" ")[1])

    def open(self, **changes: Any) -> RawClient:
        """The same, and the answer has to be yes."""
        assert self.upgrade(**changes) == 101
        return self

    def receive_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of a frame of up to 125 bytes."""
        head = self.receive(2)
        return head[0] & 15, self.receive(head[1])

    def answer_close(self) -> int:
        """Reads a close frame and answers it; its code."""
        opcode, payload = self.receive_frame()
        assert opcode == 8
        self.send(masked_frame(8, payload))
        return int.from_bytes(payload[:2])

    def expect_refusal(self, status: int) -> bytes:
        """Demands an answer with ``status`` and the end of the stream; the whole answer."""
        answer = self.receive_rest()
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        return answer
