"""One message in pieces, and other threads: who is refused, and what is put back."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from channels import InThread, Meeting, interpose, owned_elsewhere, portable
from reliability.peer import BINARY, TEXT, frame
from test_streaming import joined, rest_of, soon

from syncws import input as input_module
from syncws import streaming as streaming_module
from syncws.delivery import Stream
from syncws.exceptions import ConcurrencyError
from syncws.frames import lib


def too_late(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, int], int]:
    """Another thread begins between the look at what is under way and ``syncws_take()``."""

    def take(c: Any, mode: int) -> int:
        monkeypatch.undo()
        assert InThread(meeting.channel.begin_stream, soon()).result() is None
        return int(lib.syncws_take(c, mode))

    return take


def test_of_two_threads_that_begin_at_the_same_time_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Meeting() as meeting:
        interpose(monkeypatch, streaming_module, syncws_take=too_late(meeting, monkeypatch))
        with pytest.raises(ConcurrencyError, match="recv_streaming"):
            meeting.channel.begin_stream(soon())
        meeting.peer.send(frame(TEXT, b"one", fin=False), frame(0, b"."))
        assert joined(rest_of(meeting)) == b"one."


def test_nobody_waits_for_a_whole_message_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    portable(monkeypatch)  # C takes by itself
    with Meeting() as meeting:
        interpose(monkeypatch, input_module, syncws_take=too_late(meeting, monkeypatch))
        with pytest.raises(ConcurrencyError, match="recv_streaming"):
            meeting.receive()


def test_who_follows_a_reader_is_told_that_a_stream_has_begun() -> None:
    with Meeting() as meeting, owned_elsewhere(meeting) as let_go:
        receiving = InThread(meeting.receive)
        while not meeting.has(lib.SYNCWS_FLAG_FOLLOWERS):
            time.sleep(0.001)
        # What begin_stream() does, in the thread that reads.
        stream = meeting.channel.streaming = meeting.channel.incoming = Stream()
        stream.count = lib.syncws_stream_count(meeting.c) + 1
        let_go(lib.SYNCWS_FLAG_STREAMED)
        with pytest.raises(ConcurrencyError, match="recv_streaming"):
            receiving.result()
        meeting.channel.end_stream()


@pytest.mark.parametrize("step", ["syncws_stream_end", "syncws_set_flags"])
def test_an_interrupted_end_is_made_good_by_who_comes_next(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        meeting.peer.send_frame(TEXT, b"whole")
        meeting.stepped.turns()
        interpose(monkeypatch, streaming_module, **{step: interrupt})
        with pytest.raises(KeyboardInterrupt):
            meeting.channel.end_stream()
        assert meeting.has(lib.SYNCWS_FLAG_STREAMED)
        assert meeting.receive() == "whole"
        with pytest.raises(TimeoutError):
            meeting.receive(0.01)
        assert not meeting.has(lib.SYNCWS_FLAG_STREAMED)
        # In the same way for the next one in pieces.
        assert meeting.channel.begin_stream(soon()) is None
        interpose(monkeypatch, streaming_module, syncws_stream_end=interrupt)
        with pytest.raises(KeyboardInterrupt):
            meeting.channel.end_stream()
        assert meeting.channel.begin_stream(soon()) is None


def test_who_ends_a_stream_late_does_not_end_the_next_one() -> None:
    with Meeting() as meeting:
        assert meeting.channel.begin_stream(soon()) is None
        count = lib.syncws_stream_count(meeting.c)
        meeting.channel.end_stream()
        assert meeting.channel.begin_stream(soon()) is None
        lib.syncws_stream_end(meeting.c, count, 1)
        assert meeting.has(lib.SYNCWS_FLAG_STREAMED)
        assert not meeting.has(lib.SYNCWS_FLAG_HANDED)


def test_what_is_put_back_comes_before_what_followed() -> None:
    with Meeting() as meeting:
        channel = meeting.channel
        assert channel.begin_stream(soon()) is None
        meeting.peer.send(frame(TEXT, b"one"), frame(TEXT, b"two"))
        while not channel.inbound:
            meeting.stepped.turns()
        stream = channel.streaming
        assert stream is not None
        seen: list[Any] = []

        class Inbound(collections.deque[Any]):
            def appendleft(self, message: Any) -> None:
                # Another thread looks before that.
                for call in (lambda: channel.begin_stream(soon()), channel.check_streaming):
                    with pytest.raises(ConcurrencyError):
                        call()
                    seen.append(stream.fate)
                super().appendleft(message)

        channel.inbound = Inbound(channel.inbound)
        channel.end_stream()
        assert seen == [Stream.WANTED, Stream.WANTED]
        assert list(channel.inbound) == ["one", "two"]


def test_letting_go_of_a_stream_leaves_the_next_one_alone() -> None:
    with Meeting() as meeting:
        channel, following = meeting.channel, Stream()

        class Left(Stream):
            @property
            def fate(self) -> int:
                # Another thread begins between the look at this and what follows from it.
                channel.streaming = following
                return Stream.DROPPED

            @fate.setter
            def fate(self, _: int) -> None:
                pass

        channel.streaming = Left()
        channel.check_streaming()
        assert channel.streaming is following


def test_threads_that_stream_in_turn_get_whole_messages() -> None:
    with Meeting() as meeting:
        count = 60
        lock = threading.Lock()
        seen: list[bytes] = []

        def take() -> None:
            while True:
                with lock:
                    if len(seen) == count:
                        return
                    whole = meeting.channel.begin_stream(soon())
                    if whole is None:
                        seen.append(joined(rest_of(meeting)))
                    else:
                        assert isinstance(whole, bytes)
                        seen.append(whole)

        threads = [InThread(take), InThread(take)]
        for number in range(count):
            meeting.peer.send(frame(BINARY, b"%d" % number, fin=False), frame(0, b"."))
            meeting.stepped.turn()
        for thread in threads:
            thread.result()
        assert seen == [b"%d." % number for number in range(count)]
