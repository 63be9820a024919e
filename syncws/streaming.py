"""Receiving one message in pieces.

What belongs here: beginning, going on with and leaving a :class:`~.delivery.Stream`. What
does not: how its pieces come in (:mod:`.input`).
"""

from __future__ import annotations

import codecs
from collections.abc import Generator
from typing import Any, Self

from .delivery import Stream
from .exceptions import ConcurrencyError
from .frames import Opcode, Record, lib
from .input import DELIVERED, PARKED, InputChannel
from .messages import converted
from .options import check_timeout
from .transport import remaining
from .waiters import wait_milliseconds

__all__ = ["Pieces", "StreamingChannel"]


class _TimedOut(TimeoutError):
    """Raised where nothing has been taken: a signal handler's TimeoutError can come anywhere."""


class Pieces:
    """The iterator of ``recv_streaming()``: one message, piece by piece. For one thread.

    A :exc:`TimeoutError` of it loses nothing, and the next call goes on.

    Args:
        connection: Lives as long as this.
        channel: Its channel.
        decode: See ``recv_streaming()``.
        timeout: Seconds for each piece, or ``None``.
    """

    __slots__ = ("_broken", "_channel", "_complete", "_connection", "_pieces")

    def __init__(
        self,
        connection: object,
        channel: StreamingChannel,
        decode: bool | None,
        timeout: float | None,
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._pieces: Any = channel.pieces(decode, timeout)
        # Whether the message has been given as a whole, or an exception may have taken a piece.
        self._complete = False
        self._broken = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str | bytes:
        if self._complete:
            raise StopIteration
        if self._pieces.gi_running:
            raise ConcurrencyError("this iterator is in the middle of another call")
        if self._broken:
            self._pieces.close()
            raise self._failure()
        self._broken = True
        # No call with a piece in hand, not even next(): a Ctrl-C at its end would lose it.
        for piece in self._pieces:
            if piece is None:
                self._complete = True
                raise StopIteration
            self._broken = False
            if piece.__class__ is not TimeoutError:
                return piece  # type: ignore[no-any-return]  # of gi_running, typing knows nothing
            break
        else:
            raise self._failure()
        try:
            raise piece
        finally:
            # The traceback keeps this frame, which must not keep a message half received.
            del piece, self

    def _failure(self) -> Exception:
        """After an exception: the end of that must not look like the message's."""
        channel = self._channel
        if channel.end is not None or channel.gone:
            return channel.exception()
        return RuntimeError("recv_streaming() failed in the middle of its message, or was closed")

    def close(self) -> None:
        """Drops the rest of the message."""
        self._pieces.close()


class StreamingChannel(InputChannel):
    """The reading half with messages in pieces."""

    __slots__ = ()

    def pieces(
        self, decode: bool | None, timeout: float | None
    ) -> Generator[str | bytes | TimeoutError | None, None, None]:
        """The next message in pieces, then ``None`` for ever, for :class:`Pieces`.

        A timeout is given and not raised, for no generator survives that.

        Raises:
            ConnectionClosed, ConcurrencyError: As :meth:`receive`.
        """
        # No exception is kept: its traceback would keep the caller, and he this. And no second
        # generator: a Ctrl-C at the first line of that would come before its `try`.
        while True:
            try:
                whole = self.begin_stream(check_timeout(timeout))
                break
            except _TimedOut as error:
                text = str(error)
            yield TimeoutError(text)
        # No call from here to the `try`.
        stream = self.streaming
        count = 0 if stream is None else stream.count
        given = complete = False
        decoder = None
        try:
            if whole is not None:
                # No call with a message in hand that nobody has to convert.
                yield whole if decode is None else converted(whole, decode)
                complete = True
            while not complete:
                try:
                    piece = self.next_piece(check_timeout(timeout))
                except _TimedOut as error:
                    text = str(error)
                    piece = None
                if piece is None:
                    yield TimeoutError(text)
                    continue
                complete = piece.last
                if decoder is None and (piece.opcode == Opcode.TEXT if decode is None else decode):
                    decoder = codecs.getincrementaldecoder("utf-8")()
                part = piece.data if decoder is None else decoder.decode(piece.data, complete)
                if part or complete:
                    given = True
                    yield part
                elif not given and stream is not None:
                    # Half a character, or nothing: the program has seen none of the message.
                    stream.unseen.append(piece)
                    stream.taken = False
        finally:
            if stream is not None and whole is None:
                try:
                    self.end_stream()
                except BaseException:
                    # A Ctrl-C came before its last step; what came later may be another thread's.
                    if stream.fate == Stream.WANTED and stream.count == count:
                        self.end_stream()
                    raise
        while True:
            yield None

    def begin_stream(self, deadline: float | None) -> str | bytes | None:
        """Asks for the next message in pieces; the whole of it if it is queued already.

        Raises:
            TimeoutError, ConnectionClosed, ConcurrencyError: As :meth:`receive`.
        """
        while True:
            self.check_streaming()
            message = self.take_queued()
            if message is not None:
                return message
            if lib.syncws_is_mine(self.c):
                raise ConcurrencyError("this thread is in the middle of receiving already")
            fresh = Stream()
            stream = None
            try:
                try:
                    code = lib.syncws_take(self.c, lib.SYNCWS_TAKE_MESSAGE)
                    if code == lib.SYNCWS_OK:
                        count = lib.syncws_stream_count(self.c) + 1
                        stream = self.incoming
                        # What waits for extensions was received as whole messages, and what
                        # comes behind messages that were dropped is dropped.
                        if stream is None and not (self._backlog or self.decoder.dropping):
                            undo = self._undo
                            begun = [] if undo is None else undo.begun()
                            # No call from here on, so all of it or nothing.
                            stream = self.incoming = fresh
                            self.decoder.streaming = 1
                            if undo is not None:
                                fresh.pieces += begun
                                undo.gathered = None
                        if stream is not None and stream.fate != Stream.DROPPED:
                            stream.fate = Stream.WANTED
                            stream.count = count
                            self.streaming = stream
                finally:
                    begins = stream is not None and stream.fate == Stream.WANTED
                    flags = lib.syncws_leave(
                        self.c,
                        (PARKED if self.end is not None else 0)
                        | (DELIVERED if self.inbound else 0)
                        | (lib.SYNCWS_FLAG_STREAMED if begins else 0),
                    )
                    self.left(flags)
            except BaseException:
                if stream is not None and stream.fate == Stream.WANTED:
                    self.end_stream()
                raise
            if stream is not None and stream.fate == Stream.WANTED:
                return None
            if code == lib.SYNCWS_OK:
                # What waits for extensions has to pass first, or the rest of the message that
                # was left in the middle, or, behind dropped messages, all there is.
                waits = stream is not None or self.decoder.dropping
                milliseconds = wait_milliseconds(deadline) if waits else 0
                # Not if that rest has come since: what is ours may have come with it.
                code = self.read_once(lib.SYNCWS_TAKE_MESSAGE, milliseconds, stream)
                if self.inbound:
                    continue
            if code == lib.SYNCWS_STREAMED:
                continue
            if code == lib.SYNCWS_BUSY:
                self.follow(lib.SYNCWS_TAKE_MESSAGE, deadline)
            elif code != lib.SYNCWS_QUEUED:
                self.raise_ended(code)
            if remaining(deadline) == 0.0:
                raise _TimedOut("timed out: no message arrived in time")

    def next_piece(self, deadline: float | None) -> Record:
        """The next piece of the message.

        Raises:
            TimeoutError, ConnectionClosed, ConcurrencyError: As :meth:`receive`.
        """
        stream = self.streaming
        if stream is None:
            raise self.exception()  # in a forked child: the message is the parent's
        pieces = stream.pieces
        while not pieces:
            code = self.read_once(lib.SYNCWS_TAKE_WAIT, wait_milliseconds(deadline), stream)
            if pieces:
                break
            if code == lib.SYNCWS_BUSY:
                self.follow(lib.SYNCWS_TAKE_WAIT, deadline)
            elif code in (lib.SYNCWS_PARKED, lib.SYNCWS_GONE):
                self.raise_ended(code)
            if not pieces and remaining(deadline) == 0.0:
                raise _TimedOut("timed out: the rest of the message did not arrive in time")
        stream.taken = True
        return pieces.popleft()

    def end_stream(self) -> None:
        """Goes back to whole messages.

        What is left of a message is dropped if the program has seen a piece of it.
        """
        stream = self.streaming
        if stream is None:
            return
        count, taken = stream.count, stream.taken
        message = None
        if stream.unseen and not taken:
            unseen = stream.unseen[::-1]
            try:
                stream.pieces.extendleft(unseen)
            finally:
                stream.unseen = []
        if not taken and stream.finished:
            message = stream.whole([])[0]
        # No call between a look at what the owner or another thread changes and what follows from
        # it: as soon as the fate is known, another thread may begin, perhaps with this stream.
        if message is not None:
            # While nobody may take a message yet, so that none behind it comes first.
            try:
                self.inbound.appendleft(message)
            finally:
                stream.fate = Stream.DROPPED  # it is not put back a second time
                self.streaming = None
        elif taken:
            stream.fate = Stream.DROPPED
            self.streaming = None
            stream.pieces.clear()
        else:
            stream.fate = Stream.KEPT
            self.streaming = None
        # As in Connection.__del__, C may be gone.
        if self.reader.holds(self):  # type: ignore[arg-type]  # a whole one by now
            if message is not None:
                lib.syncws_set_flags(self.c, lib.SYNCWS_FLAG_QUEUED, 0)
            lib.syncws_stream_end(self.c, count, taken)
