"""Undoing what extensions have done to incoming messages.

What belongs here: from the records of the C decoder to records that no extension has
anything to do with any more. What does not: the extensions (:mod:`.extensions`), and where
the messages go (:mod:`.delivery`, :mod:`.protocol`).
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from .exceptions import ProtocolError
from .extension_chain import ExtensionChain, Gathered
from .extensions import Fragment
from .frames import CloseCode, Opcode, Record, lib

__all__ = ["RecordDecoder"]

_PIECE = lib.SYNCWS_PIECE
_MESSAGE = lib.SYNCWS_MESSAGE
_ROW = lib.SYNCWS_ROW
_CONTROL = lib.SYNCWS_CONTROL


def _piece(opcode: int, data: bytes) -> Record:
    """The beginning of a message that goes on."""
    return Record(_PIECE, opcode, data, True, False)


class RecordDecoder:
    """Decodes the records of one connection. Not thread-safe.

    Args:
        chain: The extensions.

    Attributes:
        error: Why decoding has ended, if it has; nothing that comes later counts.
        gathered: The beginning of a message that is not wanted in pieces.
        busy: Extensions have begun with the records; set to False by the caller as soon as
            the result is where it belongs. A call that finds it True follows one that was
            interrupted: what extensions have taken cannot be given to them again.
    """

    __slots__ = ("_chain", "_made", "_opcode", "busy", "error", "gathered")

    def __init__(self, chain: ExtensionChain) -> None:
        self._chain = chain
        self.gathered: Gathered | None = None
        self._opcode = 0  # of that message
        self._made = 0  # bytes that extensions made in this call
        self.busy = False
        self.error: ProtocolError | None = None

    def decode(
        self, records: Iterable[Record], streaming: bool, room: int | None = None
    ) -> tuple[list[Record], list[Record]]:
        """Decodes records, in order, up to the first that cannot be decoded.

        Args:
            records: As the C decoder gives them.
            streaming: The current message, or else the next one, is wanted in pieces.
            room: Bytes after which extensions need not make more; ``None``: no limit.

        Returns:
            Records without RSV bits or opcodes of extensions, and the rest, to be decoded
            later. A message that was encoded is a ``MESSAGE``, or if it is wanted in pieces,
            one or more ``PIECE``.
        """
        found: list[Record] = []
        rest = collections.deque(records)
        self._made = 0
        if self.busy:
            self._fail(InterruptedError("interrupted while an extension was decoding"))
        while rest and self.error is None and (room is None or self._made < room):
            record = rest.popleft()
            if record.kind == _ROW:
                later = self._decode_row(record, found)
                if later:
                    rest.appendleft(record._replace(data=later))
                continue
            self._decode_other(record, streaming, found)
            if record.kind == _PIECE and record.last:
                streaming = False
        return found, [] if self.error is not None else list(rest)

    def _is_encoded(self, record: Record) -> bool:
        return record.kind == _PIECE and (
            record.rsv != 0 or self._chain.sees_all or record.opcode > Opcode.BINARY
        )

    def _decode_row(self, record: Record, found: list[Record]) -> list[bytes]:
        """Decodes messages of a row, not many more than memory allows; returns the others."""
        encoded: list[bytes] = record.data
        self.busy = True
        messages, error = self._chain.decode_messages(record.opcode, record.rsv, encoded)
        if messages:
            # The messages say themselves what they are.
            found.append(Record(lib.SYNCWS_RUN, record.opcode, messages))
            self._made += sum(map(len, messages))
        if error is not None:
            self._fail(error)
        return encoded[len(messages) :]

    def _decode_other(self, record: Record, streaming: bool, found: list[Record]) -> None:
        if record.kind == _CONTROL and record.opcode > Opcode.PONG:
            self.busy = True
            try:
                self._chain.receive_control(record.opcode, record.data)
            except Exception as error:
                self._fail(error)
        elif self._is_encoded(record):
            self.busy = True
            try:
                decoded = self._chain.decode_parts(record)
                if decoded is not None:
                    self._take(*decoded, streaming, found)
            except Exception as error:
                self._fail(error)
        else:
            found.append(record)

    def _take(
        self, fragment: Fragment, parts: list[bytes], streaming: bool, found: list[Record]
    ) -> None:
        opcode, last = fragment.opcode, fragment.last
        self._made += sum(map(len, parts))
        gathered, self.gathered = self.gathered, None
        if streaming:
            if gathered is not None:
                # Whoever asked for pieces was interrupted before taking it.
                found.append(_piece(opcode, gathered.take()))
            parts = [part for part in parts if part] or ([b""] if last else [])
            for number, part in enumerate(parts, 1):
                ends = last and number == len(parts)
                found.append(Record(_PIECE, opcode, part, fragment.first and number == 1, ends))
            return
        if gathered is None:
            gathered = Gathered()
        # The list is emptied: it would keep each part until the message is put together.
        parts.reverse()
        while parts:
            gathered.add(parts.pop())
        if last:
            message = gathered.take()
            found.append(
                Record(_MESSAGE, opcode, message.decode() if opcode == Opcode.TEXT else message)
            )
        else:
            self.gathered, self._opcode = gathered, opcode

    def begun(self) -> list[Record]:
        """What of an unfinished message was decoded, as a piece; it stays here, too."""
        gathered = self.gathered
        return [] if gathered is None else [_piece(self._opcode, gathered.copy())]

    def _fail(self, error: BaseException) -> None:
        if self.error is not None:
            return
        if not isinstance(error, ProtocolError):
            cause = error.with_traceback(None)
            error = ProtocolError(f"an extension failed: {type(cause).__name__}: {cause}")
            error.close_code = CloseCode.INTERNAL_ERROR  # ours, not the peer's
            error.__cause__ = cause
        # Without the frames in which it was raised: they hold what was decoded so far.
        self.error = error.with_traceback(None)
        self.gathered = None
