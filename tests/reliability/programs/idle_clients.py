"""What idle client connections cost their process.

Arguments: URL of an echo server, how many, "traced" or "resident" (tracing takes memory
itself). Prints a JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import tracemalloc

import syncws
from syncws.frames import lib

URL, COUNT, MODE = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def used(connection: syncws.Connection) -> None:
    """Everything that a connection may have allocated lazily, is."""
    connection.send("x")
    assert connection.recv(5) == "x"
    assert connection.ping().wait(5)


with syncws.connect(URL) as first:
    used(first)
time.sleep(0.1)
gc.collect()
if MODE == "traced":
    tracemalloc.start()
before = tracemalloc.get_traced_memory()[0], resident(), descriptors(), threading.active_count()
connections = []
for _ in range(COUNT):
    connections.append(syncws.connect(URL))
for connection in connections:
    used(connection)
time.sleep(0.2)
gc.collect()
after = tracemalloc.get_traced_memory()[0], resident(), descriptors(), threading.active_count()
print(
    json.dumps(
        {
            "python": (after[0] - before[0]) / COUNT,
            "c": lib.syncws_channel_size(),
            "resident": (after[1] - before[1]) / COUNT,
            "descriptors": (after[2] - before[2]) / COUNT,
            "threads": after[3] - before[3],
        }
    ),
    flush=True,
)
os._exit(0)
