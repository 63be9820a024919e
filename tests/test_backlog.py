"""Messages that extensions have not decoded yet: bounded memory, and order whatever asks.

What belongs here: one read that brings far more than the inbound queue holds. What does not:
the decoding itself (``test_decoding.py``), and queues of plain messages (``test_delivery.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from channels import Meeting, portable
from extending import Adding
from pairing import PATIENCE, InThread, Pair, eventually
from reliability.peer import BINARY, CLOSE, PING, PONG, Peer, frame
from test_extension_connections import Server, pair

import syncws
from syncws import decoding as decoding_module
from syncws.delivery import HIGH_WATER
from syncws.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from syncws.frames import lib
from syncws.protocol import State
from syncws.transport import Transport

SIZE = 700_000
COUNT = 40


def messages(count: int = COUNT) -> list[bytes]:
    """Messages that take a thousandth of their size on the wire."""
    return [bytes([number]) * SIZE for number in range(1, count + 1)]


def wire(server: Server, count: int = COUNT) -> bytes:
    data = b"".join(server.message(data) for data in messages(count))
    assert len(data) < 2**16, "that is several reads"
    return data


def paused(meeting: Pair | Meeting) -> Callable[[], bool]:
    return lambda: bool(lib.syncws_flags(meeting.channel.c) & lib.SYNCWS_FLAG_PAUSED)


def received(meeting: Pair, count: int = COUNT) -> list[Any]:
    return [meeting.connection.recv(PATIENCE) for _ in range(count)]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def full(server: Server) -> Iterator[Pair]:
    """A connection with more in one read than its queue holds, and more behind it."""
    with pair(server.theirs) as meeting:
        meeting.peer.sendall(wire(server))
        assert eventually(paused(meeting))
        yield meeting


def test_C1_the_queue_holds_what_it_holds_of_plain_messages(full: Pair) -> None:
    # The mark, what extensions may go on for, and the message that they are in.
    assert sum(map(len, full.channel.inbound)) <= 2 * HIGH_WATER + SIZE
    assert len(full.channel._backlog) > 0
    assert received(full) == messages()
    assert not full.channel._backlog and not full.channel.decoder.backlog


def test_what_comes_later_keeps_its_place(full: Pair, server: Server) -> None:
    full.peer.sendall(frame(BINARY, b"plain") + server.message(b"compressed") + frame(PING, b"p"))
    assert received(full, COUNT + 2) == [*messages(), b"plain", b"compressed"]
    pong = Peer(full.peer, is_client=False).read_frame()
    assert pong is not None and pong.payload == b"p"


def test_the_reader_thread_goes_on_when_there_is_room(full: Pair, server: Server) -> None:
    """Nobody receives any more, and what answers a ping is behind all of that."""
    full.peer.sendall(frame(PING, b"behind"))
    while full.channel._backlog:
        full.connection.recv(PATIENCE)
    while full.channel.inbound:
        full.connection.recv(0)
    pong = Peer(full.peer, is_client=False).read_frame()
    assert pong is not None and pong.payload == b"behind"


def test_recv_without_waiting_takes_it(server: Server) -> None:
    # Without a reader thread, which may be decoding it at that moment.
    with Meeting(extensions=(server.theirs,)) as meeting:
        meeting.peer.send(wire(server))
        assert [meeting.receive(0.0) for _ in range(COUNT)] == messages()
        with pytest.raises(TimeoutError):
            meeting.receive(0.0)


def test_recv_many_takes_all_of_it(full: Pair) -> None:
    taken: list[Any] = []
    while len(taken) < COUNT:
        taken += full.connection.recv_many(PATIENCE)
    assert taken == messages()


def test_pieces_are_asked_for(full: Pair, server: Server) -> None:
    for frame_ in server.fragments(b"one", b"two"):
        full.peer.sendall(frame_)
    full.peer.sendall(server.message(b"next"))
    for expected in messages():
        assert b"".join(full.connection.recv_streaming(timeout=PATIENCE)) == expected
    assert b"".join(full.connection.recv_streaming(timeout=PATIENCE)) == b"onetwo"
    assert full.connection.recv(PATIENCE) == b"next"


def test_a_message_that_begins_in_the_backlog_comes_in_pieces(server: Server) -> None:
    with Meeting(extensions=(server.theirs,)) as meeting:
        one, two = server.fragments(b"one", b"two")
        # Two of them fill a portion, and the fragment is left alone.
        meeting.peer.send(b"".join(server.message(data) for data in messages(4)) + one)
        assert [meeting.receive() for _ in range(2)] == messages(2)
        # Not even the deadline keeps it from what is there.
        assert meeting.channel.begin_stream(time.monotonic()) == messages(3)[2]
        assert meeting.receive() == messages(4)[3]
        assert len(meeting.channel._backlog) == 1
        assert meeting.channel.begin_stream(None) is None
        assert meeting.channel.next_piece(None).data == b"one"
        meeting.peer.send(two)
        assert meeting.channel.next_piece(None).data == b"two"


def test_pieces_come_in_portions_with_messages_behind_them(server: Server) -> None:
    with pair(server.theirs) as meeting:
        pieces = meeting.connection.recv_streaming(timeout=PATIENCE)
        taking = InThread(next, pieces)
        parts = [bytes([number]) * SIZE for number in range(1, 21)]
        data = b"".join(server.fragments(*parts))
        meeting.peer.sendall(data + wire(server, 10))
        assert taking.result() + b"".join(pieces) == b"".join(parts)
        assert received(meeting, 10) == messages(10)


@pytest.mark.parametrize(
    ("behind", "error", "code"),
    [
        (frame(CLOSE, (1000).to_bytes(2)), ConnectionClosedOK, 1000),
        (frame(3, b""), ConnectionClosedError, 1002),
        (frame(BINARY, b"\xff", rsv=4), ConnectionClosedError, 1007),
    ],
    ids=["close frame", "reserved opcode", "not decodable"],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_the_end_is_behind_it(
    server: Server, behind: bytes, error: type[ConnectionClosed], code: int, at_once: bool
) -> None:
    with pair(server.theirs) as meeting:
        if at_once:
            meeting.peer.sendall(wire(server) + behind)
        else:
            meeting.peer.sendall(wire(server))
            assert eventually(paused(meeting))
            meeting.peer.sendall(behind)
        assert received(meeting) == messages()
        with pytest.raises(error) as caught:
            meeting.connection.recv(PATIENCE)
        assert caught.value.sent is not None and caught.value.sent.code == code


def test_the_stream_ends_behind_it(full: Pair) -> None:
    full.peer.close()
    assert received(full) == messages()
    with pytest.raises(ConnectionClosedError):
        full.connection.recv(PATIENCE)


def test_close_reads_past_it(full: Pair) -> None:
    def answer() -> None:
        peer = Peer(full.peer, is_client=False)
        _, close = peer.read_until_close()
        peer.send(frame(CLOSE, close.payload))
        peer.half_close()
        peer.expect_end()

    answering = InThread(answer)
    full.connection.close()
    answering.result()
    assert full.connection.close_code == 1000


def test_two_threads_take_all_of_it_once(full: Pair, server: Server) -> None:
    def take() -> list[Any]:
        return list(iter(lambda: full.connection.recv(PATIENCE), b"the end"))

    full.peer.sendall(server.message(b"the end") + server.message(b"the end"))
    threads = [InThread(take) for _ in range(2)]
    taken = [thread.result() for thread in threads]
    assert sorted(taken[0] + taken[1]) == messages()
    for part in taken:
        assert part == sorted(part)


def test_one_can_wait_for_it(full: Pair) -> None:
    for expected in messages():
        assert list(syncws.wait([full.connection], PATIENCE)) == [full.connection]
        assert full.connection.recv(0) == expected


def test_early_data_brings_it(server: Server) -> None:
    early = wire(server)
    with Meeting(extensions=(server.theirs,), early_data=early) as meeting:
        assert sum(map(len, meeting.channel.inbound)) <= 2 * HIGH_WATER + SIZE
        assert [meeting.receive() for _ in range(COUNT)] == messages()


def test_any_extension_has_to_stop_at_some_point() -> None:
    """Also one that only knows messages one by one."""

    class Repeating(Adding):
        def decode(self, fragment: Any, max_size: int | None) -> Any:
            data = bytes(fragment.data[:1]) * SIZE
            return fragment._replace(data=data, rsv=0)

    with pair(Repeating(rsv=4)) as meeting:
        data = b"".join(frame(BINARY, bytes([number]), rsv=4) for number in range(1, COUNT + 1))
        meeting.peer.sendall(data)
        assert eventually(paused(meeting))
        assert sum(map(len, meeting.channel.inbound)) <= 2 * HIGH_WATER + SIZE
        assert received(meeting) == messages()


def test_the_peer_is_not_given_up_while_it_cannot_be_heard(server: Server) -> None:
    with Meeting(extensions=(server.theirs,), ping_timeout=10.0) as meeting:
        meeting.peer.send(wire(server))
        meeting.stepped.turn_until(paused(meeting))
        life = meeting.channel._life()
        while meeting.channel.inbound:
            meeting.receive()
        # Takes a portion: until the reader thread looks again, nothing is paused.
        meeting.receive()
        assert meeting.channel._backlog and not paused(meeting)()
        meeting.channel._check_life(life)
        assert meeting.channel.closing.state is State.OPEN


def test_who_waits_for_a_pong_gets_it_from_behind(full: Pair) -> None:
    waiter = full.connection.ping(b"x")
    full.peer.sendall(frame(PONG, b"x"))
    assert waiter.wait(PATIENCE)
    assert received(full) == messages()


# -- interrupts -----------------------------------------------------------------------------


def test_ctrl_c_between_two_portions_loses_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Meeting(extensions=(server.theirs,)) as meeting:
        meeting.peer.send(wire(server))
        channel = meeting.channel
        calls = iter([KeyboardInterrupt])

        def should_pause(self: Any) -> bool:
            for error in calls:
                raise error
            return real(self)

        real = type(channel)._should_pause
        monkeypatch.setattr(type(channel), "_should_pause", should_pause)
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        assert channel._backlog
        assert [meeting.receive() for _ in range(COUNT)] == messages()


def test_ctrl_c_while_it_is_decoded_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the extension has taken cannot be given to it again."""
    with Meeting(extensions=(server.theirs,)) as meeting:
        meeting.peer.send(wire(server))
        assert meeting.receive() == messages()[0]
        while meeting.channel.inbound:
            meeting.receive()
        before = COUNT - sum(len(record.data) for record in meeting.channel._backlog)

        def interrupted(self: Any, *arguments: Any) -> Any:
            real(self, *arguments)
            raise KeyboardInterrupt

        real = decoding_module.RecordDecoder._decode_row
        with monkeypatch.context() as patch:
            patch.setattr(decoding_module.RecordDecoder, "_decode_row", interrupted)
            with pytest.raises(KeyboardInterrupt):
                meeting.receive()
        assert 0 < before < COUNT
        with pytest.raises(ConnectionClosedError) as caught:
            meeting.receive()
        assert caught.value.sent is not None and caught.value.sent.code == 1011


def test_ctrl_c_behind_a_close_frame_loses_nothing_in_front_of_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(self: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(decoding_module.RecordDecoder, "decode", real)
        records, rest = real(self, *arguments)

        def interrupted() -> Iterator[Any]:
            yield from records
            raise KeyboardInterrupt

        return interrupted(), rest

    real = decoding_module.RecordDecoder.decode
    with Meeting(extensions=(server.theirs,)) as meeting:
        plain = frame(BINARY, b"one") + frame(BINARY, b"two")
        meeting.peer.send(plain + frame(CLOSE, (1000).to_bytes(2)))
        monkeypatch.setattr(decoding_module.RecordDecoder, "decode", once)
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        assert [meeting.receive(), meeting.receive()] == [b"one", b"two"]
        with pytest.raises(ConnectionClosedOK):
            meeting.receive()


@pytest.mark.parametrize("way", ["read_once", "_digest_and_leave"])
def test_ctrl_c_while_a_pong_is_written_loses_nothing_in_front_of_the_ping(
    server: Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    portable(monkeypatch)
    with Meeting(extensions=(server.theirs,)) as meeting:
        channel = meeting.channel
        data = frame(BINARY, b"one") + frame(BINARY, b"two") + frame(PING, b"p")
        errors = [KeyboardInterrupt]

        def send(self: Transport, data: Any) -> int | None:
            for error in errors:
                errors.clear()
                raise error
            return real(self, data)

        real = Transport.send
        monkeypatch.setattr(Transport, "send", send)
        with pytest.raises(KeyboardInterrupt):
            if way == "read_once":
                meeting.peer.send(data)
                meeting.receive()
            else:
                channel.feed(data)
        meeting.stepped.turns(2)
        assert [meeting.receive(), meeting.receive()] == [b"one", b"two"]
        with pytest.raises(ConnectionClosedError):
            meeting.receive()
