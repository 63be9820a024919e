"""From the records of the C decoder to messages without a trace of extensions."""

from __future__ import annotations

from typing import Any

import pytest
from extending import Adding, agreed

from syncws.decoding import RecordDecoder
from syncws.exceptions import DecompressionError, PayloadTooBig, ProtocolError
from syncws.extension_chain import ExtensionChain
from syncws.extensions import (
    Fragment,
    Unit,
)
from syncws.frames import Opcode, Record, lib

TEXT, BINARY = Opcode.TEXT, Opcode.BINARY
PIECE, MESSAGE, CONTROL = lib.SYNCWS_PIECE, lib.SYNCWS_MESSAGE, lib.SYNCWS_CONTROL


def piece(data: bytes, first: bool = True, last: bool = True, rsv: int = 4) -> Record:
    return Record(PIECE, BINARY, data, first, last, rsv)


def row(*data: bytes, opcode: int = BINARY, rsv: int = 4) -> Record:
    return Record(lib.SYNCWS_ROW, opcode, [*data], rsv=rsv)


def decoder(*extensions: Any, max_size: int | None = None) -> RecordDecoder:
    return RecordDecoder(ExtensionChain(extensions, max_size))


def simple(records: list[Record]) -> list[Any]:
    """Messages and control frames by their data, pieces with where they stand."""
    found: list[Any] = []
    for record in records:
        if record.kind in (lib.SYNCWS_RUN, lib.SYNCWS_ROW):
            found += record.data
        elif record.kind == PIECE:
            found.append((record.data, record.first, record.last))
        else:
            found.append(record.data)
    return found


def decode(undo: RecordDecoder, records: list[Record], streaming: bool) -> list[Record]:
    """Decodes all of them."""
    found, rest = undo.decode(records, streaming)
    assert rest == []
    return found


def test_a15_what_is_encoded_and_what_is_not_keeps_its_order() -> None:
    undo = decoder(Adding(rsv=4))
    run = Record(lib.SYNCWS_RUN, 0, ["plain", b"run"])
    ping = Record(CONTROL, Opcode.PING, b"ping")
    whole = Record(MESSAGE, TEXT, "whole")
    records = [row(b"1!", b"2!"), run, piece(b"3!"), ping, whole, piece(b"4!")]
    assert simple(decode(undo, records, False)) == [
        b"1",
        b"2",
        "plain",
        b"run",
        b"3",
        b"ping",
        "whole",
        b"4",
    ]
    assert undo.busy
    undo.busy = False
    assert decode(undo, [ping], False) == [ping] and not undo.busy


def test_a_message_comes_when_its_last_piece_has_come() -> None:
    undo = decoder(Adding(b"", 4, unit=Unit.PIECE))
    assert decode(undo, [piece(b"a", True, False)], False) == []
    assert undo.gathered is not None
    undo.busy = False
    assert simple(decode(undo, [piece(b"b", False, True), piece(b"next")], False)) == [
        b"ab",
        b"next",
    ]
    assert undo.gathered is None


def test_pieces_where_pieces_are_wanted_and_whole_messages_behind_them() -> None:
    undo = decoder(Adding(b"", 4, unit=Unit.PIECE))
    records = [piece(b"a", True, False), piece(b"", False, False), piece(b"", False, True)]
    assert simple(decode(undo, [*records, piece(b"next"), piece(b"one")], True)) == [
        (b"a", True, False),
        (b"", False, True),
        b"next",
        b"one",
    ]


def test_pieces_wanted_in_the_middle() -> None:
    undo = decoder(Adding(b"", 4, unit=Unit.PIECE))
    assert undo.begun() == []
    decode(undo, [piece(b"a", True, False)], False)
    undo.busy = False
    assert simple(undo.begun()) == [(b"a", True, False)]
    # Nobody took it: whoever asked was interrupted.
    assert simple(decode(undo, [piece(b"b", False, True)], True)) == [
        (b"a", True, False),
        (b"b", False, True),
    ]
    assert undo.begun() == []


def test_an_extension_that_waits() -> None:
    undo = decoder(Adding(rsv=4))
    assert decode(undo, [piece(b"a", True, False)], True) == []
    undo.busy = False
    assert simple(decode(undo, [piece(b"b!", False, True)], True)) == [(b"ab", True, True)]


def test_a_message_of_many_small_parts_is_kept_in_few_objects() -> None:
    """However small they are: an object of one byte takes forty."""
    undo = decoder(Adding(b"", 4, unit=Unit.PIECE))
    data = bytes(range(256)) * 1000
    sizes = [1] * 1000 + [5000, 1, 4096, 70_000, 3]
    sizes.append(len(data) - sum(sizes))
    start = 0
    for number, size in enumerate(sizes):
        last = number == len(sizes) - 1
        found = decode(undo, [piece(data[start : start + size], number == 0, last)], False)
        start += size
        undo.busy = False
        if undo.gathered is not None:
            assert len(undo.gathered._parts) <= 9
            assert undo.gathered.copy() == data[:start]
    assert simple(found) == [data]


def test_small_parts_fill_a_block() -> None:
    undo = decoder(Adding(b"", 4, unit=Unit.PIECE))
    for number in range(17):
        decode(undo, [piece(b"x" * 4000, number == 0, False)], False)
        undo.busy = False
    assert undo.gathered is not None
    assert list(map(len, undo.gathered._parts)) == [68_000]
    assert simple(decode(undo, [piece(b"", False, True)], False)) == [b"x" * 68_000]


def test_nothing_counts_after_an_error() -> None:
    extension = Adding(rsv=4, opcodes=[11])
    undo = decoder(extension)
    bad = [piece(b"good!"), piece(b"bad"), piece(b"late!"), Record(CONTROL, Opcode.PING, b"")]
    assert simple(decode(undo, bad, False)) == [b"good"]
    error = undo.error
    assert error is not None and error.close_code == 1011
    assert str(error) == "an extension failed: ValueError: no mark"
    assert isinstance(error.__cause__, ValueError)
    undo.busy = False
    assert decode(undo, [piece(b"later!")], False) == []
    assert undo.error is error


@pytest.mark.parametrize("streaming", [False, True])
def test_an_error_in_the_middle_of_a_message(streaming: bool) -> None:
    _, server = agreed()
    undo = decoder(server)
    records = [piece(b"\xf2\x48", True, False), piece(b"\xff\xff\xff", False, False), piece(b"")]
    decode(undo, records, streaming)
    assert isinstance(undo.error, DecompressionError)
    assert undo.error.close_code == 1007


def test_c11_the_limit_is_that_of_the_contents() -> None:
    client, server = agreed()
    wire = client.encode(Fragment(BINARY, bytes(1000))).data
    for limit in (999, 1000):
        _, server = agreed()
        undo = decoder(server, max_size=limit)
        found = decode(undo, [piece(wire)], False)
        assert (limit == 1000) == (undo.error is None) == bool(found)
        if undo.error is not None:
            assert isinstance(undo.error, PayloadTooBig) and undo.error.close_code == 1009


def test_control_frames_of_extensions() -> None:
    extension = Adding(opcodes=[11, 3])
    undo = decoder(extension)
    assert decode(undo, [Record(CONTROL, 11, b"data")], False) == []
    assert extension.calls == [("control", 11, b"data")]
    assert simple(decode(undo, [], False)) == []


def test_a_row_goes_on_where_an_extension_has_stopped() -> None:
    client, server = agreed()
    sender = ExtensionChain([client], None)
    big = [bytes([number]) * 700_000 for number in range(4)]
    wires = [bytes(sender.encode_message(BINARY, each, True)[1]) for each in big]
    undo = decoder(server)
    # Of a row an extension decodes so much that others get their turn.
    found = decode(undo, [row(*wires)], False)
    assert [record.kind for record in found] == [lib.SYNCWS_RUN] * 2
    assert simple(found) == big


def test_what_exceeds_the_room_is_left_for_later() -> None:
    client, server = agreed()
    sender = ExtensionChain([client], None)
    big = [bytes([number]) * 700_000 for number in range(5)]
    wires = [bytes(sender.encode_message(BINARY, each, True)[1]) for each in big]
    undo = decoder(server)
    records = [row(*wires[:3]), Record(CONTROL, Opcode.PING, b"ping"), row(*wires[3:])]
    found, rest = undo.decode(records, False, 1)
    assert simple(found) == big[:2]
    assert simple(rest) == [wires[2], b"ping", *wires[3:]]
    # None of it has changed: the call may be repeated after an interrupt that came too late.
    assert simple(records) == [*wires[:3], b"ping", *wires[3:]]
    undo.busy = False
    found, rest = undo.decode(rest, False, 700_001)
    assert simple(found) == [big[2], b"ping", big[3], big[4]] and rest == []


def test_behind_an_error_nothing_is_left_for_later() -> None:
    undo = decoder(Adding(rsv=4))
    found, rest = undo.decode([piece(b"long!"), piece(b"no mark"), piece(b"x!")], False, 4)
    assert simple(found) == [b"long"] and len(rest) == 2
    undo.busy = False
    assert undo.decode(rest, False, 4) == ([], [])
    assert undo.error is not None


def test_an_error_in_a_row() -> None:
    undo = decoder(Adding(rsv=4))
    assert simple(decode(undo, [row(b"1!", b"no mark", b"3!"), row(b"4!")], False)) == [b"1"]
    assert undo.error is not None and undo.error.close_code == 1011


def test_an_error_in_a_control_frame() -> None:
    class Failing(Adding):
        def receive_control(self, opcode: int, data: bytes) -> None:
            raise ProtocolError("not now")

    undo = decoder(Failing(opcodes=[11]))
    assert decode(undo, [Record(CONTROL, 11, b""), Record(CONTROL, Opcode.PING, b"")], False) == []
    assert undo.error is not None and undo.error.close_code == 1002


def test_an_interrupted_call_fails_the_connection_and_not_another_message() -> None:
    class Interrupted(Adding):
        def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
            raise KeyboardInterrupt

    undo = decoder(Interrupted(rsv=4))
    with pytest.raises(KeyboardInterrupt):
        decode(undo, [piece(b"x")], False)
    assert undo.busy and undo.error is None
    assert decode(undo, [piece(b"x")], False) == []
    assert undo.error is not None and undo.error.close_code == 1011
    assert isinstance(undo.error.__cause__, InterruptedError)
    # Still busy: the first error is the one that counts.
    first = undo.error
    assert decode(undo, [piece(b"2!")], False) == []
    assert undo.error is first
