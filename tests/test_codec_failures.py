"""What a decoder must refuse, how early, and what is still delivered.

The rows of the reliability catalogue that are about frames, at the level of the decoder.
"""

from __future__ import annotations

import itertools

import pytest
from codec_driver import FAILURES, CodecDecoder, agree
from reference import (
    BINARY,
    CLIENT,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    SERVER,
    SIDES,
    TEXT,
    UNLIMITED,
    Event,
    encode,
    key_for,
)
from syncws._codec import ffi, lib

LIMITS = {"max_frame_size": 16 * 2**20, "max_size": 64 * 2**20, "max_fragments": 128}


pytestmark = pytest.mark.usefixtures("isa_level")


def refused(
    data: bytes, side: int, failure: str, *, after: int | None = None, **limits: int
) -> None:
    """``data`` fails as named, exactly with byte number ``after`` (the last one if None)."""
    limits = LIMITS | limits
    agree(data + bytes(20), side, expect=None, **limits)
    decoder = CodecDecoder(side, **limits)
    after = len(data) if after is None else after
    for offset in range(after - 1):
        decoder.feed(data[offset : offset + 1])
        assert not decoder.struct.failure, f"failed early, at byte {offset + 1}"
    events = decoder.feed(data[after - 1 : after])
    assert events == [("failure", failure)]
    assert decoder.struct.buffer == ffi.NULL
    # Sticky, and nothing is kept of what still comes.
    assert decoder.feed(encode(TEXT, b"more", key=key_for(side))) == []
    assert FAILURES[decoder.struct.failure] == failure
    assert decoder.struct.buffer == ffi.NULL
    start = ffi.new("uint8_t **")
    assert lib.syncws_decoder_window(decoder.struct, start) == 0


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**64 - 4, 2**64 - 14])
def test_a1_length_with_the_top_bit_set(side: int, length: int) -> None:
    data = encode(BINARY, key=key_for(side), length=length)
    refused(data, side, "LENGTH_MSB", after=3)
    refused(data, side, "LENGTH_MSB", after=3, max_frame_size=UNLIMITED, max_size=UNLIMITED)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("length", "after"),
    [
        (2**63 - 1, 3),
        (2**53, 4),
        (2**32, 6),
        (2**31, 7),
        (2**24 + 1, 10),
        (2**24 + 2**8, 9),
        (2**25, 7),
    ],
)
def test_a1_length_beyond_the_limit_before_any_payload(side: int, length: int, after: int) -> None:
    data = encode(BINARY, key=key_for(side), length=length)
    refused(data, side, "FRAME_TOO_BIG", after=after)
    refused(data, side, "MESSAGE_TOO_BIG", after=after, max_frame_size=UNLIMITED, max_size=2**24)


def test_a1_the_fourteen_bytes_that_killed_others() -> None:
    data = bytes.fromhex("0affffffffffffffffffffeb0e8f")
    for side in SIDES:
        refused(data, side, "CONTROL_FRAGMENTED", after=1)


@pytest.mark.parametrize("side", SIDES)
def test_a2_fragments_are_counted_together(side: int) -> None:
    key = key_for(side)
    half = encode(BINARY, b"x" * 500, fin=False, key=key)
    more = encode(CONTINUATION, b"x" * 500, fin=False, key=key)
    third = encode(CONTINUATION, b"", key=key, length=500)
    refused(
        half + more + third,
        side,
        "MESSAGE_TOO_BIG",
        after=len(half + more) + 3,  # the first length byte says: 256 at least
        max_size=1000,
    )
    one = encode(BINARY, b"x", fin=False, key=key)
    huge = encode(CONTINUATION, key=key, length=2**63 - 1)
    refused(one + huge, side, "FRAME_TOO_BIG", after=len(one) + 3)
    # Without limits the sum must not wrap around.
    unlimited = {"max_frame_size": UNLIMITED, "max_size": UNLIMITED, "max_fragments": UNLIMITED}
    decoder = CodecDecoder(side, **unlimited)
    assert decoder.feed(one + huge) == []
    assert decoder.struct.message_length == 2**63


@pytest.mark.parametrize("side", SIDES)
def test_a2_accounting_does_not_wrap_around(side: int) -> None:
    key = key_for(side)
    decoder = CodecDecoder(side)
    decoder.feed(encode(BINARY, b"x", fin=False, key=key))
    decoder.struct.message_length = 2**64 - 5  # as if so much had come
    events = decoder.feed(encode(CONTINUATION, b"x" * 10, key=key))
    assert events == [("failure", "MESSAGE_TOO_BIG")]


@pytest.mark.parametrize("side", SIDES)
def test_a3_a_limit_that_was_lowered_inside_a_message(side: int) -> None:
    key = key_for(side)
    decoder = CodecDecoder(side, max_size=1000)
    decoder.feed(encode(BINARY, b"x" * 100, fin=False, key=key))
    decoder.struct.max_size = 50
    events = decoder.feed(encode(CONTINUATION, b"", key=key))
    assert events == [("failure", "MESSAGE_TOO_BIG")]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("maximum", [1, 125, 126, 1000, 1024, 1025, 65535, 65536])
def test_a3_limits_are_inclusive(side: int, maximum: int) -> None:
    key = key_for(side)
    for size in (maximum - 1, maximum, maximum + 1):
        body = b"x" * size
        half = size // 2
        single = encode(TEXT, body, key=key)
        parts = encode(TEXT, body[:half], fin=False, key=key)
        parts += encode(CONTINUATION, body[half:], key=key)
        delivered: list[Event] = [("message", TEXT, body)]
        for data, limits, failure in (
            (single, {"max_size": maximum}, "MESSAGE_TOO_BIG"),
            (single, {"max_frame_size": maximum}, "FRAME_TOO_BIG"),
            (parts, {"max_size": maximum}, "MESSAGE_TOO_BIG"),
        ):
            expect = delivered if size <= maximum else [("failure", failure)]
            assert CodecDecoder(side, **limits).feed(data) == expect
            decoder = CodecDecoder(side, **limits)
            assert decoder.feed(data[:1]) + decoder.feed(data[1:]) == expect
        assert CodecDecoder(side, max_frame_size=max(size - half, 1)).feed(parts) == delivered


@pytest.mark.parametrize("side", SIDES)
def test_a3_limits_hold_inside_a_run(side: int) -> None:
    key = key_for(side)
    small = encode(TEXT, b"x" * 10, key=key)
    data = small * 3 + encode(TEXT, b"x" * 11, key=key) + small
    expect: list[Event] = [("message", TEXT, b"x" * 10)] * 3
    agree(data, side, max_size=10, expect=[*expect, ("failure", "MESSAGE_TOO_BIG")])
    agree(data, side, max_frame_size=10, expect=[*expect, ("failure", "FRAME_TOO_BIG")])


@pytest.mark.parametrize("side", SIDES)
def test_a4_a_frame_that_is_too_big_is_refused_before_its_payload(side: int) -> None:
    data = encode(BINARY, key=key_for(side), length=LIMITS["max_frame_size"] + 1)
    refused(data, side, "FRAME_TOO_BIG", after=10)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("fin", [True, False])
def test_a5_unknown_opcodes(side: int, opcode: int, fin: bool) -> None:
    data = encode(opcode, fin=fin, key=key_for(side), length=2**30)
    refused(data, side, "BAD_OPCODE", after=1)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION])
def test_a6_reserved_bits(side: int, rsv: int, opcode: int) -> None:
    key = key_for(side)
    start = encode(TEXT, b"x", fin=False, key=key) if opcode == CONTINUATION else b""
    data = start + encode(opcode, b"", rsv=rsv, key=key)
    refused(data, side, "BAD_RSV", after=len(start) + 1)
    if opcode in (TEXT, BINARY):
        # Allowed bits are for the first frame of a data message only.
        agree(data, side, allowed_rsv=rsv, expect=[("piece", opcode, rsv, b"", True, True)])
        other = encode(opcode, b"", rsv=rsv, key=key)
        if rsv != 7:
            refused(other, side, "BAD_RSV", after=1, allowed_rsv=7 & ~rsv)
    else:
        refused(data, side, "BAD_RSV", after=len(start) + 1, allowed_rsv=7)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_a7_masked_in_the_wrong_direction(side: int, opcode: int) -> None:
    wrong = encode(opcode, b"x", key=None if side == SERVER else KEY)
    refused(wrong, side, "BAD_MASK", after=2)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("length", "size", "after"),
    [(0, 2, 4), (1, 2, 4), (125, 2, 4), (0, 8, 8), (125, 8, 8), (126, 8, 8), (65535, 8, 8)],
)
def test_a8_length_in_more_bytes_than_needed(side: int, length: int, size: int, after: int) -> None:
    for opcode in (TEXT, BINARY):
        data = encode(opcode, key=key_for(side), length=length, length_size=size)
        refused(data, side, "NON_MINIMAL_LENGTH", after=after)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a9_control_frames(side: int, opcode: int) -> None:
    key = key_for(side)
    for length in (126, 127, 65535, 65536):
        refused(encode(opcode, key=key, length=length), side, "CONTROL_TOO_LONG", after=2)
    refused(encode(opcode, b"", fin=False, key=key), side, "CONTROL_FRAGMENTED", after=1)
    body = b"x" * 125
    agree(encode(opcode, body, key=key), side, expect=[("control", opcode, body)])


@pytest.mark.parametrize("side", SIDES)
def test_a9_control_frames_are_not_limited_by_max_size(side: int) -> None:
    data = encode(PING, b"x" * 125, key=key_for(side))
    limits = {"max_size": 1, "max_frame_size": 1, "max_fragments": 1}
    agree(data, side, expect=[("control", PING, b"x" * 125)], **limits)


@pytest.mark.parametrize("side", SIDES)
def test_a10_order_of_fragments(side: int) -> None:
    key = key_for(side)
    for fin in (True, False):
        refused(
            encode(CONTINUATION, b"", fin=fin, key=key), side, "UNEXPECTED_CONTINUATION", after=1
        )
    message = encode(TEXT, b"whole", key=key)
    stray = encode(CONTINUATION, b"x", key=key)
    expect: list[Event] = [("message", TEXT, b"whole"), ("failure", "UNEXPECTED_CONTINUATION")]
    agree(message + stray, side, expect=expect)
    for first, second in itertools.product((TEXT, BINARY), repeat=2):
        begun = encode(first, b"x", fin=False, key=key)
        again = encode(second, b"y", key=key)
        refused(begun + again, side, "EXPECTED_CONTINUATION", after=len(begun) + 1)


@pytest.mark.parametrize("side", SIDES)
def test_d1_the_fragment_rule(side: int) -> None:
    """128 are free; with more, each must have carried 64 bytes on average."""
    key = key_for(side)

    def fragments(count: int, size: int) -> bytes:
        first = encode(BINARY, b"x" * size, fin=False, key=key)
        return first + encode(CONTINUATION, b"x" * size, fin=False, key=key) * (count - 1)

    def failure(data: bytes, maximum: int = 128) -> str:
        decoder = CodecDecoder(side, max_fragments=maximum)
        decoder.feed(data)
        return FAILURES[decoder.struct.failure]

    for size in (0, 1, 31):
        free = 128 * 64 // (64 - size)
        assert failure(fragments(free, size)) == "FAILURE_NONE"
        assert failure(fragments(free + 2, size)) == "TOO_MANY_FRAGMENTS"
    assert failure(fragments(5000, 64)) == "FAILURE_NONE"
    assert failure(fragments(5000, 0), UNLIMITED) == "FAILURE_NONE"
    assert failure(fragments(1, 63), 0) == "TOO_MANY_FRAGMENTS"
    assert failure(fragments(1, 64), 0) == "FAILURE_NONE"
    for size in (63, 64):
        agree(encode(BINARY, b"x" * size, key=key) * 2, side, max_fragments=0)
    # What a message earned is not for the next one.
    saved = encode(BINARY, b"x" * 100_000, key=key)
    assert failure(saved + fragments(128, 0)) == "FAILURE_NONE"
    assert failure(saved + fragments(129, 0)) == "TOO_MANY_FRAGMENTS"
    for count in (3, 4, 5, 6):
        agree(fragments(count, 20), side, max_fragments=3)


@pytest.mark.parametrize("side", SIDES)
def test_d1_many_fragments_cost_linear_time_and_little_memory(side: int) -> None:
    key = key_for(side)
    body = b"x" * 64
    first = encode(BINARY, body, fin=False, key=key)
    more = encode(CONTINUATION, body, fin=False, key=key)
    decoder = CodecDecoder(side)
    decoder.feed(first)
    sizes = set()
    for _ in range(200):
        decoder.feed(more * 100)
        assert decoder.struct.buffer_capacity <= 2 * decoder.struct.buffer_length
        sizes.add(decoder.struct.buffer_capacity)
    assert len(sizes) < 20


@pytest.mark.parametrize("side", SIDES)
def test_b1_text_that_is_not_utf8(side: int) -> None:
    key = key_for(side)
    for text in ("80", "c080", "eda080", "f4908080", "ff", "e282", "c2", "41f09f98", "c3c3"):
        broken = bytes.fromhex(text)
        for data in (
            encode(TEXT, broken, key=key),
            encode(TEXT, b"x" * 1100 + broken, key=key),
            encode(TEXT, broken[:1], fin=False, key=key)
            + encode(CONTINUATION, broken[1:], key=key),
            encode(TEXT, broken, fin=False, key=key) + encode(CONTINUATION, b"", key=key),
        ):
            good = encode(TEXT, b"good", key=key)
            expect: list[Event] = [("message", TEXT, b"good")] * 2 + [("failure", "BAD_UTF8")]
            agree(good + good + data + good, side, expect=expect)
        # The same bytes are fine as binary.
        agree(encode(BINARY, broken, key=key), side, expect=[("message", BINARY, broken)])


@pytest.mark.parametrize("side", SIDES)
def test_b1_two_messages_do_not_share_a_character(side: int) -> None:
    key = key_for(side)
    data = encode(TEXT, b"\xe2\x82", key=key) + encode(TEXT, b"\xac", key=key)
    agree(data, side, expect=[("failure", "BAD_UTF8")])


@pytest.mark.parametrize("side", SIDES)
def test_b2_a_bad_byte_fails_at_once(side: int) -> None:
    """Inside a frame and a message whose rest never comes."""
    key = key_for(side)
    for before in (0, 1, 100, 5000):
        body = b"x" * before + b"\xce\xba\xed\xa0"  # the fourth byte makes it a surrogate
        header = encode(TEXT, fin=False, key=key, length=100_000)
        frame = encode(TEXT, body + bytes(100_000 - len(body)), fin=False, key=key)
        data = frame[: len(header) + len(body)]
        decoder = CodecDecoder(side)
        assert decoder.feed(data[:-1]) == []
        assert decoder.feed(data[-1:]) == [("failure", "BAD_UTF8")]
        decoder = CodecDecoder(side)
        assert decoder.feed(data) == [("failure", "BAD_UTF8")]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("character", ["é", "€", "😀", "\U0010ffff"])
def test_b3_characters_split_across_fragments_with_a_ping_inside(side: int, character: str) -> None:
    key = key_for(side)
    text = character.encode() * 3
    for cut in range(len(text) + 1):
        data = (
            encode(TEXT, text[:cut], fin=False, key=key)
            + encode(PING, b"\xff", key=key)
            + encode(CONTINUATION, text[cut:], key=key)
        )
        agree(data, side, expect=[("control", PING, b"\xff"), ("message", TEXT, text)])


@pytest.mark.parametrize("side", SIDES)
def test_what_was_whole_before_a_failure_is_delivered_with_it(side: int) -> None:
    key = key_for(side)
    good = [
        encode(TEXT, b"a", key=key),
        encode(TEXT, b"b", key=key),
        encode(BINARY, b"c" * 2000, key=key),
        encode(TEXT, b"d", fin=False, key=key) + encode(CONTINUATION, b"e", key=key),
        encode(PING, b"f", key=key),
    ]
    expect: list[Event] = [
        ("message", TEXT, b"a"),
        ("message", TEXT, b"b"),
        ("message", BINARY, b"c" * 2000),
        ("message", TEXT, b"de"),
        ("control", PING, b"f"),
        ("failure", "BAD_OPCODE"),
    ]
    agree(b"".join(good) + b"\x83", side, expect=expect)


def test_memory_that_cannot_be_had_is_a_failure() -> None:
    """A capacity that no allocator grants: what came is real, what is asked for is not."""
    decoder = CodecDecoder(CLIENT)
    decoder.feed(encode(BINARY, length=2**62) + b"x")
    # As if 2**61 bytes had come already.
    decoder.struct.buffer_length = decoder.struct.buffer_capacity = 2**61
    assert decoder.feed(b"y") == [("failure", "NO_MEMORY")]
    assert decoder.struct.buffer == ffi.NULL
