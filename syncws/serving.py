"""``ThreadingServer``: a thread per connection, and none before its request is valid.

What belongs here: starting, the bookkeeping of peers and sessions, and shutting down. What
does not: accepting sockets (:mod:`.accepting`), reading requests (:mod:`.opening`), running
handlers (:mod:`.session`), the functions that make servers (:mod:`.server`).

The reader thread accepts, reads requests and turns peers away; it never runs user code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from socket import AF_INET, AF_INET6
from socket import socket as Socket  # ThreadingServer.socket hides the module
from types import TracebackType
from typing import Any, NamedTuple, Self

from .accepting import Acceptor
from .frames import SLICE, Close, CloseCode
from .handshake import error_response
from .http11 import Response
from .opening import FAREWELL_TIME, SMALL_ANSWER, Opening
from .options import check_timeout
from .reader import Reader
from .server_connection import ServerConnection
from .server_handshake import check_request, check_upgrade
from .session import Service, Session
from .stacks import stacks_of
from .workers import Workers

__all__ = ["StuckHandler", "ThreadingServer"]

# TLS handshakes cost CPU time: more threads would only compete for it.
TLS_THREADS = 4
# What handlers get to notice that their connection was aborted, in seconds.
GRACE = 0.5
# A peer that is told 503 because of a shutdown has so long to read it, in seconds.
LAST_FAREWELL_TIME = 0.25
# Seconds for a peer to read a large answer, if open_timeout does not say.
ANSWER_TIME = 10.0
_MOMENT = 0.002


class StuckHandler(NamedTuple):
    """A handler that had not ended when :meth:`ThreadingServer.shutdown` returned.

    Attributes:
        thread_name: The name of its thread.
        connection: Its connection, which was aborted; ``None`` if a hook of the user's in
            the opening handshake is what hangs.
        stack: What the thread was doing, as in a traceback.
    """

    thread_name: str
    connection: ServerConnection | None
    stack: str


class ThreadingServer:
    """A WebSocket server that runs each connection's handler in a thread.

    Made by :func:`syncws.serve`, already listening. It accepts connections from
    :meth:`start` on, which :meth:`serve_forever` and the ``with`` statement call; leaving
    the ``with`` block shuts it down. All methods may be called from any thread, from
    handlers and from signal handlers.

    Attributes:
        sockets: The listening sockets.
    """

    def __init__(
        self,
        service: Service,
        sockets: Sequence[Socket],
        *,
        context: ssl.SSLContext | None,
        open_timeout: float | None,
        max_connections: int | None,
    ) -> None:
        self.sockets = tuple(sockets)
        # Called before the listening sockets are closed for good; perhaps more than once.
        self.clean_up: Callable[[], object] = lambda: None
        self._service = service
        self._context = context
        self._open_timeout = open_timeout
        self._max_connections = max_connections
        self._process = os.getpid()
        self._address = sockets[0].getsockname()
        self._internet = sockets[0].family in (AF_INET, AF_INET6)
        self._handlers = Workers("syncws-handler")
        self._helpers = Workers("syncws-server-helper", limit=TLS_THREADS)
        # Guards the making of the acceptor, and nothing that a shutdown() needs: in a signal
        # handler it would wait for those who wait for what its own thread holds.
        self._start_lock = threading.RLock()
        self._acceptor: Acceptor | None = None  # with its reader, from start() on
        # Added to by the reader thread, discarded from by all, copied: one operation each.
        self._sessions: set[Session] = set()
        self._goodbye: Close | None = None  # how connections are closed; set by shutdown()
        # Touched by the reader thread only, and by shutdown() after its end.
        self._openings: set[Opening] = set()
        # Peers that are answered, not upgraded: each counts as a connection until it has left.
        self._answered: dict[Opening, Session] = {}
        self._listening = True
        # Released by whoever changes something that shutdown() waits for. Not a SimpleQueue: up to
        # Python 3.12 its get(timeout=) waits forever when a signal handler runs in it for longer
        # than the timeout.
        self._news = threading.Lock()
        # True once shutdown() has done its work; the lock is held until then. Not an Event:
        # its set() deadlocks in a signal handler that interrupted a wait().
        self._finished = False
        self._finished_lock = threading.Lock()
        self._finished_lock.acquire()

    # -- what it is ---------------------------------------------------------------

    @property
    def logger(self) -> logging.Logger:
        """Gets the failures of handlers."""
        return self._service.logger

    @property
    def socket(self) -> Socket:
        """The first of the listening sockets."""
        return self.sockets[0]

    def fileno(self) -> int:
        """The descriptor of the first listening socket; -1 after :meth:`shutdown`."""
        return self.sockets[0].fileno()

    @property
    def address(self) -> Any:
        """The address of the first listening socket: ``(host, port, ...)`` or a path."""
        return self._address

    @property
    def url(self) -> str:
        """A URI that a client on this machine may connect to.

        Of a server on a Unix socket: what to pass to ``unix_connect()`` with the path.
        """
        scheme = "ws" if self._context is None else "wss"
        if not self._internet:
            return f"{scheme}://localhost/"
        # A wildcard address means every interface; a client needs one of them.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._address[0], self._address[0])
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._address[1]}/"

    @property
    def connections(self) -> set[ServerConnection]:
        """The connections that are open now: a snapshot."""
        found = (session.connection for session in self._sessions.copy())
        return {
            connection for connection in found if connection is not None and connection.connected
        }

    # -- serving ------------------------------------------------------------------

    def start(self) -> None:
        """Accepts connections from now on, in background threads. Idempotent.

        Raises:
            RuntimeError: :meth:`shutdown` was called before, or this is a forked child and
                the server serves in its parent.
        """
        if not self._begin():
            raise RuntimeError("the server was shut down; make a new one")

    def _begin(self) -> bool:
        if self._acceptor is not None and self._process != os.getpid():
            raise RuntimeError("the server serves in the parent of this process")
        made: Acceptor | None = None
        with self._start_lock:
            if self._acceptor is None and self._goodbye is None:
                farewell = error_response(503, "The server has no descriptors left.").serialize()
                self._process = os.getpid()
                made = self._acceptor = Acceptor(
                    list(self.sockets),
                    Reader("syncws-server-reader"),
                    admit=self._open,
                    farewell=farewell if self._context is None else b"",
                    report=self._report_exhaustion,
                )
            acceptor = self._acceptor
        # Behind that: a shutdown() that came just now has seen the acceptor, or is seen here.
        if acceptor is None or self._goodbye is not None:
            # Not if its thread has begun: then that shutdown() has seen it.
            if made is not None and made.reader.forestall():
                made.reader.close()
            return False
        # Every time: the first one may have failed, for want of a thread.
        accepts = acceptor.reader.call_soon(acceptor.start)
        # Its thread may have served somebody by now, whose handler has shut the server down.
        began = acceptor.reader.thread is not None
        return accepts and (began or self._goodbye is None)

    def serve_forever(self) -> None:
        """Calls :meth:`start` and waits until :meth:`shutdown` has done its work.

        ``KeyboardInterrupt`` ends the waiting at once; leaving the ``with`` block then
        shuts the server down.
        """
        if not self._finished:
            self._begin()
        while not self._finished:
            if self._finished_lock.acquire(timeout=SLICE):
                self._finished_lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    # -- in the reader thread -----------------------------------------------------

    def _open(self, reader: Reader, sock: Socket) -> None:
        opening = Opening(
            sock,
            reader=reader,
            context=self._context,
            tls_workers=self._helpers,
            open_timeout=self._open_timeout,
            proxies=self._service.trusted_proxies if self._service.proxy_protocol else None,
            check=check_upgrade if self._service.hooks.process_request is None else check_request,
            admit=self._admit,
            ended=self._forget,
        )
        self._openings.add(opening)
        try:
            opening.start()
        except OSError:
            opening.close()

    def _forget(self, opening: Opening) -> None:
        self._openings.discard(opening)
        session = self._answered.pop(opening, None)
        if session is None:
            self._tell()
        else:
            self._end(session)

    def _admit(self, opening: Opening) -> None:
        """Gives a peer whose request is valid to a handler thread."""
        session = Session(self._service, opening.reader)
        if len(self._sessions) == self._max_connections:
            refusal = "The server has as many connections as it may have."
        else:
            refusal = ""
            self._sessions.add(session)
        # Behind that: a shutdown() that came just now has seen the session, or is seen here.
        if self._goodbye is not None:
            refusal = "The server is shutting down."
            self._end(session)
        if not refusal:
            self._openings.discard(opening)
            try:
                self._handlers.submit(self._run, session, opening)
                return
            except (RuntimeError, MemoryError) as error:
                refusal = "The server cannot start a thread."
                self._openings.add(opening)
                self._end(session)
                self._report("cannot start a thread for a connection: %s", error)
        opening.turn_away(error_response(503, refusal))

    def _report_exhaustion(self, error: OSError) -> None:
        self._report("cannot accept connections for now: %s", error)

    def _report(self, message: str, error: Exception) -> None:
        # Not from the reader thread itself: log handlers are user code.
        with contextlib.suppress(RuntimeError):
            self._helpers.submit(self._service.log, logging.WARNING, message, error)

    def _turn_away(self, session: Session, opening: Opening, response: Response) -> None:
        self._openings.add(opening)
        session.thread = None  # it is in our hands now
        self._answered[opening] = session
        patience = FAREWELL_TIME
        if self._goodbye is not None:
            patience = LAST_FAREWELL_TIME
        elif len(response.body) > SMALL_ANSWER:
            patience = max(self._open_timeout or ANSWER_TIME, FAREWELL_TIME)
        opening.turn_away(response, patience)

    def _stop_listening(self, acceptor: Acceptor) -> None:
        acceptor.close()
        farewell = error_response(503, "The server is shutting down.")
        for opening in list(self._openings):
            opening.turn_away(farewell, LAST_FAREWELL_TIME)
        self._listening = False
        self._tell()

    # -- in a handler thread ------------------------------------------------------

    def _run(self, session: Session, opening: Opening) -> None:
        refusal: Response | None = None
        try:
            refusal = session.run(opening)
        finally:
            if refusal is None:
                self._end(session)
            else:
                handed = opening.reader.call_soon(self._turn_away, session, opening, refusal)
                if not handed:  # shutdown() gave up waiting for us
                    opening.transport.close()
                    self._end(session)

    def _end(self, session: Session) -> None:
        self._sessions.discard(session)
        self._tell()

    # -- shutting down ------------------------------------------------------------

    def shutdown(
        self,
        *,
        timeout: float | None = None,
        code: int = CloseCode.GOING_AWAY,
        reason: str = "",
    ) -> list[StuckHandler]:
        """Stops accepting, closes every connection, and waits for the handlers.

        Peers in their opening handshake are told 503. All connections are closed at the
        same time; what is not closed by ``timeout`` is aborted, and handlers that have not
        ended half a second after that are reported. It may be called again, before the
        server serves, from a handler (for which it does not wait), and from a signal
        handler.

        Args:
            timeout: Seconds for everything together; ``close_timeout`` by default.
            code: The close code; 1001 by default.
            reason: The close reason.

        Returns:
            The handlers that are still running.

        Raises:
            ValueError: The code or the reason may not be sent, or ``timeout`` is negative.
            TypeError: One of them has the wrong type.
        """
        goodbye = Close.check(code, reason)
        check_timeout(timeout)
        if timeout is None:
            timeout = self._service.options.close_timeout
        if timeout is None:
            timeout = 10.0
        if self._process != os.getpid():
            return self._shut_down_copy()
        self._goodbye = self._goodbye or goodbye
        self.clean_up()
        acceptor = self._acceptor
        if acceptor is not None:
            self._end_all(acceptor, goodbye, time.monotonic() + timeout)
        for sock in self.sockets:
            sock.close()
        self._handlers.close()
        self._helpers.close()
        stuck = self._stuck()
        self._handlers.join(GRACE, {session.thread for session in self._others()})
        self._helpers.join(GRACE)
        if not self._finished:
            self._finished = True
            with contextlib.suppress(RuntimeError):  # two threads shut down
                self._finished_lock.release()
        return stuck

    def _end_all(self, acceptor: Acceptor, goodbye: Close, deadline: float) -> None:
        reader = acceptor.reader
        # Else nobody was accepted, and nobody will be. The reader thread may be one that could
        # not be started, or that the caller, interrupted by a signal handler, has yet to start.
        if not reader.forestall():
            reader.call_soon(self._stop_listening, acceptor)
            for session in self._sessions.copy():
                session.close(goodbye)
            self._wait(reader, deadline)
            self._abort_all(deadline)
            deadline = time.monotonic() + GRACE
            self._wait(reader, deadline)
            while not reader.is_idle() and not reader.closed and time.monotonic() < deadline:
                time.sleep(_MOMENT)  # the reader thread closes the last descriptors
        reader.close()
        # Those that were made since. What is made from here on sees that the reader is closed.
        self._abort_all(deadline)
        acceptor.close()
        for opening in list(self._openings):
            opening.close()

    def _abort_all(self, deadline: float) -> None:
        for session in self._sessions.copy():
            connection = session.connection
            if connection is not None:
                if session.thread is threading.current_thread():
                    connection.wait_closed(max(deadline - time.monotonic(), 0.0))
                connection.abort("the server was shut down")

    def _wait(self, reader: Reader, deadline: float) -> None:
        """Waits until everything is over but the handler that the calling thread runs."""
        current = threading.current_thread()
        own = any(session.thread is current for session in self._sessions.copy())
        # Looked at for each handler that ends: there may be thousands.
        while self._listening or self._openings or len(self._sessions) > own:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or reader.closed:
                return
            # In slices: another thread that shuts down may have taken the news.
            self._news.acquire(timeout=min(remaining, SLICE))

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # nobody has taken the last news yet
            self._news.release()

    def _others(self) -> list[Session]:
        current = threading.current_thread()
        return [session for session in self._sessions.copy() if session.thread is not current]

    def _stuck(self) -> list[StuckHandler]:
        sessions = {
            thread: session for session in self._others() if (thread := session.thread) is not None
        }
        return [
            StuckHandler(thread.name, sessions[thread].connection, stack)
            for thread, stack in stacks_of(sessions).items()
        ]

    def _shut_down_copy(self) -> list[StuckHandler]:
        """In a forked child the server is the parent's: only our descriptors go."""
        for sock in self.sockets:
            sock.close()
        self._finished = True
        return []
