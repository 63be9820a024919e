"""Which descriptors are ready: epoll, or poll() where there is none.

What belongs here: one-shot readiness, and a descriptor that is always watched. What does not:
whose descriptors they are, and what becomes of it (:mod:`.reader`).

Of all methods only ``forget()`` may be called by any thread.
"""

from __future__ import annotations

import contextlib
import select

__all__ = ["READ", "WRITE", "EpollPoller", "PollPoller", "new_poller"]

READ = 1
WRITE = 2


class EpollPoller:
    """One-shot readiness by epoll."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def watch_always(self, descriptor: int) -> None:
        self._epoll.register(descriptor, select.EPOLLIN)

    def arm(self, descriptor: int, interest: int) -> None:
        mask = select.EPOLLONESHOT
        if interest & READ:
            mask |= select.EPOLLIN | select.EPOLLRDHUP
        if interest & WRITE:
            mask |= select.EPOLLOUT
        try:
            self._epoll.modify(descriptor, mask)
        except FileNotFoundError:
            self._epoll.register(descriptor, mask)

    def forget(self, descriptor: int) -> None:
        # Closing is not enough: a forked child that holds the socket keeps it registered.
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(descriptor)

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        ready = []
        for descriptor, mask in self._epoll.poll(timeout):
            result = READ if mask & ~select.EPOLLOUT else 0
            if mask & (select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP):
                result |= WRITE
            ready.append((descriptor, result))
        return ready

    def close(self) -> None:
        self._epoll.close()


class PollPoller:
    """The same by poll(), where there is no epoll."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._always: set[int] = set()

    def watch_always(self, descriptor: int) -> None:
        self._always.add(descriptor)
        self._poll.register(descriptor, select.POLLIN)

    def arm(self, descriptor: int, interest: int) -> None:
        mask = (select.POLLIN if interest & READ else 0) | (
            select.POLLOUT if interest & WRITE else 0
        )
        self._poll.register(descriptor, mask)

    def forget(self, descriptor: int) -> None:
        """Nothing: another thread may be inside poll(); a closed one reports itself."""

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        ready = []
        for descriptor, mask in self._poll.poll(timeout * 1000):
            if descriptor not in self._always:
                self._poll.unregister(descriptor)
            result = READ if mask & ~select.POLLOUT else 0
            if mask & ~select.POLLIN:
                result |= WRITE
            ready.append((descriptor, result))
        return ready

    def close(self) -> None:
        """Nothing to close."""


def new_poller() -> EpollPoller | PollPoller:
    return EpollPoller() if hasattr(select, "epoll") else PollPoller()
