"""Runs of short messages, which the kernels take in a loop of their own.

What belongs here: what may come in the middle of such a run, with enough behind it that the loop
is not left because the input ends. What does not: runs of few messages (``test_codec.py``).
"""

from __future__ import annotations

import pytest
from codec_driver import CodecDecoder, agree
from reference import BINARY, CLIENT, CONTINUATION, KEY, PING, SIDES, TEXT, encode, key_for
from syncws._codec import ffi, lib

pytestmark = pytest.mark.usefixtures("isa_level")


def in_the_middle(data: bytes, opcode: int, side: int) -> bytes:
    """``data`` with messages around it, of which more than 128 bytes, the loop's reach, follow."""
    frames = {size: encode(opcode, b"m" * size, key=key_for(side)) for size in (3, 50, 64)}
    return frames[3] * 2 + frames[50] + data + frames[64] * 2 + frames[3] * 3


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_every_length(side: int, opcode: int) -> None:
    payloads = [bytes(65 + (n + i) % 26 for i in range(n)) for n in range(126)]
    payloads = [b"first", *payloads, *payloads[::-1], b"x" * 64, b"x" * 64]
    data = b"".join(encode(opcode, payload, key=key_for(side)) for payload in payloads)
    decoder = CodecDecoder(side)
    assert decoder.feed(data) == [("message", opcode, payload) for payload in payloads]
    assert decoder.records == [(lib.SYNCWS_RUN, len(payloads), 0)]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"a" * 40 + b"\0" + b"b" * 20, id="NUL"),
        pytest.param(b"\0", id="only NUL"),
        pytest.param(b"a" * 31 + b"\0", id="NUL at the end of a vector"),
        pytest.param("aß€😀".encode() * 5, id="not ASCII"),
        pytest.param(b"a" * 40 + b"\xff", id="not UTF-8"),
        pytest.param(b"\xff" + b"a" * 70, id="not UTF-8, at first"),
        pytest.param(b"a" * 31 + b"\xc3", id="half a character"),
    ],
)
def test_payloads_that_are_looked_at_again(side: int, opcode: int, payload: bytes) -> None:
    middle = encode(opcode, payload, key=key_for(side))
    agree(in_the_middle(middle, opcode, side), side)
    agree(in_the_middle(middle * 2, opcode, side), side)


@pytest.mark.parametrize("side", SIDES)
def test_the_separator_at_every_place(side: int) -> None:
    for place in range(122):
        decoder = CodecDecoder(side)
        separator = bytes(ffi.buffer(decoder.scratch.separator))
        payload = b"." * place + separator + b"." * (121 - place)
        # What only looks like it stays in the run.
        almost = payload.replace(separator, separator[:3] + bytes([separator[3] ^ 1]))
        messages = [almost, payload, almost, b"x" * 64, b"x" * 64, b"x" * 64]
        data = b"".join(encode(BINARY, message, key=key_for(side)) for message in messages)
        data = in_the_middle(data, BINARY, side)
        assert [event[2] for event in decoder.feed(data)][3:-5] == messages
        assert [record[1] for record in decoder.records] == [4, 1, 9]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_other_frames(side: int, opcode: int) -> None:
    payload, key = b"x" * 64, key_for(side)
    for middle in [
        encode(opcode, b"x" * 125, key=key),
        encode(opcode, b"x" * 126, key=key),
        encode(opcode, b"x" * 300, key=key),
        encode(opcode, payload, key=KEY if side == CLIENT else None),  # wrong mask bit
        encode(opcode, payload, rsv=4, key=key),
        encode(TEXT + BINARY - opcode, payload, key=key),
        encode(3, payload, key=key),
        encode(PING, payload, key=key),
        encode(opcode, payload, fin=False, key=key) + encode(CONTINUATION, payload, key=key),
        encode(CONTINUATION, payload, key=key),
    ]:
        agree(in_the_middle(middle, opcode, side), side)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a3_limits(side: int, opcode: int) -> None:
    for size, limit in [(64, 64), (65, 64), (124, 123), (125, 125), (125, 124)]:
        data = in_the_middle(encode(opcode, b"x" * size, key=key_for(side)), opcode, side)
        agree(data, side, max_size=limit)
        agree(data, side, max_frame_size=limit)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 30, 120])
def test_more_than_c_has_places_for(side: int, opcode: int, size: int) -> None:
    payload = b"x" * size
    count = 3000
    decoder = CodecDecoder(side)
    found = decoder.feed(encode(opcode, payload, key=key_for(side)) * count)
    assert found == [("message", opcode, payload)] * count
