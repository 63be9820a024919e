"""Connections that the program drops and Python's collector finds."""

from __future__ import annotations

import os
import subprocess
import sys

# Closed connections in cycles. The first collection moves each connection behind its C state in
# the collector's order; a second connection makes the reader thread forget the first.
PROGRAM = """
import gc, time, weakref, syncws

with syncws.serve(lambda connection: connection.recv(), "127.0.0.1", 0) as server:
    dropped = []
    for _ in range(5):
        cycle = [syncws.connect(server.url, ping_interval=None)]
        dropped.append(weakref.ref(cycle[0]))
        gc.collect()
        cycle[0].close()
        time.sleep(0.1)
        syncws.connect(server.url, ping_interval=None).close()
        time.sleep(0.1)
        cycle.append(cycle)
        del cycle
        gc.collect()
assert not [reference for reference in dropped if reference() is not None]
"""


def test_closed_connections_in_cycles_of_garbage() -> None:
    """The collector calls finalizers in any order: that of the C state may come first.

    It hung when ``Connection.__del__`` then locked the freed C state, which the allocator is
    told here to overwrite.
    """
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=20)
