"""Reading: who reads, in which order messages come, and how the input ends."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from typing import Any

import pytest
from channels import (
    InThread,
    Meeting,
    interpose,
    native,
    owned_elsewhere,
    portable,
)
from reliability.peer import BINARY, CLOSE, PING, PONG, TEXT, frame

from syncws import delivery as delivery_module
from syncws import input as input_module
from syncws.delivery import Stream
from syncws.exceptions import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK
from syncws.frames import ffi, lib, thread_scratch
from syncws.input import InputChannel
from syncws.transport import CHUNK, TLSTransport, Transport

MIXED = (
    frame(TEXT, "é".encode())
    + frame(PING, b"one")
    + b"".join(frame(BINARY, b"%d" % number) for number in range(600))
    + frame(TEXT, b"", fin=True)
    + frame(BINARY, bytes(100_000))
    + frame(PONG, b"nobody asked")
    + frame(TEXT, b"be", fin=False)
    + frame(PING, b"two")
    + frame(0, b"hind")
)
EXPECTED = ["é", *[b"%d" % number for number in range(600)], "", bytes(100_000), "behind"]


def test_messages_come_in_order_to_whoever_waits() -> None:
    with Meeting() as meeting:
        sender = InThread(meeting.peer.send, MIXED)
        assert [meeting.receive() for _ in EXPECTED] == EXPECTED
        sender.result()
        assert [meeting.next_frame().payload for _ in range(2)] == [b"one", b"two"]


def test_messages_come_in_order_when_the_reader_thread_reads() -> None:
    with Meeting() as meeting:
        sender = InThread(meeting.peer.send, MIXED)
        meeting.stepped.turn_until(lambda: len(meeting.channel.inbound) == len(EXPECTED))
        sender.result()
        assert list(meeting.channel.inbound) == EXPECTED
        assert [meeting.receive(0.0) for _ in EXPECTED] == EXPECTED


def test_order_holds_when_both_take_turns() -> None:
    with Meeting() as meeting:
        for number in range(50):
            meeting.peer.send(frame(TEXT, b"a%d" % number))
            if number % 3:
                meeting.stepped.turns(3)
            meeting.peer.send(frame(TEXT, b"b%d" % number))
            assert meeting.receive() == f"a{number}"
            assert meeting.receive() == f"b{number}"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 4, CHUNK, 3 * CHUNK + 5])
def test_early_data_comes_first(size: int) -> None:
    early = frame(BINARY, bytes(size)) + frame(TEXT, b"x")[:1]
    with Meeting(early_data=early) as meeting:
        meeting.peer.send(frame(TEXT, b"x")[1:])
        assert meeting.receive() == bytes(size)
        assert meeting.receive() == "x"


def test_early_data_may_be_more_than_one_batch_of_records() -> None:
    early = b"".join(frame(PING, b"%d" % number) for number in range(1000)) + frame(TEXT, b"end")
    with Meeting(early_data=early) as meeting:
        assert meeting.receive() == "end"
        assert meeting.next_frame().payload == b"0"


def test_nothing_counts_behind_a_close_frame_in_early_data() -> None:
    early = frame(TEXT, b"last") + frame(CLOSE) + frame(TEXT, b"nothing") + bytes(2 * CHUNK)
    with Meeting(early_data=early) as meeting:
        assert meeting.receive() == "last"
        with pytest.raises(ConnectionClosedOK):
            meeting.receive()


def test_tls_messages_come_in_order(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with Meeting(contexts=(client_context, server_context)) as meeting:
        sender = InThread(meeting.peer.send, MIXED)
        assert [meeting.receive() for _ in EXPECTED] == EXPECTED
        sender.result()


# -- waiting ------------------------------------------------------------------------


def test_a_message_wakes_the_thread_that_waits_for_it() -> None:
    with Meeting() as meeting:
        thread = InThread(meeting.receive)
        while not meeting.owned:
            time.sleep(0.001)
        meeting.peer.send_frame(TEXT, b"awake")
        assert thread.result() == "awake"


@pytest.mark.parametrize("timeout", [0.0, 0.05])
def test_no_message_in_time(timeout: float) -> None:
    with Meeting() as meeting:
        start = time.monotonic()
        with pytest.raises(TimeoutError, match="no message"):
            meeting.receive(timeout)
        assert time.monotonic() - start >= timeout
        assert not meeting.owned


def test_a_timeout_of_0_takes_what_the_socket_holds() -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"there")
        assert meeting.receive(0.0) == "there"


@pytest.mark.parametrize("payload", [b"", b"x"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_single_messages_go_past_the_queue(
    opcode: int, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    native(monkeypatch)
    with Meeting() as meeting:
        meeting.peer.send_frame(opcode, payload)
        expected = payload.decode() if opcode == TEXT else payload
        assert meeting.receive() == expected
        assert not meeting.has(lib.SYNCWS_FLAG_QUEUED)
        assert meeting.has(lib.SYNCWS_FLAG_HANDED)


def test_two_threads_share_the_messages() -> None:
    with Meeting() as meeting:

        def take() -> list[Any]:
            return [meeting.receive() for _ in range(100)]

        threads = [InThread(take), InThread(take)]
        for number in range(200):
            meeting.peer.send_frame(TEXT, b"%d" % number)
        taken = [thread.result() for thread in threads]
        assert sorted(taken[0] + taken[1], key=int) == [str(number) for number in range(200)]
        for mine in taken:
            assert mine == sorted(mine, key=int)


def test_who_finds_another_thread_reading_follows_it() -> None:
    with Meeting() as meeting, owned_elsewhere(meeting) as let_go:
        thread = InThread(meeting.receive)
        while not meeting.has(lib.SYNCWS_FLAG_FOLLOWERS):
            time.sleep(0.001)
        meeting.channel.inbound.append("delivered")
        let_go(lib.SYNCWS_FLAG_QUEUED)
        assert thread.result() == "delivered"
        assert not meeting.has(lib.SYNCWS_FLAG_FOLLOWERS)


def test_a_follower_reads_when_the_owner_has_left() -> None:
    with Meeting() as meeting, owned_elsewhere(meeting) as let_go:
        thread = InThread(meeting.receive)
        while not meeting.has(lib.SYNCWS_FLAG_FOLLOWERS):
            time.sleep(0.001)
        let_go()
        meeting.peer.send_frame(TEXT, b"for the follower")
        assert thread.result() == "for the follower"


def test_a_follower_obeys_its_deadline() -> None:
    with Meeting() as meeting, owned_elsewhere(meeting), pytest.raises(TimeoutError):
        meeting.receive(0.05)


def test_the_owner_may_leave_before_the_follower_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    with Meeting() as meeting, owned_elsewhere(meeting) as let_go:
        meeting.peer.send_frame(TEXT, b"found")

        def follow(c: Any, mode: int) -> int:
            let_go()
            return int(lib.syncws_follow(c, mode))

        interpose(monkeypatch, input_module, syncws_follow=follow)
        assert meeting.receive() == "found"


def test_a_delivery_between_the_two_looks_is_not_overlooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        late = ["late"]

        def seen_empty(c: Any, generation: int) -> None:
            # The reader thread delivers after the queue was found empty.
            if late:
                meeting.channel.inbound.append(late.pop())
                lib.syncws_set_flags(c, lib.SYNCWS_FLAG_QUEUED, 0)
            lib.syncws_seen_empty(c, generation)

        interpose(monkeypatch, delivery_module, syncws_seen_empty=seen_empty)
        assert meeting.receive() == "late"


def test_the_flag_of_an_empty_queue_goes_away() -> None:
    with Meeting() as meeting:
        lib.syncws_set_flags(meeting.c, lib.SYNCWS_FLAG_QUEUED, 0)
        with pytest.raises(TimeoutError):
            meeting.receive(0.0)
        assert not meeting.has(lib.SYNCWS_FLAG_QUEUED)


def test_a_signal_handler_in_the_middle_of_receiving_is_refused() -> None:
    with Meeting() as meeting:
        assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_WAIT) == lib.SYNCWS_OK
        scratch = thread_scratch()
        with pytest.raises(ConcurrencyError, match="middle of receiving"):
            meeting.channel.receive(lib.SYNCWS_OWN, scratch, None)
        with pytest.raises(ConcurrencyError, match="middle of receiving"):
            meeting.channel.read_once(lib.SYNCWS_TAKE_WAIT, 0)
        assert meeting.owned
        lib.syncws_leave(meeting.c, 0)


def test_a_signal_handler_on_another_connection_uses_memory_of_its_own() -> None:
    with Meeting() as interrupted, Meeting() as meeting:
        interrupted.peer.send_frame(TEXT, b"first")
        scratch = thread_scratch()
        code = lib.syncws_take(interrupted.c, lib.SYNCWS_TAKE_WAIT)
        ffi.memmove(scratch.input, frame(TEXT, b"half done"), 11)
        code = lib.syncws_decode_input(interrupted.c, scratch, 11)
        assert scratch.unclaimed == 1
        meeting.peer.send_frame(TEXT, b"second")
        assert meeting.channel.receive(lib.SYNCWS_SCRATCH_BUSY, scratch, None) == "second"
        assert scratch.unclaimed == 1
        interrupted.channel._digest_and_leave(scratch, code)
        assert interrupted.receive() == "half done"
        assert interrupted.receive() == "first"


@pytest.mark.parametrize("code", [lib.SYNCWS_EXTERNAL, lib.SYNCWS_SCRATCH_BUSY])
def test_without_time_to_wait_the_socket_is_still_looked_at(code: int) -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"there")
        assert meeting.channel.receive(code, thread_scratch(), time.monotonic()) == "there"
        with pytest.raises(TimeoutError):
            meeting.channel.receive(code, thread_scratch(), time.monotonic())


@pytest.mark.parametrize("timeout", [0.0, 0.01])
def test_a_signal_handler_that_gets_nothing_leaves_the_memory_alone(timeout: float) -> None:
    with Meeting() as meeting:
        scratch = thread_scratch()
        scratch.unclaimed = 1  # the interrupted call's
        with pytest.raises(TimeoutError):
            meeting.channel.receive(lib.SYNCWS_SCRATCH_BUSY, scratch, time.monotonic() + timeout)
        assert scratch.unclaimed == 1
        scratch.unclaimed = 0
        assert not meeting.channel.gone
        meeting.peer.send_frame(TEXT, b"next")
        assert meeting.receive() == "next"


def test_a_call_that_c_interrupted_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    native(monkeypatch)
    with Meeting() as meeting:
        codes = [lib.SYNCWS_INTERRUPTED]

        def receive(*arguments: Any) -> int:
            return codes.pop() if codes else int(lib.syncws_receive(*arguments))

        interpose(monkeypatch, input_module, syncws_receive=receive)
        meeting.peer.send_frame(TEXT, b"after")
        assert meeting.receive() == "after"
        assert codes == []


# -- the end of the input --------------------------------------------------------------


def test_the_end_of_the_stream_comes_after_the_messages() -> None:
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"last")
        meeting.peer.half_close()
        assert meeting.receive() == "last"
        with pytest.raises(ConnectionClosedError, match="without a close frame"):
            meeting.receive()
        assert isinstance(meeting.channel.end, EOFError)


def test_a_violation_comes_after_the_messages() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"good") + frame(TEXT, b"\xff"))
        assert meeting.receive() == "good"
        with pytest.raises(ConnectionClosedError) as raised:
            meeting.receive()
        assert raised.value.sent is not None
        assert raised.value.sent.code == 1007


def test_the_first_of_several_ends_counts() -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"\xff"))
        meeting.peer.half_close()
        meeting.stepped.turns(1)
        scratch = thread_scratch()
        end = meeting.channel.end
        meeting.channel._digest(scratch, lib.SYNCWS_END_OF_STREAM)
        assert meeting.channel.end is end is not None


@pytest.mark.parametrize("make_path", [native, portable])
def test_a_broken_stream_tells_its_cause(make_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_path(monkeypatch)
    with Meeting() as meeting:
        if make_path is portable:

            def broken(self: Transport, memory: memoryview) -> int:
                raise ConnectionResetError(errno.ECONNRESET, "broken")

            monkeypatch.setattr(Transport, "receive_into", broken)
            meeting.peer.send_frame(TEXT, b"lost")
        else:

            def read(c: Any, scratch: Any, *_: Any) -> int:
                code = int(lib.syncws_take(c, lib.SYNCWS_TAKE_MESSAGE))
                if code != lib.SYNCWS_OK:
                    return code
                scratch.error_number = errno.ECONNRESET
                return int(lib.SYNCWS_READ_FAILED)

            interpose(monkeypatch, input_module, syncws_receive=read)
        with pytest.raises(ConnectionClosedError) as raised:
            meeting.receive()
        assert isinstance(raised.value.__cause__, ConnectionResetError)


def test_an_aborted_channel_wakes_everybody() -> None:
    with Meeting() as meeting:
        threads = [InThread(meeting.receive) for _ in range(3)]
        while not meeting.has(lib.SYNCWS_FLAG_FOLLOWERS):
            time.sleep(0.001)
        meeting.channel.abort(None, "enough")
        for thread in threads:
            with pytest.raises(ConnectionClosedError, match="enough"):
                thread.result()
        assert meeting.transport.fileno() == -1


# -- streams as the owner fills them -----------------------------------------------------


def test_a_stream_that_is_wanted_again_while_it_is_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"to", fin=False))
        assert meeting.channel.begin_stream(None) is None
        meeting.stepped.turns()
        stream = meeting.channel.streaming
        assert stream is not None
        meeting.channel.end_stream()
        assert stream.fate == Stream.KEPT
        whole = Stream.whole

        def while_another_thread_wants_it(self: Stream, more: Any) -> Any:
            result = whole(self, more)
            self.fate = Stream.WANTED
            meeting.channel.streaming = self
            return result

        monkeypatch.setattr(Stream, "whole", while_another_thread_wants_it)
        meeting.peer.send(frame(0, b"gether"))
        meeting.stepped.turns()
        assert not meeting.channel.inbound
        pieces = [meeting.channel.next_piece(None) for _ in range(len(stream.pieces))]
        assert b"".join(piece.data for piece in pieces) == b"together"
        assert pieces[-1].last
        meeting.channel.end_stream()


def test_the_abstract_half_has_no_ends_or_controls() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Meeting() as meeting:
        with pytest.raises(NotImplementedError):
            InputChannel.finish_input(meeting.channel)
        with pytest.raises(NotImplementedError):
            InputChannel.control(meeting.channel, ffi.NULL)


# -- a descriptor whose recv() waits ----------------------------------------------------


def test_only_the_recv_of_c_waits() -> None:
    """On a plain socket the descriptor blocks; what Python does with it must not."""
    with Meeting() as meeting:
        transport = meeting.channel.transport
        assert os.get_blocking(transport.fileno()) is not transport.external
        assert transport.receive_into(memoryview(bytearray(10))) is None
        while transport.send(bytes(CHUNK)):
            pass


def test_a_message_after_the_first_wait() -> None:
    """recv() itself waits for 200 ms, poll() for the rest."""
    with Meeting() as meeting:
        receiving = InThread(meeting.receive)
        receiving.join(0.5)
        meeting.peer.send_frame(BINARY, b"late")
        assert receiving.result() == b"late"


@pytest.mark.parametrize("timeout", [0.1, 0.3])
def test_a_timeout_around_the_first_wait(timeout: float) -> None:
    with Meeting() as meeting:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            meeting.receive(timeout)
        assert timeout <= time.monotonic() - started < timeout + 5


def test_what_tls_has_to_say_itself_is_written_by_who_waits(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """An answer to the peer's TLS that found no room: the peer may say nothing before it."""
    with Meeting(contexts=(client_context, server_context)) as meeting:
        transport = meeting.transport
        assert not transport.holds_output()
        assert isinstance(transport, TLSTransport)
        transport.tls.write(frame(TEXT, b"held", mask=bytes(4)))
        assert transport.holds_output()
        with pytest.raises(TimeoutError):
            meeting.receive(0.05)
        assert not transport.holds_output()
        assert meeting.next_frame().payload == b"held"
