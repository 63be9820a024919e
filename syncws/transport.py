"""A non-blocking byte stream: a plain socket, or TLS over another stream.

What belongs here: moving bytes between a socket and memory, and the blocking helpers
of the opening handshake, each bounded by a deadline. What does not: frames, threads,
locks. A transport is not thread-safe: its channel calls it under ``state_lock``.

TLS is an ``SSLObject`` between two ``MemoryBIO``. A shared ``SSLSocket`` crashes or
corrupts data when two threads read and write at the same time, and a non-blocking one
insists on repeating exactly the bytes of a refused write; here no SSL call ever waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import time
from typing import Any

from .frames import SLICE

__all__ = ["READ", "WRITE", "Buffer", "TLSTransport", "Transport", "remaining"]

READ = 1
WRITE = 2

Buffer = bytes | bytearray | memoryview

# SYNCWS_IO=python moves every byte by Python's socket methods, as on platforms where C
# cannot; read once, at import.
PYTHON_IO = os.environ.get("SYNCWS_IO", "") == "python" or not hasattr(select, "poll")

# C lets its own recv() on a plain socket wait (csrc/channel.c), so that the descriptor does not
# say any more that nothing else may.
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)

# What one call moves at most, in bytes.
CHUNK = 65536
# The same in the TLS handshake, and for who wants to receive less than that.
_SMALL_CHUNK = 8192
# How often one call receives while that brings no data.
_FILLS = 4
# The same in the TLS handshake, where 100 KiB of certificates may be needed.
_HANDSHAKE_FILLS = 16
# Without close_notify the stream ends as with it: RFC 6455 has its own closing handshake, and
# tells the two apart by that.
_ENDS = (ssl.SSLZeroReturnError, ssl.SSLEOFError)
# A peer that makes us buffer more TLS records than this without taking any is given up.
_UNSENT_LIMIT = 4 * CHUNK
# How often a stalled transport is asked again, in seconds.
STALLED_TICK = 0.02


def remaining(deadline: float | None) -> float | None:
    """Seconds until ``deadline`` (``time.monotonic()``), at least 0; ``None`` for none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def wait_for(sock: socket.socket, interest: int, deadline: float | None) -> None:
    """Waits until ``sock`` is ready.

    Raises:
        TimeoutError: The deadline passed.
    """
    poll = select.poll()
    poll.register(
        sock,
        (select.POLLIN if interest & READ else 0) | (select.POLLOUT if interest & WRITE else 0),
    )
    while True:
        seconds = remaining(deadline)
        slice_ms = (SLICE if seconds is None else min(SLICE, seconds)) * 1000
        if poll.poll(slice_ms):
            return
        if seconds == 0.0:
            raise TimeoutError("timed out")


class Transport:
    """A plain socket.

    Args:
        sock: A connected stream socket, ours from now on; it becomes non-blocking to Python.
    """

    tls: ssl.SSLObject | None = None
    # Whether the socket has refused something that nobody passed to send().
    owing = False
    # How many of the bytes that it kept the socket has taken since; for comparison.
    taken = 0

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        if sock.gettimeout() != 0.0:
            sock.setblocking(False)

    @property
    def external(self) -> bool:
        """Whether Python moves the bytes, and not the C core on the descriptor."""
        return PYTHON_IO or self.tls is not None

    @property
    def stalled(self) -> bool:
        """Nothing can be sent before something was received, whatever room the socket has."""
        return False

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's certificate as ``ssl.SSLSocket.getpeercert()`` gives it."""
        return None

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self.sock.fileno()

    def receive_into(self, memory: memoryview) -> int | None:
        """Bytes put into ``memory``; 0 at the end of the stream, ``None``: nothing now.

        Raises:
            OSError: The connection broke.
        """
        try:
            return self.sock.recv_into(memory, 0, _DONT_WAIT)
        except (BlockingIOError, InterruptedError):
            return None

    def receive(self, size: int = CHUNK) -> bytes | None:
        """The same as new ``bytes``; ``b""`` at the end of the stream."""
        try:
            return self.sock.recv(size, _DONT_WAIT)
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, data: Buffer) -> int:
        """Bytes of ``data`` taken, 0 if none can be taken now.

        Raises:
            OSError: The connection broke.
        """
        try:
            return self.sock.send(data, _DONT_WAIT)
        except (BlockingIOError, InterruptedError):
            return 0

    def flush(self) -> bool:
        """Writes what an earlier call left over; whether nothing is left."""
        return True

    def pending(self) -> bool:
        """Whether bytes can be received without the socket becoming readable."""
        return False

    def holds_output(self) -> bool:
        """Whether there are bytes that reading or writing would try to write first."""
        return False

    def handshake(self) -> int:
        """One step of the TLS handshake: 0 when done, else what to wait for."""
        return 0

    def end_output(self) -> None:
        """Tells the peer that nothing more will come (a half-close)."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes the socket; idempotent."""
        self.sock.close()

    def abort(self) -> None:
        """Closes the socket with a reset, so that nothing of it lingers."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    # -- the opening handshake ----------------------------------------------------

    def complete_handshake(self, deadline: float | None) -> None:
        """Finishes the TLS handshake.

        Raises:
            TimeoutError: The deadline passed.
            ssl.SSLError: It failed.
            OSError: The connection broke.
        """
        while interest := self.handshake():
            # A peer that keeps the descriptor ready does not put off the deadline.
            if remaining(deadline) == 0.0:
                raise TimeoutError("timed out")
            wait_for(self.sock, interest, deadline)

    def receive_before(self, deadline: float | None, size: int = CHUNK) -> bytes:
        """At least one byte, at most ``size``, or ``b""`` at the end of the stream.

        Raises:
            TimeoutError: The deadline passed.
            OSError: The connection broke.
        """
        # The answer to what was sent just now is never here yet: waiting comes first.
        while True:
            wait_for(self.sock, READ, deadline)
            data = self.receive(size)
            if data is not None:
                return data

    def send_before(self, data: bytes, deadline: float | None) -> None:
        """Sends everything.

        Raises:
            TimeoutError: The deadline passed.
            OSError: The connection broke.
        """
        view = memoryview(data)
        while view:
            sent = self.send(view)
            view = view[sent:]
            if view and not sent:
                self._wait_to_send(deadline)
        while not self.flush():
            self._wait_to_send(deadline)

    def _wait_to_send(self, deadline: float | None) -> None:
        if remaining(deadline) == 0.0:
            raise TimeoutError("timed out")
        if self.stalled:
            # Data in between has no business before the opening handshake: an SSLError.
            self.complete_handshake(deadline)
        else:
            wait_for(self.sock, WRITE, deadline)


class TLSTransport(Transport):
    """TLS over a socket, or over TLS: to a server behind an ``https://`` proxy.

    Args:
        below: A connected stream socket or the transport over it, ours from now on; the
            socket becomes non-blocking.
        context: Certificates and rules.
        server_side: Which part we take in the handshake.
        server_hostname: What the server's certificate must be for (clients).
    """

    tls: ssl.SSLObject

    def __init__(
        self,
        below: socket.socket | Transport,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        # Whatever it takes reaches the socket by its own flush().
        self._below = below if isinstance(below, Transport) else Transport(below)
        # Whether that is TLS, too. A socket keeps nothing, and is not asked for each message.
        self._stacked = self._below.tls is not None
        super().__init__(self._below.sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        # Encrypted bytes that the stream below has refused; they precede those in the BIO.
        self._unsent = b""
        self._stalled = False
        # How the input has ended, if that came behind what was given last.
        self._ended: OSError | None = None

    @property
    def stalled(self) -> bool:
        """Nothing can be sent before something was received, whatever room the socket has."""
        return self._stalled or self._below.stalled

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's certificate as ``ssl.SSLSocket.getpeercert()`` gives it."""
        return self.tls.getpeercert()

    def _fill(self, memory: memoryview) -> bool | None:
        """Moves bytes into the BIO by way of ``memory``; False at the end, None: none now."""
        if len(memory) < _SMALL_CHUNK:
            memory = memoryview(bytearray(_SMALL_CHUNK))
        count = self._below.receive_into(memory)
        if count is None:
            return None
        if not count:
            self._incoming.write_eof()
            return False
        self._incoming.write(memory[:count])
        return True

    def receive(self, size: int = CHUNK) -> bytes | None:
        """The same as new ``bytes``; ``b""`` at the end of the stream."""
        memory = bytearray(size)
        count = self.receive_into(memoryview(memory))
        return None if count is None else bytes(memory[:count])

    def receive_before(self, deadline: float | None, size: int = CHUNK) -> bytes:
        """At least one byte, at most ``size``, or ``b""`` at the end of the stream."""
        while (data := self.receive(size)) is None:
            # Records without data keep the socket readable.
            if remaining(deadline) == 0.0:
                raise TimeoutError("timed out")
            if not self.pending():
                wait_for(self.sock, READ, deadline)
        return data

    def flush(self) -> bool:
        """Writes encrypted bytes that wait; whether none is left."""
        while self._unsent or self._outgoing.pending:
            data = self._unsent or self._outgoing.read()
            self._unsent = data
            sent = self._below.send(data)
            if not sent:
                return False
            self._unsent = data[sent:]
            self.taken += sent
        self.owing = False
        return not self._stacked or self._below.flush()

    def handshake(self) -> int:
        """One step of the TLS handshake: 0 when done, else what to wait for.

        If the stream below renegotiates (TLS 1.2), of that first.
        """
        if self._below.stalled and (interest := self._below.handshake()):
            return interest
        memory = memoryview(bytearray(_SMALL_CHUNK))
        fills = 0
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                if not self.flush():
                    return READ if self._below.stalled else READ | WRITE
                # OpenSSL passes over any number of requests to renegotiate.
                if fills == _HANDSHAKE_FILLS or self._fill(memory) is None:
                    return READ
                fills += 1
                continue
            except ssl.SSLError:
                # The peer is told why by an alert, if there is room for one.
                with contextlib.suppress(OSError):
                    self.flush()
                raise
            self._stalled = False
            return 0 if self.flush() else WRITE

    def receive_into(self, memory: memoryview) -> int | None:
        """Bytes put into ``memory``; 0 at the end of the stream, ``None``: nothing now."""
        if self._ended is not None:
            return self._end_of_input()
        count = self._receive_record(memory)
        # OpenSSL reads one record at a time, of 16 KiB. Those that came with it come with it.
        while count and count < len(memory) and self._incoming.pending:
            try:
                more = int(self.tls.read(len(memory) - count, memory[count:]))
                if not more:  # how Python says it while we may still write
                    raise ssl.SSLZeroReturnError
                count += more
            except ssl.SSLWantReadError:
                break  # a part of one
            except ssl.SSLError as error:
                self._ended = error.with_traceback(None)
                break
        if count and self._outgoing.pending:
            too_much = self._answer()
            self._ended = self._ended or too_much
        return count

    def _end_of_input(self) -> int:
        """Raises what was kept, once; afterwards it is the end of the stream."""
        error, self._ended = self._ended, ssl.SSLZeroReturnError()
        try:
            if error is None or isinstance(error, _ENDS):
                return 0
            raise error
        finally:
            del error  # else it would keep this frame, and the frame it

    def _receive_record(self, memory: memoryview) -> int | None:
        filled: bool | None = True
        fills = 0
        if not (self._incoming.pending or self.tls.pending()):
            # OpenSSL could only say that it has nothing, by an exception.
            filled = self._fill(memory)
        while True:
            try:
                # SSLObject.read() into a buffer returns the count.
                return int(self.tls.read(len(memory), memory))
            except ssl.SSLWantReadError:
                error = self._answer() if self.holds_output() else None
                if error is not None:
                    # Not "nothing now": the socket stays readable, and whoever waits for
                    # that would come back at once, for ever.
                    raise error from None
                # A peer may send records without data for ever, and others want to live.
                if filled is None or fills == _FILLS:
                    return None
                filled = self._fill(memory)
                fills += 1
                if filled is None:
                    return None
            except _ENDS:
                return 0

    def _answer(self) -> OSError | None:
        """Sends what TLS itself has to say; an error if the peer lets too much of it wait.

        Renegotiation, key updates and alerts leave bytes to be written; nobody else may write
        for a long time.
        """
        # A broken pipe must not hide what can still be read.
        with contextlib.suppress(OSError):
            self.owing = not self.flush()
        if len(self._unsent) + self._outgoing.pending <= _UNSENT_LIMIT:
            return None
        return OSError(errno.ENOBUFS, "the peer makes TLS answer and takes no answer")

    def send(self, data: Buffer) -> int:
        """Bytes of ``data`` taken, 0 if none can be taken now."""
        if (self._unsent or self._outgoing.pending) and not self.flush():
            return 0
        view = memoryview(data)[:CHUNK]
        # While it renegotiates, writing reads handshake messages, and would fail on data.
        if not view or (self._stalled and (self._incoming.pending or self.tls.pending())):
            return 0
        try:
            count = self.tls.write(view)
            self._stalled = False
        except ssl.SSLWantReadError:
            # TLS 1.2 renegotiates (RFC 5246 section 7.4.1.1): the peer has to answer first.
            count = 0
            self._stalled = True
        # What it has to say itself may still wait for the socket as usual.
        self._stalled = self.flush() and self._stalled
        return count

    def pending(self) -> bool:
        """Whether bytes can be received without the socket becoming readable."""
        return (
            self._incoming.pending > 0
            or self._ended is not None
            or self.tls.pending() > 0
            or (self._stacked and self._below.pending())
        )

    def holds_output(self) -> bool:
        """Whether there are bytes that reading or writing would try to write first."""
        return (
            self._outgoing.pending > 0
            or self._unsent != b""
            or (self._stacked and self._below.holds_output())
        )

    def end_output(self) -> None:
        """Sends close_notify and half-closes."""
        with contextlib.suppress(ssl.SSLError, OSError):
            self.tls.unwrap()
        with contextlib.suppress(OSError):
            self.flush()
        self._below.end_output()
