"""``syncws.view``: what can be seen of a connection, while it is open and afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from pairing import Pair

from syncws.protocol import State


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as pair:
        yield pair


def test_an_open_connection(pair: Pair) -> None:
    connection = pair.connection
    assert isinstance(connection.id, uuid.UUID) and connection.id == connection.id
    assert connection.state is State.OPEN and connection.connected
    assert connection.latency == 0.0
    assert (connection.close_code, connection.close_reason) == (None, None)
    assert connection.extensions == ()
    assert connection.peer_certificate is None
    assert connection.fileno() >= 0
    figures = connection.stats
    assert (figures.messages_queued, figures.bytes_unsent, figures.extensions) == (0, 0, {})


def test_a_closed_connection(pair: Pair) -> None:
    connection = pair.connection
    connection.abort()
    assert connection.wait_closed(10)
    assert not connection.connected and connection.state is State.CLOSED
    assert (connection.close_code, connection.close_reason) == (1006, "")
    assert (connection.local_address, connection.remote_address) == (None, None)
    assert connection.fileno() == -1
