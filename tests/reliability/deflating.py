"""permessage-deflate as a peer does it: zlib and literal frames, no syncws.

What belongs here: the peer's side of RFC 7692, as an oracle, and opening a connection that
uses it. What does not: any single row.
"""

from __future__ import annotations

import zlib
from typing import Any

from . import peer as wire
from .subject import Behaviour, Conversation, Subject, echo

NAME = "permessage-deflate"
# RFC 7692 section 7.2.1: what ends a flushed block is not sent.
TAIL = b"\x00\x00\xff\xff"
RSV1 = 4
Parameters = dict[str, str | None]


def parse(value: str) -> Parameters:
    """The parameters of the only extension in a header, which must be this one."""
    name, *parameters = [part.strip() for part in value.split(";")]
    assert name == NAME, value
    found: Parameters = {}
    for parameter in parameters:
        key, separator, given = parameter.partition("=")
        assert key not in found, value
        found[key] = given.strip('"') if separator else None
    return found


def serialize(parameters: Parameters) -> str:
    """A header with this extension and these parameters."""
    parts = [key if given is None else f"{key}={given}" for key, given in parameters.items()]
    return "; ".join([NAME, *parts])


class Deflating:
    """The contexts of a peer, as they were negotiated.

    Attributes:
        parameters: Of the response.
        bits, their_bits: The windows of both directions.
        takeover, their_takeover: Whether messages may refer to earlier ones.
        exact: Inflate a byte at a time, so that zlib remembers no more than the window: a
            reference beyond that is an error then, as it is for a peer with less memory.
    """

    exact = False

    def __init__(self, peer: wire.Peer, parameters: Parameters) -> None:
        self.peer = peer
        self.parameters = parameters
        ours, theirs = ("client", "server") if peer.is_client else ("server", "client")
        self.bits = int(parameters.get(f"{ours}_max_window_bits") or 15)
        self.their_bits = int(parameters.get(f"{theirs}_max_window_bits") or 15)
        self.takeover = f"{ours}_no_context_takeover" not in parameters
        self.their_takeover = f"{theirs}_no_context_takeover" not in parameters
        self._compressor = self._decompressor = None

    def compress(self, data: bytes, level: int = 6) -> bytes:
        """The payload of a message."""
        if self._compressor is None or not self.takeover:
            # zlib has no window of 8 bits for raw deflate; stored blocks refer to nothing.
            if self.bits == 8:
                level = 0
            self._compressor = zlib.compressobj(level, wbits=-max(self.bits, 9))
        payload = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return payload[: -len(TAIL)]

    def frame(self, opcode: int, data: bytes, **options: Any) -> bytes:
        """A compressed message in one frame."""
        return self.peer.frame(opcode, self.compress(data), rsv=RSV1, **options)

    def send(self, opcode: int, data: bytes) -> None:
        """Sends a compressed message in one frame."""
        self.peer.send(self.frame(opcode, data))

    def inflate(self, payload: bytes) -> bytes:
        """What a compressed message of the other side holds."""
        if self._decompressor is None or not self.their_takeover:
            self._decompressor = zlib.decompressobj(wbits=-self.their_bits)
        found = []
        rest = payload + TAIL
        while True:
            piece = self._decompressor.decompress(rest, 1 if self.exact else 2**20)
            rest = self._decompressor.unconsumed_tail
            found.append(piece)
            if not piece and not rest:
                break
        assert not self._decompressor.eof
        assert not self._decompressor.unused_data
        return b"".join(found)

    def read_message(self, timeout: float = wire.PATIENCE) -> tuple[int, bytes, bool]:
        """The next message: its opcode, what it holds, and whether it was compressed."""
        opcode, rsv, payloads = 0, 0, []
        while True:
            received = self.peer.read_frame(timeout)
            assert received is not None, "the end of the stream instead of a message"
            assert received.opcode in (wire.TEXT, wire.BINARY, wire.CONTINUATION), received
            if received.opcode == wire.CONTINUATION:
                assert received.rsv == 0, received
                assert opcode
            else:
                assert not opcode, received
                assert received.rsv in (0, RSV1), received
                opcode, rsv = received.opcode, received.rsv
            payloads.append(received.payload)
            if received.fin:
                payload = b"".join(payloads)
                return opcode, self.inflate(payload) if rsv else payload, bool(rsv)

    def expect(self, opcode: int, data: bytes) -> None:
        """Demands that a message comes back."""
        found = self.read_message()
        same = found[:2] == (opcode, data)
        assert same, f"{found!r:.200}, not {data!r:.200} of {len(data)} bytes"


def open_deflating(
    subject: Subject,
    parameters: Parameters | None = None,
    behaviour: Behaviour = echo,
    **options: Any,
) -> tuple[Conversation, Deflating]:
    """A connection that has negotiated permessage-deflate.

    Args:
        subject: The library, in its role.
        parameters: What a raw client offers to the server under test, besides
            ``client_max_window_bits``; what a raw server answers to the client.
        behaviour: The program.
        options: For ``serve`` or ``connect``.
    """
    asked = parameters or {}
    if subject.is_server:
        asked = {"client_max_window_bits": None, **asked}
    header = [("Sec-WebSocket-Extensions", serialize(asked))]
    conversation = subject.open(behaviour, headers=header, **options)
    try:
        (value,) = wire.header_values(conversation.peer.head, "Sec-WebSocket-Extensions")
        negotiated = parse(value) if subject.is_server else asked
        return conversation, Deflating(conversation.peer, negotiated)
    except BaseException:
        with conversation:
            raise
