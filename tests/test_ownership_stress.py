"""Who reads a connection, tried by many threads at once on the real code.

What belongs here: connections with two receivers, senders, pings and aborts at random, over plain
sockets and TLS, with pauses injected between the steps, and an auditor of the invariants. What
does not: every interleaving of a few threads (``test_ownership_model.py``).

Each batch opens and closes its sockets, so descriptor numbers are used again all the time.
``SYNCWS_STORM=1`` runs for minutes instead of seconds.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pairing import InThread, connection_over, eventually, frame

import syncws.delivery as delivery_module
import syncws.input as input_module
import syncws.output as output_module
from syncws.connection import Connection
from syncws.exceptions import ConnectionClosed
from syncws.frames import Side, lib
from syncws.reader import Reader, failures
from syncws.transport import TLSTransport, Transport

STORM = os.environ.get("SYNCWS_STORM") == "1"
SECONDS = 300.0 if STORM else 4.0
AT_ONCE = 16
PATIENCE = 30.0
pytestmark = pytest.mark.timeout(SECONDS + 2 * PATIENCE)

UNREAD = lib.SYNCWS_FLAG_PAUSED | lib.SYNCWS_FLAG_PARKED | lib.SYNCWS_FLAG_GONE
READ_SOON = lib.SYNCWS_FLAG_ARMED | lib.SYNCWS_FLAG_LISTED


class Pausing:
    """Calls the C library, and sleeps now and then before and after the steps that race.

    Also counts: how many threads are inside as owners of a channel, at most one.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.owners: collections.Counter[Any] = collections.Counter()
        self.violations: list[str] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(lib, name)
        if name in ("syncws_take", "syncws_leave", "syncws_finish", "syncws_follow",
                    "syncws_seen_empty", "syncws_set_flags", "syncws_receive", "syncws_abort",
                    "syncws_claim_close", "syncws_wait_writable", "syncws_look"):  # fmt: skip
            function = self.slowed(function)
        self.__dict__[name] = function
        return function

    def slowed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.nap()
            result = function(*arguments)
            self.nap()
            return result

        return call

    def nap(self) -> None:
        chance = self.random.random()
        if chance < 0.01:
            time.sleep(self.random.random() * 0.004)
        elif chance < 0.03:
            time.sleep(0)


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> Pausing:
    slow = Pausing(random.randrange(2**32))
    for module in (delivery_module, input_module, output_module):
        monkeypatch.setattr(module, "lib", slow)
    digest = input_module.InputChannel._digest

    def alone(channel: Any, scratch: Any, code: int) -> None:
        slow.owners[channel.token] += 1
        if slow.owners[channel.token] > 1:
            slow.violations.append("two threads decode at once")
        slow.nap()
        try:
            digest(channel, scratch, code)
        finally:
            slow.owners[channel.token] -= 1

    monkeypatch.setattr(input_module.InputChannel, "_digest", alone)
    return slow


class Peer(threading.Thread):
    """Sends numbered messages in random pieces and reads whatever comes, in one thread.

    One, because two threads must not use an ``SSLSocket`` at once.
    """

    def __init__(self, sock: Any, count: int, end: str) -> None:
        super().__init__(daemon=True)
        self.sock, self.count, self.end = sock, count, end
        self.received = 0
        self.over = False

    def run(self) -> None:
        self.sock.setblocking(False)
        chance = random.Random()
        sent = size = 0
        data = b""
        ended = False
        deadline = time.monotonic() + 2 * PATIENCE
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                progress = self.read()
                if not data and sent < self.count:
                    many = min(self.count - sent, chance.choice((1, 1, 1, 2, 5, 40)))
                    numbers = range(sent, sent + many)
                    data = b"".join(self.one(number, chance.random()) for number in numbers)
                    sent += many
                elif not data and not ended and (self.end != "drop" or self.received):
                    if self.end == "close":
                        self.sock.sendall(frame(8, b"\x03\xe8"))
                    if self.end != "abort":
                        # Not SSLSocket.shutdown(), which goes on without TLS.
                        socket.socket.shutdown(self.sock, socket.SHUT_WR)
                    ended = True
                if data:
                    # After a refusal TLS insists on the same bytes.
                    size = size or chance.choice((len(data), len(data), 1, 7, 300))
                    with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
                        data = data[self.sock.send(data[:size]) :]
                        size = 0
                        progress = True
                if not progress or chance.random() < 0.05:
                    time.sleep(chance.random() * 0.004)
        self.over = time.monotonic() < deadline
        self.sock.close()

    def read(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        if not data:
            raise ConnectionResetError("the end of the stream")
        self.received += len(data)
        return True

    @staticmethod
    def one(number: int, chance: float) -> bytes:
        text = b"%d " % number + b"x" * (20_000 if chance > 0.97 else 0)
        if chance < 0.1:
            return frame(9, b"?") + frame(1, text[:1], fin=False) + frame(0, text[1:])
        return frame(1, text)


class Trial:
    """One connection and everybody who uses it."""

    def __init__(self, reader: Reader, contexts: Any) -> None:
        chance = random.Random()
        ours, theirs = socket.socketpair()
        count = chance.choice((0, 1, 30, 150))
        self.end = chance.choice(("close", "eof", "abort", "drop"))
        transport: Transport
        if contexts is None:
            transport = Transport(ours)
        else:
            transport = TLSTransport(ours, contexts[0], server_hostname="localhost")
            shaking = InThread(contexts[1].wrap_socket, theirs, True)
            transport.complete_handshake(time.monotonic() + PATIENCE)
            theirs = shaking.result(PATIENCE)
        self.peer = Peer(theirs, count, self.end)
        self.connection: Connection | None = connection_over(
            transport,
            reader,
            Side.CLIENT,
            ping_interval=None,
            close_timeout=PATIENCE,
            max_queue=chance.choice((8, 1024)),
            write_limit=2000,
        )
        self.channel = self.connection._channel
        self.transport = transport
        self.got: list[list[int]] = []
        self.peer.start()
        users = chance.choice((0, 1, 1, 1, 2, 2)) if self.end != "drop" else 0
        self.threads = [InThread(self.receive, self.connection) for _ in range(users)]
        if self.end != "drop" and chance.random() < 0.5:
            self.threads.append(InThread(self.send, self.connection))
        if self.end == "abort":
            self.threads.append(InThread(self.abort, self.connection))
        elif self.end == "drop":
            self.connection = None
        elif not users:
            self.threads.append(InThread(self.connection.wait_closed))

    def receive(self, connection: Connection) -> None:
        got: list[int] = []
        self.got.append(got)
        chance = random.Random()
        while True:
            timeout = chance.choice((None, None, None, 0, 0.001, 0.01))
            try:
                if chance.random() < 0.1:
                    for message in connection.recv_many(timeout):
                        got.append(int(message.split()[0]))
                elif chance.random() < 0.02:
                    time.sleep(0.05)  # the reader thread takes over
                else:
                    got.append(int(connection.recv(timeout).split()[0]))
            except TimeoutError:
                continue
            except ConnectionClosed:
                return

    def send(self, connection: Connection) -> None:
        chance = random.Random()
        with contextlib.suppress(ConnectionClosed):
            for _ in range(20):
                size = chance.choice((1, 100, 100_000))
                connection.send(b"y" * size)
                if chance.random() < 0.2:
                    connection.ping()

    def abort(self, connection: Connection) -> None:
        time.sleep(random.random() * 0.05)
        connection.abort()

    def check(self) -> Iterator[str]:
        """What is wrong now that it should have come to its end."""
        for thread in self.threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                yield f"{thread.function} never returns ({self.end})"
            elif thread.error is not None:
                yield f"{thread.function} raised {thread.error!r} ({self.end})"
        if not eventually(lambda: self.transport.fileno() == -1, PATIENCE):
            yield f"not closed ({self.end}, flags {lib.syncws_flags(self.channel.c)})"
        if not eventually(lambda: self.peer.over, PATIENCE):
            yield f"the peer never saw the end ({self.end})"
        rest = [int(message.split()[0]) for message in self.channel.inbound]
        seen = sorted([number for got in self.got for number in got] + rest)
        if seen != list(range(len(seen))):
            yield f"messages lost or doubled ({self.end}): {seen}"
        if any(got != sorted(got) for got in self.got):
            yield "messages out of order"
        if self.end in ("close", "eof") and self.got and len(seen) < self.peer.count:
            yield f"{len(seen)} of {self.peer.count} messages ({self.end})"


def audit(trials: list[Trial], over: threading.Event, violations: list[str]) -> None:
    """The invariant of csrc/channel.c, watched from outside.

    Two looks are not one step, so only what is seen five times in a row is a violation.
    """
    times: collections.Counter[int] = collections.Counter()
    while not over.wait(0.02):
        for trial in list(trials):
            c = trial.channel.c
            flags = lib.syncws_flags(c)
            # syncws_follow() says whether somebody owns it.
            lost = not flags & (UNREAD | READ_SOON) and not lib.syncws_follow(
                c, lib.SYNCWS_TAKE_WAIT
            )
            times[trial.channel.token] = times[trial.channel.token] + 1 if lost else 0
            if times[trial.channel.token] == 5:
                violations.append(f"nobody reads it: flags {flags}")


def run(pausing: Pausing, seconds: float, contexts: Any = None) -> None:
    reader = Reader("stress-reader")
    failures.clear()
    trials: list[Trial] = []
    over = threading.Event()
    auditor = InThread(audit, trials, over, pausing.violations)
    done = 0
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and not pausing.violations:
            while len(trials) < AT_ONCE:
                trials.append(Trial(reader, contexts))
            trial = trials.pop(0)
            pausing.violations += trial.check()
            done += 1
        for trial in trials:
            pausing.violations += trial.check()
        assert not pausing.violations
        assert not failures, list(failures)
        assert done > 0
        assert eventually(reader.is_idle)
    finally:
        over.set()
        auditor.result()
        reader.close()


def test_plain_connections(pausing: Pausing) -> None:
    run(pausing, SECONDS)


def test_tls_connections(
    pausing: Pausing, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    run(pausing, SECONDS, (client_context, server_context))


def test_the_auditor_sees_a_connection_that_nobody_reads() -> None:
    reader = Reader("stress-reader")
    reader.close()  # nobody heals it
    ours, theirs = socket.socketpair()
    connection = connection_over(Transport(ours), reader, ping_interval=None)
    c = connection._channel.c
    violations: list[str] = []
    over = threading.Event()
    trial: Any = type("", (), {"channel": connection._channel})
    auditor = InThread(audit, [trial], over, violations)
    with theirs:
        time.sleep(0.2)
        assert not violations, "it is listed"
        assert lib.syncws_take(c, lib.SYNCWS_TAKE_WAIT) == lib.SYNCWS_OK
        lib.syncws_leave(c, lib.SYNCWS_FLAG_PARKED)
        lib.syncws_look(c)
        lib.syncws_set_flags(c, 0, lib.SYNCWS_FLAG_PARKED)
        assert eventually(lambda: violations)
        over.set()
        auditor.result()
        connection.abort()
