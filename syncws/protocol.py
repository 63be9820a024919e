"""RFC 6455 sections 5 to 7 without I/O.

What belongs here: what a frame means, the closing handshake and its rules, and the
sans-I/O :class:`Protocol` for programs that bring their own transport. What does not:
sockets, threads, clocks.

:class:`ClosingHandshake` is the part that a connection shares with :class:`Protocol`;
it decides once which close frame goes out, and which exception the user sees.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Sequence
from typing import NamedTuple

from .decoding import RecordDecoder
from .exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, ProtocolError
from .extension_chain import ExtensionChain
from .extensions import Extension, Fragment
from .frames import Close, CloseCode, FrameDecoder, FrameEncoder, Opcode, Record, Side, lib

__all__ = ["ClosingHandshake", "Event", "Failed", "Ping", "Pong", "Protocol", "State"]


class State(enum.IntEnum):
    """The life of a connection; the numbers are those of the browsers' ``readyState``."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


_OK_CODES = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD})


def _untraced(error: BaseException | None) -> BaseException | None:
    """``error`` or a copy without its traceback.

    The frames of a traceback hold the connection that keeps the error, and everything
    that its callers hold: all of it would wait for the collector.
    """
    if error is None or error.__traceback__ is None:
        return error
    try:
        return copy.copy(error).with_traceback(None)
    except Exception:  # an exception of the program's with arguments of its own
        return error


class ClosingHandshake:
    """Who sent and received which close frame, and what that means (RFC 6455 section 7).

    Not thread-safe: a channel calls it under its ``state_lock``.

    Attributes:
        state: ``OPEN`` until a close frame was sent or received or the stream ended.
        rcvd: The close frame received.
        sent: The close frame sent, at most one in a connection's life (section 5.5.1).
        rcvd_then_sent: Whether the peer began; ``None`` until both exist.
        cause: The first error that ended the connection, if one did.
    """

    __slots__ = ("cause", "explanation", "rcvd", "rcvd_then_sent", "sent", "state")

    def __init__(self) -> None:
        self.state = State.OPEN
        self.rcvd: Close | None = None
        self.sent: Close | None = None
        self.rcvd_then_sent: bool | None = None
        self.cause: BaseException | None = None
        self.explanation = ""

    def send(self, close: Close) -> bytes | None:
        """Records that ``close`` goes out; its payload, or ``None`` if it must not."""
        if self.sent is not None or self.state is State.CLOSED:
            return None
        payload = close.serialize()
        # No call from here on: a Ctrl-C would lose the payload of what counts as sent.
        self.sent = close
        if self.rcvd is not None:
            self.rcvd_then_sent = True
        self.state = State.CLOSING
        return payload

    def receive(self, payload: bytes) -> bytes | None:
        """Takes a close frame; the payload of the answer to send, if one is due.

        A malformed one is answered like any violation, with 1002 or 1007.
        """
        try:
            close = Close.parse(payload)
        except ProtocolError as error:
            return self.fail(error)
        self.rcvd = close
        if self.sent is not None:
            self.rcvd_then_sent = False
        # Section 5.5.1: "it typically echoes the status code it received".
        return self.send(Close(close.code, ""))

    def fail(
        self, error: BaseException, code: int = CloseCode.INTERNAL_ERROR, reason: str = ""
    ) -> bytes | None:
        """Fails the connection (section 7.1.7); the payload of the close frame to send."""
        if isinstance(error, ProtocolError):
            code = error.close_code
            # What went wrong in this program is not the peer's business.
            reason = "" if code == CloseCode.INTERNAL_ERROR else str(error)
        if self.cause is None:
            self.cause = _untraced(error)
        while len(reason.encode()) > 123:
            reason = reason[:-1]
        return self.send(Close(code, reason))

    def end(self, cause: BaseException | None = None, explanation: str = "") -> None:
        """The stream has ended, cleanly or not; nothing comes or goes any more."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.explanation = explanation
        elif self.complete:
            return  # what has ended well is no error by what goes wrong behind it
        if self.cause is None:
            self.cause = _untraced(cause)

    @property
    def complete(self) -> bool:
        """Both close frames exist."""
        return self.rcvd is not None and self.sent is not None

    @property
    def close_code(self) -> int | None:
        """As browsers report it: 1006 without a close frame, ``None`` while not closed.

        Both close frames settle it, while TCP may still have to end: who has just been told
        that the connection is closed gets an answer.
        """
        if self.state is not State.CLOSED and not self.complete:
            return None
        return CloseCode.ABNORMAL_CLOSURE if self.rcvd is None else self.rcvd.code

    @property
    def close_reason(self) -> str | None:
        """The peer's reason; ``None`` as long as :attr:`close_code` is."""
        if self.close_code is None:
            return None
        return "" if self.rcvd is None else self.rcvd.reason

    def exception(self) -> ConnectionClosed:
        """A fresh exception that tells how the connection ended, with its cause."""
        normal = (
            self.cause is None
            and self.rcvd is not None
            and self.sent is not None
            and self.rcvd.code in _OK_CODES
            and self.sent.code in _OK_CODES
        )
        kind = ConnectionClosedOK if normal else ConnectionClosedError
        exception = kind(self.rcvd, self.sent, self.rcvd_then_sent, self.explanation)
        exception.__cause__ = self.cause
        return exception


class Ping(NamedTuple):
    """A ping was received; its answer is already queued."""

    data: bytes


class Pong(NamedTuple):
    """A pong was received."""

    data: bytes


class Failed(NamedTuple):
    """The peer violated the protocol; the close frame is already queued."""

    error: ProtocolError


Event = str | bytes | Ping | Pong | Close | Failed


class Protocol:
    """A WebSocket connection after its opening handshake, without I/O. Not thread-safe.

    Feed it what the network gives, ask it for events and for bytes to send::

        protocol.receive_data(data)
        for event in protocol.events_received(): ...
        for piece in protocol.data_to_send(): sock.sendall(piece)

    Args:
        side: Which end this is.
        max_frame_size: Payload bytes of one incoming frame; ``None`` for no limit.
        max_size: Payload bytes of one incoming message; ``None`` for no limit.
        max_fragments: See :class:`~syncws.frames.FrameDecoder`.
        extensions: What the opening handshake settled on, in its order.
    """

    def __init__(
        self,
        side: Side,
        *,
        max_frame_size: int | None = 16 * 2**20,
        max_size: int | None = 64 * 2**20,
        max_fragments: int | None = 128,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self.side = side
        self.closing = ClosingHandshake()
        self._decoder = FrameDecoder(
            side, max_frame_size=max_frame_size, max_size=max_size, max_fragments=max_fragments
        )
        self._encoder = FrameEncoder(side)
        self._chain: ExtensionChain | None = None
        self._undo: RecordDecoder | None = None
        if extensions:
            self._chain = ExtensionChain(extensions, max_size)
            self._undo = RecordDecoder(self._chain)
            self._decoder.configure(self._chain.configure)
        # Of the outgoing message: its opcode, the first byte of its next frame without FIN, and
        # what its sender wishes.
        self._opcode = 0
        self._begin = 0
        self._compress: bool | None = None
        self._events: list[Event] = []
        self._output: list[bytes] = []
        self._in_message = False
        self._failed = False

    @property
    def state(self) -> State:
        """See :class:`State`."""
        return self.closing.state

    def receive_data(self, data: bytes) -> None:
        """Takes bytes from the network.

        What follows a close frame or a violation is ignored (RFC 6455 sections 1.4, 7.1.7).
        """
        if self._failed or self.closing.rcvd is not None:
            return
        records = self._decoder.feed(data)
        error: ProtocolError | None = None
        if self._undo is not None:
            records, _ = self._undo.decode(records, streaming=False)
            self._undo.busy = False
            error = self._undo.error
        for record in records:
            self._receive_record(record)
        error = error or self._decoder.error
        if error is not None and not self._failed and self.closing.rcvd is None:
            self._fail(error)

    def _receive_record(self, record: Record) -> None:
        if record.kind == lib.SYNCWS_RUN:
            self._events += record.data
        elif record.kind == lib.SYNCWS_MESSAGE:
            self._events.append(record.data)
        elif record.opcode == Opcode.PING:
            self._events.append(Ping(record.data))
            if self.closing.sent is None:  # Section 5.5.1: nothing after a close frame.
                self._output.append(self._encoder.encode(Opcode.PONG, record.data))
        elif record.opcode == Opcode.PONG:
            self._events.append(Pong(record.data))
        else:
            self._close_frame(self.closing.receive(record.data))
            if self.closing.rcvd is None:
                assert isinstance(self.closing.cause, ProtocolError)
                self._failed = True
                self._events.append(Failed(self.closing.cause))
            else:
                self._events.append(self.closing.rcvd)

    def _fail(self, error: ProtocolError) -> None:
        self._failed = True
        self._close_frame(self.closing.fail(error))
        self._events.append(Failed(error))

    def _end(self) -> None:
        if self._chain is not None:
            self._chain.connection_ended()

    def _close_frame(self, payload: bytes | None) -> None:
        if payload is not None:
            self._output.append(self._encoder.encode(Opcode.CLOSE, payload))

    def receive_eof(self) -> None:
        """The network has ended."""
        self.closing.end()
        self._end()

    def events_received(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> list[bytes]:
        """What must be written to the network, in order."""
        output, self._output = self._output, []
        return output

    def close_expected(self) -> bool:
        """Whether the TCP connection should end soon (RFC 6455 section 7.1.1)."""
        return self._failed or self.closing.complete or self.state is State.CLOSED

    def send_message(
        self, message: str | bytes, *, fin: bool = True, compress: bool | None = None
    ) -> None:
        """A message, or with ``fin=False`` its first fragment.

        Args:
            message: Text or bytes.
            fin: Whether it is all of it.
            compress: See :class:`~syncws.extensions.Fragment`; for all fragments.

        Raises:
            ConnectionClosed: A close frame was sent or the stream has ended.
            RuntimeError: Another message is unfinished (RFC 6455 section 5.4).
        """
        if self._in_message:
            raise RuntimeError("the message begun with fin=False must be finished first")
        self._opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
        self._begin = self._opcode
        self._compress = compress
        self._data_frame(message, fin, first=True)

    def send_continuation(self, fragment: str | bytes, *, fin: bool) -> None:
        """The next fragment of a message.

        Raises:
            ConnectionClosed: A close frame was sent or the stream has ended.
            RuntimeError: No message is unfinished.
        """
        if not self._in_message:
            raise RuntimeError("there is no unfinished message to continue")
        self._data_frame(fragment, fin, first=False)

    def _data_frame(self, data: str | bytes, fin: bool, first: bool) -> None:
        self._check_open()
        payload = data.encode() if isinstance(data, str) else data
        if self._chain is not None:
            part = self._encode(
                self._chain, Fragment(self._opcode, payload, first, fin, compress=self._compress)
            )
            self._in_message = not fin
            if part is None:
                return  # an extension waits for the rest
            payload = bytes(part.data)
            if part.first:
                self._begin = part.rsv << 4 | part.opcode
        self._in_message = not fin
        opcode, rsv = self._begin & 15, self._begin >> 4
        self._output.append(self._encoder.encode(opcode, payload, fin, rsv))
        self._begin = Opcode.CONTINUATION

    def _encode(self, chain: ExtensionChain, fragment: Fragment) -> Fragment | None:
        try:
            return chain.encode(fragment)
        except BaseException as error:
            if not chain.forget_message() or not fragment.first:
                # Nothing can follow a message that cannot be finished (section 5.4).
                self._failed = True
                self._in_message = False
                self._close_frame(self.closing.fail(error))
            raise

    def send_ping(self, data: bytes = b"") -> None:
        """A ping of at most 125 bytes.

        Raises:
            ConnectionClosed: A close frame was sent or the stream has ended.
            ValueError: ``data`` is too long (RFC 6455 section 5.5).
        """
        self._control_frame(Opcode.PING, data)

    def send_pong(self, data: bytes = b"") -> None:
        """An unsolicited pong; raises as :meth:`send_ping`."""
        self._control_frame(Opcode.PONG, data)

    def _control_frame(self, opcode: Opcode, data: bytes) -> None:
        if len(data) > 125:
            raise ValueError("data must not exceed 125 bytes")
        self._check_open()
        self._output.append(self._encoder.encode(opcode, data))

    def send_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begins or answers the closing handshake; a second close frame is never sent.

        Raises:
            TypeError, ValueError: As :meth:`syncws.frames.Close.check`.
        """
        self._close_frame(self.closing.send(Close.check(code, reason)))

    def _check_open(self) -> None:
        if self.closing.sent is not None or self.state is State.CLOSED:
            raise self.closing.exception()
