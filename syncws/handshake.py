"""What both sides of the opening handshake (RFC 6455 section 4) share, without I/O.

What belongs here: rules that a request and a response have in common, and the response that
refuses. What does not: what is particular to a side (:mod:`.client_handshake`,
:mod:`.server_handshake`), HTTP syntax (:mod:`.http11`), sockets, deadlines, hooks.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import http

from .exceptions import InvalidHeader, InvalidUpgrade
from .headers import Headers, HeadersLike
from .http11 import Response

__all__ = ["accept_value", "check_upgrade_headers", "error_response", "single", "text_response"]

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def check_upgrade_headers(headers: Headers) -> None:
    upgrades = headers.get_all("Upgrade")
    # One token and no other, so that no proxy can have understood another protocol.
    if len(upgrades) != 1 or upgrades[0].lower() != "websocket":
        raise InvalidUpgrade("Upgrade", ", ".join(upgrades) if upgrades else None)
    connections = headers.get_all("Connection")
    options = [option.strip(" \t").lower() for option in ",".join(connections).split(",")]
    if "upgrade" not in options:
        raise InvalidUpgrade("Connection", ", ".join(connections) if connections else None)


def single(name: str, values: list[str]) -> str:
    if len(values) != 1:
        raise InvalidHeader(name, ", ".join(values) if values else None)
    return values[0]


def accept_value(key: str) -> bytes:
    # RFC 6455 section 4.2.2. Nothing secret: SHA-1 only proves that the key was read.
    digest = hashlib.sha1(f"{key}{_GUID}".encode("ascii"), usedforsecurity=False).digest()
    return base64.b64encode(digest)


def error_response(status_code: int, text: str, headers: HeadersLike = ()) -> Response:
    """Makes a response that refuses a handshake and ends the connection.

    Args:
        status_code: 400 to 599.
        text: The body, one sentence. It must not repeat what the peer sent.
        headers: More headers; a ``Connection`` among them replaces ``close``.
    """
    return text_response(status_code, f"{text}\n", headers)


def text_response(status_code: int, text: str, headers: HeadersLike = ()) -> Response:
    """Makes a response of plain text that ends the connection.

    Args:
        status_code: 200 to 599.
        text: The body.
        headers: More headers; a ``Connection`` among them replaces ``close``.
    """
    body = text.encode()
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
    try:
        phrase = http.HTTPStatus(status_code).phrase
    except ValueError:
        phrase = ""  # nobody has registered it
    return Response(status_code, phrase, answer, body)
