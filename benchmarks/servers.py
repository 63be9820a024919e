"""The servers that are compared, and the process in which one of them runs.

What belongs here: how each library serves connections that only come and go. What does not:
the load, which is the raw-socket client (:mod:`benchmarks.clients`).

A server process prints its port, and serves until it is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from benchmarks import load


def handler(ws: Any) -> None:
    """Waits for the peer to close."""
    for _ in ws:
        pass


def raw() -> None:
    load.main()


def syncws() -> None:
    import syncws

    with syncws.serve(handler, "127.0.0.1", 0) as server:
        print(server.address[1], flush=True)
        server.serve_forever()


def websockets_sync() -> None:
    from websockets.sync.server import serve

    with serve(handler, "127.0.0.1", 0, compression=None) as server:
        print(server.socket.getsockname()[1], flush=True)
        server.serve_forever()


SERVERS: dict[str, Callable[[], None]] = {
    "raw socket": raw,
    "syncws": syncws,
    "websockets.sync": websockets_sync,
}


if __name__ == "__main__":
    SERVERS[sys.argv[1]]()
