"""Raw servers that follow a script: HTTP and frames as bytes.

What belongs here: what the tests of ``connect()`` share. What does not: anything that
imports the module under test.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

from syncws.http11 import RequestParser

PATIENCE = 10.0
Script = Callable[[socket.socket], object]
Serve = Callable[..., "ScriptedServer"]


def read_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


def head_101(request: bytes, *extra: str) -> bytes:
    parsed = RequestParser().feed(request)
    assert parsed is not None
    key = parsed.headers["Sec-WebSocket-Key"].encode()
    accept = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(accept).decode()}",
        *extra,
        "\r\n",
    ]
    return "\r\n".join(lines).encode()


class ScriptedServer:
    """Accepts connections and follows a script with each.

    Attributes:
        seen: Everything that clients sent before the script read it, by connection.
    """

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.context = context
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.errors: list[Exception] = []
        self.accepted = 0
        self.thread = threading.Thread(target=self.run, name="scripted server")
        self.thread.start()

    @property
    def uri(self) -> str:
        return f"{'ws' if self.context is None else 'wss'}://127.0.0.1:{self.port}/"

    def run(self) -> None:
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            self.accepted += 1
            sock.settimeout(PATIENCE)
            with contextlib.ExitStack() as stack:
                stack.enter_context(sock)
                try:
                    if self.context is not None:
                        sock = self.context.wrap_socket(sock, server_side=True)
                        stack.enter_context(sock)
                    self.script(sock)
                except OSError:
                    pass  # the client went away, as it should
                except Exception as error:
                    self.errors.append(error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.errors == []


def wait_for_end(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def upgrade(sock: socket.socket) -> None:
    """Accepts, then echoes nothing and waits for the client to go."""
    sock.sendall(head_101(read_head(sock)))
    wait_for_end(sock)


def answer(*pieces: bytes) -> Script:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.01)

    return script


def stall(sock: socket.socket) -> None:
    """Says nothing until the client goes."""
    wait_for_end(sock)


@contextlib.contextmanager
def scripted_servers() -> Iterator[Serve]:
    """Starts servers, which are closed at the end."""
    servers: list[ScriptedServer] = []

    def start(script: Script, context: ssl.SSLContext | None = None) -> ScriptedServer:
        servers.append(ScriptedServer(script, context))
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            server.close()
