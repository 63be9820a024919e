"""A channel over a socket pair, a raw peer opposite, and a reader that makes one turn at a time.

What belongs here: what the tests of a channel's modules share. What does not: anything of
the public face of a connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pairing
import pytest
from reliability.peer import Frame, Peer

from syncws import channel as channel_module
from syncws import delivery as delivery_module
from syncws import ending as ending_module
from syncws import input as input_module
from syncws import streaming as streaming_module
from syncws.channel import Channel
from syncws.extension_chain import ExtensionChain
from syncws.extensions import Extension
from syncws.frames import Opcode, Side, ffi, lib, thread_scratch
from syncws.options import Options
from syncws.reader import Reader
from syncws.transport import TLSTransport, Transport

PATIENCE = 30.0  # seconds; far more than anything takes


class SteppedReader(Reader):
    """A reader whose thread is the test's: nothing happens but in its turns.

    An error in a turn is the test's, too.
    """

    def __init__(self) -> None:
        super().__init__("stepped-reader")
        self._claims = [threading.current_thread()]
        self._tokens = ffi.new("uint64_t[]", 256)

    def turn(self) -> None:
        """One round of what the thread does for ever, without waiting."""
        while self._calls:
            self._calls.popleft()()
        for lazy in (False, True):
            count = lib.syncws_mailbox_collect(self.mailbox, lazy, self._tokens, 256)
            for index in range(count):
                channel = self._attached.get(self._tokens[index])
                if channel is not None:
                    channel.look()
        for check in [check for check in self._unread if check()]:
            self._unread.discard(check)
        for descriptor, mask in self._poller.wait(0.0):
            callback = self._callbacks.pop(descriptor, None)
            if callback is not None:
                callback(mask)
        lib.syncws_mailbox_awake(self.mailbox)

    def turns(self, count: int = 5) -> None:
        for _ in range(count):
            self.turn()

    def turn_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not come to that"
            self.turn()
            time.sleep(0.001)

    def timers(self, name: str) -> list[float]:
        """When the timers that would call a function of that name are due."""
        self.turn()
        return sorted(
            timer.when
            for _, _, timer in self._timers
            if getattr(timer._function, "__name__", None) == name
        )

    def fire(self, name: str) -> None:
        """Lets the earliest timer of that name be due."""
        self.turn()
        for _, _, timer in sorted(self._timers):
            if getattr(timer._function, "__name__", None) == name:
                timer.run()
                self.turn()
                return
        raise AssertionError(f"there is no timer for {name}")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._release()


class Meeting:
    """A channel and its peer.

    Args:
        side: Which end the channel is.
        contexts: Those of client and server for TLS.
        early_data: What came behind the opening handshake.
        reader: One with a thread instead of a :class:`SteppedReader`.
        extensions: Those agreed on.
        small_buffers: Let the sockets' buffers be as small as the system allows.
        options: See :class:`Options`; keepalive is off.
    """

    def __init__(
        self,
        side: Side = Side.CLIENT,
        *,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
        early_data: bytes = b"",
        reader: Reader | None = None,
        small_buffers: bool = False,
        extensions: Sequence[Extension] = (),
        **options: Any,
    ) -> None:
        self.stepped = SteppedReader()
        self.reader: Reader = self.stepped if reader is None else reader
        ours, theirs = socket.socketpair()
        if small_buffers:
            for sock in (ours, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.ours = ours
        if contexts is None:
            self.transport = Transport(ours)
        else:
            self.transport = TLSTransport(ours, contexts[0], server_hostname="localhost")
            thread = InThread(self.transport.complete_handshake, time.monotonic() + PATIENCE)
            theirs = contexts[1].wrap_socket(theirs, server_side=True)
            thread.result()
        self.peer = Peer(theirs, is_client=side is Side.SERVER)
        self.channel = Channel(
            self.transport,
            side,
            self.reader,
            Options(**{"ping_interval": None, **options}),
            early_data,
            ExtensionChain(extensions, 2**26) if extensions else None,
        )
        self.c = self.channel.c

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.abort()
        if not self.stepped.closed:
            self.stepped.turns(2)
        self.stepped.close()
        self.peer.close()
        self.transport.close()
        if self.reader is not self.stepped:
            self.reader.close()

    # -- what a connection would do -----------------------------------------------

    def receive(self, timeout: float | None = PATIENCE) -> str | bytes:
        """As ``Connection.recv()`` when its fast path has failed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        scratch = thread_scratch()
        try:
            return self.channel.receive(lib.SYNCWS_QUEUED, scratch, deadline)
        except BaseException:
            self.channel.recover(scratch)
            raise

    def send(self, data: bytes, opcode: int = Opcode.BINARY) -> None:
        result = lib.syncws_send(self.c, 0x80 | opcode, data, len(data))
        if result:
            self.channel.send_slowly(result, 0x80 | opcode, data, time.monotonic() + PATIENCE)

    def has(self, flag: int) -> bool:
        return bool(lib.syncws_flags(self.c) & flag)

    def next_frame(self) -> Frame:
        """What the peer gets next."""
        received = self.peer.read_frame()
        assert received is not None, "the stream has ended"
        return received

    @property
    def owned(self) -> bool:
        """Whether any thread may read now."""
        code = lib.syncws_take(self.c, lib.SYNCWS_TAKE_DRAIN)
        if code == lib.SYNCWS_OK:
            lib.syncws_leave(self.c, 0)
        return bool(code in (lib.SYNCWS_BUSY, lib.SYNCWS_OWN))


def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on Python moves the bytes."""
    monkeypatch.setattr("syncws.transport.PYTHON_IO", True)


def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on C moves the bytes of plain sockets."""
    monkeypatch.setattr("syncws.transport.PYTHON_IO", False)


class InThread(pairing.InThread):
    """The same with the patience of this module."""

    def result(self, seconds: float = PATIENCE) -> Any:
        return super().result(seconds)


class Interposed:
    """The C library, with something before or after some of its calls."""

    def __init__(self, replacements: dict[str, Callable[..., Any]]) -> None:
        self._replacements = replacements

    def __getattr__(self, name: str) -> Any:
        return self._replacements.get(name) or getattr(lib, name)


def interpose(
    monkeypatch: pytest.MonkeyPatch,
    *modules: ModuleType,
    **replacements: Callable[..., Any],
) -> None:
    """Lets the modules (all of a channel's by default) call ``replacements`` instead of C."""
    every = (channel_module, delivery_module, ending_module, input_module, streaming_module)
    for module in modules or every:
        monkeypatch.setattr(module, "lib", Interposed(replacements))


def interrupted_after(name: str, times: int = 1) -> Callable[..., Any]:
    """A C function after which Ctrl-C comes before Python sees its result."""
    left = times

    def call(*arguments: Any) -> Any:
        nonlocal left
        result = getattr(lib, name)(*arguments)
        if left > 0:
            left -= 1
            raise KeyboardInterrupt
        return result

    return call


@contextlib.contextmanager
def owned_elsewhere(meeting: Meeting) -> Iterator[Callable[..., None]]:
    """Another thread owns the channel; what is yielded lets it leave with flags."""
    taken, leave = threading.Event(), threading.Event()
    flags = 0

    def own() -> None:
        assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_WAIT) == lib.SYNCWS_OK
        taken.set()
        leave.wait(PATIENCE)
        lib.syncws_leave(meeting.c, flags)
        meeting.channel.notify()

    thread = InThread(own)
    assert taken.wait(PATIENCE)

    def let_go(with_flags: int = 0) -> None:
        nonlocal flags
        flags = with_flags
        leave.set()
        thread.result()

    yield let_go
    leave.set()
    thread.result()
