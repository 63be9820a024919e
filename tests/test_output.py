"""The writing half of a connection: water marks, whole messages, deadlines, broken pipes."""

from __future__ import annotations

import collections
import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from channels import Meeting, native
from pairing import PATIENCE, InThread, Pair, eventually, frame

import syncws
from syncws import exiting
from syncws import output as output_module
from syncws.frames import FrameDecoder, Opcode, Side, lib
from syncws.options import Options
from syncws.output import OutputChannel
from syncws.reader import Reader
from syncws.transport import Transport


@pytest.fixture(params=["plain", "tls"])
def pair(
    request: pytest.FixtureRequest, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> Iterator[Pair]:
    contexts = (client_context, server_context) if request.param == "tls" else None
    with Pair(contexts, close_timeout=2) as made:
        yield made


class Receiver(threading.Thread):
    """Reads all that the peer gets, from when it is started."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(daemon=True)
        pair.receivers.append(self)
        self.peer = pair.peer
        self.records: list[tuple[int, Any]] = []
        limit = pair.channel.options.max_frame_size
        self.decoder = FrameDecoder(Side.SERVER, max_frame_size=limit, max_size=None)

    def run(self) -> None:
        while True:
            try:
                data = self.peer.recv(65536)
            except OSError:
                return
            if not data:
                return
            for record in self.decoder.feed(data):
                many = record.data if record.kind == lib.SYNCWS_RUN else [record.data]
                self.records += [(record.opcode, item) for item in many]

    def has(self, count: int) -> bool:
        return eventually(lambda: len(self.records) >= count)


LONG = bytes(60_000)


def fill(pair: Pair) -> int:
    """Sends until the queue is above its mark; the count of messages."""
    count = 0
    while True:
        try:
            pair.connection.send(b"%06d" % count * 10_000, timeout=0)
        except TimeoutError as error:
            assert "can still be used" in str(error)
            assert "write_limit" in str(error)
            return count
        count += 1


def expected(count: int) -> list[tuple[int, Any]]:
    return [(Opcode.BINARY, b"%06d" % number * 10_000) for number in range(count)]


def test_a_full_queue_makes_send_time_out_and_nothing_is_lost(pair: Pair) -> None:
    count = fill(pair)
    assert pair.connection.stats.bytes_unsent <= Options().write_limit + 65_550
    receiver = Receiver(pair)
    receiver.start()
    pair.connection.send("after", timeout=PATIENCE)
    assert receiver.has(count + 1)
    assert receiver.records == [*expected(count), (Opcode.TEXT, "after")]


def test_a_full_queue_makes_send_wait_for_room(pair: Pair) -> None:
    count = fill(pair)
    sending = InThread(pair.connection.send, LONG)
    assert eventually(lambda: pair.channel.senders)
    receiver = Receiver(pair)
    receiver.start()
    sending.result()
    assert receiver.has(count + 1)
    assert receiver.records[-1] == (Opcode.BINARY, LONG)
    assert not pair.channel.senders


def test_what_waits_is_written_by_the_reader_thread(pair: Pair) -> None:
    count = fill(pair)
    receiver = Receiver(pair)
    receiver.start()
    assert receiver.has(count)
    assert eventually(lambda: pair.connection.stats.bytes_unsent == 0)


def test_a_timeout_inside_a_large_message_closes_the_connection(pair: Pair) -> None:
    with pytest.raises(TimeoutError, match="connection is closed"):
        pair.connection.send(bytes(32 * 2**20), timeout=1.0)
    with pytest.raises(syncws.ConnectionClosedError) as raised:
        pair.connection.send("x")
    assert isinstance(raised.value.__cause__, TimeoutError)
    assert pair.connection.close_code == 1006


def test_a_timeout_before_a_large_message_does_not(pair: Pair) -> None:
    count = fill(pair)
    with pytest.raises(TimeoutError, match="can still be used"):
        pair.connection.send(bytes(2**20), timeout=0.2)
    receiver = Receiver(pair)
    receiver.start()
    pair.connection.send("x", timeout=PATIENCE)
    assert receiver.has(count + 1)
    assert receiver.records[count:] == [(Opcode.TEXT, "x")]


def test_large_messages_leave_in_frames_that_a_syncws_peer_takes() -> None:
    with Pair(max_frame_size=100_000) as pair:
        receiver = Receiver(pair)
        receiver.start()
        data = bytes(range(256)) * 2000
        pair.connection.send(data, timeout=PATIENCE)
        pair.connection.send("é" * 200_000, timeout=PATIENCE)
        assert receiver.has(2)
        assert receiver.records == [(Opcode.BINARY, data), (Opcode.TEXT, "é" * 200_000)]


def test_a_message_in_many_frames_is_queued_whole_or_not_at_all() -> None:
    with Pair(max_frame_size=1000) as pair:
        count = 0
        while pair.connection.try_send(b"%06d" % count * 10_000, Opcode.BINARY):
            count += 1
        waiting = pair.connection.stats.bytes_unsent
        assert not pair.connection.try_send(bytes(60_000), Opcode.BINARY)
        assert pair.connection.stats.bytes_unsent == waiting
        receiver = Receiver(pair)
        receiver.start()
        pair.connection.send(LONG, timeout=PATIENCE)
        assert receiver.has(count + 1)
        assert receiver.records == [*expected(count), (Opcode.BINARY, LONG)]


def test_g5x_messages_of_many_threads_are_never_mixed(pair: Pair) -> None:
    receiver = Receiver(pair)
    receiver.start()
    sizes = [1, 1000, 60_000, 70_000, 300_000]

    def send(number: int) -> None:
        for turn in range(10):
            size = sizes[(number + turn) % len(sizes)]
            pair.connection.send(bytes([number, turn]) * size, timeout=PATIENCE)
            if turn % 3 == 0:
                pair.connection.pong(bytes([number]))

    for thread in [InThread(send, number) for number in range(6)]:
        thread.result(60)

    def messages() -> list[bytes]:
        return [data for opcode, data in receiver.records if opcode == Opcode.BINARY]

    assert eventually(lambda: len(messages()) == 60)
    turns: dict[int, list[int]] = {}
    for data in messages():
        assert data == data[:2] * (len(data) // 2)
        turns.setdefault(data[0], []).append(data[1])
    assert turns == {number: list(range(10)) for number in range(6)}


def test_a_fragmented_message_holds_others_back_but_not_control_frames(pair: Pair) -> None:
    receiver = Receiver(pair)
    receiver.start()
    first, second = threading.Event(), threading.Event()

    def fragments() -> Iterator[str]:
        yield "a"
        first.set()
        assert second.wait(PATIENCE)
        yield "b"

    streaming = InThread(pair.connection.send, fragments())
    assert first.wait(PATIENCE)
    with pytest.raises(TimeoutError, match="another thread's send"):
        pair.connection.send("held back", timeout=0.2)
    with pytest.raises(TimeoutError, match="another thread's send"):
        pair.connection.send(["held back"], timeout=0)
    assert not pair.connection.try_send(b"held back", Opcode.TEXT)
    waiting = InThread(pair.connection.send, "next")
    pair.connection.pong(b"between")
    assert receiver.has(1)
    waiting.join(0.3)  # longer than one slice
    assert waiting.is_alive()
    second.set()
    streaming.result()
    waiting.result()
    assert receiver.has(3)
    assert receiver.records == [
        (Opcode.PONG, b"between"),
        (Opcode.TEXT, "ab"),
        (Opcode.TEXT, "next"),
    ]


def test_g8x_sending_inside_a_message_of_the_same_thread_is_refused(pair: Pair) -> None:
    errors: list[BaseException] = []

    def fragments() -> Iterator[str]:
        yield "a"
        for message in ("x", ["x"], "x" * 100_000):
            try:
                pair.connection.send(message)
            except syncws.ConcurrencyError as error:
                errors.append(error)
        yield "b"

    receiver = Receiver(pair)
    receiver.start()
    pair.connection.send(fragments())
    assert len(errors) == 3
    assert receiver.has(1)
    assert receiver.records == [(Opcode.TEXT, "ab")]


def test_a_close_frame_goes_between_the_fragments_and_ends_the_message(pair: Pair) -> None:
    def fragments() -> Iterator[str]:
        yield "a"
        pair.connection.start_close(1001)
        yield "b"

    receiver = Receiver(pair)
    receiver.start()
    with pytest.raises(syncws.ConnectionClosed):
        pair.connection.send(fragments())
    assert receiver.has(1)
    assert receiver.records == [(Opcode.CLOSE, b"\x03\xe9")]
    with pytest.raises(syncws.ConnectionClosed):
        pair.connection.send(["x"])


def test_pings_behind_a_full_socket_are_coalesced_and_the_newest_wins(pair: Pair) -> None:
    count = fill(pair)
    for number in range(10):
        pair.connection.pong(b"%d" % number)
    receiver = Receiver(pair)
    receiver.start()

    def pongs() -> list[bytes]:
        return [data for opcode, data in receiver.records if opcode == Opcode.PONG]

    assert receiver.has(count + 1)
    assert eventually(lambda: pongs()[-1:] == [b"9"])
    assert len(pongs()) <= 10


def test_sending_after_the_end_raises_how_it_ended(pair: Pair) -> None:
    pair.connection.abort("because")
    for message in ("x", ["x"], bytes(100_000)):
        with pytest.raises(syncws.ConnectionClosedError, match="because"):
            pair.connection.send(message)


def test_a_waiting_sender_is_woken_by_the_end(pair: Pair) -> None:
    fill(pair)
    for message in (LONG, bytes(2**21)):
        sending = InThread(pair.connection.send, message)
        if not pair.channel.gone:
            assert eventually(lambda: pair.channel.senders)
            pair.connection.abort()
        with pytest.raises(syncws.ConnectionClosedError):
            sending.result()


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


def test_a_write_error_tells_what_the_peer_said_last() -> None:
    with Pair(close_timeout=2) as pair:
        pair.peer.sendall(frame(8, b"\x03\xf1too big"))
        pair.peer.close()
        with pytest.raises(syncws.ConnectionClosedError) as raised:
            for _ in range(100):
                pair.connection.send(bytes(60_000), timeout=PATIENCE)
        assert raised.value.rcvd == (1009, "too big")


def test_a_write_error_without_last_words_is_the_cause() -> None:
    with Pair(close_timeout=0.3) as pair:
        lib.syncws_output_fail(pair.channel.c, errno.EPIPE)
        start = time.monotonic()
        with pytest.raises(syncws.ConnectionClosedError) as raised:
            pair.connection.send("x")
        assert time.monotonic() - start < PATIENCE
        assert isinstance(raised.value.__cause__, OSError)
        assert raised.value.__cause__.errno == errno.EPIPE


def test_a_reset_inside_a_large_message_ends_it(pair: Pair) -> None:
    sending = InThread(pair.connection.send, bytes(64 * 2**20))
    assert eventually(lambda: pair.channel.senders)
    reset(pair.peer)
    with pytest.raises(syncws.ConnectionClosedError):
        sending.result()


def test_a_write_error_inside_recv_does_not_wait_for_itself(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_until(*_: object) -> bool:
        raise AssertionError("it waits")

    monkeypatch.setattr(OutputChannel, "wait_until", wait_until)
    pair.take()
    try:
        with pytest.raises(syncws.ConnectionClosedError):
            pair.channel.raise_closed(lib.SYNCWS_WRITE_FAILED, None)
    finally:
        lib.syncws_leave(pair.channel.c, 0)


def test_two_threads_may_wake_the_same_waiters(pair: Pair) -> None:
    class Emptied(collections.deque[Any]):
        def popleft(self) -> Any:
            raise IndexError

    pair.channel.waiters = Emptied([None])
    pair.channel.notify()
    pair.channel.waiters = collections.deque()


def test_a_broken_pipe_inside_a_message_ends_it(pair: Pair) -> None:
    def fragments() -> Iterator[bytes]:
        yield b"a"
        lib.syncws_output_fail(pair.channel.c, errno.EPIPE)
        yield b"b"

    with pytest.raises(syncws.ConnectionClosedError):
        pair.connection.send(fragments())


def test_an_interrupt_inside_a_transport_closes_the_connection(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pair((client_context, server_context)) as pair:

        def interrupted(data: Any) -> int:
            raise KeyboardInterrupt

        # This thread must write it, and not the reader thread.
        held, go_on = threading.Event(), threading.Event()
        pair.reader.call_soon(lambda: (held.set(), go_on.wait(PATIENCE)))
        assert held.wait(PATIENCE)
        monkeypatch.setattr(pair.channel.transport, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pair.connection.send("x")
        go_on.set()
        assert pair.channel.gone
        with pytest.raises(syncws.ConnectionClosedError, match="interrupted"):
            pair.connection.send("x")


def test_g8x_a_flush_inside_a_transport_is_left_to_the_reader(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pair((client_context, server_context)) as pair:
        transport = pair.channel.transport
        send = transport.send
        nested: list[None] = []

        def reentering(data: Any) -> int:
            if not nested:
                nested.append(pair.connection.send("nested"))
            return send(data)

        monkeypatch.setattr(transport, "send", reentering)
        receiver = Receiver(pair)
        receiver.start()
        pair.connection.send("outer")
        assert receiver.has(2)
        assert receiver.records == [(Opcode.TEXT, "outer"), (Opcode.TEXT, "nested")]


def test_an_oserror_inside_a_transport_is_a_write_error(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pair((client_context, server_context), close_timeout=0.3) as pair:

        def broken(data: Any) -> int:
            raise ConnectionResetError(errno.ECONNRESET, "reset")

        monkeypatch.setattr(pair.channel.transport, "send", broken)
        with pytest.raises(syncws.ConnectionClosedError) as raised:
            pair.connection.send("x")
        assert isinstance(raised.value.__cause__, ConnectionResetError)
        assert pair.channel.flush() in (lib.SYNCWS_WRITE_FAILED, lib.SYNCWS_CLOSED, lib.SYNCWS_OK)


def test_no_memory_for_a_connection_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def syncws_channel_new(self, *_: object) -> object:
            return output_module.ffi.NULL

    monkeypatch.setattr(output_module, "lib", Exhausted())
    ours, theirs = socket.socketpair()
    reader = Reader("test-reader")
    with ours, theirs, pytest.raises(MemoryError):
        OutputChannel(Transport(ours), Side.CLIENT, reader, Options())
    reader.close()


def test_c_sends_no_message_that_an_extension_has_to_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    native(monkeypatch)
    with Meeting() as meeting:
        output_module.thread_scratch()
        lib.syncws_encode_from(meeting.c, 3)
        assert lib.syncws_send(meeting.c, 0x82, b"ab", 2) == lib.SYNCWS_OK
        assert lib.syncws_send(meeting.c, 0x82, b"abc", 3) == lib.SYNCWS_UNENCODED
        encoded = 0x82 | lib.SYNCWS_ENCODED
        assert lib.syncws_send(meeting.c, encoded, b"abcd", 4) == lib.SYNCWS_OK
        assert [meeting.next_frame().payload for _ in range(2)] == [b"ab", b"abcd"]


def test_the_writing_half_alone_cannot_fail_a_connection() -> None:
    ours, theirs = socket.socketpair()
    reader = Reader("test-reader")
    with ours, theirs:
        channel = OutputChannel(Transport(ours), Side.CLIENT, reader, Options())
        with pytest.raises(NotImplementedError):
            channel.fail(ValueError(), 1011, "")
        channel.resume_reading()
        channel.read_last_words(None)
        lib.syncws_output_fail(channel.c, errno.EPIPE)
        result = lib.syncws_send(channel.c, 0x81, b"", 0)
        with pytest.raises(syncws.ConnectionClosedError):
            channel.raise_closed(result, None)
    reader.close()


def test_g8x_waiting_for_oneself_is_refused() -> None:
    with Pair() as pair:
        with pair.channel.state_lock, pytest.raises(syncws.ConcurrencyError):
            pair.channel.wait_until(lambda: False, None)
        with pair.channel.state_lock, pytest.raises(syncws.ConcurrencyError, match="write_limit"):
            pair.channel.wait_for_room(None, "")


def test_at_exit_a_daemon_thread_is_told_late_but_a_reader_thread_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Pair() as pair:
        pair.connection.abort("enough")
        waited: list[threading.Thread] = []
        errors: list[BaseException] = []
        monkeypatch.setattr(
            exiting, "sit_out_exit", lambda: waited.append(threading.current_thread())
        )
        thread = InThread(lambda: errors.append(pair.channel.exception()))
        thread.result()
        pair.reader.call_soon(lambda: errors.append(pair.channel.exception()))
        assert eventually(lambda: len(errors) == 2)
        assert waited == [thread]
        assert all(isinstance(error, syncws.ConnectionClosedError) for error in errors)
