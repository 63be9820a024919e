"""The end of the interpreter, as daemon threads inside our calls see it.

What belongs here: how long such a thread is kept from learning of it, and that what it then
raises is printed nowhere. What does not: what becomes of connections (:mod:`.reader`).

Connections are closed under daemon threads. An exception would only print a traceback into
the exit, or be logged; and the interpreter stops these threads within moments. But not if it
waits for them: one may hold a lock that the exit needs, as that of a log handler, and somebody
may join one. So they are kept for moments and then go on as ever.
"""

from __future__ import annotations

import threading
import time

from .exceptions import ConnectionClosed

__all__ = ["begin_exit", "exiting", "sit_out_exit", "wait_for_exit"]

# Seconds from the beginning of the exit.
GRACE = 0.5

# When it is over (time.monotonic()); None before the interpreter exits.
_over_at: float | None = None


def begin_exit() -> None:
    """The interpreter exits."""
    global _over_at
    _over_at = time.monotonic() + GRACE
    _silence_daemon_threads()


def exiting() -> bool:
    """Whether it does."""
    return _over_at is not None


def sit_out_exit() -> None:
    """Returns once the interpreter has had time to exit; at once if it does not."""
    while _over_at is not None and (left := _over_at - time.monotonic()) > 0:
        time.sleep(left)


def wait_for_exit() -> None:
    """To be called before an exception that the exit may have caused."""
    thread = threading.current_thread()
    if thread.daemon and thread is not threading.main_thread():
        sit_out_exit()


def _silence_daemon_threads() -> None:
    """Lets no daemon thread print that a connection was closed, however long the exit takes."""
    hook = threading.excepthook

    def quiet(arguments: threading.ExceptHookArgs) -> None:
        daemon = arguments.thread is not None and arguments.thread.daemon
        if not (daemon and isinstance(arguments.exc_value, ConnectionClosed)):
            hook(arguments)

    threading.excepthook = quiet
