"""Daemon threads that are kept and reused.

What belongs here: giving a job to an idle thread, or to a new one. What does not: what
the jobs are (handlers, TLS handshakes, name lookups) and waiting for them to end.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Container
from typing import Any

__all__ = ["Workers"]

_Job = tuple[Callable[..., object], tuple[Any, ...]]
_Inbox = queue.SimpleQueue["_Job | None"]


class Workers:
    """A set of daemon threads named ``name-1``, ``name-2``, and so on.

    The thread that became idle last is used first, so that a set which has grown shrinks
    again. All methods may be called from any thread, and from a signal handler.

    Args:
        name: What the names of the threads begin with.
        limit: How many threads there may be; jobs beyond it wait for one. ``None``: no
            job waits.
        idle_timeout: Seconds after which a thread without a job ends.
    """

    def __init__(self, name: str, *, limit: int | None = None, idle_timeout: float = 60.0) -> None:
        self._name = name
        self._limit = limit
        self._idle_timeout = idle_timeout
        # Guards everything below. Reentrant for signal handlers.
        self._lock = threading.RLock()
        self._idle: list[_Inbox] = []
        self._waiting: collections.deque[_Job] = collections.deque()
        self._threads: set[threading.Thread] = set()
        self._started = 0
        self._closed = False

    def submit(self, function: Callable[..., object], *arguments: Any) -> None:
        """Runs ``function(*arguments)`` in one of the threads.

        Raises:
            RuntimeError: It needs a new thread, and the system has none to give.
        """
        job = (function, arguments)
        with self._lock:
            # Once closed, an idle thread has been told to end or is just being told.
            if self._idle and not self._closed:
                self._idle.pop().put(job)
                return
            if self._limit is not None and len(self._threads) >= self._limit:
                self._waiting.append(job)
                return
            self._started += 1
            inbox: _Inbox = queue.SimpleQueue()
            inbox.put(job)
            thread = threading.Thread(
                target=self._run,
                args=(inbox,),
                name=f"{self._name}-{self._started}",
                daemon=True,
            )
            self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            with self._lock:
                self._threads.discard(thread)
            raise

    def close(self) -> None:
        """Ends the idle threads now and the others after their job. Does not wait."""
        with self._lock:
            self._closed = True
            # Repeatable, and a signal handler may come in between: whoever is told twice ends
            # as well, and from here on nobody adds to them or takes from them.
            for inbox in self._idle.copy():
                inbox.put(None)
            self._idle.clear()

    def join(self, timeout: float, spare: Container[threading.Thread | None] = ()) -> None:
        """Waits up to ``timeout`` seconds in all for the threads to end, but not for ``spare``.

        To be called after :meth:`close`, perhaps by one of the threads.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread not in spare and thread is not threading.current_thread():
                with contextlib.suppress(RuntimeError):  # not started yet
                    thread.join(max(deadline - time.monotonic(), 0.0))

    def _run(self, inbox: _Inbox) -> None:
        job = inbox.get()
        while job is not None:
            try:
                job[0](*job[1])
            except BaseException:
                # What the interpreter does for a thread that dies; this one lives on.
                error = sys.exc_info()
                arguments = (*error, threading.current_thread())
                with contextlib.suppress(BaseException):  # the program's own hook may fail
                    threading.excepthook(threading.ExceptHookArgs(arguments))
                del error, arguments
            # An idle thread must not keep the last job's objects alive.
            job = None
            job = self._next(inbox)

    def _next(self, inbox: _Inbox) -> _Job | None:
        """The next job of the calling thread; ``None``: it is to end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._closed:
                self._threads.discard(threading.current_thread())
                return None
            self._idle.append(inbox)
        try:
            job = inbox.get(timeout=self._idle_timeout)
        except queue.Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                # It may have been given one just now. It may not, if whoever took it from the
                # idle ones was interrupted there.
                try:
                    job = inbox.get_nowait()
                except queue.Empty:
                    job = None
        if job is None:
            with self._lock:
                if self._waiting:  # it came while this thread still counted
                    return self._waiting.popleft()
                self._threads.discard(threading.current_thread())
        return job
