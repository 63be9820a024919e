"""Uses an installed syncws: run by check_distributions.py with the interpreter of that place.

What belongs here: that what was installed is complete and works. What does not: how well.
"""

from __future__ import annotations

import sys
from importlib import metadata, resources
from pathlib import Path

import syncws

assert metadata.version("syncws") == syncws.__version__
# Not the source tree that this file lies in.
assert Path(sys.prefix) in Path(syncws.__file__).parents, syncws.__file__
assert resources.files(syncws).joinpath("py.typed").is_file()


def echo(connection: syncws.Connection) -> None:
    for message in connection:
        connection.send(message)


with syncws.serve(echo, "127.0.0.1", 0) as server:
    with syncws.connect(f"ws://127.0.0.1:{server.address[1]}") as connection:
        for message in ("text", b"binary", "x" * 100_000):
            connection.send(message)
            assert connection.recv(timeout=30) == message
    assert connection.close_code == 1000
print(f"syncws {syncws.__version__} works on {sys.implementation.cache_tag}")
