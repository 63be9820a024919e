"""A slow codec that is obviously right: the oracle for the C codec.

What belongs here: RFC 6455 section 5 spelled out one byte at a time, in Python, sharing
nothing with the code under test. What does not: speed, and anything that imports syncws.

The decoder yields plain tuples:

    ("message", opcode, payload)
    ("control", opcode, payload)
    ("piece", opcode, rsv, payload, first, last)    messages for extensions, or streaming
    ("failure", name)                               the last one; names as in csrc/syncws.h
"""

from __future__ import annotations

from typing import Any

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CLIENT, SERVER = 0, 1
UNLIMITED = 2**64 - 1

Event = tuple[Any, ...]

# Unicode, table 3-7: well-formed UTF-8 byte sequences.
WELL_FORMED = [
    [(0x00, 0x7F)],
    [(0xC2, 0xDF), (0x80, 0xBF)],
    [(0xE0, 0xE0), (0xA0, 0xBF), (0x80, 0xBF)],
    [(0xE1, 0xEC), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xED, 0xED), (0x80, 0x9F), (0x80, 0xBF)],
    [(0xEE, 0xEF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF0, 0xF0), (0x90, 0xBF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF1, 0xF3), (0x80, 0xBF), (0x80, 0xBF), (0x80, 0xBF)],
    [(0xF4, 0xF4), (0x80, 0x8F), (0x80, 0xBF), (0x80, 0xBF)],
]


class ReferenceText:
    """Says after each byte whether the text so far can still become valid UTF-8."""

    def __init__(self) -> None:
        self.character: list[int] = []
        self.valid = True

    def feed(self, byte: int) -> None:
        self.character.append(byte)
        for sequence in WELL_FORMED:
            begun = sequence[: len(self.character)]
            if len(begun) == len(self.character) and all(
                low <= have <= high for have, (low, high) in zip(self.character, begun, strict=True)
            ):
                if len(sequence) == len(self.character):
                    self.character = []
                return
        self.valid = False

    @property
    def complete(self) -> bool:
        return self.valid and not self.character


class ReferenceDecoder:
    """Decodes what the peer of ``side`` sends."""

    def __init__(
        self,
        side: int,
        max_frame_size: int = UNLIMITED,
        max_size: int = UNLIMITED,
        max_fragments: int = UNLIMITED,
        allowed_rsv: int = 0,
        allowed_opcodes: int = 0,
        all_pieces: int = 0,
    ) -> None:
        self.side = side
        self.max_frame_size = max_frame_size
        self.max_size = max_size
        self.max_fragments = max_fragments
        self.allowed_rsv = allowed_rsv
        self.allowed_opcodes = allowed_opcodes
        self.all_pieces = bool(all_pieces)
        self.streaming = False
        self.closed = False
        self.failure = ""
        self.header = bytearray()
        self.payload_left: int | None = None  # None: inside a header
        self.message: bytearray | None = None  # None: no message has begun
        self.events: list[Event] = []

    def feed(self, data: bytes) -> list[Event]:
        for byte in data:
            self.feed_byte(byte)
        events, self.events = self.events, []
        return events

    def feed_byte(self, byte: int) -> None:
        if self.failure or self.closed:
            return
        if self.payload_left is None:
            self.header.append(byte)
            failure = self.judge_header()
            if failure:
                self.fail(failure)
            elif len(self.header) == self.header_size():
                self.begin_frame()
        else:
            index = self.frame_length - self.payload_left
            self.payload_left -= 1
            self.take_payload(byte ^ self.key[index % 4])
        if self.payload_left == 0 and not self.failure:
            self.end_frame()

    def fail(self, failure: str) -> None:
        self.failure = failure
        self.events.append(("failure", failure))

    def extended_size(self) -> int:
        return {126: 2, 127: 8}.get(self.header[1] & 127, 0)

    def header_size(self) -> int:
        if len(self.header) < 2:
            return 2
        return 2 + self.extended_size() + (4 if self.header[1] & 128 else 0)

    def judge_header(self) -> str:
        """What is wrong with the header as far as it is known, or an empty string."""
        first = self.header[0]
        fin, rsv, opcode = first & 128, (first >> 4) & 7, first & 15
        control = opcode >= 8
        known = opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
        if not known and not self.allowed_opcodes >> opcode & 1:
            return "BAD_OPCODE"
        if rsv & ~(self.allowed_rsv if 1 <= opcode <= 7 else 0):
            return "BAD_RSV"
        if control and not fin:
            return "CONTROL_FRAGMENTED"
        if opcode == CONTINUATION and self.message is None:
            return "UNEXPECTED_CONTINUATION"
        if 1 <= opcode <= 7 and self.message is not None:
            return "EXPECTED_CONTINUATION"
        if len(self.header) == 1:
            return ""
        masked = bool(self.header[1] & 128)
        if masked != (self.side == SERVER):
            return "BAD_MASK"
        if control:
            return "CONTROL_TOO_LONG" if self.header[1] & 127 > 125 else ""
        size = self.extended_size()
        if not size:
            return self.judge_length(self.header[1] & 127)
        length = bytes(self.header[2 : 2 + size])
        if not length:
            return ""
        if size == 8 and length[0] & 128:
            return "LENGTH_MSB"
        largest = int.from_bytes(length.ljust(size, b"\xff"), "big")
        if size == 8 and length[:6] == bytes(6):
            return "NON_MINIMAL_LENGTH"
        if size == 2 and largest < 126:
            return "NON_MINIMAL_LENGTH"
        return self.judge_length(int.from_bytes(length.ljust(size, b"\0"), "big"))

    def judge_length(self, at_least: int) -> str:
        if at_least > self.max_frame_size:
            return "FRAME_TOO_BIG"
        have = 0 if self.message is None else len(self.message)
        if have + at_least > self.message_limit():
            return "MESSAGE_TOO_BIG"
        return ""

    def message_limit(self) -> int:
        """An extension's decoder has the exact limit; what it is given may be longer."""
        opcode, rsv = self.header[0] & 15, (self.header[0] >> 4) & 7
        if opcode == CONTINUATION:
            opcode, rsv = self.message_opcode, self.message_rsv
        encoded = self.all_pieces or rsv or opcode > BINARY
        return self.max_size + (self.max_size // 16 + 1024 if encoded else 0)

    def begin_frame(self) -> None:
        header = self.header
        size = self.extended_size()
        self.fin, self.opcode = bool(header[0] & 128), header[0] & 15
        self.frame_length = int.from_bytes(header[2 : 2 + size], "big") if size else header[1] & 127
        self.key = bytes(header[2 + size :]) or bytes(4)
        self.payload_left = self.frame_length
        self.header = bytearray()
        self.control = bytearray()
        if self.opcode >= 8:
            return
        if self.opcode != CONTINUATION:
            self.message = bytearray()
            self.message_opcode = self.opcode
            self.message_rsv = (header[0] >> 4) & 7
            self.encoded = self.all_pieces or self.message_rsv != 0 or self.opcode > BINARY
            self.pieces = self.streaming or self.encoded
            self.piece_sent = False
            self.text = ReferenceText()
            self.fragments = 0
        assert self.message is not None
        self.fragments += 1
        carried = len(self.message) + self.frame_length
        if self.fragments > self.max_fragments + carried // 64:
            self.fail("TOO_MANY_FRAGMENTS")

    def take_payload(self, byte: int) -> None:
        if self.opcode >= 8:
            self.control.append(byte)
            return
        assert self.message is not None
        if self.message_opcode == TEXT and not self.encoded:
            self.text.feed(byte)
            last = self.fin and self.payload_left == 0
            if not self.text.valid or (last and not self.text.complete):
                self.fail("BAD_UTF8")
                return
        self.message.append(byte)
        if self.pieces:
            self.piece(bytes([byte]), last=self.fin and self.payload_left == 0)

    def piece(self, data: bytes, last: bool) -> None:
        first = not self.piece_sent
        self.piece_sent = True
        self.events.append(("piece", self.message_opcode, self.message_rsv, data, first, last))

    def start_streaming(self) -> None:
        """What setting ``streaming`` between two calls means."""
        self.streaming = True
        if self.failure or self.closed:
            return
        if self.message is not None and not self.pieces:
            self.pieces = True
            if self.message:
                self.piece(bytes(self.message), last=False)

    def end_frame(self) -> None:
        self.payload_left = None
        if self.opcode >= 8:
            self.events.append(("control", self.opcode, bytes(self.control)))
            if self.opcode == CLOSE:
                self.closed = True
            return
        assert self.message is not None
        if not self.fin:
            if self.frame_length == 0 and self.encoded:
                # An extension of frames is shown empty ones, too.
                self.piece(b"", last=False)
            return
        if self.frame_length == 0:
            if self.message_opcode == TEXT and not self.encoded and not self.text.complete:
                self.fail("BAD_UTF8")
                return
            if self.pieces:
                self.piece(b"", last=True)
        if self.pieces:
            self.streaming = False
        else:
            self.events.append(("message", self.message_opcode, bytes(self.message)))
        self.message = None


def comparable(events: list[Event]) -> list[Event]:
    """Joins neighbouring pieces, whose borders are where the input happened to end.

    How much of the input before a bad byte of a text comes as a piece is not defined, so
    an unfinished piece right before that failure is left out.
    """
    merged: list[Event] = []
    for event in events:
        if event[0] == "piece" and merged and merged[-1][0] == "piece" and not event[4]:
            _, opcode, rsv, data, first, _ = merged[-1]
            merged[-1] = ("piece", opcode, rsv, data + event[3], first, event[5])
        elif event == ("failure", "BAD_UTF8") and merged and merged[-1][0] == "piece":
            if not merged[-1][5]:
                merged.pop()
            merged.append(event)
        else:
            merged.append(event)
    return merged


def mask(data: bytes, key: bytes, phase: int = 0) -> bytes:
    return bytes(byte ^ key[(phase + index) % 4] for index, byte in enumerate(data))


# The key of the examples in RFC 6455 section 5.7.
KEY = b"\x37\xfa\x21\x3d"
SIDES = [CLIENT, SERVER]


def key_for(side: int) -> bytes | None:
    """The key of what ``side`` receives: a server receives masked frames."""
    return KEY if side == SERVER else None


def encode(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
    length: int | None = None,
    length_size: int | None = None,
) -> bytes:
    """One frame; ``length`` and ``length_size`` (0, 2 or 8) make wrong ones."""
    if length is None:
        length = len(payload)
    if length_size is None:
        length_size = 0 if length < 126 else 2 if length < 65536 else 8
    short = {0: length, 2: 126, 8: 127}[length_size]
    frame = bytes([fin << 7 | rsv << 4 | opcode, (key is not None) << 7 | short])
    if length_size:
        frame += length.to_bytes(length_size, "big")
    if key is not None:
        frame += key + mask(payload, key)
    else:
        frame += payload
    return frame
