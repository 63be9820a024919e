"""The user's hooks in the opening handshake, and the HTTP answers that they give.

What belongs here: calling ``process_request`` and ``process_response``, and making of what
they return something that can be sent. What does not: the hooks' argument
(:mod:`.server_connection`), sending, and what an exception of theirs leads to
(:mod:`.session`).

Everything here runs in a handler thread.
"""

from __future__ import annotations

import dataclasses
import email.utils
from collections.abc import Callable

from .headers import Headers
from .http11 import Request, Response
from .options import check_function
from .server_connection import PendingConnection
from .server_handshake import check_upgrade, upgrade_required

__all__ = ["Hooks", "ProcessRequest", "ProcessResponse"]

ProcessRequest = Callable[[PendingConnection, Request], Response | None]
"""May answer a request itself; ``None``: the upgrade goes on."""
ProcessResponse = Callable[[PendingConnection, Request, Response], Response | None]
"""May change an answer, or replace it."""

# What makes a 101 the acceptance of this very request.
_HANDSHAKE = (
    "Upgrade",
    "Connection",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Hooks:
    """What the user wants to be asked.

    Args:
        process_request: See :func:`syncws.serve`.
        process_response: See :func:`syncws.serve`.

    Raises:
        TypeError: One of them cannot be called, or is ``async``; the text names it.
    """

    process_request: ProcessRequest | None = None
    process_response: ProcessResponse | None = None

    def __post_init__(self) -> None:
        for name in ("process_request", "process_response"):
            hook = getattr(self, name)
            if hook is not None:
                check_function(name, hook)

    def before(self, connection: PendingConnection) -> Response | None:
        """What to answer instead of going on with the upgrade; ``None``: go on.

        Raises:
            TypeError, ValueError: The hook returned something that cannot be sent.
            Exception: What the hook raised.
        """
        if self.process_request is None:
            return None  # the reader thread has let nothing pass but upgrades
        request = connection.request
        response = self.process_request(connection, request)
        if response is not None:
            return _sendable("process_request", response)
        if request.method != "GET":
            return upgrade_required("This is a WebSocket server: an upgrade is required.")
        return check_upgrade(request)

    def after(self, connection: PendingConnection, response: Response) -> Response:
        """What to answer in the end.

        Raises:
            TypeError, ValueError: The hook made something that cannot be sent.
            Exception: What the hook raised.
        """
        if self.process_response is None:
            return response
        accepted = response.status_code == 101
        wanted = [response.headers.get_all(name) for name in _HANDSHAKE]
        changed = self.process_response(connection, connection.request, response)
        if changed is None:
            changed = response
        if not isinstance(changed, Response) or changed.status_code != 101:
            return _sendable("process_response", changed)
        if not accepted:
            raise ValueError("process_response turned a refusal into a 101")
        headers = Headers(changed.headers)
        if [headers.get_all(name) for name in _HANDSHAKE] != wanted:
            raise ValueError(f"process_response must leave these alone: {', '.join(_HANDSHAKE)}")
        # RFC 9110 sections 8.6 and 15.2: what follows a 101 are frames.
        if changed.body or "Content-Length" in headers or "Transfer-Encoding" in headers:
            raise ValueError("process_response gave a 101 response content")
        _keep_last(headers)
        return dataclasses.replace(changed, headers=headers)


def _keep_last(headers: Headers) -> None:
    """Assigning appends: of what may stand there once only, the hook's own counts."""
    for name in ("Content-Type", "Server"):
        values = headers.get_all(name)
        if len(values) > 1:
            del headers[name]
            headers[name] = values[-1]


def _sendable(hook: str, response: object) -> Response:
    """A response with the headers that frame it: whatever it says, it ends the connection."""
    if not isinstance(response, Response):
        raise TypeError(
            f"{hook} must return a Response or None, and returned {type(response).__name__}"
        )
    status_code = int(response.status_code)
    if status_code < 200:
        raise ValueError(f"{hook} returned status {status_code}; it must be between 200 and 599")
    headers = Headers(response.headers)  # checked once more: it may be a mapping of any kind
    if "Transfer-Encoding" in headers:
        raise ValueError(f"{hook} returned a response with Transfer-Encoding")
    # RFC 9110 section 8.6: a 204 has no Content-Length; a 304 is about another response.
    bodiless = status_code in (204, 304)
    if bodiless and response.body:
        raise ValueError(f"{hook} returned a {status_code} with a body")
    if not isinstance(response.body, bytes):
        raise TypeError(f"{hook} returned a body of type {type(response.body).__name__}")
    lists_upgrade = "Upgrade" in headers
    for name in ("Connection", "Content-Length", "Keep-Alive"):
        if name in headers:
            del headers[name]
    _keep_last(headers)
    if "Date" not in headers:
        headers["Date"] = email.utils.formatdate(usegmt=True)
    if not bodiless:
        headers["Content-Length"] = str(len(response.body))
    headers["Connection"] = "close, Upgrade" if lists_upgrade else "close"
    # Made anew: an attribute may have been changed to something that cannot be sent.
    return Response(status_code, response.reason_phrase, headers, response.body)
