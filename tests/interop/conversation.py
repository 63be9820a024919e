"""The conversation that every peer has: what a server offers on which path, what a client checks.

What belongs here: the side that syncws plays, and the messages. What does not: starting peers.

A server, of whichever implementation, offers:

    /echo        sends back every message as it is
    /fragments   sends "fragmented in pieces" as a message of several frames, then closes
    /close       closes with code 4001 and the reason "as you wished"
    /ping        pings, and sends "pong" when the answer has come
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

import syncws

# Generous: for a browser's start on a machine with other things to do.
PATIENCE = 60.0
PIECES = ["fragmented ", "", "in ", "pieces"]
MESSAGES: list[str | bytes] = [
    "",
    b"",
    "text",
    "h\u00e9llo \u4e16\u754c \U0001f9e6",
    bytes(range(256)),
    *("x" * size for size in (125, 126, 127, 65535, 65536, 65537)),
    *(b"\xff" * size for size in (125, 126, 127, 65535, 65536, 65537)),
    "\u00fc" * 500_000,
    bytes(range(256)) * 16384,  # 4 MiB
]


def serve_conversation(connection: syncws.Connection) -> None:
    """What syncws offers as a server."""
    match connection.request.path:
        case "/echo":
            for message in connection:
                connection.send(message)
        case "/fragments":
            connection.send(iter(PIECES))
        case "/close":
            connection.close(4001, "as you wished")
        case "/ping":
            assert connection.ping(b"are you there?").wait(PATIENCE)
            connection.send("pong")
        case path:
            raise AssertionError(f"no conversation at {path}")


@contextlib.contextmanager
def server(context: ssl.SSLContext | None, **options: Any) -> Iterator[str]:
    """Serves the conversation with syncws; gives the address without a path."""
    with syncws.serve(
        serve_conversation, "127.0.0.1", 0, ssl=context, subprotocols=["chat"], **options
    ) as running:
        yield address(running.socket.getsockname()[1], context)


def address(port: int, context: ssl.SSLContext | None) -> str:
    """The URI of a server on this machine, without a path."""
    return f"{'ws' if context is None else 'wss'}://127.0.0.1:{port}"


def converse(
    url: str, context: ssl.SSLContext | None, *, reason: str = "done", **options: Any
) -> None:
    """Has the whole conversation as a client, with syncws and these options of connect().

    ``reason`` is what answers its own when it closes.
    """

    def connect(path: str) -> syncws.Connection:
        return syncws.connect(f"{url}{path}", ssl=context, subprotocols=["chat"], **options)

    with connect("/echo") as connection:
        assert connection.subprotocol == "chat"
        for message in MESSAGES:
            connection.send(message)
            assert connection.recv(PATIENCE) == message
        for number in range(1000):
            connection.send(str(number))
        assert [connection.recv(PATIENCE) for _ in range(1000)] == list(map(str, range(1000)))
        connection.send(iter(PIECES))
        assert connection.recv(PATIENCE) == "".join(PIECES)
        assert connection.ping(b"are you there?").wait(PATIENCE)
        assert connection.latency > 0
        connection.close(3001, "done")
    assert (connection.close_code, connection.close_reason) == (3001, reason)

    with connect("/fragments") as connection:
        assert connection.recv(PATIENCE) == "".join(PIECES)

    with connect("/close") as connection:
        with pytest.raises(syncws.ConnectionClosedError) as caught:
            connection.recv(PATIENCE)
        assert caught.value.rcvd == syncws.Close(4001, "as you wished")

    with connect("/ping") as connection:
        assert connection.recv(PATIENCE) == "pong"
