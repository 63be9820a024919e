"""The conversation that every peer has: what a server offers on which path, what a client checks.

What belongs here: the side that syncws plays, and the messages. What does not: starting peers.

A server, of whichever implementation, offers:

    /echo        sends back every message as it is
    /scatter     sends back every message in fragments of random sizes
    /fragments   sends "fragmented in pieces" as a message of several frames, then closes
    /close       closes with code 4001 and the reason "as you wished"
    /ping        pings, and sends "pong" when the answer has come
"""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

import syncws

from .relay import Relay

Data = TypeVar("Data", str, bytes)

# Generous: for a browser's start on a machine with other things to do.
PATIENCE = 60.0
PIECES = ["fragmented ", "", "in ", "pieces"]
EXTENSION = "permessage-deflate"
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
NOISE = random.Random(7692)
# Two of 16 MiB each that can be compressed, even with small windows, and one that cannot. What
# goes over the wire in each direction is more than LARGE_BYTES without compression, and less than
# half of it with compression.
LARGE: list[str | bytes] = [
    "".join(f'{{"id": {number:7}, "text": "h\u00e9!"}}\n' for number in range(524_288)),
    b"".join(NOISE.choices([NOISE.randbytes(16) for _ in range(64)], k=2**20)),
    NOISE.randbytes(2**20),
]
LARGE_BYTES = 2 * 2**24
# Sizes at which something may go wrong, and some that are cut into pieces of all kinds.
SCATTERED = [0, 1, 2, 125, 126, 127, 1000, 65535, 65536, 65537, 300_000]


def scatter(message: Data, seed: int) -> Iterator[Data]:
    """Cuts a message into pieces of random sizes, some of them empty."""
    rng = random.Random(seed)
    rest = message
    while True:
        size = rng.choice([0, 1, rng.randrange(1, 200), rng.randrange(1, 2**17)])
        yield rest[:size]
        rest = rest[size:]
        if not rest:
            return


def scattered_messages() -> Iterator[str | bytes]:
    """Messages to be cut, half of them easily compressed and half not at all."""
    rng = random.Random(6455)
    for size in SCATTERED:
        yield ("\u00fc and so on " * size)[:size]
        yield rng.randbytes(size)


def check_same(received: str | bytes, expected: str | bytes) -> None:
    """Not ``==`` in the assertion: its explanation of two large messages takes minutes."""
    same = received == expected
    assert same, f"{type(received)} of {len(received)}, not {type(expected)} of {len(expected)}"


def check_extension(response: syncws.Response | None, compression: str | None) -> None:
    """What was negotiated is what was asked for."""
    assert response is not None
    negotiated = response.headers.get("Sec-WebSocket-Extensions")
    if compression is None:
        assert negotiated is None
    else:
        assert negotiated is not None
        assert negotiated.partition(";")[0].strip() == EXTENSION


def check_traffic(relay: Relay, compression: str | None) -> None:
    """As many bytes went over the wire as there should be, by the count of somebody else."""
    for count in (relay.to_server, relay.to_client):
        if compression is None:
            assert count > LARGE_BYTES
        else:
            # At least the message that cannot be compressed came through.
            assert 2**20 < count < LARGE_BYTES / 2


def serve_conversation(connection: syncws.Connection) -> None:
    """What syncws offers as a server."""
    match connection.request.path:
        case "/echo":
            for message in connection:
                connection.send(message)
        case "/scatter":
            for number, message in enumerate(connection):
                connection.send(scatter(message, number))
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
            check_same(connection.recv(PATIENCE), message)
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


def converse_at_length(
    url: str, context: ssl.SSLContext | None, compression: str | None, **options: Any
) -> None:
    """Exchanges the largest messages, and messages in pieces, as a client, with syncws."""

    def connect(path: str) -> syncws.Connection:
        return syncws.connect(
            f"{url}{path}",
            ssl=context,
            subprotocols=["chat"],
            compression=compression,
            **options,
        )

    with connect("/echo") as connection:
        check_extension(connection.response, compression)
        for message in LARGE:
            connection.send(message, timeout=PATIENCE)
            check_same(connection.recv(PATIENCE), message)

    with connect("/scatter") as connection:
        for number, message in enumerate(scattered_messages()):
            connection.send(scatter(message, ~number))
            check_same(connection.recv(PATIENCE), message)
