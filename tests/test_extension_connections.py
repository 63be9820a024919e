"""Extensions on a connection: pieces, interrupts, early data, control frames, its end."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from channels import Meeting, interpose, interrupted_after
from extending import Adding, agreed
from pairing import PATIENCE, InThread, Pair, eventually
from reliability.peer import BINARY, CLOSE, PING, TEXT, Peer, frame

from syncws import delivery as delivery_module
from syncws.channel import Channel
from syncws.exceptions import ConnectionClosedError, ConnectionClosedOK
from syncws.extension_chain import ExtensionChain
from syncws.extensions import Extension, Fragment, Unit
from syncws.frames import Opcode, Side, lib
from syncws.options import Options
from syncws.permessage_deflate import ServerPerMessageDeflateFactory
from syncws.reader import Reader
from syncws.transport import Transport


class Server:
    """What the peer of a client sends, compressed."""

    def __init__(self) -> None:
        self.theirs, self.codec = agreed(
            server=ServerPerMessageDeflateFactory(memory="large", threshold=0)
        )

    def message(self, data: bytes, opcode: int = BINARY) -> bytes:
        encoded = self.codec.encode(Fragment(opcode, data))
        return frame(opcode, encoded.data, rsv=encoded.rsv)

    def fragments(self, *parts: bytes, opcode: int = BINARY) -> list[bytes]:
        frames = []
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            encoded = self.codec.encode(Fragment(opcode, part, index == 0, last))
            kind = opcode if index == 0 else Opcode.CONTINUATION
            frames.append(frame(kind, encoded.data, fin=last, rsv=encoded.rsv))
        return frames


def pair(*extensions: Extension, **options: Any) -> Pair:
    return Pair(extensions=extensions, ping_interval=None, **options)


# -- pieces ---------------------------------------------------------------------------------


def test_pieces_of_a_compressed_message_as_they_arrive() -> None:
    server = Server()
    with pair(server.theirs) as meeting:
        one, two, three = server.fragments(b"one", b"two", b"three")
        pieces = meeting.connection.recv_streaming(timeout=PATIENCE)
        meeting.peer.sendall(one)
        assert next(pieces) == b"one"
        meeting.peer.sendall(two + frame(PING, b"") + three + server.message(b"next"))
        assert b"".join(pieces) == b"twothree"
        assert meeting.connection.recv(PATIENCE) == b"next"


def test_pieces_asked_for_in_the_middle_come_at_once() -> None:
    server = Server()
    with pair(server.theirs) as meeting:
        one, two = server.fragments("é1".encode(), b"two", opcode=TEXT)
        meeting.peer.sendall(one)
        with pytest.raises(TimeoutError):
            meeting.connection.recv(0.05)
        pieces = meeting.connection.recv_streaming(timeout=PATIENCE)
        assert next(pieces) == "é1"
        meeting.peer.sendall(two + server.message(b"next"))
        assert "".join(pieces) == "two"
        assert meeting.connection.recv(PATIENCE) == b"next"


@pytest.mark.parametrize("taken", [False, True])
def test_pieces_left_before_the_end(taken: bool) -> None:
    server = Server()
    with pair(server.theirs) as meeting:
        one, two, three = server.fragments(b"one", b"two", b"three")
        meeting.peer.sendall(one)
        with pytest.raises(TimeoutError):
            meeting.connection.recv(0.05)
        pieces = meeting.connection.recv_streaming(timeout=PATIENCE)
        if taken:
            assert next(pieces) == b"one"
        else:
            meeting.channel.begin_stream(None)
            meeting.channel.end_stream()
        del pieces
        # The context goes on through what is dropped.
        meeting.peer.sendall(two + three + server.message(b"onetwothree"))
        if not taken:
            assert meeting.connection.recv(PATIENCE) == b"onetwothree"
        assert meeting.connection.recv(PATIENCE) == b"onetwothree"


def test_several_messages_in_one_read_while_pieces_are_wanted() -> None:
    server = Server()
    with pair(server.theirs) as meeting:
        pieces = meeting.connection.recv_streaming(timeout=PATIENCE)
        taking = InThread(b"".join, pieces)
        plain = frame(TEXT, b"plain")
        meeting.peer.sendall(
            server.message(b"first") + plain + server.message(b"second") + plain + plain
        )
        assert taking.result() == b"first"
        got = [meeting.connection.recv(PATIENCE) for _ in range(4)]
        assert got == ["plain", b"second", "plain", "plain"]


def test_a_plain_message_in_pieces_with_compressed_ones_behind() -> None:
    server = Server()
    with pair(server.theirs) as meeting:
        pieces = meeting.connection.recv_streaming(timeout=PATIENCE)
        taking = InThread("".join, pieces)
        meeting.peer.sendall(
            frame(TEXT, b"pla", fin=False)
            + frame(0, b"in")
            + server.message(b"x")
            + frame(TEXT, b"y")
        )
        assert taking.result() == "plain"
        assert [meeting.connection.recv(PATIENCE) for _ in range(2)] == [b"x", "y"]


# -- interrupts -----------------------------------------------------------------------------


def test_ctrl_c_while_an_extension_decodes_ends_the_connection_with_1011() -> None:
    class Interrupting(Adding):
        def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
            raise KeyboardInterrupt

    with Meeting(extensions=(Interrupting(rsv=4),)) as meeting:
        meeting.peer.send(frame(BINARY, b"x", rsv=4))
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        with pytest.raises(ConnectionClosedError) as caught:
            meeting.receive()
        assert caught.value.sent is not None and caught.value.sent.code == 1011


def test_ctrl_c_before_anything_was_decoded_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    with Meeting(extensions=(server.theirs,)) as meeting:
        meeting.peer.send(server.message(b"one") + server.message(b"two"))
        calls = iter([KeyboardInterrupt])

        def read_records(scratch: Any) -> Any:
            for error in calls:
                raise error
            return real(scratch)

        real = delivery_module.read_records
        monkeypatch.setattr(delivery_module, "read_records", read_records)
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        assert [meeting.receive() for _ in range(2)] == [b"one", b"two"]


def test_ctrl_c_while_pieces_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    with Meeting(extensions=(server.theirs,)) as meeting:
        one, two = server.fragments(b"one", b"two")
        meeting.peer.send(one)
        with pytest.raises(TimeoutError):
            meeting.receive(0.05)
        with monkeypatch.context() as patch:
            interpose(patch, syncws_leave=interrupted_after("syncws_leave"))
            with pytest.raises(KeyboardInterrupt):
                meeting.channel.begin_stream(None)
        meeting.peer.send(two + server.message(b"next"))
        assert [meeting.receive(), meeting.receive()] == [b"onetwo", b"next"]


# -- early data, control frames, the end ----------------------------------------------------


def test_early_data_goes_through_the_extensions() -> None:
    server = Server()
    adding = Adding(opcodes=[11])
    early = server.message(b"early") + b"\x8b\x01c"
    with Meeting(extensions=(adding, server.theirs), early_data=early) as meeting:
        assert meeting.receive() == b"early"
        assert adding.calls == [("control", 11, b"c")]


def test_messages_before_a_close_frame_and_before_what_cannot_be_decoded() -> None:
    server = Server()
    with pair(server.theirs) as meeting:
        meeting.peer.sendall(server.message(b"last") + frame(CLOSE, (1000).to_bytes(2)))
        assert meeting.connection.recv(PATIENCE) == b"last"
        with pytest.raises(ConnectionClosedOK):
            meeting.connection.recv(PATIENCE)
    server = Server()
    with pair(server.theirs) as meeting:
        bad = frame(BINARY, b"\xff", rsv=4)
        meeting.peer.sendall(server.message(b"last") + bad + server.message(b"late"))
        assert meeting.connection.recv(PATIENCE) == b"last"
        with pytest.raises(ConnectionClosedError) as caught:
            meeting.connection.recv(PATIENCE)
        assert caught.value.sent is not None and caught.value.sent.code == 1007


def test_an_extension_sends_control_frames() -> None:
    extension = Adding(opcodes=[3, 11])
    # RFC 6455 section 5.4: whatever a message may have in a frame, these are never cut.
    with Meeting(extensions=(extension,), max_frame_size=3) as meeting:
        assert extension.send_control is not None
        assert extension.send_control(11, b"hello")
        got = meeting.next_frame()
        assert (got.opcode, got.payload, got.fin) == (11, b"hello", True)
        for opcode in (3, 8, 9, 12):
            with pytest.raises(ValueError, match="no extension owns"):
                extension.send_control(opcode, b"")
        with pytest.raises(ValueError, match="125 bytes"):
            extension.send_control(11, bytes(126))
        meeting.channel.abort()
        with pytest.raises(ConnectionClosedError):
            extension.send_control(11, b"")
    with Meeting() as meeting, pytest.raises(ValueError, match="no extension owns"):
        meeting.channel.send_extension_control(11, b"")


def test_an_extension_that_answers_in_the_middle_of_reading() -> None:
    class Answering(Adding):
        def receive_control(self, opcode: int, data: bytes) -> None:
            assert self.send_control is not None
            self.calls.append(self.send_control(opcode, data[::-1]))

    extension = Answering(opcodes=[12])
    with Meeting(extensions=(extension,)) as meeting:
        meeting.peer.send(frame(12, b"abc") + frame(BINARY, b"x"))
        assert meeting.receive() == b"x"
        assert meeting.next_frame().payload == b"cba"
        assert extension.calls[0] is True


def test_control_frames_of_an_extension_between_the_fragments_of_a_message() -> None:
    class Announcing(Adding):
        def encode(self, fragment: Fragment) -> Fragment:
            assert self.send_control is not None
            assert self.send_control(11, b"before " + bytes(fragment.data))
            return super().encode(fragment)

    extension = Announcing(b"", opcodes=[11], unit=Unit.FRAME)
    with pair(extension) as meeting:
        assert extension.send_control is not None
        send_control = extension.send_control

        def fragments() -> Iterator[bytes]:
            yield b"a"
            assert send_control(11, b"same thread")
            assert InThread(send_control, 11, b"other thread").result()
            yield b"b"

        sending = InThread(meeting.connection.send, fragments())
        peer = Peer(meeting.peer, is_client=False)
        got = [peer.read_frame() for _ in range(8)]
        sending.result()
        assert [(each.opcode, each.payload) for each in got if each is not None] == [
            (11, b"before a"),
            (BINARY, b"a"),
            (11, b"same thread"),
            (11, b"other thread"),
            (11, b"before b"),
            (0, b"b"),
            (11, b"before "),
            (0, b""),
        ]


@pytest.mark.parametrize("tls", [False, True])
def test_in_the_middle_of_a_frame_a_few_control_frames_wait_for_its_end(
    tls: bool, client_context: Any, server_context: Any
) -> None:
    extension = Adding(b"", opcodes=[11], unit=Unit.FRAME)
    contexts = (client_context, server_context) if tls else None
    with pair(extension, contexts=contexts, write_limit=1024) as meeting:
        assert extension.send_control is not None
        c = meeting.channel.c
        sending = InThread(meeting.connection.send, bytes(2**20))
        assert eventually(lambda: lib.syncws_frame_left(c) and meeting.channel.senders)
        taken = 0
        while extension.send_control(11, b"%d" % taken):
            taken += 1
        # What does not fit into 4 KiB is refused, and what did is not forgotten.
        assert 100 < taken < 4096 / 6
        peer = Peer(meeting.peer, is_client=False)
        got = peer.read_frame()
        assert got is not None and len(got.payload) == 2**20
        sending.result()
        # What waited for the end of the frame may still wait for room.
        assert eventually(lambda: extension.send_control and extension.send_control(11, b"last"))
        wanted = [*(b"%d" % number for number in range(taken)), b"last"]
        assert [
            (each.opcode, each.payload) for each in (peer.read_frame() for _ in wanted) if each
        ] == [(11, data) for data in wanted]


def test_control_frames_that_wait_when_the_connection_ends() -> None:
    extension = Adding(b"", opcodes=[11], unit=Unit.FRAME)
    with pair(extension, write_limit=1024) as meeting:
        assert extension.send_control is not None
        c = meeting.channel.c
        sending = InThread(meeting.connection.send, bytes(2**20))
        assert eventually(lambda: lib.syncws_frame_left(c) and meeting.channel.senders)
        assert extension.send_control(11, b"lost")
        meeting.connection.abort()
        with pytest.raises(ConnectionClosedError):
            sending.result()
        with pytest.raises(ConnectionClosedError):
            extension.send_control(11, b"")


def test_behind_a_full_queue_there_is_no_room_for_a_control_frame() -> None:
    extension = Adding(b"", opcodes=[11])
    with Meeting(extensions=(extension,), small_buffers=True, write_limit=1024) as meeting:
        assert extension.send_control is not None
        # Python transports have what C queued moved by others.
        while (
            lib.syncws_send(meeting.c, 0x182, bytes(600), 600) != lib.SYNCWS_FULL
            or meeting.channel.flush() == lib.SYNCWS_OK
        ):
            pass
        taken = 0
        while extension.send_control(11, bytes(125)):
            taken += 1
        assert taken < 1024 / 125
        meeting.reader.close()


def test_no_extension_keeps_its_connection() -> None:
    extension = Adding(opcodes=[11])
    meeting = pair(extension)
    watched = weakref.ref(meeting.channel)
    gc.collect()
    gc.disable()
    try:
        meeting.connection.abort()
        # A reader thread that was closed before it looked would keep it.
        assert eventually(lambda: extension.calls == ["ended"])
        meeting.close()
        del meeting
        assert eventually(lambda: watched() is None)
    finally:
        gc.enable()
    assert extension.send_control is not None
    assert not extension.send_control(11, b"")
    assert extension.calls == ["ended"]


@pytest.mark.parametrize("way", ["abort", "close", "peer", "reset", "violation"])
def test_the_end_is_told_once_whichever_way_it_comes(way: str) -> None:
    extension = Adding()
    with pair(extension, close_timeout=1.0) as meeting:
        if way == "abort":
            threads = [InThread(meeting.connection.abort) for _ in range(4)]
            for thread in threads:
                thread.result()
        elif way == "close":
            closing = InThread(meeting.connection.close)
            meeting.peer.recv(100)
            meeting.peer.sendall(frame(CLOSE, (1000).to_bytes(2)))
            meeting.peer.close()
            closing.result()
        elif way == "violation":
            meeting.peer.sendall(b"\xff\x00")
            meeting.connection.wait_closed(0.1)
            meeting.peer.close()
        else:
            meeting.peer.close()
        assert meeting.connection.wait_closed(PATIENCE)
        assert eventually(lambda: extension.calls)
    assert extension.calls == ["ended"]


def test_one_that_fails_at_the_end_holds_nothing_up() -> None:
    class Failing(Adding):
        def connection_ended(self) -> None:
            super().connection_ended()
            raise OSError("disk full")

    extension = Failing(name="failing")
    with pair(extension) as meeting:
        meeting.connection.abort()
        assert meeting.connection.wait_closed(PATIENCE)
        assert eventually(lambda: extension.calls == ["ended"])


@pytest.mark.parametrize("method", ["attach", "receive_control"])
def test_one_that_fails_while_a_connection_opens(method: str) -> None:
    class Failing(Adding):
        pass

    def fail(*arguments: Any) -> None:
        raise SystemExit

    setattr(Failing, method, fail)
    extension = Failing(opcodes=[11])
    ours, theirs = socket.socketpair()
    reader = Reader("test-reader")
    transport = Transport(ours)
    with theirs, pytest.raises(SystemExit):
        Channel(
            transport,
            Side.CLIENT,
            reader,
            Options(),
            b"\x8b\x00",
            ExtensionChain([extension], None),
        )
    transport.close()
    reader.close()
    assert extension.calls == ["ended"]


def test_figures_may_fail_without_harm() -> None:
    class Failing(Adding):
        def statistics(self) -> Any:
            raise LookupError

    with pair(Failing()) as meeting:
        with pytest.raises(LookupError):
            _ = meeting.connection.stats
        meeting.connection.send(b"x")
        assert meeting.peer.recv(100)


@pytest.mark.parametrize("tls", [False, True])
def test_two_threads_send_and_two_receive_compressed(
    tls: bool, client_context: Any, server_context: Any
) -> None:
    server = Server()
    contexts = (client_context, server_context) if tls else None
    count = 200
    with pair(server.theirs, contexts=contexts) as meeting:
        payloads = [bytes([65 + index]) * 700 for index in range(2)]

        def send(data: bytes) -> None:
            for _ in range(count):
                meeting.connection.send(data)

        def receive() -> list[bytes]:
            return [meeting.connection.recv(PATIENCE) for _ in range(count)]

        def answer() -> None:
            for _ in range(count * 2):
                meeting.peer.sendall(server.message(b"answer" * 50))

        receivers = [InThread(receive) for _ in range(2)]
        senders = [InThread(send, data) for data in payloads]
        answering = InThread(answer) if not tls else None
        if answering is None:
            answer()  # one thread at a time may use the peer's TLS
        peer = Peer(meeting.peer, is_client=False)
        got = []
        while len(got) < count * 2:
            received = peer.read_frame()
            assert received is not None
            decoded = server.codec.decode(
                Fragment(received.opcode, received.payload, rsv=received.rsv), None
            )
            got.append(decoded.data)
        for thread in (*senders, *receivers, *([answering] if answering else [])):
            thread.result()
        assert [got.count(data) for data in payloads] == [count, count]
        assert all(each == b"answer" * 50 for thread in receivers for each in thread.value)


def test_units_of_frames_over_a_connection() -> None:
    extension = Adding(b"|", 4, unit=Unit.FRAME)
    with pair(extension) as meeting:
        meeting.peer.sendall(
            frame(BINARY, b"one|", fin=False, rsv=4) + frame(0, b"two|", fin=False) + frame(0, b"|")
        )
        assert meeting.connection.recv(PATIENCE) == b"onetwo"
    assert [call[1] for call in extension.calls if call[0] == "decode"] == [b"one|", b"two|", b"|"]
