"""What a connection costs while nothing happens on it.

A client's: no thread, one descriptor, less than 8 KiB. A server's, whose handler is in
``recv()``: one thread, one descriptor.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import Any

import syncws

from . import launch
from . import peer as wire
from .subject import Subject, settle

COUNT = 500


def test_idle_client_connection(request: Any) -> None:
    """Python's memory and C's, counted over many; and what the kernel says of the process."""
    subject = Subject("server", None)
    request.addfinalizer(subject.close)
    costs = {
        mode: json.loads(launch.run("idle_clients", subject.server().url, COUNT, mode))
        for mode in ("traced", "resident")
    }
    for cost in costs.values():
        assert cost["descriptors"] == 1
        assert cost["threads"] == 0
    assert costs["traced"]["python"] + costs["traced"]["c"] < 8192, costs
    # Whole pages, and everything that the allocators keep for themselves.
    assert costs["resident"]["resident"] < 8192 * 1.5, costs


def test_idle_server_connection(warm: None) -> None:
    """A thread in ``recv()``, and its socket."""

    def receive(connection: syncws.Connection) -> None:
        with contextlib.suppress(syncws.ConnectionClosed):
            while True:
                connection.recv()

    count = 100
    with syncws.serve(receive, "127.0.0.1", 0) as server, contextlib.ExitStack() as stack:
        address = server.socket.getsockname()
        stack.enter_context(wire.connect(address))
        settle(lambda: len(server.connections), 1)
        threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
        for _ in range(count):
            stack.enter_context(wire.connect(address))
        settle(lambda: len(server.connections), 1 + count)
        # One of another test may end meanwhile.
        assert len(set(threading.enumerate()) - threads) == count
        # The peers' own are in this process, too.
        assert len(os.listdir("/proc/self/fd")) - descriptors == 2 * count
