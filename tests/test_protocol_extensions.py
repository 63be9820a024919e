"""The sans-I/O protocol with extensions."""

from __future__ import annotations

import pytest
from extending import Adding, agreed, pass_on, protocols

from syncws.exceptions import ConnectionClosedError
from syncws.extensions import Fragment, Unit
from syncws.frames import Close, Opcode, Side
from syncws.protocol import Failed, Ping, Protocol, State


class Failing(Adding):
    fails = True

    def encode(self, fragment: Fragment) -> Fragment:
        if self.fails:
            raise LookupError("no encoding")
        return super().encode(fragment)


def test_a_message_that_could_not_be_encoded_is_forgotten() -> None:
    client, server = agreed()
    failing = Failing(b"", unit=Unit.PIECE)
    sender, receiver = protocols([client, failing], [server, Adding(b"")])
    for fin in (True, False):
        failing.fails = True
        with pytest.raises(LookupError):
            sender.send_message(bytes(range(200)), fin=fin)
        failing.fails = False
        sender.send_message(bytes(range(200)) * 2)
        assert pass_on(sender, receiver) == [bytes(range(200)) * 2]
    assert sender.state is State.OPEN


def test_the_rest_of_a_message_that_cannot_be_encoded_fails_the_connection() -> None:
    failing = Failing(unit=Unit.PIECE)
    failing.fails = False
    sender, receiver = protocols([failing], [Adding(unit=Unit.PIECE)])
    sender.send_message("begun", fin=False)
    failing.fails = True
    with pytest.raises(LookupError):
        sender.send_continuation("cut", fin=True)
    assert sender.close_expected()
    (close,) = pass_on(sender, receiver)
    assert isinstance(close, Close) and close.code == 1011
    with pytest.raises(ConnectionClosedError):
        sender.send_message("more")


def test_an_extension_that_cannot_go_on_fails_the_connection() -> None:
    failing = Failing()
    failing.forgets = False
    sender, _ = protocols([failing], [])
    with pytest.raises(LookupError):
        sender.send_message("x")
    assert sender.close_expected()


def test_fragments_that_an_extension_waits_for() -> None:
    sender, receiver = protocols([Adding(rsv=4)], [Adding(rsv=4)])
    sender.send_message("a", fin=False)
    assert sender.data_to_send() == []
    sender.send_ping(b"between")
    sender.send_continuation("b", fin=True)
    assert pass_on(sender, receiver) == [Ping(b"between"), "ab"]


@pytest.mark.parametrize("claims", [{}, {"rsv": 2}])
def test_an_extension_of_frames_decodes_each_that_it_encoded(claims: dict[str, int]) -> None:
    ours, theirs = (Adding(b"", unit=Unit.FRAME, **claims) for _ in range(2))
    sender, receiver = protocols([ours], [theirs])
    frames = [b"", b"ab", b"", b"cd", b""]
    sender.send_message(frames[0], fin=False)
    for data in frames[1:-1]:
        sender.send_continuation(data, fin=False)
    sender.send_continuation(frames[-1], fin=True)
    assert pass_on(sender, receiver) == [b"abcd"]
    assert [call[1] for call in ours.calls] == frames
    assert [call[1] for call in theirs.calls] == frames


def test_control_frames_of_extensions_and_the_end() -> None:
    extension = Adding(opcodes=[11])
    receiver = Protocol(Side.CLIENT, extensions=[extension])
    receiver.receive_data(b"\x8b\x03abc")
    assert extension.calls == [("control", 11, b"abc")]
    receiver.receive_eof()
    receiver.receive_eof()
    assert extension.calls[1:] == ["ended"]


def test_a_violation_behind_a_message_that_cannot_be_decoded() -> None:
    receiver = Protocol(Side.CLIENT, extensions=[Adding(rsv=4)])
    receiver.receive_data(b"\x81\x01a" + b"\xc1\x01x" + b"\x81\x01b" + b"\xff\x00")
    message, failed = receiver.events_received()
    assert message == "a"
    assert isinstance(failed, Failed) and failed.error.close_code == 1011
    assert receiver.closing.state is State.CLOSING


@pytest.mark.parametrize("rsv", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.CONTINUATION, Opcode.PING, Opcode.CLOSE])
def test_a6_reserved_bits_with_and_without_compression(rsv: int, opcode: Opcode) -> None:
    for compressed in (False, True):
        _, server = agreed()
        receiver = Protocol(Side.CLIENT, extensions=[server] if compressed else [])
        begin = b"\x01\x01a" if opcode is Opcode.CONTINUATION else b""
        receiver.receive_data(begin + bytes([0x80 | rsv << 4 | opcode, 1]) + b"\x00")
        (event,) = receiver.events_received()
        if compressed and rsv == 4 and opcode is Opcode.TEXT:
            assert event == ""
        else:
            assert isinstance(event, Failed) and event.error.close_code == 1002
