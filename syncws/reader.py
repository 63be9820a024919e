"""The reader thread: readiness, timers and wake-ups for connections nobody waits on.

What belongs here: one selector loop per :class:`Reader` and what other threads may ask
of it. What does not: reading or writing a connection (:mod:`.channel`), and user code,
which never runs in this thread, not even a log handler; but see :class:`.extensions.Extension`.

Only the reader thread touches the selector. Interest is one-shot: a descriptor that
became ready is not watched again until somebody asks, so a thread that takes a
connection over need not unregister it; the event, if one comes, is stale and ignored.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import heapq
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from .exiting import begin_exit, exiting, sit_out_exit
from .frames import SLICE, ffi, lib, renew_thread_scratch
from .readiness import READ, WRITE, new_poller

__all__ = [
    "READ",
    "WRITE",
    "Reader",
    "Timer",
    "client_reader",
    "in_any_reader_thread",
    "new_token",
]

# How soon a connection that a thread let go of is looked after, in seconds: a thread that
# comes back within this time costs no selector call.
TICK = 0.02
# Up to this number cancelled timers are not worth a search.
_FEW_TIMERS = 32
_FAR_AWAY = 3600.0  # seconds; no wait is longer, whatever the platform's clock allows


class Named(Protocol):
    """What a reader needs of a connection to let go of it."""

    token: int


class Attached(Named, Protocol):
    """What a reader needs of a connection."""

    def look(self) -> None:
        """Something changed: arm it, flush it, or let it go."""

    def leave_at_exit(self) -> None:
        """The interpreter exits."""

    def abort(self, cause: BaseException | None, explanation: str) -> None:
        """It has been exiting for a while: every call is to return."""

    def after_fork(self) -> None:
        """We are in a forked child."""


class Timer:
    """A call that a reader makes later. See :meth:`Reader.call_at`."""

    __slots__ = ("_arguments", "_function", "when")

    def __init__(
        self, when: float, function: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        self.when = when
        self._function: Callable[..., object] | None = function
        self._arguments = arguments

    def cancel(self) -> None:
        """Makes it do nothing. Any thread; idempotent."""
        self._function = None
        self._arguments = ()

    @property
    def cancelled(self) -> bool:
        """Whether it does nothing any more."""
        return self._function is None

    def run(self) -> None:
        function, arguments = self._function, self._arguments
        self.cancel()
        if function is not None:
            function(*arguments)


_tokens = itertools.count(1)


def new_token() -> int:
    """A number by which C names a connection; never used again."""
    return next(_tokens)


class _ReaderThread(threading.Thread):
    """Told apart from others by its class."""


def in_any_reader_thread() -> bool:
    """Whether the caller is a finalizer that the collector runs in a reader thread.

    Nothing else of the program runs there. It must not wait: all connections would.
    """
    return isinstance(threading.current_thread(), _ReaderThread)


# Every reader of this process, for the fork and exit hooks.
_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


class Reader:
    """A daemon thread around a selector, started by its first use.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.mailbox = ffi.gc(lib.syncws_mailbox_new(), lib.syncws_mailbox_free)
        if self.mailbox == ffi.NULL:
            raise OSError(ffi.errno, "no descriptors for a reader's wake-up pipe")
        self._poller = new_poller()
        self._poller.watch_always(lib.syncws_mailbox_descriptor(self.mailbox))
        # Guards `_made`, whether there is a thread that has begun or will. An economy, not a
        # right: who does not get the lock makes one more.
        self._start_lock = threading.Lock()
        self._made = False
        # Who wants to be the reader thread. The first one is; a second thread is there only if a
        # signal came while the first was started. None: who closed the reader. So either the
        # thread begins or it is forestalled, and nobody has to wait to know which.
        self._claims: list[threading.Thread | None] = []
        self.closed = False
        # What other threads asked for, in order; emptied by the thread.
        self._calls: collections.deque[functools.partial[object]] = collections.deque()
        # Connections by token. Strong: what nobody else holds is closed, not forgotten.
        self._attached: dict[int, Attached] = {}
        # Those and what was detached and is still used: for after_fork().
        self._known: weakref.WeakSet[Attached] = weakref.WeakSet()
        # Touched by the thread only.
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_numbers = itertools.count()
        self._prune_at = _FEW_TIMERS
        self._unread: set[Callable[[], bool]] = set()
        # Whether anything happened since the last tick. Then it only dozes until the next one,
        # so that connections which come and go in between do not wake it one by one.
        self._active = False
        _readers.add(self)

    # -- any thread ---------------------------------------------------------------

    def attach(self, channel: Attached) -> None:
        """Holds ``channel`` until :meth:`detach`, and looks at it when C lists its token."""
        self._known.add(channel)
        self._attached[channel.token] = channel
        self._start()

    def detach(self, channel: Named) -> None:
        """Lets go of ``channel``."""
        self._attached.pop(channel.token, None)

    def holds(self, channel: Attached) -> bool:
        """Whether ``channel`` is attached, and its thread keeps it from the collector."""
        return not self.closed and self._attached.get(channel.token) is channel

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Runs ``function`` in the reader thread; never user code, it must not wait.

        Returns:
            False if it will not be run: the reader was closed.
        """
        self._start()
        call = functools.partial(function, *arguments)
        try:
            self._calls.append(call)
        finally:
            lib.syncws_mailbox_wake(self.mailbox)
        # In this order: what the thread does not find after `closed` was set, we do.
        return not self.closed or self.in_thread() or not self._withdraw(call)

    def _withdraw(self, call: functools.partial[object]) -> bool:
        try:
            self._calls.remove(call)
        except (ValueError, IndexError):
            return False
        return True

    def call_at(self, when: float, function: Callable[..., object], *arguments: Any) -> Timer:
        """Runs ``function`` in the reader thread at ``when`` (``time.monotonic()``)."""
        timer = Timer(when, function, arguments)
        if self.in_thread():
            self._add_timer(timer)
        else:
            self.call_soon(self._add_timer, timer)
        return timer

    def forget(self, descriptor: int) -> None:
        """To be called before ``descriptor`` is closed."""
        self._poller.forget(descriptor)

    def is_idle(self) -> bool:
        """Whether there is no connection to look after."""
        return not self._attached

    @property
    def thread(self) -> threading.Thread | None:
        """The reader thread, from when it begins."""
        return self._claims[0] if self._claims else None

    def in_thread(self) -> bool:
        """Whether the caller is the reader thread."""
        return threading.current_thread() is self.thread

    def forestall(self) -> bool:
        """Lets no thread begin any more; whether none has begun. Any thread, at any time."""
        self._claims.append(None)
        return self._claims[0] is None

    def close(self) -> None:
        """Stops the thread within a second; connections still attached are abandoned."""
        self.closed = True
        if self.forestall():
            self._release()
            return
        lib.syncws_mailbox_wake(self.mailbox)
        thread = self.thread
        if thread is not None and not self.in_thread():
            with contextlib.suppress(RuntimeError):  # the interpreter ends
                thread.join(1.0)

    def _start(self) -> None:
        if self._claims or self.closed:
            return
        # Not for long: whoever holds it may be interrupted by a signal handler that waits for
        # this thread, or is this thread.
        locked = self._start_lock.acquire(timeout=SLICE)
        try:
            if not (self._claims or self.closed or (locked and self._made)):
                self._make_thread()
        finally:
            if locked:
                self._start_lock.release()

    def _make_thread(self) -> None:
        try:
            self._made = True
            _ReaderThread(target=self._run, name=self.name, daemon=True).start()
        except BaseException:
            # After a Ctrl-C it may begin all the same.
            self._made = False
            raise

    # -- the reader thread --------------------------------------------------------

    def watch(self, descriptor: int, interest: int, callback: Callable[[int], object]) -> None:
        """Calls ``callback(ready)`` once when ``descriptor`` is ready for ``interest``."""
        # In this order: a descriptor that was closed just now leaves nothing behind.
        self._poller.arm(descriptor, interest)
        self._callbacks[descriptor] = callback

    def unwatch(self, descriptor: int, callback: Callable[[int], object] | None = None) -> None:
        """Forgets ``descriptor``; with ``callback`` only if it is still that one's."""
        if callback is None or self._callbacks.get(descriptor) == callback:
            self._callbacks.pop(descriptor, None)
            self._poller.forget(descriptor)

    def look_again(self, check: Callable[[], bool]) -> None:
        """Calls ``check`` at every tick until it returns True."""
        self._unread.add(check)

    def _add_timer(self, timer: Timer) -> None:
        if len(self._timers) >= self._prune_at:
            # Most timers are cancelled long before they are due: connections come and go.
            self._timers = [entry for entry in self._timers if not entry[2].cancelled]
            heapq.heapify(self._timers)
            self._prune_at = max(_FEW_TIMERS, 2 * len(self._timers))
        heapq.heappush(self._timers, (timer.when, next(self._timer_numbers), timer))

    def _run(self) -> None:
        self._claims.append(threading.current_thread())
        if not self.in_thread():
            return
        tokens = ffi.new("uint64_t[]", 256)
        next_tick = 0.0
        while not self.closed:
            # In functions: a variable here would keep the last connection alive.
            try:
                self._run_calls()
                self._look(tokens, lazy=False)
                now = time.monotonic()
                if now >= next_tick:
                    next_tick = now + TICK
                    self._active = self._look(tokens, lazy=True) > 0
                    self._check_unread()
                self._run_timers(now)
                self._wait(next_tick)
            except BaseException as error:
                # Without this thread every connection would hang: try again, but not at once.
                failures.append(error)
                time.sleep(TICK)
        # Whoever asked before `closed` was set does not know that it is.
        self._run_calls()
        if exiting():
            # The exit takes longer than moments: maybe it waits for one who waits for a peer.
            sit_out_exit()
            for channel in list(self._attached.values()):
                self._guard(channel.abort, None, "the interpreter exits")
        self._release()

    def _run_calls(self) -> None:
        # Not those that they ask for themselves: others come first.
        with contextlib.suppress(IndexError):  # somebody has withdrawn one
            for _ in range(len(self._calls)):
                call = self._calls.popleft()
                self._guard(call.func, *call.args)

    def _check_unread(self) -> None:
        for check in list(self._unread):
            self._guard(self._check_one, check)

    def _check_one(self, check: Callable[[], bool]) -> None:
        if check():
            self._unread.discard(check)

    def _run_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            self._guard(heapq.heappop(self._timers)[2].run)

    def _release(self) -> None:
        """Nobody waits for anything here any more: no descriptor may stay open."""
        self._poller.close()
        lib.syncws_mailbox_close(self.mailbox)

    def _look(self, tokens: Any, *, lazy: bool) -> int:
        count = lib.syncws_mailbox_collect(self.mailbox, lazy, tokens, 256)
        for index in range(count):
            channel = self._attached.get(tokens[index])
            if channel is not None:
                self._guard(channel.look)
        return int(count)

    def _wait(self, next_tick: float) -> None:
        until = self._timers[0][0] if self._timers else None
        sleep = lib.SYNCWS_ASLEEP
        if self._active or self._unread or lib.syncws_mailbox_has_lazy(self.mailbox):
            sleep = lib.SYNCWS_DOZING
            until = next_tick if until is None else min(until, next_tick)
        timeout = _FAR_AWAY if until is None else until - time.monotonic()
        if lib.syncws_mailbox_sleep(self.mailbox, sleep) or self._calls or self.closed:
            timeout = 0
        try:
            ready = self._poller.wait(min(max(timeout, 0.0), _FAR_AWAY))
        except InterruptedError:
            ready = []
        lib.syncws_mailbox_awake(self.mailbox)
        for descriptor, mask in ready:
            self._active = True
            callback = self._callbacks.pop(descriptor, None)
            if callback is not None:
                self._guard(callback, mask)

    def _guard(self, function: Callable[..., object], *arguments: Any) -> None:
        """Nothing that goes wrong with one connection may end the thread for the others."""
        try:
            function(*arguments)
        except BaseException as error:
            fail = getattr(getattr(function, "__self__", None), "fail_in_reader", None)
            if fail is not None:
                with contextlib.suppress(BaseException):
                    fail(error)
            else:
                failures.append(error)

    # -- process events -----------------------------------------------------------

    def leave_at_exit(self) -> None:
        """The interpreter exits: every connection says 1001 if it can do so at once."""
        for channel in list(self._attached.values()):
            with contextlib.suppress(Exception):
                channel.leave_at_exit()
        self.closed = True
        lib.syncws_mailbox_wake(self.mailbox)

    def after_fork(self) -> None:
        """In the child: the thread, the selector and every connection are the parent's.

        The selector is closed without unregistering anything: it is shared with the
        parent, which would go deaf.
        """
        self.closed = True
        self._claims[:] = [None]
        self._start_lock = threading.Lock()
        lib.syncws_mailbox_after_fork(self.mailbox)
        with contextlib.suppress(OSError):
            self._poller.close()
        # Also those that are closed: another thread may have been inside one of their locks.
        for channel in self._known:
            channel.after_fork()
        self._attached.clear()
        self._calls.clear()
        self._timers.clear()
        self._callbacks.clear()


# Errors that no connection could be blamed for; tests look here.
failures: collections.deque[BaseException] = collections.deque(maxlen=16)

# Guards the creation of the process-wide reader.
_client_lock = threading.RLock()
_client_reader: Reader | None = None


def client_reader() -> Reader:
    """The reader of all client connections of this process, made by the first one."""
    global _client_reader
    reader = _client_reader
    if reader is None or reader.closed:
        with _client_lock:
            reader = _client_reader
            if reader is None or reader.closed:
                reader = _client_reader = Reader("syncws-reader")
    return reader


def _after_fork_in_child() -> None:
    global _client_lock, _client_reader
    _client_lock = threading.RLock()
    _client_reader = None
    renew_thread_scratch()
    for reader in list(_readers):
        reader.after_fork()


def _at_exit() -> None:
    begin_exit()
    for reader in list(_readers):
        reader.leave_at_exit()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
