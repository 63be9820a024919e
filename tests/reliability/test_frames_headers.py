"""Group A of the catalogue, the fields of a header: A5 to A7, A9 to A11."""

from __future__ import annotations

import time

import pytest

from . import peer as wire
from .subject import Conversation, Subject, echo

RESERVED_OPCODES = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]
OPCODES = {
    "text": wire.TEXT,
    "binary": wire.BINARY,
    "close": wire.CLOSE,
    "ping": wire.PING,
    "pong": wire.PONG,
}


@pytest.mark.parametrize("opcode", RESERVED_OPCODES)
def test_A5_unknown_opcode_is_refused_after_two_bytes(subject: Subject, opcode: int) -> None:
    # The header of a gigabyte; only its first two bytes ever come.
    subject.violate(subject.header(opcode, 2**30)[:2], 1002)


@pytest.mark.parametrize("opcode", RESERVED_OPCODES)
def test_A5_unknown_opcode_inside_a_message(plain_subject: Subject, opcode: int) -> None:
    begun = plain_subject.frame(wire.TEXT, b"begun", fin=False)
    plain_subject.violate(begun + plain_subject.frame(opcode), 1002)


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", OPCODES.values(), ids=OPCODES)
def test_A6_reserved_bits(plain_subject: Subject, opcode: int, rsv: int) -> None:
    payload = wire.close_payload(1000) if opcode == wire.CLOSE else b"x"
    plain_subject.violate(plain_subject.frame(opcode, payload, rsv=rsv), 1002)


@pytest.mark.parametrize("rsv", range(1, 8))
def test_A6_reserved_bits_of_a_continuation(plain_subject: Subject, rsv: int) -> None:
    bad = plain_subject.frame(wire.BINARY, b"x", fin=False)
    bad += plain_subject.frame(wire.CONTINUATION, b"x", rsv=rsv)
    plain_subject.violate(bad, 1002)


def test_A6_reserved_bit_over_any_transport(subject: Subject) -> None:
    subject.violate(subject.frame(wire.TEXT, b"x", rsv=4), 1002)


@pytest.mark.parametrize("opcode", OPCODES.values(), ids=OPCODES)
@pytest.mark.parametrize("payload", [b"", b"\x03\xe8 not for you"], ids=["empty", "payload"])
def test_A7_mask_direction(subject: Subject, opcode: int, payload: bytes) -> None:
    wrong = None if subject.is_server else wire.DEFAULT_KEY

    def check(conversation: Conversation) -> None:
        conversation.expect_failure(1002, [b"good"])
        assert conversation.outcome.messages == ["good"]

    bad = wire.frame(opcode, payload, mask=wrong)
    subject.deliver(subject.frame(wire.TEXT, b"good") + bad, check)


def test_A7_mask_of_zeros_is_a_mask(plain_subject: Subject) -> None:
    mask = bytes(4) if plain_subject.is_server else None

    def check(conversation: Conversation) -> None:
        echoed = conversation.peer.read_frame()
        assert echoed is not None
        assert echoed.payload == b"zero"

    plain_subject.deliver(wire.frame(wire.TEXT, b"zero", mask=mask), check)


CONTROL = {"close": wire.CLOSE, "ping": wire.PING, "pong": wire.PONG}


@pytest.mark.parametrize("opcode", CONTROL.values(), ids=CONTROL)
@pytest.mark.parametrize("length", [126, 127, 65535, 65536, 2**40])
def test_A9_long_control_frame_is_refused_at_its_header(
    subject: Subject, opcode: int, length: int
) -> None:
    subject.violate(subject.header(opcode, length), 1002)


@pytest.mark.parametrize("opcode", CONTROL.values(), ids=CONTROL)
@pytest.mark.parametrize("length", [0, 2, 125])
def test_A9_fragmented_control_frame(subject: Subject, opcode: int, length: int) -> None:
    subject.violate(subject.header(opcode, length, fin=False), 1002)


@pytest.mark.parametrize("length", [0, 1, 124, 125])
def test_A9_ping_of_the_greatest_length_is_answered(subject: Subject, length: int) -> None:
    payload = bytes(range(length))

    def check(conversation: Conversation) -> None:
        pong = conversation.peer.read_frame()
        assert pong is not None
        assert (pong.opcode, pong.payload, pong.fin) == (wire.PONG, payload, True)
        conversation.expect_normal_end()

    subject.deliver(subject.frame(wire.PING, payload), check)


def test_A9_unsolicited_pongs_are_ignored(subject: Subject) -> None:
    def check(conversation: Conversation) -> None:
        echoed = conversation.peer.read_frame()
        assert echoed is not None
        assert (echoed.opcode, echoed.payload) == (wire.TEXT, b"after")
        conversation.expect_normal_end()

    pongs = subject.frame(wire.PONG, b"x" * 125) + subject.frame(wire.PONG)
    subject.deliver(pongs + subject.frame(wire.TEXT, b"after"), check)


def violations_of_fragmentation(subject: Subject) -> dict[str, bytes]:
    """Sequences of data frames that RFC 6455 section 5.4 forbids."""
    begun = subject.frame(wire.TEXT, b"begun", fin=False)
    return {
        "continuation first": subject.frame(wire.CONTINUATION, b"x"),
        "unfinished continuation first": subject.frame(wire.CONTINUATION, b"x", fin=False),
        "empty continuation first": subject.frame(wire.CONTINUATION),
        "text in text": begun + subject.frame(wire.TEXT, b"x"),
        "text begun in text": begun + begun,
        "binary in text": begun + subject.frame(wire.BINARY, b"x"),
        "text in binary": subject.frame(wire.BINARY, b"x", fin=False)
        + subject.frame(wire.TEXT, b"x"),
        "continuation after the end": begun
        + subject.frame(wire.PING)
        + subject.frame(wire.CONTINUATION, b" and ended")
        + subject.frame(wire.CONTINUATION, b"x"),
    }


@pytest.mark.parametrize(
    "name", ["continuation first", "unfinished continuation first", "empty continuation first"]
)
def test_A10_continuation_without_a_start(subject: Subject, name: str) -> None:
    subject.violate(violations_of_fragmentation(subject)[name], 1002)


@pytest.mark.parametrize(
    "name", ["text in text", "text begun in text", "binary in text", "text in binary"]
)
def test_A10_data_inside_a_message(subject: Subject, name: str) -> None:
    subject.violate(violations_of_fragmentation(subject)[name], 1002)


def test_A10_continuation_after_the_end(subject: Subject) -> None:
    def check(conversation: Conversation) -> None:
        conversation.expect_failure(1002, [b"", b"begun and ended"])
        assert conversation.outcome.messages == ["begun and ended"]

    subject.deliver(violations_of_fragmentation(subject)["continuation after the end"], check)


def test_A11_control_frames_between_fragments(subject: Subject) -> None:
    data = (
        subject.frame(wire.TEXT, b"\xe2", fin=False)
        + subject.frame(wire.PING, b"inside")
        + subject.frame(wire.CONTINUATION, b"\x82", fin=False)
        + subject.frame(wire.PONG)
        + subject.frame(wire.CONTINUATION, b"\xac")
    )

    def check(conversation: Conversation) -> None:
        pong, echoed = conversation.peer.read_frame(), conversation.peer.read_frame()
        assert pong is not None
        assert (pong.opcode, pong.payload) == (wire.PONG, b"inside")
        assert echoed is not None
        assert (echoed.opcode, echoed.payload) == (wire.TEXT, b"\xe2\x82\xac")
        assert conversation.outcome.messages == ["€"]
        conversation.expect_normal_end()

    subject.deliver(data, check)


def test_A11_ping_is_answered_before_the_message_ends(subject: Subject) -> None:
    with subject.open(echo) as conversation:
        conversation.peer.send_frame(wire.TEXT, b"\xe2", fin=False)
        for number in range(5):
            payload = b"%d" % number
            conversation.peer.send_frame(wire.PING, payload)
            started = time.monotonic()
            pong = conversation.peer.read_frame(timeout=1.0)
            assert time.monotonic() - started < 1.0
            assert pong is not None
            assert (pong.opcode, pong.payload) == (wire.PONG, payload)
        conversation.peer.send_frame(wire.CONTINUATION, b"\x82\xac")
        echoed = conversation.peer.read_frame()
        assert echoed is not None
        assert echoed.payload == "€".encode()
        conversation.expect_normal_end()
