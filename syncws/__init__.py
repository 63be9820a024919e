"""Blocking WebSockets for threaded Python (RFC 6455).

A client::

    with syncws.connect("wss://example.com/") as ws:
        ws.send("Hello!")
        print(ws.recv(timeout=5))

A server, with a thread for each connection::

    def echo(ws):
        for message in ws:
            ws.send(message)

    with syncws.serve(echo, "localhost", 8765) as server:
        server.serve_forever()

:class:`Connection` has what both ends can do. Every call may be made from any thread, and
returns or raises by its ``timeout``. Errors are :exc:`WebSocketError`, of which
:exc:`ConnectionClosed` is one, ``TimeoutError`` and ``OSError``.

What belongs here: the public names. What does not: anything else.
"""

from __future__ import annotations

from .authentication import basic_auth
from .client import connect, unix_connect
from .connection import Connection
from .exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    DecompressionError,
    ForkedConnectionError,
    InsecureRedirectError,
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderFormat,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidText,
    InvalidUpgrade,
    InvalidURI,
    MultipleValuesError,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
    ProxyError,
    RedirectError,
    SecurityError,
    TooManyFragments,
    WebSocketError,
)
from .extensions import (
    ClientExtensionFactory,
    Extension,
    ExtensionParameters,
    Fragment,
    ServerExtensionFactory,
    Unit,
)
from .frames import Close, CloseCode, Opcode
from .headers import Headers
from .http11 import Request, Response
from .permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from .protocol import State
from .results import PingWaiter, Statistics
from .routing import route, unix_route
from .server import StuckHandler, ThreadingServer, broadcast, serve, unix_serve
from .server_connection import PendingConnection, ServerConnection
from .version import version as __version__
from .waiting import wait

__all__ = [
    "ClientExtensionFactory",
    "ClientPerMessageDeflateFactory",
    "Close",
    "CloseCode",
    "ConcurrencyError",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "DecompressionError",
    "Extension",
    "ExtensionParameters",
    "ForkedConnectionError",
    "Fragment",
    "Headers",
    "InsecureRedirectError",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidHeaderFormat",
    "InvalidHeaderValue",
    "InvalidMessage",
    "InvalidProxy",
    "InvalidStatus",
    "InvalidText",
    "InvalidURI",
    "InvalidUpgrade",
    "MultipleValuesError",
    "NegotiationError",
    "Opcode",
    "PayloadTooBig",
    "PendingConnection",
    "PerMessageDeflate",
    "PingWaiter",
    "ProtocolError",
    "ProxyError",
    "RedirectError",
    "Request",
    "Response",
    "SecurityError",
    "ServerConnection",
    "ServerExtensionFactory",
    "ServerPerMessageDeflateFactory",
    "State",
    "Statistics",
    "StuckHandler",
    "ThreadingServer",
    "TooManyFragments",
    "Unit",
    "WebSocketError",
    "__version__",
    "basic_auth",
    "broadcast",
    "connect",
    "route",
    "serve",
    "unix_connect",
    "unix_route",
    "unix_serve",
    "wait",
]
