"""An echo server that takes orders: a command a line, an answer a line.

Arguments: "faults" if it runs under faults.c, or "plain".
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import sys
import threading
import time
from typing import Any

import syncws

WHAT = sys.argv[1]
if WHAT == "faults":
    import shim


class Counter(logging.Handler):
    """Counts warnings, and prints nothing."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def echo(connection: Any) -> None:
    for message in connection:
        if message == "raise":
            raise ValueError("a handler's mistake")
        if message == "exit":
            sys.exit("a handler's business")
        if message == "interrupt":
            raise KeyboardInterrupt
        connection.send(message)


warnings = Counter()
logging.getLogger("syncws").addHandler(warnings)
logging.getLogger("syncws").propagate = False
server = syncws.serve(echo, "127.0.0.1", 0, open_timeout=5, close_timeout=0.5)
server.start()
print(server.socket.getsockname()[1], flush=True)

kept: list[int] = []
for line in sys.stdin:
    command, *arguments = line.split()
    answer: Any = "ok"
    if command == "order":
        call, nth, name, times = arguments
        shim.order(call, int(nth), getattr(errno, name), int(times))
    elif command == "cancel":
        answer = shim.cancel(arguments[0])
    elif command == "seen":
        answer = shim.seen(arguments[0])
    elif command == "watch":
        shim.watch_extension()
    elif command == "transfers":
        shim.transfers(*map(int, arguments))
    elif command == "shift":
        shim.shift_clock(int(arguments[0]))
    elif command == "exhaust":
        # Down to no descriptor at all; the server keeps what it has.
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(7)[1]))
        try:
            while True:
                kept.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
    elif command == "release":
        for descriptor in kept:
            os.close(descriptor)
        kept.clear()
    elif command == "state":
        answer = {
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,
            "connections": len(server.connections),
            "warnings": warnings.messages,
        }
    elif command == "shutdown":
        started = time.monotonic()
        stuck = server.shutdown()
        answer = {"stuck": len(stuck), "took": time.monotonic() - started}
    print(json.dumps(answer), flush=True)
