"""A TLS socket that two threads of a test may use at once.

What belongs here: one lock around every call into OpenSSL, and no waiting inside. What
does not: the peers that use it (``peer.py``).
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any


class SharedSSLSocket(ssl.SSLSocket):
    """A TLS socket that one thread may read while another writes.

    The standard library's crashes then, or tells one thread the errors of the other. Here
    every call into OpenSSL is made under a lock, and waiting is done outside.
    """

    def settimeout(self, value: float | None) -> None:
        """Sets what :meth:`recv` and :meth:`sendall` wait for; OpenSSL never waits."""
        self.patience = value
        super().settimeout(value if self._sslobj is None or not self.shared else 0.0)

    # False while the handshake is made by one thread, in the usual way.
    shared = False

    def share(self, patience: float) -> None:
        """After the handshake."""
        self.turn = threading.Lock()
        self.shared = True
        self.settimeout(patience)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """At most ``buflen`` bytes; ``b""`` at the end."""
        return self._take_turns(lambda: self.read(buflen))

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Sends everything."""
        view = memoryview(data)
        while view:
            view = view[self._take_turns(lambda view=view: self.send(view)) :]

    def _take_turns(self, operation: Callable[[], Any]) -> Any:
        deadline = None if self.patience is None else time.monotonic() + self.patience
        while True:
            with self.turn:
                try:
                    return operation()
                except ssl.SSLWantReadError:
                    interest = select.POLLIN
                except ssl.SSLWantWriteError:
                    interest = select.POLLOUT
            poll = select.poll()
            poll.register(self.fileno(), interest)
            left = 0.05 if deadline is None else min(0.05, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError("the peer's own patience is at its end")
            poll.poll(left * 1000)


def wrap(
    context: ssl.SSLContext, sock: socket.socket, patience: float, **arguments: Any
) -> SharedSSLSocket:
    """Makes the TLS handshake on ``sock``; calls wait for ``patience`` seconds then."""
    context.sslsocket_class = SharedSSLSocket
    wrapped = context.wrap_socket(sock, **arguments)
    assert isinstance(wrapped, SharedSSLSocket)
    wrapped.share(patience)
    return wrapped
