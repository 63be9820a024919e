"""Objects that calls on a connection return.

What belongs here: a ping that can be waited for, and the figures of a connection. What
does not: the calls themselves (:mod:`.connection`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .channel import Channel, Pending
from .options import check_timeout
from .protocol import State

__all__ = ["PingWaiter", "Statistics"]


class Statistics(NamedTuple):
    """Figures of one connection.

    Attributes:
        bytes_received: Bytes of frames read; what TLS adds to them is not counted.
        messages_queued: Messages received and not yet taken.
        bytes_unsent: Bytes accepted by ``send()`` and not yet by the socket.
        latency: Seconds between the last answered ping and its pong; 0.0 before.
        extensions: The figures of each extension, by its name.
    """

    bytes_received: int
    messages_queued: int
    bytes_unsent: int
    latency: float
    extensions: Mapping[str, Mapping[str, Any]]


class PingWaiter:
    """What :meth:`Connection.ping` returns."""

    __slots__ = ("_channel", "_pending")

    def __init__(self, channel: Channel, pending: Pending) -> None:
        self._channel = channel
        self._pending = pending

    def is_set(self) -> bool:
        """Whether the pong has come."""
        return self._pending.done

    @property
    def latency(self) -> float:
        """Seconds from ping to pong; 0.0 before it has come."""
        return self._pending.latency

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the pong.

        Meanwhile up to ``max_size`` bytes of messages are queued that nobody receives: the
        pong comes behind them.

        Args:
            timeout: Seconds; ``None`` waits until the connection ends.

        Returns:
            Whether it has come.

        Raises:
            ConnectionClosed: The connection ended first.
        """
        deadline = check_timeout(timeout)
        pending, channel = self._pending, self._channel
        with channel.reading_on():
            channel.wait_until(
                lambda: pending.done or channel.end is not None or channel.gone, deadline
            )
        if pending.done:
            return True
        if channel.end is not None:
            channel.finish_input()
        if channel.closing.state is not State.OPEN:
            raise channel.exception()
        return False
