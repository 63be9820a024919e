"""Undoing what extensions have done to incoming messages.

What belongs here: from the records of the C decoder to records that no extension has
anything to do with any more. What does not: the extensions (:mod:`.extensions`), and where
the messages go (:mod:`.delivery`, :mod:`.protocol`).
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from .exceptions import ProtocolError
from .extensions import ExtensionChain, Fragment
from .frames import CloseCode, Opcode, Record, lib

__all__ = ["RecordDecoder"]

_PIECE = lib.SYNCWS_PIECE
_MESSAGE = lib.SYNCWS_MESSAGE
_CONTROL = lib.SYNCWS_CONTROL


class RecordDecoder:
    """Decodes the records of one connection. Not thread-safe.

    Args:
        chain: The extensions.

    Attributes:
        error: Why decoding has ended, if it has; nothing that comes later counts.
        busy: Extensions have begun with the records; set to False by the caller as soon as
            the result is where it belongs. A call that finds it True follows one that was
            interrupted: what extensions have taken cannot be given to them again.
    """

    __slots__ = ("_chain", "_gathered", "busy", "error")

    def __init__(self, chain: ExtensionChain) -> None:
        self._chain = chain
        # The beginning of a message. It gives its bytes away without a copy.
        self._gathered: io.BytesIO | None = None
        self.busy = False
        self.error: ProtocolError | None = None

    def decode(self, records: Iterable[Record], streaming: bool) -> list[Record]:
        """Decodes records, in order, up to the first that cannot be decoded.

        Args:
            records: As the C decoder gives them.
            streaming: The current message, or else the next one, is wanted in pieces.

        Returns:
            Records without RSV bits or opcodes of extensions. A message that was encoded is
            a ``MESSAGE``, or if it is wanted in pieces, one or more ``PIECE``.
        """
        found: list[Record] = []
        if self.busy:
            self._fail(InterruptedError("interrupted while an extension was decoding"))
        row: list[Record] = []  # whole encoded messages, which go faster together
        for record in records:
            if self.error is not None:
                break
            if self._is_whole(record) and not streaming:
                row.append(record)
                continue
            self._decode_row(row, found)
            if self.error is None:
                self._decode_other(record, streaming, found)
            if record.kind == _PIECE and record.last:
                streaming = False
        self._decode_row(row, found)
        return found

    def _is_encoded(self, record: Record) -> bool:
        return record.kind == _PIECE and (
            record.rsv != 0 or self._chain.sees_all or record.opcode > Opcode.BINARY
        )

    def _is_whole(self, record: Record) -> bool:
        return record.first and record.last and self._is_encoded(record)

    def _decode_row(self, row: list[Record], found: list[Record]) -> None:
        while row and self.error is None:
            self.busy = True
            messages, error = self._chain.decode_messages(row)
            if messages:
                # The messages say themselves what they are.
                found.append(Record(lib.SYNCWS_RUN, row[0].opcode, messages))
            del row[: len(messages)]
            if error is not None:
                self._fail(error)

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
                fragment = self._chain.decode(record)
            except Exception as error:
                self._fail(error)
                return
            if fragment is not None:
                self._take(fragment, streaming, found)
        else:
            found.append(record)

    def _take(self, fragment: Fragment, streaming: bool, found: list[Record]) -> None:
        opcode, data, first, last = fragment[:4]
        gathered, self._gathered = self._gathered, None
        if streaming:
            if gathered is not None:
                # It was asked for in pieces when some of it had come.
                found.append(Record(_PIECE, opcode, gathered.getvalue(), True, False))
            if data or last:
                found.append(Record(_PIECE, opcode, bytes(data), first, last))
            return
        if gathered is None:
            gathered = io.BytesIO()
        gathered.write(data)
        if last:
            message = gathered.getvalue()
            found.append(
                Record(_MESSAGE, opcode, message.decode() if opcode == Opcode.TEXT else message)
            )
        else:
            self._gathered = gathered

    def _fail(self, error: BaseException) -> None:
        if self.error is not None:
            return
        if not isinstance(error, ProtocolError):
            cause = error
            error = ProtocolError(f"an extension failed: {type(cause).__name__}: {cause}")
            error.close_code = CloseCode.INTERNAL_ERROR  # ours, not the peer's
            error.__cause__ = cause
        self.error = error
