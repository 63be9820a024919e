"""The library under test, in one role, as a peer sees it.

What belongs here: starting ``syncws.serve`` or ``syncws.connect`` opposite a
:class:`~.peer.Peer`, recording what the program sees of a conversation, and the oracles
that every row shares (nothing leaks, nothing is logged, the next peer is served). What
does not: any single row.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

import syncws

from . import peer as wire
from .peer import PATIENCE, Frame, Peer

# How soon descriptors, threads and connections must be back where they were.
SETTLING = 8.0


class Crash(Exception):
    """What a program under test raises."""


Behaviour = Callable[[Any, "Outcome"], None]


class Contexts(NamedTuple):
    """TLS contexts that trust each other."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class Outcome:
    """What the program saw of one connection.

    Attributes:
        messages: What ``recv()`` returned, in order.
        error: The exception that ended the conversation.
        connection: The connection object.
        release: Lets an :func:`idle` program go on.
        reraise: Whether the program's exception goes on to the library.
    """

    def __init__(self, reraise: bool = False) -> None:
        self.reraise = reraise
        self.messages: list[str | bytes] = []
        self.error: BaseException | None = None
        self.connection: Any = None
        self.release = threading.Event()
        self._opened = threading.Event()
        self._done = threading.Event()

    def run(self, connection: Any, behaviour: Behaviour) -> None:
        """Runs the program on an open connection and keeps what ended it."""
        self.connection = connection
        self._opened.set()
        try:
            behaviour(connection, self)
        except BaseException as error:  # a failed pytest.raises() is no Exception
            self.error = error
            if self.reraise:
                raise
        finally:
            self._done.set()

    def fail(self, error: BaseException) -> None:
        """Records that there never was a connection."""
        self.error = error
        self._opened.set()
        self._done.set()

    def opened(self, timeout: float = PATIENCE) -> Any:
        """The connection, once it is open."""
        assert self._opened.wait(timeout), "the connection never opened"
        assert self.connection is not None, f"the connection failed to open: {self.error!r}"
        return self.connection

    def wait(self, timeout: float = PATIENCE) -> Outcome:
        """Waits until the program is through."""
        assert self._done.wait(timeout), f"the program hangs after {self.messages!r:.200}"
        return self

    def expect_violation(self, code: int) -> None:
        """Demands the exception of a peer that broke the protocol."""
        self.wait()
        error = self.error
        assert isinstance(error, syncws.ConnectionClosedError), repr(error)
        cause = error.__cause__
        assert isinstance(cause, syncws.ProtocolError), repr(cause)
        assert cause.close_code == code
        assert error.sent is not None
        assert error.sent.code == code


def echo(connection: Any, outcome: Outcome) -> None:
    """Sends every message back, until the connection ends."""
    while True:
        message = connection.recv()
        outcome.messages.append(message)
        connection.send(message)


def collect(connection: Any, outcome: Outcome) -> None:
    """Only receives, until the connection ends."""
    while True:
        outcome.messages.append(connection.recv())


def idle(connection: Any, outcome: Outcome) -> None:
    """Does nothing until released, then receives."""
    outcome.release.wait(10 * PATIENCE)
    collect(connection, outcome)


class Conversation(NamedTuple):
    """Both ends of a connection: what the peer does and what the program sees."""

    peer: Peer
    outcome: Outcome

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.outcome.release.set()
        self.peer.close()
        self.outcome.wait()

    def expect_failure(
        self, code: int, echoes: Iterable[bytes] = (), within: float = PATIENCE
    ) -> None:
        """Demands what a violation leads to, on the wire and in the program.

        Args:
            code: Of the close frame that the peer must receive.
            echoes: Payloads that must come before it: answers to what was good.
            within: Seconds in which the close frame must come.
        """
        frames, close = self.peer.read_until_close(within)
        assert [frame.payload for frame in frames] == list(echoes)
        assert int.from_bytes(close.payload[:2]) == code, close
        assert len(close.payload) <= 125
        close.payload[2:].decode()
        # A peer that behaves answers and ends its stream; then nothing more may come.
        self.peer.send_close(code)
        self.peer.half_close()
        self.peer.expect_end()
        self.outcome.expect_violation(code)

    def expect_normal_end(self, code: int | None = 1000) -> None:
        """Closes as the peer; demands the answer and the program's normal end."""
        self.peer.send_close(code)
        assert self.peer.read_frame() == Frame(
            wire.CLOSE, wire.close_payload(code), masked=not self.peer.is_client
        )
        self.peer.half_close()
        self.peer.expect_end()
        self.outcome.wait()
        assert isinstance(self.outcome.error, syncws.ConnectionClosedOK), repr(self.outcome.error)


class Subject:
    """syncws in one role.

    Args:
        role: ``"server"`` or ``"client"``: which one syncws is.
        tls: Contexts for wss; ``None`` for ws.
    """

    def __init__(self, role: str, tls: Contexts | None) -> None:
        self.role = role
        self.tls = tls
        self.servers: dict[tuple[tuple[str, Any], ...], Any] = {}
        self._outcomes: dict[str, tuple[Behaviour, Outcome]] = {}
        self._paths = (f"/{number}" for number in itertools.count())
        self._client_threads: list[threading.Thread] = []
        self._listener: wire.Listener | None = None

    @property
    def is_server(self) -> bool:
        """syncws is the server here."""
        return self.role == "server"

    # As a server.

    def server(self, **options: Any) -> Any:
        """The server with these options, started by the first call."""
        key = tuple(sorted(options.items()))
        if key not in self.servers:
            context = None if self.tls is None else self.tls.server
            server = syncws.serve(self._handle, "127.0.0.1", 0, ssl=context, **options)
            server.start()
            self.servers[key] = server
        return self.servers[key]

    def address(self, **options: Any) -> tuple[str, int]:
        """Where the server with these options listens."""
        host, port = self.server(**options).socket.getsockname()[:2]
        return host, port

    def _handle(self, connection: Any) -> None:
        behaviour, outcome = self._outcomes.pop(connection.request.path, (echo, Outcome()))
        outcome.run(connection, behaviour)

    # As a client.

    @property
    def listener(self) -> wire.Listener:
        """The raw server that the client connects to."""
        if self._listener is None:
            self._listener = wire.Listener(None if self.tls is None else self.tls.server)
        return self._listener

    def start_client(
        self,
        behaviour: Behaviour = echo,
        uri: str | None = None,
        *,
        reraise: bool = False,
        **options: Any,
    ) -> Outcome:
        """Runs ``syncws.connect`` and a program in a thread of its own."""
        outcome = Outcome(reraise)
        target = self.listener.uri if uri is None else uri
        if self.tls is not None:
            options.setdefault("ssl", self.tls.client)

        def run() -> None:
            try:
                connection = syncws.connect(target, **options)
            except Exception as error:
                outcome.fail(error)
                return
            with contextlib.suppress(Crash), connection:
                outcome.run(connection, behaviour)

        thread = threading.Thread(target=run, name="client under test")
        thread.start()
        self._client_threads.append(thread)
        return outcome

    # Both.

    def open(
        self,
        behaviour: Behaviour = echo,
        *,
        early: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
        reraise: bool = False,
        **options: Any,
    ) -> Conversation:
        """A connection whose opening handshake is complete.

        Args:
            behaviour: The program.
            early: What the peer sends behind its handshake in the same write.
            headers: Further headers of the peer's handshake.
            reraise: Whether the program's exception goes on to the library.
            options: For ``serve`` or ``connect``.
        """
        if self.is_server:
            path, outcome = next(self._paths), Outcome(reraise)
            self._outcomes[path] = behaviour, outcome
            context = None if self.tls is None else self.tls.client
            peer = wire.connect(
                self.address(**options), context, early=early, headers=headers, path=path
            )
        else:
            outcome = self.start_client(behaviour, reraise=reraise, **options)
            peer = self.listener.accept(early=early, headers=headers)
        return Conversation(peer, outcome)

    def frame(self, opcode: int, payload: bytes = b"", **fields: Any) -> bytes:
        """A frame as this subject's peer must build it; see :func:`.peer.frame`."""
        return wire.frame(opcode, payload, **{"mask": self.key, **fields})

    def header(self, opcode: int, length: int, **fields: Any) -> bytes:
        """A header as this subject's peer must build it; see :func:`.peer.header`."""
        return wire.header(opcode, length, **{"mask": self.key, **fields})

    @property
    def key(self) -> bytes | None:
        """The masking key of this subject's peer; ``None`` if it must not mask."""
        return wire.DEFAULT_KEY if self.is_server else None

    def deliver(
        self,
        data: bytes,
        check: Callable[[Conversation], None],
        behaviour: Behaviour = echo,
        **options: Any,
    ) -> None:
        """Delivers ``data`` in every way, each to a connection of its own.

        Whole; behind the handshake in the same write; byte by byte up to 4 KiB; cut in two
        at up to 8 offsets (one over TLS, which cuts anyway). The program may take its time.

        Args:
            data: What the peer sends.
            check: Called with each conversation after the delivery.
            behaviour: The program.
            options: For ``serve`` or ``connect``.
        """
        ways: list[tuple[str, bytes, list[bytes]]] = [
            ("whole", b"", [data]),
            ("behind the handshake", data, []),
        ]
        if len(data) <= 4096:
            ways.append(("byte by byte", b"", [bytes([byte]) for byte in data]))
        for first, second in wire.splits(data, at_most=1 if self.tls else 8):
            ways.append((f"cut at {len(first)}", b"", [first, second]))
        for name, early, pieces in ways:
            try:
                with unhurried(), self.open(behaviour, early=early, **options) as conversation:
                    # Two pieces need a pause to arrive as two.
                    conversation.peer.send(*pieces, pause=0.001 if len(pieces) == 2 else 0)
                    check(conversation)
            except BaseException as error:
                error.add_note(f"delivered {name}")
                raise

    def violate(self, bad: bytes, code: int, **options: Any) -> None:
        """Delivers a good message and a violation in every way.

        The message must be echoed, then the peer must receive a close frame with ``code``.
        """
        self.deliver(
            self.frame(wire.TEXT, b"good") + bad,
            lambda conversation: conversation.expect_failure(code, [b"good"]),
            **options,
        )

    def check_alive(self, **options: Any) -> None:
        """The next peer is served: an echo and a normal closing handshake."""
        with self.open(**options) as conversation:
            conversation.peer.send_frame(wire.TEXT, b"still there?")
            frame = conversation.peer.read_frame()
            assert frame is not None
            assert frame.payload == b"still there?"
            conversation.expect_normal_end()

    def close(self) -> None:
        """Ends everything, after checking that no connection is left over."""
        try:
            for server in self.servers.values():
                settle(functools.partial(open_connections, server), [])
        finally:
            for server in self.servers.values():
                server.shutdown()
            if self._listener is not None:
                self._listener.close()
            for thread in self._client_threads:
                thread.join(PATIENCE)
                assert not thread.is_alive(), thread


def open_connections(server: Any) -> list[Any]:
    """Those that a server still counts as open."""
    return list(server.connections)


def open_descriptors() -> set[str]:
    """This process's descriptors, by number and target."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def resident_bytes() -> int:
    """This process's resident memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settle(look: Callable[[], Any], expected: Any, within: float = SETTLING) -> None:
    """Waits until ``look()`` returns ``expected``; asserts that it does in time."""
    deadline = time.monotonic() + within
    while (found := look()) != expected:
        assert time.monotonic() < deadline, f"{found!r} is not {expected!r}"
        time.sleep(0.005)


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """A violation waits for a program that takes more than a second to answer what was good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncws.channel.GRACE", PATIENCE)
        yield


@contextlib.contextmanager
def no_trace(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The oracles of every row: no leak, no log above WARNING, no traceback."""
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    yield
    settle(lambda: set(threading.enumerate()) - threads, set())
    settle(lambda: open_descriptors() - descriptors, set())
    records = caplog.get_records("setup") + caplog.get_records("call") + caplog.records
    loud = [
        record.getMessage()
        for record in records
        if record.levelno > logging.WARNING or record.exc_info
    ]
    assert not loud, loud
