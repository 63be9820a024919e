"""Group B of the catalogue: text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import syncws

from . import peer as wire
from .subject import Conversation, Outcome, Subject, collect

# The boundaries of table 3-7 of the Unicode standard, from outside, and what Autobahn's
# section 6 sends: every string here must be refused wherever it stands in a message.
INVALID = {
    "lone 80": "80",
    "lone bf": "bf",
    "two lone": "80bf",
    "c0": "c080",
    "c1": "c1bf",
    "c2 then ascii": "c241",
    "c2 then c0": "c2c0",
    "c2 then 7f": "c27f",
    "df then c0": "dfc0",
    "overlong e0 low": "e08080",
    "overlong e0 high": "e09fbf",
    "e0 then c0": "e0c080",
    "e1 then 7f": "e17f80",
    "e1 80 then 7f": "e1807f",
    "e1 80 then c0": "e180c0",
    "first surrogate": "eda080",
    "last surrogate": "edbfbf",
    "surrogate pair": "eda0bdedb880",
    "ef bf then c0": "efbfc0",
    "overlong f0 low": "f0808080",
    "overlong f0 high": "f08fbfbf",
    "f0 then c0": "f0c08080",
    "f1 80 then 7f": "f1807f80",
    "f1 80 80 then c0": "f18080c0",
    "first beyond": "f4908080",
    "far beyond": "f4bfbfbf",
    "f5": "f5808080",
    "f7": "f7bfbfbf",
    "f8, five bytes": "f888808080",
    "fb, five bytes": "fbbfbfbfbf",
    "fc, six bytes": "fc8480808080",
    "fd, six bytes": "fdbfbfbfbfbf",
    "fe": "fe",
    "ff": "ff",
    "fe fe ff ff": "fefeffff",
    "autobahn 6.3": "cebae1bdb9cf83cebcceb5eda080656469746564",
    "autobahn 6.4": "cebae1bdb9cf83cebcceb5f4908080656469746564",
}
# Valid so far, but a message may not end here.
UNFINISHED = {
    "c2": "c2",
    "df": "df",
    "e0 a0": "e0a0",
    "e1": "e1",
    "e1 80": "e180",
    "ed 9f": "ed9f",
    "ef bf": "efbf",
    "f0 90": "f090",
    "f0 90 80": "f09080",
    "f4 8f bf": "f48fbf",
    "autobahn 6.22": "cebae1bdb9cf83cebcceb5f0",
}
# The first and the last character of each length and of each row of table 3-7.
BOUNDARIES = [
    0x0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xCFFF, 0xD000, 0xD7FF, 0xE000, 0xFFFD,
    0xFFFE, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0xFFFFF, 0x100000, 0x10FFFF,
]  # fmt: skip


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_B1_invalid_utf8(subject: Subject, text: str) -> None:
    subject.violate(subject.frame(wire.TEXT, bytes.fromhex(text)), 1007)


@pytest.mark.parametrize("text", UNFINISHED.values(), ids=UNFINISHED)
def test_B1_truncated_at_the_end(subject: Subject, text: str) -> None:
    subject.violate(subject.frame(wire.TEXT, b"x" * 50 + bytes.fromhex(text)), 1007)


@pytest.mark.parametrize("text", UNFINISHED.values(), ids=UNFINISHED)
def test_B1_truncated_at_an_empty_last_fragment(plain_subject: Subject, text: str) -> None:
    begun = plain_subject.frame(wire.TEXT, bytes.fromhex(text), fin=False)
    plain_subject.violate(begun + plain_subject.frame(wire.CONTINUATION), 1007)


def test_B1_boundaries_are_accepted(subject: Subject) -> None:
    text = "".join(map(chr, BOUNDARIES))

    def check(conversation: Conversation) -> None:
        echoed = conversation.peer.read_frame()
        assert echoed is not None
        assert echoed.payload == text.encode()
        conversation.expect_normal_end()
        assert conversation.outcome.messages == [text]

    subject.deliver(subject.frame(wire.TEXT, text.encode()), check)


@pytest.mark.parametrize("text", ["ff", "c080", "eda080", "f49080"])
def test_B2_fails_in_the_first_fragment(subject: Subject, text: str) -> None:
    with subject.open() as conversation:
        bad = subject.frame(wire.TEXT, b"hello " + bytes.fromhex(text), fin=False)
        conversation.peer.send(bad)
        conversation.expect_failure(1007, within=1.0)


@pytest.mark.parametrize("length", [100, 1000, 100_000, 10_000_000])
@pytest.mark.parametrize("text", ["ff", "c080", "eda080", "f49080"])
def test_B2_fails_before_the_frame_is_whole(subject: Subject, text: str, length: int) -> None:
    with subject.open() as conversation:
        start = b"hello " + bytes.fromhex(text)
        start = start if subject.key is None else wire.masked(start, subject.key)
        conversation.peer.send(subject.header(wire.TEXT, length) + start)
        conversation.expect_failure(1007, within=1.0)


@pytest.mark.parametrize("sent", [8, 9, 63, 64, 65, 1000, 70_000])
def test_B2_fails_at_the_byte_wherever_it_is(plain_subject: Subject, sent: int) -> None:
    """Autobahn 6.4: the bad byte comes by itself after good ones were taken."""
    with plain_subject.open() as conversation:
        payload = b"x" * sent + b"\xff"
        encoded = plain_subject.frame(wire.TEXT, payload + b"x" * 100_000)
        start = len(encoded) - 100_000 - 1
        conversation.peer.send(encoded[:start], encoded[start : start + 1], pause=0.02)
        conversation.expect_failure(1007, within=1.0)


def fragmentations(text: bytes) -> Iterator[list[bytes]]:
    """``text`` in two and in three fragments, at every offset."""
    for first in range(len(text) + 1):
        yield [text[:first], text[first:]]
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            yield [text[:first], text[first:second], text[second:]]


@pytest.mark.parametrize("ping", [False, True], ids=["plain", "with pings"])
def test_B3_code_points_split_across_fragments(subject: Subject, ping: bool) -> None:
    with subject.open() as conversation:
        for character in map(chr, BOUNDARIES):
            text = f"a{character}z".encode()
            for fragments in fragmentations(text):
                data = b""
                for index, fragment in enumerate(fragments):
                    data += subject.frame(
                        wire.CONTINUATION if index else wire.TEXT,
                        fragment,
                        fin=index == len(fragments) - 1,
                    )
                    if ping and index < len(fragments) - 1:
                        data += subject.frame(wire.PING, b"p")
                conversation.peer.send(data)
                if ping:
                    for _ in fragments[1:]:
                        pong = conversation.peer.read_frame()
                        assert pong is not None
                        assert (pong.opcode, pong.payload) == (wire.PONG, b"p")
                echoed = conversation.peer.read_frame()
                assert echoed is not None
                assert echoed.payload == text, fragments
        conversation.expect_normal_end()


def test_B3_code_points_split_across_segments(plain_subject: Subject) -> None:
    with plain_subject.open() as conversation:
        for character in map(chr, BOUNDARIES):
            text = f"a{character}z".encode()
            for pieces in wire.splits(plain_subject.frame(wire.TEXT, text)):
                conversation.peer.send(*pieces, pause=0.0005)
                echoed = conversation.peer.read_frame()
                assert echoed is not None
                assert echoed.payload == text
        conversation.expect_normal_end()


@pytest.mark.parametrize("character", ["é", "€", "\U0001f600"])
def test_B4_valid_at_every_offset_of_a_block(subject: Subject, character: str) -> None:
    with subject.open() as conversation:
        for offset in range(129):
            text = b"x" * offset + character.encode() + b"x" * (128 - offset)
            conversation.peer.send_frame(wire.TEXT, text)
            echoed = conversation.peer.read_frame()
            assert echoed is not None
            assert echoed.payload == text, offset
        conversation.expect_normal_end()


@pytest.mark.parametrize("text", ["80", "c0af", "eda080", "f4908080"])
def test_B4_invalid_at_every_offset_of_a_block(plain_subject: Subject, text: str) -> None:
    bad = bytes.fromhex(text)
    for offset in range(65):
        with plain_subject.open(collect) as conversation:
            payload = b"x" * offset + bad + b"x" * (128 - offset - len(bad))
            conversation.peer.send_frame(wire.TEXT, payload)
            _, close = conversation.peer.read_until_close()
            assert int.from_bytes(close.payload[:2]) == 1007, offset


BAD_MESSAGES: dict[str, tuple[Any, type[Exception]]] = {
    "lone surrogate": ("x\ud800", ValueError),
    "surrogate pair": ("\ud83d\ude00", ValueError),
    "int": (7, TypeError),
    "None": (None, TypeError),
    "dict": ({"a": "b"}, TypeError),
    "list of int": ([1, 2], TypeError),
    "str then bytes": (["a", b"b"], TypeError),
    "bytes then str": ([b"a", "b"], TypeError),
}


@pytest.mark.parametrize(("bad", "kind"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_B5_message_that_cannot_be_sent(
    plain_subject: Subject, bad: Any, kind: type[Exception]
) -> None:
    begun = isinstance(bad, list) and not isinstance(bad[0], int)

    def program(connection: Any, outcome: Outcome) -> None:
        with pytest.raises(kind):
            connection.send(bad)
        if not begun:
            connection.send("intact")
        collect(connection, outcome)

    with plain_subject.open(program) as conversation:
        if begun:
            # The first fragment has gone out: the message cannot be taken back, nor ended
            # as if it were whole.
            frames, _ = conversation.peer.read_until_close()
            assert not any(frame.fin for frame in frames)
            conversation.peer.send_close(None)
            conversation.peer.half_close()
            conversation.outcome.wait()
            assert isinstance(conversation.outcome.error, syncws.ConnectionClosedError)
        else:
            received = conversation.peer.read_frame()
            assert received is not None
            assert (received.opcode, received.payload) == (wire.TEXT, b"intact")
            conversation.expect_normal_end()


def test_B5_memoryview_that_is_not_contiguous(plain_subject: Subject) -> None:
    """Sent whole or refused; never its gaps, never half of it."""
    view = memoryview(bytes(range(200)))[::2]

    def program(connection: Any, outcome: Outcome) -> None:
        try:
            connection.send(view)
        except (ValueError, BufferError, TypeError) as error:
            outcome.error = error
        connection.send("intact")
        outcome.messages.append(connection.recv())

    with plain_subject.open(program) as conversation:
        received = conversation.peer.read_frame()
        assert received is not None
        if received.opcode == wire.BINARY:
            assert received.payload == view.tobytes()
            received = conversation.peer.read_frame()
            assert received is not None
        assert (received.opcode, received.payload) == (wire.TEXT, b"intact")
        conversation.peer.send_frame(wire.TEXT, b"done")
        _, close = conversation.peer.read_until_close()
        assert close.payload[:2] == wire.close_payload(1000)


def test_B5_bytearray_resized_during_send(plain_subject: Subject) -> None:
    """The caller's buffer is either held for the call or was copied: no mix is sent."""
    size = 8 * 2**20
    buffer = bytearray(b"x" * size)
    resized = threading.Event()

    def program(connection: Any, outcome: Outcome) -> None:
        connection.send(buffer)
        outcome.messages.append(connection.recv())

    with plain_subject.open(program) as conversation:
        # Once its first bytes are here, the call is under way, and it cannot end before
        # we read: sockets and queue hold far less.
        if not conversation.peer.received:
            conversation.peer.received = conversation.peer.sock.recv(1)
        try:
            buffer.clear()
        except BufferError:
            resized.set()
        received = b""
        while len(received) < size:
            frame = conversation.peer.read_frame()
            assert frame is not None
            received += frame.payload
        assert received == b"x" * size
        assert len(buffer) == (size if resized.is_set() else 0)
        conversation.peer.send_frame(wire.TEXT, b"done")
        conversation.peer.read_until_close()


def test_B5_bytearray_changed_after_send(plain_subject: Subject) -> None:
    def program(connection: Any, outcome: Outcome) -> None:
        buffer = bytearray(b"original")
        for view in (buffer, memoryview(buffer)):
            connection.send(view)
        buffer[:] = b"modified"
        del view
        buffer.clear()
        outcome.messages.append(connection.recv())

    with plain_subject.open(program) as conversation:
        for _ in range(2):
            received = conversation.peer.read_frame()
            assert received is not None
            assert received.payload == b"original"
        conversation.peer.send_frame(wire.TEXT, b"done")
        conversation.peer.read_until_close()
