"""The decoder and the encoder against wire bytes and the oracle.

What belongs here: frames that are right, and how they are delivered. What does not: what a
decoder must refuse (test_codec_failures.py) and streaming (test_codec_pieces.py).
"""

from __future__ import annotations

import random

import pytest
from codec_driver import CodecDecoder, agree, codec_encode
from hypothesis import given
from hypothesis import strategies as st
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
    Event,
    ReferenceDecoder,
    encode,
    key_for,
)
from syncws._codec import ffi, lib

pytestmark = pytest.mark.usefixtures("isa_level")


# (name, opcode, payload, wire bytes without a mask)
WIRE: list[tuple[str, int, bytes, bytes]] = [
    ("empty text", TEXT, b"", b"\x81\x00"),
    ("Hello, RFC 6455 5.7", TEXT, b"Hello", b"\x81\x05Hello"),
    ("text with NUL", TEXT, b"a\0b", b"\x81\x03a\0b"),
    ("euro", TEXT, b"\xe2\x82\xac", b"\x81\x03\xe2\x82\xac"),
    ("empty binary", BINARY, b"", b"\x82\x00"),
    ("binary", BINARY, b"\xff\x00\x80", b"\x82\x03\xff\x00\x80"),
    ("124", BINARY, b"x" * 124, b"\x82\x7c" + b"x" * 124),
    ("125", BINARY, b"x" * 125, b"\x82\x7d" + b"x" * 125),
    ("126", BINARY, b"x" * 126, b"\x82\x7e\x00\x7e" + b"x" * 126),
    ("127", BINARY, b"x" * 127, b"\x82\x7e\x00\x7f" + b"x" * 127),
    ("1024", BINARY, b"x" * 1024, b"\x82\x7e\x04\x00" + b"x" * 1024),
    ("1025", BINARY, b"x" * 1025, b"\x82\x7e\x04\x01" + b"x" * 1025),
    ("8192", BINARY, b"x" * 8192, b"\x82\x7e\x20\x00" + b"x" * 8192),
    ("8193", BINARY, b"x" * 8193, b"\x82\x7e\x20\x01" + b"x" * 8193),
    ("65535", BINARY, b"x" * 65535, b"\x82\x7e\xff\xff" + b"x" * 65535),
    ("65536", BINARY, b"x" * 65536, b"\x82\x7f" + (65536).to_bytes(8, "big") + b"x" * 65536),
    ("ping", PING, b"Hello", b"\x89\x05Hello"),
    ("empty ping", PING, b"", b"\x89\x00"),
    ("pong", PONG, b"p" * 125, b"\x8a\x7d" + b"p" * 125),
    ("close", CLOSE, b"\x03\xe8bye", b"\x88\x05\x03\xe8bye"),
    ("empty close", CLOSE, b"", b"\x88\x00"),
]


def event_of(opcode: int, payload: bytes) -> Event:
    return ("control" if opcode >= 8 else "message", opcode, payload)


@pytest.mark.parametrize(
    ("opcode", "payload", "wire"), [row[1:] for row in WIRE], ids=[row[0] for row in WIRE]
)
def test_wire_table_both_ways(opcode: int, payload: bytes, wire: bytes) -> None:
    assert codec_encode(opcode, payload) == wire
    assert encode(opcode, payload) == wire
    masked = encode(opcode, payload, key=KEY)
    assert codec_encode(opcode, payload, key=KEY) == masked
    for side, data in ((CLIENT, wire), (SERVER, masked)):
        assert CodecDecoder(side).feed(data) == [event_of(opcode, payload)]
        if len(data) <= 1200:
            agree(data, side, expect=[event_of(opcode, payload)])


def test_the_masked_example_of_rfc_6455() -> None:
    wire = bytes.fromhex("8185 37fa213d 7f9f4d5158")
    assert codec_encode(TEXT, b"Hello", key=KEY) == wire
    agree(wire, SERVER, expect=[("message", TEXT, b"Hello")])


def test_encoded_headers_of_every_size() -> None:
    header = ffi.new("uint8_t[14]")
    for length in (0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537, 2**32, 2**63 - 1):
        for key in (None, KEY):
            for fin, rsv in ((True, 0), (False, 0), (True, 4)):
                size = lib.syncws_encode_header(
                    header, fin << 7 | rsv << 4 | TEXT, length, ffi.NULL if key is None else key
                )
                wanted = encode(TEXT, fin=fin, rsv=rsv, key=key, length=length)
                assert bytes(ffi.buffer(header, size)) == wanted


@pytest.mark.parametrize("side", SIDES)
def test_fragmented_messages(side: int) -> None:
    key = key_for(side)
    data = (
        encode(TEXT, b"Hel", fin=False, key=key)
        + encode(CONTINUATION, b"", fin=False, key=key)
        + encode(CONTINUATION, b"lo", key=key)
        + encode(BINARY, b"", fin=False, key=key)
        + encode(CONTINUATION, b"", key=key)
        + encode(BINARY, b"\xff" * 200, fin=False, key=key)
        + encode(CONTINUATION, b"\xfe" * 200, key=key)
    )
    expect: list[Event] = [
        ("message", TEXT, b"Hello"),
        ("message", BINARY, b""),
        ("message", BINARY, b"\xff" * 200 + b"\xfe" * 200),
    ]
    agree(data, side, expect=expect)


@pytest.mark.parametrize("side", SIDES)
def test_a11_control_frames_between_fragments_and_inside_a_character(side: int) -> None:
    key = key_for(side)
    data = (
        encode(TEXT, b"\xe2", fin=False, key=key)
        + encode(PING, b"one", key=key)
        + encode(CONTINUATION, b"\x82", fin=False, key=key)
        + encode(PONG, b"two", key=key)
        + encode(PING, b"", key=key)
        + encode(CONTINUATION, b"\xac", key=key)
    )
    expect: list[Event] = [
        ("control", PING, b"one"),
        ("control", PONG, b"two"),
        ("control", PING, b""),
        ("message", TEXT, "€".encode()),
    ]
    agree(data, side, expect=expect)


@pytest.mark.parametrize("side", SIDES)
def test_a14_nothing_after_a_close_frame(side: int) -> None:
    key = key_for(side)
    close = encode(CLOSE, b"\x03\xe8", key=key)
    data = encode(TEXT, b"before", key=key) + close + encode(TEXT, b"after", key=key)
    expect: list[Event] = [("message", TEXT, b"before"), ("control", CLOSE, b"\x03\xe8")]
    agree(data, side, expect=expect)
    # Not even garbage matters then.
    agree(close + b"\xff" * 50, side, expect=expect[1:])


@pytest.mark.parametrize("side", SIDES)
def test_a14_a_close_frame_inside_an_unfinished_message_drops_it(side: int) -> None:
    key = key_for(side)
    data = encode(TEXT, b"part", fin=False, key=key) + encode(CLOSE, b"\x03\xe9", key=key)
    agree(data, side, expect=[("control", CLOSE, b"\x03\xe9")])
    decoder = CodecDecoder(side)
    decoder.feed(data)
    assert decoder.struct.closed == 1
    assert decoder.struct.in_message == decoder.struct.in_frame == 0
    assert decoder.struct.buffer == ffi.NULL


@pytest.mark.parametrize("side", SIDES)
def test_a15_frames_back_to_back(side: int) -> None:
    key = key_for(side)
    generator = random.Random(15)
    for count in range(1, 6):
        data, expect = b"", []
        for _ in range(count):
            opcode = generator.choice([TEXT, BINARY])
            size = generator.choice([0, 1, 125, 126, 300])
            payload = bytes(generator.choices(range(1, 128), k=size))
            data += encode(opcode, payload, key=key)
            expect.append(("message", opcode, payload))
        agree(data, side, expect=expect)


@pytest.mark.parametrize("side", SIDES)
def test_a15_big_frames_back_to_back(side: int) -> None:
    key = key_for(side)
    payloads = [bytes([n]) * size for n, size in enumerate((65535, 65536, 0, 126, 200_000))]
    data = b"".join(encode(BINARY, payload, key=key) for payload in payloads)
    for size in (len(data), 65536, 65535, 4096, 1001):
        decoder = CodecDecoder(side)
        found = []
        for start in range(0, len(data), size):
            found += decoder.receive(data[start : start + size])
        assert [event[2] for event in found] == payloads


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_row_of_small_messages_is_one_run(side: int, opcode: int) -> None:
    payloads = [b"x" * size for size in (0, 5, 31, 32, 33, 125, 126, 8192, 0)]
    data = b"".join(encode(opcode, payload, key=key_for(side)) for payload in payloads)
    decoder = CodecDecoder(side)
    assert decoder.feed(data) == [("message", opcode, payload) for payload in payloads]
    assert decoder.records == [(lib.SYNCWS_RUN, len(payloads), 0)]
    agree(data, side)


@pytest.mark.parametrize("side", SIDES)
def test_a_lone_message_is_no_run(side: int) -> None:
    key = key_for(side)
    for opcode in (TEXT, BINARY):
        decoder = CodecDecoder(side)
        decoder.feed(encode(opcode, b"x", key=key))
        assert decoder.records == [(lib.SYNCWS_MESSAGE, 1, 0)]


@pytest.mark.parametrize("side", SIDES)
def test_what_breaks_a_run(side: int) -> None:
    key = key_for(side)
    text, binary = encode(TEXT, b"t", key=key), encode(BINARY, b"b", key=key)
    ping, big = encode(PING, b"p", key=key), encode(TEXT, b"x" * 8193, key=key)
    parts = encode(TEXT, b"1", fin=False, key=key) + encode(CONTINUATION, b"2", key=key)
    message, run, control = lib.SYNCWS_MESSAGE, lib.SYNCWS_RUN, lib.SYNCWS_CONTROL
    for data, kinds in [
        (text + text + binary + binary, [run, run]),
        (text + binary + text, [message, message, message]),
        (text + ping + text, [message, control, message]),
        (text + text + ping + text + text, [run, control, run]),
        (text + text + big + text, [run, message, message]),
        (text + text + parts + text, [run, message, message]),
    ]:
        decoder = CodecDecoder(side)
        decoder.feed(data)
        assert [record[0] for record in decoder.records] == kinds
        agree(data, side)


@pytest.mark.parametrize("side", SIDES)
def test_text_with_a_nul_splits_the_run(side: int) -> None:
    key = key_for(side)
    payloads = [b"a", b"b", b"\0", b"c", b"d", b"e\0f" * 20, b"g"]
    data = b"".join(encode(TEXT, payload, key=key) for payload in payloads)
    decoder = CodecDecoder(side)
    assert decoder.feed(data) == [("message", TEXT, payload) for payload in payloads]
    counts = [record[1] for record in decoder.records]
    assert counts == [2, 1, 2, 1, 1]
    agree(data, side)


@pytest.mark.parametrize("side", SIDES)
def test_binary_with_the_separator_splits_the_run(side: int) -> None:
    for place in range(70):
        for size in (4, 5, 8, 31, 32, 33, 64, 80):
            if place + 4 > size:
                continue
            decoder = CodecDecoder(side)
            separator = bytes(ffi.buffer(decoder.scratch.separator))
            tricky = b"." * place + separator + b"." * (size - place - 4)
            # What only looks like it stays in the run.
            almost = b"." * place + separator[:3] + b"\0" * (size - place - 3)
            payloads = [b"a", separator[1:], separator[:3], tricky, almost, almost]
            data = b"".join(encode(BINARY, payload, key=key_for(side)) for payload in payloads)
            assert decoder.feed(data) == [("message", BINARY, payload) for payload in payloads]
            if separator[3] != 0:
                assert [record[1] for record in decoder.records] == [3, 1, 2]


@pytest.mark.parametrize("side", SIDES)
def test_more_records_than_a_scratch_holds(side: int) -> None:
    key = key_for(side)
    data = b"".join(
        encode(opcode, bytes([65 + n % 26]), key=key)
        for n in range(700)
        for opcode in (TEXT, BINARY, PING)
    )
    decoder = CodecDecoder(side)
    assert decoder.feed(data) == ReferenceDecoder(side).feed(data)
    assert decoder.calls > 1


@pytest.mark.parametrize("side", SIDES)
def test_a_run_that_breaks_in_the_last_record(side: int) -> None:
    for before in range(250, 260):
        texts = [b"\0"] * before + [b"a", b"b", b"\0", b"c"]
        data = b"".join(encode(TEXT, text, key=key_for(side)) for text in texts)
        assert CodecDecoder(side).feed(data) == [("message", TEXT, text) for text in texts]


@pytest.mark.parametrize("side", SIDES)
def test_more_than_a_scratch_can_pack(side: int) -> None:
    key = key_for(side)
    for payload in (b"", b"x" * 63, b"y" * 1024, b"z" * 8192):
        wire = encode(BINARY, payload, key=key)
        count = 400_000 // max(len(wire), 8)
        found = CodecDecoder(side).feed(wire * count)
        assert found == [("message", BINARY, payload)] * count


@pytest.mark.parametrize("side", SIDES)
def test_a_message_in_parts_when_nothing_more_can_be_packed(side: int) -> None:
    key = key_for(side)
    full = encode(BINARY, b"x" * 1000, key=key) * 130  # 130 * 1004 of 131072 bytes
    parts = encode(TEXT, b"y", fin=False, key=key) + encode(CONTINUATION, b"z" * 200, key=key)
    for size in range(300, 560, 4):
        last = b"w" * size
        found = CodecDecoder(side).feed(full + encode(BINARY, last, key=key) + parts)
        assert found[130:] == [("message", BINARY, last), ("message", TEXT, b"y" + b"z" * 200)]


@pytest.mark.parametrize("side", SIDES)
def test_messages_in_parts_one_after_the_other(side: int) -> None:
    """Each is handed out from the decoder's one buffer before the next one needs it."""
    key = key_for(side)
    payloads = [bytes([n]) * size for n, size in enumerate((9000, 9900, 1, 0, 9999, 8192, 8193))]
    data = b"".join(
        encode(BINARY, payload[:1], fin=False, key=key) + encode(CONTINUATION, payload[1:], key=key)
        for payload in payloads
    )
    decoder = CodecDecoder(side)
    assert decoder.feed(data) == [("message", BINARY, payload) for payload in payloads]
    assert decoder.calls > 1
    for size in (1, 7, 1000):
        decoder = CodecDecoder(side)
        found = []
        for start in range(0, len(data), size):
            found += decoder.feed(data[start : start + size])
        assert [event[2] for event in found] == payloads


@pytest.mark.parametrize("side", SIDES)
def test_an_idle_decoder_keeps_no_memory(side: int) -> None:
    key = key_for(side)
    data = encode(BINARY, b"x" * 9000, key=key)
    decoder = CodecDecoder(side)
    decoder.feed(data[:1000])
    assert decoder.struct.in_frame and decoder.struct.in_message
    assert decoder.struct.buffer_capacity == 9000
    assert decoder.feed(data[1000:]) == [("message", BINARY, b"x" * 9000)]
    assert decoder.records == [(lib.SYNCWS_MESSAGE, 1, lib.SYNCWS_IN_DECODER)]
    assert not decoder.struct.in_frame and not decoder.struct.in_message
    assert decoder.struct.buffer == ffi.NULL
    assert decoder.struct.handed_out != ffi.NULL
    lib.syncws_decoder_reclaim(decoder.struct)
    assert decoder.struct.handed_out == ffi.NULL
    decoder.feed(data[:2000])
    decoder.feed(data[2000:])
    decoder.feed(b"")  # does it, too
    assert decoder.struct.handed_out == ffi.NULL


@pytest.mark.parametrize("side", SIDES)
def test_a4_memory_follows_what_came_and_not_what_a_header_claims(side: int) -> None:
    mebibyte = 2**20
    decoder = CodecDecoder(side)
    header = encode(BINARY, key=key_for(side), length=2**40)
    decoder.feed(header + b"x")
    assert decoder.struct.buffer_capacity == mebibyte
    came = 1
    for _ in range(50):
        decoder.receive(bytes(100_000))
        came += 100_000
        assert decoder.struct.buffer_length == came
        assert decoder.struct.buffer_capacity <= 4 * came + mebibyte


def test_the_window_covers_the_rest_of_a_large_frame() -> None:
    start = ffi.new("uint8_t **")
    for side in SIDES:
        key = key_for(side)
        decoder = CodecDecoder(side)
        assert lib.syncws_decoder_window(decoder.struct, start) == 0
        assert start[0] == ffi.NULL
        payload = bytes(range(256)) * 1000
        wire = encode(BINARY, payload, key=key)
        head = len(wire) - len(payload)
        decoder.feed(wire[:head])
        assert lib.syncws_decoder_window(decoder.struct, start) == len(payload)
        decoder.feed(wire[head : head + 101])
        assert lib.syncws_decoder_window(decoder.struct, start) == len(payload) - 101
        ffi.memmove(start[0], wire[head + 101 : -65535], len(payload) - 101 - 65535)
        assert decoder.feed(b"", direct=len(payload) - 101 - 65535) == []
        # The last 64 KiB come with whatever follows them.
        assert lib.syncws_decoder_window(decoder.struct, start) == 0
        after = encode(TEXT, b"next", key=key)
        assert decoder.feed(wire[-65535:] + after) == [
            ("message", BINARY, payload),
            ("message", TEXT, b"next"),
        ]


@pytest.mark.parametrize("side", SIDES)
def test_a_window_beside_a_message_that_is_still_in_a_record(side: int) -> None:
    key = key_for(side)
    first = encode(BINARY, b"x" * 5000, key=key)
    second = encode(BINARY, b"y" * 100_000, key=key)
    head = len(second) - 100_000
    decoder = CodecDecoder(side)
    decoder.feed(first[:100])
    assert decoder.feed(first[100:] + second[:head]) == [("message", BINARY, b"x" * 5000)]
    record = decoder.scratch.records[0]
    start = ffi.new("uint8_t **")
    assert lib.syncws_decoder_window(decoder.struct, start) == 100_000
    ffi.memmove(start[0], second[head:], 100_000)
    assert bytes(ffi.buffer(record.data, record.length)) == b"x" * 5000
    assert decoder.feed(b"", direct=100_000) == [("message", BINARY, b"y" * 100_000)]


@pytest.mark.parametrize("side", SIDES)
def test_an_empty_message_in_parts_after_a_gathered_one(side: int) -> None:
    key = key_for(side)
    gathered = encode(BINARY, b"x" * 8193, key=key)
    empty = encode(TEXT, b"", fin=False, key=key) + encode(CONTINUATION, b"", key=key)
    decoder = CodecDecoder(side)
    decoder.feed(gathered[:20])
    assert decoder.feed(gathered[20:] + empty) == [
        ("message", BINARY, b"x" * 8193),
        ("message", TEXT, b""),
    ]


def test_a_text_that_is_received_directly_is_checked() -> None:
    text = ("€" * 60_000).encode()
    wire = encode(TEXT, text, key=KEY)
    decoder = CodecDecoder(SERVER)
    assert decoder.receive(wire[:1000]) == []
    assert decoder.receive(wire[1000:]) == [("message", TEXT, text)]
    decoder = CodecDecoder(SERVER)
    decoder.receive(wire[:1000])
    assert decoder.receive(bytes([wire[1000] ^ 0x40]) + wire[1001:]) == [("failure", "BAD_UTF8")]


payloads = st.one_of(st.binary(max_size=300), st.binary(min_size=1000, max_size=1100))
texts = st.text(max_size=100).map(str.encode)


@st.composite
def conversations(draw: st.DrawFn, key: bytes | None) -> tuple[bytes, list[Event]]:
    """Valid wire bytes and what they mean."""
    data, expect = b"", []
    for _ in range(draw(st.integers(1, 6))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        payload = draw(texts if opcode == TEXT else payloads)
        edges = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        edges = [0, *edges, len(payload)]
        for index in range(len(edges) - 1):
            if draw(st.integers(0, 3)) == 0:
                control, body = draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125))
                data += encode(control, body, key=key)
                expect.append(("control", control, body))
            data += encode(
                opcode if index == 0 else CONTINUATION,
                payload[edges[index] : edges[index + 1]],
                fin=index == len(edges) - 2,
                key=key,
            )
        expect.append(("message", opcode, payload))
    return data, expect


@given(st.data(), st.sampled_from(SIDES), st.binary(min_size=4, max_size=4))
def test_a_conversation_survives_any_cut(data: st.DataObject, side: int, key: bytes) -> None:
    wire, expect = data.draw(conversations(key if side == SERVER else None))
    decoder = CodecDecoder(side)
    found, start = [], 0
    while start < len(wire):
        size = data.draw(st.integers(1, len(wire)))
        found += decoder.receive(wire[start : start + size])
        start += size
    assert found == expect
    assert ReferenceDecoder(side).feed(wire) == expect


@given(st.binary(max_size=60), st.sampled_from(SIDES))
def test_any_bytes_end_as_the_oracle_says(data: bytes, side: int) -> None:
    agree(data, side, max_frame_size=1000, max_size=1500, max_fragments=4)
