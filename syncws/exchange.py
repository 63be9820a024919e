"""A request and its response over a transport, and the one deadline of all steps.

What belongs here: what the handshake with a server and the one with a proxy have in common.
What does not: what requests and responses say (:mod:`.client_handshake`, :mod:`.proxy`).
"""

from __future__ import annotations

import ssl
import time

from .exceptions import InvalidMessage
from .http11 import Request, Response, ResponseParser
from .transport import Transport

__all__ = ["Budget", "exchange"]


class Budget:
    """The one deadline of all steps of connecting.

    Args:
        open_timeout: Seconds for everything, or ``None``.

    Attributes:
        deadline: As ``time.monotonic()``, or ``None``.
    """

    def __init__(self, open_timeout: float | None) -> None:
        self.open_timeout = open_timeout
        self.deadline = None if open_timeout is None else time.monotonic() + open_timeout

    def step(self, doing: str) -> Step:
        """Makes a :exc:`TimeoutError` say what was going on."""
        return Step(self, doing)


class Step:
    """See :meth:`Budget.step`. A generator would take four times as long."""

    __slots__ = ("_budget", "_doing")

    def __init__(self, budget: Budget, doing: str) -> None:
        self._budget = budget
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError):
            deadline, timeout = self._budget.deadline, self._budget.open_timeout
            if deadline is None or time.monotonic() < deadline:
                return  # ETIMEDOUT: the kernel gave up
            text = f"timed out while {self._doing} (open_timeout={timeout} s for everything)"
            raise TimeoutError(text) from error


def exchange(
    transport: Transport, request: Request, parser: ResponseParser, budget: Budget, name: str
) -> Response:
    """Sends a request; returns the response, with its body unless that is the stream.

    Args:
        transport: Nothing else may use it meanwhile.
        request: What to send.
        parser: A fresh one. Its ``rest`` is what came behind the response's head.
        budget: For the deadline.
        name: Of the request, for errors: ``the opening handshake``.

    Raises:
        InvalidMessage: What came is not a response.
        TimeoutError: The deadline passed before the response's head was complete.
        OSError: The connection broke.
    """
    refused: ConnectionError | None = None
    try:
        with budget.step(f"sending the request of {name}"):
            transport.send_before(request.serialize(), budget.deadline)
    except ConnectionError as error:
        # The peer is gone, but why may have arrived: a response, or an alert of TLS.
        refused = error
    response: Response | None = None
    with budget.step(f"waiting for the response to {name}"):
        while response is None:
            try:
                data = transport.receive_before(budget.deadline)
            except OSError as error:
                # The status says more than a timeout or a reset inside the body.
                if not parser.head_complete:
                    if refused is None or isinstance(error, ssl.SSLError):
                        raise
                    raise refused from None
                data = b""
            try:
                response = parser.feed(data) if data else parser.feed_eof()
            except InvalidMessage as error:
                if refused is not None:
                    raise refused from error
                raise
    return response
