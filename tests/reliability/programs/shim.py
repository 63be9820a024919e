"""Orders failures from ``faults.c``, which the program was started with.

What belongs here: names for what the C functions take. What does not: scenarios.
"""

from __future__ import annotations

import ctypes
import os

# The order is that of `enum call` in faults.c.
CALLS = (
    "malloc",
    "recv",
    "recvmsg",
    "send",
    "sendmsg",
    "poll",
    "epoll_wait",
    "epoll_ctl",
    "accept",
    "socket",
    "connect",
    "setsockopt",
    "getsockopt",
    "getpeername",
    "getsockname",
    "shutdown",
    "pthread_create",
)

_library = ctypes.CDLL(os.environ["LD_PRELOAD"])
_library.faults_seen.restype = ctypes.c_long
_library.faults_left.restype = ctypes.c_long
_library.faults_order.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int]
_library.faults_watch.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_library.faults_transfers.argtypes = [ctypes.c_long, ctypes.c_long]
_library.faults_shift_clock.argtypes = [ctypes.c_long]


def order(call: str, nth: int, error_number: int, times: int = 1) -> None:
    """The ``nth`` call from now on fails, and the ``times - 1`` after it."""
    _library.faults_order(CALLS.index(call), nth, times, error_number)


def cancel(call: str) -> bool:
    """Takes an order back; whether it had been carried out."""
    carried_out = left(call) <= 0
    _library.faults_order(CALLS.index(call), 0, 0, 0)
    return carried_out


def seen(call: str) -> int:
    """Calls since the last order or its end."""
    return int(_library.faults_seen(CALLS.index(call)))


def left(call: str) -> int:
    """Failures still to come."""
    return int(_library.faults_left(CALLS.index(call)))


def watch_extension() -> None:
    """Memory is refused to the C extension only."""
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0] for line in maps if "/_codec." in line]
    _library.faults_watch(int(ranges[0].split("-")[0], 16), int(ranges[-1].split("-")[1], 16))


def transfers(most_bytes: int = 0, interrupt_every: int = 0) -> None:
    """Short transfers, and interrupted ones."""
    _library.faults_transfers(most_bytes, interrupt_every)


def shift_clock(seconds: int) -> None:
    """The time of day jumps; the monotonic clock does not."""
    _library.faults_shift_clock(seconds)
