"""A connection over a socket pair, and a raw peer opposite.

What belongs here: what the tests of a connection's threads share. What does not: anything
that chooses an interleaving.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from syncws.connection import Connection
from syncws.extensions import Extension
from syncws.frames import Side, lib
from syncws.headers import Headers
from syncws.http11 import Request, Response
from syncws.options import Options
from syncws.reader import Reader
from syncws.transport import TLSTransport, Transport

PATIENCE = 10.0


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether ``condition`` becomes true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def frame(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """A frame as a server sends it."""
    size = len(payload)
    first = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        return first + bytes([size]) + payload
    if size < 65536:
        return first + b"\x7e" + size.to_bytes(2) + payload
    return first + b"\x7f" + size.to_bytes(8) + payload


def connection_over(
    transport: Transport,
    reader: Reader,
    side: Side = Side.CLIENT,
    extensions: Sequence[Extension] = (),
    **options: Any,
) -> Connection:
    """A connection whose opening handshake is imagined."""
    return Connection(
        transport,
        side,
        reader=reader,
        options=Options(**options),
        request=Request("/", Headers()),
        response=Response(101, "Switching Protocols", Headers()),
        subprotocol=None,
        extensions=extensions,
        logger=logging.getLogger("test"),
    )


class Pair:
    """A client connection with its own reader thread, and the socket opposite.

    Args:
        contexts: Those of client and server for TLS.
        options: See :class:`Options`.
    """

    def __init__(
        self,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
        reader: Reader | None = None,
        **options: Any,
    ) -> None:
        self.reader = Reader("test-reader") if reader is None else reader
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(PATIENCE)
        if contexts is None:
            transport = Transport(ours)
        else:
            transport = TLSTransport(ours, contexts[0], server_hostname="localhost")
            client = threading.Thread(target=transport.complete_handshake, args=(None,))
            client.start()
            self.peer = contexts[1].wrap_socket(self.peer, server_side=True)
            client.join()
        self.connection = connection_over(transport, self.reader, **options)
        self.channel = self.connection._channel
        # Threads that read from the peer until it ends.
        self.receivers: list[threading.Thread] = []

    def take(self) -> None:
        """Makes this thread the reading one, when the reader thread has read tickets of TLS."""
        c, mode = self.channel.c, lib.SYNCWS_TAKE_WAIT
        assert eventually(lambda: lib.syncws_take(c, mode) == lib.SYNCWS_OK)

    def close(self) -> None:
        self.connection.abort()
        # Who reads from a descriptor that is closed reads from the next one of that number.
        for thread in self.receivers:
            if thread.ident is not None:
                thread.join(PATIENCE)
        self.peer.close()
        self.reader.close()

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InThread(threading.Thread):
    """Calls ``function`` in a thread; :meth:`result` waits for what it returns or raises."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.arguments = arguments
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.function(*self.arguments)
        except BaseException as error:
            self.error = error

    def result(self, seconds: float = PATIENCE) -> Any:
        self.join(seconds)
        assert not self.is_alive(), f"{self.function} is still running after {seconds} s"
        if self.error is not None:
            raise self.error
        return self.value
