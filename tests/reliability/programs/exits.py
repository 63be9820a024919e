"""Ways for an interpreter to end while connections are open.

Arguments: the way, the URL of an echo server. Prints "ending" when it begins to end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import syncws

WAY, URL = sys.argv[1], sys.argv[2]


def echo(connection: Any) -> None:
    for message in connection:
        connection.send(message)


def serve(handler: Any = echo) -> Any:
    server = syncws.serve(handler, "127.0.0.1", 0)
    server.start()
    return server


def in_thread(function: Any) -> None:
    threading.Thread(target=function, daemon=True).start()
    time.sleep(0.05)


def fill(connection: Any) -> None:
    """Sends to a peer that does not read, until it blocks."""
    while True:
        connection.send(b"x" * 60_000)


def stuck(connection: Any) -> None:
    threading.Event().wait()


def leave(connection: Any) -> None:
    sys.exit("a handler's business")


kept: list[Any] = []
if WAY == "open client":
    kept.append(syncws.connect(URL))
elif WAY == "dropped client":
    syncws.connect(URL)
elif WAY == "many clients":
    kept.extend(syncws.connect(URL) for _ in range(50))
elif WAY == "open server":
    kept.append(serve())
    kept.append(syncws.connect(kept[0].url))
elif WAY == "blocked recv":
    kept.append(syncws.connect(URL))
    in_thread(kept[0].recv)
elif WAY == "killed":
    kept.append(syncws.connect(URL))
    in_thread(kept[0].recv)
    # Killed long before; not left behind for ever if the test is killed first.
    time.sleep(60)
elif WAY == "blocked send":
    kept.append(serve(stuck))
    kept.append(syncws.connect(kept[0].url))
    in_thread(lambda: fill(kept[1]))
elif WAY == "stuck handler":
    kept.append(serve(stuck))
    kept.append(syncws.connect(kept[0].url))
elif WAY == "busy threads":
    kept.append(serve())
    for _ in range(4):
        kept.append(syncws.connect(kept[0].url))

        def talk(connection: Any = kept[-1]) -> None:
            while True:
                connection.send("x")
                connection.recv()

        in_thread(talk)
elif WAY == "exit in handler":
    import logging

    logging.getLogger("syncws").addHandler(logging.NullHandler())
    kept.append(serve(leave))
    connection = syncws.connect(kept[0].url)
    try:
        connection.recv(5)
    except syncws.ConnectionClosedError as error:
        assert error.rcvd is not None
        assert error.rcvd.code == 1011
elif WAY == "os._exit":
    kept.append(serve())
    kept.append(syncws.connect(kept[0].url))
    print("ending", flush=True)
    os._exit(0)
elif WAY == "in atexit":
    import atexit

    kept.append(syncws.connect(URL))
    atexit.register(kept[0].close)
elif WAY == "exception hook":
    # A reference cycle through the module's globals, cleared late.
    kept.append(kept)
    kept.append(syncws.connect(URL))
else:
    raise SystemExit(f"unknown: {WAY}")
print("ending", flush=True)
