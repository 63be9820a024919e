"""Messages that leave the decoder in pieces: streaming, and RSV bits."""

from __future__ import annotations

import random

import pytest
from codec_driver import CodecDecoder, agree
from reference import (
    BINARY,
    CLIENT,
    CONTINUATION,
    PING,
    SERVER,
    SIDES,
    TEXT,
    Event,
    ReferenceDecoder,
    comparable,
    encode,
    key_for,
)
from syncws._codec import ffi, lib

FIRST, LAST = lib.SYNCWS_PIECE_FIRST, lib.SYNCWS_PIECE_LAST
FRAME_END = lib.SYNCWS_PIECE_FRAME_END
IN_DECODER = lib.SYNCWS_IN_DECODER


pytestmark = pytest.mark.usefixtures("isa_level")


@pytest.mark.parametrize("side", SIDES)
def test_streaming_delivers_bytes_as_they_arrive(side: int) -> None:
    key = key_for(side)
    frame = encode(TEXT, "€uro".encode(), key=key)
    head = len(frame) - 6
    decoder = CodecDecoder(side)
    decoder.start_streaming()
    assert decoder.feed(frame[: head + 1]) == [("piece", TEXT, 0, b"\xe2", True, False)]
    assert decoder.feed(b"") == []
    assert decoder.feed(frame[head + 1 : -1]) == [("piece", TEXT, 0, b"\x82\xacur", False, False)]
    assert decoder.struct.streaming == 1
    assert decoder.feed(frame[-1:]) == [("piece", TEXT, 0, b"o", False, True)]
    assert decoder.struct.streaming == 0
    assert decoder.feed(encode(TEXT, b"x", key=key)) == [("message", TEXT, b"x")]


@pytest.mark.parametrize("side", SIDES)
def test_streaming_a_message_that_is_whole_in_the_input(side: int) -> None:
    key = key_for(side)
    decoder = CodecDecoder(side)
    decoder.start_streaming()
    data = encode(BINARY, b"abc", key=key) + encode(BINARY, b"def", key=key)
    assert decoder.feed(data) == [
        ("piece", BINARY, 0, b"abc", True, True),
        ("message", BINARY, b"def"),
    ]
    assert decoder.records == [
        (lib.SYNCWS_PIECE, 1, FIRST | LAST | FRAME_END),
        (lib.SYNCWS_MESSAGE, 1, 0),
    ]


@pytest.mark.parametrize("side", SIDES)
def test_streaming_an_empty_message_and_an_empty_end(side: int) -> None:
    key = key_for(side)
    decoder = CodecDecoder(side)
    decoder.start_streaming()
    assert decoder.feed(encode(TEXT, b"", key=key)) == [("piece", TEXT, 0, b"", True, True)]
    decoder.start_streaming()
    data = (
        encode(TEXT, b"", fin=False, key=key)
        + encode(CONTINUATION, b"ab", fin=False, key=key)
        + encode(PING, b"p", key=key)
        + encode(CONTINUATION, b"", fin=False, key=key)
        + encode(CONTINUATION, b"", key=key)
    )
    assert decoder.feed(data) == [
        ("piece", TEXT, 0, b"ab", True, False),
        ("control", PING, b"p"),
        ("piece", TEXT, 0, b"", False, True),
    ]


@pytest.mark.parametrize("side", SIDES)
def test_streaming_that_begins_inside_a_message(side: int) -> None:
    key = key_for(side)
    frame = encode(BINARY, b"x" * 3000, key=key)
    head = len(frame) - 3000
    decoder = CodecDecoder(side)
    assert decoder.feed(frame[: head + 1000]) == []
    decoder.start_streaming()
    # What is there already needs no further byte to come out.
    assert decoder.feed(b"") == [("piece", BINARY, 0, b"x" * 1000, True, False)]
    assert decoder.records == [(lib.SYNCWS_PIECE, 1, FIRST | IN_DECODER)]
    after = encode(BINARY, b"y" * 2000, fin=False, key=key) + encode(CONTINUATION, b"z", key=key)
    assert decoder.feed(frame[head + 1000 :] + after) == [
        ("piece", BINARY, 0, b"x" * 2000, False, True),
        ("message", BINARY, b"y" * 2000 + b"z"),
    ]


@pytest.mark.parametrize("side", SIDES)
def test_streaming_that_begins_with_the_last_bytes(side: int) -> None:
    key = key_for(side)
    frame = encode(BINARY, b"x" * 3000, key=key)
    decoder = CodecDecoder(side)
    decoder.feed(frame[:-1])
    decoder.start_streaming()
    more = encode(BINARY, b"y" * 5000, key=key)
    assert decoder.feed(frame[-1:] + more[:100]) == [
        ("piece", BINARY, 0, b"x" * 2999, True, False),
        ("piece", BINARY, 0, b"x", False, True),
    ]
    assert decoder.feed(more[100:]) == [("message", BINARY, b"y" * 5000)]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("fin", [True, False])
def test_streaming_that_begins_while_bytes_go_into_the_window(side: int, fin: bool) -> None:
    key = key_for(side)
    frame = encode(BINARY, b"x" * 200_000, fin=fin, key=key)
    head = len(frame) - 200_000
    for size in (70_000, 200_000):
        decoder = CodecDecoder(side)
        decoder.feed(frame[:head])
        start = ffi.new("uint8_t **")
        assert lib.syncws_decoder_window(decoder.struct, start) == 200_000
        ffi.memmove(start[0], frame[head:], size)
        decoder.start_streaming()
        last = fin and size == 200_000
        assert decoder.feed(frame[head + size :], direct=size)[:1] == [
            ("piece", BINARY, 0, b"x" * size, True, last)
        ]
        assert decoder.struct.streaming == (not fin)
        assert lib.syncws_decoder_window(decoder.struct, start) == 0


@pytest.mark.parametrize("side", SIDES)
def test_more_pieces_than_a_scratch_holds(side: int) -> None:
    key = key_for(side)
    data = encode(BINARY, b"0", fin=False, key=key)
    data += encode(CONTINUATION, b"1", fin=False, key=key) * 1000
    data += encode(CONTINUATION, b"", key=key)
    decoder = CodecDecoder(side)
    decoder.start_streaming()
    assert comparable(decoder.feed(data)) == [("piece", BINARY, 0, b"0" + b"1" * 1000, True, True)]
    assert decoder.calls > 3


@pytest.mark.parametrize("side", SIDES)
def test_b2_streamed_text_fails_at_the_bad_byte(side: int) -> None:
    key = key_for(side)
    frame = encode(TEXT, b"ab\xe2\x82\xff....", key=key)
    decoder = CodecDecoder(side)
    decoder.start_streaming()
    assert decoder.feed(frame[:-5]) == [("piece", TEXT, 0, b"ab\xe2\x82", True, False)]
    assert decoder.feed(frame[-5:-4]) == [("failure", "BAD_UTF8")]
    for cut in (b"\xe2\x82", b"\xc3"):
        decoder = CodecDecoder(side)
        decoder.start_streaming()
        parts = encode(TEXT, cut, fin=False, key=key) + encode(CONTINUATION, b"", key=key)
        assert decoder.feed(parts)[-1] == ("failure", "BAD_UTF8")


@pytest.mark.parametrize("side", SIDES)
def test_a6_messages_with_allowed_rsv_bits_are_pieces_and_no_text(side: int) -> None:
    key = key_for(side)
    for rsv in range(1, 8):
        data = (
            encode(TEXT, b"\xff\xfe", rsv=rsv, fin=False, key=key)
            + encode(PING, b"", key=key)
            + encode(CONTINUATION, b"\xff", key=key)
            + encode(BINARY, b"plain", key=key)
            + encode(TEXT, b"", rsv=rsv, key=key)
        )
        expect: list[Event] = [
            ("piece", TEXT, rsv, b"\xff\xfe", True, False),
            ("control", PING, b""),
            ("piece", TEXT, rsv, b"\xff", False, True),
            ("message", BINARY, b"plain"),
            ("piece", TEXT, rsv, b"", True, True),
        ]
        agree(data, side, expect=expect, allowed_rsv=7)


@pytest.mark.parametrize("side", SIDES)
def test_a3_pieces_obey_the_limits(side: int) -> None:
    key = key_for(side)
    data = encode(BINARY, b"x" * 60, rsv=4, fin=False, key=key)
    part: Event = ("piece", BINARY, 4, b"x" * 60, True, False)
    agree(data, side, expect=[("failure", "FRAME_TOO_BIG")], allowed_rsv=4, max_frame_size=59)
    # 100 and what incompressible data may grow by, beyond which nothing could be right.
    most = data + encode(CONTINUATION, b"x" * 1070, key=key)
    whole: Event = ("piece", BINARY, 4, b"x" * 1130, True, True)
    agree(most, side, expect=[whole], allowed_rsv=4, max_size=100)
    data += encode(CONTINUATION, b"x" * 1071, key=key)
    agree(data, side, expect=[part, ("failure", "MESSAGE_TOO_BIG")], allowed_rsv=4, max_size=100)
    short = encode(BINARY, b"x", rsv=4, fin=False, key=key) + encode(CONTINUATION, b"", key=key)
    first: Event = ("piece", BINARY, 4, b"x", True, False)
    many: Event = ("failure", "TOO_MANY_FRAGMENTS")
    agree(short, side, expect=[first, many], allowed_rsv=4, max_fragments=1)


RESERVED_DATA, RESERVED_CONTROL = 3, 11


@pytest.mark.parametrize("side", SIDES)
def test_opcodes_of_extensions_are_let_through(side: int) -> None:
    key = key_for(side)
    allowed = 1 << RESERVED_DATA | 1 << RESERVED_CONTROL
    data = encode(RESERVED_DATA, b"\xff", fin=False, key=key)
    data += encode(RESERVED_CONTROL, b"now", key=key) + encode(CONTINUATION, b"b", key=key)
    expect: list[Event] = [
        ("piece", RESERVED_DATA, 0, b"\xff", True, False),
        ("control", RESERVED_CONTROL, b"now"),
        ("piece", RESERVED_DATA, 0, b"b", False, True),
    ]
    agree(data, side, expect=expect, allowed_opcodes=allowed)
    unknown: list[Event] = [("failure", "BAD_OPCODE")]
    agree(data, side, expect=unknown)
    agree(encode(4, key=key), side, expect=unknown, allowed_opcodes=allowed)
    agree(encode(12, key=key), side, expect=unknown, allowed_opcodes=allowed)
    agree(data[:4] * 2, side, allowed_opcodes=allowed)
    cut = encode(RESERVED_CONTROL, b"", fin=False, key=key)
    agree(cut, side, expect=[("failure", "CONTROL_FRAGMENTED")], allowed_opcodes=allowed)
    flagged = encode(RESERVED_CONTROL, b"", rsv=4, key=key)
    agree(flagged, side, expect=[("failure", "BAD_RSV")], allowed_opcodes=allowed, allowed_rsv=4)


@pytest.mark.parametrize("side", SIDES)
def test_all_messages_come_in_pieces_for_extensions_that_see_all(side: int) -> None:
    """What they have encoded is not text yet."""
    key = key_for(side)
    data = encode(TEXT, b"\xff", key=key) + encode(BINARY, b"b" * 9, key=key)
    data += encode(TEXT, b"\xe2", fin=False, key=key) + encode(CONTINUATION, b"\x28", key=key)
    expect: list[Event] = [
        ("piece", TEXT, 0, b"\xff", True, True),
        ("piece", BINARY, 0, b"b" * 9, True, True),
        ("piece", TEXT, 0, b"\xe2\x28", True, True),
    ]
    agree(data, side, expect=expect, all_pieces=1)


@pytest.mark.parametrize(
    ("opcode", "rsv", "options"),
    [
        (BINARY, 0, {"all_pieces": 1}),
        (BINARY, 2, {"allowed_rsv": 2}),
        (RESERVED_DATA, 0, {"allowed_opcodes": 1 << RESERVED_DATA}),
    ],
)
def test_ends_of_frames_are_marked_and_empty_frames_seen(
    opcode: int, rsv: int, options: dict[str, int]
) -> None:
    decoder = CodecDecoder(CLIENT, **options)
    data = encode(opcode, b"abc", fin=False, rsv=rsv) + encode(CONTINUATION, b"", fin=False)
    decoder.feed(data[:4])
    assert decoder.records == [(lib.SYNCWS_PIECE, 1, FIRST)]
    decoder.feed(data[4:])
    assert decoder.records == [(lib.SYNCWS_PIECE, 1, FRAME_END)] * 2
    decoder.feed(encode(CONTINUATION, b""))
    assert decoder.records == [(lib.SYNCWS_PIECE, 1, FRAME_END | LAST)]
    decoder.feed(encode(opcode, b"", fin=False, rsv=rsv) + encode(CONTINUATION, b"x"))
    assert [flags for _, _, flags in decoder.records] == [FIRST | FRAME_END, FRAME_END | LAST]


def test_who_receives_a_plain_message_in_pieces_gets_none_for_an_empty_frame() -> None:
    decoder = CodecDecoder(CLIENT, allowed_rsv=4)
    decoder.start_streaming()
    decoder.feed(encode(BINARY, b"", fin=False) + encode(CONTINUATION, b"", fin=False))
    assert decoder.records == []
    decoder.feed(encode(CONTINUATION, b"x", fin=False) + encode(CONTINUATION, b""))
    assert [flags for _, _, flags in decoder.records] == [FIRST | FRAME_END, FRAME_END | LAST]


def random_stream(generator: random.Random, key: bytes | None) -> bytes:
    """Mostly valid frames with an occasional wrong byte."""
    data = b""
    inside = False
    for _ in range(generator.randrange(2, 9)):
        size = generator.choice([0, 1, 3, 60, 125, 126, 300, 1030])
        text = "".join(generator.choices("aé€😀b\0", k=size // 2)).encode()
        if generator.random() < 0.2:
            data += encode(PING, generator.randbytes(min(size, 125)), key=key)
            continue
        fin = generator.random() < 0.6
        rsv = 4 if not inside and generator.random() < 0.1 else 0
        opcode = CONTINUATION if inside else generator.choice([TEXT, BINARY])
        data += encode(opcode, text, fin=fin, rsv=rsv, key=key)
        inside = not fin
    if generator.random() < 0.3:
        place = generator.randrange(len(data))
        data = data[:place] + generator.randbytes(1) + data[place + 1 :]
    return data


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("before", [0, 3, 1023, 1024, 1500])
def test_rows_longer_than_c_has_places_for(side: int, before: int) -> None:
    # The plain messages before them take the places first.
    key = key_for(side)
    plain = encode(TEXT, b"p", key=key) * before
    rows = encode(TEXT, b"\xff", rsv=4, key=key) * 2500 + encode(BINARY, b"", rsv=1, key=key) * 2
    decoder = CodecDecoder(side, allowed_rsv=5)
    expect = [("message", TEXT, b"p")] * before
    expect += [("piece", TEXT, 4, b"\xff", True, True)] * 2500
    expect += [("piece", BINARY, 1, b"", True, True)] * 2
    assert decoder.feed(plain + rows) == expect
    counted = [count for kind, count, _ in decoder.records if kind == lib.SYNCWS_ROW]
    assert sum(counted) == 2502 and max(counted) <= 1024
    assert counted[-1] == 2


@pytest.mark.parametrize("side", SIDES)
def test_random_streams_with_streaming_at_random_places(side: int) -> None:
    """Also feeds through the window and with sudden changes of chunk size."""
    for seed in range(300):
        generator = random.Random(seed)
        limits = {
            "max_size": generator.choice([2**64 - 1, 2000]),
            "max_fragments": generator.choice([2**64 - 1, 2]),
            "allowed_rsv": 4,
        }
        data = random_stream(generator, generator.randbytes(4) if side == SERVER else None)
        oracle, codec = ReferenceDecoder(side, **limits), CodecDecoder(side, **limits)
        start = 0
        while start < len(data):
            if generator.random() < 0.2:
                oracle.start_streaming()
                codec.start_streaming()
            size = generator.choice([1, 2, 10, 100, 1000])
            wanted = comparable(oracle.feed(data[start : start + size]))
            assert comparable(codec.feed(data[start : start + size])) == wanted, (seed, start)
            start += size
