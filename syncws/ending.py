"""How a connection ends.

What belongs here: the closing handshake, acting on the end of the input, and reading to
the end of TCP. What does not: what close frames mean (:mod:`.protocol`), when the reader
thread looks at a connection (:mod:`.channel`).

The end of the input (a close frame, a violation, EOF) is an event *in order*: the
decoder stops there, the channel is *parked*, and the end is acted on when the program
has taken the messages before it and comes back for more, or calls ``close()``, or has done
neither for a second since it was handed the last one. So an echo of the last good message
leaves before the close frame that answers the bad one.

Whoever waits for the end reads up to it: the thread in ``close()`` if it can, else the
reader thread.
"""

from __future__ import annotations

import time

from .exceptions import ProtocolError
from .extension_chain import ExtensionChain
from .frames import Close, Side, ffi, lib
from .input import DELIVERED, OWNED, PARKED, free_scratch
from .options import Options
from .reader import READ, WRITE, Reader, Timer
from .streaming import StreamingChannel
from .transport import CHUNK, Transport, remaining
from .waiters import wait_milliseconds

__all__ = ["TURN", "EndingChannel"]

# Bytes thrown away after a failure, so that the peer can read our close frame.
_DISCARD_LIMIT = 64 * 2**20
# Bytes the reader thread takes from one connection before it looks at the others.
TURN = 4 * CHUNK


class EndingChannel(StreamingChannel):
    """The channel without its pings. All methods may be called by any thread.

    Args:
        transport: What moves the bytes; ours from now on.
        side: Which end we are.
        reader: The reader thread that looks after it.
        options: Limits and timeouts.
        chain: The extensions, if any.
    """

    __slots__ = (
        "_close_timer",
        "_descriptor",
        "_discarded",
        "_draining",
        "_finished",
        "_half_closed",
        "_unsent_close",
        "closed_by",
        "hurry",
        "looked",
    )

    def __init__(
        self,
        transport: Transport,
        side: Side,
        reader: Reader,
        options: Options,
        chain: ExtensionChain | None,
    ) -> None:
        super().__init__(transport, side, reader, options, chain)
        # state_lock: whether the end was acted on; a close frame that C does not have yet.
        self._finished = False
        self._unsent_close: bytes | None = None
        # From the first close frame on: when it is over (time.monotonic()).
        self.closed_by: float | None = None
        # Set by who waits for the end: it is acted on without grace.
        self.hurry = False
        # The owner's: reading to the end and throwing away.
        self._draining = False
        self._half_closed = False
        self._discarded = 0
        # The reader thread's: the timer for closed_by; the descriptor, which it may watch.
        self._close_timer: Timer | None = None
        self._descriptor = transport.fileno()
        # Set by the reader thread when it first looks. Until then nothing of the reader's
        # knows this channel but its table, and whoever ends it can take it out of there.
        self.looked = False

    # -- close frames -------------------------------------------------------------

    def start_close(self, close: Close) -> None:
        """Sends a close frame without waiting; the reader thread does the rest."""
        try:
            self._begin_close(close)
        finally:
            # Reading must go on until the peer's close frame, whatever is queued; and the
            # reader thread looks, and goes on where a Ctrl-C has stopped this.
            lib.syncws_set_flags(self.c, 0, lib.SYNCWS_FLAG_PAUSED)

    def close(self, close: Close) -> None:
        """Closes the connection, within ``close_timeout``.

        The calling thread reads to the end as far as it can; the reader thread does what is
        left. A signal handler inside another call only begins it, and so does a finalizer that
        the collector runs in a reader thread.
        """
        self.hurry = True
        try:
            self._begin_close(close)
            self._bound_closing()
            busy = self.is_busy_here()
            if not busy:
                self._read_to_end()
        finally:
            # The same.
            lib.syncws_set_flags(self.c, 0, lib.SYNCWS_FLAG_PAUSED)
        # Whoever ends it closes the descriptor just after saying so; a caller of close() that
        # returned in between would find it open.
        transport = self.transport
        if busy or (self.gone and transport.fileno() < 0):
            return
        # The reader thread's own timer comes first; the half second is for its turn.
        deadline = None if self.closed_by is None else self.closed_by + 0.5
        if not self.wait_until(lambda: self.gone and transport.fileno() < 0, deadline):
            self.abort(None, "the closing handshake did not end within close_timeout")

    def fail(self, error: BaseException, code: int, reason: str) -> None:
        """Fails the connection (RFC 6455 section 7.1.7) without waiting."""
        try:
            with self.state_lock:
                payload = self.closing.fail(error, code, reason)
                if payload is not None:
                    self._unsent_close = payload
            self._send_close()
        finally:
            lib.syncws_set_flags(self.c, 0, lib.SYNCWS_FLAG_PAUSED)

    def _begin_close(self, close: Close) -> None:
        if self.end is not None:
            self.finish_input()
        with self.state_lock:
            payload = self.closing.send(close)
            if payload is not None:
                self._unsent_close = payload
        self._send_close()

    def _send_close(self) -> None:
        """Hands the close frame to C, which takes only one; may be repeated."""
        payload = self._unsent_close
        if payload is not None:
            self._bound_closing()
            self.send_control(lib.SYNCWS_CLOSE, payload)
            self._unsent_close = None
            self.notify()

    def _bound_closing(self) -> None:
        """The reader thread, which looks in any case, makes the timer."""
        timeout = self.options.close_timeout
        if timeout is not None and self.closed_by is None:
            self.closed_by = time.monotonic() + timeout

    def _close_timed_out(self) -> None:
        if not self.gone:
            self.abort(
                None if self.closing.complete else TimeoutError("timed out (close_timeout)"),
                "the closing handshake did not end within close_timeout",
            )

    # -- the end of the input -----------------------------------------------------

    def finish_input(self) -> None:
        """Acts on the end of the input, once: answers it, and begins to drain."""
        if self._finished or self.end is None:
            return
        urgent = 1
        try:
            self._answer_end()
            urgent = self._act_on_end()
        finally:
            # The reader thread goes on where this stops, at once if a Ctrl-C stopped it.
            lib.syncws_list(self.c, urgent)

    def _answer_end(self) -> None:
        with self.state_lock:
            if not self._finished:  # else two threads came at the same time
                end = self.end
                payload = None
                if isinstance(end, bytes):
                    payload = self.closing.receive(end)
                elif isinstance(end, ProtocolError):
                    payload = self.closing.fail(end)
                # No call from here on, so both or none.
                if payload is not None:
                    self._unsent_close = payload
                self._finished = True

    def _act_on_end(self) -> int:
        """The rest of :meth:`finish_input`; may be repeated. Whether the reader must hurry."""
        end = self.end
        self._send_close()
        if not isinstance(end, bytes | ProtocolError):
            self.abort(end if isinstance(end, OSError) else None, str(end))
            return 1
        self._bound_closing()
        self.notify()
        if self.reader.in_thread():
            self.reader.call_soon(self._drain)
            return 1
        return self._drain_a_little()

    def read_last_words(self, deadline: float | None) -> None:
        """Reads to the end after a write error: the peer's close frame may wait there."""
        timeout = self.options.close_timeout
        patience = None if timeout is None else time.monotonic() + timeout
        if deadline is not None:
            patience = deadline if patience is None else min(patience, deadline)
        with self.reading_on():
            lib.syncws_list(self.c, 1)
            # Who has more to say than is kept does not say his last words.
            self.wait_until(
                lambda: self.end is not None or self.gone or self.is_overfull(), patience
            )
        if self.end is not None:
            self.finish_input()
        else:
            self.abort(self.write_error or OSError("writing to the connection failed"))

    # -- to the end of TCP: the thread in close() -----------------------------------

    def _read_to_end(self) -> None:
        """Reads until nothing is left, unless something has to be written first."""
        while lib.syncws_output_idle(self.c):
            if remaining(self.closed_by) == 0.0:
                return self._close_timed_out()
            code = self._read_on()
            if code == lib.SYNCWS_BUSY:
                self.follow(lib.SYNCWS_TAKE_DRAIN, self.closed_by)
            elif code in (lib.SYNCWS_GONE, lib.SYNCWS_OWN):
                return

    def _read_on(self) -> int:
        """Takes ownership, reads once, and goes on to the end if the input has ended."""
        scratch = free_scratch()
        try:
            code: int = lib.syncws_take(self.c, lib.SYNCWS_TAKE_DRAIN)
            if code == lib.SYNCWS_OK:
                if self.end is None:
                    code = self._read(scratch, wait_milliseconds(self.closed_by))
                    if code in OWNED:
                        self._digest(scratch, code)
                if self.end is not None:
                    code = self._end_here()
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
        return code

    def _end_here(self) -> int:
        """The owner, once the input has ended: answers, drains and closes."""
        # Who receives need not wait for the end of TCP to hear that nothing will come.
        lib.syncws_set_flags(self.c, PARKED | (DELIVERED if self.inbound else 0), 0)
        self._answer_end()
        self._send_close()
        end = self.end
        if not isinstance(end, bytes | ProtocolError):
            self._end(end if isinstance(end, OSError) else None, str(end))
            return int(lib.SYNCWS_GONE)
        self._draining = True
        self._bound_closing()
        self.notify()
        while True:
            interest, more = self._drain_some()
            if interest != READ:
                return int(lib.SYNCWS_PENDING if interest else lib.SYNCWS_GONE)
            if not more:
                code: int = lib.syncws_wait_readable(self.c, wait_milliseconds(self.closed_by))
                if code != lib.SYNCWS_OK:
                    return code

    # -- to the end of TCP: the owner -----------------------------------------------

    def _drain(self) -> None:
        """The reader thread writes what waits, half-closes, reads and discards."""
        self._draining = True
        if lib.syncws_take(self.c, lib.SYNCWS_TAKE_DRAIN) != lib.SYNCWS_OK:
            if self.gone:
                self.reap()
            return
        try:
            # C takes note that the selector reports room: it need not list what waits for it.
            lib.syncws_look(self.c)
            interest, more = self._drain_some()
            if more:
                # Listed once, however often it is asked for.
                lib.syncws_list(self.c, 1)
        finally:
            flags = lib.syncws_leave(self.c, 0)
            self.left(flags)
        if self.gone:
            lib.syncws_list(self.c, 1)
        else:
            self.watch(interest)

    def watch(self, interest: int) -> None:
        """The reader thread: the selector is to report the descriptor, if that is open still."""
        with self.state_lock:  # who closes it holds that, too
            descriptor = self.transport.fileno()
            if descriptor >= 0:
                self.reader.watch(descriptor, interest, self.on_ready)

    def _drain_a_little(self) -> int:
        """Any thread begins with that without waiting; whether the reader must hurry."""
        interest = READ
        if lib.syncws_take(self.c, lib.SYNCWS_TAKE_DRAIN) == lib.SYNCWS_OK:
            self._draining = True
            try:
                interest, _ = self._drain_some()
            finally:
                flags = lib.syncws_leave(self.c, PARKED)
                self.left(flags)
        return interest & WRITE

    def _drain_some(self) -> tuple[int, bool]:
        """The owner drains without waiting.

        Returns:
            What is to be waited for, 0 if it has come to the end, and whether more of the
            input is there already.
        """
        try:
            waiting = self.flush() == lib.SYNCWS_PENDING
            flushed = lib.syncws_output_idle(self.c)
            # Section 7.1.1: the server closes TCP first; after a failure either does.
            if (
                flushed
                and not self._half_closed
                and (self.side is Side.SERVER or not self.closing.complete)
            ):
                self._half_closed = True
                with self.state_lock:
                    self.transport.end_output()
            more = self._discard()
        except OSError:
            more = None
        if more is None or self._discarded > _DISCARD_LIMIT:
            self._end()
            return 0, False
        # A stalled transport has nothing to write before it has read, whatever the selector says.
        return (READ | WRITE if waiting and not self.transport.stalled else READ), more

    def _discard(self) -> bool | None:
        """Whether more is there, ``None`` at the end."""
        if self.transport.tls is None:
            # Not the memory of a call that this thread was interrupted in.
            memory = memoryview(ffi.buffer(free_scratch().input))
        else:
            # TLS looks at what it reads into there; a signal handler in between may receive.
            memory = memoryview(bytearray(CHUNK))
        for _ in range(TURN // CHUNK):
            with self.state_lock:
                count = self.transport.receive_into(memory)
            if count is None:
                return False
            if count == 0:
                return None
            self._discarded += count
        return True

    def _end(self, cause: BaseException | None = None, explanation: str = "") -> None:
        """The owner has come to the end: leaves for good."""
        with self.state_lock:
            self.closing.end(cause, explanation)
        if not lib.syncws_end(self.c):
            return self.abort()  # another thread is inside; the last one out closes
        self.close_socket(watched=self.looked)
        if not self.looked:
            self.detach()
        self.notify()

    def detach(self) -> None:
        """The socket is closed: the reader thread and the extensions are told."""
        self.reader.detach(self)
        if self.chain is not None:
            self.chain.connection_ended()

    def on_ready(self, ready: int) -> None:
        """The selector reports this channel's descriptor, maybe late."""
        raise NotImplementedError
