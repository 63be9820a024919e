"""The reading half of a connection: who reads it, and when.

What belongs here: the Python side of the ownership protocol (csrc/channel.c). What does
not: what becomes of what was read (:mod:`.delivery`), acting on control frames and on the
end of the input (:mod:`.channel`).

Whoever waits for a message reads the socket. When nobody does, the reader thread reads,
up to the high-water mark. The owner alone touches the decoder.
"""

from __future__ import annotations

import threading
from typing import Any

from .delivery import DeliveryChannel, Stream
from .exceptions import ConcurrencyError
from .frames import ffi, lib, new_scratch, thread_scratch
from .transport import CHUNK, remaining
from .waiters import Waiter, wait_milliseconds

__all__ = ["InputChannel"]

PARKED = lib.SYNCWS_FLAG_PARKED
DELIVERED = lib.SYNCWS_FLAG_QUEUED | lib.SYNCWS_FLAG_HANDED

# Results of reading after which the caller owns the channel.
OWNED = frozenset(
    {
        lib.SYNCWS_RECORDS,
        lib.SYNCWS_RECORDS_MORE,
        lib.SYNCWS_RECORDS_FAILED,
        lib.SYNCWS_END_OF_STREAM,
        lib.SYNCWS_READ_FAILED,
    }
)
# The same, and those after which C keeps the caller owner if others must be told.
_MAYBE_OWNED = OWNED | {lib.SYNCWS_TIMED_OUT, lib.SYNCWS_INTERRUPTED}
# After these nobody has looked at the socket yet.
_NOT_TRIED = frozenset(
    {
        lib.SYNCWS_QUEUED,
        lib.SYNCWS_STREAMED,
        lib.SYNCWS_SCRATCH_BUSY,
        lib.SYNCWS_EXTERNAL,
    }
)
# The scratch holds one message, and the caller is not the owner any more.
_SINGLE = frozenset({lib.SYNCWS_GOT_TEXT, lib.SYNCWS_GOT_BINARY})


def take_single(scratch: Any) -> str | bytes:
    """The message that ``syncws_receive()`` left in ``scratch``."""
    data = ffi.unpack(scratch.data, scratch.length) if scratch.length else b""
    message = data.decode() if scratch.code == lib.SYNCWS_GOT_TEXT else data
    # Nothing is called from here to the caller's use of the result.
    scratch.unclaimed = lib.SYNCWS_CLAIMED
    return message


def free_scratch() -> Any:
    """The thread's scratch, or a new one in a signal handler in the middle of a call."""
    scratch = thread_scratch()
    return new_scratch() if scratch.unclaimed else scratch


class InputChannel(DeliveryChannel):
    """The reading half. All methods may be called by any thread unless they say otherwise."""

    __slots__ = ()

    def feed(self, data: bytes) -> None:
        """Decodes bytes that came by another way: behind the opening handshake."""
        for start in range(0, len(data), CHUNK):
            scratch = free_scratch()
            piece = data[start : start + CHUNK]
            code = lib.syncws_take(self.c, lib.SYNCWS_TAKE_WAIT)
            if code != lib.SYNCWS_OK:
                return  # nothing counts after the end of the input
            ffi.memmove(scratch.input, piece, len(piece))
            code = lib.syncws_decode_input(self.c, scratch, len(piece))
            self._digest_and_leave(scratch, code)

    def finish_input(self) -> None:
        """Acts on the end of the input."""
        raise NotImplementedError

    def receive(self, code: int, scratch: Any, deadline: float | None) -> str | bytes:
        """The next message, when ``syncws_receive()`` did not return one.

        Args:
            code: What it returned; ``SYNCWS_QUEUED`` to begin here.
            scratch: What it was called with.
            deadline: ``time.monotonic()`` or ``None``.

        Raises:
            TimeoutError: The deadline passed.
            ConnectionClosed: No message is left and none will come.
            ConcurrencyError: The calling thread is inside another call already.
        """
        while True:
            if code in _SINGLE:
                return take_single(scratch)
            if code in _MAYBE_OWNED:
                self._digest_and_leave(scratch, code)
            if code == lib.SYNCWS_STREAMED or self.streaming is not None:
                self.check_streaming()
            if code != lib.SYNCWS_EXTERNAL:  # else C has not looked at anything yet
                message = self.take_queued()
                if message is not None:
                    return message
                self.raise_ended(code)
                if code == lib.SYNCWS_BUSY:
                    self.follow(lib.SYNCWS_TAKE_MESSAGE, deadline)
            if code not in _NOT_TRIED and remaining(deadline) == 0.0:
                raise TimeoutError("timed out: no message arrived in time")
            if code == lib.SYNCWS_OWN:
                raise ConcurrencyError("this thread is in the middle of receiving already")
            milliseconds = wait_milliseconds(deadline)
            if code in (lib.SYNCWS_EXTERNAL, lib.SYNCWS_SCRATCH_BUSY) or self.external:
                message, code = self._receive_external(scratch, milliseconds)
                if message is not None:
                    return message
                continue
            code = lib.syncws_receive(self.c, scratch, milliseconds)

    def raise_ended(self, code: int) -> None:
        """Raises if ``code`` says that nothing will come any more."""
        if code == lib.SYNCWS_PARKED:
            self.finish_input()
        if code in (lib.SYNCWS_PARKED, lib.SYNCWS_GONE):
            raise self.exception()

    def check_streaming(self) -> None:
        """Lets go of a stream that has ended.

        Raises:
            ConcurrencyError: It goes on.
        """
        count = lib.syncws_stream_count(self.c)
        stream = self.streaming
        if stream is not None:
            if stream.fate == Stream.WANTED:
                raise ConcurrencyError("recv_streaming() is in the middle of a message")
            # Another thread may have begun the next one meanwhile.
            if self.streaming is stream:
                self.streaming = None
        # Whoever ended it may have been interrupted before it told C.
        lib.syncws_stream_end(self.c, count, 0)

    def recover(self, scratch: Any) -> None:
        """After an exception in the middle of a call: what C decoded is not lost."""
        # What is in there may also be an interrupted call's on another connection.
        found = scratch.unclaimed & 1 and scratch.channel == self.c
        if lib.syncws_is_mine(self.c):
            self._digest_and_leave(scratch, scratch.code if found else lib.SYNCWS_TIMED_OUT)
        elif found and scratch.code in _SINGLE:
            # No Python function may be called with the message on the way.
            try:
                self.inbound.appendleft(take_single(scratch))
            finally:
                lib.syncws_set_flags(self.c, lib.SYNCWS_FLAG_QUEUED, 0)

    def read_once(self, mode: int, milliseconds: int, stream: Stream | None = None) -> int:
        """Takes ownership, reads once, delivers, leaves; why not, if it could not.

        Does not wait if there are pieces of ``stream``, or if that has ended.
        """
        scratch = free_scratch()
        if lib.syncws_is_mine(self.c):
            raise ConcurrencyError("this thread is in the middle of receiving already")
        try:
            code: int = lib.syncws_take(self.c, mode)
            if code == lib.SYNCWS_OK:
                # They may have come since the caller looked; from here on none can.
                wait = stream is None or not (stream.pieces or stream.finished)
                code = self._read_next(scratch, milliseconds if wait else 0)
                if code in OWNED:
                    self._digest(scratch, code)
                    code = lib.SYNCWS_OK
        except BaseException:
            self._digest_again(scratch)
            raise
        finally:
            # No Python function is called before C lets go: a signal handler could raise
            # at its first line, and the channel would be owned for ever.
            flags = lib.syncws_finish(
                self.c,
                scratch,
                (PARKED if self.end is not None else 0) | (DELIVERED if self.inbound else 0),
            )
            self.left(flags)
        return code

    def _receive_external(self, scratch: Any, milliseconds: int) -> tuple[str | bytes | None, int]:
        """Does what ``syncws_receive()`` does: a message, or ``None`` and a result of C.

        The caller does not own the channel afterwards; what else came is delivered.
        """
        if lib.syncws_is_mine(self.c):
            raise ConcurrencyError("this thread is in the middle of receiving already")
        if scratch.unclaimed:  # an interrupted call's
            scratch = new_scratch()
        code = int(lib.SYNCWS_OK)
        try:
            code = lib.syncws_take(self.c, lib.SYNCWS_TAKE_MESSAGE)
            if code == lib.SYNCWS_OK:
                code = self._read_next(scratch, milliseconds)
                code = lib.syncws_hand_over(self.c, scratch, code)
                if code in _SINGLE:
                    # Nothing is called from its end to the caller's use of the message.
                    return take_single(scratch), code
                if code in OWNED:
                    self._digest(scratch, code)
                code = int(lib.SYNCWS_OK)
            return None, code
        except BaseException:
            self.recover(scratch)
            raise
        finally:
            if code not in _SINGLE or scratch.unclaimed:
                # As in read_once().
                flags = lib.syncws_finish(
                    self.c,
                    scratch,
                    (PARKED if self.end is not None else 0) | (DELIVERED if self.inbound else 0),
                )
                self.left(flags)

    def left(self, flags: int) -> None:
        if self.waiters:
            self.notify()
        if flags & lib.SYNCWS_FLAG_GONE:
            self.reap()

    def _digest_and_leave(self, scratch: Any, code: int) -> None:
        try:
            if lib.syncws_is_mine(self.c):
                self._digest(scratch, code)
        except BaseException:
            self._digest_again(scratch)
            raise
        finally:
            flags = lib.syncws_finish(
                self.c,
                scratch,
                (PARKED if self.end is not None else 0) | (DELIVERED if self.inbound else 0),
            )
            self.left(flags)

    def _digest_again(self, scratch: Any) -> None:
        """After an exception: what the owner has read and not delivered is not lost."""
        if lib.syncws_is_mine(self.c):
            unclaimed = scratch.unclaimed & 1
            self._digest(scratch, scratch.code if unclaimed else lib.SYNCWS_TIMED_OUT)

    def _read_next(self, scratch: Any, milliseconds: int) -> int:
        """The owner reads, or takes what was read and may be had now."""
        if self.incoming is not None and self.decoder.buffer_length:
            # What C gathered before the message was wanted in pieces is the first one.
            return int(lib.syncws_decode_input(self.c, scratch, 0))
        return self._read(scratch, milliseconds)

    def _read(self, scratch: Any, milliseconds: int) -> int:
        """The owner reads: by C on a plain socket, else by the transport."""
        if not self.external or self._backlog:
            return int(lib.syncws_read(self.c, scratch, milliseconds))
        transport = self.transport
        with self.state_lock:
            # To read in vain costs more than to ask the system first; but nobody waits for
            # what the calling thread itself is in the middle of.
            inside = self._moving == threading.get_ident()
            at_once = inside or transport.pending() or transport.holds_output()
        code = int(lib.SYNCWS_TIMED_OUT)
        if at_once or not milliseconds:
            code = self._read_transport(scratch)
        if code == lib.SYNCWS_TIMED_OUT and milliseconds:
            code = lib.syncws_wait_readable(self.c, milliseconds)
            if code == lib.SYNCWS_OK:
                code = self._read_transport(scratch)
        return code

    def _read_transport(self, scratch: Any) -> int:
        thread = threading.get_ident()
        code = int(lib.SYNCWS_TIMED_OUT)
        transport = self.transport
        with self.state_lock:
            if self._moving == thread:
                raise ConcurrencyError("this thread is in the middle of another call")
            if self._moving:
                return code  # look() ends it: see end_interrupted_move()
            # No call between these two and the `try`.
            self._moving = thread
            scratch.unclaimed = lib.SYNCWS_FILLING
            try:
                try:
                    count = transport.receive_into(memoryview(ffi.buffer(scratch.input)))
                    if count == 0:
                        code = int(lib.SYNCWS_END_OF_STREAM)
                    elif count is not None:
                        # Here, because after an interrupt nobody would know of these bytes.
                        scratch.unclaimed = lib.SYNCWS_CLAIMED
                        code = lib.syncws_decode_input(self.c, scratch, count)
                except OSError as error:
                    scratch.error_number = error.errno or 0
                    self.closing.cause = self.closing.cause or error.with_traceback(None)
                    code = int(lib.SYNCWS_READ_FAILED)
            except BaseException as error:
                lost = scratch.unclaimed != lib.SYNCWS_UNCLAIMED
                if lost:
                    scratch.unclaimed = lib.SYNCWS_CLAIMED  # other connections' calls need it
                lib.syncws_list(self.c, 1)  # the first call: see flush()
                if lost:
                    # Interrupted inside: nobody knows what the transport has given.
                    self.abort(error, "interrupted while reading")
                self._moving = 0
                raise
            if scratch.unclaimed == lib.SYNCWS_FILLING:
                scratch.unclaimed = lib.SYNCWS_CLAIMED
            self._moving = 0
            if transport.owing:
                # The selector has to watch for room.
                lib.syncws_output_moved(self.c, 0, 0, 0)
                lib.syncws_list(self.c, 1)
        return code

    def follow(self, mode: int, deadline: float | None) -> None:
        """Waits for the owner to leave, at most one slice."""
        with Waiter((self,)) as waiter:
            if lib.syncws_follow(self.c, mode):
                waiter.wait(remaining(deadline))

    # -- the reader thread's reading ----------------------------------------------

    def read_turn(self, limit_bytes: int) -> None:
        """Reads what is there without waiting, up to about ``limit_bytes`` or the mark."""
        before = lib.syncws_received(self.c)
        mode = lib.SYNCWS_TAKE_EVENT
        code = lib.SYNCWS_OK
        while not self._should_pause():
            code = self.read_once(mode, 0)
            if code != lib.SYNCWS_OK or self.end is not None:
                return
            mode = lib.SYNCWS_TAKE_WAIT
            if lib.syncws_received(self.c) - before >= limit_bytes:
                return
        self._paused_length = -1
        lib.syncws_set_flags(self.c, lib.SYNCWS_FLAG_PAUSED, 0)
        self.reader.look_again(self._check_paused)
