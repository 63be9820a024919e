"""Ctrl-C in the middle of reading: nothing is lost, nobody is locked out."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from channels import (
    PATIENCE,
    InThread,
    Meeting,
    interpose,
    interrupted_after,
    native,
    portable,
)
from pairing import Pair
from reliability.peer import BINARY, PING, TEXT, frame

from syncws import connection as connection_module
from syncws import delivery as delivery_module
from syncws import input as input_module
from syncws.channel import Channel
from syncws.exceptions import ConcurrencyError, ConnectionClosedError
from syncws.frames import lib, thread_scratch
from syncws.input import InputChannel, take_single
from syncws.transport import Transport


@pytest.mark.parametrize(
    "step",
    ["syncws_take", "syncws_read", "syncws_decode_input", "syncws_wait_readable", "syncws_finish"],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_an_interrupted_read_loses_nothing(
    step: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (native if step == "syncws_read" else portable)(monkeypatch)
    with Meeting() as meeting:
        data = b"".join(frame(TEXT, b"%d" % number) for number in range(batch))
        interrupted = interrupted_after(step)

        def call(*arguments: Any) -> Any:
            # Who waits for input must not have any yet.
            if step == "syncws_wait_readable":
                meeting.peer.send(data)
            return interrupted(*arguments)

        if step != "syncws_wait_readable":
            meeting.peer.send(data)
        interpose(monkeypatch, input_module, **{step: call})
        with pytest.raises(KeyboardInterrupt):
            meeting.channel.read_once(lib.SYNCWS_TAKE_MESSAGE, 2000)
        monkeypatch.undo()
        assert not meeting.owned
        assert [meeting.receive() for _ in range(batch)] == [str(n) for n in range(batch)]


@pytest.mark.parametrize(
    "step", ["syncws_take", "syncws_wait_readable", "syncws_decode_input", "syncws_hand_over"]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_an_interrupted_receive_by_the_transport_loses_nothing(
    step: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    portable(monkeypatch)
    with Meeting() as meeting:
        meeting.peer.send(*[frame(TEXT, b"%d" % number) for number in range(batch)])
        interpose(monkeypatch, input_module, **{step: interrupted_after(step)})
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        monkeypatch.undo()
        assert not meeting.owned
        assert not thread_scratch().unclaimed
        assert [meeting.receive() for _ in range(batch)] == [str(n) for n in range(batch)]


@pytest.mark.parametrize("path", [native, portable])
def test_a_ctrl_c_while_a_single_message_is_handed_over_loses_nothing(
    path: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path(monkeypatch)
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"kept")
        step = "syncws_receive" if path is native else "syncws_hand_over"
        interpose(monkeypatch, input_module, **{step: interrupted_after(step)})
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        monkeypatch.undo()
        assert meeting.receive(1.0) == "kept"


@pytest.mark.parametrize("path", [native, portable])
def test_a_message_put_back_comes_before_what_another_thread_reads(
    path: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path(monkeypatch)
    step = "syncws_receive" if path is native else "syncws_hand_over"
    with Meeting() as meeting:
        others: list[InThread] = []

        def interrupted(*arguments: Any) -> Any:
            result = getattr(lib, step)(*arguments)
            if others:
                return result  # the other thread's
            # By now this one has left; another comes before its message is put back.
            others.append(InThread(lambda: [meeting.receive(), meeting.receive()]))
            while not meeting.owned:
                time.sleep(0.001)  # what to wait for has no event; the test's timeout bounds it
            raise KeyboardInterrupt

        meeting.peer.send_frame(TEXT, b"first")
        interpose(monkeypatch, input_module, **{step: interrupted})
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        meeting.peer.send_frame(TEXT, b"second")
        assert others[0].result() == ["first", "second"]


def test_who_lost_its_ownership_does_not_end_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    portable(monkeypatch)
    with Meeting() as meeting:
        taken, go_on = threading.Event(), threading.Event()

        def own() -> bool:
            assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_WAIT) == lib.SYNCWS_OK
            taken.set()
            assert go_on.wait(PATIENCE)
            mine = bool(lib.syncws_is_mine(meeting.c))
            lib.syncws_leave(meeting.c, 0)
            return mine

        other = InThread(own)
        assert taken.wait(PATIENCE)
        code = lib.syncws_hand_over(meeting.c, thread_scratch(), lib.SYNCWS_TIMED_OUT)
        assert code == lib.SYNCWS_TIMED_OUT
        go_on.set()
        assert other.result()


@pytest.mark.parametrize("which", ["receive_into", "send"])
def test_ctrl_c_while_an_error_of_the_transport_is_noted_ends_the_connection(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    portable(monkeypatch)

    class Interrupting(OSError):
        def with_traceback(self, _: object) -> Interrupting:
            raise KeyboardInterrupt

    def broken(self: Transport, data: object) -> int:
        raise Interrupting

    with Meeting() as meeting:
        monkeypatch.setattr(Transport, which, broken)
        with pytest.raises(KeyboardInterrupt):
            if which == "send":
                meeting.channel.send_control(PING, b"")
            else:
                meeting.peer.send_frame(TEXT, b"x")
                meeting.receive()
        assert meeting.channel.gone
        assert not meeting.channel._moving
        assert not thread_scratch().unclaimed


def test_a_second_ctrl_c_at_a_single_message_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    portable(monkeypatch)
    with Meeting() as meeting:
        meeting.peer.send_frame(TEXT, b"lost")

        def interrupted(scratch: Any) -> str:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(input_module, "take_single", interrupted)
            with pytest.raises(KeyboardInterrupt):
                meeting.receive()
        assert meeting.channel.gone
        assert not thread_scratch().unclaimed
        with pytest.raises(ConnectionClosedError):
            meeting.receive()


@pytest.mark.parametrize("batch", [1, 3])
def test_an_interrupted_receive_loses_nothing(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    native(monkeypatch)
    with Meeting() as meeting:
        meeting.peer.send(*[frame(TEXT, b"%d" % number) for number in range(batch)])
        interpose(monkeypatch, input_module, syncws_receive=interrupted_after("syncws_receive"))
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        monkeypatch.undo()
        assert not meeting.owned
        assert [meeting.receive() for _ in range(batch)] == [str(n) for n in range(batch)]


@pytest.mark.parametrize("decode", [False, True])
def test_an_interrupted_conversion_loses_nothing(
    decode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(message: Any, decode: bool) -> Any:
        raise KeyboardInterrupt

    with Pair() as pair:
        pair.peer.sendall(frame(TEXT, b"one") + frame(BINARY, b"two"))
        for message in ("one", b"two"):
            monkeypatch.setattr(connection_module, "converted", convert)
            with pytest.raises(KeyboardInterrupt):
                pair.connection.recv(PATIENCE, decode)
            monkeypatch.undo()
            assert pair.connection.recv(PATIENCE) == message


def test_recovering_from_a_call_that_did_nothing_does_nothing() -> None:
    with Meeting() as meeting:
        scratch = thread_scratch()
        scratch.unclaimed = 0
        meeting.channel.recover(scratch)
        assert not meeting.channel.inbound
        # What another connection's call has left in the scratch is not ours.
        scratch.unclaimed, scratch.code = 1, lib.SYNCWS_RECORDS
        meeting.channel.recover(scratch)
        assert not meeting.channel.inbound
        scratch.unclaimed = 0


def test_a_message_of_an_interrupted_call_stays_its_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    native(monkeypatch)
    with Meeting() as interrupted, Meeting() as meeting:
        interrupted.peer.send_frame(TEXT, b"its own")
        scratch = thread_scratch()
        code = lib.syncws_receive(interrupted.c, scratch, 1000)
        assert code == lib.SYNCWS_GOT_TEXT
        meeting.channel.recover(scratch)
        assert not meeting.channel.inbound
        assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_MESSAGE) == lib.SYNCWS_OK
        meeting.channel.recover(scratch)  # lets go, and no more
        lib.syncws_finish(meeting.c, scratch, 0)
        assert not meeting.owned
        assert not meeting.channel.gone
        assert not meeting.channel.inbound
        interrupted.channel.recover(scratch)
        assert interrupted.receive() == "its own"


def test_what_a_signal_handler_discards_is_not_put_over_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    native(monkeypatch)
    with Meeting() as interrupted, Meeting() as meeting:
        interrupted.peer.send_frame(TEXT, b"its own" * 5000)
        scratch = thread_scratch()
        assert lib.syncws_receive(interrupted.c, scratch, 1000) == lib.SYNCWS_GOT_TEXT
        meeting.peer.send(b"Z" * 50_000)
        assert meeting.channel._discard() is False
        assert meeting.channel._discarded == 50_000
        assert take_single(scratch) == "its own" * 5000


def test_a_signal_handler_that_receives_does_not_disturb_what_tls_discards(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Meeting(contexts=(client_context, server_context)) as meeting, Meeting() as other:
        receive_into = Transport.receive_into
        received: list[object] = []

        def interrupted(self: Transport, memory: memoryview) -> int | None:
            count = receive_into(self, memory)
            if count and self.sock is meeting.ours and not received:
                received.append(None)
                received.append(other.receive())
            return count

        other.peer.send_frame(TEXT, b"Z" * 50_000)
        meeting.peer.send(b"x" * 1000)
        assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_DRAIN) == lib.SYNCWS_OK
        monkeypatch.setattr(Transport, "receive_into", interrupted)
        while not meeting.channel._discarded:
            assert meeting.channel._discard() is False
        assert received == [None, "Z" * 50_000]
        assert meeting.channel._discarded == 1000
        lib.syncws_leave(meeting.c, 0)


def _interrupt(_other: Meeting) -> None:
    raise KeyboardInterrupt


def _use_another_connection(other: Meeting) -> None:
    other.peer.send_frame(TEXT, b"another's")
    assert other.channel.receive(lib.SYNCWS_SCRATCH_BUSY, thread_scratch(), None) == "another's"


@pytest.mark.parametrize("action", [_interrupt, _use_another_connection])
def test_a_signal_between_two_parts_of_a_batch_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[Meeting], None]
) -> None:
    native(monkeypatch)
    acted: list[int] = []
    with Meeting() as meeting, Meeting() as other:

        def reclaim(decoder: object) -> None:
            lib.syncws_decoder_reclaim(decoder)
            if thread_scratch().rest_length and not acted:
                acted.append(thread_scratch().rest_length)
                action(other)

        # A part ends after 256 records, and a change of type ends a record. The large message
        # is there for what is called after it.
        messages: list[str | bytes] = ["x" * 200_000]
        for number in range(300):
            messages += [f"{number}", b"%d" % number]
        data = b"".join(
            frame(TEXT, message.encode()) if isinstance(message, str) else frame(BINARY, message)
            for message in messages
        )
        meeting.peer.send(data[:150_000])
        while meeting.channel.read_once(lib.SYNCWS_TAKE_MESSAGE, 0) == lib.SYNCWS_OK:
            pass
        meeting.peer.send(data[150_000:])
        interpose(monkeypatch, delivery_module, syncws_decoder_reclaim=reclaim)
        received: list[Any] = []
        while len(received) < len(messages):
            try:
                received.append(meeting.receive(1.0))
            except KeyboardInterrupt:
                assert action is _interrupt
        assert len(acted) == 1
        assert received == messages


def test_recovering_an_owner_that_read_nothing_lets_go() -> None:
    with Meeting() as meeting:
        assert lib.syncws_take(meeting.c, lib.SYNCWS_TAKE_MESSAGE) == lib.SYNCWS_OK
        meeting.channel.recover(thread_scratch())
        assert not meeting.owned
        meeting.peer.send_frame(TEXT, b"next")
        assert meeting.receive() == "next"


def test_a_second_ctrl_c_ends_the_connection_rather_than_losing_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    portable(monkeypatch)
    with Meeting() as meeting:
        meeting.peer.send(frame(TEXT, b"lost"))

        def claim(self: InputChannel, scratch: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(InputChannel, "_claim", claim)
            with pytest.raises(KeyboardInterrupt):
                meeting.channel.read_once(lib.SYNCWS_TAKE_WAIT, 0)
        assert meeting.channel.gone
        with pytest.raises(ConnectionClosedError):
            meeting.receive()
        meeting.stepped.turns()
        assert meeting.transport.fileno() == -1


def test_an_interrupt_inside_the_transport_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    portable(monkeypatch)
    with Meeting() as meeting:

        def interrupted(self: Transport, memory: memoryview) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(Transport, "receive_into", interrupted)
        meeting.peer.send_frame(TEXT, b"lost")
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        with pytest.raises(ConnectionClosedError, match="interrupted while reading"):
            meeting.receive()


def test_a_signal_handler_inside_the_transport_does_not_enter_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    portable(monkeypatch)
    with Meeting() as meeting:
        refused = []
        send = Transport.send

        def interrupted(self: Transport, data: Any) -> int:
            # A signal handler runs here, and receives.
            with pytest.raises(ConcurrencyError, match="another call") as raised:
                meeting.receive()
            refused.append(raised.value)
            return send(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(Transport, "send", interrupted)
            meeting.send(b"through")
        assert refused
        assert not meeting.owned
        received = meeting.next_frame()
        assert received.payload == b"through"
        meeting.peer.send_frame(TEXT, b"later")
        assert meeting.receive() == "later"


@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_interrupted_delivery_happens_once(
    batch: int, delivered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    native(monkeypatch)
    with Meeting() as meeting:
        meeting.peer.send(b"".join(frame(PING, b"%d" % number) for number in range(batch)))
        meeting.peer.send(b"".join(frame(TEXT, b"%d" % number) for number in range(batch)))
        claim = InputChannel._claim
        interrupts = [KeyboardInterrupt()]

        def once(self: InputChannel, scratch: Any) -> None:
            if delivered or not interrupts:
                claim(self, scratch)
            if interrupts:
                raise interrupts.pop()

        monkeypatch.setattr(InputChannel, "_claim", once)
        with pytest.raises(KeyboardInterrupt):
            meeting.receive()
        assert not meeting.owned
        assert [meeting.receive() for _ in range(batch)] == [str(n) for n in range(batch)]


def test_a_second_ctrl_c_inside_the_transport_is_made_good_by_the_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    portable(monkeypatch)
    with Meeting() as meeting:

        def interrupted(*_: Any) -> Any:
            raise KeyboardInterrupt

        def receive() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(Transport, "receive_into", interrupted)
                patch.setattr(Channel, "abort", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    meeting.receive()

        meeting.peer.send_frame(TEXT, b"lost")
        InThread(receive).result()
        assert not meeting.owned
        # Nobody can know what the transport has given, so nobody asks it again.
        with pytest.raises(TimeoutError):
            meeting.receive(0.0)
        meeting.stepped.turns()
        with pytest.raises(ConnectionClosedError, match="interrupted"):
            meeting.receive()
        assert meeting.transport.fileno() == -1


def test_no_call_comes_between_the_marks_of_a_read_and_what_undoes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Ctrl-C there left the thread's memory marked for ever."""
    portable(monkeypatch)
    with Meeting() as meeting:

        def checked(value: Any) -> int:
            assert not meeting.channel._moving
            return int(value)

        monkeypatch.setattr(input_module, "int", checked, raising=False)
        meeting.peer.send_frame(TEXT, b"text")
        assert meeting.receive() == "text"


def test_after_a_second_ctrl_c_the_threads_memory_serves_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    portable(monkeypatch)
    with Meeting() as meeting:

        def interrupted(*_: Any) -> Any:
            raise KeyboardInterrupt

        meeting.peer.send_frame(TEXT, b"lost")
        with monkeypatch.context() as patch:
            patch.setattr(Transport, "receive_into", interrupted)
            patch.setattr(Channel, "abort", interrupted)
            with pytest.raises(KeyboardInterrupt):
                meeting.receive()
        assert thread_scratch().unclaimed == 0
