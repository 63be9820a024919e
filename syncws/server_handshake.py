"""The server's side of the opening handshake (RFC 6455 section 4.2), without I/O.

What belongs here: which requests are accepted, and what the answers say. What does not: what
both sides share (:mod:`.handshake`), HTTP syntax (:mod:`.http11`), sockets, deadlines.

Values that the peer sent never become part of an answer, with the one exception of a
subprotocol, which is a token by then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .exceptions import InvalidHeader, InvalidUpgrade, NegotiationError
from .extensions import Extension, ServerExtensionFactory
from .handshake import accept_value, check_upgrade_headers, error_response
from .headers import Headers
from .http11 import Request, Response
from .negotiation import (
    Origins,
    SelectSubprotocol,
    answer_extensions,
    check_origins,
    check_subprotocols,
    offered_subprotocols,
    origin_allowed,
    parse_extensions,
    preferred_subprotocol,
    selected_subprotocol,
)
from .options import check_function
from .uri import parse_authority
from .version import version

__all__ = [
    "Accepted",
    "SERVER",
    "accept",
    "check_request",
    "check_server_options",
    "check_upgrade",
    "upgrade_required",
]

SERVER = f"syncws/{version}"
"""Default ``Server`` header."""

# 16 bytes in Base64 (RFC 6455 section 4.1). The last digit's two or four unused bits are
# not looked at: they change nothing, for the key is used as text.
_is_key = re.compile(r"[A-Za-z0-9+/]{22}==").fullmatch
_ABSOLUTE_FORM = re.compile(r"((?:http|ws)s?)://([^/?]*).*", re.ASCII | re.IGNORECASE)


def check_request(request: Request) -> Response | None:
    """Checks what a request must have to be shown to a hook, which may answer it.

    Returns:
        An error response (400 or 405), or ``None``: it is a GET or HEAD without a body, and
        all readers agree on what it says. Whether it asks for an upgrade is not looked at.
        No code of the user runs, so the reader thread may call it.
    """
    if request.method not in ("GET", "HEAD"):
        text = "This server answers the GET and HEAD methods."
        return error_response(405, text, [("Allow", "GET, HEAD")])
    problem = _http_problem(request)
    return None if problem is None else error_response(400, problem)


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
        check_upgrade_headers(headers)
    except InvalidUpgrade:
        return upgrade_required("This is a WebSocket server: an upgrade is required.")
    if headers.get_all("Sec-WebSocket-Version") != ["13"]:
        return upgrade_required("The version of the WebSocket protocol must be 13.")
    keys = headers.get_all("Sec-WebSocket-Key")
    if len(keys) != 1 or _is_key(keys[0]) is None:
        return error_response(400, "Exactly one valid Sec-WebSocket-Key header is required.")
    try:
        offered_subprotocols(headers)
        parse_extensions(headers)
    except InvalidHeader as error:
        return error_response(400, f"The {error.name} header is malformed.")
    return None


class Accepted(NamedTuple):
    """The answer to an upgrade request.

    Attributes:
        response: A 101, or a refusal.
        subprotocol: The subprotocol agreed on, or ``None``.
        extensions: The extensions agreed on.
    """

    response: Response
    subprotocol: str | None = None
    extensions: Sequence[Extension] = ()


def accept(
    request: Request,
    *,
    origins: Origins | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    extensions: Sequence[ServerExtensionFactory] = (),
    server_header: str | None = SERVER,
    secure: bool = False,
) -> Accepted:
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
        extensions: Supported extensions; of what the client offers, these are accepted.
        server_header: The ``Server`` header, or ``None`` for none.
        secure: Whether the connection came over TLS; then only an ``https`` origin is
            the same origin. Without it both are, because a proxy may have ended TLS.

    Returns:
        The response, which is a 101 or an error (400 or 403), and what was agreed on.

    Raises:
        TypeError: ``select_subprotocol`` returned neither a ``str`` nor ``None``.
        ValueError: ``select_subprotocol`` returned something that was not offered.
        Exception: Whatever else ``select_subprotocol`` raises. All of these deserve a 500.
    """
    headers = request.headers
    if not origin_allowed(headers, origins, secure):
        return Accepted(error_response(403, "This origin is not allowed."))
    offered = offered_subprotocols(headers)
    try:
        if select_subprotocol is not None:
            subprotocol = selected_subprotocol(select_subprotocol(request, list(offered)), offered)
        else:
            subprotocol = preferred_subprotocol(subprotocols, offered)
    except NegotiationError:
        return Accepted(error_response(400, "No subprotocol in common."))
    extensions_answer, agreed = answer_extensions(headers, extensions)
    accepted = accept_value(headers["Sec-WebSocket-Key"]).decode("ascii")
    answer = Headers.from_field_lines(
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accepted}\r\n"
    )
    if subprotocol is not None:
        answer["Sec-WebSocket-Protocol"] = subprotocol
    if extensions_answer:
        answer["Sec-WebSocket-Extensions"] = extensions_answer
    if server_header is not None:
        answer["Server"] = server_header
    return Accepted(Response(101, "Switching Protocols", answer), subprotocol, agreed)


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
    if select_subprotocol is not None:
        check_function("select_subprotocol", select_subprotocol)
    if server_header is not None:
        Headers([("Server", server_header)])


def upgrade_required(text: str) -> Response:
    """Makes the answer to a request that asks for no upgrade, or for another one."""
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
