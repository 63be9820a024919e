"""A peer of a server as the server's user sees it: before its request is answered, and after.

What belongs here: what hooks are given, and what a handler's connection has beside that of a
client. What does not: running hooks (:mod:`.hooks`), who the peer behind a proxy is
(:mod:`.forwarded`).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

from .connection import Connection
from .handshake import text_response
from .http11 import Request, Response
from .transport import Transport

__all__ = ["Handler", "PendingConnection", "ServerConnection"]


class ServerConnection(Connection):
    """A connection of a server: what handlers are called with.

    Attributes:
        username: As whom the peer was authenticated by a hook such as :func:`basic_auth`,
            or ``None``.
        secure: Whether the peer came over TLS; a trusted proxy may say so, too.
    """

    __slots__ = ("_remote_address", "secure", "username")

    username: str | None
    secure: bool

    def continue_from(self, pending: PendingConnection) -> None:
        """Becomes the connection of which hooks have seen the request."""
        self._id = pending.known_id
        self._remote_address = pending.remote_address
        self.username = pending.username
        self.secure = pending.secure

    @property
    def remote_address(self) -> Any:
        """As ``socket.getpeername()``, also when closed; ``None`` if it had left at once.

        With ``trusted_proxies=``: the address of the peer behind them.
        """
        return self._remote_address


Handler = Callable[[ServerConnection], object]
"""What a server calls for each connection; the connection is closed when it returns."""


class PendingConnection:
    """A peer whose request is valid and not answered yet: what hooks are called with.

    It belongs to the thread of the hooks. What they set here, and its ``id``, the handler's
    connection has, too.

    Attributes:
        request: The request.
        logger: The server's logger.
        username: ``None``; for a hook to set.
        secure: Whether the peer came over TLS; a trusted proxy may say so, too.
        handler: ``None``; a hook may set another handler for this connection here.
    """

    __slots__ = (
        "_transport",
        "handler",
        "known_id",
        "logger",
        "request",
        "secure",
        "stated_address",
        "username",
    )

    def __init__(
        self,
        request: Request,
        transport: Transport,
        logger: logging.Logger,
        *,
        secure: bool = False,
        stated_address: Any = None,
    ) -> None:
        self.request = request
        self.logger = logger
        self.username: str | None = None
        self.secure = secure
        self.handler: Handler | None = None
        # Made when it is first asked for.
        self.known_id: uuid.UUID | None = None
        # What a trusted proxy says that the peer's address is.
        self.stated_address = stated_address
        self._transport = transport

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.remote_address!r}>"

    @property
    def id(self) -> uuid.UUID:
        """A unique :class:`uuid.UUID`, the same as the later connection's."""
        if self.known_id is None:
            self.known_id = uuid.uuid4()
        return self.known_id

    @property
    def remote_address(self) -> Any:
        """As ``socket.getpeername()``, or what a trusted proxy says; ``None`` if it is gone."""
        return self.stated_address or self._address("getpeername")

    @property
    def local_address(self) -> Any:
        """As ``socket.getsockname()``."""
        return self._address("getsockname")

    def _address(self, method: str) -> Any:
        try:
            return getattr(self._transport.sock, method)()
        except OSError:
            return None

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's certificate as ``ssl.SSLSocket.getpeercert()`` gives it."""
        return self._transport.peer_certificate

    def respond(self, status: int, text: str) -> Response:
        """Makes a plain text response for a hook to return.

        Args:
            status: 200 to 599.
            text: The body. More headers may be added to the result.

        Raises:
            ValueError: The status is another.
            TypeError: ``text`` is not a ``str``.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, not {type(text).__name__}")
        if not 200 <= status <= 599:
            raise ValueError(f"status must be between 200 and 599, not {status}")
        return text_response(int(status), text)
