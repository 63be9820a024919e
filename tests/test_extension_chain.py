"""Extensions that work together: order, units, limits, ownership of bits and opcodes."""

from __future__ import annotations

import array
import ctypes
import random
import threading
from typing import Any

import pytest
from extending import Adding, agreed, pass_on, protocols

from syncws.exceptions import InvalidText, PayloadTooBig, ProtocolError
from syncws.extension_chain import ExtensionChain, encoded_limit
from syncws.extensions import (
    Extension,
    Fragment,
    Unit,
)
from syncws.frames import UNLIMITED, Opcode, Record, lib
from syncws.permessage_deflate import ClientPerMessageDeflateFactory
from syncws.protocol import Failed

TEXT, BINARY = Opcode.TEXT, Opcode.BINARY


def piece(data: bytes, first: bool = True, last: bool = True, **more: Any) -> Record:
    return Record(lib.SYNCWS_PIECE, more.pop("opcode", BINARY), data, first, last, **more)


# -- the order ------------------------------------------------------------------------------


def test_encoding_in_order_decoding_in_reverse() -> None:
    ours = [Adding(b"1", 4, name="one"), Adding(b"2", 2, name="two"), Adding(b"3", name="three")]
    theirs = [Adding(b"1", 4, name="one"), Adding(b"2", 2, name="two"), Adding(b"3", name="three")]
    sender, receiver = protocols(ours, theirs)
    sender.send_message("text")
    (frame,) = sender.data_to_send()
    assert frame[0] == 0x80 | 6 << 4 | 1
    receiver.receive_data(frame)
    assert receiver.events_received() == ["text"]
    assert [each.calls[-1][1] for each in theirs] == [b"text1", b"text12", b"text123"]


def test_with_compression_in_between() -> None:
    client, server = agreed()
    sender, receiver = protocols(
        [Adding(b"1", 2), client, Adding(b"2", 1)], [Adding(b"1", 2), server, Adding(b"2", 1)]
    )
    for message in ("x" * 1000, b"", b"y" * 200):
        sender.send_message(message)
        assert pass_on(sender, receiver, 7) == [message]
    assert receiver._chain is not None
    assert set(receiver._chain.statistics()) == {"adding", "permessage-deflate"}


def test_messages_without_its_bit_are_not_shown_to_an_extension() -> None:
    theirs = Adding(b"?", 4)
    sender, receiver = protocols([], [theirs])
    sender.send_message("plain")
    assert pass_on(sender, receiver) == ["plain"]
    assert theirs.calls == []


# -- units ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "shown"),
    [
        (Unit.PIECE, [b"ab", b"c", b"d", b"", b"e"]),
        (Unit.FRAME, [b"abc", b"d", b"e"]),
        (Unit.MESSAGE, [b"abcde"]),
    ],
)
def test_units(unit: Unit, shown: list[bytes]) -> None:
    extension = Adding(b"", 4, unit=unit)
    chain = ExtensionChain([extension], None)
    parts = [(b"ab", False), (b"c", True), (b"d", True), (b"", False), (b"e", True)]
    got = b""
    for index, (data, end) in enumerate(parts):
        part = chain.decode(piece(data, index == 0, index == 4, rsv=4, frame_end=end))
        if part is not None:
            assert part.rsv & ~4 == 0
            got += part.data
    assert got == b"abcde"
    assert [call[1] for call in extension.calls] == shown
    encoded = [
        chain.encode(Fragment(BINARY, data, index == 0, index == 4, frame_end=end))
        for index, (data, end) in enumerate(parts)
    ]
    done = [each for each in encoded if each is not None]
    assert [each.data for each in done] == shown
    assert [each.first for each in done] == [True] + [False] * (len(shown) - 1)
    assert done[-1].last and done[0].rsv == 4
    # The next message finds nothing of it.
    again = chain.encode(Fragment(BINARY, b"new"))
    assert again is not None and again.data == b"new" and again.first


@pytest.mark.parametrize(
    ("units", "shown"),
    [
        ([Unit.FRAME, Unit.MESSAGE], [[b"onetwo"], [b"onetwo1"]]),
        ([Unit.MESSAGE, Unit.FRAME], [[b"onetwo"], [b"onetwo1"]]),
        ([Unit.FRAME, Unit.PIECE], [[b"one", b"two"], [b"one1", b"two1"]]),
        (
            [Unit.FRAME, Unit.PIECE, Unit.MESSAGE],
            [[b"onetwo"], [b"onetwo1"], [b"onetwo12"]],
        ),
    ],
)
def test_extensions_decode_what_they_encoded_whatever_units_the_others_want(
    units: list[Unit], shown: list[list[bytes]]
) -> None:
    """A frame is none any more where a later extension makes one of a whole message."""

    def extensions() -> list[Adding]:
        return [Adding(b"%d" % number, unit=unit) for number, unit in enumerate(units, 1)]

    ours, theirs = extensions(), extensions()
    sender, receiver = protocols(ours, theirs)
    sender.send_message(b"one", fin=False)
    sender.send_continuation(b"two", fin=True)
    assert pass_on(sender, receiver) == [b"onetwo"]
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        encoded = [call[1] for call in our.calls]
        assert encoded == shown[number]
        assert [call[1] for call in their.calls] == [data + our.mark for data in encoded]


@pytest.mark.parametrize(
    ("units", "frame_size", "shown"),
    [
        ([Unit.FRAME], 9, [b"abcd", b"ef", b"g", b"hijk", b"lmno", b"pqr", b""]),
        ([Unit.MESSAGE, Unit.FRAME], 9, [b"abcd", b"efgh", b"ijkl", b"mnop", b"qr1"]),
        (
            [Unit.PIECE, Unit.FRAME, Unit.FRAME],
            9,
            [b"abcd", b"ef1", b"g1", b"hijk", b"1lmn", b"opqr", b"1", b"1"],
        ),
        ([Unit.FRAME], 1, [bytes([byte]) for byte in b"abcdefghijklmnopqr"] + [b""]),
        ([Unit.FRAME], 2**64 - 1, [b"abcdef", b"g", b"hijklmnopqr", b""]),
    ],
)
def test_an_extension_of_frames_is_shown_what_can_be_sent_as_a_frame(
    units: list[Unit], frame_size: int, shown: list[bytes]
) -> None:
    """Cut behind it, other frames would come to the one that decodes them."""
    extensions = [Adding(b"%d" % number, unit=unit) for number, unit in enumerate(units, 1)]
    chain = ExtensionChain(extensions, None)
    parts = [(b"abcdef", True), (b"g", True), (b"hijk", False), (b"lmnopqr", True), (b"", True)]
    fragments = [
        Fragment(BINARY, data, index == 0, index == 4, frame_end=end)
        for index, (data, end) in enumerate(parts)
    ]
    got = list(chain.encode_parts(fragments, frame_size))
    first = units.index(Unit.FRAME)
    assert chain.of_frames
    assert [call[1] for call in extensions[first].calls] == shown
    assert all(each.frame_end for each in got)
    assert [each.first for each in got] == [True] + [False] * (len(got) - 1)
    assert [each.last for each in got] == [False] * (len(got) - 1) + [True]
    # Later ones are shown the frames that this one made.
    marks = b"".join(extension.mark for extension in extensions[first:])
    assert [bytes(each.data) for each in got] == [data + marks for data in shown]


@pytest.mark.parametrize("units", [[Unit.PIECE], [Unit.MESSAGE], [Unit.FRAME, Unit.MESSAGE]])
def test_nothing_is_cut_where_no_extension_is_shown_frames(units: list[Unit]) -> None:
    chain = ExtensionChain([Adding(b"", unit=unit) for unit in units], None)
    assert not chain.of_frames
    got = list(chain.encode_parts([Fragment(BINARY, b"abc")], 1))
    assert [each.data for each in got] == [b"abc"]


def test_what_an_extension_may_add_to_a_frame_fits() -> None:
    chain = ExtensionChain([Adding(b"", unit=Unit.FRAME)], None)
    for frame_size in (2200, 100_000, 2**20):
        data = bytes(3 * frame_size)
        got = list(chain.encode_parts([Fragment(BINARY, data)], frame_size))
        longest = max(len(each.data) for each in got)
        assert longest + longest // 16 + 1024 in (frame_size, frame_size - 1)
        assert b"".join(each.data for each in got) == data


def test_what_is_gathered_is_a_copy() -> None:
    chain = ExtensionChain([Adding(b"")], None)
    data = bytearray(b"abc")
    assert chain.encode(Fragment(BINARY, memoryview(data), True, False)) is None
    data[:] = b"xyz"
    encoded = chain.encode(Fragment(BINARY, b"def", False, True))
    assert encoded is not None and encoded.data == b"abcdef"


@pytest.mark.parametrize("unit", [Unit.FRAME, Unit.MESSAGE])
def test_what_is_gathered_is_kept_in_few_objects(unit: Unit) -> None:
    """However small the reads are: an object of one byte takes more than a hundred."""
    extension = Adding(b"", unit=unit)
    chain = ExtensionChain([extension], None)
    stage = chain._decoders[0]
    data = random.Random(1).randbytes(250_000)
    sizes = [1] * 1000 + [5000, 4096, 1, 4095, *[4000] * 20, 70_000, 3]
    sizes.append(len(data) - sum(sizes))
    start = 0
    for number, size in enumerate(sizes):
        last = number == len(sizes) - 1
        part = piece(data[start : start + size], number == 0, last, frame_end=last)
        decoded = chain.decode(part)
        start += size
        if not last:
            assert decoded is None and stage.gathered is not None
            assert len(stage.gathered._parts) <= 9
            assert stage.gathered.copy() == data[:start]
    assert decoded is not None and decoded.data == data
    assert stage.gathered is None


def test_a_forgotten_message_leaves_nothing_behind() -> None:
    first, second = Adding(b"1"), Adding(b"2")
    chain = ExtensionChain([first, second], None)
    assert chain.encode(Fragment(BINARY, b"cut", True, False)) is None
    first.forgets = False
    assert not chain.forget_message()
    assert first.calls == second.calls == ["forget"]
    encoded = chain.encode(Fragment(BINARY, b"next"))
    assert encoded is not None and encoded.data == b"next12"
    first.forgets = True
    assert chain.forget_message()


# -- limits ---------------------------------------------------------------------------------


def test_a3_what_is_waited_for_is_limited() -> None:
    chain = ExtensionChain([Adding(b"")], 10)
    assert chain.decode(piece(b"x" * encoded_limit(10), True, False)) is None
    with pytest.raises(PayloadTooBig):
        chain.decode(piece(b"x", False, False))


def test_a3_what_comes_out_is_limited_even_if_the_extension_does_not_care() -> None:
    class Doubling(Adding):
        def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
            self.calls.append(max_size)
            return fragment._replace(data=bytes(fragment.data) * 2, rsv=0)

    extension = Doubling(rsv=4, unit=Unit.PIECE)
    chain = ExtensionChain([extension], 10)
    assert chain.decode(piece(b"xxxxx", rsv=4))
    assert chain.decode(piece(b"xx", True, False, rsv=4))
    with pytest.raises(PayloadTooBig):
        chain.decode(piece(b"xxxx", False, True, rsv=4))
    assert extension.calls == [10, 10, 6]
    unlimited = ExtensionChain([extension], None)
    unlimited.decode(piece(b"x", rsv=4))
    assert extension.calls[-1] is None


def test_a3_only_the_last_one_to_decode_is_held_to_max_size() -> None:
    class Shrinking(Adding):
        def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
            self.calls.append(max_size)
            return fragment._replace(data=b"x", rsv=0)

    inner, outer = Adding(b"", name="inner"), Shrinking(name="outer")
    assert ExtensionChain([outer, inner], 10).decode(piece(b"x" * 500))
    assert inner.calls == [("decode", b"x" * 500, encoded_limit(10))]
    assert outer.calls == [10]
    assert encoded_limit(None) == UNLIMITED


# -- what extensions do wrong ---------------------------------------------------------------


def test_a_bit_that_it_does_not_own() -> None:
    class Greedy(Adding):
        def encode(self, fragment: Fragment) -> Fragment:
            return fragment._replace(rsv=1)

    with pytest.raises(RuntimeError, match="greedy set an RSV bit not its own"):
        ExtensionChain([Greedy(rsv=4, name="greedy")], None).encode(Fragment(BINARY, b""))


@pytest.mark.parametrize("opcode", [0, TEXT, 4, 8, 9, 11, 12, 99, -1])
def test_an_opcode_that_it_does_not_own(opcode: int) -> None:
    class Greedy(Adding):
        def encode(self, fragment: Fragment) -> Fragment:
            return fragment._replace(opcode=opcode)

    chain = ExtensionChain([Greedy(opcodes=[3, 11], name="greedy")], None)
    with pytest.raises(RuntimeError, match="greedy set an opcode not its own"):
        chain.encode(Fragment(BINARY, b""))


def test_an_opcode_that_it_owns() -> None:
    class Own(Adding):
        def encode(self, fragment: Fragment) -> Fragment:
            return fragment._replace(opcode=3)

    encoded = ExtensionChain([Own(opcodes=[3]), Adding()], None).encode(Fragment(BINARY, b""))
    assert encoded is not None and encoded.opcode == 3


@pytest.mark.parametrize("left", [{"rsv": 4}, {"opcode": 3}])
def test_a_bit_or_opcode_that_it_leaves(left: dict[str, int]) -> None:
    class Lazy(Adding):
        def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
            return fragment

    with pytest.raises(ProtocolError, match="left that no extension has decoded"):
        ExtensionChain([Lazy(rsv=4, opcodes=[3])], None).decode(piece(b"", **left))


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_whose_method_returns_nothing_is_named(method: str) -> None:
    extension = Extension()
    extension.name = "forgetful"
    setattr(extension, method, lambda *_: None)
    chain = ExtensionChain([extension], None)
    with pytest.raises(TypeError, match=rf"extension 'forgetful': {method}\(\) returned NoneType"):
        chain.encode_message(TEXT, b"text", None)
        chain.decode(piece(b"text"))


@pytest.mark.parametrize(
    ("changes", "error", "problem"),
    [
        ({"data": "text"}, TypeError, "data of type str, not bytes-like"),
        ({"data": [1, 2]}, TypeError, "data of type list, not bytes-like"),
        ({"data": 5}, TypeError, "data of type int, not bytes-like"),
        ({"data": None}, TypeError, "data of type NoneType, not bytes-like"),
        ({"data": array.array("I", [1, 2])}, TypeError, "other elements than bytes: array"),
        ({"data": memoryview(bytes(4)).cast("B", (2, 2))}, TypeError, "other elements than"),
        ({"data": ctypes.c_byte(1)}, TypeError, "other elements than bytes: c_byte"),
        ({"first": False}, RuntimeError, "another first or last"),
        ({"last": False}, RuntimeError, "another first or last"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "decode"])
def test_what_cannot_be_a_part_of_the_message_is_refused(
    method: str, changes: dict[str, Any], error: type[Exception], problem: str
) -> None:
    extension = Extension()
    extension.name = "odd"
    setattr(extension, method, lambda fragment, *_: fragment._replace(**changes))
    chain = ExtensionChain([extension], None)
    with pytest.raises(error, match=rf"extension 'odd': {method}\(\) returned .*{problem}"):
        chain.encode(Fragment(BINARY, b"data"))
        chain.decode(piece(b"data"))


@pytest.mark.parametrize(
    "data",
    [
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        memoryview(b"a-b-c-d")[::2],
        array.array("B", b"abcd"),
        array.array("b", b"abcd"),
        (ctypes.c_char * 4)(*b"abcd"),
    ],
)
def test_whatever_has_bytes_can_be_a_part_of_a_message(data: Any) -> None:
    extension = Extension()
    extension.decode = lambda fragment, _: fragment._replace(data=data)  # type: ignore[method-assign]
    extension.encode = lambda fragment: fragment._replace(data=data)  # type: ignore[method-assign]
    chain = ExtensionChain([extension], None)
    for part in (chain.decode(piece(b"x")), chain.encode(Fragment(BINARY, b"x"))):
        assert part is not None and len(part.data) == 4
        assert b"".join([part.data]) == b"abcd"


def test_text_is_checked_however_it_is_cut() -> None:
    chain = ExtensionChain([Adding(b"", unit=Unit.PIECE)], None)
    text = "aé€😀".encode()
    for cut in range(len(text)):
        assert chain.decode(piece(text[:cut], True, False, opcode=TEXT))
        assert chain.decode(piece(text[cut:], False, True, opcode=TEXT))
    assert chain.decode(piece(text[:-1], opcode=BINARY))
    for parts in ([text[:-1]], [text[:2], b"\xff"], [b"a", b"\xff"]):
        with pytest.raises(InvalidText):
            for index, part in enumerate(parts):
                chain.decode(piece(part, index == 0, index == len(parts) - 1, opcode=TEXT))


def test_an_attribute_that_is_called_like_one_of_ours_means_nothing() -> None:
    class Own(Adding):
        threshold = 1000

        def encode_message(self) -> None: ...

        def decode_messages(self) -> None: ...

    sender, receiver = protocols([Own(rsv=4)], [Own(rsv=4)])
    sender.send_message("short")
    assert pass_on(sender, receiver) == ["short"]
    chain = ExtensionChain([Own(rsv=4)], None)
    assert chain.smallest == 0 and not chain.skips(1, None)
    assert chain.encode_message(TEXT, b"data", None) == (0xC1, b"data!")


def test_an_error_of_its_own_is_not_the_peers() -> None:
    class Wrong(Adding):
        def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
            b"\xff".decode()
            raise AssertionError

    sender, receiver = protocols([Adding(rsv=4)], [Wrong(rsv=4)])
    sender.send_message(b"x")
    (failed,) = pass_on(sender, receiver)
    assert isinstance(failed, Failed)
    assert failed.error.close_code == 1011
    assert isinstance(failed.error.__cause__, UnicodeDecodeError)


# -- whole messages -------------------------------------------------------------------------


def test_a_message_that_need_not_be_encoded() -> None:
    client, _ = agreed(ClientPerMessageDeflateFactory(threshold=10))
    chain = ExtensionChain([client], None)
    assert chain.smallest == 10
    assert [chain.skips(9, None), chain.skips(10, None), chain.skips(None, None)] == [
        True,
        False,
        False,
    ]
    assert chain.skips(10, False) and not chain.skips(9, True)
    two = ExtensionChain([client, Adding()], None)
    assert two.smallest == 0 and not two.skips(1, False)
    assert chain.encode_message(TEXT, b"x" * 5, None) == (0x81, b"x" * 5)


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_row_ends_at_the_first_that_cannot_be_decoded(wrong: int) -> None:
    client, server = agreed()
    sender = ExtensionChain([client], None)
    messages = [b"good" * 100, b"\xff" * 200] if wrong else [b"\xff" * 200, b"good" * 100]
    wires = [sender.encode_message(TEXT, each, True)[1] for each in messages]
    got, error = ExtensionChain([server], 1000).decode_messages(
        TEXT, 4, [bytes(wire) for wire in wires]
    )
    assert got == ["good" * 100][:wrong]
    assert isinstance(error, InvalidText)


# -- the connection -------------------------------------------------------------------------


def test_control_frames_go_to_their_owner() -> None:
    first, second = Adding(opcodes=[11]), Adding(opcodes=[12])
    chain = ExtensionChain([first, second], None)
    chain.receive_control(12, b"data")
    assert first.calls == [] and second.calls == [("control", 12, b"data")]
    chain.attach(lambda opcode, data: True)
    assert first.send_control is not None and second.send_control is not None


def test_the_end_is_told_once_however_many_threads_see_it() -> None:
    extension = Adding()
    chain = ExtensionChain([extension], None)
    start = threading.Barrier(8)

    def end() -> None:
        start.wait()
        chain.connection_ended()

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert extension.calls == ["ended"]


def test_an_error_at_the_end_is_nobodys_and_the_others_are_told() -> None:
    class Failing(Adding):
        def connection_ended(self) -> None:
            raise OSError("disk full")

    other = Adding()
    ExtensionChain([Failing(name="failing"), other], None).connection_ended()
    assert other.calls == ["ended"]
