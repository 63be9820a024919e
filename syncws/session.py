"""One connection of a server, from its valid request to the end of its handler.

What belongs here: what runs in a handler thread, which is all that runs the user's code:
hooks, accepting the request (``origins``, ``select_subprotocol``), then the handler. What
does not: threads, and the list of sessions (:mod:`.serving`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any

from .exceptions import ConnectionClosed, ForkedConnectionError, InvalidMessage
from .forwarded import Peer, TrustedProxies, forwarded_peer
from .frames import Close, CloseCode, Side
from .handshake import error_response
from .hooks import Hooks
from .http11 import Request, Response
from .opening import Opening
from .options import Options
from .reader import Reader
from .server_connection import Handler, PendingConnection, ServerConnection
from .server_handshake import Accepted

__all__ = ["Service", "Session"]


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """What the user told the server.

    Args:
        handler: Called for each connection.
        accept: Answers a valid upgrade request, given whether the peer is ``secure``: the
            response, and the subprotocol if it is a 101.
        options: For the connections.
        logger: Gets the failures of the user's code, who was refused, and at level DEBUG the rest.
        hooks: May answer instead.
        trusted_proxies: Those whose word on their peers is taken.
        proxy_protocol: Whether they, and only they, connect, by the PROXY protocol.
    """

    handler: Handler
    accept: Callable[..., Accepted]
    options: Options
    logger: logging.Logger
    hooks: Hooks = dataclasses.field(default_factory=Hooks)
    trusted_proxies: TrustedProxies | None = None
    proxy_protocol: bool = False

    def log(self, level: int, message: str, *arguments: object, exc_info: bool = False) -> None:
        """Logs; never in the reader thread, for log handlers are user code."""
        # One that raises costs a line of the log and nothing else.
        with contextlib.suppress(Exception):
            self.logger.log(level, message, *arguments, exc_info=exc_info)

    def tell(self, event: str, connection: ServerConnection) -> None:
        """Logs what is no failure, if somebody wants to know."""
        with contextlib.suppress(Exception):
            # Else every connection would need an identifier.
            if self.logger.isEnabledFor(logging.DEBUG):
                address = connection.remote_address
                self.logger.debug("connection %s from %s %s", connection.id, address, event)


class Session:
    """A peer whose request is valid.

    Attributes:
        thread: The handler thread, once it runs.
        connection: The connection, once the request is accepted.
    """

    def __init__(self, service: Service, reader: Reader) -> None:
        self.thread: threading.Thread | None = None
        self.connection: ServerConnection | None = None
        self._service = service
        self._reader = reader
        # How to close the connection. Set before `connection` is looked at, as that is set before
        # this is. No lock: a signal handler that shuts down could hold it.
        self._goodbye: Close | None = None

    def run(self, opening: Opening) -> Response | None:
        """Runs it to its end in the calling thread.

        Returns:
            ``None`` if the peer has been dealt with: the transport was taken. Otherwise
            what to answer it before it is turned away.
        """
        self.thread = threading.current_thread()
        request = opening.request
        if request is None:
            raise RuntimeError("a session begins with a request")
        try:
            address, secure = self._identify(opening, request)
        except InvalidMessage as error:
            return error_response(error.status_code, str(error))
        pending = PendingConnection(
            request,
            opening.transport,
            self._service.logger,
            secure=secure,
            stated_address=address,
        )
        accepted: Accepted | None = None
        try:
            hooks = self._service.hooks
            response = hooks.before(pending)
            if response is None:
                accepted = self._service.accept(request, secure=pending.secure)
                response = accepted.response
            response = hooks.after(pending, response)
        except BaseException:
            # The user's code failed. The peer is not told how.
            self._log_failure(pending)
            response = error_response(500, "The server failed to answer the request.")
        status = response.status_code
        if accepted is None or status != 101:
            level = logging.INFO if status >= 400 else logging.DEBUG
            self._service.log(level, "request of %s: HTTP %d", pending.remote_address, status)
            return response
        if self._goodbye is not None:
            return error_response(503, "The server is shutting down.")
        connection = self._connect(opening, pending, response, accepted)
        if connection is not None:
            self._converse(connection, pending.handler or self._service.handler)
        return None

    def close(self, goodbye: Close) -> None:
        """Begins to close the connection, also one that is not there yet. Any thread."""
        self._goodbye = goodbye
        connection = self.connection
        if connection is not None:
            connection.start_close(goodbye.code, goodbye.reason)

    def _identify(self, opening: Opening, request: Request) -> tuple[Any, bool]:
        """The address that a trusted proxy states, and whether the peer came over TLS."""
        stated = Peer(None, opening.transport.tls is not None)
        trusted = self._service.trusted_proxies
        if opening.stated is None:
            author = _remote_address(opening)
        else:
            stated = stated.corrected(opening.stated)
            # The headers of HTTP are those of whom a PROXY header names. If it names nobody, they
            # may be anybody's: it can have no words for the client's kind of address.
            author = opening.stated.address
        if trusted is not None and trusted.include(author):
            stated = stated.corrected(forwarded_peer(request.headers, trusted))
        return stated.address, bool(stated.secure)

    def _connect(
        self,
        opening: Opening,
        pending: PendingConnection,
        response: Response,
        accepted: Accepted,
    ) -> ServerConnection | None:
        transport = opening.transport
        try:
            transport.send_before(response.serialize(), opening.deadline)
            connection = ServerConnection(
                transport,
                Side.SERVER,
                reader=self._reader,
                options=self._service.options,
                request=pending.request,
                response=response,
                subprotocol=accepted.subprotocol,
                extensions=accepted.extensions,
                early_data=opening.early_data,
                logger=self._service.logger,
            )
            connection.continue_from(pending)
        except OSError as error:
            # It left, or does not read: TimeoutError is one, too.
            transport.close()
            address = pending.remote_address
            self._service.log(logging.INFO, "opening handshake with %s failed: %s", address, error)
            return None
        except BaseException:
            transport.close()
            self._log_failure(pending)
            return None
        self.connection = connection
        goodbye = self._goodbye
        if goodbye is not None:
            connection.start_close(goodbye.code, goodbye.reason)
        if self._reader.closed:
            # shutdown() may have looked for connections to abort before.
            connection.abort("the server was shut down")
        return connection

    def _log_failure(self, pending: PendingConnection) -> None:
        text = "opening handshake with %s failed"
        self._service.log(logging.ERROR, text, pending.remote_address, exc_info=True)

    def _converse(self, connection: ServerConnection, handler: Handler) -> None:
        code = CloseCode.NORMAL_CLOSURE
        self._service.tell("opened", connection)
        try:
            handler(connection)
        except BaseException as error:
            # SystemExit, too: a handler ends its connection, not the server.
            if isinstance(error, ConnectionClosed) and not connection.connected:
                self._log_end(connection, error)
            else:
                code = CloseCode.INTERNAL_ERROR
                self._service.log(
                    logging.ERROR,
                    "handler of connection %s from %s failed",
                    connection.id,
                    connection.remote_address,
                    exc_info=True,
                )
        try:
            connection.close(code)
            self._service.tell("closed", connection)
        except BaseException as error:
            # If the handler forked, we may be the child.
            with contextlib.suppress(ForkedConnectionError):
                connection.abort("it could not be closed")
            self._log_end(connection, error)

    def _log_end(self, connection: ServerConnection, error: BaseException) -> None:
        # ascii(): the reason in it comes from the peer, and may forge lines of a log.
        self._service.log(
            logging.INFO,
            "connection %s from %s ended: %s",
            connection.id,
            connection.remote_address,
            ascii(str(error))[1:-1],
        )


def _remote_address(opening: Opening) -> Any:
    try:
        return opening.transport.sock.getpeername()
    except OSError:
        return None  # it has left
