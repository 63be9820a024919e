"""One connection without its public face: what control frames do, and how it ends.

What belongs here: pings, keepalive, closing, and what the reader thread does for a
connection. What does not: arguments and return values of the public API
(:mod:`.connection`), reading (:mod:`.input`), writing (:mod:`.output`).

The end of the input (a close frame, a violation, EOF) is an event *in order*: the
decoder stops there, the channel is *parked*, and the end is acted on when the program
has taken the messages before it and comes back for more, or calls ``close()``, or does
neither for :data:`GRACE` seconds. So an echo of the last good message leaves before
the close frame that answers the bad one.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref

from .exceptions import ConcurrencyError, ProtocolError
from .frames import Close, CloseCode, Opcode, Record, Side, ffi, lib, thread_scratch
from .options import Options
from .output import adopt_main_thread
from .protocol import State
from .reader import READ, WRITE, Reader, Timer
from .streaming import StreamingChannel
from .transport import CHUNK, STALLED_TICK, Transport

__all__ = ["Channel", "Pending"]

# How long a program may take to come back for more before a parked end is acted on.
GRACE = 1.0  # seconds
# Bytes thrown away after a failure, so that the peer can read our close frame.
_DISCARD_LIMIT = 64 * 2**20
# Bytes the reader thread takes from one connection before it looks at the others.
_TURN = 4 * CHUNK


class Pending:
    """A ping whose pong has not come. ``done`` is set before waiters are woken."""

    __slots__ = ("done", "latency", "sent_at")

    def __init__(self) -> None:
        self.done = False
        self.latency = 0.0
        self.sent_at = time.monotonic()


class Channel(StreamingChannel):
    """One connection. Methods may be called by any thread unless they say otherwise.

    Args:
        transport: What moves the bytes; ours from now on.
        side: Which end we are.
        reader: The reader thread that looks after it.
        options: Limits and timeouts.
        early_data: What came behind the opening handshake.
    """

    __slots__ = (
        "_close_timer",
        "_descriptor",
        "_discarded",
        "_draining",
        "_finished",
        "_grace_timer",
        "_half_closed",
        "_keepalive_timer",
        "_stall_timer",
        "_unsent_close",
        "abandoned",
        "hurry",
        "latency",
        "pings",
    )

    def __init__(
        self,
        transport: Transport,
        side: Side,
        reader: Reader,
        options: Options,
        early_data: bytes = b"",
    ) -> None:
        super().__init__(transport, side, reader, options)
        # state_lock: whether the end was acted on; a close frame that C does not have yet;
        # pings by payload; the timers.
        self._finished = False
        self._unsent_close: bytes | None = None
        self.pings: dict[bytes, Pending] = {}
        self.latency = 0.0
        self._close_timer: Timer | None = None
        self._grace_timer: Timer | None = None
        self._keepalive_timer: Timer | None = None
        self._stall_timer: Timer | None = None
        # Set by the public object's finalizer, which takes no lock.
        self.abandoned = False
        # Set by who waits for the end: it is acted on without grace.
        self.hurry = False
        # The reader thread's: reading to the end and throwing away.
        self._descriptor = transport.fileno()
        self._draining = False
        self._half_closed = False
        self._discarded = 0
        try:
            self.feed(early_data)
            reader.attach(self)
            lib.syncws_list(self.c, 0)
            interval = options.ping_interval
            if interval is not None:
                when = time.monotonic() + interval
                self._keepalive_timer = reader.call_at(when, self._keep_alive)
        except BaseException:
            # The caller closes the socket, and C must not use the number after that.
            lib.syncws_leave(self.c, 0)
            self.abort()
            reader.detach(self)
            raise

    def control(self, record: Record) -> None:
        """Acts on a ping, pong or close frame (the owner)."""
        if record.opcode == Opcode.PING:
            self.send_control(Opcode.PONG, record.data)
        elif record.opcode == Opcode.PONG:
            self._pong(record.data)
        else:
            self.end = record.data

    # -- pings --------------------------------------------------------------------

    def ping(self, payload: bytes | None) -> Pending:
        """Sends a ping; its own payload if ``None``.

        Raises:
            ConnectionClosed: The connection is closing or closed.
            ConcurrencyError: A ping with this payload is waiting for its pong.
        """
        pending = Pending()
        with self.state_lock:
            if payload is None:
                payload = next(
                    data
                    for number in itertools.count(time.monotonic_ns() & 0xFFFFFFFF)
                    if (data := (number & 0xFFFFFFFF).to_bytes(4)) not in self.pings
                )
            if payload in self.pings:
                raise ConcurrencyError("a ping with this data is waiting for its pong already")
            self.pings[payload] = pending
        result = self.send_control(Opcode.PING, payload)
        if result not in (lib.SYNCWS_OK, lib.SYNCWS_PENDING):
            self.pings.pop(payload, None)
            self.raise_closed(result, None)
        lib.syncws_list(self.c, 1)
        return pending

    def _pong(self, payload: bytes) -> None:
        now = time.monotonic()
        with self.state_lock:
            if payload not in self.pings:
                return  # unsolicited (RFC 6455 section 5.5.3)
            # It answers the pings before it too: a peer may answer only the last one.
            pings = list(self.pings)
            for data in pings[: pings.index(payload) + 1]:
                pending = self.pings.pop(data)
                pending.latency = self.latency = now - pending.sent_at
                pending.done = True
        self.notify()

    def _keep_alive(self) -> None:
        interval, patience = self.options.ping_interval, self.options.ping_timeout
        if self.gone or interval is None or self.closing.state is not State.OPEN:
            return
        now = time.monotonic()
        self._keepalive_timer = self.reader.call_at(now + interval, self._keep_alive)
        if self.pings and patience is not None and len(self.pings) > 16:
            return  # enough of them wait already; the check of the first decides
        try:
            self.ping(None)
        except Exception:
            return  # closing, and its own timer runs
        if patience is not None:
            life = (lib.syncws_received(self.c), lib.syncws_drained(self.c))
            self._check_life_at(now + patience, life)

    def _check_life_at(self, when: float, life: tuple[int, int]) -> None:
        # Weakly: no connection outlives its end for a question that nobody asks any more.
        self.reader.call_at(when, _check_life_of, weakref.ref(self), life)

    def _check_life(self, life: tuple[int, int]) -> None:
        if self.gone or self.closing.state is not State.OPEN:
            return
        if (lib.syncws_received(self.c), lib.syncws_drained(self.c)) != life:
            return
        if lib.syncws_flags(self.c) & (lib.SYNCWS_FLAG_PAUSED | lib.SYNCWS_FLAG_PARKED):
            # We stopped reading ourselves: the clock stands still.
            assert self.options.ping_timeout is not None
            self._check_life_at(time.monotonic() + self.options.ping_timeout, life)
            return
        error = TimeoutError("no sign of life from the peer (ping_timeout)")
        with self.state_lock:
            payload = self.closing.fail(error, CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        if payload is not None:
            self.send_control(Opcode.CLOSE, payload)
        self.abort(error, "keepalive ping timeout")

    # -- closing ------------------------------------------------------------------

    def start_close(self, close: Close) -> None:
        """Sends a close frame without waiting; the reader thread does the rest."""
        if self.end is not None:
            self.finish_input()
        try:
            with self.state_lock:
                payload = self.closing.send(close)
                if payload is None:
                    return
                self._unsent_close = payload
            self._send_close()
        finally:
            # Reading must go on until the peer's close frame, whatever is queued; and the
            # reader thread looks, and goes on where a Ctrl-C has stopped this.
            lib.syncws_set_flags(self.c, 0, lib.SYNCWS_FLAG_PAUSED)

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

    def _send_close(self) -> None:
        """Hands the close frame to C, which takes only one; may be repeated."""
        payload = self._unsent_close
        if payload is not None:
            self._start_close_timer()
            self.send_control(Opcode.CLOSE, payload)
            self._unsent_close = None
            self.notify()

    def _start_close_timer(self) -> None:
        timeout = self.options.close_timeout
        with self.state_lock:
            if timeout is not None and self._close_timer is None:
                self._close_timer = self.reader.call_at(
                    time.monotonic() + timeout, self._close_timed_out
                )

    def _close_timed_out(self) -> None:
        if not self.gone:
            self.abort(
                None if self.closing.complete else TimeoutError("timed out (close_timeout)"),
                "the closing handshake did not end within close_timeout",
            )

    def finish_input(self) -> None:
        """Acts on the end of the input, once: answers it, and lets the reader drain."""
        if self._finished or self.end is None:
            return
        try:
            with self.state_lock:
                if self._finished:
                    return  # the reader thread and the program came at the same time
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
            self._act_on_end()
        finally:
            # The reader thread goes on where a Ctrl-C has stopped this.
            lib.syncws_list(self.c, 1)

    def _act_on_end(self) -> None:
        """The rest of :meth:`finish_input`; may be repeated."""
        end = self.end
        self._send_close()
        if isinstance(end, bytes | ProtocolError):
            self._start_close_timer()
            self.reader.call_soon(self._drain)
            self.notify()
        else:
            self.abort(end if isinstance(end, OSError) else None, str(end))

    def read_last_words(self, deadline: float | None) -> None:
        """Reads to the end after a write error: the peer's close frame may wait there."""
        timeout = self.options.close_timeout
        patience = None if timeout is None else time.monotonic() + timeout
        if deadline is not None:
            patience = deadline if patience is None else min(patience, deadline)
        self.resume_reading()
        lib.syncws_list(self.c, 1)
        self.wait_until(lambda: self.end is not None or self.gone, patience)
        if self.end is not None:
            self.finish_input()
        else:
            self.abort(self.write_error or OSError("writing to the connection failed"))

    # -- the reader thread --------------------------------------------------------

    def look(self) -> None:
        """C listed this channel: something changed."""
        if self.abandoned and self.closing.state is State.OPEN:
            self.hurry = True
            self.start_close(Close(CloseCode.GOING_AWAY, ""))
        self.end_interrupted_move()
        if self.gone:
            if self.closing.state is not State.CLOSED:
                # C ended it: see syncws_finish().
                with self.state_lock:
                    self.closing.end(None, "interrupted in the middle of receiving")
                self.notify()
            self.reap()
            self.reader.unwatch(self._descriptor, self.on_ready)
            if lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_CLOSED:
                self._forget()
            return
        if lib.syncws_message_cut(self.c) and self.closing.state is State.OPEN:
            self.give_up_message(None)
        if self._unsent_close is not None:
            self._send_close()
        if self._draining:
            return self._drain()
        if self._finished:
            return self._act_on_end()
        if self.end is not None:
            return self._park()
        interest = lib.syncws_look(self.c)
        if interest > 0 and interest & WRITE and self.transport.stalled:
            # The selector would report room again and again.
            interest &= ~WRITE
            lib.syncws_unwatched(self.c)
            if self._stall_timer is None:
                when = time.monotonic() + STALLED_TICK
                self._stall_timer = self.reader.call_at(when, self._ask_again)
        if interest > 0:
            self.reader.watch(self.transport.fileno(), interest, self.on_ready)
        flags = lib.syncws_flags(self.c) & (lib.SYNCWS_FLAG_ARMED | lib.SYNCWS_FLAG_PAUSED)
        if self.transport.external and flags == lib.SYNCWS_FLAG_ARMED:
            with self.state_lock:
                pending = self.transport.pending()
            if pending:
                # What the transport holds already, no selector will report.
                self.reader.call_soon(self.on_ready, READ)

    def _ask_again(self) -> None:
        self._stall_timer = None
        self.on_ready(WRITE)

    def _forget(self) -> None:
        for timer in (
            self._close_timer,
            self._grace_timer,
            self._keepalive_timer,
            self._stall_timer,
        ):
            if timer is not None:
                timer.cancel()
        self.transport.close()
        self.reader.detach(self)

    def on_ready(self, ready: int) -> None:
        """The selector reports this channel's descriptor, maybe late."""
        lib.syncws_unwatched(self.c)
        if self._draining:
            return self._drain()
        if ready & WRITE:
            self.flush()
        if ready & READ:
            self.read_turn(_TURN)
        self.look()

    def _park(self) -> None:
        """The input has ended: act now if the program has nothing left to answer."""
        handed = lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_HANDED or self.inbound
        if self.hurry or self.closing.sent is not None or not handed:
            return self.finish_input()
        if self._grace_timer is None:
            timeout = self.options.close_timeout
            grace = GRACE if timeout is None else min(GRACE, timeout)
            self._grace_timer = self.reader.call_at(time.monotonic() + grace, self.finish_input)

    def _drain(self) -> None:
        """Writes what waits, half-closes, reads and discards up to the end."""
        self._draining = True
        if lib.syncws_take(self.c, lib.SYNCWS_TAKE_DRAIN) != lib.SYNCWS_OK:
            if self.gone:
                self.reap()
            return
        ended = False
        try:
            # C takes note that the selector reports room: it need not list what waits for it.
            lib.syncws_look(self.c)
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
            ended = self._discard()
        except OSError:
            ended = True
        finally:
            flags = lib.syncws_leave(self.c, 0)
            self.left(flags)
        if ended or self._discarded > _DISCARD_LIMIT:
            self.abort()
        elif not self.gone:
            interest = READ | WRITE if waiting and not self.transport.stalled else READ
            self.reader.watch(self.transport.fileno(), interest, self.on_ready)

    def _discard(self) -> bool:
        memory = memoryview(ffi.buffer(thread_scratch().input))
        for _ in range(_TURN // CHUNK):
            with self.state_lock:
                count = self.transport.receive_into(memory)
            if count is None:
                return False
            if count == 0:
                return True
            self._discarded += count
        # Listed once, however often it is asked for.
        lib.syncws_list(self.c, 1)
        return False

    def fail_in_reader(self, error: BaseException) -> None:
        """Something went wrong in the reader thread that nobody foresaw."""
        self.abort(error, "internal error in the reader thread")

    # -- process events -----------------------------------------------------------

    def leave_at_exit(self) -> None:
        """The interpreter exits: 1001 if it can leave at once, no waiting."""
        with self.state_lock:
            payload = self.closing.send(Close(CloseCode.GOING_AWAY, ""))
        if payload is not None:
            self.send_control(Opcode.CLOSE, payload)

    def after_fork(self) -> None:
        """In the child: the connection is the parent's; closing must not tell the peer."""
        adopt_main_thread()
        lib.syncws_channel_after_fork(self.c)
        self.forked = True
        self.state_lock = threading.RLock()
        self.send_lock = threading.RLock()
        self.waiters.clear()
        self.closing.end()
        self.transport.sock.close()


def _check_life_of(reference: weakref.ref[Channel], life: tuple[int, int]) -> None:
    channel = reference()
    if channel is not None:
        channel._check_life(life)
