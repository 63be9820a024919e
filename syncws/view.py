"""What can be seen of a connection.

What belongs here: the attributes of the public object, which change nothing. What does
not: its methods (:mod:`.connection`).
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from .channel import Channel
from .extensions import Extension
from .frames import lib
from .http11 import Request, Response
from .protocol import State
from .results import Statistics

__all__ = ["ConnectionView"]


class ConnectionView:
    """The attributes of a connection; see :class:`syncws.Connection`."""

    __slots__ = (
        "__weakref__",
        "_c",
        "_channel",
        "_id",
        "logger",
        "request",
        "response",
        "subprotocol",
    )

    _c: Any
    _channel: Channel
    _id: uuid.UUID | None
    logger: logging.Logger
    request: Request
    response: Response
    subprotocol: str | None

    @property
    def id(self) -> uuid.UUID:
        """A unique identifier, made when it is first asked for."""
        if self._id is None:
            self._id = uuid.uuid4()
        return self._id

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """The extensions agreed on, in the order in which they encode."""
        chain = self._channel.chain
        return () if chain is None else chain.extensions

    @property
    def state(self) -> State:
        """See :class:`State`."""
        return self._channel.closing.state

    @property
    def connected(self) -> bool:
        """Whether messages can be sent."""
        return self._channel.closing.state is State.OPEN

    @property
    def latency(self) -> float:
        """Seconds between the last answered ping and its pong; 0.0 before the first."""
        return self._channel.latency

    @property
    def close_code(self) -> int | None:
        """The code received in the closing handshake, 1006 without one, ``None`` while open."""
        return self._channel.closing.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason received in the closing handshake, ``None`` while open."""
        return self._channel.closing.close_reason

    @property
    def local_address(self) -> Any:
        """As ``socket.getsockname()``; ``None`` when closed."""
        return self._address("getsockname")

    @property
    def remote_address(self) -> Any:
        """As ``socket.getpeername()``; ``None`` when closed."""
        return self._address("getpeername")

    def _address(self, method: str) -> Any:
        try:
            return getattr(self._channel.transport.sock, method)()
        except OSError:
            return None

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's certificate as ``ssl.SSLSocket.getpeercert()`` gives it."""
        with self._channel.state_lock:
            return self._channel.transport.peer_certificate

    @property
    def stats(self) -> Statistics:
        """Figures of this connection."""
        channel = self._channel
        return Statistics(
            lib.syncws_received(self._c),
            len(channel.inbound),
            lib.syncws_output_size(self._c),
            channel.latency,
            {} if channel.chain is None else channel.chain.statistics(),
        )

    def fileno(self) -> int:
        """The descriptor, -1 when closed; to look at, not to read or write."""
        return self._channel.transport.fileno()
