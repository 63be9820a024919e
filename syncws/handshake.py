"""The opening handshake of RFC 6455 section 4, both sides, without I/O.

What belongs here: what the headers of the request and the response must say, and what
they are made of. What does not: HTTP syntax (``http11``), sockets, deadlines, hooks.

Values that the peer sent never become part of an answer, with the one exception of a
subprotocol, which is a token by then.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http
import os
import re
from collections.abc import Sequence

from .exceptions import (
    InvalidHeader,
    InvalidHeaderValue,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
)
from .headers import Headers, HeadersLike
from .http11 import Request, Response
from .negotiation import (
    Origins,
    SelectSubprotocol,
    check_origins,
    check_subprotocols,
    is_origin,
    offered_subprotocols,
    origin_allowed,
    parse_extensions,
    preferred_subprotocol,
    selected_subprotocol,
)
from .uri import WebSocketURI, parse_authority
from .version import version

__all__ = [
    "SERVER",
    "USER_AGENT",
    "ClientHandshake",
    "accept",
    "check_server_options",
    "check_upgrade",
    "error_response",
]

USER_AGENT = SERVER = f"syncws/{version}"
"""Default ``User-Agent`` and ``Server`` headers."""

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
# 16 bytes in Base64 (RFC 6455 section 4.1). The last digit's two or four unused bits are
# not looked at: they change nothing, for the key is used as text.
_is_key = re.compile(r"[A-Za-z0-9+/]{22}==").fullmatch
_ABSOLUTE_FORM = re.compile(r"((?:http|ws)s?)://([^/?]*).*", re.ASCII | re.IGNORECASE)
# What makes the request a handshake, and what would give it a body.
_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)


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
    """

    __slots__ = ("_accept", "_offered", "request", "subprotocol")

    def __init__(
        self,
        uri: WebSocketURI,
        *,
        origin: str | None = None,
        subprotocols: Sequence[str] | None = None,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
    ) -> None:
        self._offered = check_subprotocols(subprotocols)
        additional = Headers(() if additional_headers is None else additional_headers)
        hosts = _check_additional(additional)
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        self._accept = _accept_value(key)
        self.subprotocol: str | None = None
        headers = Headers(
            [
                ("Host", hosts[0] if hosts else uri.host_header),
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Key", key),
                ("Sec-WebSocket-Version", "13"),
            ]
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
        if uri.username is not None:
            if "Authorization" in additional:
                raise ValueError("both uri and additional_headers set the Authorization header")
            headers["Authorization"] = _basic_authorization(uri.username, uri.password or "")
        if "User-Agent" not in additional and user_agent_header is not None:
            headers["User-Agent"] = user_agent_header
        headers.update(
            [(name, value) for name, value in additional.raw_items() if name.lower() != "host"]
        )
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
        _check_upgrade_headers(headers)
        accepts = headers.get_all("Sec-WebSocket-Accept")
        accept_value = _single("Sec-WebSocket-Accept", accepts)
        if not hmac.compare_digest(accept_value.encode("latin-1"), self._accept):
            raise InvalidHeaderValue("Sec-WebSocket-Accept", accept_value)
        self._check_extensions(headers)
        self.subprotocol = self._check_subprotocol(headers)

    def _check_extensions(self, headers: Headers) -> None:
        accepted = parse_extensions(headers)
        if accepted:
            raise NegotiationError(f"the server chose an extension not offered: {accepted[0][0]}")

    def _check_subprotocol(self, headers: Headers) -> str | None:
        values = headers.get_all("Sec-WebSocket-Protocol")
        if not values:
            return None
        subprotocol = _single("Sec-WebSocket-Protocol", values)
        if subprotocol not in self._offered:
            raise NegotiationError(
                f"the server chose a subprotocol that was not offered: {subprotocol!r}"
            )
        return subprotocol


def check_upgrade(request: Request) -> Response | None:
    """Checks what every upgrade request must have (RFC 6455 section 4.2.1).

    Args:
        request: As the parser returned it.

    Returns:
        An error response (400, 405 or 426), or ``None`` if the request is valid. No code
        of the user runs, so the reader thread may call it.
    """
    headers = request.headers
    if request.method != "GET":
        return error_response(405, "A WebSocket handshake uses the GET method.", [("Allow", "GET")])
    problem = _http_problem(request)
    if problem is not None:
        return error_response(400, problem)
    try:
        _check_upgrade_headers(headers)
    except InvalidUpgrade:
        return _upgrade_required("This is a WebSocket server: an upgrade is required.")
    if headers.get_all("Sec-WebSocket-Version") != ["13"]:
        return _upgrade_required("The version of the WebSocket protocol must be 13.")
    keys = headers.get_all("Sec-WebSocket-Key")
    if len(keys) != 1 or _is_key(keys[0]) is None:
        return error_response(400, "Exactly one valid Sec-WebSocket-Key header is required.")
    try:
        offered_subprotocols(headers)
        parse_extensions(headers)
    except InvalidHeader as error:
        return error_response(400, f"The {error.name} header is malformed.")
    return None


def accept(
    request: Request,
    *,
    origins: Origins | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    server_header: str | None = SERVER,
    secure: bool = False,
) -> tuple[Response, str | None]:
    """Decides about a request that :func:`check_upgrade` found valid. May run user code.

    Args:
        request: The request.
        origins: Acceptable values of the ``Origin`` header: strings (compared exactly),
            compiled regular expressions (matched in full) and ``None`` for a request
            without one. Default: a missing ``Origin`` is accepted (it is not a browser's),
            any other must name the host and port of the ``Host`` header.
        subprotocols: Supported subprotocols in order of preference. The first that the
            client offers too is chosen; if there is none, the request is refused with
            400. Default: none is chosen, whatever the client offers.
        select_subprotocol: Replaces that choice. It is called with the request and the
            list of what the client offers (perhaps empty), and returns one of these or
            ``None`` for no subprotocol; if it raises :exc:`NegotiationError` the request is
            refused with 400.
        server_header: The ``Server`` header, or ``None`` for none.
        secure: Whether the connection came over TLS; then only an ``https`` origin is
            the same origin. Without it both are, because a proxy may have ended TLS.

    Returns:
        The response, which is a 101 or an error (400 or 403), and the subprotocol.

    Raises:
        TypeError: ``select_subprotocol`` returned neither a ``str`` nor ``None``.
        ValueError: ``select_subprotocol`` returned something that was not offered.
        Exception: Whatever else ``select_subprotocol`` raises. All of these deserve a 500.
    """
    headers = request.headers
    if not origin_allowed(headers, origins, secure):
        return error_response(403, "This origin is not allowed."), None
    offered = offered_subprotocols(headers)
    try:
        if select_subprotocol is not None:
            subprotocol = selected_subprotocol(select_subprotocol(request, list(offered)), offered)
        else:
            subprotocol = preferred_subprotocol(subprotocols, offered)
    except NegotiationError:
        return error_response(400, "No subprotocol in common."), None
    answer = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", _accept_value(headers["Sec-WebSocket-Key"]).decode("ascii")),
    ]
    if subprotocol is not None:
        answer.append(("Sec-WebSocket-Protocol", subprotocol))
    if server_header is not None:
        answer.append(("Server", server_header))
    return Response(101, "Switching Protocols", Headers(answer)), subprotocol


def check_server_options(
    *,
    origins: Origins | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    server_header: str | None = SERVER,
) -> None:
    """Checks the arguments of :func:`accept` once, before a server starts.

    Raises:
        TypeError: An argument has the wrong type; the text names it.
        ValueError: An argument can never be matched or sent; the text names it.
    """
    check_origins(origins)
    check_subprotocols(subprotocols)
    if select_subprotocol is not None and not callable(select_subprotocol):
        raise TypeError("select_subprotocol must be callable")
    if server_header is not None:
        Headers([("Server", server_header)])


def error_response(status_code: int, text: str, headers: HeadersLike = ()) -> Response:
    """Makes a response that refuses a handshake and ends the connection.

    Args:
        status_code: 400 to 599.
        text: The body, one sentence. It must not repeat what the peer sent.
        headers: More headers; a ``Connection`` among them replaces ``close``.
    """
    body = f"{text}\n".encode()
    answer = Headers(
        [
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
        ]
    )
    answer.update(headers)
    if "Connection" not in answer:
        answer["Connection"] = "close"
    return Response(status_code, http.HTTPStatus(status_code).phrase, answer, body)


def _upgrade_required(text: str) -> Response:
    # RFC 9110 section 15.5.22 wants Upgrade, whose sender must list it in Connection;
    # RFC 6455 section 4.4 wants the version. The connection is closed all the same: a
    # proxy may take any answer to an upgrade for its success.
    return error_response(
        426,
        text,
        [
            ("Connection", "close, Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
        ],
    )


def _http_problem(request: Request) -> str | None:
    """What RFC 9112 has against the request, in a sentence."""
    headers = request.headers
    hosts = headers.get_all("Host")
    if len(hosts) != 1:
        return "Exactly one Host header is required."
    try:
        host, port = parse_authority(hosts[0])
    except ValueError:
        return "The Host header is malformed."
    # Section 6.3: with a body, the first bytes after the head would not be frames.
    if "Transfer-Encoding" in headers or headers.get_all("Content-Length") not in ([], ["0"]):
        return "A WebSocket handshake has no body."
    target = request.path
    if "#" in target:
        return "The request target has a fragment."
    if target[0] != "/":
        # Section 3.2.2: a server must accept the absolute form. Its authority and the Host
        # header are the same by section 3.2; where they are not, somebody is fooled.
        match = _ABSOLUTE_FORM.fullmatch(target)
        if match is None:
            return "The request target is neither a path nor a URI."
        try:
            target_host, target_port = parse_authority(match[2])
        except ValueError:
            return "The host in the request target is malformed."
        default = 443 if match[1].lower() in ("https", "wss") else 80
        if (target_host, target_port or default) != (host, port or default):
            return "The request target does not match the Host header."
    elif target.startswith("//"):
        return "The request target begins with two slashes."
    return None


def _check_upgrade_headers(headers: Headers) -> None:
    upgrades = headers.get_all("Upgrade")
    # One token and no other, so that no proxy can have understood another protocol.
    if len(upgrades) != 1 or upgrades[0].lower() != "websocket":
        raise InvalidUpgrade("Upgrade", ", ".join(upgrades) if upgrades else None)
    connections = headers.get_all("Connection")
    options = [option.strip(" \t").lower() for option in ",".join(connections).split(",")]
    if "upgrade" not in options:
        raise InvalidUpgrade("Connection", ", ".join(connections) if connections else None)


def _single(name: str, values: list[str]) -> str:
    if len(values) != 1:
        raise InvalidHeader(name, ", ".join(values) if values else None)
    return values[0]


def _accept_value(key: str) -> bytes:
    # RFC 6455 section 4.2.2. Nothing secret: SHA-1 only proves that the key was read.
    digest = hashlib.sha1(f"{key}{_GUID}".encode("ascii"), usedforsecurity=False).digest()
    return base64.b64encode(digest)


def _basic_authorization(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def _check_additional(additional: Headers) -> list[str]:
    """Refuses what the handshake sets itself; returns the Host header, if any."""
    for name in additional:
        if name in _RESERVED:
            raise ValueError(f"additional_headers must not contain {name}")
        if name == "sec-websocket-protocol":
            raise ValueError(f"additional_headers must not contain {name}; use subprotocols=")
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
