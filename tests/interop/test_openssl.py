"""TLS that changes under a connection: ``openssl s_server`` and ``s_client`` on command.

What belongs here: key updates of TLS 1.3 and renegotiation of TLS 1.2, which Python's own TLS
cannot be told to begin. What does not: conversations (``conversation.py``).

The programs pass on what they read from their standard input and write what they decrypt to their
standard output. A line of one letter is a command: ``k`` and ``K`` update keys, ``r`` and ``R``
renegotiate. Each answers a command with a line of its own in the midst of the data.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from reliability import peer as wire

import syncws

from .conftest import Security
from .conversation import PATIENCE, address

DONE = b"SSL_do_handshake -> 1\n"
# What else the server says about itself, also in the middle of a message.
NOISE = [DONE, b"Read BLOCK\n"]


class OpenSSL:
    """One of the programs, and the connection that it has."""

    def __init__(self, messages: Path, *arguments: str | Path) -> None:
        self._messages = messages
        self.process = subprocess.Popen(
            # Not buffered: what has been written tells what has been done.
            ["stdbuf", "-o0", "openssl", *map(str, arguments), "-msg", "-msgfile", str(messages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._output = b""
        self._more = threading.Condition()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def __enter__(self) -> OpenSSL:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := self.process.stdout.read1(65536):  # type: ignore[attr-defined]
            with self._more:
                self._output += data
                self._more.notify_all()

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def expect(self, pattern: bytes) -> re.Match[bytes]:
        """Waits until the output has what ``pattern`` finds; drops all up to its end."""
        found: list[re.Match[bytes]] = []

        def look() -> bool:
            found[:] = filter(None, [re.search(pattern, self._output, re.DOTALL)])
            return bool(found)

        with self._more:
            assert self._more.wait_for(look, PATIENCE), self._output[-1000:]
            self._output = self._output[found[0].end() :]
        return found[0]

    def command(self, letter: str) -> None:
        self.send(letter.encode() + b"\n")
        self.expect(re.escape(DONE))

    def expect_message(self, text: bytes) -> None:
        """A frame of a client, masked, among whatever else was written."""
        head = re.escape(wire.header(wire.TEXT, len(text), mask=bytes(4))[:-4])

        def look() -> bool:
            if len(self._output) < len(text):
                return False
            for noise in NOISE:
                self._output = self._output.replace(noise, b"")
            for match in re.finditer(head, self._output):
                key = self._output[match.end() : match.end() + 4]
                end = match.end() + 4 + len(text)
                if wire.masked(self._output[match.end() + 4 : end], key) == text:
                    self._output = self._output[end:]
                    return True
            return False

        with self._more:
            assert self._more.wait_for(look, PATIENCE), self._output[-1000:]

    def messages(self, direction: str, kind: str) -> int:
        """How many such handshake messages it has sent (``>>>``) or received (``<<<``)."""
        lines = self._messages.read_text(errors="replace").splitlines()
        return sum(line.startswith(direction) and line.endswith(kind) for line in lines)


def s_server(security: Security, messages: Path, version: str) -> OpenSSL:
    """One that tells its port first: see :func:`port_of`."""
    return OpenSSL(
        messages,
        *("s_server", "-accept", "127.0.0.1:0", f"-{version}"),
        *("-cert", str(security.certificate), "-key", str(security.key)),
    )


def port_of(server: OpenSSL) -> int:
    return int(server.expect(rb"ACCEPT 127\.0\.0\.1:(\d+)\n")[1])


def acceptance(head: bytes, *extra: bytes) -> bytes:
    """A 101 for a request."""
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
    assert key is not None
    return b"\r\n".join(
        [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + wire.accept_value(key[1]),
            *extra,
            b"\r\n",
        ]
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


ROUNDS = 10
# Larger than what the sockets between the two hold.
BIG = b"0123456789abcdef" * 500_000


@pytest.mark.parametrize("security", ["wss"], indirect=True)
@pytest.mark.parametrize(
    ("version", "letter", "answer"),
    [
        ("tls1_3", "k", None),
        # RFC 8446 section 4.6.3: it is due before the next message only.
        ("tls1_3", "K", None),
        ("tls1_2", "r", "ClientHello"),
        ("tls1_2", "R", "ClientHello"),
    ],
)
def test_G3x_server_changes_keys(
    security: Security, tmp_path: Path, version: str, letter: str, answer: str | None
) -> None:
    """Whether a thread waits, only the reader thread does, or a big message is on its way."""
    with (
        s_server(security, tmp_path / "messages", version) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        port = port_of(server)
        connecting = pool.submit(
            syncws.connect, address(port, security.client), ssl=security.client, ping_interval=None
        )
        head = server.expect(rb"GET .*?\r\n\r\n")[0]
        server.send(acceptance(head))
        ws = connecting.result(PATIENCE)
        answers = 0 if answer is None else server.messages("<<<", answer)

        def change() -> None:
            nonlocal answers
            server.command(letter)
            if answer is not None:
                answers += 1
                # Without a call of the program: the answer does not wait for one.
                until(lambda: server.messages("<<<", answer) == answers)

        for number in range(ROUNDS):
            text = b"%d" % number
            change()
            ws.send(text.decode())
            server.expect_message(text)
            waiting = pool.submit(ws.recv, PATIENCE)
            change()
            server.send(wire.frame(wire.TEXT, text))
            assert waiting.result(PATIENCE) == text.decode()
        if letter == "K":
            assert server.messages("<<<", "KeyUpdate") >= ROUNDS
        sending = pool.submit(ws.send, BIG.decode(), timeout=PATIENCE)
        server.send(letter.encode() + b"\n")
        server.expect_message(BIG)
        sending.result(PATIENCE)
        server.send(wire.frame(wire.TEXT, b"last"))
        assert ws.recv(PATIENCE) == "last"
        ws.abort()


@pytest.mark.parametrize("security", ["wss"], indirect=True)
@pytest.mark.parametrize("accepted", [True, False])
def test_G3x_a_proxy_renegotiates_beside_its_answer(
    security: Security, tmp_path: Path, accepted: bool
) -> None:
    """The request behind it, or the close of what was refused, waits for that and no longer."""
    with (
        s_server(security, tmp_path / "messages", "tls1_2") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        port = port_of(server)
        connecting = pool.submit(
            syncws.connect,
            "ws://example.test/",
            proxy=f"https://127.0.0.1:{port}",
            proxy_ssl=security.client,
            ping_interval=None,
        )
        server.expect(rb"CONNECT .*?\r\n\r\n")
        server.command("r")
        server.send(b"HTTP/1.1 200 OK\r\n\r\n")
        head = server.expect(rb"GET .*?\r\n\r\n")[0]
        assert server.messages("<<<", "ClientHello") == 2
        server.command("r")
        extra = [] if accepted else [b"Sec-WebSocket-Protocol: nobody-asked"]
        server.send(acceptance(head, *extra))
        if accepted:
            ws = connecting.result(PATIENCE)
            ws.send("text")
            server.expect_message(b"text")
            ws.abort()
        else:
            with pytest.raises(syncws.NegotiationError):
                connecting.result(PATIENCE)


@pytest.mark.parametrize("security", ["wss"], indirect=True)
@pytest.mark.parametrize("letter", ["k", "K"])
def test_G3x_client_changes_keys(security: Security, tmp_path: Path, letter: str) -> None:
    def handler(connection: syncws.Connection) -> None:
        for message in connection:
            connection.send(message)

    with (
        syncws.serve(handler, "127.0.0.1", 0, ssl=security.server) as running,
        OpenSSL(
            tmp_path / "messages",
            *("s_client", "-connect", f"127.0.0.1:{running.socket.getsockname()[1]}"),
        ) as client,
    ):
        client.send(wire.request(f"127.0.0.1:{running.socket.getsockname()[1]}"))
        client.expect(rb"HTTP/1\.1 101 .*?\r\n\r\n")
        for number in range(1, ROUNDS):
            client.send(letter.encode() + b"\n")
            until(lambda number=number: client.messages(">>>", "KeyUpdate") == number)  # type: ignore[misc]
            client.send(wire.frame(wire.TEXT, b"%d" % number, mask=wire.DEFAULT_KEY))
            client.expect(re.escape(wire.frame(wire.TEXT, b"%d" % number)))
        assert client.messages("<<<", "KeyUpdate") == (ROUNDS - 1 if letter == "K" else 0)
