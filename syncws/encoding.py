"""Sending messages through extensions.

What belongs here: encoding in the order in which messages leave, and what becomes of
what was encoded and not sent. What does not: the extensions (:mod:`.extensions`), and
moving bytes (:mod:`.output`).

An encoder may remember earlier messages, so they must leave in the order in which they were
encoded: both happen under ``send_lock``, while the C state holds a message open. A signal
handler that sends in the middle of that finds it open and is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from .exceptions import ConcurrencyError
from .extension_chain import ExtensionChain
from .extensions import Fragment
from .frames import UNLIMITED, CloseCode, Opcode, Side, lib, limit, thread_scratch
from .messages import split_frame
from .options import Options, check_flag
from .output import OutputChannel
from .reader import Reader
from .transport import Transport

__all__ = ["EncodingChannel", "encoded_frames"]

# Larger messages are encoded in pieces of this size, and sent in frames of at least the other,
# so that no message exists twice.
_PIECE = 2**20
_ENOUGH = 65536
# Seconds that a message which nobody waits for lets another thread encode its own.
_ENCODING = 0.1


def encoded_frames(
    chain: ExtensionChain, fragments: Iterable[Fragment], frame_size: int
) -> Iterator[tuple[int, bytes]]:
    """Encodes a message in parts: (first byte, payload) of its frames.

    Args:
        chain: What encodes it.
        fragments: The message; where ``frame_end`` is false, frames may be put together.
        frame_size: Bytes that the payload of a frame may have.

    Frames that an extension has seen leave as they are, for that is what the peer's decodes.
    """
    final_size = UNLIMITED if chain.of_frames else frame_size
    begin: int | None = None
    parts: list[bytes] = []
    size = 0
    for encoded in chain.encode_parts(fragments, frame_size):
        if begin is None:
            begin = encoded.rsv << 4 | encoded.opcode
        parts.append(encoded.data)
        size += len(encoded.data)
        if encoded.last or encoded.frame_end or size >= _ENOUGH:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            yield from split_frame(begin, data, encoded.last, final_size)
            begin = Opcode.CONTINUATION
            parts = []
            size = 0


def _in_pieces(opcode: int, data: bytes, compress: bool | None) -> Iterator[Fragment]:
    if len(data) <= _PIECE:
        yield Fragment(opcode, data, compress=compress)
        return
    view = memoryview(data)
    for start in range(0, len(data), _PIECE):
        last = start + _PIECE >= len(data)
        yield Fragment(opcode, view[start : start + _PIECE], start == 0, last, 0, last, compress)


def _as_fragments(frames: Iterable[tuple[int, bytes]], compress: bool | None) -> Iterator[Fragment]:
    opcode = 0
    for first_byte, data in frames:
        first = first_byte & 15 != Opcode.CONTINUATION
        if first:
            opcode = first_byte & 15
        yield Fragment(opcode, data, first, bool(first_byte & 0x80), 0, True, compress)


def _in_frames(frames: Iterable[tuple[int, bytes]], frame_size: int) -> Iterator[tuple[int, bytes]]:
    for first_byte, data in frames:
        yield from split_frame(first_byte & 0x7F, data, bool(first_byte & 0x80), frame_size)


class EncodingChannel(OutputChannel):
    """The writing half with extensions. All methods may be called by any thread.

    Args:
        transport: What moves the bytes; ours from now on.
        side: Which end we are.
        reader: The reader thread that looks after it.
        options: Limits and timeouts.
        chain: The extensions, if any.
    """

    __slots__ = ("_asking", "_unsent", "chain")

    def __init__(
        self,
        transport: Transport,
        side: Side,
        reader: Reader,
        options: Options,
        chain: ExtensionChain | None,
    ) -> None:
        super().__init__(transport, side, reader, options)
        self.chain = chain
        if chain is not None:
            lib.syncws_encode_from(self.c, min(chain.smallest, UNLIMITED))
            if chain.of_frames:
                lib.syncws_keep_frames(self.c)
        # send_lock: whether something may have been encoded that was not sent.
        self._unsent = False
        # send_lock: whether the program is asked for a fragment. Others look before they wait.
        self._asking = False

    def send_encoded(
        self, opcode: int, data: bytes, compress: bool | None, deadline: float | None
    ) -> bool:
        """Sends a whole message, encoded; False if nothing has to be done to it.

        Raises:
            TimeoutError, ConnectionClosed, ConcurrencyError: As :meth:`send_slowly`.
            TypeError: ``compress`` is neither a bool nor ``None``.
        """
        if compress is not None:
            check_flag("compress", compress)
        if self.chain is None or self.chain.skips(len(data), compress):
            return False
        self.send_steps(self._message_frames(self.chain, opcode, data, compress), deadline)
        return True

    def send_slowly(
        self, result: int, first_byte: int, data: bytes, deadline: float | None
    ) -> None:
        """The same, of a message that an extension may have to see."""
        if result == lib.SYNCWS_UNENCODED and self.send_encoded(
            first_byte & 15, data, None, deadline
        ):
            return
        super().send_slowly(result, first_byte, data, deadline)

    def send_fragments(
        self, frames: Iterator[tuple[int, bytes]], compress: bool | None, deadline: float | None
    ) -> None:
        """Sends a message in fragments, (first byte, payload); raises as :meth:`send_slowly`."""
        frames = self._asked_for(frames)
        if self.chain is not None and not self.chain.skips(None, compress):
            frames = self._encode(self.chain, _as_fragments(frames, compress))
        else:
            frames = _in_frames(frames, limit(self.options.max_frame_size))
        self.send_steps(frames, deadline)

    def _asked_for(self, frames: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        while True:
            self._asking = True
            try:
                frame = next(frames, None)
            finally:
                self._asking = False
            if frame is None:
                return
            yield frame

    def _message_frames(
        self, chain: ExtensionChain, opcode: int, data: bytes, compress: bool | None
    ) -> Iterator[tuple[int, bytes]]:
        if len(data) > _PIECE or chain.of_frames:
            yield from self._encode(chain, _in_pieces(opcode, data, compress))
            return
        self._begin(chain)
        first_byte, payload = chain.encode_message(opcode, data, compress)
        # Which of the frames has FIN is not known yet.
        begin = first_byte & 0x7F
        yield from split_frame(begin, payload, True, limit(self.options.max_frame_size))
        self._unsent = False

    def _encode(
        self, chain: ExtensionChain, fragments: Iterator[Fragment]
    ) -> Iterator[tuple[int, bytes]]:
        # Not before there is one: a program that gives none has had nothing encoded.
        for first in fragments:
            self._begin(chain)
            every = itertools.chain((first,), fragments)
            yield from encoded_frames(chain, every, limit(self.options.max_frame_size))
            self._unsent = False

    def _begin(self, chain: ExtensionChain) -> None:
        """Before encoding; the generators above end it when everything has been sent."""
        if self.gone:
            raise self.exception()  # the extensions have been told, or are about to be
        if self._unsent and not chain.forget_message():
            error = ConcurrencyError("an extension cannot go on after a message was not sent")
            self.fail(error, CloseCode.INTERNAL_ERROR, "")
            raise self.exception()
        self._unsent = True

    def post(self, first_byte: int, data: bytes, compress: bool | None = None) -> bool:
        """Queues a message without waiting; False if the queue is full or busy.

        Raises:
            ConnectionClosed: The connection is closing or closed.
        """
        chain = self.chain
        if compress is not None:
            check_flag("compress", compress)
        if chain is None or chain.skips(len(data), compress):
            result = lib.syncws_post(self.c, thread_scratch(), first_byte, data, len(data))
            if chain is None or result != lib.SYNCWS_UNFINISHED:
                return self.posted(result)
        # Not worth encoding what would not be taken.
        waiting = lib.syncws_output_size(self.c)
        if waiting > self.options.write_limit:
            return self.posted(lib.SYNCWS_FULL)
        if lib.syncws_message_is_mine(self.c):
            return self.posted(lib.SYNCWS_UNFINISHED)
        try:
            # A thread that has a message open, has sent nothing of it, and has room to do so, is
            # encoding it: that ends soon. Every other one may wait for a slow peer or program.
            slow = waiting or self._asking or lib.syncws_message_begun(self.c)
            if not self.send_lock.acquire(timeout=0 if slow else _ENCODING):
                return self.posted(lib.SYNCWS_UNFINISHED)
            return self.posted(self._post_encoded(chain, first_byte & 15, data, compress))
        finally:
            # Nothing happens for a thread that has not opened one.
            lib.syncws_message_close(self.c)
            try:
                self.send_lock.release()
            except RuntimeError:
                pass  # never acquired

    def _post_encoded(
        self, chain: ExtensionChain, opcode: int, data: bytes, compress: bool | None
    ) -> int:
        result: int = lib.syncws_message_open(self.c)
        if result != lib.SYNCWS_OK:
            return result
        encoded = not chain.skips(len(data), compress)
        first_byte = 0x80 | opcode
        if encoded:
            self._begin(chain)
            first_byte, payload = chain.encode_message(opcode, data, compress)
            data = bytes(payload)  # whatever bytes-like object an extension gives
        result = lib.syncws_frame_send(self.c, thread_scratch(), first_byte, data, len(data), 1)
        if encoded and result in (lib.SYNCWS_OK, lib.SYNCWS_PENDING):
            self._unsent = False
        return result

    def posted(self, result: int) -> bool:
        """What became of a message that nobody waits for; False if there was no room for it.

        Raises:
            ConnectionClosed: The connection is closing or closed.
        """
        result = self.settle(result)
        if result in (lib.SYNCWS_OK, lib.SYNCWS_PENDING):
            return True
        if result in (lib.SYNCWS_FULL, lib.SYNCWS_UNFINISHED):
            return False
        raise self.exception()
