"""What hooks know of a peer, and what of it the handler's connection keeps."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from upgrading import upgrade

from syncws.http11 import Response
from syncws.server_connection import PendingConnection
from syncws.transport import Transport

LOGGER = logging.getLogger("test")


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as ours:
            theirs, _ = listener.accept()
            with theirs:
                yield ours


@pytest.fixture
def pending(sock: socket.socket) -> PendingConnection:
    return PendingConnection(upgrade(), Transport(sock), LOGGER)


def test_what_it_knows(pending: PendingConnection, sock: socket.socket) -> None:
    assert pending.request == upgrade()
    assert pending.logger is LOGGER
    assert pending.remote_address == sock.getpeername()
    assert pending.local_address == sock.getsockname()
    assert pending.id is pending.id
    assert pending.id.version == 4
    assert pending.username is None
    assert pending.handler is None
    assert pending.peer_certificate is None
    assert not pending.secure
    assert repr(pending) == f"<PendingConnection {sock.getpeername()!r}>"


def test_of_a_peer_that_is_gone(pending: PendingConnection, sock: socket.socket) -> None:
    sock.close()
    assert pending.remote_address is None
    assert pending.local_address is None


def test_the_address_that_a_proxy_states(sock: socket.socket) -> None:
    pending = PendingConnection(
        upgrade(), Transport(sock), LOGGER, secure=True, stated_address=("192.0.2.1", 0)
    )
    assert pending.remote_address == ("192.0.2.1", 0)
    assert pending.secure


def test_a_response(pending: PendingConnection) -> None:
    response = pending.respond(404, "nothing h\u00e9re")
    assert isinstance(response, Response)
    assert (response.status_code, response.reason_phrase) == (404, "Not Found")
    assert response.body == "nothing h\u00e9re".encode()
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Content-Length"] == "13"
    assert response.headers["Connection"] == "close"
    assert response.headers["Date"].endswith(" GMT")


def test_a_response_that_nobody_registered(pending: PendingConnection) -> None:
    assert pending.respond(299, "").reason_phrase == ""


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [(101, "", ValueError), (600, "", ValueError), (200, b"bytes", TypeError)],
)
def test_a_response_that_cannot_be_sent(
    pending: PendingConnection, status: int, text: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        pending.respond(status, text)
