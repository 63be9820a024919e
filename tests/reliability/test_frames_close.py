"""Group A of the catalogue, close frames: A12 to A14."""

from __future__ import annotations

import array
from typing import Any

import pytest

import syncws

from . import peer as wire
from .subject import Conversation, Outcome, Subject

REFUSED_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
ACCEPTED_CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]


@pytest.mark.parametrize("code", REFUSED_CODES)
def test_A12_reserved_close_codes(subject: Subject, code: int) -> None:
    subject.violate(subject.frame(wire.CLOSE, wire.close_payload(code)), 1002)


def test_A12_close_frame_of_one_byte(subject: Subject) -> None:
    subject.violate(subject.frame(wire.CLOSE, b"\x03"), 1002)


@pytest.mark.parametrize("code", ACCEPTED_CODES)
def test_A12_valid_close_codes_are_echoed(subject: Subject, code: int) -> None:
    def check(conversation: Conversation) -> None:
        answer = conversation.peer.read_frame()
        assert answer is not None
        assert (answer.opcode, answer.payload[:2]) == (wire.CLOSE, wire.close_payload(code))
        conversation.peer.half_close()
        conversation.peer.expect_end()
        error = conversation.outcome.wait().error
        assert isinstance(error, syncws.ConnectionClosed)
        assert isinstance(error, syncws.ConnectionClosedOK) is (code in (1000, 1001))
        assert error.rcvd is not None
        assert (error.rcvd.code, error.rcvd.reason) == (code, "why")
        assert error.rcvd_then_sent is True
        assert conversation.outcome.connection.close_code == code
        assert conversation.outcome.connection.close_reason == "why"

    subject.deliver(subject.frame(wire.CLOSE, wire.close_payload(code, b"why")), check)


def test_A12_empty_close_frame(subject: Subject) -> None:
    def check(conversation: Conversation) -> None:
        answer = conversation.peer.read_frame()
        assert answer is not None
        assert (answer.opcode, answer.payload) == (wire.CLOSE, b"")
        conversation.peer.half_close()
        conversation.peer.expect_end()
        error = conversation.outcome.wait().error
        assert isinstance(error, syncws.ConnectionClosedOK)
        assert error.rcvd is not None
        assert error.rcvd.code == 1005
        assert conversation.outcome.connection.close_code == 1005

    subject.deliver(subject.frame(wire.CLOSE), check)


@pytest.mark.parametrize(
    "reason",
    [b"\xff", b"ok\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"],
    ids=["lone", "cut", "surrogate", "overlong", "beyond"],
)
def test_A13_close_reason_is_not_utf8(subject: Subject, reason: bytes) -> None:
    subject.violate(subject.frame(wire.CLOSE, wire.close_payload(1000, reason)), 1007)


@pytest.mark.parametrize("reason", [b"x" * 123, "€".encode() * 41], ids=["ascii", "utf8"])
def test_A13_longest_close_reason(subject: Subject, reason: bytes) -> None:
    def check(conversation: Conversation) -> None:
        answer = conversation.peer.read_frame()
        assert answer is not None
        assert answer.payload[:2] == wire.close_payload(1000)
        conversation.peer.half_close()
        conversation.outcome.wait()
        assert conversation.outcome.connection.close_reason == reason.decode()

    subject.deliver(subject.frame(wire.CLOSE, wire.close_payload(1000, reason)), check)


def test_A13_close_reason_of_124_bytes(subject: Subject) -> None:
    subject.violate(subject.frame(wire.CLOSE, wire.close_payload(1000, b"x" * 124)), 1002)


BAD_CLOSE_ARGUMENTS: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "bytes": ((1000, b"bye"), TypeError, "reason"),
    "bytearray": ((1000, bytearray(b"bye")), TypeError, "reason"),
    "memoryview": ((1000, memoryview(b"bye")), TypeError, "reason"),
    "float array": ((1000, array.array("d", [1.0])), TypeError, "reason"),
    "int": ((1000, 7), TypeError, "reason"),
    "None": ((1000, None), TypeError, "reason"),
    "124 bytes": ((1000, "x" * 124), ValueError, "reason"),
    "126 bytes in 42 characters": ((1000, "€" * 42), ValueError, "reason"),
    "lone surrogate": ((1000, "\ud800"), ValueError, "reason"),
    "str code": (("1000", ""), TypeError, "code"),
    "float code": ((1000.0, ""), TypeError, "code"),
    "bool code": ((True, ""), TypeError, "code"),
    **{f"code {code}": ((code, ""), ValueError, "code") for code in [*REFUSED_CODES, -1, 2**32]},
}


@pytest.mark.parametrize(
    ("arguments", "kind", "name"), BAD_CLOSE_ARGUMENTS.values(), ids=BAD_CLOSE_ARGUMENTS
)
def test_A13_bad_arguments_of_close(
    plain_subject: Subject, arguments: tuple[Any, ...], kind: type[Exception], name: str
) -> None:
    def program(connection: Any, outcome: Outcome) -> None:
        with pytest.raises(kind, match=name):
            connection.close(*arguments)
        # Nothing was written and nothing is broken.
        connection.send("first")
        outcome.messages.append(connection.recv())
        connection.recv()

    with plain_subject.open(program) as conversation:
        first = conversation.peer.read_frame()
        assert first is not None
        assert (first.opcode, first.payload) == (wire.TEXT, b"first")
        conversation.peer.send_frame(wire.TEXT, b"second")
        conversation.expect_normal_end()
        assert conversation.outcome.messages == ["second"]


def test_A14_data_after_the_peers_close(subject: Subject) -> None:
    def check(conversation: Conversation) -> None:
        frames, answer = conversation.peer.read_until_close()
        assert [frame.payload for frame in frames] == [b"before"]
        assert answer.payload == wire.close_payload(1000)
        conversation.peer.half_close()
        conversation.peer.expect_end()
        conversation.outcome.wait()
        assert conversation.outcome.messages == ["before"]
        assert isinstance(conversation.outcome.error, syncws.ConnectionClosedOK)

    data = (
        subject.frame(wire.TEXT, b"before")
        + subject.frame(wire.CLOSE, wire.close_payload(1000))
        + subject.frame(wire.TEXT, b"after")
        + subject.frame(wire.PING, b"after")
        + subject.frame(wire.CLOSE, wire.close_payload(1001))
        + b"\xff\xff\xff\xff"
    )
    subject.deliver(data, check)


def test_A14_nothing_is_written_after_our_close(subject: Subject) -> None:
    def program(connection: Any, outcome: Outcome) -> None:
        connection.close(1000, "done")
        for call in (connection.send, connection.ping, connection.pong):
            with pytest.raises(syncws.ConnectionClosedOK):
                call(b"late")
        # What the peer sent before its own close frame is still delivered.
        outcome.messages.append(connection.recv())
        with pytest.raises(syncws.ConnectionClosedOK):
            connection.recv()
        connection.close(1001, "again")

    with subject.open(program) as conversation:
        frames, close = conversation.peer.read_until_close()
        assert not frames
        assert close.payload == wire.close_payload(1000, b"done")
        # This ping may not be answered any more (section 5.5.1).
        conversation.peer.send_frame(wire.PING, b"unanswered")
        conversation.peer.send_frame(wire.TEXT, b"late")
        conversation.peer.send_close(1000)
        conversation.peer.half_close()
        conversation.peer.expect_end()
        assert conversation.outcome.wait().error is None
        assert conversation.outcome.messages == ["late"]


def test_A14_close_inside_an_unfinished_message(subject: Subject) -> None:
    """Autobahn 7.1.5: the close frame counts, the partial message does not."""

    def check(conversation: Conversation) -> None:
        answer = conversation.peer.read_frame()
        assert answer is not None
        assert (answer.opcode, answer.payload) == (wire.CLOSE, wire.close_payload(1000))
        conversation.peer.half_close()
        conversation.peer.expect_end()
        conversation.outcome.wait()
        assert conversation.outcome.messages == []
        assert isinstance(conversation.outcome.error, syncws.ConnectionClosedOK)

    begun = subject.frame(wire.TEXT, b"begun", fin=False)
    subject.deliver(begun + subject.frame(wire.CLOSE, wire.close_payload(1000)), check)
