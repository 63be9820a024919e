"""Conversations with the websockets package, whose blocking interface syncws resembles."""

from __future__ import annotations

import asyncio
import ssl
import threading

import websockets.asyncio.client
import websockets.asyncio.server
import websockets.exceptions
import websockets.sync.client
import websockets.sync.server

from .conftest import Security
from .conversation import (
    EXTENSION,
    LARGE,
    MESSAGES,
    PATIENCE,
    PIECES,
    address,
    check_same,
    check_traffic,
    converse,
    converse_at_length,
    scatter,
    scattered_messages,
    server,
)
from .relay import relayed


def serve_conversation(connection: websockets.sync.server.ServerConnection) -> None:
    """What websockets offers as a server."""
    assert connection.request is not None
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


def test_websockets_as_server(security: Security, compression: str | None) -> None:
    """syncws's client finds everything it checks in its server."""
    with websockets.sync.server.serve(
        serve_conversation,
        "127.0.0.1",
        0,
        ssl=security.server,
        subprotocols=[websockets.Subprotocol("chat")],
        max_size=None,
    ) as running:
        serving = threading.Thread(target=running.serve_forever)
        serving.start()
        direct = address(running.socket.getsockname()[1], security.client)
        try:
            with relayed(direct) as (url, relay):
                converse(url, security.client, compression=compression)
                converse_at_length(url, security.client, compression)
                check_traffic(relay, compression)
        finally:
            running.shutdown()
            serving.join(PATIENCE)
    assert not serving.is_alive()


def test_websockets_as_client(security: Security, compression: str | None) -> None:
    """Its client finds everything it checks in syncws's server; it offers permessage-deflate."""

    def connect(url: str) -> websockets.sync.client.ClientConnection:
        return websockets.sync.client.connect(
            url,
            ssl=security.client,
            proxy=None,
            subprotocols=[websockets.Subprotocol("chat")],
            max_size=None,
        )

    with (
        server(security.server, compression=compression) as direct,
        relayed(direct) as (url, relay),
    ):
        with connect(f"{url}/echo") as connection:
            assert connection.subprotocol == "chat"
            assert connection.response is not None
            negotiated = connection.response.headers.get("Sec-WebSocket-Extensions", "")
            assert negotiated.startswith(EXTENSION) == (compression is not None)
            for message in MESSAGES + LARGE:
                connection.send(message)
                check_same(connection.recv(PATIENCE), message)
            connection.send(iter(PIECES))
            assert connection.recv(PATIENCE) == "".join(PIECES)
            assert connection.ping(b"are you there?").wait(PATIENCE)
            connection.close(3001, "done")
        # RFC 6455 section 5.5.1: the code comes back; syncws does not repeat the reason.
        assert (connection.close_code, connection.close_reason) == (3001, "")
        with connect(f"{url}/scatter") as connection:
            for number, message in enumerate(scattered_messages()):
                connection.send(scatter(message, ~number))
                check_same(connection.recv(PATIENCE), message)
        with connect(f"{url}/fragments") as connection:
            assert "".join(map(str, connection.recv_streaming())) == "".join(PIECES)
        with connect(f"{url}/close") as connection:
            assert list(connection_messages(connection)) == []
        assert (connection.close_code, connection.close_reason) == (4001, "as you wished")
        with connect(f"{url}/ping") as connection:
            assert connection.recv(PATIENCE) == "pong"
        check_traffic(relay, compression)


def connection_messages(
    connection: websockets.sync.client.ClientConnection,
) -> list[str | bytes]:
    """What the connection brings until it is closed, with whatever code."""
    messages = []
    try:
        while True:
            messages.append(connection.recv(PATIENCE))
    except websockets.exceptions.ConnectionClosed:
        return messages


async def echo_many(url: str, context: ssl.SSLContext | None) -> None:
    """Many connections at once from one event loop."""

    async def echo(number: int) -> None:
        async with websockets.asyncio.client.connect(
            f"{url}/echo", ssl=context, proxy=None, subprotocols=[websockets.Subprotocol("chat")]
        ) as connection:
            for message in (f"{number}", f"{number}".encode() * 1000):
                await connection.send(message)
                assert await connection.recv() == message

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*map(echo, range(50)))


def test_websockets_as_fifty_clients(security: Security, compression: str | None) -> None:
    """The asyncio client, which is what most of the package's users run."""
    with server(security.server, compression=compression) as url:
        asyncio.run(echo_many(url, security.client))
