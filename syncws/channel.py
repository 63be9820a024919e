"""One connection without its public face: what control frames do, and its reader thread.

What belongs here: pings, keepalive, and what the reader thread does for a connection.
What does not: arguments and return values of the public API (:mod:`.connection`), reading
(:mod:`.input`), writing (:mod:`.output`), closing (:mod:`.ending`).
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref

from .delivery import Stream
from .ending import TURN, EndingChannel
from .exceptions import ConcurrencyError
from .extension_chain import ExtensionChain
from .extensions import SendControl
from .frames import Close, CloseCode, Opcode, Record, Side, lib, thread_scratch
from .options import Options
from .protocol import State
from .reader import READ, WRITE, Reader, Timer
from .transport import STALLED_TICK, Transport
from .waiters import adopt_main_thread

__all__ = ["Channel", "Pending"]

# How long a program may take to come back for more before a parked end is acted on.
GRACE = 1.0  # seconds

# See Channel._life().
Life = tuple[int, int, int]


class Pending:
    """A ping whose pong has not come. ``done`` is set before waiters are woken."""

    __slots__ = ("done", "latency", "sent_at")

    def __init__(self) -> None:
        self.done = False
        self.latency = 0.0
        self.sent_at = time.monotonic()


class Channel(EndingChannel):
    """One connection. Methods may be called by any thread unless they say otherwise.

    Args:
        transport: What moves the bytes; ours from now on.
        side: Which end we are.
        reader: The reader thread that looks after it.
        options: Limits and timeouts.
        early_data: What came behind the opening handshake.
        chain: The extensions, if any.
    """

    __slots__ = (
        "_grace_timer",
        "_keepalive_timer",
        "_stall_timer",
        "abandoned",
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
        chain: ExtensionChain | None = None,
    ) -> None:
        super().__init__(transport, side, reader, options, chain)
        # state_lock: pings by payload.
        self.pings: dict[bytes, Pending] = {}
        self.latency = 0.0
        # The reader thread's.
        self._grace_timer: Timer | None = None
        self._keepalive_timer: Timer | None = None
        self._stall_timer: Timer | None = None
        # Set by the public object's finalizer, which takes no lock.
        self.abandoned = False
        try:
            if chain is not None:
                chain.attach(_control_sender(self))
            self.feed(early_data)
            reader.attach(self)
            lib.syncws_list(self.c, 0)
        except BaseException:
            # The caller closes the socket, and C must not use the number after that.
            lib.syncws_leave(self.c, 0)
            self.abort()
            self.detach()
            raise

    def control(self, record: Record) -> None:
        """Acts on a ping or pong (the owner)."""
        if record.opcode == Opcode.PING:
            self.send_control(Opcode.PONG, record.data)
        else:
            self._pong(record.data)

    def send_extension_control(self, opcode: int, payload: bytes) -> bool:
        """Sends a control frame for an extension without waiting; see ``SendControl``.

        Raises:
            ConnectionClosed: The connection is closing or closed.
            ValueError: No extension owns ``opcode``, or ``payload`` is too long.
        """
        if self.chain is None or opcode <= Opcode.PONG or opcode not in self.chain.opcodes:
            raise ValueError(f"no extension owns the control frame of opcode {opcode}")
        if len(payload) > 125:
            raise ValueError("payload must not exceed 125 bytes")
        result = lib.syncws_post(self.c, thread_scratch(), 0x80 | opcode, payload, len(payload))
        return self.posted(result)

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
        when = time.monotonic() + interval
        self._keepalive_timer = self.reader.call_at(when, self._keep_alive)
        # Before the ping: another thread may have read the pong when ping() returns.
        life = self._life()
        # Enough of them may wait already, if the peer speaks and never answers.
        if patience is None or len(self.pings) <= 16:
            try:
                self.ping(None)
            except Exception:
                if self.write_error is None:
                    return  # closing, and its own timer runs
                # Who only receives learns nothing of that, and waits for the peer as before.
        self._check_life_later(life)

    def _life(self) -> Life:
        """What changes when the peer has done something, or may have had no chance to be heard."""
        return lib.syncws_received(self.c), lib.syncws_drained(self.c), self._portions

    def _check_life_later(self, life: Life) -> None:
        patience = self.options.ping_timeout
        if patience is not None:
            # Weakly: no connection outlives its end for a question that nobody asks any more.
            when = time.monotonic() + patience
            self.reader.call_at(when, _check_life_of, weakref.ref(self), life)

    def _check_life(self, life: Life) -> None:
        if self.gone or self.closing.state is not State.OPEN:
            return
        if self._life() != life:
            return
        if lib.syncws_flags(self.c) & (lib.SYNCWS_FLAG_PAUSED | lib.SYNCWS_FLAG_PARKED):
            # We stopped reading ourselves: the clock stands still.
            return self._check_life_later(life)
        # Reading may go on since a moment ago, and what the peer has said be there.
        code = self.read_once(lib.SYNCWS_TAKE_WAIT, 0)
        if self._life() != life or self.end is not None:
            return
        if code == lib.SYNCWS_BUSY and lib.syncws_wait_readable(self.c, 0) == lib.SYNCWS_OK:
            # Who reads is in the middle of something else: a signal handler, an extension.
            return self._check_life_later(life)
        error = TimeoutError("no sign of life from the peer (ping_timeout)")
        error.__cause__ = self.write_error  # then no ping has reached it
        with self.state_lock:
            payload = self.closing.fail(error, CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        if payload is not None:
            self.send_control(Opcode.CLOSE, payload)
        self.abort(error, "keepalive ping timeout")

    # -- the reader thread --------------------------------------------------------

    def look(self) -> None:
        """C listed this channel: something changed."""
        # Before anything else: from here on the reader thread alone lets go of it.
        self.looked = True
        if self.abandoned and self.closing.state is State.OPEN:
            self.hurry = True
            self.start_close(Close(CloseCode.GOING_AWAY, ""))
        self.end_interrupted_move()
        if self.gone:
            if self.closing.state is not State.CLOSED:
                # C ended it: see syncws_finish().
                with self.state_lock:
                    self.closing.end(None, "interrupted in the middle of receiving")
            return self._let_go()
        if lib.syncws_message_cut(self.c) and self.closing.state is State.OPEN:
            self.give_up_message(None)
        if self._unsent_close is not None:
            self._send_close()
        self._start_timers()
        if self._draining:
            return self._drain()
        if self._finished:
            self._act_on_end()
            return
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
            self.watch(interest)
        flags = lib.syncws_flags(self.c) & (lib.SYNCWS_FLAG_ARMED | lib.SYNCWS_FLAG_PAUSED)
        if flags == lib.SYNCWS_FLAG_ARMED and self._holds_input():
            # No selector will report it.
            self.reader.call_soon(self.on_ready, READ)

    def _holds_input(self) -> bool:
        """Whether there is input that the socket has given already."""
        if self._backlog:
            return True
        if not self.external:
            return False
        with self.state_lock:
            return self.transport.pending()

    def _ask_again(self) -> None:
        self._stall_timer = None
        self.on_ready(WRITE)

    def _start_timers(self) -> None:
        """Here and not by who knows first: most connections end before any is needed."""
        interval = self.options.ping_interval
        opened = self.closing.state is State.OPEN
        if self._keepalive_timer is None and interval is not None and opened:
            when = time.monotonic() + interval
            self._keepalive_timer = self.reader.call_at(when, self._keep_alive)
        if self._close_timer is None and self.closed_by is not None:
            self._close_timer = self.reader.call_at(self.closed_by, self._close_timed_out)

    def _let_go(self) -> None:
        self.reap()
        self.reader.unwatch(self._descriptor, self.on_ready)
        if lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_CLOSED:
            self._forget()
        self.notify()

    def _forget(self) -> None:
        for timer in (
            self._close_timer,
            self._grace_timer,
            self._keepalive_timer,
            self._stall_timer,
        ):
            if timer is not None:
                timer.cancel()
        self.close_socket()
        self.detach()

    def on_ready(self, ready: int) -> None:
        """The selector reports this channel's descriptor, maybe late."""
        lib.syncws_unwatched(self.c)
        if self._draining:
            return self._drain()
        if ready & WRITE:
            self.flush()
        if ready & READ:
            self.read_turn(TURN)
        self.look()

    def _park(self) -> None:
        """The input has ended: act now if the program has nothing left to answer."""
        streaming = self.streaming
        handed = (
            lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_HANDED
            or self.inbound
            or (streaming is not None and streaming.fate == Stream.WANTED)
        )
        if self.hurry or self.closing.sent is not None or not handed:
            return self.finish_input()
        if self._grace_timer is None:
            timeout = self.options.close_timeout
            grace = GRACE if timeout is None else min(GRACE, timeout)
            # It counts from the message on: a program that received long ago does something else.
            if not self.inbound:
                grace -= lib.syncws_handed_ago(self.c) / 1000
            if grace <= 0:
                return self.finish_input()
            self._grace_timer = self.reader.call_at(time.monotonic() + grace, self.finish_input)

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
        gone = lib.syncws_channel_after_fork(self.c)
        self.forked = not gone  # else it says how it ended
        # The parent receives what came before, and one message is for one of them.
        self.inbound.clear()
        self.incoming = self.streaming = None
        self.state_lock = threading.RLock()
        self.send_lock = threading.RLock()
        self.waiters.clear()
        self.closing.end()
        self.transport.sock.close()


def _control_sender(channel: Channel) -> SendControl:
    # Weakly: an extension that keeps it must not keep its connection.
    reference = weakref.ref(channel)

    def send_control(opcode: int, data: bytes) -> bool:
        channel = reference()
        return channel is not None and channel.send_extension_control(opcode, data)

    return send_control


def _check_life_of(reference: weakref.ref[Channel], life: Life) -> None:
    channel = reference()
    if channel is not None:
        channel._check_life(life)
