"""What the exceptions say, and what they never say."""

from __future__ import annotations

import types
from typing import Any

import pytest

from syncws import exceptions
from syncws.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ForkedConnectionError,
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    SecurityError,
    WebSocketError,
)
from syncws.frames import Close
from syncws.headers import Headers
from syncws.http11 import Response


@pytest.mark.parametrize("name", exceptions.__all__)
def test_every_exception_has_the_same_base_and_a_docstring(name: str) -> None:
    kind = getattr(exceptions, name)
    assert issubclass(kind, WebSocketError)
    assert kind.__doc__


@pytest.mark.parametrize(
    ("rcvd", "sent", "order", "text"),
    [
        (None, None, None, "no close frame received; none sent"),
        (Close(1000, ""), None, None, "received 1000 (normal closure); no close frame sent"),
        (None, Close(1000, ""), None, "sent 1000 (normal closure); no close frame received"),
        (
            Close(1000, ""),
            Close(1000, ""),
            True,
            "received 1000 (normal closure); then sent 1000 (normal closure)",
        ),
        (
            Close(1000, ""),
            Close(1000, ""),
            False,
            "sent 1000 (normal closure); then received 1000 (normal closure)",
        ),
    ],
)
def test_who_closed(rcvd: Close | None, sent: Close | None, order: bool | None, text: str) -> None:
    error = ConnectionClosed(rcvd, sent, order)
    assert str(error) == text
    assert str(ConnectionClosed(rcvd, sent, order, "why")) == text + ": why"
    assert (error.rcvd, error.sent, error.rcvd_then_sent) == (rcvd, sent, order)


def test_a_reason_is_not_said_twice() -> None:
    error = ConnectionClosed(None, Close(1011, "too late"), None, "too late")
    assert str(error) == "sent 1011 (internal error) too late; no close frame received"


@pytest.mark.parametrize(
    ("kind", "body", "end"),
    [
        ("text/plain; charset=utf-8", b" No.\nNot at all.", ": 'No.'"),
        ("Text/Plain", "\x1b\u202eé".encode() + b"\xff", r": '\x1b\u202eé�'"),
        ("text/plain", b"x" * 1000, ": '" + "x" * 100 + "'"),
        ("text/plain", b"", "HTTP 400"),
        ("text/html", b"<p>No.", "HTTP 400"),
        (None, b"No.", "HTTP 400"),
    ],
)
def test_why_a_server_refuses(kind: str | None, body: bytes, end: str) -> None:
    headers = Headers() if kind is None else Headers({"Content-Type": kind})
    text = str(InvalidStatus(Response(400, "Bad Request", headers, body)))
    assert "received HTTP 400" in text
    assert text.endswith(end)


def test_a_response_of_the_programs_own() -> None:
    response: Any = types.SimpleNamespace(status_code=418, headers={}, body="text")
    assert str(InvalidStatus(response)).endswith("HTTP 418")


def test_a_forked_connection_says_what_to_do() -> None:
    error = ForkedConnectionError(None, None)
    assert "os.fork()" in str(error)
    assert isinstance(error, ConnectionClosedError)


def test_f9c_a_uri_in_an_exception_shows_no_secrets() -> None:
    error = InvalidURI("ws://user:secret@host/path?token=secret#secret", "it has a fragment")
    assert "secret" not in str(error)
    assert "ws://host/path" in str(error)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("ws://jo:secr/et@host/", "ws://host/"),
        ("ws://jo:secr/et?secret@host/", "ws://***"),
        ("ws://jo:secr?et@host/", "ws://***"),
        ("ws://host/path?secret@x", "ws://host/path"),
        ("ws://host:80/path#secret@x", "ws://host:80/path"),
        ("ws://[::1]:80/path#secret@x", "ws://[::1]:80/path"),
    ],
)
def test_f9c_what_may_be_a_password_is_not_shown(uri: str, shown: str) -> None:
    assert InvalidURI(uri, "why").uri == shown


def test_handshake_errors() -> None:
    assert InvalidMessage("bad").status_code == 400
    assert SecurityError("too long", 431).status_code == 431
    response = Response(404, "Not Found", Headers(), b"body")
    error = InvalidStatus(response)
    assert error.response is response
    assert "HTTP 404" in str(error)
    assert isinstance(error, InvalidHandshake)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidHeader("Upgrade"), "missing Upgrade header"),
        (InvalidHeader("Upgrade", ""), "empty Upgrade header"),
        (InvalidHeader("Upgrade", "h2c"), "invalid Upgrade header: 'h2c'"),
        (InvalidHeaderValue("Origin"), "missing Origin header"),
        (InvalidHeaderValue("Origin", "http://evil"), "invalid Origin header: 'http://evil'"),
    ],
)
def test_header_errors(error: InvalidHeader, text: str) -> None:
    assert str(error) == text


def test_concurrency_errors_are_runtime_errors() -> None:
    assert issubclass(ConcurrencyError, RuntimeError)
