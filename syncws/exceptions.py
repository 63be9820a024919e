"""Every exception that syncws defines.

What belongs here: the classes and the sentences they print. What does not: deciding
when to raise them. This module imports nothing of the package.

Timeouts are the builtin :exc:`TimeoutError` and failures of the operating system are
:exc:`OSError`; both are raised as they are. The tree::

    WebSocketError
        ConnectionClosed
            ConnectionClosedOK
            ConnectionClosedError
                ForkedConnectionError
        InvalidURI
        InvalidProxy
        InvalidHandshake
            ProxyError
            InvalidMessage
                SecurityError
            InvalidStatus
                RedirectError
                    InsecureRedirectError (also a SecurityError)
            InvalidHeader
                InvalidHeaderFormat
                InvalidHeaderValue
                    InvalidUpgrade
            NegotiationError
        ProtocolError
            PayloadTooBig
            TooManyFragments
            InvalidText
            DecompressionError
        MultipleValuesError (also a LookupError)
        ConcurrencyError (also a RuntimeError)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .frames import Close
    from .http11 import Response

__all__ = [
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "DecompressionError",
    "ForkedConnectionError",
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
    "PayloadTooBig",
    "ProtocolError",
    "ProxyError",
    "RedirectError",
    "SecurityError",
    "TooManyFragments",
    "WebSocketError",
]


class WebSocketError(Exception):
    """The base of every exception defined by syncws."""


class ConnectionClosed(WebSocketError):
    """The connection is closed, or cannot be used any more.

    Attributes:
        rcvd: The close frame received, or ``None``.
        sent: The close frame sent, or ``None``.
        rcvd_then_sent: ``True`` if the peer closed first, ``False`` if this side did,
            ``None`` unless both frames exist.
    """

    def __init__(
        self,
        rcvd: Close | None,
        sent: Close | None,
        rcvd_then_sent: bool | None = None,
        explanation: str = "",
    ) -> None:
        super().__init__(rcvd, sent, rcvd_then_sent, explanation)
        self.rcvd = rcvd
        self.sent = sent
        self.rcvd_then_sent = rcvd_then_sent
        self.explanation = explanation

    def __str__(self) -> str:
        if self.rcvd is None:
            text = "no close frame received"
        else:
            text = f"received {self.rcvd}"
        if self.sent is None:
            text += "; none sent" if self.rcvd is None else "; no close frame sent"
        elif self.rcvd_then_sent:
            text += f"; then sent {self.sent}"
        else:
            text = f"sent {self.sent}; {text if self.rcvd is None else 'then ' + text}"
        said = self.sent is not None and self.sent.reason == self.explanation
        return f"{text}: {self.explanation}" if self.explanation and not said else text


class ConnectionClosedOK(ConnectionClosed):
    """The connection ended normally: both close frames say 1000, 1001 or nothing."""


class ConnectionClosedError(ConnectionClosed):
    """The connection ended with an error code or without a closing handshake."""


class ForkedConnectionError(ConnectionClosedError):
    """The connection belongs to the parent of this process (see ``os.fork``)."""

    def __str__(self) -> str:
        return (
            "this connection was opened before os.fork() and belongs to the parent process; "
            "open a new one in the child"
        )


# A host, perhaps a port: uri.py stands above this module, and knows better what a host is.
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")


def _without_secrets(uri: str) -> str:
    """``uri`` without what may be a password or a token."""
    # The URI is malformed, so what is user information is a guess: everything before an
    # '@', unless the '@' comes after a host, a path and a '?'.
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "", uri
    shown = re.split(r"[?#]", rest, maxsplit=1)[0]
    if "@" in rest and "@" not in shown:
        authority, slash, _ = shown.partition("/")
        if not slash or _AUTHORITY.fullmatch(authority) is None:
            return f"{scheme}{separator}***"
    return scheme + separator + shown.rpartition("@")[2]


class InvalidURI(WebSocketError, ValueError):
    """The URI is not a valid ``ws://`` or ``wss://`` URI (RFC 6455 section 3).

    Attributes:
        uri: It, without user information and query, which may hold secrets.
        problem: What is wrong with it.
    """

    def __init__(self, uri: str, problem: str) -> None:
        self.uri = _without_secrets(uri)
        self.problem = problem
        super().__init__(self.uri, problem)

    def __str__(self) -> str:
        return f"{self.uri!r} is not a valid WebSocket URI: {self.problem}"


class InvalidProxy(WebSocketError, ValueError):
    """The address of a proxy is not valid.

    Attributes:
        proxy: It, without user information and what follows the host.
        problem: What is wrong with it, and where it comes from.
    """

    def __init__(self, proxy: str, problem: str) -> None:
        self.proxy = _without_secrets(proxy)
        self.problem = problem
        super().__init__(self.proxy, problem)

    def __str__(self) -> str:
        return f"{self.proxy!r} is not a valid proxy: {self.problem}"


class InvalidHandshake(WebSocketError):
    """The opening handshake failed."""


class ProxyError(InvalidHandshake):
    """A proxy did not open a way to the server.

    Attributes:
        response: The answer of an HTTP proxy, whole: ``response.status_code`` is 407 if
            it wants credentials; ``None`` if it gave no valid answer, and for SOCKS.
    """

    def __init__(self, problem: str, response: Response | None = None) -> None:
        super().__init__(problem, response)
        self.problem = problem
        self.response = response

    def __str__(self) -> str:
        return self.problem


class InvalidMessage(InvalidHandshake):
    """A request or response is not valid HTTP/1.1.

    Attributes:
        status_code: The HTTP status with which a server answers it.
    """

    def __init__(self, problem: str, status_code: int = 400) -> None:
        super().__init__(problem)
        self.status_code = status_code


class SecurityError(InvalidMessage):
    """A request or response exceeds a limit that protects this side."""


class InvalidStatus(InvalidHandshake):
    """The server refused to upgrade the connection.

    Attributes:
        response: The whole response; ``response.status_code``, ``.headers``, ``.body``.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        text = (
            "the server rejected the WebSocket connection: expected HTTP 101, "
            f"received HTTP {self.response.status_code}"
        )
        return f"{text}: {why!r}" if (why := self._first_line()) else text

    def _first_line(self) -> str:
        """Of a text that is for people: often it says what is wrong."""
        try:
            kinds = self.response.headers.get_all("Content-Type")
            if not kinds or not kinds[0].lower().startswith("text/plain"):
                return ""
            return self.response.body[:100].decode(errors="replace").partition("\n")[0].strip()
        except AttributeError:
            return ""  # a program's own response, of which nobody knows what is in it


class RedirectError(InvalidStatus):
    """The server redirected the client, which does not follow.

    Attributes:
        problem: Why not.
    """

    def __init__(self, response: Response, problem: str) -> None:
        super().__init__(response)
        self.problem = problem
        self.args = (response, problem)

    def __str__(self) -> str:
        return f"cannot follow a redirect (HTTP {self.response.status_code}): {self.problem}"


class InsecureRedirectError(RedirectError, SecurityError):
    """The server redirected the client from ``wss://`` to ``ws://``."""


class InvalidHeader(InvalidHandshake):
    """A header of the handshake is missing or wrong.

    Attributes:
        name: The header's name.
        value: Its value, or ``None`` if it is missing.
    """

    def __init__(self, name: str, value: str | None = None) -> None:
        super().__init__(name, value)
        self.name = name
        self.value = value

    def __str__(self) -> str:
        if self.value is None:
            return f"missing {self.name} header"
        if self.value == "":
            return f"empty {self.name} header"
        return f"invalid {self.name} header: {self.value!r}"


class InvalidHeaderFormat(InvalidHeader):
    """A header cannot be parsed."""


class InvalidHeaderValue(InvalidHeader):
    """A header is well-formed but its value is not acceptable."""


class InvalidUpgrade(InvalidHeaderValue):
    """``Upgrade`` or ``Connection`` does not ask for or confirm a WebSocket."""


class NegotiationError(InvalidHandshake):
    """A subprotocol or an extension could not be agreed on."""


class MultipleValuesError(WebSocketError, LookupError):
    """``headers[name]`` was asked for a header that came more than once."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name, count)
        self.name = name
        self.count = count

    def __str__(self) -> str:
        return f"{self.count} {self.name} headers; get_all() returns them all"


class ProtocolError(WebSocketError):
    """The peer violated RFC 6455. It is the cause of a :exc:`ConnectionClosedError`.

    Attributes:
        close_code: The code of the close frame that answers it: 1002, or as the
            subclass says.
    """

    close_code = 1002


class InvalidText(ProtocolError):
    """A text message or a close reason is not UTF-8 (1007)."""

    close_code = 1007


class DecompressionError(ProtocolError):
    """A compressed message is damaged (1007)."""

    close_code = 1007


class PayloadTooBig(ProtocolError):
    """A frame or a message exceeds ``max_frame_size`` or ``max_size`` (1009)."""

    close_code = 1009


class TooManyFragments(ProtocolError):
    """A message came in too many too small fragments; see ``max_fragments`` (1008)."""

    close_code = 1008


class ConcurrencyError(WebSocketError, RuntimeError):
    """A call was made in the middle of another one that excludes it.

    A signal handler used a connection in the middle of a call of the same thread on it;
    ``recv()`` was called during ``recv_streaming()``; or a ping with the same data waits for
    its pong.
    """
