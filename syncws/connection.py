"""The blocking API of one connection.

What belongs here: arguments, return values and exceptions of what users call, and the
fast paths, which are one C call each. What does not: everything that a fast path
cannot do (:mod:`.channel`).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NoReturn, Self, overload

from .channel import Channel
from .exceptions import ConnectionClosedOK
from .extension_chain import ExtensionChain
from .extensions import Extension
from .frames import (
    Close,
    CloseCode,
    Opcode,
    Side,
    ffi,
    lib,
    memory,
    thread_scratch,
)
from .http11 import Request, Response
from .messages import as_message, control_payload, converted, fragment_frames, payload_of
from .options import Options, check_flag, check_timeout
from .reader import Reader
from .results import PingWaiter
from .streaming import Pieces
from .transport import Buffer, Transport
from .view import ConnectionView

__all__ = ["Connection"]

# C takes the calling thread's working memory. Of the
# parameter's type, so that there is nothing to convert.
_OWN_MEMORY = ffi.cast("syncws_scratch *", 0)
_LENGTH_MASK = lib.SYNCWS_LENGTH_MASK
_MEMORY_SHIFT = lib.SYNCWS_MEMORY_SHIFT
_NO_SCRATCH = lib.SYNCWS_NO_SCRATCH
# What is in the scratch, and who owns the channel, may be another call's, interrupted by ours.
_NOT_OURS = frozenset({lib.SYNCWS_SCRATCH_BUSY, lib.SYNCWS_OWN, lib.SYNCWS_EXTERNAL})
_ENCODED = lib.SYNCWS_ENCODED
_receive = lib.syncws_receive
_receive_next = lib.syncws_receive_next
_finish = lib.syncws_finish
_send = lib.syncws_send

_FIN_TEXT = 0x80 | Opcode.TEXT
_FIN_BINARY = 0x80 | Opcode.BINARY

# The entry of `memory` that was used last, with its key: one thread needs no other, and a look
# into a dict costs what one into a threading.local does. Threads replace it as a whole.
_last_memory: tuple[int, Any, Any, bool] = (-1, None, None, False)


def _other_memory(key: int) -> tuple[Any, Any, bool]:
    global _last_memory
    entry = memory[key]
    _last_memory = (key, *entry)
    return entry


class Connection(ConnectionView):
    """A WebSocket connection.

    All methods may be called from any thread at any time, also at the same time; a
    message sent by one thread is never mixed with another's. Two threads may receive:
    each message goes to one of them.

    Every call returns or raises by its timeout. Without one it waits until the peer or
    the keepalive (``ping_interval``, ``ping_timeout``) ends the wait.

    Do not construct it: :func:`syncws.connect` and servers do.

    Attributes:
        id: A unique :class:`uuid.UUID`.
        logger: Where the connection logs.
        request: The opening handshake's request.
        response: Its response.
        subprotocol: The subprotocol agreed on, or ``None``.
    """

    __slots__ = ("_inbound", "_queued")

    def __init__(
        self,
        transport: Transport,
        side: Side,
        *,
        reader: Reader,
        options: Options,
        request: Request,
        response: Response,
        subprotocol: str | None,
        extensions: Sequence[Extension] = (),
        early_data: bytes = b"",
        logger: logging.Logger,
    ) -> None:
        self._id: uuid.UUID | None = None
        self.logger = logger
        self.request = request
        self.response = response
        self.subprotocol = subprotocol
        chain = ExtensionChain(extensions, options.max_size) if extensions else None
        self._channel = Channel(transport, side, reader, options, early_data, chain)
        self._c = self._channel.c
        self._inbound = self._channel.inbound
        self._queued = self._channel.queued

    def __del__(self) -> None:
        # The collector may run this inside any locked section of this thread: no lock. And in
        # a cycle of garbage it may have freed the C state already; what the reader still
        # holds is no garbage.
        channel = getattr(self, "_channel", None)
        if channel is not None and channel.reader.holds(channel) and not channel.gone:
            channel.abandoned = True
            lib.syncws_list(channel.c, 1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name.lower()} {self.remote_address!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: it is the only one")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.close(CloseCode.INTERNAL_ERROR)

    # -- receiving ----------------------------------------------------------------

    @overload
    def recv(self, timeout: float | None = ..., *, decode: Literal[True]) -> str: ...

    @overload
    def recv(self, timeout: float | None = ..., *, decode: Literal[False]) -> bytes: ...

    @overload
    def recv(self, timeout: float | None = ..., decode: bool | None = ...) -> str | bytes: ...

    def recv(self, timeout: float | None = None, decode: bool | None = None) -> Any:
        """Receives a message.

        Args:
            timeout: Seconds; 0 takes only what is there, ``None`` waits.
            decode: ``True`` gives binary messages as ``str``, ``False`` gives text
                messages as ``bytes``, ``None`` each as it is.

        Returns:
            ``str`` for a text message, ``bytes`` for a binary one.

        Raises:
            TimeoutError: No message arrived in time.
            ConnectionClosed: No message is left and none will come.
            ConcurrencyError: Called by a signal handler inside a call on this connection,
                or during :meth:`recv_streaming`.
            UnicodeDecodeError: ``decode=True`` and the message is not UTF-8.
            TypeError, ValueError: An argument makes no sense; nothing was received.
        """
        if decode is not None:
            check_flag("decode", decode)
            message = self.recv(timeout)
            try:
                return converted(message, decode)
            except UnicodeDecodeError:
                raise
            except BaseException:
                # A Ctrl-C: the message is there for the next call.
                self._inbound.appendleft(message)
                lib.syncws_set_flags(self._c, lib.SYNCWS_FLAG_QUEUED, 0)
                raise
        if timeout is None:
            deadline = None
            milliseconds = -1
        else:
            deadline = check_timeout(timeout)
            milliseconds = int(min(timeout * 1000, 3_600_000))
        if self._inbound:
            if self._channel.streaming is not None:
                self._channel.check_streaming()
            try:
                # Not a call: a Ctrl-C at its end would lose the message.
                for message in self._queued:  # pragma: no branch: it has no end, it raises
                    return message
            except IndexError:
                pass  # another thread was faster
        code = 0
        try:
            if timeout is None:
                code = _receive_next(self._c)
            else:
                code = _receive(self._c, _OWN_MEMORY, milliseconds)
            key, packed, unclaimed, is_text = _last_memory
            if code >> _MEMORY_SHIFT != key:
                if code == _NO_SCRATCH:
                    code = _receive(self._c, thread_scratch(), milliseconds)
                if code <= _LENGTH_MASK:
                    return self._channel.receive(code, thread_scratch(), deadline)
                packed, unclaimed, is_text = _other_memory(code >> _MEMORY_SHIFT)
            data = packed[: code & _LENGTH_MASK]
            if is_text:
                data = data.decode()
            # Nothing is called between here and the caller: no signal handler runs.
            unclaimed[0] = 0
            return data
        except BaseException:
            if code not in _NOT_OURS:
                try:
                    self._channel.recover(thread_scratch())
                finally:
                    # Again C lets go in the first call after an exception, the second one.
                    _finish(self._c, _OWN_MEMORY, 0)
            raise

    def recv_many(self, timeout: float | None = None) -> list[str | bytes]:
        """Receives at least one message, and all others that are there already.

        Args:
            timeout: Seconds for the first; 0 takes only what is there, ``None`` waits.

        Raises:
            TimeoutError, ConnectionClosed, ConcurrencyError: As :meth:`recv`.
        """
        messages = [self.recv(timeout)]
        try:
            # One call that raises at its end: no signal handler comes in between.
            messages.extend(self._queued)
        except IndexError:
            pass
        return messages

    def recv_streaming(self, decode: bool | None = None, timeout: float | None = None) -> Pieces:
        """Receives one message in pieces, as they arrive.

        What arrives while nobody is in here is gathered, up to ``max_size``: it may be meant
        for :meth:`recv`.

        An iterator left before its end, or closed by its ``close()``, drops the rest of the
        message. It is for one thread.

        Args:
            decode: As for :meth:`recv`.
            timeout: Seconds for each piece; ``None`` waits.

        Raises:
            TypeError, ValueError: An argument makes no sense; at once, unlike the others, which
                the iterator raises.
            TimeoutError: No piece arrived in time; the iterator goes on with the next call.
            ConnectionClosed, ConcurrencyError: As :meth:`recv`.
        """
        if decode is not None:
            check_flag("decode", decode)
        check_timeout(timeout)
        return Pieces(self, self._channel, decode, timeout)

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterates over messages; ends when the connection is closed normally.

        Raises:
            ConnectionClosedError: It ended in any other way.
        """
        recv = self.recv
        try:
            while True:
                yield recv()
        except ConnectionClosedOK:
            return

    # -- sending ------------------------------------------------------------------

    def send(
        self,
        message: str | Buffer | Iterable[str | Buffer],
        text: bool | None = None,
        timeout: float | None = None,
        compress: bool | None = None,
    ) -> None:
        """Sends a message.

        Returns when the message is on its way: in the kernel or, up to ``write_limit``
        bytes, in this connection's queue. Whatever was passed may be changed afterwards.

        Args:
            message: ``str`` for text, bytes-like for binary, or an iterable of either,
                sent as one message in as many fragments, or more, where one exceeds
                ``max_frame_size``. If it raises after the first of them, the connection is
                closed with 1011.
            text: Overrides the type: ``True`` sends bytes (UTF-8, not checked) as text,
                ``False`` sends a ``str`` as binary.
            timeout: Seconds until it must be on its way; ``None`` waits.
            compress: ``False`` for a message not worth compressing, or not safe to compress
                with others; ``True``: even if it is short. Without compression: ignored.

        Raises:
            TimeoutError: The peer does not take data. The text says whether the
                connection can still be used: only if no byte of the message had left.
            ConnectionClosed: The connection is closing or closed.
            ConcurrencyError: Called by a signal handler inside a call on this connection.
            TypeError: ``message`` is neither text, nor bytes-like, nor iterable of these.
            UnicodeEncodeError: ``message`` has lone surrogates.
        """
        if type(message) is str:
            data = message.encode()
            first_byte = _FIN_TEXT
        elif type(message) is bytes:
            data = message
            first_byte = _FIN_BINARY
        else:
            whole = as_message(message)
            if whole is None:
                return self._send_fragments(message, text, check_timeout(timeout), compress)
            data, opcode = payload_of(whole)
            first_byte = 0x80 | opcode
        if text is not None:
            check_flag("text", text)
            first_byte = _FIN_TEXT if text else _FIN_BINARY
        deadline = None if timeout is None else check_timeout(timeout)
        if compress is not None:
            if self._channel.send_encoded(first_byte & 15, data, compress, deadline):
                return None
            first_byte |= _ENCODED
        result = _send(self._c, first_byte, data, len(data))
        if result:
            self._channel.send_slowly(result, first_byte, data, deadline)

    def _send_fragments(
        self,
        fragments: Any,
        text: bool | None,
        deadline: float | None,
        compress: bool | None,
    ) -> None:
        if compress is not None:
            check_flag("compress", compress)
        if text is not None:
            check_flag("text", text)
        if isinstance(fragments, dict):
            raise TypeError("message must not be a dict: send its values, or dump it first")
        try:
            iterator = iter(fragments)
        except TypeError:
            raise TypeError(
                "message must be str, bytes-like, or an iterable of these, "
                f"not {type(fragments).__name__}"
            ) from None
        self._channel.send_fragments(fragment_frames(iterator, text), compress, deadline)

    def ping(self, data: str | Buffer | None = None) -> PingWaiter:
        """Sends a ping.

        Args:
            data: At most 125 bytes; random if ``None``.

        Returns:
            An object to :meth:`~PingWaiter.wait` on for the pong; it may be ignored.

        Raises:
            ConnectionClosed: The connection is closing or closed.
            ConcurrencyError: A ping with the same ``data`` is waiting for its pong.
            TypeError, ValueError: ``data`` is of another type, or too long.
        """
        payload = None if data is None else control_payload(data)
        return PingWaiter(self._channel, self._channel.ping(payload))

    def pong(self, data: str | Buffer = b"") -> None:
        """Sends an unsolicited pong with ``data`` (RFC 6455 5.5.3); raises as :meth:`ping`."""
        result = self._channel.send_control(Opcode.PONG, control_payload(data))
        if result not in (lib.SYNCWS_OK, lib.SYNCWS_PENDING):
            self._channel.raise_closed(result, None)

    # -- closing ------------------------------------------------------------------

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection: closing handshake, then TCP, within ``close_timeout``.

        Never raises for what the peer does; calling it again is harmless. Messages that
        were received before can still be taken, as many as the inbound queue holds. A signal
        handler inside a call on this connection only begins it, and so does a finalizer that
        happens to run in a thread of the library.

        Args:
            code: 1000, 1001, ... or 3000-4999.
            reason: At most 123 bytes of UTF-8.

        Raises:
            TypeError, ValueError: ``code`` or ``reason`` must not be sent.
        """
        channel = self._channel
        close = Close.check(code, reason)
        self._refuse_in_child()
        channel.close(close)

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Waits until the connection is closed, by whichever side.

        Meanwhile up to ``max_size`` bytes of messages are queued that nobody receives: the
        end comes behind them.

        Args:
            timeout: Seconds; ``None`` waits.

        Returns:
            Whether it is closed.
        """
        deadline = check_timeout(timeout)
        self._refuse_in_child()
        channel = self._channel
        channel.hurry = True
        with channel.reading_on():
            lib.syncws_list(channel.c, 1)
            return channel.wait_until(lambda: channel.gone, deadline)

    def start_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begins to close without waiting; the reader thread does the rest.

        Its arguments, and the errors they raise, are those of :meth:`close`.
        """
        close = Close.check(code, reason)
        self._refuse_in_child()
        self._channel.start_close(close)

    def abort(self, reason: str = "aborted by this side") -> None:
        """Ends the connection at once, without a closing handshake (1006).

        Args:
            reason: Why, for the :exc:`ConnectionClosed` of this side; it is not sent.

        Raises:
            TypeError: ``reason`` is not a ``str``.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {type(reason).__name__}")
        self._refuse_in_child()
        self._channel.abort(None, reason)

    def _refuse_in_child(self) -> None:
        """What ends a connection, or waits for its end, raises in a forked child as all else."""
        if self._channel.forked:
            raise self._channel.exception()

    # -- for servers --------------------------------------------------------------

    def try_send(self, payload: bytes, opcode: int, compress: bool | None = None) -> bool:
        """Sends a message without waiting, but for a tenth of a second if another thread is
        encoding the beginning of its own.

        Args:
            payload: Its bytes.
            opcode: ``Opcode.TEXT`` or ``Opcode.BINARY``.
            compress: As for :meth:`send`.

        Returns:
            ``False`` if the queue is above ``write_limit``, or another message is in the
            middle of being sent.

        Raises:
            ConnectionClosed: The connection is closing or closed.
            TypeError, ValueError: ``payload`` is not ``bytes``, or ``opcode`` not one of the two.
        """
        if not isinstance(payload, bytes):
            raise TypeError(f"payload must be bytes, not {type(payload).__name__}")
        if opcode != Opcode.TEXT and opcode != Opcode.BINARY:
            raise ValueError("opcode must be Opcode.TEXT or Opcode.BINARY")
        return self._channel.post(0x80 | opcode, payload, compress)
