"""The server's side of one opening handshake, from accept() to a valid request.

What belongs here: what the reader thread does for a peer that has no handler yet: a PROXY
header, the TLS handshake, reading the request, turning it away so that it sees why, and
giving up on it in time. What does not: the decision to accept, which may run user code
(:mod:`.session`).

A peer that dribbles its request costs its socket and a parser, never a thread.
"""

from __future__ import annotations

import dataclasses
import socket
import ssl
import time
from collections.abc import Callable

from .exceptions import InvalidMessage
from .forwarded import Peer, TrustedProxies
from .handshake import error_response
from .http11 import Request, RequestParser, Response
from .proxy_protocol import ProxyHeaderParser
from .reader import READ, WRITE, Reader, Timer
from .server_handshake import check_upgrade
from .transport import TLSTransport, Transport
from .workers import Workers

__all__ = ["Opening"]

# How long a peer that was turned away may take to read the answer, in seconds, and how much
# it may send meanwhile. Closing at once would reset the connection if anything that it sent
# is unread, and the reset can overtake our answer.
FAREWELL_TIME = 1.0
FAREWELL_BYTES = 16 * 1024 * 1024
# Read from one peer in one turn of the reader thread.
_TURN = 4
_CHUNK = 65536
# An answer up to this size should fit into the peer's and our buffers: it is written at once.
SMALL_ANSWER = 65536


class Opening:
    """One peer of a server that has not sent a whole request yet, or was turned away.

    Every method is to be called in the reader thread, except where it says otherwise.

    Args:
        sock: The socket accepted.
        reader: Where everything but the TLS handshake happens.
        context: For TLS, or ``None``.
        tls_workers: The threads that do TLS handshakes: these cost milliseconds of CPU
            time and may call the user's SNI callback.
        open_timeout: Seconds until it is given up, or ``None``.
        proxies: If given, only these may connect, and a header of the PROXY protocol has to
            come first.
        check: Says how to turn a request away, or ``None`` if it is to be admitted.
        admit: Called with the opening once :attr:`request` is there and valid. The
            descriptor is then not watched, no timer runs, and whoever takes
            :attr:`transport` is responsible for it; or it calls :meth:`turn_away`.
        ended: Called with the opening when the socket has been closed here.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        reader: Reader,
        context: ssl.SSLContext | None,
        tls_workers: Workers,
        open_timeout: float | None,
        proxies: TrustedProxies | None = None,
        check: Callable[[Request], Response | None] = check_upgrade,
        admit: Callable[[Opening], object],
        ended: Callable[[Opening], object],
    ) -> None:
        self.request: Request | None = None
        self.early_data = b""
        # What a header of the PROXY protocol said.
        self.stated: Peer | None = None
        self.deadline = None if open_timeout is None else time.monotonic() + open_timeout
        self._sock = sock
        self.reader = reader
        self._context = context
        self._tls_workers = tls_workers
        self._proxies = proxies
        self._check = check
        self._admit = admit
        self._ended = ended
        self._transport: Transport | None = None
        self._parser = RequestParser()
        self._header_parser = ProxyHeaderParser()
        # For the deadline, made when there is something to wait for; or for the farewell.
        self._timer: Timer | None = None
        self._watched = False
        # The TLS object is with one of the workers just now; close() waits for it.
        self._lent = False
        self._abandoned = False
        # What is written now can be read: the TLS handshake is complete, or there is none.
        self._secured = context is None
        # Some of a request has come.
        self._asking = False
        self._closed = False
        self._leaving = False
        self._head_only = False
        self._farewell: list[memoryview] = []
        self._patience = FAREWELL_TIME
        self._discarded = 0

    @property
    def transport(self) -> Transport:
        """The transport; there is one as soon as there is a request."""
        if self._transport is None:
            raise RuntimeError("the opening handshake has not begun")
        return self._transport

    def start(self) -> None:
        """Begins; raises OSError if the peer is gone already."""
        self._sock.setblocking(False)
        if self._proxies is not None and not self._proxies.include(self._sock.getpeername()):
            self.close()
            return
        if self._sock.family != getattr(socket, "AF_UNIX", None):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Notices, in hours, a peer that is gone; without pings nothing else would.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._context is None:
            self._transport = Transport(self._sock)
        if self._proxies is None:
            self._begin()
        else:
            self._watch(READ, self._read_proxy_header)

    def turn_away(self, response: Response, patience: float = FAREWELL_TIME) -> None:
        """Sends ``response`` and closes, in at most ``patience`` seconds.

        A peer whose TLS handshake is not complete is not told why.
        """
        if self._closed:
            return
        if not self._secured:
            self.close()
            return
        self._end_within(patience)
        if not self._leaving:
            self._leaving = True
            if self._watched:
                self.reader.unwatch(self._sock.fileno())
            if self._head_only:
                # RFC 9110 section 9.3.2.
                response = dataclasses.replace(response, body=b"")
            parts = [response.serialize()]
            if len(response.body) > SMALL_ANSWER:
                # Not copied: a thousand peers may be reading the same page.
                parts = [dataclasses.replace(response, body=b"").serialize(), response.body]
            self._farewell = [memoryview(part) for part in parts]
            self._send_farewell()

    def _give_up(self) -> None:
        """At the deadline: a peer that has begun a request is told (RFC 9110 section 15.5.9)."""
        if self._asking:
            self.turn_away(error_response(408, "The request did not arrive in time."))
        else:
            self.close()

    def close(self) -> None:
        """Closes the socket at once. Idempotent."""
        if self._closed:
            return
        if self._lent:
            self._abandoned = True
            return
        self._closed = True
        self._stop_watching()
        self._sock.close()
        self._ended(self)

    def _end_within(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._patience = seconds
        self._timer = self.reader.call_at(time.monotonic() + seconds, self.close)

    def _watch(self, interest: int, callback: Callable[[int], object]) -> None:
        if self._timer is None and self.deadline is not None:
            self._timer = self.reader.call_at(self.deadline, self._give_up)
        self._watched = True
        self.reader.watch(self._sock.fileno(), interest, callback)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watched:
            self.reader.unwatch(self._sock.fileno())

    def _read_proxy_header(self, ready: int) -> None:
        # It stands before everything, TLS too, so nothing behind it may be taken.
        while self.stated is None:
            try:
                data = self._sock.recv(self._header_parser.wanted)
            except (BlockingIOError, InterruptedError):
                self._watch(READ, self._read_proxy_header)
                return
            except OSError:
                data = b""
            try:
                if not data:
                    raise InvalidMessage("the connection ended in a PROXY header")
                self.stated = self._header_parser.feed(data)
            except InvalidMessage:
                # Not HTTP yet, so there is no answer.
                self.close()
                return
        self._begin()

    def _begin(self) -> None:
        if self._context is None:
            # Most requests are here by now, or within the time that accepting others takes.
            self._read(READ)
        else:
            # A TLS object takes tens of kilobytes: not before the peer said something.
            self._watch(READ, self._lend)

    # -- TLS ----------------------------------------------------------------------

    def _lend(self, ready: int) -> None:
        self._lent = True
        try:
            self._tls_workers.submit(self._shake_hands)
        except RuntimeError:  # no thread to be had
            self._lent = False
            self.close()

    def _shake_hands(self) -> None:
        """One step of the TLS handshake, in a thread of the workers."""
        wanted: int | None = None
        try:
            if self._transport is None and self._context is not None:
                self._transport = TLSTransport(self._sock, self._context, server_side=True)
            wanted = self.transport.handshake()
        except BaseException:
            # An OSError (ssl.SSLError is one), or whatever an SNI callback raised.
            wanted = None
        if not self.reader.call_soon(self._take_back, wanted):
            self._sock.close()  # nobody takes it back any more

    def _take_back(self, wanted: int | None) -> None:
        self._lent = False
        if self._abandoned or wanted is None:
            self.close()
        elif wanted:
            self._watch(wanted, self._lend)
        else:
            self._secured = True
            self._read(READ)

    # -- the request --------------------------------------------------------------

    def _read(self, ready: int) -> None:
        # The parser's limits bound this loop. It must reach "nothing now": what a TLS
        # object holds does not make the socket ready.
        while True:
            try:
                data = self.transport.receive()
            except OSError:
                data = b""
            if data is None:
                self._watch(READ, self._read)
                return
            if not data:
                self.close()
                return
            self._asking = True
            try:
                request = self._parser.feed(data)
            except InvalidMessage as error:
                self.turn_away(error_response(error.status_code, str(error)))
                return
            if request is not None:
                break
        self._head_only = request.method == "HEAD"
        response = self._check(request)
        if response is not None:
            self.turn_away(response)
            return
        self.request = request
        self.early_data = self._parser.rest
        self._stop_watching()
        self._admit(self)

    # -- the farewell -------------------------------------------------------------

    def _send_farewell(self, ready: int = 0) -> None:
        try:
            # One peer that reads fast must not keep the reader thread from the others.
            for _ in range(_TURN):
                if not self._farewell or not (sent := self.transport.send(self._farewell[0])):
                    break
                self._farewell[0] = self._farewell[0][sent:]
                if not self._farewell[0]:
                    del self._farewell[0]
            flushed = self.transport.flush()
        except OSError:
            self.close()
            return
        if self._farewell or not flushed:
            self._watch(WRITE, self._send_farewell)
            return
        if self._patience > FAREWELL_TIME:
            self._end_within(FAREWELL_TIME)  # the rest of it was for the writing
        self.transport.end_output()
        self._discard()

    def _discard(self, ready: int = 0) -> None:
        for _ in range(_TURN):
            try:
                data = self._sock.recv(_CHUNK)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            self._discarded += len(data)
            if not data or self._discarded > FAREWELL_BYTES:
                self.close()
                return
        self._watch(READ, self._discard)
