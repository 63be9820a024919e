"""Group C of the catalogue, messages: C4 to C10 and C13, and the compressed half of A6.

The peer has zlib and literal bytes (:mod:`.deflating`). Whatever it sends, the library
delivers exactly what zlib finds in it, or fails the connection.
"""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

import syncws

from . import peer as wire
from .deflating import RSV1, TAIL, Parameters, open_deflating
from .subject import Subject, collect

# RFC 7692 section 7.2.3.4: "Hello" in a block with BFINAL set, and the byte that ends it.
FINAL_HELLO = bytes.fromhex("f348cdc9c9070000")
# Section 7.2.3.1: the same in a block without.
HELLO = bytes.fromhex("f248cdc9c90700")
COMBINATIONS: list[Parameters] = [
    dict.fromkeys(names)
    for names in (
        [],
        ["server_no_context_takeover"],
        ["client_no_context_takeover"],
        ["server_no_context_takeover", "client_no_context_takeover"],
    )
]


# -- C4, C5, C7: the ends of messages ---------------------------------------------------


def test_C4_final_blocks_deliver_and_so_does_what_follows(subject: Subject) -> None:
    for takeover in COMBINATIONS:
        conversation, deflating = open_deflating(subject, takeover)
        with conversation:
            for payload in (FINAL_HELLO, HELLO, FINAL_HELLO, FINAL_HELLO, HELLO):
                conversation.peer.send(subject.frame(wire.TEXT, payload, rsv=RSV1))
                deflating.expect(wire.TEXT, b"Hello")
            deflating.send(wire.TEXT, b"and so on" * 100)
            deflating.expect(wire.TEXT, b"and so on" * 100)
            conversation.expect_normal_end()


def test_C4_two_final_blocks_in_a_message_are_both_delivered(subject: Subject) -> None:
    """Section 7.2.2: a message is a sequence of blocks, with or without BFINAL."""
    conversation, deflating = open_deflating(subject)
    with conversation:
        for payload, count in (
            (FINAL_HELLO[:-1] + FINAL_HELLO, 2),
            (FINAL_HELLO[:-1] + HELLO, 2),
            (FINAL_HELLO[:-1] * 3 + b"\x00", 3),
            (HELLO, 1),
        ):
            conversation.peer.send(subject.frame(wire.TEXT, payload, rsv=RSV1))
            deflating.expect(wire.TEXT, b"Hello" * count)
        conversation.expect_normal_end()


def test_C4_garbage_after_a_final_block_fails(subject: Subject) -> None:
    conversation, _ = open_deflating(subject)
    with conversation:
        payload = FINAL_HELLO[:-1] + b"\xff\xff\xff\xff"
        conversation.peer.send(subject.frame(wire.TEXT, payload, rsv=RSV1))
        expect_rejection(conversation)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x00",
        b"\x02\x00",
        b"\x00\x00\x00\xff\xff\x00",
        b"\x01\x00\x00\xff\xff\x00",
        b"\x03\x00\x00",
    ],
    ids=["usual", "fixed block", "stored block", "final stored block", "final fixed block"],
)
def test_C5_empty_messages(subject: Subject, payload: bytes) -> None:
    conversation, deflating = open_deflating(subject)
    with conversation:
        for opcode in (wire.TEXT, wire.BINARY):
            conversation.peer.send(subject.frame(opcode, payload, rsv=RSV1))
            deflating.expect(opcode, b"")
        deflating.send(wire.TEXT, b"next")
        deflating.expect(wire.TEXT, b"next")
        conversation.expect_normal_end()


def test_C5_a_compressed_message_without_any_payload(subject: Subject) -> None:
    """Not even one block: taken for an empty message, or rejected. The next one is intact."""
    conversation, deflating = open_deflating(subject)
    with conversation:
        conversation.peer.send(subject.frame(wire.TEXT, b"", rsv=RSV1))
        deflating.send(wire.TEXT, b"next")
        received = conversation.peer.read_frame()
        assert received is not None
        if received.opcode == wire.CLOSE:
            assert int.from_bytes(received.payload[:2]) in (1002, 1007)
            conversation.peer.send_close(1007)
            conversation.peer.half_close()
            conversation.peer.expect_end()
            return
        empty = deflating.inflate(received.payload) if received.rsv else received.payload
        assert empty == b""
        deflating.expect(wire.TEXT, b"next")
        conversation.expect_normal_end()


def test_C7_blocks_beyond_the_usual_end(subject: Subject) -> None:
    """The four bytes that are not sent may be sent, with another block behind them or none."""
    conversation, deflating = open_deflating(subject)
    with conversation:
        for payload in (
            HELLO + TAIL + b"\x00",
            HELLO + TAIL + b"\x00" + TAIL + b"\x00",
            HELLO + TAIL + HELLO,
        ):
            conversation.peer.send(subject.frame(wire.TEXT, payload, rsv=RSV1))
            deflating.expect(wire.TEXT, b"Hello" * (2 if payload.endswith(HELLO[1:]) else 1))
        conversation.expect_normal_end()


# -- C6: streams that are none ----------------------------------------------------------


def expect_rejection(conversation: Any) -> None:
    """Demands 1007 or 1002, on the wire and in the program."""
    frames, close = conversation.peer.read_until_close()
    assert not frames
    code = int.from_bytes(close.payload[:2])
    assert code in (1002, 1007), close
    conversation.peer.send_close(code)
    conversation.peer.half_close()
    conversation.peer.expect_end()
    conversation.outcome.expect_violation(code)


BAD = {
    "reserved block type": b"\x06",
    "stored length does not match": struct.pack("<BHH", 0, 5, 5) + b"Hello",
    "too many codes": bytes.fromhex("fcffffffff"),
    "distance beyond the beginning": bytes.fromhex("4b04a20000"),
    "only bits": b"\xff" * 100,
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD)
def test_C6_no_deflate_stream(subject: Subject, payload: bytes) -> None:
    with pytest.raises(zlib.error):
        zlib.decompressobj(wbits=-15).decompress(payload + TAIL)
    for opcode in (wire.TEXT, wire.BINARY):
        conversation, _ = open_deflating(subject)
        with conversation:
            conversation.peer.send(subject.frame(opcode, payload, rsv=RSV1))
            expect_rejection(conversation)


def mutations() -> Iterator[bytes]:
    """Streams of 300 B to 3 KiB with one to three bytes changed, or cut short."""
    rng = random.Random(6)
    for _ in range(60):
        text = " ".join(rng.choices("alpha beta gamma delta epsilon".split(), k=500)).encode()
        compressor = zlib.compressobj(rng.choice([1, 6, 9]), wbits=-15)
        good = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
        bad = bytearray(good[: -len(TAIL)])
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        yield bytes(bad)


def as_zlib_reads(payload: bytes) -> bytes | None:
    """What a message holds; ``None`` if it is not whole blocks without BFINAL."""
    oracle = zlib.decompressobj(wbits=-15)
    try:
        inflated = oracle.decompress(payload + TAIL)
        # At the beginning of a block, an empty final one ends the stream.
        if oracle.eof or oracle.decompress(b"\x01\x00\x00\xff\xff") or not oracle.eof:
            return None
    except zlib.error:
        return None
    return inflated


def test_C6_corrupted_streams_are_rejected_or_read_as_zlib_reads_them(
    plain_subject: Subject,
) -> None:
    """Deflate has no check sum: a changed letter is a changed letter, for everybody."""
    rejected = 0
    for payload in mutations():
        expected = as_zlib_reads(payload)
        rejected += expected is None
        conversation, deflating = open_deflating(plain_subject)
        with conversation:
            conversation.peer.send(plain_subject.frame(wire.BINARY, payload, rsv=RSV1))
            if expected is None:
                expect_rejection(conversation)
            else:
                deflating.expect(wire.BINARY, expected)
    assert 10 < rejected < 50


CUT = {
    "stored block": bytes.fromhex("000a00f5ff") + b"AA",
    "block header": b"\x04",
    "fixed Huffman block": HELLO[:4],
    "last byte": HELLO[:-1],
}


@pytest.mark.parametrize("payload", CUT.values(), ids=CUT)
def test_C6_a_cut_message_is_rejected_whatever_follows_it(
    plain_subject: Subject, payload: bytes
) -> None:
    """Alone, and with another message behind it that completes what was cut off."""
    assert as_zlib_reads(payload) is None
    whole = HELLO[len(payload) :] if HELLO.startswith(payload) else b"BBBB" + HELLO
    for following in ([], [whole], [HELLO], [whole] * 20):
        conversation, _ = open_deflating(plain_subject, behaviour=collect)
        with conversation:
            data = b"".join(
                plain_subject.frame(wire.BINARY, each, rsv=RSV1) for each in [payload, *following]
            )
            conversation.peer.send(data)
            expect_rejection(conversation)
        assert conversation.outcome.messages == []


def test_C6_text_is_checked_when_it_is_inflated(subject: Subject) -> None:
    """RFC 7692 section 6.2: UTF-8 is of the message, not of what was on the wire."""
    conversation, deflating = open_deflating(subject)
    with conversation:
        good = "\u20ac" * 1000
        deflating.send(wire.TEXT, good.encode())
        deflating.expect(wire.TEXT, good.encode())
        deflating.send(wire.TEXT, good.encode() + b"\xe2\x82")
        conversation.expect_failure(1007)


# -- A6: where RSV1 may be --------------------------------------------------------------


@pytest.mark.parametrize("rsv", range(1, 8))
def test_A6_reserved_bits_with_compression(subject: Subject, rsv: int) -> None:
    first = subject.frame(wire.TEXT, HELLO[:3], rsv=RSV1, fin=False)
    bad = {
        "ping": subject.frame(wire.PING, b"", rsv=rsv),
        "close": subject.frame(wire.CLOSE, wire.close_payload(1000), rsv=rsv),
        "continuation": first + subject.frame(wire.CONTINUATION, HELLO[3:], rsv=rsv),
    }
    if rsv != RSV1:
        bad["text"] = subject.frame(wire.TEXT, HELLO, rsv=rsv)
    for name, data in bad.items():
        conversation, _ = open_deflating(subject)
        with conversation:
            conversation.peer.send(data)
            try:
                conversation.expect_failure(1002)
            except BaseException as error:
                error.add_note(name)
                raise


# -- C8, C9: what both sides send -------------------------------------------------------


@pytest.mark.parametrize("bits", range(9, 16))
def test_C8_every_window_with_and_without_takeover(plain_subject: Subject, bits: int) -> None:
    """Both directions keep to the window; the peer remembers no more than that."""
    rng = random.Random(bits)
    for takeover in COMBINATIONS:
        parameters = takeover | {"server_max_window_bits": str(bits)}
        if not plain_subject.is_server:
            parameters["client_max_window_bits"] = str(bits)
        conversation, deflating = open_deflating(plain_subject, parameters)
        with conversation:
            assert deflating.parameters.items() >= takeover.items()
            # RFC 7692 section 7.1.2.1: the server may take a smaller one than it was asked for.
            assert 9 <= deflating.their_bits <= bits
            deflating.exact = True
            for _ in range(50):
                size = min(int(rng.lognormvariate(5, 2)), 20_000)
                data = bytes(rng.choices(range(rng.choice([2, 16, 256])), k=size))
                deflating.send(wire.BINARY, data)
                deflating.expect(wire.BINARY, data)
            conversation.expect_normal_end()


def test_C9_compressed_and_not_with_controls_between(subject: Subject) -> None:
    rng = random.Random(9)
    for takeover in (COMBINATIONS[0], COMBINATIONS[3]):
        conversation, deflating = open_deflating(subject, takeover)
        with conversation:
            for number in range(60):
                data = b"message %d " % number * rng.randrange(200)
                compressed = bool(rng.randrange(3))
                payload = deflating.compress(data) if compressed else data
                cuts = sorted(rng.choices(range(len(payload) + 1), k=rng.randrange(4)))
                ends = [*cuts, len(payload)]
                for index, (begin, end) in enumerate(zip([0, *cuts], ends, strict=True)):
                    first, last = index == 0, index == len(cuts)
                    fragment = subject.frame(
                        wire.TEXT if first else wire.CONTINUATION,
                        payload[begin:end],
                        rsv=RSV1 if compressed and first else 0,
                        fin=last,
                    )
                    conversation.peer.send(fragment)
                    if not last:
                        conversation.peer.send(subject.frame(wire.PING, b"%d" % index))
                        pong = conversation.peer.read_frame()
                        assert pong is not None
                        assert (pong.opcode, pong.rsv) == (wire.PONG, 0)
                        assert pong.payload == b"%d" % index
                deflating.expect(wire.TEXT, data)
            conversation.expect_normal_end()


def test_C9_A15_many_in_one_segment(subject: Subject) -> None:
    """Nothing of one message is taken for another's."""
    conversation, deflating = open_deflating(subject)
    with conversation:
        expected = []
        data = b""
        for size in (0, 1, 125, 126, 127, 65535, 65536, 3, 0, 70_000, 2):
            for compressed in (True, False):
                message = random.Random(size).randbytes(size // 2).hex().encode()
                expected.append(message)
                data += (
                    deflating.frame(wire.TEXT, message)
                    if compressed
                    else subject.frame(wire.TEXT, message)
                )
        conversation.peer.send(data)
        for message in expected:
            deflating.expect(wire.TEXT, message)
        conversation.expect_normal_end()


# -- C10: time --------------------------------------------------------------------------


STORED = b"".join(struct.pack("<BHHB", 0, 1, 0xFFFE, byte % 256) for byte in range(2**17))


@pytest.mark.parametrize(
    ("payload", "inflated"),
    [
        (STORED + b"\x00", bytes(range(256)) * 512),
        (b"\x00\x00\x00\xff\xff" * 2**16 + b"\x00", b""),
    ],
    ids=["stored blocks of a byte", "empty blocks"],
)
def test_C10_small_blocks_cost_no_more_than_linear_time(
    plain_subject: Subject, payload: bytes, inflated: bytes
) -> None:
    conversation, deflating = open_deflating(plain_subject)
    with conversation:
        begin = time.thread_time()
        zlib.decompressobj(wbits=-15).decompress(payload + TAIL)
        alone = time.thread_time() - begin
        begin = time.monotonic()
        conversation.peer.send(plain_subject.frame(wire.BINARY, payload, rsv=RSV1))
        deflating.expect(wire.BINARY, inflated)
        # Generous: something that looked at the rest again for each block would take minutes.
        assert time.monotonic() - begin < 100 * alone + 2
        conversation.expect_normal_end()


def test_C13_a_message_can_be_kept_out_of_the_context(subject: Subject) -> None:
    """Neither compressed itself, nor remembered for those that follow."""
    secret = random.Random(13).randbytes(500).hex()

    def program(connection: syncws.Connection, outcome: Any) -> None:
        connection.send(secret, compress=False)
        connection.send(f"see: {secret}")
        connection.recv()

    conversation, deflating = open_deflating(subject, behaviour=program)
    with conversation:
        assert deflating.read_message() == (wire.TEXT, secret.encode(), False)
        received = conversation.peer.read_frame()
        assert received is not None
        # Hexadecimal digits are worth half a byte each: a reference would need a few.
        assert len(received.payload) > 450
        conversation.peer.send_close()
        conversation.peer.read_until_close()
