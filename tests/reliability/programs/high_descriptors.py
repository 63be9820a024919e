"""A client and a server, plain, whose descriptors are all above 1023. Prints "done"."""

from __future__ import annotations

import os
import resource
from typing import Any

import syncws

FIRST = 2000


def echo(connection: Any) -> None:
    for message in connection:
        connection.send(message)


_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
kept = []
while not kept or kept[-1] < FIRST:
    kept.append(os.open(os.devnull, os.O_RDONLY))
with syncws.serve(echo, "127.0.0.1", 0) as server:
    with syncws.connect(server.url) as first, syncws.connect(server.url) as second:
        assert first.fileno() > FIRST
        for connection in (first, second):
            connection.send("x" * 300_000)
            assert connection.recv(5) == "x" * 300_000
            assert connection.ping().wait(5)
        try:
            first.recv(0.05)
        except TimeoutError:
            pass
        first.send("x")
        assert syncws.wait([first, second], 5) == [first]
for descriptor in kept:
    os.close(descriptor)
print("done")
