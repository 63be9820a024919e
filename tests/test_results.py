"""The figures of a connection. Pings are in test_waiting.py, with the other waits."""

from __future__ import annotations

from pairing import Pair, eventually, frame

import syncws


def test_statistics() -> None:
    with Pair() as pair:
        assert pair.connection.stats == syncws.Statistics(0, 0, 0, 0.0, {})
        pair.peer.sendall(frame(1, b"one") + frame(1, b"two"))
        assert eventually(lambda: pair.connection.stats.messages_queued == 2)
        assert pair.connection.stats.bytes_received == 10
        pair.connection.recv()
        assert pair.connection.stats.messages_queued == 1


def test_unsent_bytes_are_counted() -> None:
    with Pair() as pair:
        while not pair.connection.stats.bytes_unsent:
            pair.connection.send(bytes(60_000), timeout=10)
        assert pair.connection.stats.bytes_unsent > 0
