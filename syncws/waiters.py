"""How a thread waits for something to happen on connections.

What belongs here: waiting that ends for signals and in time, whatever happens meanwhile. What
does not: what is waited for, and who tells (:mod:`.output`).

Threads wait by a lock of their own (:class:`Waiter`), not by a ``threading.Condition``: a
signal handler that raises inside of one leaves its inner lock held, and who notifies hangs.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterable
from typing import Protocol, Self

from .frames import SLICE

__all__ = ["Waiter", "adopt_main_thread", "wait_milliseconds"]

_SLICE_MS = int(SLICE * 1000)
_LONGEST_MS = 3_600_000

_main_thread_id = threading.main_thread().ident


def adopt_main_thread() -> None:
    """After fork, the thread that forked is the main thread."""
    global _main_thread_id
    _main_thread_id = threading.get_ident()


def wait_milliseconds(deadline: float | None) -> int:
    """How long one system call may wait for ``deadline`` (``time.monotonic()``)."""
    # Signal handlers run in the main thread.
    longest = _SLICE_MS if threading.get_ident() == _main_thread_id else _LONGEST_MS
    if deadline is None:
        return longest
    # Rounded up: a wait must not become a busy loop in its last millisecond.
    return max(0, min(longest, int((deadline - time.monotonic()) * 1000) + 1))


class Awaited(Protocol):
    """What a waiter needs of a connection."""

    waiters: collections.deque[Waiter]


class Waiter:
    """A thread that waits for something to happen on any of several connections.

    Entering comes before looking at what is waited for, so that no news is missed.

    Args:
        channels: The connections.
    """

    __slots__ = ("_channels", "_lock")

    def __init__(self, channels: Iterable[Awaited]) -> None:
        self._channels = list(channels)
        # Held but while there is news.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._lock.acquire()
        self._enlist()
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            try:
                channel.waiters.remove(self)
            except (ValueError, IndexError):
                pass  # woken, maybe just now

    def _enlist(self) -> None:
        for channel in self._channels:
            if self not in channel.waiters:
                channel.waiters.append(self)

    def wait(self, timeout: float | None) -> None:
        """Returns when something happened, at the timeout (seconds), or after a slice."""
        if self._lock.acquire(timeout=SLICE if timeout is None else min(timeout, SLICE)):
            self._enlist()

    def wake(self) -> None:
        """Any thread, any number of times."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # woken before
