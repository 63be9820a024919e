"""The clients that are compared over TLS, and the process in which one of them runs.

What belongs here: how each of :mod:`benchmarks.clients` is told to use TLS. What does not: what
they do then.
"""

from __future__ import annotations

import ssl
from typing import Any, ClassVar

from benchmarks import clients


def context() -> ssl.SSLContext:
    """One that takes any certificate."""
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    result.check_hostname = False
    result.verify_mode = ssl.CERT_NONE
    return result


class Raw(clients.Raw):
    """An ``ssl.SSLSocket``: nothing but OpenSSL between Python and the system."""

    def connected(self, sock: Any) -> Any:
        return context().wrap_socket(sock)


class Syncws(clients.Syncws):
    options: ClassVar[dict[str, Any]] = {"ssl": context()}


class SyncwsMany(clients.SyncwsMany):
    options = Syncws.options


class Websockets(clients.Websockets):
    options: ClassVar[dict[str, Any]] = {**clients.Websockets.options, "ssl": context()}


class WebsocketClient(clients.WebsocketClient):
    options: ClassVar[dict[str, Any]] = {"sslopt": {"cert_reqs": ssl.CERT_NONE}}


class Picows(clients.Picows):
    options: ClassVar[dict[str, Any]] = {**clients.Picows.options, "ssl_context": context()}


CLIENTS: dict[str, type[clients.Client]] = {
    "SSLSocket": Raw,
    "syncws": Syncws,
    "syncws, recv_many": SyncwsMany,
    "picows, uvloop": Picows,
    "websocket-client": WebsocketClient,
    "websockets.sync": Websockets,
}


if __name__ == "__main__":
    clients.main(CLIENTS, "wss")
