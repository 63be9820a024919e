"""Drives the C codec for its tests and turns its records into the oracle's events.

What belongs here: calls into ``syncws._codec`` that a test needs in a readable form. What
does not: expectations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from reference import TEXT, UNLIMITED, Event, ReferenceDecoder, comparable
from syncws._codec import ffi, lib

FAILURES: dict[int, str] = {
    value: name.removeprefix("SYNCWS_")
    for value, name in ffi.typeof("enum syncws_failure").elements.items()
}

CANARY = bytes(range(100, 164))


def levels() -> list[int]:
    """The ISA levels that this machine has."""
    before = lib.syncws_isa()
    available = [level for level in range(4) if lib.syncws_set_isa(level) == level]
    lib.syncws_set_isa(before)
    return available


class CodecDecoder:
    """A decoder with a scratch of its own."""

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
        self.struct: Any = ffi.gc(ffi.new("syncws_decoder *"), lib.syncws_decoder_release)
        self.scratch: Any = ffi.new("syncws_scratch *")
        lib.syncws_scratch_init(self.scratch)
        lib.syncws_decoder_init(self.struct, side, max_frame_size, max_size, max_fragments)
        self.struct.allowed_rsv = allowed_rsv
        self.struct.allowed_opcodes = allowed_opcodes
        self.struct.all_pieces = all_pieces
        # Lies behind packed[]: shows if a run is longer than that.
        self.canary = ffi.buffer(self.scratch.output, 64)
        self.canary[:] = CANARY
        self.failed = False
        self.records: list[Any] = []  # (kind, count, flags) of the last feed()
        self.calls = 0

    def start_streaming(self) -> None:
        self.struct.streaming = 1

    def feed(self, data: bytes, direct: int = 0) -> list[Event]:
        """The events of one chunk, in an allocation of exactly its size."""
        chunk = ffi.new("uint8_t[]", len(data) or 1)
        ffi.memmove(chunk, data, len(data))
        rest, length = chunk, len(data)
        events: list[Event] = []
        self.records = []
        while True:
            self.calls += 1
            result = lib.syncws_decode(self.struct, self.scratch, direct, rest, length)
            direct = 0
            assert self.canary[:] == CANARY
            for index in range(self.scratch.record_count):
                events += self.events(self.scratch.records[index])
            if result != lib.SYNCWS_MORE:
                break
            rest, length = self.scratch.rest, self.scratch.rest_length
        assert (result == lib.SYNCWS_FAILED) == (self.struct.failure != 0)
        if result == lib.SYNCWS_FAILED and not self.failed:
            self.failed = True
            events.append(("failure", FAILURES[self.struct.failure]))
        return events

    def receive(self, data: bytes) -> list[Event]:
        """Like :meth:`feed`, but into the window as far as there is one."""
        start = ffi.new("uint8_t **")
        room = lib.syncws_decoder_window(self.struct, start)
        direct = min(room, len(data))
        ffi.memmove(start[0], data, direct)
        return self.feed(data[direct:], direct)

    def events(self, record: Any) -> Iterable[Event]:
        data = bytes(ffi.buffer(record.data, record.length))
        self.records.append((record.kind, record.count, record.flags))
        if record.kind == lib.SYNCWS_RUN:
            assert record.count > 1
            separator = (
                b"\0" if record.opcode == TEXT else bytes(ffi.buffer(self.scratch.separator))
            )
            parts = data.split(separator)
            assert len(parts) == record.count
            return [("message", record.opcode, part) for part in parts]
        if record.kind == lib.SYNCWS_ROW:
            return [
                ("piece", record.opcode, record.rsv, part, True, True) for part in self._row(record)
            ]
        assert record.count == 1
        if record.kind == lib.SYNCWS_MESSAGE:
            return [("message", record.opcode, data)]
        if record.kind == lib.SYNCWS_CONTROL:
            return [("control", record.opcode, data)]
        assert record.kind == lib.SYNCWS_PIECE
        first = bool(record.flags & lib.SYNCWS_PIECE_FIRST)
        last = bool(record.flags & lib.SYNCWS_PIECE_LAST)
        return [("piece", record.opcode, record.rsv, data, first, last)]

    def _row(self, record: Any) -> list[bytes]:
        memory = bytes(ffi.buffer(self.scratch.packed))
        bounds = self.scratch.bounds[2 * record.first : 2 * (record.first + record.count)]
        numbers = list(bounds)
        # One behind the other, and nothing between them.
        assert numbers[1:-1:2] == numbers[2::2]
        assert numbers[-1] - numbers[0] == record.length
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return [memory[start:end] for start, end in pairs]


def codec_mask(data: bytes, key: bytes, phase: int) -> bytes:
    buffer = ffi.new("uint8_t[]", len(data) or 1)
    lib.syncws_mask(buffer, data, len(data), key, phase)
    return bytes(ffi.buffer(buffer, len(data)))


def codec_encode(
    opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, key: bytes | None = None
) -> bytes:
    header = ffi.new("uint8_t[14]")
    first_byte = fin << 7 | rsv << 4 | opcode
    size = lib.syncws_encode_header(
        header, first_byte, len(payload), ffi.NULL if key is None else key
    )
    body = payload if key is None else codec_mask(payload, key, 0)
    return bytes(ffi.buffer(header, size)) + body


def agree(data: bytes, side: int, *, expect: list[Event] | None = None, **limits: int) -> None:
    """The codec says what the oracle says, however ``data`` arrives.

    Whole, byte by byte with the same events after the same byte, and cut in two at every
    offset (of up to 4 KiB, then at a few hundred); through the window as well.
    """
    oracle = ReferenceDecoder(side, **limits)
    codec = CodecDecoder(side, **limits)
    events: list[Event] = []
    for offset in range(len(data)):
        step = oracle.feed(data[offset : offset + 1])
        assert codec.feed(data[offset : offset + 1]) == step, f"after byte {offset}"
        events += step
    events = comparable(events)
    if expect is not None:
        assert events == expect
    for pieces in cuts(data):
        codec = CodecDecoder(side, **limits)
        found = [event for piece in pieces for event in codec.receive(piece)]
        assert comparable(found) == events, f"cut into {[len(piece) for piece in pieces]}"


def cuts(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    stride = max(1, len(data) // 4096) * (1 if len(data) <= 4096 else 16)
    for offset in range(1, len(data), stride):
        yield [data[:offset], data[offset:]]
