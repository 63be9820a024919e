"""The reading half of a connection: who reads it, and what is queued.

What belongs here: the Python side of the ownership protocol (csrc/channel.c), delivery
to the inbound queue, back-pressure, streaming. What does not: acting on control frames
and on the end of the input (:mod:`.channel`).

Whoever waits for a message reads the socket. When nobody does, the reader thread reads,
up to the high-water mark. The owner alone touches the decoder.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from .exceptions import ConcurrencyError
from .frames import (
    Opcode,
    Record,
    Side,
    failure_error,
    ffi,
    lib,
    limit,
    new_scratch,
    read_records,
    thread_scratch,
)
from .options import Options
from .output import OutputChannel, Waiter, wait_milliseconds
from .reader import Reader
from .transport import CHUNK, Transport, remaining

__all__ = ["InputChannel", "Stream"]

# Inbound bytes beyond which the reader thread stops reading; it goes on at a quarter.
HIGH_WATER = 2**20

# The bits of a result of syncws_receive() that are not a length.
_RESULT = (1 << lib.SYNCWS_LENGTH_SHIFT) - 1
PARKED = lib.SYNCWS_FLAG_PARKED
DELIVERED = lib.SYNCWS_FLAG_QUEUED | lib.SYNCWS_FLAG_HANDED

# Results of reading after which the caller owns the channel.
_OWNED = frozenset(
    {
        lib.SYNCWS_RECORDS,
        lib.SYNCWS_RECORDS_MORE,
        lib.SYNCWS_RECORDS_FAILED,
        lib.SYNCWS_END_OF_STREAM,
        lib.SYNCWS_READ_FAILED,
    }
)
# The same, and those after which C keeps the caller owner if others must be told.
_MAYBE_OWNED = _OWNED | {lib.SYNCWS_TIMED_OUT, lib.SYNCWS_INTERRUPTED}


def take_single(scratch: Any) -> str | bytes:
    """The message that ``syncws_receive()`` left in ``scratch``."""
    data = ffi.unpack(scratch.data, scratch.length) if scratch.length else b""
    message = data.decode() if scratch.code == lib.SYNCWS_GOT_TEXT else data
    # Nothing is called from here to the caller's use of the result.
    scratch.unclaimed = 0
    return message


def _free_scratch() -> Any:
    """The thread's scratch, or a new one in a signal handler in the middle of a call."""
    scratch = thread_scratch()
    return new_scratch() if scratch.unclaimed else scratch


class Stream:
    """One message in pieces. The owner of the channel fills it, one thread empties it."""

    # What becomes of it.
    WANTED = 0  # its iterator goes on
    DROPPED = 1  # its iterator was left in the middle, or has ended
    KEPT = 2  # its iterator was left before its first piece: recv() gets all of it

    __slots__ = ("fate", "finished", "pieces", "taken")

    def __init__(self) -> None:
        self.pieces: collections.deque[Record] = collections.deque()
        # Whether its last piece came; set by the owner.
        self.finished = False
        # Set by the thread that empties it.
        self.taken = False
        self.fate = Stream.WANTED

    def whole(self, more: list[Record]) -> list[str | bytes]:
        """The message of its pieces and ``more``, in a list."""
        pieces = [*self.pieces, *more]
        data = b"".join(piece.data for piece in pieces)
        return [data.decode() if pieces[0].opcode == Opcode.TEXT else data]


class InputChannel(OutputChannel):
    """The reading half. All methods may be called by any thread unless they say otherwise.

    Args:
        transport: What moves the bytes; ours from now on.
        side: Which end we are.
        reader: The reader thread that looks after it.
        options: Limits and timeouts.
    """

    __slots__ = (
        "_inbound_bytes",
        "_paused_length",
        "decoder",
        "end",
        "inbound",
        "incoming",
        "queued",
        "side",
        "streaming",
    )

    def __init__(self, transport: Transport, side: Side, reader: Reader, options: Options) -> None:
        super().__init__(transport, side, reader, options)
        self.side = side
        # Belongs to the owner of the channel; C uses it without a lock.
        self.decoder = lib.syncws_channel_decoder(self.c)
        lib.syncws_decoder_init(
            self.decoder,
            side,
            limit(options.max_frame_size),
            limit(options.max_size),
            limit(options.max_fragments),
        )
        # Whole messages; appended to by the owner, popped by any thread without a lock.
        self.inbound: collections.deque[str | bytes] = collections.deque()
        # Pops them; raises IndexError if there is none. A `for` over it takes a message
        # without a call: the interpreter looks for signals after calls, and the result of
        # one that is interrupted there is lost.
        self.queued: Iterator[str | bytes] = iter(self.inbound.popleft, None)
        # An upper bound of their size: what was delivered since the last exact count.
        self._inbound_bytes = 0
        # The queue's length when the reader thread last asked whether to go on.
        self._paused_length = -1
        # The owner's: the message that comes in pieces, until its last one came.
        self.incoming: Stream | None = None
        # The message of the last recv_streaming(), if it may be under way.
        self.streaming: Stream | None = None
        # How the input ended: a close frame's payload or an exception. Set by the owner.
        self.end: bytes | BaseException | None = None

    def feed(self, data: bytes) -> None:
        """Decodes bytes that came by another way: behind the opening handshake."""
        for start in range(0, len(data), CHUNK):
            scratch = _free_scratch()
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

    def control(self, record: Record) -> None:
        """Acts on a ping, pong or close frame (the owner)."""
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
            code &= _RESULT
            if code in (lib.SYNCWS_GOT_TEXT, lib.SYNCWS_GOT_BINARY):
                return take_single(scratch)
            if code in _MAYBE_OWNED:
                self._digest_and_leave(scratch, code)
            message = self.take_queued()
            if message is not None:
                return message
            self.raise_ended(code)
            if code == lib.SYNCWS_BUSY:
                self.follow(lib.SYNCWS_TAKE_MESSAGE, deadline)
            if code != lib.SYNCWS_QUEUED and remaining(deadline) == 0.0:
                raise TimeoutError("timed out: no message arrived in time")
            self.check_streaming()
            if code == lib.SYNCWS_OWN:
                raise ConcurrencyError("this thread is in the middle of receiving already")
            milliseconds = wait_milliseconds(deadline)
            if code in (lib.SYNCWS_EXTERNAL, lib.SYNCWS_SCRATCH_BUSY) or self.transport.external:
                code = self.read_once(lib.SYNCWS_TAKE_MESSAGE, milliseconds)
                continue
            code = lib.syncws_receive(self.c, scratch, milliseconds)

    def take_queued(self) -> str | bytes | None:
        """A message of the inbound queue, or ``None`` after telling C that it is empty."""
        generation = lib.syncws_generation(self.c)
        try:
            # It never ends: an empty queue raises.
            for message in self.queued:  # pragma: no branch
                return message
        except IndexError:
            lib.syncws_seen_empty(self.c, generation)
        return None

    def raise_ended(self, code: int) -> None:
        """Raises if ``code`` says that nothing will come any more."""
        if code == lib.SYNCWS_PARKED:
            self.finish_input()
        if code in (lib.SYNCWS_PARKED, lib.SYNCWS_GONE):
            raise self.exception()

    def check_streaming(self) -> None:
        stream = self.streaming
        if stream is not None:
            if stream.fate == Stream.WANTED:
                raise ConcurrencyError("recv_streaming() is in the middle of a message")
            self.streaming = None

    def recover(self, scratch: Any) -> None:
        """After an exception in the middle of a call: what C decoded is not lost."""
        if lib.syncws_is_mine(self.c):
            self._digest_and_leave(
                scratch, scratch.code if scratch.unclaimed == 1 else lib.SYNCWS_RECORDS
            )
        elif scratch.unclaimed == 1 and scratch.code in (
            lib.SYNCWS_GOT_TEXT,
            lib.SYNCWS_GOT_BINARY,
        ):
            self.put_back(take_single(scratch))

    def put_back(self, message: str | bytes) -> None:
        """Puts a message first in the queue that nobody got to see."""
        try:
            self.inbound.appendleft(message)
        finally:
            lib.syncws_set_flags(self.c, lib.SYNCWS_FLAG_QUEUED, 0)

    def read_once(self, mode: int, milliseconds: int, stream: Stream | None = None) -> int:
        """Takes ownership, reads once, delivers, leaves; why not, if it could not.

        Does not wait if there are pieces of ``stream``.
        """
        scratch = _free_scratch()
        if lib.syncws_is_mine(self.c):
            raise ConcurrencyError("this thread is in the middle of receiving already")
        try:
            code: int = lib.syncws_take(self.c, mode)
            if code == lib.SYNCWS_OK:
                # Pieces may have come since the caller looked; from here on none can.
                wait = stream is None or not (stream.pieces or stream.finished)
                code = self._read(scratch, milliseconds if wait else 0)
                if code in _OWNED:
                    self._digest(scratch, code)
                    code = lib.SYNCWS_OK
        except BaseException:
            if lib.syncws_is_mine(self.c) and scratch.unclaimed == 1:
                self._digest(scratch, scratch.code)
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
            if lib.syncws_is_mine(self.c) and scratch.unclaimed == 1:
                self._digest(scratch, scratch.code)
            raise
        finally:
            flags = lib.syncws_finish(
                self.c,
                scratch,
                (PARKED if self.end is not None else 0) | (DELIVERED if self.inbound else 0),
            )
            self.left(flags)

    def _read(self, scratch: Any, milliseconds: int) -> int:
        """The owner reads: by C on a plain socket, else by the transport."""
        if not self.transport.external:
            return int(lib.syncws_read(self.c, scratch, milliseconds))
        code = self._read_transport(scratch)
        if code == lib.SYNCWS_TIMED_OUT and milliseconds:
            code = lib.syncws_wait_readable(self.c, milliseconds)
            if code == lib.SYNCWS_OK:
                code = self._read_transport(scratch)
        return code

    def _read_transport(self, scratch: Any) -> int:
        with self.state_lock:
            if self._moving == threading.get_ident():
                raise ConcurrencyError("this thread is in the middle of another call")
            if self._moving:
                return int(lib.SYNCWS_TIMED_OUT)  # look() ends it: see end_interrupted_move()
            self._moving = threading.get_ident()
            scratch.unclaimed = 2  # the memory is in use, there is nothing to recover
            code = int(lib.SYNCWS_TIMED_OUT)
            try:
                count = self.transport.receive_into(memoryview(ffi.buffer(scratch.input)))
                if count == 0:
                    code = int(lib.SYNCWS_END_OF_STREAM)
                elif count is not None:
                    # Here, because after an interrupt nobody would know of these bytes.
                    scratch.unclaimed = 0
                    code = lib.syncws_decode_input(self.c, scratch, count)
            except OSError as error:
                scratch.error_number = error.errno or 0
                self.closing.cause = self.closing.cause or error.with_traceback(None)
                code = int(lib.SYNCWS_READ_FAILED)
            except BaseException as error:
                lost = scratch.unclaimed != 1
                if lost:
                    scratch.unclaimed = 0  # other connections' calls need it
                lib.syncws_list(self.c, 1)  # the first call: see flush()
                if lost:
                    # Interrupted inside: nobody knows what the transport has given.
                    self.abort(error, "interrupted while reading")
                self._moving = 0
                raise
            if scratch.unclaimed == 2:
                scratch.unclaimed = 0
            self._moving = 0
        return code

    def follow(self, mode: int, deadline: float | None) -> None:
        """Waits for the owner to leave, at most one slice."""
        with Waiter((self,)) as waiter:
            if lib.syncws_follow(self.c, mode):
                waiter.wait(remaining(deadline))

    # -- delivery (the owner) -----------------------------------------------------

    def _digest(self, scratch: Any, code: int) -> None:
        """Delivers what a read brought, and notes how the input ended, if it did."""
        while code in (lib.SYNCWS_RECORDS, lib.SYNCWS_RECORDS_MORE, lib.SYNCWS_RECORDS_FAILED):
            if scratch.unclaimed != 1:
                break
            self._deliver(scratch)
            if self.decoder.handed_out:
                # An idle connection keeps no memory for its biggest message.
                lib.syncws_decoder_reclaim(self.decoder)
            if code != lib.SYNCWS_RECORDS_MORE:
                break
            code = lib.syncws_decode_rest(self.c, scratch)
        if self.end is not None:
            return
        if self.decoder.failure:  # whatever `code` is: an interrupt may have come before
            self.end = failure_error(self.decoder)
        elif code == lib.SYNCWS_END_OF_STREAM:
            self.end = EOFError("the connection ended without a close frame")
        elif code == lib.SYNCWS_READ_FAILED:
            cause = self.closing.cause
            self.end = (
                cause
                if isinstance(cause, OSError)
                else OSError(scratch.error_number, "reading from the connection failed")
            )

    def _deliver(self, scratch: Any) -> None:
        messages: list[str | bytes] = []
        pieces: list[Record] = []
        size = 0
        for record in read_records(scratch):
            kind = record.kind
            if kind == lib.SYNCWS_RUN:
                messages += record.data
                size += sum(map(len, record.data))
            elif kind == lib.SYNCWS_MESSAGE:
                messages.append(record.data)
                size += len(record.data)
            elif kind == lib.SYNCWS_CONTROL:
                self.control(record)
            else:
                pieces.append(record)
                size += len(record.data)
        if self.closing.sent is not None and self._over(HIGH_WATER):
            messages = []  # nobody may ever take them, and the close frame must be reached
        inbound, stream = self.inbound, self.incoming
        finished = bool(pieces) and pieces[-1].last
        while stream is not None:
            fate = stream.fate
            # Whole messages can only have come after the last piece.
            kept = stream.whole(pieces) + messages if finished and fate == Stream.KEPT else messages
            # No call from here on, so no signal handler and no other thread in between.
            if stream.fate != fate:
                continue
            inbound += kept
            if fate != Stream.DROPPED:
                stream.pieces += pieces
            scratch.unclaimed = 0
            self._inbound_bytes += size
            if finished:
                stream.finished = True
                self.incoming = None
            return
        inbound += messages
        scratch.unclaimed = 0
        self._inbound_bytes += size

    def _queued_pieces(self) -> tuple[Record, ...]:
        stream = self.incoming
        return () if stream is None else tuple(stream.pieces)

    def _over(self, high: int) -> bool:
        """Whether the inbound queue is above ``high`` bytes or ``max_queue`` messages."""
        queued = len(self.inbound) + len(self._queued_pieces())
        if self.options.max_queue is not None and queued >= self.options.max_queue:
            # While a sender waits, bytes are what counts.
            if not self.senders:
                return True
        if self._inbound_bytes <= high:
            return False
        pieces = sum(len(piece.data) for piece in self._queued_pieces())
        self._inbound_bytes = sum(map(len, tuple(self.inbound))) + pieces
        return self._inbound_bytes > high

    def _should_pause(self) -> bool:
        if self.closing.sent is not None or self.write_error is not None:
            return False
        # Two peers that both send before they read must both finish.
        return self._over(limit(self.options.max_size) if self.senders else HIGH_WATER)

    @contextlib.contextmanager
    def reading_on(self) -> Iterator[None]:
        """As long as a sender would, a thread that waits for the end keeps it being read."""
        thread = threading.get_ident()
        try:
            self.senders.add(thread)
            self.resume_reading()
            yield
        finally:
            self.senders.discard(thread)

    def resume_reading(self) -> None:
        """Reading goes on although the inbound queue is full."""
        if lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_PAUSED and not self._should_pause():
            lib.syncws_set_flags(self.c, 0, lib.SYNCWS_FLAG_PAUSED)

    def _check_paused(self) -> bool:
        """Every tick of the reader while paused: True when it need not ask again."""
        if not lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_PAUSED:
            return True
        # Set by threads that ask for the input without taking any of it.
        urgent = bool(self.senders or self.closing.sent or self.write_error)
        length = len(self.inbound) + len(self._queued_pieces())
        if length == self._paused_length and not urgent:
            return self.gone
        self._paused_length = length
        maximum = self.options.max_queue
        low = maximum is None or length <= maximum // 4
        if not self._should_pause() and (urgent or (low and not self._over(HIGH_WATER // 4))):
            lib.syncws_set_flags(self.c, 0, lib.SYNCWS_FLAG_PAUSED)
            return True
        return self.gone

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
