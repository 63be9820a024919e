"""A WebSocket peer written by hand: raw sockets, literal bytes, no syncws.

What belongs here: building and parsing frames, the two opening handshakes, and the ways
a peer can deliver, stop and vanish. It is an oracle, so it imports nothing of syncws and
obeys no rule that it is not told to obey: every field of a frame can be given a wrong
value. What does not belong here: starting the library (``subject.py``).

Nothing here waits for ever: every socket has a timeout.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

from reliability.shared_tls import wrap

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

# How long a peer waits for bytes that must come.
PATIENCE = 8.0

# RFC 6455 section 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

DEFAULT_KEY = b"\x37\xfa\x21\x3d"


class Frame(NamedTuple):
    """A frame as it stood on the wire, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False


def masked(payload: bytes, key: bytes) -> bytes:
    """RFC 6455 section 5.3, as one sum of two long numbers."""
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(len(payload))


def header(
    opcode: int,
    length: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    length_size: int | None = None,
) -> bytes:
    """A frame header (RFC 6455 section 5.2).

    Args:
        opcode: 0 to 15.
        length: What the header claims, whatever follows.
        fin: The FIN bit.
        rsv: RSV1 = 4, RSV2 = 2, RSV3 = 1.
        mask: The masking key; ``None`` for an unmasked frame.
        length_size: Bytes of the length field: 0 (in the second byte), 2 or 8; ``None``
            for the fewest.
    """
    if length_size is None:
        length_size = 0 if length < 126 else 2 if length < 65536 else 8
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask_bit = 0 if mask is None else 0x80
    if length_size == 0:
        encoded = struct.pack("!BB", first, mask_bit | length)
    elif length_size == 2:
        encoded = struct.pack("!BBH", first, mask_bit | 126, length)
    else:
        encoded = struct.pack("!BBQ", first, mask_bit | 127, length)
    return encoded + (mask or b"")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    length_size: int | None = None,
) -> bytes:
    """A whole frame; see :func:`header`."""
    body = payload if mask is None else masked(payload, mask)
    head = header(opcode, len(payload), fin=fin, rsv=rsv, mask=mask, length_size=length_size)
    return head + body


def close_payload(code: int | None, reason: bytes = b"") -> bytes:
    """The payload of a close frame; ``None`` for an empty one."""
    return b"" if code is None else struct.pack("!H", code) + reason


def parse_frame(data: bytes) -> tuple[Frame, int] | None:
    """The first frame of ``data`` and its size, or ``None`` if it is not whole."""
    if len(data) < 2:
        return None
    length, position = data[1] & 127, 2
    if length >= 126:
        size = 2 if length == 126 else 8
        if len(data) < 2 + size:
            return None
        length, position = int.from_bytes(data[2 : 2 + size]), 2 + size
    is_masked = bool(data[1] & 128)
    key = data[position : position + 4] if is_masked else b"\0\0\0\0"
    position += 4 if is_masked else 0
    end = position + length
    if len(data) < end:
        return None
    payload = masked(data[position:end], key) if is_masked else data[position:end]
    return Frame(data[0] & 15, payload, bool(data[0] & 128), data[0] >> 4 & 7, is_masked), end


class Peer:
    """One end of a connection, after (or without) the opening handshake.

    Args:
        sock: A connected socket, plain or TLS; the peer owns it.
        is_client: Whether frames built by :meth:`frame` are masked.
        received: Bytes that came behind the HTTP head.
        head: The HTTP head of the other side.

    Attributes:
        was_reset: Reading or writing met a connection reset.
    """

    def __init__(
        self, sock: socket.socket, is_client: bool, received: bytes = b"", head: bytes = b""
    ) -> None:
        self.sock = sock
        self.is_client = is_client
        self.received = received
        self.head = head
        self.was_reset = False
        self._at_end = False
        self.sock.settimeout(PATIENCE)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Sending.

    @property
    def key(self) -> bytes | None:
        """The masking key that this side must use; ``None`` for a server."""
        return DEFAULT_KEY if self.is_client else None

    def frame(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv: int = 0,
        length_size: int | None = None,
    ) -> bytes:
        """A frame masked as this side must."""
        return frame(opcode, payload, fin=fin, rsv=rsv, mask=self.key, length_size=length_size)

    def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        """Writes each piece by itself, ``pause`` seconds apart.

        A library that has given up on us may reset the connection; that is no error here.
        """
        for number, piece in enumerate(pieces):
            if number and pause:
                time.sleep(pause)
            try:
                self.sock.sendall(piece)
            except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
                # The kernel reports a reset once: reading may only see the end.
                self.was_reset = True
                return

    def send_bytewise(self, data: bytes) -> None:
        """Writes one byte at a time."""
        self.send(*(data[index : index + 1] for index in range(len(data))))

    def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """Writes one correct frame."""
        self.send(self.frame(opcode, payload, fin=fin))

    def send_close(self, code: int | None = 1000, reason: bytes = b"") -> None:
        """Writes a close frame."""
        self.send_frame(CLOSE, close_payload(code, reason))

    # Receiving.

    def _fill(self) -> bool:
        if self._at_end:
            return False
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            self.was_reset = True
            data = b""
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            data = b""
        except ssl.SSLError as error:
            # How OpenSSL answers our half-close, which comes without a close_notify.
            if error.reason != "TLSV1_ALERT_DECODE_ERROR":
                raise
            data = b""
        if not data:
            self._at_end = True
        self.received += data
        return bool(data)

    def read_frame(self, timeout: float = PATIENCE) -> Frame | None:
        """The next frame; ``None`` at the end of the stream.

        Raises:
            TimeoutError: Neither came in ``timeout`` seconds.
            AssertionError: The stream ended inside a frame, or a frame is masked
                against its direction.
        """
        deadline = time.monotonic() + timeout
        while (found := parse_frame(self.received)) is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("no frame came")
            self.sock.settimeout(remaining)
            if not self._fill():
                assert self.was_reset or not self.received, f"cut frame: {self.received!r}"
                return None
        received, size = found
        self.received = self.received[size:]
        assert received.masked is not self.is_client, "masked against its direction"
        return received

    def read_frames(self, timeout: float = PATIENCE) -> list[Frame]:
        """All frames up to the end of the stream."""
        deadline = time.monotonic() + timeout
        frames: list[Frame] = []
        while (received := self.read_frame(deadline - time.monotonic())) is not None:
            frames.append(received)
        return frames

    def read_until_close(self, timeout: float = PATIENCE) -> tuple[list[Frame], Frame]:
        """The frames before the close frame, and the close frame.

        Raises:
            AssertionError: The stream ended without one.
        """
        deadline = time.monotonic() + timeout
        frames: list[Frame] = []
        while (received := self.read_frame(deadline - time.monotonic())) is not None:
            if received.opcode == CLOSE:
                return frames, received
            frames.append(received)
        raise AssertionError(
            f"no close frame, but {'a reset' if self.was_reset else 'the end'} after {frames!r}"
        )

    def read_raw(self, timeout: float = PATIENCE) -> bytes:
        """Everything up to the end of the stream, unparsed."""
        deadline = time.monotonic() + timeout
        while not self._at_end:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"no end of stream after {self.received[-200:]!r}")
            self.sock.settimeout(remaining)
            self._fill()
        data, self.received = self.received, b""
        return data

    def expect_end(self, timeout: float = PATIENCE) -> None:
        """Demands the end of the stream and no byte before it."""
        assert self.read_raw(timeout) == b""

    # Ending.

    def half_close(self) -> None:
        """Sends FIN and goes on reading. Over TLS without a close_notify first."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown(), which forgets the TLS state and with it how to read.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def reset(self) -> None:
        """Ends the connection with RST."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Sends FIN, reads nothing more."""
        self.sock.close()


# Client side: against a server under test.


def request(
    host: str,
    *,
    path: str = "/",
    key: bytes | None = None,
    version: str = "13",
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """A correct opening request, plus ``headers``."""
    key = base64.b64encode(os.urandom(16)) if key is None else key
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode('latin-1')}",
        f"Sec-WebSocket-Version: {version}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def accept_value(key: bytes) -> bytes:
    """``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key`` (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def dial(
    address: tuple[str, int], tls: ssl.SSLContext | None = None, timeout: float = PATIENCE
) -> Peer:
    """A TCP or TLS connection on which nothing was sent yet."""
    sock = socket.create_connection(address, timeout=timeout)
    if tls is not None:
        try:
            sock = wrap(tls, sock, PATIENCE, server_hostname=address[0])
        except BaseException:
            sock.close()
            raise
    return Peer(sock, is_client=True)


def read_head(peer: Peer, timeout: float = PATIENCE) -> bytes:
    """The other side's HTTP head; what follows it stays in ``peer.received``.

    Raises:
        AssertionError: The stream ended inside it.
    """
    deadline = time.monotonic() + timeout
    while b"\r\n\r\n" not in peer.received:
        peer.sock.settimeout(max(0.001, deadline - time.monotonic()))
        assert peer._fill(), f"the stream ended in the HTTP head: {peer.received!r}"
    head, _, peer.received = peer.received.partition(b"\r\n\r\n")
    peer.head = head + b"\r\n\r\n"
    return peer.head


def status_code(head: bytes) -> int:
    """The status code of a response head."""
    version, code = head.split(b" ", 2)[:2]
    assert version == b"HTTP/1.1"
    return int(code)


def header_values(head: bytes, name: str) -> list[str]:
    """The values of a header, in order; names compare without case."""
    found = []
    for line in head.split(b"\r\n")[1:]:
        given, separator, value = line.partition(b":")
        if separator and given.lower() == name.lower().encode():
            found.append(value.strip().decode("latin-1"))
    return found


def connect(
    address: tuple[str, int],
    tls: ssl.SSLContext | None = None,
    *,
    early: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
    path: str = "/",
) -> Peer:
    """Connects to a server under test and performs the opening handshake.

    Args:
        address: Host and port.
        tls: A client context, or ``None`` for plain TCP.
        early: Frames pipelined behind the request, in the same write.
        headers: Further request headers.
        path: The request target.
    """
    peer = dial(address, tls)
    try:
        key = base64.b64encode(os.urandom(16))
        host = f"{address[0]}:{address[1]}"
        peer.send(request(host, path=path, key=key, headers=headers) + early)
        head = read_head(peer)
        assert status_code(head) == 101, head
        assert header_values(head, "Sec-WebSocket-Accept") == [accept_value(key).decode()]
    except BaseException:
        peer.close()
        raise
    return peer


# Server side: against a client under test.


class Listener:
    """A raw server for clients under test.

    Args:
        tls: A server context, or ``None`` for plain TCP.
        backlog: Of the listening socket.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, backlog: int = 16) -> None:
        self.tls = tls
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.sock.settimeout(PATIENCE)
        self.address: tuple[str, int] = self.sock.getsockname()
        scheme = "ws" if tls is None else "wss"
        self.uri = f"{scheme}://127.0.0.1:{self.address[1]}/"

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening."""
        self.sock.close()

    def accept_raw(self) -> Peer:
        """Accepts TCP (and TLS); nothing is read or written above that."""
        sock, _ = self.sock.accept()
        sock.settimeout(PATIENCE)
        if self.tls is not None:
            try:
                sock = wrap(self.tls, sock, PATIENCE, server_side=True)
            except BaseException:
                sock.close()
                raise
        return Peer(sock, is_client=False)

    def accept(self, *, early: bytes = b"", headers: Sequence[tuple[str, str]] = ()) -> Peer:
        """Accepts and performs the opening handshake.

        Args:
            early: Frames glued behind the response, in the same write.
            headers: Further response headers.
        """
        peer = self.accept_raw()
        try:
            head = read_head(peer)
            peer.send(self.response(head, headers) + early)
        except BaseException:
            peer.close()
            raise
        return peer

    def response(self, head: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
        """The 101 response to a request head, plus ``headers``."""
        (key,) = header_values(head, "Sec-WebSocket-Key")
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_value(key.encode()).decode()}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def splits(data: bytes, at_most: int = 64) -> Iterator[tuple[bytes, bytes]]:
    """``data`` in two pieces, at every offset or at ``at_most`` offsets spread evenly."""
    count = len(data) - 1
    step = max(1, -(-count // at_most))
    for offset in range(1, len(data), step):
        yield data[:offset], data[offset:]
