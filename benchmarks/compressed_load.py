"""The other end of the benchmarks of compression: a raw socket and frames compressed beforehand.

What belongs here: what a client that negotiated permessage-deflate is sent, and the counting of
what it sends. What does not: inflating that, or any checking.

The request's path says what to do: ``/<scenario>/<size>/<count>``. Scenarios whose name begins
with "fresh-" go without context takeover in both directions.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import sys
import zlib

from benchmarks.deflate_engines import TAIL, messages
from benchmarks.load import CLOSE_FRAME, GUID, header

# FIN, RSV1 (RFC 7692 section 6), text.
COMPRESSED_TEXT = 0xC1
TEXT = 0x81
RECEIVE_SIZE = 2**18
# So many messages are compressed beforehand, and sent again and again.
CYCLE = 4096


class Frames:
    """The frames of a client, of which only headers are looked at."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        self._sock = sock
        self._data = data
        self._position = 0

    def skip(self) -> int:
        """Takes one frame, and returns its first byte."""
        while True:
            data, position = self._data, self._position
            if len(data) - position >= 6:
                length = data[position + 1] & 0x7F
                end = position + 6 + length
                if length == 126:
                    end = position + 8 + int.from_bytes(data[position + 2 : position + 4], "big")
                if end <= len(data):
                    self._position = end
                    return data[position]
            received = self._sock.recv(RECEIVE_SIZE)
            if not received:
                raise ConnectionError("the stream ended")
            self._data = data[position:] + received
            self._position = 0

    def messages(self, count: int) -> None:
        """Waits for so many messages."""
        while count:
            first = self.skip()
            # The last frame of a message: FIN, and no control frame.
            if first & 0x80 and not first & 0x08:
                count -= 1

    def close(self) -> None:
        """Waits for the close frame."""
        while self.skip() & 0x0F != 0x08:
            pass


def prepared(size: int, bits: int, takeover: bool) -> list[bytes]:
    """Frames with JSON messages that may be sent in this order again and again."""
    variety = messages(size)
    compressor = zlib.compressobj(wbits=-bits)
    frames = []
    for number in range(CYCLE):
        data = compressor.compress(variety[number % len(variety)])
        # A full flush ends the context: here the cycle begins anew.
        last = not takeover or number == CYCLE - 1
        data += compressor.flush(zlib.Z_FULL_FLUSH if last else zlib.Z_SYNC_FLUSH)
        data = data[: -len(TAIL)]
        frames.append(header(COMPRESSED_TEXT, len(data)) + data)
    return frames


PREPARED: dict[tuple[int, int, bool], list[bytes]] = {}


def answer(request: bytes, takeover: bool) -> tuple[bytes, int]:
    """The response to an opening handshake, and the window bits to compress with."""
    fields = {}
    for line in request.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    # The first offer is what counts.
    offer = fields.get(b"sec-websocket-extensions", b"").partition(b",")[0]
    if not offer.startswith(b"permessage-deflate"):
        raise ConnectionError(f"no permessage-deflate was offered: {offer!r}")
    extension = b"permessage-deflate"
    bits = 15
    if wanted := re.search(rb"server_max_window_bits=(\d+)", offer):
        bits = int(wanted[1])
        extension += b"; server_max_window_bits=" + wanted[1]
    if not takeover:
        extension += b"; server_no_context_takeover; client_no_context_takeover"
    accept = base64.b64encode(hashlib.sha1(fields[b"sec-websocket-key"] + GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Extensions: " + extension + b"\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    ), bits


def handle(sock: socket.socket) -> None:
    """One connection, from its request to its close frame."""
    request = b""
    while b"\r\n\r\n" not in request:
        data = sock.recv(4096)
        if not data:
            return
        request += data
    request, _, early = request.partition(b"\r\n\r\n")
    _, scenario, size, count_text = request.split(b" ", 2)[1].decode().split("/")
    takeover = not scenario.startswith("fresh-")
    scenario = scenario.removeprefix("fresh-")
    response, bits = answer(request, takeover)
    key = int(size), bits, takeover
    if key not in PREPARED:
        PREPARED[key] = prepared(*key)
    cycle = PREPARED[key]
    count = int(count_text)
    sock.sendall(response)
    frames = Frames(sock, early)
    if scenario == "pingpong":
        for number in range(count):
            frames.messages(1)
            sock.sendall(cycle[number % CYCLE])
    elif scenario == "receive":
        frames.messages(1)
        whole = b"".join(cycle)
        for _ in range(count // CYCLE):
            sock.sendall(whole)
        sock.sendall(b"".join(cycle[: count % CYCLE]))
    elif scenario == "send":
        frames.messages(count)
        sock.sendall(header(TEXT, 1) + b".")
    frames.close()
    # RFC 6455 section 7.1.1: the server closes the TCP connection first.
    sock.sendall(CLOSE_FRAME)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                handle(sock)
            except ConnectionError as error:
                print(f"load: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
