"""Connections that the program drops and Python's collector finds."""

from __future__ import annotations

import gc
import weakref

import syncws

from .subject import Subject


def test_closed_connections_in_cycles_of_garbage(warm: None) -> None:
    """The collector calls finalizers in any order: that of the C state may come first.

    It hung, or read freed memory, when ``Connection.__del__`` then asked the C state.
    """
    subject = Subject("server", None)
    url = f"ws://127.0.0.1:{subject.address()[1]}/"
    dropped = []
    try:
        for _ in range(30):
            cycle: list[object] = []
            connection = syncws.connect(url, ping_interval=None)
            cycle += [cycle, connection]
            dropped.append(weakref.ref(connection))
            del connection
            # Moves the connection behind its C state in the collector's order.
            gc.collect()
            cycle[1].close()  # type: ignore[attr-defined]
            # The reader thread remembers the connection that it looked at last.
            syncws.connect(url, ping_interval=None).close()
            del cycle
            gc.collect()
        assert not [reference for reference in dropped if reference() is not None]
    finally:
        subject.close()

