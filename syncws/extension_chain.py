"""The extensions of one connection, at work together.

What belongs here: the order in which they encode and decode, how much of a message each gets at
a time, limits, and the check of what comes out. What does not: what an extension is
(:mod:`.extensions`), records and frames (:mod:`.decoding`, :mod:`.encoding`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .exceptions import InvalidText, PayloadTooBig, ProtocolError
from .extensions import Extension, Fragment, SendControl, Unit, WholeMessageExtension
from .frames import UNLIMITED, Opcode, Record, joined, lib

__all__ = ["ExtensionChain", "Gathered", "encoded_limit"]

_MESSAGES = (Opcode.TEXT, Opcode.BINARY)
_PIECE = lib.SYNCWS_PIECE
_BOUNDARY = lib.SYNCWS_UTF8_BOUNDARY
_INVALID = lib.SYNCWS_UTF8_INVALID
# Bytes of messages after which the others of a row can wait.
_ENOUGH = 2**20
# Parts below the first number of bytes are put together, to blocks of the second.
_SMALL = 4096
_BLOCK = 65536


def encoded_limit(max_size: int | None) -> int:
    """Bytes that an encoded message may have whose content has ``max_size`` at most.

    Data that cannot be compressed grows a little; the decoder in C leaves the same room.
    """
    return UNLIMITED if max_size is None else max_size + max_size // 16 + 1024


class Gathered:
    """The beginning of a message, or of a unit, that comes in parts, however small they are."""

    __slots__ = ("_parts", "_small")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        # Objects of a few bytes would take many times the memory of what is in them.
        self._small = bytearray()

    def add(self, data: bytes) -> None:
        if len(data) < _SMALL:
            self._small += data
            if len(self._small) < _BLOCK:
                return
            data = b""
        if self._small:
            self._parts.append(bytes(self._small))
            self._small.clear()
        if data:
            self._parts.append(data)

    def copy(self) -> bytes:
        """All of it."""
        return b"".join((*self._parts, self._small))

    def take(self) -> bytes:
        """All of it, once."""
        if self._small:
            self._parts.append(bytes(self._small))
        return joined(self._parts)


def _in_frames(fragments: Iterable[Fragment], frame_size: int) -> Iterator[Fragment]:
    """The same message, cut where a frame would have more bytes than ``frame_size``."""
    room = frame_size
    for fragment in fragments:
        rest = fragment
        while len(rest.data) > room:
            view = memoryview(rest.data)
            yield rest._replace(data=view[:room], last=False, frame_end=True)
            rest = rest._replace(data=view[room:], first=False)
            room = frame_size
        yield rest
        room = frame_size if rest.frame_end else room - len(rest.data)


class _Stage:
    """One extension in one direction: its turn in a message, and what it waits for."""

    __slots__ = (
        "active",
        "extension",
        "first",
        "gathered",
        "limit",
        "produced",
        "room",
        "rsv",
        "unit",
        "waiting",
    )

    def __init__(self, extension: Extension, unit: Unit, room: int, limit: int) -> None:
        self.extension = extension
        self.unit = unit
        # Bytes of an unfinished unit, and of what the extension makes of a message.
        self.room = room
        self.limit = limit
        # Of the current message: whether it is for this extension, and bytes it made of it.
        self.active = False
        self.produced = 0
        # Of an unfinished unit: what has come, how many bytes, and what its first part was.
        self.gathered: Gathered | None = None
        self.waiting = 0
        self.first = True
        self.rsv = 0

    def gather(self, fragment: Fragment) -> Fragment | None:
        """The unit that ``fragment`` completes, ``None`` if it completes none."""
        complete = fragment.last or self.unit is Unit.PIECE
        if not complete and self.unit is Unit.FRAME:
            complete = fragment.frame_end
        gathered = self.gathered
        if complete and gathered is None:
            return fragment
        if gathered is None:
            self.gathered = gathered = Gathered()
            self.waiting, self.first, self.rsv = 0, fragment.first, fragment.rsv
        self.waiting += len(fragment.data)
        if self.waiting > self.room:
            raise PayloadTooBig("a message exceeds max_size")
        # A copy: what it points to is valid during this call only.
        gathered.add(fragment.data if complete else bytes(fragment.data))
        if not complete:
            return None
        self.gathered = None
        return fragment._replace(data=gathered.take(), first=self.first, rsv=self.rsv)

    def reset(self) -> None:
        self.active = False
        self.gathered = None


def _units(extensions: Sequence[Extension]) -> list[Unit]:
    """How much of a message each of them gets at a time.

    Where one of the later ones makes a single frame of a message, those before it have no frames
    when they decode; so they must have none when they encode.
    """
    units: list[Unit] = []
    for extension in reversed(extensions):
        merged = extension.unit is Unit.FRAME and Unit.MESSAGE in units
        units.append(Unit.MESSAGE if merged else extension.unit)
    return units[::-1]


def _as_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidText("a text message is not UTF-8") from None


def _fragment(extension: Extension, method: str, unit: Fragment, result: object) -> Fragment:
    """What a method made of ``unit``, if it can be that."""
    what = f"extension {extension.name!r}: {method}() returned"
    if not isinstance(result, Fragment):
        raise TypeError(f"{what} {type(result).__name__}, not Fragment")
    if result.first != unit.first or result.last != unit.last:
        raise RuntimeError(f"{what} a Fragment with another first or last")
    data = result.data
    if isinstance(data, bytes | bytearray):
        return result
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"{what} data of type {type(data).__name__}, not bytes-like") from None
    # The length of anything else is not its bytes.
    if view.ndim != 1 or view.itemsize != 1:
        raise TypeError(f"{what} data with other elements than bytes: {type(data).__name__}")
    return result._replace(data=view if view.c_contiguous else bytes(view))


class ExtensionChain:
    """The extensions of one connection, in the order agreed on.

    Not thread-safe, but encoding and decoding may run at the same time.

    Args:
        extensions: As negotiated.
        max_size: Bytes of an incoming message when it is decoded; ``None`` for no limit.

    Attributes:
        extensions: The same.
        rsv: RSV bits that incoming messages may have.
        opcodes: Reserved opcodes that may come.
        sees_all: Some extension wants every incoming message.
        of_frames: Some extension is shown frames: they are not to be changed behind it.
        smallest: Bytes from which on outgoing messages have to be encoded.
    """

    def __init__(self, extensions: Sequence[Extension], max_size: int | None) -> None:
        self.extensions = tuple(extensions)
        self.rsv = 0
        self.opcodes: frozenset[int] = frozenset()
        for extension in self.extensions:
            self.rsv |= extension.rsv
            self.opcodes |= extension.opcodes
        self.sees_all = any(not each.rsv and not each.opcodes for each in self.extensions)
        self._max_size = UNLIMITED if max_size is None else max_size
        limit = encoded_limit(max_size)
        stages = list(zip(self.extensions, _units(self.extensions), strict=True))
        self._encoders = [_Stage(*each, UNLIMITED, UNLIMITED) for each in stages]
        self._decoders = [_Stage(*each, limit, limit) for each in reversed(stages)]
        units = [stage.unit for stage in self._encoders]
        self.of_frames = Unit.FRAME in units
        # Of the encoders, the first that is shown frames.
        self._framing = units.index(Unit.FRAME) if self.of_frames else len(units)
        # What the last one gets is still encoded; what it gives is not.
        self._decoders[-1].limit = self._max_size
        # Of the incoming message: the check of its text so far.
        self._utf8 = _BOUNDARY
        self._lock = threading.Lock()  # guards the next line
        self._ended = False
        # Of the one extension that there is, as a rule: it may know a shorter way.
        only = self.extensions[0] if len(self.extensions) == 1 else None
        self._short = only if isinstance(only, WholeMessageExtension) else None
        self.smallest = 0 if self._short is None else self._short.threshold

    def configure(self, decoder: Any) -> None:
        """Tells a C decoder what may come."""
        decoder.allowed_rsv = self.rsv
        decoder.allowed_opcodes = sum(1 << opcode for opcode in self.opcodes)
        decoder.all_pieces = self.sees_all

    # -- outgoing -----------------------------------------------------------------

    def encode(self, fragment: Fragment) -> Fragment | None:
        """Encodes a part of a message; ``None`` if there is nothing to send yet."""
        return self._encode(fragment, self._encoders)

    def encode_parts(self, fragments: Iterable[Fragment], frame_size: int) -> Iterator[Fragment]:
        """Encodes a message in parts.

        Args:
            fragments: The message.
            frame_size: Bytes of a frame as it is sent. An extension of frames is shown smaller
                ones: what it adds then fits, as long as it is a 16th and 1 KiB at most, or where
                that would leave less, half of it.
        """
        before, behind = self._encoders[: self._framing], self._encoders[self._framing :]
        parts = filter(None, (self._encode(each, before) for each in fragments))
        if not behind:
            return parts
        size = max((frame_size - 1024) * 16 // 17, frame_size // 2, 1)
        frames = _in_frames(parts, size)
        return filter(None, (self._encode(each, behind) for each in frames))

    def _encode(self, fragment: Fragment, stages: Sequence[_Stage]) -> Fragment | None:
        for stage in stages:
            unit = stage.gather(fragment)
            if unit is None:
                return None
            extension = stage.extension
            fragment = _fragment(extension, "encode", unit, extension.encode(unit))
            if fragment.rsv & ~(unit.rsv | extension.rsv):
                raise RuntimeError(f"extension {extension.name} set an RSV bit not its own")
            own = fragment.opcode in extension.opcodes and fragment.opcode < Opcode.CLOSE
            if fragment.opcode != unit.opcode and not own:
                raise RuntimeError(f"extension {extension.name} set an opcode not its own")
        return fragment

    def skips(self, size: int | None, compress: bool | None) -> bool:
        """Whether an outgoing message need not be encoded at all.

        Args:
            size: Its bytes, if they are known.
            compress: See :class:`Fragment`.
        """
        if self._short is None:
            return False
        if compress is None:
            return size is not None and size < self.smallest
        return not compress

    def encode_message(
        self, opcode: int, data: bytes, compress: bool | None
    ) -> tuple[int, bytes | memoryview]:
        """Encodes a whole message: the first byte of its frame, and its payload."""
        if self._short is not None:
            rsv, data = self._short.encode_message(data, compress)
            return 0x80 | rsv << 4 | opcode, data
        fragment = self.encode(Fragment(opcode, data, compress=compress))
        assert fragment is not None  # at the end of a message no extension waits for more
        return 0x80 | fragment.rsv << 4 | fragment.opcode, fragment.data

    def forget_message(self) -> bool:
        """See :meth:`Extension.forget_message`."""
        for stage in self._encoders:
            stage.reset()
        # All of them are told, whatever the first ones say.
        answers = [extension.forget_message() for extension in self.extensions]
        return all(answers)

    # -- incoming -----------------------------------------------------------------

    def decode(self, record: Record) -> Fragment | None:
        """Decodes a part of a message; ``None`` if an extension waits for more.

        Raises:
            ProtocolError: The peer's fault; the connection is to be failed.
        """
        if record.first:
            self._utf8 = _BOUNDARY
        fragment: Fragment | None = Fragment(
            record.opcode, record.data, record.first, record.last, record.rsv, record.frame_end
        )
        for stage in self._decoders:
            assert fragment is not None
            if fragment.first:
                extension = stage.extension
                stage.produced = 0
                stage.active = (
                    not (extension.rsv or extension.opcodes)
                    or bool(fragment.rsv & extension.rsv)
                    or fragment.opcode in extension.opcodes
                )
            if stage.active:
                fragment = self._decode_at(stage, fragment)
                if fragment is None:
                    return None
        assert fragment is not None
        return self._checked(fragment)

    def _decode_at(self, stage: _Stage, fragment: Fragment) -> Fragment | None:
        unit = stage.gather(fragment)
        if unit is None:
            return None
        room = stage.limit - stage.produced
        decoded = stage.extension.decode(unit, None if stage.limit == UNLIMITED else room)
        fragment = _fragment(stage.extension, "decode", unit, decoded)
        stage.produced += len(fragment.data)
        if stage.produced > stage.limit:
            raise PayloadTooBig("a message exceeds max_size")
        return fragment

    def _checked(self, fragment: Fragment) -> Fragment:
        if fragment.rsv or fragment.opcode not in _MESSAGES:
            raise ProtocolError("a reserved bit or opcode is left that no extension has decoded")
        self._check_text(fragment, bytes(fragment.data))
        return fragment

    def _check_text(self, fragment: Fragment, *parts: bytes) -> None:
        if fragment.opcode == Opcode.TEXT:
            for data in parts:
                self._utf8 = lib.syncws_utf8(self._utf8, data, len(data))
            if self._utf8 == _INVALID or (fragment.last and self._utf8 != _BOUNDARY):
                raise InvalidText("a text message is not UTF-8")

    def decode_parts(self, record: Record) -> tuple[Fragment, list[bytes]] | None:
        """Decodes a part of a message, with its bytes in as many objects as they came in.

        Returns:
            What it is, and its bytes; ``None`` if an extension waits for more.

        Raises:
            ProtocolError: As :meth:`decode`.
        """
        short = self._short
        if short is None:
            fragment = self.decode(record)
            return None if fragment is None else (fragment, [bytes(fragment.data)])
        stage = self._decoders[0]
        if record.first:
            self._utf8 = _BOUNDARY
            stage.produced = 0
        parts = short.decode_parts(record.data, record.last, stage.limit - stage.produced)
        stage.produced += sum(map(len, parts))
        fragment = Fragment(record.opcode, b"", record.first, record.last)
        self._check_text(fragment, *parts)
        return fragment, parts

    def decode_messages(
        self, opcode: int, rsv: int, encoded: Sequence[bytes]
    ) -> tuple[list[str | bytes], BaseException | None]:
        """Decodes whole messages, one after the other: all, or the first MiB of them.

        Args:
            opcode: Of each.
            rsv: RSV bits of each.
            encoded: Their payloads.

        Returns:
            Those decoded, and why the next one cannot be, if it cannot.
        """
        messages: list[str | bytes] = []
        made = 0
        try:
            if self._short is not None:
                done = self._short.decode_messages(encoded, self._max_size)
                if done and opcode != Opcode.TEXT:
                    return [*done], None
                for data in done:
                    messages.append(_as_text(data))
                if messages:
                    return messages, None
            for payload in encoded:
                fragment = self.decode(Record(_PIECE, opcode, payload, rsv=rsv))
                assert fragment is not None
                data = bytes(fragment.data)
                messages.append(data.decode() if fragment.opcode == Opcode.TEXT else data)
                made += len(data)
                if made >= _ENOUGH:
                    break
        except Exception as error:
            return messages, error
        return messages, None

    def receive_control(self, opcode: int, data: bytes) -> None:
        """Hands a control frame to the extension that owns its opcode."""
        for extension in self.extensions:
            if opcode in extension.opcodes:
                extension.receive_control(opcode, data)

    # -- the connection -----------------------------------------------------------

    def attach(self, send_control: SendControl) -> None:
        """See :meth:`Extension.attach`."""
        for extension in self.extensions:
            extension.attach(send_control)

    def connection_ended(self) -> None:
        """See :meth:`Extension.connection_ended`; does nothing when called again."""
        with self._lock:
            ended, self._ended = self._ended, True
        if ended:
            return
        for extension in self.extensions:
            with contextlib.suppress(Exception):  # there is nobody to tell
                extension.connection_ended()

    def statistics(self) -> dict[str, Mapping[str, Any]]:
        """The figures of each extension, by its name."""
        return {extension.name: extension.statistics() for extension in self.extensions}
