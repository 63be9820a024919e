"""What the tests of the command line share: servers to talk to, and the end of its thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import syncws

# For what is about to happen, on a machine with other things to do; in seconds.
PATIENCE = 30.0


def join_reader() -> None:
    for thread in threading.enumerate():
        if thread.name == "syncws-stdin":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message)


@contextlib.contextmanager
def serving(handler: Callable[[syncws.Connection], object], **options: Any) -> Iterator[str]:
    with syncws.serve(handler, "127.0.0.1", 0, **options) as server:
        yield server.url
