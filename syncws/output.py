"""The writing half of a connection, and what both halves share.

What belongs here: handing messages to the C queue, waiting for room with a deadline,
moving bytes for transports that C cannot serve, and ending at once. What does not: how a
thread waits (:mod:`.waiters`), reading and the closing handshake (:mod:`.channel`).

Lock order: ``send_lock``, then ``state_lock``; C's mutexes are below both and never held
while Python runs.
"""

from __future__ import annotations

import collections
import errno
import os
import threading
from collections.abc import Callable, Iterable

from .exceptions import ConcurrencyError, ConnectionClosedError, ForkedConnectionError
from .exiting import wait_for_exit
from .frames import SLICE, CloseCode, Side, ffi, lib, limit, thread_scratch
from .messages import split_frame
from .options import Options
from .protocol import ClosingHandshake
from .reader import Reader, in_any_reader_thread, new_token
from .transport import STALLED_TICK, Transport, remaining
from .waiters import Waiter, wait_milliseconds

__all__ = ["OutputChannel"]

# How much is moved for a Python transport at a time, in bytes.
_PIECE = 65536
# More than control frames that have not been put into the queue may take, in bytes.
_CONTROLS = 512


class OutputChannel:
    """One connection, without its reading half. All methods may be called by any thread.

    Args:
        transport: What moves the bytes; ours from now on.
        side: Which end we are.
        reader: The reader thread that looks after it.
        options: Limits and timeouts.
    """

    __slots__ = (
        "__weakref__",
        "_moving",
        "c",
        "closing",
        "external",
        "forked",
        "options",
        "reader",
        "send_lock",
        "senders",
        "state_lock",
        "token",
        "transport",
        "waiters",
        "write_error",
    )

    def __init__(self, transport: Transport, side: Side, reader: Reader, options: Options) -> None:
        self.transport = transport
        # See Transport: whether Python moves the bytes.
        self.external = transport.external
        self.reader = reader
        self.options = options
        self.token = new_token()
        self.c = ffi.gc(
            lib.syncws_channel_new(
                reader.mailbox,
                self.token,
                transport.fileno(),
                side,
                self.external,
                options.write_limit,
                limit(options.max_frame_size),
            ),
            lib.syncws_channel_free,
            size=lib.syncws_channel_size(),
        )
        if self.c == ffi.NULL:
            raise MemoryError("no memory for a connection")
        # Guards closing, the transport's methods, and every attribute below.
        self.state_lock = threading.RLock()
        # Orders messages that take several steps; may be held while waiting.
        self.send_lock = threading.RLock()
        self.closing = ClosingHandshake()
        # The thread inside a transport's method, for signal handlers in it; 0 for none.
        self._moving = 0
        # Those of the threads that wait for something to happen here.
        self.waiters: collections.deque[Waiter] = collections.deque()
        # Whoever waits for room, a token each: while there are any, reading goes on.
        self.senders: set[object] = set()
        self.write_error: OSError | None = None
        self.forked = False

    # -- waiting ------------------------------------------------------------------

    def notify(self) -> None:
        """Wakes every thread that waits for something to happen here."""
        waiters = self.waiters
        while waiters:
            try:
                waiters.popleft().wake()
            except IndexError:
                return  # another thread notifies, too

    def wait_until(self, predicate: Callable[[], object], deadline: float | None) -> bool:
        """Waits until ``predicate`` is true; False at the deadline.

        Raises:
            ConcurrencyError: The calling thread keeps everybody else from making it true.
        """
        with Waiter((self,)) as waiter:
            while not predicate():
                left = remaining(deadline)
                if left == 0.0:
                    return False
                if self.holds_others_up():
                    raise ConcurrencyError("this thread is in the middle of another call")
                waiter.wait(left)
        return True

    def holds_others_up(self) -> bool:
        """Whether this is a signal handler in the middle of what others would have to do.

        Or a finalizer that the collector runs in a reader thread.
        """
        return bool(
            in_any_reader_thread()
            or self._moving == threading.get_ident()
            or lib.syncws_is_mine(self.c)
            # What threading.Condition asks a lock, too.
            or self.state_lock._is_owned()  # type: ignore[attr-defined]
        )

    def is_busy_here(self) -> bool:
        """Whether the calling thread, in a signal handler, is inside another call."""
        return self.holds_others_up() or bool(lib.syncws_message_is_mine(self.c))

    # -- ending -------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether nothing comes or goes any more."""
        return bool(lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_GONE)

    def exception(self) -> Exception:
        """What a call on this connection raises now that it is closed."""
        if not in_any_reader_thread():  # of which others have need
            wait_for_exit()
        if self.forked:
            return ForkedConnectionError(None, None)
        return self.closing.exception()

    def abort(self, cause: BaseException | None = None, explanation: str = "") -> None:
        """Ends the connection at once: every call on it returns or raises."""
        with self.state_lock:
            self.closing.end(cause, explanation)
        lib.syncws_abort(self.c)
        self.notify()
        self.reap()

    def reap(self) -> None:
        """Closes the socket if nobody uses it any more; the reader thread makes sure."""
        if lib.syncws_claim_close(self.c):
            self.close_socket()
            self.notify()

    def close_socket(self, *, watched: bool = True) -> None:
        """Closes the socket, for whoever claimed that, or after them; idempotent.

        Args:
            watched: Whether the reader thread may have told its selector of it.
        """
        with self.state_lock:
            descriptor = self.transport.fileno()
            # If it is closed, its number may belong to a new connection, which stays watched.
            if watched and descriptor >= 0:
                self.reader.forget(descriptor)
            self.transport.close()

    # -- moving bytes -------------------------------------------------------------

    def flush(self) -> int:
        """Writes what waits without waiting; ``lib.SYNCWS_OK``, ``_PENDING``, ..."""
        if not self.external:
            scratch = thread_scratch()
            result: int = lib.syncws_flush(self.c, scratch)
            if result == lib.SYNCWS_WRITE_FAILED:
                self._note_write_error(scratch.error_number)
            return result
        with self.state_lock:
            if self._moving:
                # A signal handler inside a transport's method: the reader will do it.
                lib.syncws_list(self.c, 1)
                return int(lib.SYNCWS_PENDING)
            self._moving = threading.get_ident()
            try:
                try:
                    result = self._flush_transport()
                except OSError as error:
                    lib.syncws_output_fail(self.c, error.errno or errno.EPIPE)
                    self.write_error = self.write_error or error.with_traceback(None)
                    result = int(lib.SYNCWS_WRITE_FAILED)
            except BaseException as error:
                # Interrupted inside. If abort() is, too, look() finds us still "moving".
                lib.syncws_list(self.c, 1)
                self.abort(error, "interrupted while writing")
                self._moving = 0
                raise
            self._moving = 0
            return result

    def end_interrupted_move(self) -> None:
        """The reader thread: whoever is still "moving" was interrupted twice in there."""
        with self.state_lock:
            if self._moving:
                self.abort(None, "interrupted while moving bytes")
                self._moving = 0

    def _flush_transport(self) -> int:
        transport, c = self.transport, self.c
        before = transport.taken
        if not transport.flush():
            lib.syncws_output_moved(c, 0, transport.taken != before, 0)
            return int(lib.SYNCWS_PENDING)
        if transport.tls and not transport.stalled:  # what it held is out
            waiting = lib.syncws_output_moved(c, 0, 1, 1)
        else:
            waiting = lib.syncws_output_size(c)
        while waiting:
            size = min(waiting + _CONTROLS, _PIECE)
            data = bytearray(size)
            copy = ffi.from_buffer("uint8_t[]", data, require_writable=True)
            count = lib.syncws_output_peek(c, thread_scratch(), copy, size)
            if not count:
                return int(lib.SYNCWS_CLOSED)  # aborted: what waits is not for sending any more
            sent = transport.send(memoryview(data)[:count])
            idle = sent == count and not transport.holds_output()
            waiting = lib.syncws_output_moved(c, sent, sent > 0, idle)
            if not idle:
                return int(lib.SYNCWS_PENDING)
        return int(lib.SYNCWS_WRITE_FAILED if self.write_error else lib.SYNCWS_OK)

    def _note_write_error(self, number: int) -> None:
        if self.write_error is None:
            self.write_error = OSError(number, os.strerror(number))

    # -- sending ------------------------------------------------------------------

    def settle(self, result: int) -> int:
        """After C queued something: moves it on if C could not do so itself."""
        if result == lib.SYNCWS_PENDING and self.external:
            result = self.flush()
            if result == lib.SYNCWS_PENDING:
                lib.syncws_list(self.c, 1)
        return result

    def send_control(self, opcode: int, payload: bytes) -> int:
        """Sends a ping, pong or close frame without waiting, at the next frame boundary."""
        scratch = thread_scratch()
        result = lib.syncws_send_control(self.c, scratch, opcode, payload, len(payload))
        return self.settle(result)

    def send_slowly(
        self, result: int, first_byte: int, data: bytes, deadline: float | None
    ) -> None:
        """Goes on with a message when ``syncws_send()`` did not return ``SYNCWS_OK``.

        Raises:
            TimeoutError: The deadline passed.
            ConnectionClosed: The connection is closing or closed.
            ConcurrencyError: This thread is in the middle of another message.
        """
        while True:
            if result == lib.SYNCWS_PENDING:
                result = self.settle(result)
            if result in (lib.SYNCWS_OK, lib.SYNCWS_PENDING):
                return
            if result == lib.SYNCWS_LARGE:
                size = limit(self.options.max_frame_size)
                frames = split_frame(first_byte & 0x7F, data, True, size)
                return self.send_steps(frames, deadline)
            if result == lib.SYNCWS_UNFINISHED:
                self._wait_for_other_message(deadline)
            elif result == lib.SYNCWS_FULL:
                self.wait_for_room(deadline, "the connection can still be used")
            elif result in (lib.SYNCWS_NO_SCRATCH, lib.SYNCWS_UNENCODED):
                thread_scratch()  # for the first try
            else:
                self.raise_closed(result, deadline)
            # Extensions have been asked: see EncodingChannel.
            encoded = first_byte | lib.SYNCWS_ENCODED
            result = lib.syncws_send(self.c, encoded, data, len(data))

    def _wait_for_other_message(self, deadline: float | None) -> None:
        if lib.syncws_message_is_mine(self.c):
            raise ConcurrencyError("this thread is in the middle of sending another message")
        lock = self.send_lock
        try:
            self._acquire(deadline)
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # never acquired

    def _acquire(self, deadline: float | None) -> None:
        # Inside the caller's `try`, whose `finally` releases it: the only form that a
        # Ctrl-C leaves unlocked, besides `with`.
        left = remaining(deadline)
        while not self.send_lock.acquire(timeout=SLICE if left is None else min(left, SLICE)):
            left = remaining(deadline)
            if left == 0.0:
                raise TimeoutError(
                    "timed out behind another thread's send(); the connection can still be used"
                )

    def wait_for_room(self, deadline: float | None, consequence: str) -> None:
        """Waits until the socket takes bytes again, and writes.

        Raises:
            TimeoutError: The deadline passed; the text ends with ``consequence``.
            ConcurrencyError: Called by a signal handler in the middle of moving bytes.
        """
        if remaining(deadline) == 0.0:
            raise TimeoutError(
                f"timed out: the peer does not take data (write_limit); {consequence}"
            )
        token = object()  # a signal handler in here may wait, too
        if self.holds_others_up():
            raise ConcurrencyError("write_limit is reached in the middle of this thread's call")
        try:
            self.senders.add(token)
            self.resume_reading()
            result = lib.syncws_wait_writable(self.c, wait_milliseconds(deadline))
            if self.transport.stalled:
                with Waiter((self,)) as waiter:
                    waiter.wait(STALLED_TICK)
        finally:
            self.senders.discard(token)
        if result == lib.SYNCWS_GONE:
            # What waits in the queue then will wait for ever.
            raise self.exception()
        self.flush()

    def resume_reading(self) -> None:
        """A sender waits: two peers that both send before they read must both finish."""

    def send_steps(self, frames: Iterable[tuple[int, bytes]], deadline: float | None) -> None:
        """Sends one message in several frames of any size.

        Raises:
            TimeoutError, ConnectionClosed, ConcurrencyError: As :meth:`send_slowly`. Once
                a byte of the message has left, a timeout fails the connection.
        """
        if lib.syncws_message_is_mine(self.c):
            raise ConcurrencyError("this thread is in the middle of sending another message")
        try:
            try:
                self._acquire(deadline)
                result = lib.syncws_message_open(self.c)
                if result != lib.SYNCWS_OK:
                    self.raise_closed(result, deadline)
                for first_byte, data in frames:
                    self._send_frame(first_byte, data, deadline)
            except BaseException as error:
                self.give_up_message(error)
                raise
            finally:
                # The first call after an exception, so that no second one comes before it.
                lib.syncws_message_close(self.c)
        finally:
            try:
                self.send_lock.release()
            except RuntimeError:
                pass  # never acquired

    def give_up_message(self, error: BaseException | None) -> None:
        """If a message cannot be finished, nothing can follow it (RFC 6455 section 5.4).

        Called by who was sending it, and by the reader thread if that one was interrupted.
        """
        cut = lib.syncws_message_cut(self.c)
        if cut == lib.SYNCWS_NOT_CUT or self.gone:
            return
        if cut == lib.SYNCWS_CUT_IN_FRAME:
            self.abort(error, "a message was cut in the middle")
        elif self.closing.sent is None:  # else no message follows anyway
            error = InterruptedError("a message was cut in the middle") if error is None else error
            self.fail(error, CloseCode.INTERNAL_ERROR, "error in fragmented message")

    def fail(self, error: BaseException, code: int, reason: str) -> None:
        """Fails the connection (RFC 6455 section 7.1.7)."""
        raise NotImplementedError

    def _send_frame(self, first_byte: int, data: bytes, deadline: float | None) -> None:
        size = len(data)
        if size <= _PIECE and isinstance(data, bytes):
            result = lib.syncws_frame_send(self.c, thread_scratch(), first_byte, data, size, 0)
            result = self.settle(result)
            if result in (lib.SYNCWS_OK, lib.SYNCWS_PENDING):
                return
            if result != lib.SYNCWS_FULL:
                self.raise_closed(result, deadline)
        # Before the first byte of the message the queue must be empty: a timeout can still
        # leave the connection usable.
        begun = lib.syncws_message_cut(self.c)
        while lib.syncws_output_size(self.c) > (self.options.write_limit if begun else 0):
            self.wait_for_room(deadline, self._consequence())
        result = lib.syncws_frame_begin(self.c, thread_scratch(), first_byte, size)
        if result not in (lib.SYNCWS_OK, lib.SYNCWS_PENDING):
            self.raise_closed(result, deadline)
        pointer = ffi.from_buffer("char[]", data)
        while left := lib.syncws_frame_left(self.c):
            result = lib.syncws_frame_write(self.c, thread_scratch(), pointer + (size - left), left)
            if result == lib.SYNCWS_PENDING and self.external:
                result = self.flush()
            if result == lib.SYNCWS_PENDING:
                if lib.syncws_frame_left(self.c):
                    self.wait_for_room(deadline, self._consequence())
            elif result != lib.SYNCWS_OK:
                self.raise_closed(result, deadline)
        result = self.settle(self.flush())
        if result not in (lib.SYNCWS_OK, lib.SYNCWS_PENDING):
            self.raise_closed(result, deadline)

    def _consequence(self) -> str:
        if lib.syncws_message_cut(self.c):
            return "the message was cut, so the connection is closed"
        return "the connection can still be used"

    def raise_closed(self, result: int, deadline: float | None) -> None:
        """Raises what ended the output; after a write error, what the peer said first."""
        if result == lib.SYNCWS_WRITE_FAILED:
            self._note_write_error(thread_scratch().error_number)
            # No reader thread must wait, and who reads here cannot wait for itself.
            if in_any_reader_thread():
                lib.syncws_list(self.c, 1)
            elif not lib.syncws_is_mine(self.c):
                self.read_last_words(deadline)
        if self.closing.sent is None and self.closing.rcvd is None and not self.gone:
            # The queue was closed a moment before the state says so.
            raise ConnectionClosedError(None, None)
        raise self.exception()

    def read_last_words(self, deadline: float | None) -> None:
        """Reads to the end after a write error: the peer's close frame may wait there."""
