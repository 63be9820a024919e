"""Blocking WebSockets for threaded Python (RFC 6455).

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
    ForkedConnectionError,
    InsecureRedirectError,
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderFormat,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidOrigin,
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
from .frames import Close, CloseCode, Opcode
from .headers import Headers
from .http11 import Request, Response
from .protocol import State
from .results import PingWaiter, Statistics
from .routing import route, unix_route
from .server import StuckHandler, ThreadingServer, broadcast, serve, unix_serve
from .server_connection import PendingConnection, ServerConnection
from .version import version as __version__
from .waiting import wait

__all__ = [
    "Close",
    "CloseCode",
    "ConcurrencyError",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ForkedConnectionError",
    "Headers",
    "InsecureRedirectError",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidHeaderFormat",
    "InvalidHeaderValue",
    "InvalidMessage",
    "InvalidOrigin",
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
    "PingWaiter",
    "ProtocolError",
    "ProxyError",
    "RedirectError",
    "Request",
    "Response",
    "SecurityError",
    "ServerConnection",
    "State",
    "Statistics",
    "StuckHandler",
    "ThreadingServer",
    "TooManyFragments",
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
