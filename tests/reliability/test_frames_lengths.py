"""Group A of the catalogue, lengths and limits: A1 to A4, A8."""

from __future__ import annotations

import pytest

from . import peer as wire
from .subject import Conversation, Subject, resident_bytes

MAX_FRAME_SIZE = 16 * 2**20

# What a header claims, and the close code of the answer. None of these payloads is sent.
CLAIMS = {
    "2^63": (2**63, 1002),
    "2^63-1": (2**63 - 1, 1009),
    "2^64-1": (2**64 - 1, 1002),
    "2^64-4": (2**64 - 4, 1002),
    "2^64-14": (2**64 - 14, 1002),
    "2^53": (2**53, 1009),
    "2^32": (2**32, 1009),
    "2^31": (2**31, 1009),
    "max+1": (MAX_FRAME_SIZE + 1, 1009),
}

# Far above what a process moves by itself, far below what the headers claim.
GROWTH = 8 * 2**20


@pytest.mark.parametrize(("length", "code"), CLAIMS.values(), ids=CLAIMS)
def test_A1_length_overflow(subject: Subject, length: int, code: int) -> None:
    before = resident_bytes()
    subject.violate(subject.header(wire.BINARY, length), code)
    assert resident_bytes() - before < GROWTH


@pytest.mark.parametrize("length", [2**63, 2**32, 1], ids=["2^63", "2^32", "1"])
def test_A1_length_overflow_masked_against_its_direction(
    plain_subject: Subject, length: int
) -> None:
    wrong = None if plain_subject.is_server else wire.DEFAULT_KEY
    plain_subject.violate(plain_subject.header(wire.BINARY, length, mask=wrong), 1002)


def test_A1_fourteen_bytes_of_actix_3723(subject: Subject) -> None:
    subject.violate(bytes.fromhex("0affffffffffffffffffff00eb0e8f"), 1002)


@pytest.mark.parametrize("opcode", [wire.TEXT, wire.BINARY], ids=["text", "binary"])
def test_A2_sum_over_fragments(subject: Subject, opcode: int) -> None:
    fragments = (
        subject.frame(opcode, b"x" * 500, fin=False)
        + subject.frame(wire.CONTINUATION, b"x" * 500, fin=False)
        # The header alone crosses the limit.
        + subject.header(wire.CONTINUATION, 500)
    )
    subject.violate(fragments, 1009, max_size=1000)


def test_A2_huge_fragment_after_one_byte(subject: Subject) -> None:
    fragments = subject.frame(wire.BINARY, b"x", fin=False)
    fragments += subject.header(wire.CONTINUATION, 2**63 - 1)
    subject.violate(fragments, 1009)
    subject.violate(fragments, 1009, max_frame_size=None)


def fragments(subject: Subject, payload: bytes, count: int) -> bytes:
    """A binary message in ``count`` frames."""
    size = -(-len(payload) // count)
    return b"".join(
        subject.frame(
            wire.CONTINUATION if index else wire.BINARY,
            payload[index * size : (index + 1) * size],
            fin=index == count - 1,
        )
        for index in range(count)
    )


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("total", [999, 1000], ids=["max-1", "max"])
def test_A3_exact_limit_is_accepted(subject: Subject, total: int, count: int) -> None:
    payload = bytes(index % 251 for index in range(total))

    def check(conversation: Conversation) -> None:
        echoed = conversation.peer.read_frame()
        assert echoed is not None
        assert echoed.payload == payload
        conversation.expect_normal_end()

    subject.deliver(fragments(subject, payload, count), check, max_size=1000)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_A3_one_byte_over_the_limit(subject: Subject, count: int) -> None:
    subject.violate(fragments(subject, b"x" * 1001, count), 1009, max_size=1000)


def test_A3_frame_limit(plain_subject: Subject) -> None:
    exact = plain_subject.frame(wire.BINARY, b"x" * 500, fin=False)
    exact += plain_subject.frame(wire.CONTINUATION, b"x" * 500)

    def check(conversation: Conversation) -> None:
        echoed, close = conversation.peer.read_until_close()
        assert b"".join(frame.payload for frame in echoed) == b"x" * 1000
        assert int.from_bytes(close.payload[:2]) == 1009

    over = plain_subject.header(wire.BINARY, 501)
    plain_subject.deliver(exact + over, check, max_frame_size=500)


def test_A4_incomplete_big_frame_is_refused_at_its_header(subject: Subject) -> None:
    with subject.open(max_size=100_000) as conversation:
        conversation.peer.send(subject.header(wire.BINARY, 100_001))
        frames, close = conversation.peer.read_until_close(timeout=1.0)
        assert not frames
        assert int.from_bytes(close.payload[:2]) == 1009
        # The dribble that follows is read and dropped, so nothing resets our close frame.
        conversation.peer.send_bytewise(b"x" * 100)
        conversation.peer.half_close()
        conversation.peer.expect_end()
        assert not conversation.peer.was_reset
        conversation.outcome.expect_violation(1009)


@pytest.mark.parametrize(
    ("length", "length_size"),
    [(0, 2), (1, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)],
)
def test_A8_non_minimal_length(subject: Subject, length: int, length_size: int) -> None:
    subject.violate(subject.header(wire.BINARY, length, length_size=length_size), 1002)


@pytest.mark.parametrize("opcode", [wire.PING, wire.PONG, wire.CLOSE])
def test_A8_non_minimal_length_of_a_control_frame(plain_subject: Subject, opcode: int) -> None:
    plain_subject.violate(plain_subject.header(opcode, 5, length_size=2), 1002)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536])
def test_A8_minimal_lengths_are_accepted(subject: Subject, length: int) -> None:
    def check(conversation: Conversation) -> None:
        echoed = conversation.peer.read_frame()
        assert echoed is not None
        assert echoed.payload == b"\xfe" * length
        conversation.expect_normal_end()

    subject.deliver(subject.frame(wire.BINARY, b"\xfe" * length), check)
