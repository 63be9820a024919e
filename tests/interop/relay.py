"""Counts the bytes of a connection from outside, whatever both its ends say about it.

What belongs here: a TCP relay between the two parties of a conversation. What does not: any
knowledge of WebSockets or TLS.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

PIECE = 2**18


class Relay:
    """What came through, in bytes.

    Attributes:
        to_server: From all clients to the server.
        to_client: From the server to all clients.
    """

    def __init__(self, port: int) -> None:
        self.to_server = 0
        self.to_client = 0
        self._lock = threading.Lock()  # guards the counts and the list of sockets
        self._sockets: list[socket.socket] = []
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # close() ends the wait so
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._sockets += [client, server]
                pumps = [
                    threading.Thread(target=self._pump, args=(client, server, "to_server")),
                    threading.Thread(target=self._pump, args=(server, client, "to_client")),
                ]
                self._threads += pumps
                for pump in pumps:
                    pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, count: str) -> None:
        # A party that resets its connection, or close(), ends both directions.
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE):
                with self._lock:
                    setattr(self, count, getattr(self, count) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
            return
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends all connections and threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        with self._lock:
            sockets = list(self._sockets)
        for end in sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for pump in self._threads[1:]:
            pump.join()
        for end in sockets:
            end.close()


@contextlib.contextmanager
def relayed(url: str) -> Iterator[tuple[str, Relay]]:
    """Puts a relay before the server at ``url``; gives the address to use instead of it, too."""
    parts = urlsplit(url)
    assert parts.port is not None
    relay = Relay(parts.port)
    try:
        yield f"{parts.scheme}://127.0.0.1:{relay.port}", relay
    finally:
        relay.close()
