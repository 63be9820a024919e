"""Raw DEFLATE, message by message (RFC 7692 section 7.2).

What belongs here: the compressor and the decompressor of one connection, and the engine
behind them. What does not: what two peers agree on, and frames
(:mod:`.permessage_deflate`).

An empty stored block ends each message, of which the last four bytes are not sent. The
decompressor puts them back and adds more empty blocks, which only behind a whole message, no
more and no less, pass without output, and a *final* one. So a truncated message is noticed at
once, a peer that sets BFINAL itself is nothing special, and between two messages no
decompressor exists, but the bytes that the next message may refer to. Messages that came
together share one, without a final block: what is between two of them tells them apart as well.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import warnings
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from .exceptions import DecompressionError, PayloadTooBig
from .frames import joined

__all__ = ["Compression", "Deflater", "Engine", "Inflater", "best_engine", "stdlib_engine"]

# RFC 7692 section 7.2.1: what every flush ends with, and what is not sent.
TAIL = b"\x00\x00\xff\xff"
# An empty stored block with BFINAL (RFC 1951 section 3.2.4).
_FINAL = b"\x01\x00\x00\xff\xff"
# Where a message ends this is empty blocks, which change nothing. In any other place it is taken
# for contents, which gives output or an error before its end: not even the description of a
# block's codes can be so long, 316 lengths (tests/test_deflate_rows.py computes it).
_PROBE = TAIL + (b"\x00" + TAIL) * 42
# The window that every compressed message fits into, whatever was agreed on.
_LARGEST = -15  # negative: no header, no checksum
# Decompressed bytes of a row of messages before the others get their turn.
_ROW_BYTES = 2**20
# Messages of a row that are decompressed before anybody looks at what came out, and how large
# each may be then: a loop in Python would cost more than the probe.
_TOGETHER = 64
_SMALL = _ROW_BYTES // _TOGETHER
# Streams in one message that cost nothing, and what each of the others must bring on average.
_FREE_STREAMS = 128
_STREAM_BYTES = 64
# In how many pieces it is remembered what was decompressed, within a message.
_PIECES = 8
_STEP = 4096


class Engine(NamedTuple):
    """A module with the interface of :mod:`zlib`.

    Attributes:
        name: For people.
        module: The module.
    """

    name: str
    module: Any


class Compression(NamedTuple):
    """How to compress.

    Attributes:
        window_bits: 9 to 15; memory for what may be referred to: 2 to the power of it, times 4.
        level: 0 to 9; -1 for the engine's default.
        memory_level: 1 to 9; memory for the state: 512 bytes, times 2 to the power of it.
        strategy: As for :func:`zlib.compressobj`.
    """

    window_bits: int
    level: int
    memory_level: int
    strategy: int


@functools.cache
def stdlib_engine() -> Engine:
    """The standard library's zlib."""
    version = zlib.ZLIB_RUNTIME_VERSION
    if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < (1, 2, 13):
        warnings.warn(
            f"zlib {version} may have CVE-2018-25032 and CVE-2022-37434 (fixed in 1.2.13, or by "
            "your distribution): peers decide what it decompresses",
            RuntimeWarning,
            stacklevel=2,
        )
    return Engine(f"zlib {version}", zlib)


@functools.cache
def best_engine() -> Engine:
    """The fastest engine that is installed when it is first asked for."""
    try:
        module = importlib.import_module("zlib_ng.zlib_ng")
    except ImportError:
        return stdlib_engine()
    return Engine(f"zlib-ng {module.ZLIBNG_RUNTIME_VERSION}", module)


def _ends(decompressor: Any) -> bool:
    """Whether a whole message, no more and no less, was decompressed; ends it if so."""
    rest = decompressor.decompress(_PROBE + _FINAL, 1)
    return not rest and decompressor.eof and not decompressor.unused_data


def _probed(data: Sequence[bytes]) -> list[bytes]:
    """The messages, with the probe behind each; without a single byte there is no block."""
    calls = [_PROBE] * (2 * len(data))
    calls[::2] = data
    if b"" in data:
        calls[1::2] = [_PROBE if payload else b"" for payload in data]
    return calls


class Inflater:
    """Decompresses the messages of one peer. Not thread-safe.

    Args:
        engine: See :class:`Engine`.
        window_bits: 8 to 15: how far back the peer refers.
        takeover: Whether a message may refer to those before it.
    """

    __slots__ = (
        "_decompressor",
        "_engine",
        "_received",
        "_recent",
        "_size",
        "_streams",
        "_takeover",
        "_window",
    )

    def __init__(self, engine: Engine, window_bits: int, takeover: bool) -> None:
        self._engine = engine.module
        # Some compressors take 9 where 8 was agreed on (an old flaw of zlib).
        bits = max(window_bits, 9)
        self._window = -bits
        self._size = 1 << bits
        self._takeover = takeover
        # Of an unfinished message: its decompressor, its compressed bytes so far, and the
        # streams that ended in it.
        self._decompressor: Any = None
        self._received = 0
        self._streams = 0
        # What was decompressed last. Between messages one piece, of what may be referred to and
        # nothing else; within a message at least that, in few pieces that are not larger.
        self._recent = [b""]

    def message(self, data: bytes, limit: int) -> bytes:
        """Decompresses a whole message; raises as :meth:`parts`."""
        return joined(self.parts(data, True, limit))

    def parts(self, data: bytes, last: bool, limit: int) -> list[bytes]:
        """Decompresses a part of a message; what comes out is not put together.

        Args:
            data: As it came.
            last: The message ends with it.
            limit: Bytes that the result may have.

        Raises:
            DecompressionError: It is not the next part of a message.
            PayloadTooBig: The result would be larger.
        """
        before = self._received
        done: list[bytes] = []
        room = limit
        position = 0
        try:
            while position < len(data):
                if self._decompressor is None:
                    self._decompressor = self._open()
                # What an ended stream leaves over is copied: not much at a time then.
                chunk = data[position : position + _STEP] if self._streams else data[position:]
                position += len(chunk)
                room = self._decompress(chunk, room, done)
                if self._decompressor.eof:
                    position -= len(self._decompressor.unused_data)
                    # Nothing that comes later counts: it may be here already, or not.
                    self._received = before + position
                    self._end_stream()
            self._received = before + len(data)
            # Without a single byte there is not even a block, to which the tail would belong; and
            # the peer's own last block may come just before it.
            if last and self._decompressor is not None and not _ends(self._decompressor):
                raise DecompressionError("a compressed message is truncated")
        except self._engine.error as error:
            raise DecompressionError(f"a message cannot be decompressed: {error}") from None
        if last:
            self._decompressor = None
            self._received = self._streams = 0
            if self._takeover:
                self._put_together()
            else:
                self._recent = [b""]
        return done

    def _decompress(self, chunk: bytes, room: int, done: list[bytes]) -> int:
        """Adds what ``chunk`` decompresses to; returns how many bytes more there may be."""
        while True:
            # In steps: an engine holds twice what one call gives.
            asked = min(room + 1, _ROW_BYTES)
            part = self._decompressor.decompress(chunk, asked)
            room -= len(part)
            if room < 0:
                raise PayloadTooBig("a message exceeds max_size when decompressed")
            self._remember(part)
            done.append(part)
            if len(part) < asked:
                return room
            chunk = self._decompressor.unconsumed_tail

    def _end_stream(self) -> None:
        """Section 7.2.3.4: the peer may set BFINAL, too, and begin another stream then."""
        self._decompressor = None
        self._streams += 1
        # Each costs far more time than its five bytes are worth.
        if self._streams > _FREE_STREAMS and self._streams > self._received / _STREAM_BYTES:
            raise DecompressionError("a compressed message has too many final blocks")

    def messages(self, data: Sequence[bytes], limit: int) -> list[bytes]:
        """Decompresses the first of several whole messages, as many as it can in one go.

        None, if one of them cannot be decompressed: then :meth:`message` finds out which, and
        it is the same that it would be one at a time.

        Args:
            data: The messages, as they came.
            limit: Bytes that each may have when decompressed.
        """
        if self._received or not data:
            return []
        if not self._takeover:
            return self._each(data, limit)
        done: list[bytes] = []
        if len(data[0]) < _SMALL // 4:  # the others are like it, as a rule
            done = self._row(data, _TOGETHER, min(limit + 1, _SMALL))
        if not done:  # there may be a large one
            done = self._row(data, 1, min(limit + 1, _ROW_BYTES))
        room = self._size
        recent: list[bytes] = []
        for part in reversed(done):
            recent.append(part[-self._size :])
            room -= len(part)
            if room <= 0:
                break
        self._recent += reversed(recent)
        self._put_together()
        return done

    def _each(self, data: Sequence[bytes], limit: int) -> list[bytes]:
        """Decompresses some messages of which none may refer to another."""
        done: list[bytes] = []
        size = 0
        asked = min(limit + 1, _ROW_BYTES)
        make = self._engine.decompressobj
        try:
            for payload in data:
                decompressor = make(_LARGEST)
                part = decompressor.decompress(payload, asked)
                if len(part) == asked or (payload and not _ends(decompressor)):
                    return []
                done.append(part)
                size += len(part)
                if size >= _ROW_BYTES:
                    break
        except self._engine.error:
            return []
        return done

    def _row(self, data: Sequence[bytes], together: int, asked: int) -> list[bytes]:
        """Decompresses some messages, ``together`` at a time; none, if one has ``asked`` bytes.

        That they are told apart as :meth:`message` would is up to the probe: there is no
        output between two of them, and behind it the next one begins.
        """
        done: list[bytes] = []
        size = 0
        # It must not see more of the messages before than there would be, one at a time; that it
        # may see less of a large message does no harm.
        decompressor = self._engine.decompressobj(self._window, self._recent[0])
        try:
            for start in range(0, len(data), together):
                calls = _probed(data[start : start + together])
                found = list(map(decompressor.decompress, calls, itertools.cycle((asked, 1))))
                if any(found[1::2]) or decompressor.eof:
                    return []
                found = found[::2]
                done += found
                sizes = list(map(len, found))
                if max(sizes) >= asked:
                    return []
                size += sum(sizes)
                if size >= _ROW_BYTES:
                    break
        except self._engine.error:
            return []
        return done

    def _open(self) -> Any:
        if len(self._recent) > 1:  # another stream of this message came before
            self._put_together()
        # An engine enforces a window now and then only, as pieces happen to be cut. What is
        # enforced always is how much of earlier messages there is.
        return self._engine.decompressobj(_LARGEST, self._recent[0])

    def _remember(self, part: bytes) -> None:
        if len(part) >= self._size:
            self._recent = [part[-self._size :]]
        else:
            self._recent.append(part)
            if len(self._recent) > _PIECES:
                self._put_together()

    def _put_together(self) -> None:
        self._recent = [b"".join(self._recent)[-self._size :]]


# Compressors that are not in use, by engine and Compression: without context takeover no
# connection needs one of its own. Only as many are kept as may well be used at the same moment.
_spare: dict[tuple[Any, Compression], list[Any]] = {}
_SPARES = 4


class Deflater:
    """Compresses the messages for one peer. Not thread-safe.

    Args:
        engine: See :class:`Engine`.
        compression: See :class:`Compression`.
        takeover: Whether a message may refer to those before it. If not, the compressor is
            borrowed for each message.
    """

    __slots__ = ("_compression", "_compressor", "_engine", "_takeover")

    def __init__(self, engine: Engine, compression: Compression, takeover: bool) -> None:
        self._engine = engine.module
        self._compression = compression
        self._takeover = takeover
        # Made when it is first needed: it is what an idle connection's memory goes into.
        self._compressor: Any = None

    def message(self, data: Any) -> bytes:
        """Compresses a whole message."""
        return self.piece(data, True, True)

    def piece(self, data: Any, last: bool, flush: bool) -> bytes:
        """Compresses a part of a message.

        Args:
            data: Bytes-like.
            last: The message ends with it.
            flush: The peer must be able to decompress all of ``data`` from what is returned.
        """
        compressor = self._compressor
        if compressor is None:
            compressor = self._compressor = self._borrow()
        head: bytes = compressor.compress(data)
        if not flush:
            return head
        # Without takeover the next message must not refer to this one.
        full = last and not self._takeover
        mode = self._engine.Z_FULL_FLUSH if full else self._engine.Z_SYNC_FLUSH
        tail: bytes = compressor.flush(mode)
        if full:
            self._give_back()
        done = head + tail
        return done[: -len(TAIL)] if last else done

    def forget(self) -> None:
        """What was compressed last does not reach the peer: nothing may refer to it."""
        self._compressor = None

    def _key(self) -> tuple[Any, Compression]:
        return (self._engine, self._compression)

    def _borrow(self) -> Any:
        if not self._takeover:
            try:
                return _spare[self._key()].pop()
            except LookupError:
                pass  # all are in use
        window_bits, level, memory_level, strategy = self._compression
        return self._engine.compressobj(
            level, self._engine.DEFLATED, -window_bits, memory_level, strategy
        )

    def _give_back(self) -> None:
        compressor, self._compressor = self._compressor, None
        spare = _spare.setdefault(self._key(), [])
        if len(spare) < _SPARES:
            spare.append(compressor)
