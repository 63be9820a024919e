"""A client whose every system call, and every allocation in C, fails once.

Arguments: URL of an echo server, "calls" or "memory", how many rounds at most.
Prints a JSON object: how often each outcome was seen.
"""

from __future__ import annotations

import collections
import errno
import json
import os
import ssl
import sys
import threading
import time

import shim

import syncws
from syncws import reader

URL, WHAT, ROUNDS = sys.argv[1], sys.argv[2], int(sys.argv[3])
# Made once: reading the certificates of the system takes milliseconds.
CONTEXT = ssl._create_unverified_context() if URL.startswith("wss") else None
PATIENCE = 5.0
# What no call of a program waits longer than here.
BOUND = 8.0

ERRNOS = [
    errno.EINTR,
    errno.EAGAIN,
    errno.ENOMEM,
    errno.ENOBUFS,
    errno.EMFILE,
    errno.ECONNRESET,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EBADF,
    errno.EINVAL,
    errno.EIO,
]
# EBADF, EINVAL and EMFILE of a wait would be our own mistake, not the system's state.
WAITS = {"poll": [errno.EINTR, errno.ENOMEM], "epoll_wait": [errno.EINTR]}
DOCUMENTED = (syncws.WebSocketError, OSError, MemoryError, RuntimeError)

counts: collections.Counter[str] = collections.Counter()


def converse() -> None:
    """Uses everything once: small and big messages, fragments, a ping, the reader thread."""
    connection = syncws.connect(URL, ssl=CONTEXT, open_timeout=PATIENCE, close_timeout=0.2)
    try:
        for message in ("x", b"x" * 70_000, "x" * 300_000):
            connection.send(message, timeout=PATIENCE)
            received = connection.recv(PATIENCE)
            if received != message:
                raise AssertionError(f"{len(received)} bytes came back")
        connection.send(iter(["a", "b"]), timeout=PATIENCE)
        # Nobody receives, so the reader thread takes the echo and the pong.
        if not connection.ping().wait(PATIENCE):
            raise TimeoutError("no pong")
        if connection.recv(PATIENCE) != "ab":
            raise AssertionError("fragments are not joined")
    finally:
        connection.close()


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def settled(before: tuple[int, int]) -> bool:
    deadline = time.monotonic() + 10
    while (descriptors(), len(threads())) != before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def one(call: str, nth: int, error_number: int) -> bool:
    """One conversation with one failure; whether it came to pass."""
    shim.order(call, nth, error_number)
    started = time.monotonic()
    outcome = "fine"
    try:
        converse()
    except DOCUMENTED as error:
        outcome = type(error).__name__
    happened = shim.cancel(call)
    took = time.monotonic() - started
    label = f"{call} {nth} {errno.errorcode[error_number]}"
    if took > BOUND:
        raise AssertionError(f"{label}: {took:.1f} s")
    if happened:
        counts[outcome] += 1
    if not settled(baseline):
        names = os.listdir("/proc/self/fd")
        raise AssertionError(f"{label}: {baseline} became {names}, {threads()}")
    return happened


for _ in range(2):
    converse()
settled((descriptors(), len(threads())))
time.sleep(0.05)
baseline = descriptors(), len(threads())

if WHAT == "memory":
    shim.watch_extension()
    for nth in range(1, ROUNDS + 1):
        if not one("malloc", nth, errno.ENOMEM):
            break
else:
    for call in shim.CALLS:
        if call in ("malloc", "pthread_create", "accept", "getsockname", "getpeername"):
            continue
        for position, error_number in enumerate(WAITS.get(call, ERRNOS)):
            for nth in range(1, ROUNDS + 1):
                # Another choice of calls for each errno, spread over the conversation.
                if not one(call, nth * (position % 4 + 1), error_number):
                    break
# What went wrong with one connection has harmed no other.
converse()
print(json.dumps({**counts, "unexpected": [repr(error) for error in reader.failures]}))
