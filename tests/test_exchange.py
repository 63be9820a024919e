"""One request and one response: deadlines, and which error tells most."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

from syncws.exceptions import InvalidMessage
from syncws.exchange import Budget, exchange
from syncws.headers import Headers
from syncws.http11 import Request, ResponseParser

REFUSAL = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"
EVENT = bytes | OSError


class Script:
    """A transport that does what it is told, then times out."""

    def __init__(self, sending: OSError | None, *receiving: EVENT) -> None:
        self.sending = sending
        self.receiving = list(receiving)
        self.sent = b""

    def send_before(self, data: bytes, deadline: float | None) -> None:
        if self.sending is not None:
            raise self.sending
        self.sent += data

    def receive_before(self, deadline: float | None) -> bytes:
        if not self.receiving:
            raise TimeoutError
        event = self.receiving.pop(0)
        if isinstance(event, OSError):
            raise event
        return event


def run(transport: Any, open_timeout: float | None = 10) -> Any:
    return exchange(
        transport, Request("/", Headers()), ResponseParser(), Budget(open_timeout), "the test"
    )


def test_a_response_in_pieces() -> None:
    transport = Script(None, REFUSAL[:5], REFUSAL[5:])
    response = run(transport)
    assert (response.status_code, response.body) == (503, b"no")
    assert transport.sent == b"GET / HTTP/1.1\r\n\r\n"


BROKEN_PIPE = BrokenPipeError(32, "Broken pipe")
RESET = ConnectionResetError(104, "Connection reset by peer")


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([b""], BrokenPipeError),
        ([b"HTTP/1.1 5", b""], BrokenPipeError),
        ([RESET], BrokenPipeError),
        ([TimeoutError()], BrokenPipeError),
        ([ssl.SSLError(1, "alert")], ssl.SSLError),
    ],
)
def test_a_request_that_cannot_be_sent(events: list[EVENT], kind: type[Exception]) -> None:
    """What the peer said before it went tells most, then why sending failed."""
    with pytest.raises(kind):
        run(Script(BROKEN_PIPE, *events))


def test_an_answer_to_a_request_that_could_not_be_sent() -> None:
    assert run(Script(BROKEN_PIPE, REFUSAL, RESET)).status_code == 503


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([b""], InvalidMessage),
        ([RESET], ConnectionResetError),
        ([b"SSH-2.0\r\n"], InvalidMessage),
    ],
)
def test_an_answer_that_is_none(events: list[EVENT], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        run(Script(None, *events))


@pytest.mark.parametrize("end", [RESET, TimeoutError(), b""])
def test_a_body_that_is_cut(end: EVENT) -> None:
    response = run(Script(None, REFUSAL[:-1], end))
    assert (response.status_code, response.body, response.truncated) == (503, b"n", True)


@pytest.mark.parametrize(
    ("sending", "text"), [(TimeoutError(), "sending the request of"), (None, "waiting for")]
)
def test_a_timeout_says_what_it_was_waiting_for(sending: OSError | None, text: str) -> None:
    class Slow(Script):
        def send_before(self, data: bytes, deadline: float | None) -> None:
            time.sleep(0.02)
            super().send_before(data, deadline)

    with pytest.raises(TimeoutError, match=rf"{text}.* the test \(open_timeout=0\.01 s"):
        run(Slow(sending), 0.01)


@pytest.mark.parametrize("open_timeout", [None, 10])
def test_a_timeout_of_the_kernel_stays_what_it_is(open_timeout: float | None) -> None:
    budget = Budget(open_timeout)

    def wait() -> None:
        with budget.step("waiting"):
            raise TimeoutError(110, "Connection timed out")

    waits: Callable[[], None] = wait
    with pytest.raises(TimeoutError) as raised:
        waits()
    assert raised.value.errno == 110
