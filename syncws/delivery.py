"""From what C decoded to messages that wait to be received.

What belongs here: the inbound queue, messages in pieces, and how full a connection is.
What does not: reading and who may do it (:mod:`.input`), and acting on control frames and
on the end of the input (:mod:`.channel`).

The owner of the channel delivers; any thread takes messages out, without a lock.
"""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .decoding import RecordDecoder
from .encoding import EncodingChannel
from .extension_chain import ExtensionChain
from .frames import Opcode, Record, Side, failure_error, lib, limit, read_records
from .options import Options
from .reader import Reader
from .transport import Transport

__all__ = ["HIGH_WATER", "LAST_WORDS", "DeliveryChannel", "Stream"]

# Inbound bytes beyond which the reader thread stops reading; it goes on at a quarter.
HIGH_WATER = 2**20
# The same while somebody waits for what the peer said before writing to it failed, whatever
# `max_size` is: more than the system keeps for a connection.
LAST_WORDS = 16 * 2**20


class Stream:
    """One message in pieces. The owner of the channel fills it, one thread empties it."""

    # What becomes of it.
    WANTED = 0  # its iterator goes on
    DROPPED = 1  # its iterator was left in the middle, or has ended
    KEPT = 2  # its iterator was left before its first piece: recv() gets all of it

    __slots__ = ("count", "fate", "finished", "pieces", "taken", "unseen")

    def __init__(self) -> None:
        self.pieces: collections.deque[Record] = collections.deque()
        # Whether its last piece came; set by the owner.
        self.finished = False
        # Set by the thread that empties it: whether it has given some of it to the program, or
        # is about to; what it took out and could not give yet.
        self.taken = False
        self.unseen: list[Record] = []
        self.fate = Stream.WANTED
        # What C calls it; set by the owner.
        self.count = 0

    def whole(self, more: list[Record]) -> list[str | bytes]:
        """The message of its pieces and ``more``, in a list."""
        pieces = [*self.pieces, *more]
        data = b"".join(piece.data for piece in pieces)
        return [data.decode() if pieces[0].opcode == Opcode.TEXT else data]


# Results of C after which there are records.
_DECODED = frozenset({lib.SYNCWS_RECORDS, lib.SYNCWS_RECORDS_MORE, lib.SYNCWS_RECORDS_FAILED})


class DeliveryChannel(EncodingChannel):
    """The inbound queue. Methods may be called by any thread unless they say otherwise.

    Args:
        transport: What moves the bytes; ours from now on.
        side: Which end we are.
        reader: The reader thread that looks after it.
        options: Limits and timeouts.
        chain: The extensions, if any.
    """

    __slots__ = (
        "_backlog",
        "_inbound_bytes",
        "_paused_length",
        "_portions",
        "_undo",
        "decoder",
        "end",
        "inbound",
        "incoming",
        "queued",
        "side",
        "streaming",
    )

    def __init__(
        self,
        transport: Transport,
        side: Side,
        reader: Reader,
        options: Options,
        chain: ExtensionChain | None,
    ) -> None:
        super().__init__(transport, side, reader, options, chain)
        self.side = side
        # Belongs to the owner of the channel; C uses it without a lock.
        self.decoder = lib.syncws_channel_decoder(self.c)
        lib.syncws_decoder_init(
            self.decoder,
            side,
            limit(options.max_frame_size),
            limit(options.max_size),
            limit(options.max_fragments),
        )
        # The owner's: what extensions did to messages is undone.
        self._undo: RecordDecoder | None = None
        if chain is not None:
            chain.configure(self.decoder)
            self._undo = RecordDecoder(chain)
        # The owner's: what extensions have not decoded yet, for it may become a thousand times
        # as long. As long as there is any, `decoder.backlog` is set, and nothing is read. The
        # reader thread asks whether there is some, to wake up for it.
        self._backlog: Sequence[Record] = ()
        # How often some of it was decoded: counted by the owner, compared by keepalive.
        self._portions = 0
        # Whole messages; appended to by the owner, popped by any thread without a lock.
        self.inbound: collections.deque[str | bytes] = collections.deque()
        # Pops them; raises IndexError if there is none. A `for` over it takes a message
        # without a call: the interpreter looks for signals after calls, and the result of
        # one that is interrupted there is lost.
        self.queued: Iterator[str | bytes] = iter(self.inbound.popleft, None)
        # An upper bound of their size: what was delivered since the last exact count.
        self._inbound_bytes = 0
        # The queue's length when the reader thread last asked whether to go on.
        self._paused_length = -1
        # The owner's: the message that comes in pieces, until its last one came.
        self.incoming: Stream | None = None
        # The message of the last recv_streaming(), if it may be under way.
        self.streaming: Stream | None = None
        # How the input ended: a close frame's payload or an exception. Set by the owner.
        self.end: bytes | BaseException | None = None

    def control(self, record: Record) -> None:
        """Acts on a ping or pong (the owner)."""
        raise NotImplementedError

    def take_queued(self) -> str | bytes | None:
        """A message of the inbound queue, or ``None`` after telling C that it is empty."""
        generation = lib.syncws_generation(self.c)
        try:
            # It never ends: an empty queue raises.
            for message in self.queued:  # pragma: no branch
                return message
        except IndexError:
            lib.syncws_seen_empty(self.c, generation)
        return None

    # -- delivery (the owner) -----------------------------------------------------

    def _digest(self, scratch: Any, code: int) -> None:
        """Delivers what a read brought, and notes how the input ended, if it did."""
        while code in _DECODED and scratch.unclaimed & 1:
            if scratch.unclaimed == lib.SYNCWS_UNCLAIMED:
                self._claim(scratch)
            if self.decoder.handed_out:
                # An idle connection keeps no memory for its biggest message.
                lib.syncws_decoder_reclaim(self.decoder)
            if code != lib.SYNCWS_RECORDS_MORE or self.end is not None:
                scratch.unclaimed = lib.SYNCWS_CLAIMED  # behind the end nobody wants the rest
                break
            code = lib.syncws_decode_rest(self.c, scratch)
        self._decode_backlog()
        if self.end is not None or self._backlog:
            return
        if self.decoder.failure:  # whatever `code` is: an interrupt may have come before
            self.end = failure_error(self.decoder)
        elif code == lib.SYNCWS_END_OF_STREAM:
            self.end = EOFError("the connection ended without a close frame")
        elif code == lib.SYNCWS_READ_FAILED:
            cause = self.closing.cause
            self.end = (
                cause
                if isinstance(cause, OSError)
                else OSError(scratch.error_number, os.strerror(scratch.error_number))
            )

    def _claim(self, scratch: Any) -> None:
        """Takes what C decoded out of the scratch."""
        more = scratch.code == lib.SYNCWS_RECORDS_MORE
        left = lib.SYNCWS_REST if more else lib.SYNCWS_CLAIMED
        if self._undo is None:
            return self._deliver(read_records(scratch), scratch, left)
        backlog = [*self._backlog, *read_records(scratch)]
        waits = 1 if backlog else 0
        # No call from here on, so all of it or nothing.
        self.decoder.backlog = waits
        self._backlog = backlog
        scratch.unclaimed = left

    def _decode_backlog(self) -> None:
        """Lets extensions decode until the inbound queue is full, but some of it in any case."""
        undo = self._undo
        while undo is not None and self._backlog and self.end is None:
            records, rest = undo.decode(self._backlog, self.incoming is not None, HIGH_WATER)
            self._deliver(records, None, 0, rest)
            self._portions += 1
            if rest and self._should_pause():
                break

    def _deliver(
        self, records: Iterable[Record], scratch: Any, left: int, rest: Sequence[Record] = ()
    ) -> None:
        """Delivers all of them or, if it is interrupted, none.

        Args:
            scratch: What they are from; its ``unclaimed`` becomes ``left``.
            rest: What becomes the backlog instead, if they are from there.
        """
        messages: list[str | bytes] = []
        pieces: list[Record] = []
        size = 0
        waits = 1 if rest else 0
        undo = self._undo
        end: bytes | BaseException | None = None
        for record in records:
            kind = record.kind
            if kind == lib.SYNCWS_RUN:
                messages += record.data
                size += sum(map(len, record.data))
            elif kind == lib.SYNCWS_MESSAGE:
                messages.append(record.data)
                size += len(record.data)
            elif kind == lib.SYNCWS_CONTROL:
                if record.opcode == Opcode.CLOSE:
                    end = record.data
                else:
                    self.control(record)
            else:
                pieces.append(record)
                size += len(record.data)
        if undo is not None and undo.error is not None and end is None:
            self.decoder.closed = 1  # nothing is decoded behind it
            end = undo.error
        drops = self.decoder.dropping
        if messages and self.closing.sent is not None and (drops or self._over(HIGH_WATER)):
            # Nobody may ever take them, and the close frame must be reached.
            drops = 1
            messages = []
        stream = self.incoming
        finished = bool(pieces) and pieces[-1].last
        while True:
            fate = None if stream is None else stream.fate
            kept = messages
            if stream is not None and finished and fate == Stream.KEPT:
                # Whole messages can only have come after the last piece.
                whole = stream.whole(pieces)
                kept = whole + messages
                size += len(whole[0])  # its pieces were not counted as queued
            # No call from here on, so no signal handler and no other thread in between.
            if stream is not None and stream.fate != fate:
                continue
            self.inbound += kept
            self._inbound_bytes += size
            if drops:
                self.decoder.dropping = 1
            if undo is None:
                scratch.unclaimed = left
            else:
                undo.busy = False
                self._backlog = rest
                self.decoder.backlog = waits
            if end is not None:
                self.end = end
            if stream is not None:
                if fate != Stream.DROPPED:
                    stream.pieces += pieces
                if finished:
                    stream.finished = True
                    self.incoming = None
            return

    def _queued_pieces(self) -> tuple[Record, ...]:
        # Those of a message that is to become whole are no queue: it may always be completed.
        stream = self.incoming
        return () if stream is None or stream.fate == Stream.KEPT else tuple(stream.pieces)

    def _over(self, high: int) -> bool:
        """Whether the inbound queue is above ``high`` bytes or ``max_queue`` messages."""
        queued = len(self.inbound) + len(self._queued_pieces())
        if self.options.max_queue is not None and queued >= self.options.max_queue:
            # While a sender waits, bytes are what counts.
            if not self.senders:
                return True
        if self._inbound_bytes <= high:
            return False
        pieces = sum(len(piece.data) for piece in self._queued_pieces())
        self._inbound_bytes = sum(map(len, tuple(self.inbound))) + pieces
        return self._inbound_bytes > high

    def _should_pause(self) -> bool:
        if self.closing.sent is not None:
            return False
        if not self.senders:
            return self._over(HIGH_WATER)
        # Two peers that both send before they read must both finish.
        mark = limit(self.options.max_size)
        return self._over(mark if self.write_error is None else max(mark, LAST_WORDS))

    def is_overfull(self) -> bool:
        """Whether reading has stopped although somebody waits for more than messages."""
        return bool(lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_PAUSED) and self._should_pause()

    @contextlib.contextmanager
    def reading_on(self) -> Iterator[None]:
        """As long as a sender would, who waits for the end or a pong keeps it being read."""
        token = object()  # a signal handler in here may wait, too
        try:
            self.senders.add(token)
            self.resume_reading()
            yield
        finally:
            self.senders.discard(token)

    def resume_reading(self) -> None:
        """Reading goes on although the inbound queue is full."""
        if lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_PAUSED and not self._should_pause():
            lib.syncws_set_flags(self.c, 0, lib.SYNCWS_FLAG_PAUSED)

    def _check_paused(self) -> bool:
        """Every tick of the reader while paused: True when it need not ask again."""
        if not lib.syncws_flags(self.c) & lib.SYNCWS_FLAG_PAUSED:
            return True
        # Set by threads that ask for the input without taking any of it.
        urgent = bool(self.senders or self.closing.sent)
        length = len(self.inbound) + len(self._queued_pieces())
        if length == self._paused_length and not urgent:
            return self.gone
        self._paused_length = length
        maximum = self.options.max_queue
        low = maximum is None or length <= maximum // 4
        if not self._should_pause() and (urgent or (low and not self._over(HIGH_WATER // 4))):
            lib.syncws_set_flags(self.c, 0, lib.SYNCWS_FLAG_PAUSED)
            return True
        return self.gone
