"""Daemons of the system, each running for the length of a test.

What belongs here: starting one and stopping it. What does not: what they are told to do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

from .conversation import PATIENCE


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(port: int, *command: str) -> Iterator[None]:
    """A daemon in the foreground, from the moment it listens at ``port``."""
    path = shutil.which(command[0], path=os.environ["PATH"] + ":/usr/sbin")
    assert path is not None, f"{command[0]} is not installed"
    with subprocess.Popen(
        [path, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                assert process.poll() is None, f"{command[0]} did not start"
                assert time.monotonic() < deadline, f"{command[0]} does not listen"
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
