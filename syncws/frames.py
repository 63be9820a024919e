"""Frames: the C codec, dressed for Python.

What belongs here: opcodes, close codes, the decoder and encoder of RFC 6455 section 5,
and the per-thread working memory they need. This is the only module that imports the
C extension; ``ffi`` and ``lib`` are handed on to :mod:`.channel`, whose hot path calls C
itself. What does not: what a frame means for a connection (:mod:`.protocol`).
"""

from __future__ import annotations

import enum
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ._codec import ffi, lib
from .exceptions import InvalidText, PayloadTooBig, ProtocolError, TooManyFragments

__all__ = [
    "Close",
    "CloseCode",
    "FrameDecoder",
    "FrameEncoder",
    "Opcode",
    "Record",
    "Side",
    "ffi",
    "joined",
    "lib",
    "memory",
    "new_scratch",
    "read_records",
    "renew_thread_scratch",
    "thread_scratch",
]

UNLIMITED = 2**64 - 1
# Bytes from which on it matters that a message is not there twice.
_LARGE = 2**20


class Side(enum.IntEnum):
    """Which end of a connection we are; a client masks what it sends."""

    CLIENT = 0
    SERVER = 1


class Opcode(enum.IntEnum):
    """Frame types (RFC 6455 section 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(enum.IntEnum):
    """Close codes (RFC 6455 section 7.4.1 and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


# Codes that may stand in a close frame: RFC 6455 section 7.4.1 forbids 1004-1006 and 1015
# there, 7.4.2 leaves 3000-4999 to libraries and applications.
_SENDABLE = frozenset(CloseCode) - {
    CloseCode.NO_STATUS_RCVD,
    CloseCode.ABNORMAL_CLOSURE,
    CloseCode.TLS_HANDSHAKE,
}


def _is_sendable(code: int) -> bool:
    return code in _SENDABLE or 3000 <= code < 5000


class Close(NamedTuple):
    """The code and the reason of a close frame; code 1005 stands for an empty frame."""

    code: int
    reason: str

    def __str__(self) -> str:
        if 3000 <= self.code < 4000:
            name = "registered"
        elif 4000 <= self.code < 5000:
            name = "private use"
        else:
            try:
                name = CloseCode(self.code).name.lower().replace("_", " ")
            except ValueError:
                name = "unknown"
        return f"{self.code} ({name})" + (f" {self.reason}" if self.reason else "")

    @classmethod
    def parse(cls, payload: bytes) -> Close:
        """Reads the payload of a close frame (RFC 6455 section 5.5.1).

        Raises:
            ProtocolError: One byte only, or a code that must not appear (1002).
            InvalidText: The reason is not UTF-8 (1007).
        """
        if not payload:
            return cls(CloseCode.NO_STATUS_RCVD, "")
        if len(payload) == 1:
            raise ProtocolError("a close frame of one byte has no complete code")
        code = int.from_bytes(payload[:2])
        if not _is_sendable(code):
            raise ProtocolError(f"close code {code} must not appear in a close frame")
        try:
            return cls(code, payload[2:].decode())
        except UnicodeDecodeError as error:
            raise InvalidText(f"the close reason is not UTF-8: {error.reason}") from None

    @classmethod
    def check(cls, code: int, reason: str) -> Close:
        """A close frame of the caller's own arguments.

        Raises:
            TypeError: ``code`` is not an int or ``reason`` not a str.
            ValueError: The code must not be sent, or the reason is over 123 bytes
                of UTF-8 (RFC 6455 section 5.5).
        """
        if not isinstance(code, int) or isinstance(code, bool):
            raise TypeError(f"code must be an int, not {type(code).__name__}")
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {type(reason).__name__}")
        if not _is_sendable(code):
            raise ValueError(f"code {code} must not be sent: use 1000-1003, 1007-1014 or 3000-4999")
        try:
            size = len(reason.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"reason cannot be encoded: {error.reason}") from None
        if size > 123:
            raise ValueError("reason must not exceed 123 bytes of UTF-8")
        return cls(code, reason)

    def serialize(self) -> bytes:
        """The payload of the frame; empty for code 1005."""
        if self.code == CloseCode.NO_STATUS_RCVD:
            return b""
        return self.code.to_bytes(2) + self.reason.encode()


class Record(NamedTuple):
    """What the decoder found.

    Attributes:
        kind: ``lib.SYNCWS_MESSAGE``, ``_RUN``, ``_CONTROL``, ``_PIECE`` or ``_ROW``.
        opcode: Of the frame or, for messages and pieces, of the message.
        data: ``str`` or ``bytes`` of a message; a list of them of a run; a list of ``bytes`` of
            a row, which are messages that extensions have encoded; ``bytes`` otherwise.
        first: A piece begins its message.
        last: A piece ends its message.
        rsv: RSV bits of the message's first frame.
        frame_end: A frame ends with a piece.
    """

    kind: int
    opcode: int
    data: Any
    first: bool = True
    last: bool = True
    rsv: int = 0
    frame_end: bool = True


# Bytes a message, on average, from which on to search for separators takes longer than to slice.
_WORTH_SLICING = 200
# How many messages of one decode call C notes the bounds of.
_BOUNDS = 1024

_new_scratch = ffi.new_allocator(should_clear_after_alloc=False)
# Waits where a signal handler must get its turn are cut into slices of this length, in
# seconds: a signal that arrives just before poll() is otherwise handled at its end only.
SLICE = 0.2


def new_scratch() -> Any:
    """Working memory for one decoding or encoding thread (``syncws_scratch *``)."""
    scratch = _new_scratch("syncws_scratch *")
    lib.syncws_scratch_init(scratch)
    return scratch


def thread_scratch() -> Any:
    """The calling thread's working memory, made on its first call."""
    return lib.syncws_thread_scratch() or _make_thread_scratch()


def _make_thread_scratch() -> Any:
    scratch = lib.syncws_make_thread_scratch()
    if not scratch:
        raise MemoryError("no memory for the frames of this thread")
    scratch.slice_ms = _slice_milliseconds()
    return scratch


def _slice_milliseconds() -> int:
    # Signal handlers run in the main thread only.
    is_main = threading.current_thread() is threading.main_thread()
    return int(SLICE * 1000) if is_main else 0


class _Memory(dict[int, tuple[Any, Any, bool]]):
    """What Python looks at in a thread's working memory, without a look into the thread.

    The key is that of a result of ``syncws_receive()``: from the bit ``SYNCWS_MEMORY_SHIFT`` on.
    The value: the field ``packed`` as bytes; the field ``unclaimed`` as item 0, which costs less
    to set than a field; whether a message is text, which the key's lowest bit says.
    """

    def __missing__(self, key: int) -> tuple[Any, Any, bool]:
        # The key is the calling thread's: nobody else receives into its memory.
        scratch = thread_scratch()
        packed = ffi.buffer(scratch.packed)
        unclaimed = memoryview(ffi.buffer(ffi.addressof(scratch[0], "unclaimed"))).cast("B")
        self[key] = value = packed, unclaimed, key & 1 == 1
        _of_thread.entries.append(_Entry(key))
        return value


memory = _Memory()


class _Entry:
    """Ends an entry of :data:`memory` with its thread. No key ever comes again."""

    def __init__(self, key: int) -> None:
        self._key = key
        # The module may be gone when a thread ends.
        self._pop = memory.pop

    def __del__(self) -> None:
        self._pop(self._key, None)


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.entries: list[_Entry] = []


_of_thread = _OfThread()


def renew_thread_scratch() -> None:
    """After fork: the child must not repeat its parent's masking keys (RFC 6455 10.3)."""
    scratch = lib.syncws_thread_scratch()
    if scratch:
        scratch.keys_left = 0
        scratch.slice_ms = _slice_milliseconds()


def joined(parts: list[bytes]) -> bytes:
    """The same bytes in one object; ``parts`` is empty afterwards.

    A large message is never there twice: each part is let go as soon as it has been copied.
    """
    size = sum(map(len, parts))
    if size < _LARGE or sys.implementation.name != "cpython":
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return whole
    # Nobody else has seen this object, it is not one of the shared ones (none or one byte), and
    # its hash was not asked for: nothing can tell that it changes. Fresh zeros of this size
    # take no memory before they are written to.
    whole = bytes(size)
    target = ffi.from_buffer(whole)
    # From the end on: what was allocated last is what the allocator can give back.
    while parts:
        part = parts.pop()
        size -= len(part)
        ffi.memmove(target + size, part, len(part))
    return whole


def read_records(scratch: Any) -> Iterator[Record]:
    """Turns what one decode call left in ``scratch`` into Python objects, in order."""
    records = scratch.records
    for index in range(scratch.record_count):
        record = records[index]
        kind = record.kind
        opcode = record.opcode
        data: Any
        if kind == lib.SYNCWS_ROW:
            data = _slices(scratch, record.first, record.count)
            yield Record(kind, opcode, data, rsv=record.rsv)
            continue
        length = record.length
        if kind == lib.SYNCWS_RUN and opcode == Opcode.BINARY:
            count, first = record.count, record.first
            if length > count * _WORTH_SLICING and first + count <= _BOUNDS:
                yield Record(kind, opcode, _slices(scratch, first, count))
                continue
        data = ffi.unpack(ffi.cast("char *", record.data), length) if length else b""
        if kind == lib.SYNCWS_MESSAGE:
            yield Record(kind, opcode, data.decode() if opcode == Opcode.TEXT else data)
        elif kind == lib.SYNCWS_RUN:
            # The count and not the split says how many: a run of one empty message
            # and a run of none look the same.
            if opcode == Opcode.TEXT:
                data = data.decode().split("\0")
            else:
                data = data.split(ffi.unpack(ffi.cast("char *", scratch.separator), 4))
            yield Record(kind, opcode, data)
        elif kind == lib.SYNCWS_CONTROL:
            yield Record(kind, opcode, data)
        else:
            flags = record.flags
            yield Record(
                kind,
                opcode,
                data,
                bool(flags & lib.SYNCWS_PIECE_FIRST),
                bool(flags & lib.SYNCWS_PIECE_LAST),
                record.rsv,
                bool(flags & lib.SYNCWS_PIECE_FRAME_END),
            )


def _slices(scratch: Any, first: int, count: int) -> list[bytes]:
    """The messages of a run or a row as ``bytes``, by where they begin and end."""
    bounds = iter(ffi.unpack(scratch.bounds + 2 * first, 2 * count))
    memory = ffi.buffer(scratch.packed)
    return [memory[start:end] for start, end in zip(bounds, bounds, strict=True)]


def failure_error(decoder: Any) -> ProtocolError:
    """The exception for a decoder's sticky failure."""
    kind, text = _FAILURES[decoder.failure]
    error = kind(text)
    if decoder.failure == lib.SYNCWS_NO_MEMORY:
        error.close_code = CloseCode.INTERNAL_ERROR  # ours, not the peer's
    return error


_FAILURES: dict[int, tuple[type[ProtocolError], str]] = {
    lib.SYNCWS_BAD_OPCODE: (ProtocolError, "a frame has a reserved opcode"),
    lib.SYNCWS_BAD_RSV: (ProtocolError, "a reserved bit is set without a negotiated extension"),
    lib.SYNCWS_BAD_MASK: (
        ProtocolError,
        "a frame is masked or unmasked against its direction (RFC 6455 section 5.1)",
    ),
    lib.SYNCWS_CONTROL_TOO_LONG: (ProtocolError, "a control frame exceeds 125 bytes"),
    lib.SYNCWS_CONTROL_FRAGMENTED: (ProtocolError, "a control frame is fragmented"),
    lib.SYNCWS_NON_MINIMAL_LENGTH: (
        ProtocolError,
        "a frame's length is not encoded in the fewest bytes (RFC 6455 section 5.2)",
    ),
    lib.SYNCWS_LENGTH_MSB: (ProtocolError, "the top bit of a frame's 64-bit length is set"),
    lib.SYNCWS_UNEXPECTED_CONTINUATION: (ProtocolError, "a continuation frame continues nothing"),
    lib.SYNCWS_EXPECTED_CONTINUATION: (
        ProtocolError,
        "a new message begins inside an unfinished one",
    ),
    lib.SYNCWS_FRAME_TOO_BIG: (PayloadTooBig, "a frame exceeds max_frame_size"),
    lib.SYNCWS_MESSAGE_TOO_BIG: (PayloadTooBig, "a message exceeds max_size"),
    lib.SYNCWS_TOO_MANY_FRAGMENTS: (
        TooManyFragments,
        "a message came in too many too small fragments (max_fragments)",
    ),
    lib.SYNCWS_BAD_UTF8: (InvalidText, "a text message is not UTF-8"),
    lib.SYNCWS_NO_MEMORY: (ProtocolError, "no memory for an incoming message"),
}


def limit(value: int | None) -> int:
    """A limit as the decoder takes it: ``None`` lifts it."""
    return UNLIMITED if value is None else value


class FrameDecoder:
    """Bytes in, records out, whatever the pieces they arrive in. Not thread-safe.

    Args:
        side: Which end *we* are: a server demands masked frames, a client unmasked ones.
        max_frame_size: Payload bytes of one data frame; ``None`` for no limit.
        max_size: Payload bytes of one message; ``None`` for no limit.
        max_fragments: Fragments of one message that need not carry 64 bytes on average.
    """

    def __init__(
        self,
        side: Side,
        *,
        max_frame_size: int | None = 16 * 2**20,
        max_size: int | None = 64 * 2**20,
        max_fragments: int | None = 128,
    ) -> None:
        self._decoder = ffi.gc(ffi.new("syncws_decoder *"), lib.syncws_decoder_release, size=1024)
        self._scratch = new_scratch()
        lib.syncws_decoder_init(
            self._decoder, side, limit(max_frame_size), limit(max_size), limit(max_fragments)
        )

    def configure(self, configure: Callable[[Any], object]) -> None:
        """Lets ``configure`` set what the C decoder (``syncws_decoder *``) lets through."""
        configure(self._decoder)

    def feed(self, data: bytes) -> list[Record]:
        """Decodes ``data``; what follows a close frame or a failure is ignored."""
        scratch = self._scratch
        memory = bytearray(data)  # unmasked in place
        found: list[Record] = []
        with ffi.from_buffer("uint8_t[]", memory, require_writable=True) as buffer:
            result = lib.syncws_decode(self._decoder, scratch, 0, buffer, len(memory))
            found += read_records(scratch)
            while result == lib.SYNCWS_MORE:
                result = lib.syncws_decode(
                    self._decoder, scratch, 0, scratch.rest, scratch.rest_length
                )
                found += read_records(scratch)
        return found

    @property
    def error(self) -> ProtocolError | None:
        """Why decoding stopped, as an exception; ``None`` while it goes on."""
        return failure_error(self._decoder) if self._decoder.failure else None


class FrameEncoder:
    """Messages and control payloads in, frames out. Not thread-safe.

    Args:
        side: Which end we are; a client masks with keys from the kernel's generator.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self._scratch = new_scratch()

    def encode(self, opcode: int, payload: bytes, fin: bool = True, rsv: int = 0) -> bytes:
        """One frame (RFC 6455 section 5.2).

        Args:
            opcode: See :class:`Opcode`.
            payload: Its application data.
            fin: Whether it ends its message.
            rsv: RSV1 = 4, RSV2 = 2, RSV3 = 1.

        Raises:
            OSError: The kernel's generator failed.
        """
        header = bytearray(14)
        body = bytearray(payload)
        with ffi.from_buffer("uint8_t[]", header, require_writable=True) as output:
            key = ffi.NULL
            if self._side is Side.CLIENT:
                key = ffi.new("uint8_t[4]")
                if lib.syncws_mask_key(self._scratch, key) < 0:
                    raise OSError(ffi.errno, "no random bytes for a masking key")
            first_byte = (0x80 if fin else 0) | rsv << 4 | opcode
            size = lib.syncws_encode_header(output, first_byte, len(body), key)
        if key is not ffi.NULL and body:
            with ffi.from_buffer("uint8_t[]", body, require_writable=True) as buffer:
                lib.syncws_mask(buffer, buffer, len(body), key, 0)
        return bytes(header[:size] + body)
