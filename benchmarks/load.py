"""The other end of every benchmark: a WebSocket server made of a raw socket.

What belongs here: the cheapest server that keeps each client busy. What does not: any
checking of what clients send. It counts bytes and answers with frames built beforehand, so
what is measured is the client, not this.

The request's path says what to do: ``/<scenario>/<size>/<count>``.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import socket
import string
import struct
import sys
from collections.abc import Callable

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY = 0x81, 0x82
CLOSE_FRAME = b"\x88\x02\x03\xe8"
# The frames of a flood differ; together they take about so many bytes.
FLOOD_BYTES = 2**20
RECEIVE_SIZE = 2**18


def header(opcode: int, size: int, mask_bit: int = 0) -> bytes:
    """The header of an unfragmented frame (RFC 6455 section 5.2), without a masking key."""
    if size < 126:
        return struct.pack("!BB", opcode, mask_bit | size)
    if size < 65536:
        return struct.pack("!BBH", opcode, mask_bit | 126, size)
    return struct.pack("!BBQ", opcode, mask_bit | 127, size)


def masked_size(size: int) -> int:
    """How many bytes a client's frame with ``size`` bytes of payload takes."""
    return len(header(BINARY, size)) + 4 + size


def payload(opcode: int, size: int) -> bytes:
    """Random bytes, or random printable text."""
    if opcode == BINARY:
        return os.urandom(size)
    return "".join(random.choices(string.ascii_letters + string.digits, k=size)).encode()


def receive_exactly(sock: socket.socket, count: int, buffer: bytearray) -> None:
    """Receives and drops ``count`` bytes.

    Raises:
        ConnectionError: The stream ended before.
    """
    view = memoryview(buffer)
    while count:
        received = sock.recv_into(view, min(count, len(buffer)))
        if not received:
            raise ConnectionError("the stream ended")
        count -= received


def flood(sock: socket.socket, opcode: int, size: int, count: int) -> None:
    """Sends ``count`` frames as fast as the socket takes them."""
    frame_size = len(header(opcode, size)) + size
    per_chunk = max(1, min(count, FLOOD_BYTES // frame_size))
    chunk = b"".join(header(opcode, size) + payload(opcode, size) for _ in range(per_chunk))
    # The answer to the client's first message: now everything is prepared.
    sock.sendall(header(BINARY, 1) + b"\x00")
    receive_exactly(sock, masked_size(1), bytearray(16))
    for _ in range(count // per_chunk):
        sock.sendall(chunk)
    sock.sendall(chunk[: count % per_chunk * frame_size])


def handle(sock: socket.socket) -> None:
    """One connection, from its request to its close frame."""
    request = b""
    while b"\r\n\r\n" not in request:
        data = sock.recv(4096)
        if not data:
            return
        request += data
    key = next(
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    _, scenario, size_text, count_text = request.split(b" ", 2)[1].decode().split("/")
    size, count = int(size_text), int(count_text)
    buffer = bytearray(RECEIVE_SIZE)
    if scenario == "pingpong":
        answer = header(BINARY, size) + payload(BINARY, size)
        for _ in range(count):
            receive_exactly(sock, masked_size(size), buffer)
            sock.sendall(answer)
    elif scenario in ("receive", "text"):
        receive_exactly(sock, masked_size(1), buffer)
        flood(sock, TEXT if scenario == "text" else BINARY, size, count)
    elif scenario == "send":
        receive_exactly(sock, masked_size(size) * count, buffer)
        sock.sendall(header(BINARY, 1) + b"\x00")
    # The close frame: a header, a masking key, and often a code.
    receive_exactly(sock, 2, buffer)
    receive_exactly(sock, 4 + (buffer[1] & 0x7F), buffer)
    # RFC 6455 section 7.1.1: the server closes the TCP connection first.
    sock.sendall(CLOSE_FRAME)


def main(accepted: Callable[[socket.socket], socket.socket] = lambda sock: sock) -> None:
    """Serves one connection after the other, each by what ``accepted`` makes of its socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with accepted(sock) as sock:
                handle(sock)
        except OSError as error:
            print(f"load: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
