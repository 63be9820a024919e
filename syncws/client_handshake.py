"""The client's side of the opening handshake (RFC 6455 section 4.1), without I/O.

What belongs here: what the headers of the request say, and which responses are believed.
What does not: what both sides share (:mod:`.handshake`), HTTP syntax (:mod:`.http11`),
sockets, deadlines.
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Sequence

from .exceptions import InvalidHeaderValue, InvalidStatus, NegotiationError
from .extensions import ClientExtensionFactory, Extension
from .handshake import accept_value, check_upgrade_headers, single
from .headers import Headers, HeadersLike
from .http11 import Request, Response
from .negotiation import accepted_extensions, check_subprotocols, extensions_header, is_origin
from .uri import WebSocketURI, parse_authority
from .version import version

__all__ = ["USER_AGENT", "ClientHandshake", "basic_authorization"]

USER_AGENT = f"syncws/{version}"
"""Default ``User-Agent`` header."""

# What makes the request a handshake, and what would give it a body.
_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-key",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)

_NO_HEADERS = Headers()
_USER_AGENT_LINE = f"User-Agent: {USER_AGENT}\r\n"


class ClientHandshake:
    """The client's part of one opening handshake: a request, then a check of the answer.

    Every argument is checked here, before anything can be sent. An instance is for one
    attempt: its key is fresh from the kernel's generator.

    Args:
        uri: Where to; its user information becomes an ``Authorization`` header.
        origin: The ``Origin`` header; default: none.
        subprotocols: In order of preference; default: none.
        additional_headers: More headers. ``Host`` and ``User-Agent`` replace the default.
        user_agent_header: The ``User-Agent`` header, or ``None`` for none.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument cannot be sent, is given in two ways, or is a header that
            belongs to the handshake itself.

    Attributes:
        request: The request to send.
        subprotocol: After :meth:`check_response`: the subprotocol, or ``None``.
        extensions: After :meth:`check_response`: the extensions agreed on.
    """

    __slots__ = ("_accept", "_factories", "_offered", "extensions", "request", "subprotocol")

    def __init__(
        self,
        uri: WebSocketURI,
        *,
        origin: str | None = None,
        subprotocols: Sequence[str] | None = None,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
        extensions: Sequence[ClientExtensionFactory] = (),
    ) -> None:
        self._factories = extensions
        self.extensions: list[Extension] = []
        self._offered = check_subprotocols(subprotocols)
        additional = _NO_HEADERS
        hosts: list[str] = []
        if additional_headers is not None:
            additional = Headers(additional_headers)
            hosts = _check_additional(additional)
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        self._accept = accept_value(key)
        self.subprotocol: str | None = None
        headers = Headers.from_field_lines(
            f"Host: {hosts[0] if hosts else uri.host_header}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        )
        if origin is not None:
            if not isinstance(origin, str):
                raise TypeError(f"origin must be a str, not {type(origin).__name__}")
            if is_origin(origin) is None:
                raise ValueError("origin must be visible ASCII characters")
            if "Origin" in additional:
                raise ValueError("both origin and additional_headers set the Origin header")
            headers["Origin"] = origin
        if self._offered:
            headers["Sec-WebSocket-Protocol"] = ", ".join(self._offered)
        if extensions:
            headers["Sec-WebSocket-Extensions"] = extensions_header(
                [(factory.name, factory.get_request_params()) for factory in extensions]
            )
        if uri.username is not None:
            if "Authorization" in additional:
                raise ValueError("both uri and additional_headers set the Authorization header")
            headers["Authorization"] = basic_authorization(uri.username, uri.password or "")
        if additional is _NO_HEADERS and user_agent_header is USER_AGENT:
            headers.add_field_lines(_USER_AGENT_LINE)
        else:
            if "User-Agent" not in additional and user_agent_header is not None:
                headers["User-Agent"] = user_agent_header
            for name, value in additional.raw_items():
                if name.lower() != "host":
                    headers[name] = value
        self.request = Request(uri.resource_name, headers)

    def check_response(self, response: Response) -> None:
        """Checks the server's answer (RFC 6455 section 4.1) and sets ``subprotocol``.

        Raises:
            InvalidStatus: The status is not 101.
            InvalidHeader: A header of the handshake is missing, repeated or wrong.
            NegotiationError: The server chose a subprotocol or an extension that was
                not offered.
        """
        if response.status_code != 101:
            raise InvalidStatus(response)
        headers = response.headers
        check_upgrade_headers(headers)
        accepts = headers.get_all("Sec-WebSocket-Accept")
        value = single("Sec-WebSocket-Accept", accepts)
        if not hmac.compare_digest(value.encode("latin-1"), self._accept):
            raise InvalidHeaderValue("Sec-WebSocket-Accept", value)
        self.extensions = accepted_extensions(headers, self._factories)
        self.subprotocol = self._check_subprotocol(headers)

    def _check_subprotocol(self, headers: Headers) -> str | None:
        values = headers.get_all("Sec-WebSocket-Protocol")
        if not values:
            return None
        subprotocol = single("Sec-WebSocket-Protocol", values)
        if subprotocol not in self._offered:
            raise NegotiationError(
                f"the server chose a subprotocol that was not offered: {subprotocol!r}"
            )
        return subprotocol


def basic_authorization(username: str, password: str) -> str:
    """The value of an ``Authorization`` header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def _check_additional(additional: Headers) -> list[str]:
    """Refuses what the handshake sets itself; returns the Host header, if any."""
    for name in additional:
        if name in _RESERVED:
            raise ValueError(f"additional_headers must not contain {name}")
        if name == "sec-websocket-extensions":
            raise ValueError(f"additional_headers must not contain {name}; use extensions=")
        if name == "sec-websocket-protocol":
            raise ValueError(f"additional_headers must not contain {name}; use subprotocols=")
        if name == "proxy-authorization":
            # RFC 9110 section 11.7.2: it is for the next proxy, and the server is none.
            raise ValueError(f"additional_headers must not contain {name}; use proxy=")
    for name in ("Host", "Origin", "User-Agent", "Authorization"):
        if len(additional.get_all(name)) > 1:
            raise ValueError(f"additional_headers must not contain {name} more than once")
    hosts = additional.get_all("Host")
    for host in hosts:
        try:
            parse_authority(host)
        except ValueError as error:
            raise ValueError(f"additional_headers: invalid Host: {error}") from None
    return hosts
