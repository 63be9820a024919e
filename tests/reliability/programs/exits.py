"""Ways for an interpreter to end while connections are open.

Arguments: the way, the URL of an echo server. Prints "ending" when it begins to end.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import logging
import os
import socket
import sys
import threading
import time
from typing import Any

import syncws
from syncws.reader import _at_exit

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


def after_ours(function: Any) -> None:
    """Registers an exit handler that runs when connections have been closed."""
    atexit.unregister(_at_exit)
    atexit.register(function)
    atexit.register(_at_exit)


def silent_peer() -> tuple[socket.socket, Any]:
    """A socket on which nobody will speak, and the connection to it."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        head = theirs.recv(4096).decode()
        key = head.split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
        digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        theirs.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )

    in_thread(answer)
    return theirs, syncws.connect("ws://localhost/", sock=ours)


class Log(logging.Handler):
    """Sends what is logged; logging.shutdown(), an exit handler, needs its lock."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            kept[-1].send(self.format(record))
        except syncws.ConnectionClosed:
            pass


def log(text: str) -> None:
    logger = logging.getLogger("program")
    while True:
        logger.info(text)
        time.sleep(0.0001)


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
    kept.append(syncws.connect(URL))
    atexit.register(kept[0].close)
elif WAY in ("log handler", "full log handler"):
    kept.append(serve(echo if WAY == "log handler" else stuck))
    kept.append(syncws.connect(kept[0].url))
    logging.basicConfig(level=logging.INFO, handlers=[Log()], format="%(message)s")
    logging.getLogger("syncws").setLevel(logging.CRITICAL)
    for _ in range(4):
        in_thread(lambda: log("x" * (1 if WAY == "log handler" else 60_000)))
elif WAY == "joined receiver":
    # Nobody answers its close frame.
    kept += silent_peer()
    receiver = threading.Thread(target=kept[-1].recv, daemon=True)
    receiver.start()
    time.sleep(0.05)
    after_ours(receiver.join)
elif WAY == "slow exit":
    kept.append(syncws.connect(URL))
    in_thread(kept[0].recv)
    in_thread(lambda: list(syncws.connect(URL)))
    after_ours(lambda: time.sleep(1))
elif WAY == "exception hook":
    # A reference cycle through the module's globals, cleared late.
    kept.append(kept)
    kept.append(syncws.connect(URL))
else:
    raise SystemExit(f"unknown: {WAY}")
print("ending", flush=True)
