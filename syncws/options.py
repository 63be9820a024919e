"""What a connection can be told: limits, timeouts, water marks.

What belongs here: the values, their defaults and their validation, before anything is
opened. What does not: acting on them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import os
import socket
import ssl
import sys
import threading
import time
from typing import Any

__all__ = [
    "Options",
    "check_flag",
    "check_function",
    "check_integer",
    "check_logger",
    "check_path",
    "check_seconds",
    "check_size",
    "check_socket",
    "check_timeout",
    "shared_options",
]

MIB = 2**20


def check_seconds(name: str, value: float | None) -> None:
    """A positive number of seconds, or ``None``.

    Raises:
        TypeError: Not a number.
        ValueError: Not positive, or not a number of seconds at all (NaN).
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds or None, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value!r}")


def check_timeout(timeout: float | None) -> float | None:
    """The deadline (``time.monotonic()``) of a call's ``timeout`` in seconds.

    Raises:
        TypeError: Not a number.
        ValueError: Negative or NaN.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(
            f"timeout must be a number of seconds or None, not {type(timeout).__name__}"
        )
    if not timeout >= 0:
        raise ValueError(f"timeout must not be negative, not {timeout!r}")
    # What no clock reaches is no bound, and infinity would not do as a number of milliseconds.
    return None if timeout > threading.TIMEOUT_MAX else time.monotonic() + timeout


def check_flag(name: str, value: bool) -> None:
    """A choice of the caller's that is not left open.

    Raises:
        TypeError: Not a bool.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or None, not {type(value).__name__}")


def check_function(name: str, function: object) -> None:
    """Something that is called, and not awaited.

    Raises:
        TypeError: It cannot be called, or it would return a coroutine, which never runs.
    """
    if not callable(function):
        raise TypeError(f"{name} must be callable, and {type(function).__name__} is not")
    if _is_async(function):
        raise TypeError(f"{name} must be a plain function, not an async one: nobody awaits it")


def _is_async(function: Any) -> bool:
    try:
        # To call a class is to make an instance, whatever that does when it is called.
        codes = [function] if isinstance(function, type) else [function, type(function).__call__]
        return any(map(inspect.iscoroutinefunction, codes)) or any(
            map(inspect.isasyncgenfunction, codes)
        )
    except Exception:
        return False  # a proxy of what is not there yet


def check_integer(name: str, value: int, least: int, most: int | None = None) -> None:
    """An integer in a range.

    Raises:
        TypeError: Not an int.
        ValueError: Outside of the range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}, not {value}")


def check_size(name: str, value: int | None, least: int) -> None:
    """An integer of at least ``least``, or ``None``; raises as :func:`check_integer`."""
    if value is not None:
        check_integer(name, value, least, sys.maxsize)  # C has room for no more


def check_socket(sock: socket.socket) -> None:
    """A plain stream socket, which a caller made.

    Raises:
        TypeError: Not a socket, or one that speaks TLS by itself.
        ValueError: It carries datagrams, not a stream.
    """
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket.socket, not {type(sock).__name__}")
    if isinstance(sock, ssl.SSLSocket):
        raise TypeError("sock must be a plain socket: TLS is what ssl= is for")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("sock must be a stream socket: socket.SOCK_STREAM")


def check_path(path: str | bytes | os.PathLike[str]) -> str | bytes:
    """The path of a Unix socket.

    Raises:
        TypeError: Not a path.
        ValueError: It has a NUL, where the system would end it, other than the first
            character, which makes a name abstract on Linux.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"path must be a str, bytes or os.PathLike, not {type(path).__name__}")
    name = os.fspath(path)
    if 0 in os.fsencode(name)[1:] and not os.fsencode(name).startswith(b"\0"):
        raise ValueError("path must not contain a NUL character")
    return name


def check_logger(logger: logging.Logger | None) -> None:
    """A logger or ``None``.

    Raises:
        TypeError: Something else.
    """
    if logger is not None and not isinstance(logger, logging.Logger | logging.LoggerAdapter):
        raise TypeError(f"logger must be a logging.Logger or None, not {type(logger).__name__}")


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """The options of a connection; ``None`` lifts a limit or turns a timeout off.

    Args:
        ping_interval: Seconds between keepalive pings.
        ping_timeout: Seconds after a ping without a sign of life until the connection
            is closed with 1011.
        close_timeout: Seconds for the whole closing handshake and the end of TCP.
        max_size: Bytes of an incoming message; a longer one is refused with 1009.
        max_frame_size: Bytes of an incoming frame; a longer one is refused with 1009.
            Outgoing messages are split so that no frame exceeds it.
        max_fragments: Fragments of an incoming message beyond which they must carry 64
            bytes each on average, else it is refused with 1008.
        max_queue: Messages received but not yet taken, beyond which reading stops.
        write_limit: Bytes accepted by ``send()`` but not yet by the socket, beyond
            which it waits.

    Raises:
        TypeError, ValueError: Naming the option.
    """

    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    close_timeout: float | None = 10.0
    max_size: int | None = 64 * MIB
    max_frame_size: int | None = 16 * MIB
    max_fragments: int | None = 128
    max_queue: int | None = 1024
    write_limit: int = MIB

    def __post_init__(self) -> None:
        check_seconds("ping_interval", self.ping_interval)
        check_seconds("ping_timeout", self.ping_timeout)
        check_seconds("close_timeout", self.close_timeout)
        check_size("max_size", self.max_size, 1)
        check_size("max_frame_size", self.max_frame_size, 1)
        check_size("max_fragments", self.max_fragments, 1)
        check_size("max_queue", self.max_queue, 1)
        check_size("write_limit", self.write_limit, 1)
        if self.write_limit is None:
            raise TypeError("write_limit must be an int, not None: memory must have a bound")


def shared_options(**values: Any) -> Options:
    """The same as :class:`Options`, and the same object for the same values if possible."""
    try:
        return _same_options(**values)
    except TypeError:
        return Options(**values)  # an unhashable value: the error is to name the option


# Typed, because True and 1024.0 are no sizes.
_same_options = functools.lru_cache(maxsize=32, typed=True)(Options)
