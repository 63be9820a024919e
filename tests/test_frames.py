"""Close frames, records, and the Python face of the codec."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from syncws.exceptions import InvalidText, PayloadTooBig, ProtocolError, TooManyFragments
from syncws.frames import (
    Close,
    CloseCode,
    FrameDecoder,
    FrameEncoder,
    Opcode,
    Side,
    ffi,
    lib,
    limit,
    memory,
    new_scratch,
    renew_thread_scratch,
    thread_scratch,
)

VALID_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
VALID_CODES += [3000, 3999, 4000, 4999]
INVALID_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", VALID_CODES)
def test_a12_valid_close_codes(code: int) -> None:
    payload = code.to_bytes(2) + b"why"
    assert Close.parse(payload) == (code, "why")
    assert Close.check(code, "why").serialize() == payload


@pytest.mark.parametrize("code", INVALID_CODES)
def test_a12_invalid_close_codes(code: int) -> None:
    with pytest.raises(ProtocolError) as raised:
        Close.parse(code.to_bytes(2))
    assert raised.value.close_code == 1002
    with pytest.raises(ValueError, match="must not be sent"):
        Close.check(code, "")


def test_every_close_code_is_judged_as_the_standard_says() -> None:
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    for code in range(65536):
        try:
            Close.parse(code.to_bytes(2))
        except ProtocolError:
            assert code not in allowed
        else:
            assert code in allowed


def test_a12_an_empty_close_frame_is_1005() -> None:
    assert Close.parse(b"") == (1005, "")
    assert Close(1005, "ignored").serialize() == b""


def test_a12_a_close_frame_of_one_byte() -> None:
    with pytest.raises(ProtocolError, match="one byte"):
        Close.parse(b"\x03")


@pytest.mark.parametrize("reason", [b"\xff", b"ab\xe2\x82", b"\xed\xa0\x80"])
def test_a13_a_reason_that_is_not_utf8(reason: bytes) -> None:
    with pytest.raises(InvalidText) as raised:
        Close.parse(b"\x03\xe8" + reason)
    assert raised.value.close_code == 1007


@pytest.mark.parametrize("reason", [b"x", bytearray(b"x"), memoryview(b"x"), 1, None, [0.5]])
def test_a13_reasons_of_other_types(reason: object) -> None:
    with pytest.raises(TypeError, match="reason must be a str"):
        Close.check(1000, reason)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("code", ["1000", 1000.0, True, None])
def test_a13_codes_of_other_types(code: object) -> None:
    with pytest.raises(TypeError, match="code must be an int"):
        Close.check(code, "")  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("unit", ["x", "é", "€", "😀"])
def test_a13_reasons_of_123_and_124_bytes(unit: str) -> None:
    size = len(unit.encode())
    longest = unit * (123 // size)
    assert Close.check(1000, longest).reason == longest
    with pytest.raises(ValueError, match="123 bytes"):
        Close.check(1000, longest + unit)


@pytest.mark.parametrize(
    ("close", "text"),
    [
        (Close(1000, ""), "1000 (normal closure)"),
        (Close(1001, "bye"), "1001 (going away) bye"),
        (Close(3000, ""), "3000 (registered)"),
        (Close(4999, ""), "4999 (private use)"),
        (Close(1016, ""), "1016 (unknown)"),
    ],
)
def test_close_frames_read_well(close: Close, text: str) -> None:
    assert str(close) == text


def test_close_codes_have_their_registered_numbers() -> None:
    assert CloseCode.MESSAGE_TOO_BIG == 1009
    assert CloseCode.BAD_GATEWAY == 1014


@pytest.mark.parametrize("side", list(Side))
def test_what_one_side_encodes_the_other_decodes(side: Side) -> None:
    encoder = FrameEncoder(side)
    decoder = FrameDecoder(Side.SERVER if side is Side.CLIENT else Side.CLIENT)
    data = (
        encoder.encode(Opcode.TEXT, "é€".encode())
        + encoder.encode(Opcode.PING, b"now")
        + encoder.encode(Opcode.BINARY, b"a", fin=False)
        + encoder.encode(Opcode.CONTINUATION, b"b")
        + b"".join(encoder.encode(Opcode.TEXT, b"%d" % number) for number in range(5))
        + b"".join(encoder.encode(Opcode.BINARY, b"%d" % number) for number in range(5))
        + encoder.encode(Opcode.BINARY, b"")
        + encoder.encode(Opcode.CLOSE, b"")
    )
    messages: list[object] = []
    controls: list[tuple[int, bytes]] = []
    for start in range(0, len(data), 7):
        for record in decoder.feed(data[start : start + 7]):
            if record.kind == lib.SYNCWS_CONTROL:
                controls.append((record.opcode, record.data))
            elif record.kind == lib.SYNCWS_RUN:
                messages += record.data
            else:
                messages.append(record.data)
    texts = [str(number) for number in range(5)]
    assert messages == ["é€", b"ab", *texts, *[text.encode() for text in texts], b""]
    assert controls == [(Opcode.PING, b"now"), (Opcode.CLOSE, b"")]


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_runs_of_small_messages(opcode: Opcode) -> None:
    encoder = FrameEncoder(Side.SERVER)
    payloads = [b"%d" % number for number in range(3000)]
    decoder = FrameDecoder(Side.CLIENT)
    messages: list[str | bytes] = []
    kinds = set()
    for record in decoder.feed(b"".join(encoder.encode(opcode, data) for data in payloads)):
        kinds.add(record.kind)
        messages += record.data if record.kind == lib.SYNCWS_RUN else [record.data]
    expected = payloads if opcode is Opcode.BINARY else [data.decode() for data in payloads]
    assert messages == expected
    assert lib.SYNCWS_RUN in kinds


@pytest.mark.parametrize("before", [0, 1, 1018, 1019, 1020, 1024, 1030])
def test_runs_of_medium_messages(before: int) -> None:
    """Sliced where C noted their bounds, split where it has no room for more."""
    encoder = FrameEncoder(Side.SERVER)
    sizes = [1024, 0, 8192, 3, 2000]
    payloads = [bytes([number]) * size for number, size in enumerate(sizes)]
    texts = [str(number % 10) for number in range(before)]
    data = b"".join(encoder.encode(Opcode.TEXT, text.encode()) for text in texts)
    data += b"".join(encoder.encode(Opcode.BINARY, payload) for payload in payloads)
    messages: list[str | bytes] = []
    for record in FrameDecoder(Side.CLIENT).feed(data):
        messages += record.data if record.kind == lib.SYNCWS_RUN else [record.data]
    assert messages == texts + payloads


def test_records_come_in_several_batches() -> None:
    encoder = FrameEncoder(Side.CLIENT)
    frames = [encoder.encode(Opcode.PING, b"%d" % number) for number in range(1000)]
    records = FrameDecoder(Side.SERVER).feed(b"".join(frames))
    assert [record.data for record in records] == [b"%d" % number for number in range(1000)]


def test_pieces_say_which_is_the_first_and_which_the_last() -> None:
    decoder = ffi.gc(ffi.new("syncws_decoder *"), lib.syncws_decoder_release)
    lib.syncws_decoder_init(decoder, Side.CLIENT, 100, 100, 100)
    decoder.streaming = 1
    wrapped = FrameDecoder(Side.CLIENT)
    wrapped._decoder = decoder
    encoder = FrameEncoder(Side.SERVER)
    records = wrapped.feed(encoder.encode(Opcode.BINARY, b"ab", fin=False))
    records += wrapped.feed(encoder.encode(Opcode.CONTINUATION, b"cd"))
    records = [record for record in records if record.data or record.last]
    assert b"".join(record.data for record in records) == b"abcd"
    assert [record.first for record in records] == [True] + [False] * (len(records) - 1)
    assert [record.last for record in records] == [False] * (len(records) - 1) + [True]
    assert {record.opcode for record in records} == {Opcode.BINARY}


def test_limits_of_none_are_no_limits() -> None:
    assert limit(None) == 2**64 - 1
    assert limit(5) == 5


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        (b"\x81\x03abc", PayloadTooBig, 1009),
        (b"\x01\x02ab\x80\x02cd", PayloadTooBig, 1009),
        (b"\x01\x00\x00\x00\x00\x00\x00\x00", TooManyFragments, 1008),
        (b"\x81\x01\xff", InvalidText, 1007),
        (b"\x83\x00", ProtocolError, 1002),
    ],
)
def test_failures_are_exceptions_with_their_code(
    data: bytes, kind: type[ProtocolError], code: int
) -> None:
    decoder = FrameDecoder(Side.CLIENT, max_frame_size=2, max_size=3, max_fragments=2)
    assert decoder.error is None
    decoder.feed(data)
    assert type(decoder.error) is kind
    assert decoder.error.close_code == code


def test_a_failure_for_lack_of_memory_is_1011() -> None:
    decoder = FrameDecoder(Side.CLIENT)
    decoder._decoder.failure = lib.SYNCWS_NO_MEMORY
    assert decoder.error is not None
    assert decoder.error.close_code == 1011


def test_f10c_masking_keys_come_from_the_kernel_and_do_not_repeat() -> None:
    encoder = FrameEncoder(Side.CLIENT)
    keys = [encoder.encode(Opcode.BINARY, b"")[2:6] for _ in range(10_000)]
    # 10,000 random keys of 32 bits collide with a probability of 1.2 %; twice, hardly ever.
    assert len(set(keys)) > 9_997
    for position in range(4):
        assert len({key[position] for key in keys}) == 256


def test_a_masking_key_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def syncws_mask_key(self, *_: object) -> int:
            return -1

    monkeypatch.setattr("syncws.frames.lib", Broken())
    with pytest.raises(OSError, match="masking key"):
        FrameEncoder(Side.CLIENT).encode(Opcode.TEXT, b"")


def test_each_thread_has_its_own_scratch() -> None:
    mine = thread_scratch()
    others: list[tuple[Any, Any, int, int]] = []

    def look() -> None:
        scratch = thread_scratch()
        # It ends with the thread, and these with it.
        others.append((scratch, thread_scratch(), scratch.slice_ms, scratch.number))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    assert thread_scratch() == mine
    ((first, second, slice_ms, number),) = others
    assert first == second != mine
    assert number > mine.number > 0
    # Only the main thread's waits are cut: signal handlers run nowhere else.
    assert (mine.slice_ms, slice_ms) == (200, 0)


def test_a_thread_without_memory_for_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMemory:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def syncws_make_thread_scratch(self) -> object:
            return ffi.NULL

    monkeypatch.setattr("syncws.frames.lib", NoMemory())
    errors: list[BaseException] = []

    def make() -> None:
        try:
            thread_scratch()
        except MemoryError as error:
            errors.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(10)
    assert [str(error) for error in errors] == ["no memory for the frames of this thread"]


def test_what_python_sees_of_a_threads_memory_ends_with_the_thread() -> None:
    keys: list[int] = []

    def look() -> None:
        scratch = thread_scratch()
        scratch.packed[0:3] = b"abc"
        scratch.unclaimed = 1
        for text in (True, False):
            keys.append(scratch.number << 1 | text)
            packed, unclaimed, is_text = memory[keys[-1]]
            assert memory[keys[-1]] == (packed, unclaimed, is_text)
            assert packed[:3] == b"abc"
            assert is_text is text
            unclaimed[0] = 0
            assert scratch.unclaimed == 0
            assert keys[-1] in memory

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    assert len(keys) == 2
    assert not memory.keys() & set(keys)


def test_a_forked_child_has_new_masking_keys() -> None:
    scratch = thread_scratch()
    scratch.keys_left = 100
    scratch.slice_ms = 0
    renew_thread_scratch()
    assert (scratch.keys_left, scratch.slice_ms) == (0, 200)


def test_a_thread_without_memory_has_no_masking_keys_to_renew() -> None:
    found: list[bool] = []

    def renew() -> None:
        renew_thread_scratch()
        found.append(bool(lib.syncws_thread_scratch()))

    thread = threading.Thread(target=renew)
    thread.start()
    thread.join(10)
    assert found == [False]


def test_separators_do_not_overlap_themselves() -> None:
    for _ in range(1000):
        first, *others = new_scratch().separator
        assert first not in others
