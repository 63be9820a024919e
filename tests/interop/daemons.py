"""Daemons of the system, each running for the length of a test.

What belongs here: starting one and stopping it. What does not: what they are told to do.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .conversation import PATIENCE

# Each once: two that are asked for at the same time must differ.
_candidates = iter(random.sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """A port that nobody listens on just now.

    Below the range from which the system takes ports for outgoing connections: one of those
    could have it by the time the daemon starts.
    """
    while True:
        port = next(_candidates)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def running(command: Sequence[str], ports: Sequence[int], log: Path) -> Iterator[None]:
    """A daemon in the foreground, from the moment it listens at ``ports``."""
    # Debian has most of them in /usr/sbin, which is not in everybody's PATH.
    path = shutil.which(command[0], path=os.environ["PATH"] + ":/usr/sbin")
    assert path is not None, f"{command[0]} is not installed"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        for port in ports:
            _await_listener(process, port, log)
        yield
        assert process.poll() is None, log.read_text()
    finally:
        # Those that have children end them, too, when they are asked to end.
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


def _await_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            return
        except ConnectionRefusedError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
