"""The clients that are compared over TLS, and the process in which one of them runs.

What belongs here: how each of :mod:`benchmarks.clients` is told to use TLS. What does not: what
they do then.
"""

from __future__ import annotations

import ssl
from typing import Any

from benchmarks import clients


def context() -> ssl.SSLContext:
    """One that takes any certificate."""
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    result.check_hostname = False
    result.verify_mode = ssl.CERT_NONE
    return result


def encrypted(url: str) -> str:
    return url.replace("ws://", "wss://")


class Raw(clients.Raw):
    """An ``ssl.SSLSocket``: nothing but OpenSSL between Python and the system."""

    def connected(self, sock: Any) -> Any:
        return context().wrap_socket(sock)


class Syncws(clients.Syncws):
    def open(self, url: str) -> Any:
        import syncws

        return syncws.connect(encrypted(url), ssl=context())


class SyncwsMany(clients.SyncwsMany):
    open = Syncws.open


class Websockets(clients.Blocking):
    def open(self, url: str) -> Any:
        from websockets.sync.client import connect

        options = {"compression": None, "max_size": None, "proxy": None, "legacy": True}
        return connect(encrypted(url), ssl=context(), **options)


class WebsocketClient(clients.WebsocketClient):
    def open(self, url: str) -> Any:
        import websocket

        return websocket.create_connection(encrypted(url), sslopt={"cert_reqs": ssl.CERT_NONE})


class Picows(clients.Picows):
    async def open(self, url: str) -> Any:
        _, listener = await self.picows.ws_connect(
            self.listener,
            encrypted(url),
            ssl_context=context(),
            max_frame_size=2**26,
            enable_auto_pong=True,
        )
        return listener


CLIENTS: dict[str, type[clients.Client]] = {
    "SSLSocket": Raw,
    "syncws": Syncws,
    "syncws, recv_many": SyncwsMany,
    "picows, uvloop": Picows,
    "websocket-client": WebsocketClient,
    "websockets.sync": Websockets,
}


if __name__ == "__main__":
    clients.main(CLIENTS)
