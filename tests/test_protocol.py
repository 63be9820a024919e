"""The sans-I/O protocol: RFC 6455 sections 5 to 7 for both roles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncws.exceptions import (
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidText,
    PayloadTooBig,
    ProtocolError,
)
from syncws.frames import Close, CloseCode, FrameEncoder, Opcode, Side
from syncws.protocol import ClosingHandshake, Event, Failed, Ping, Pong, Protocol, State

SIDES = list(Side)


def other(side: Side) -> Side:
    return Side.SERVER if side is Side.CLIENT else Side.CLIENT


def sent_by(protocol: Protocol) -> list[Event]:
    """What the peer of ``protocol`` sees of what it sends."""
    peer = Protocol(other(protocol.side))
    for data in protocol.data_to_send():
        peer.receive_data(data)
    return peer.events_received()


class Peer:
    """Encodes frames as the peer of ``side`` would."""

    def __init__(self, side: Side) -> None:
        self.encoder = FrameEncoder(other(side))

    def __call__(self, opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
        return self.encoder.encode(opcode, payload, fin)


@pytest.mark.parametrize("side", SIDES)
def test_messages_pings_and_pongs_are_events_in_order(side: Side) -> None:
    protocol, peer = Protocol(side), Peer(side)
    protocol.receive_data(
        peer(Opcode.TEXT, "é".encode())
        + peer(Opcode.PING, b"1")
        + peer(Opcode.BINARY, b"a", fin=False)
        + peer(Opcode.PONG, b"2")
        + peer(Opcode.CONTINUATION, b"b")
        + b"".join(peer(Opcode.TEXT, b"%d" % number) for number in range(3))
    )
    events = protocol.events_received()
    assert events == ["é", Ping(b"1"), Pong(b"2"), b"ab", "0", "1", "2"]
    assert protocol.events_received() == []
    assert sent_by(protocol) == [Pong(b"1")]
    assert protocol.state is State.OPEN
    assert not protocol.close_expected()


@pytest.mark.parametrize("side", SIDES)
def test_a_close_frame_is_echoed_once_and_ends_everything(side: Side) -> None:
    protocol, peer = Protocol(side), Peer(side)
    protocol.receive_data(peer(Opcode.CLOSE, b"\x03\xe9bye") + peer(Opcode.TEXT, b"late"))
    protocol.receive_data(peer(Opcode.PING, b"late"))
    assert protocol.events_received() == [Close(1001, "bye")]
    assert sent_by(protocol) == [Close(1001, "")]
    assert protocol.close_expected()
    protocol.send_close(1000)
    assert protocol.data_to_send() == []
    protocol.receive_eof()
    assert protocol.state is State.CLOSED
    assert (protocol.closing.close_code, protocol.closing.close_reason) == (1001, "bye")
    exception = protocol.closing.exception()
    assert isinstance(exception, ConnectionClosedOK)
    assert exception.rcvd_then_sent is True
    assert str(exception) == "received 1001 (going away) bye; then sent 1001 (going away)"


@pytest.mark.parametrize("side", SIDES)
def test_an_empty_close_frame_is_answered_by_an_empty_one(side: Side) -> None:
    protocol, peer = Protocol(side), Peer(side)
    protocol.receive_data(peer(Opcode.CLOSE))
    assert protocol.events_received() == [Close(1005, "")]
    (frame,) = protocol.data_to_send()
    assert len(frame) == (2 if side is Side.SERVER else 6)
    assert isinstance(protocol.closing.exception(), ConnectionClosedOK)


@pytest.mark.parametrize("side", SIDES)
def test_our_close_frame_is_the_last_thing_we_send(side: Side) -> None:
    protocol, peer = Protocol(side), Peer(side)
    protocol.send_close(4000, "done")
    assert sent_by(protocol) == [Close(4000, "done")]
    assert protocol.state is State.CLOSING
    protocol.receive_data(peer(Opcode.TEXT, b"still coming") + peer(Opcode.PING, b"?"))
    assert protocol.events_received() == ["still coming", Ping(b"?")]
    assert protocol.data_to_send() == []
    for send in (protocol.send_message, protocol.send_ping, protocol.send_pong):
        with pytest.raises(ConnectionClosedError):
            send(b"")  # type: ignore[operator]  # three signatures, one call
    protocol.receive_data(peer(Opcode.CLOSE, b"\x0f\xa0"))
    assert protocol.close_expected()
    exception = protocol.closing.exception()
    assert exception.rcvd_then_sent is False
    assert str(exception) == "sent 4000 (private use) done; then received 4000 (private use)"
    assert isinstance(exception, ConnectionClosedError)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("opcode", "payload", "kind", "code"),
    [
        (3, b"", ProtocolError, 1002),
        (Opcode.TEXT, b"\xff", InvalidText, 1007),
        (Opcode.BINARY, b"x" * 11, PayloadTooBig, 1009),
        (Opcode.CLOSE, b"\x03", ProtocolError, 1002),
        (Opcode.CLOSE, b"\x03\xed", ProtocolError, 1002),
        (Opcode.CLOSE, b"\x03\xe8\xff", InvalidText, 1007),
    ],
)
def test_a_violation_comes_after_the_messages_before_it(
    side: Side, opcode: int, payload: bytes, kind: type[ProtocolError], code: int
) -> None:
    protocol, peer = Protocol(side, max_size=10), Peer(side)
    protocol.receive_data(peer(Opcode.TEXT, b"good") + peer(opcode, payload))
    protocol.receive_data(peer(Opcode.TEXT, b"late"))
    good, failed = protocol.events_received()
    assert good == "good"
    assert isinstance(failed, Failed)
    assert type(failed.error) is kind
    (close,) = sent_by(protocol)
    assert isinstance(close, Close)
    assert close.code == code
    assert protocol.close_expected()
    exception = protocol.closing.exception()
    assert isinstance(exception, ConnectionClosedError)
    assert exception.__cause__ is failed.error


def test_a_violation_after_our_close_frame_sends_nothing_more() -> None:
    protocol, peer = Protocol(Side.SERVER), Peer(Side.SERVER)
    protocol.send_close()
    protocol.data_to_send()
    protocol.receive_data(peer(3))
    assert protocol.data_to_send() == []
    assert isinstance(protocol.events_received()[0], Failed)


@pytest.mark.parametrize("side", SIDES)
def test_fragmented_messages(side: Side) -> None:
    protocol = Protocol(side)
    with pytest.raises(RuntimeError, match="no unfinished message"):
        protocol.send_continuation("x", fin=True)
    protocol.send_message("a", fin=False)
    with pytest.raises(RuntimeError, match="finished first"):
        protocol.send_message("b")
    protocol.send_ping(b"between")
    protocol.send_continuation("b", fin=False)
    protocol.send_continuation("c", fin=True)
    protocol.send_message(b"next")
    assert sent_by(protocol) == [Ping(b"between"), "abc", b"next"]


@pytest.mark.parametrize("size", [125, 126])
def test_control_payloads_of_125_bytes_and_more(size: int) -> None:
    protocol = Protocol(Side.CLIENT)
    for send, event in ((protocol.send_ping, Ping), (protocol.send_pong, Pong)):
        if size == 125:
            send(b"x" * size)
            assert sent_by(protocol) == [event(b"x" * size)]
        else:
            with pytest.raises(ValueError, match="125"):
                send(b"x" * size)


def test_close_arguments_are_checked_before_anything_is_sent() -> None:
    protocol = Protocol(Side.CLIENT)
    with pytest.raises(ValueError, match="1005"):
        protocol.send_close(1005)
    with pytest.raises(TypeError, match="reason"):
        protocol.send_close(1000, b"x")  # type: ignore[arg-type]  # that is the test
    assert protocol.data_to_send() == []
    assert protocol.state is State.OPEN


def test_an_end_without_close_frames_is_1006() -> None:
    protocol = Protocol(Side.CLIENT)
    assert protocol.closing.close_code is None
    assert protocol.closing.close_reason is None
    protocol.receive_eof()
    assert protocol.closing.close_code == CloseCode.ABNORMAL_CLOSURE
    assert protocol.closing.close_reason == ""
    exception = protocol.closing.exception()
    assert isinstance(exception, ConnectionClosedError)
    assert str(exception) == "no close frame received; none sent"
    with pytest.raises(ConnectionClosedError):
        protocol.send_message("x")
    protocol.send_close()
    assert protocol.data_to_send() == []


def test_an_end_before_the_answer_to_our_close_frame() -> None:
    closing = ClosingHandshake()
    closing.send(Close(1000, ""))
    closing.end(OSError("broken"), "why")
    assert str(closing.exception()) == "sent 1000 (normal closure); no close frame received: why"
    assert isinstance(closing.exception().__cause__, OSError)


def test_what_ended_well_stays_so_whatever_goes_wrong_behind_it() -> None:
    closing = ClosingHandshake()
    closing.receive(b"\x03\xe8")
    closing.end()
    closing.end(OSError("late"), "why")
    assert closing.cause is None
    assert isinstance(closing.exception(), ConnectionClosedOK)
    assert closing.explanation == ""


def test_the_first_cause_and_the_first_explanation_stay() -> None:
    closing = ClosingHandshake()
    closing.end(None, "first")
    first = OSError("first")
    closing.end(first, "second")
    closing.end(OSError("second"), "third")
    assert closing.cause is first
    assert closing.explanation == "first"
    assert closing.fail(ValueError("late")) is None
    assert closing.cause is first


def test_failing_with_our_own_code_and_a_long_reason() -> None:
    closing = ClosingHandshake()
    payload = closing.fail(ValueError("x"), CloseCode.INTERNAL_ERROR, "é" * 100)
    assert payload is not None
    assert Close.parse(payload) == (1011, "é" * 61)


def test_a_close_frame_received_while_nothing_was_sent_back() -> None:
    closing = ClosingHandshake()
    closing.rcvd = Close(1001, "")
    closing.end()
    assert str(closing.exception()) == "received 1001 (going away); no close frame sent"


events = st.lists(
    st.one_of(
        st.text(max_size=300),
        st.binary(max_size=300),
        st.builds(Ping, st.binary(max_size=125)),
        st.builds(Pong, st.binary(max_size=125)),
    ),
    max_size=20,
)


@given(events, st.sampled_from(SIDES), st.integers(1, 50))
def test_what_one_protocol_sends_the_other_receives(
    sent: list[Event], side: Side, step: int
) -> None:
    protocol, peer = Protocol(side), Protocol(other(side))
    for event in sent:
        if isinstance(event, Ping):
            protocol.send_ping(event.data)
        elif isinstance(event, Pong):
            protocol.send_pong(event.data)
        else:
            assert isinstance(event, str | bytes)
            protocol.send_message(event)
    data = b"".join(protocol.data_to_send())
    received: list[Event] = []
    for start in range(0, len(data), step):
        peer.receive_data(data[start : start + step])
        received += peer.events_received()
    assert received == sent


def test_an_error_that_cannot_be_copied_is_kept_as_it_is() -> None:
    class Odd(Exception):
        def __reduce__(self) -> str:
            raise TypeError("not to be copied")

    closing = ClosingHandshake()
    try:
        raise Odd
    except Odd as error:
        odd = error
        closing.end(error)
    assert closing.cause is odd
