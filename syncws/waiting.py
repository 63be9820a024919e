"""Waiting for several connections at once.

What belongs here: :func:`wait`, and what calls on several connections check. What does not:
anything about one connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from .connection import Connection
from .exceptions import ConcurrencyError
from .frames import lib
from .options import check_timeout
from .transport import remaining
from .waiters import Waiter

__all__ = ["AnyConnection", "check_connections", "wait"]

AnyConnection = TypeVar("AnyConnection", bound=Connection)


def check_connections(connections: Iterable[AnyConnection]) -> list[AnyConnection]:
    """The argument of that name, as a list.

    Raises:
        TypeError: It is not an iterable of connections. A connection is iterable, too: its
            messages would be received and lost.
        ForkedConnectionError: One of them belongs to the parent of this process.
    """
    if isinstance(connections, Connection) or not isinstance(connections, Iterable):
        raise TypeError(
            f"connections must be an iterable of connections, not {type(connections).__name__}"
        )
    checked = list(connections)
    for connection in checked:
        if not isinstance(connection, Connection):
            raise TypeError(f"connections must not contain {type(connection).__name__}")
        if connection._channel.forked:
            raise connection._channel.exception()
    return checked


def wait(connections: Sequence[AnyConnection], timeout: float | None = None) -> list[AnyConnection]:
    """Waits until one of several connections has something to receive.

    That is a message, or the end: then :meth:`Connection.recv` does not wait.

    Args:
        connections: Any number of them.
        timeout: Seconds; ``None`` waits, 0 only looks.

    Returns:
        Those with something to receive, in the order given; none at the timeout.

    Raises:
        TypeError, ValueError: An argument makes no sense.
        ForkedConnectionError: One of them belongs to the parent of this process.
        ConcurrencyError: Called by a signal handler inside a call that reads one of them, and
            nothing is there yet.
    """
    connections = check_connections(connections)
    deadline = check_timeout(timeout)
    channels = [connection._channel for connection in connections]
    with Waiter(channels) as waiter:
        for channel in channels:
            lib.syncws_list(channel.c, 1)
        # Of these nothing would be seen before this call returns; that cannot change meanwhile.
        held_up = any(channel.holds_others_up() for channel in channels)
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
            if held_up:
                raise ConcurrencyError("this thread is in the middle of another call")
            waiter.wait(left)
