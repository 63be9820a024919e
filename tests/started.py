"""Running servers, and handlers that can be watched.

What belongs here: what the tests of ThreadingServer share. What does not: raw clients
(``talking.py``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from talking import PATIENCE, RawClient, masked_frame, wait_until

import syncws
from syncws import reader
from syncws.reader import client_reader

Handler = Callable[[syncws.Connection], object]
Start = Callable[..., syncws.ThreadingServer]


def echo(ws: syncws.Connection) -> None:
    """The handler of most servers here."""
    for message in ws:
        ws.send(message)


@contextlib.contextmanager
def observed(nothing_left: Callable[[], None]) -> Iterator[None]:
    """Nothing is left behind, and nothing goes wrong unseen in a reader thread."""
    client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()
    reader.failures.clear()
    yield
    assert list(reader.failures) == []


@contextlib.contextmanager
def servers() -> Iterator[Start]:
    """Starts servers, which are shut down at the end."""
    with contextlib.ExitStack() as stack:

        def start(handler: Handler = echo, **options: Any) -> syncws.ThreadingServer:
            options = {"host": "127.0.0.1", "close_timeout": 1.0, **options}
            return stack.enter_context(syncws.serve(handler, **options))

        yield start


def handler_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("syncws-handler-")]


def check_alive(server: syncws.ThreadingServer) -> None:
    """The next peer is served."""
    with RawClient(server.address) as raw:
        raw.open().send(masked_frame(1, b"hello"))
        assert raw.receive_frame() == (1, b"hello")


class Meeting:
    """A handler that can be watched and held.

    Attributes:
        connections: Of the handlers that began.
        ended: How many have ended.
    """

    def __init__(self) -> None:
        self.connections: list[syncws.Connection] = []
        self.release = threading.Event()
        self.ended = 0

    def hold(self, ws: syncws.Connection) -> None:
        """Does not look at the connection until it is released."""
        self.connections.append(ws)
        self.release.wait(PATIENCE)
        self.ended += 1

    def receive(self, ws: syncws.Connection) -> None:
        """Waits for messages."""
        self.connections.append(ws)
        try:
            for _ in ws:
                pass
        finally:
            self.ended += 1

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.connections) == count)
