"""Waiting for several connections at once.

What belongs here: :func:`wait`. What does not: anything about one connection.
"""

from __future__ import annotations

from collections.abc import Sequence

from .connection import Connection
from .frames import lib
from .options import check_timeout
from .output import Waiter
from .transport import remaining

__all__ = ["wait"]


def wait(connections: Sequence[Connection], timeout: float | None = None) -> list[Connection]:
    """Waits until one of several connections has something to receive.

    That is a message, or the end: then :meth:`Connection.recv` does not wait.

    Args:
        connections: Any number of them.
        timeout: Seconds; ``None`` waits, 0 only looks.

    Returns:
        Those with something to receive, in the order given; none at the timeout.
    """
    deadline = check_timeout(timeout)
    channels = [connection._channel for connection in connections]
    with Waiter(channels) as waiter:
        for channel in channels:
            lib.syncws_list(channel.c, 1)
        while True:
            ready = [
                connection
                for connection in connections
                if (channel := connection._channel).inbound
                or channel.end is not None
                or channel.gone
            ]
            left = remaining(deadline)
            if ready or left == 0.0 or not channels:
                return ready
            waiter.wait(left)
