"""The reader thread is started once, whoever asks first and whatever comes in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from syncws import reader as reader_module
from syncws.frames import lib
from syncws.reader import Reader, client_reader

BOUND = 10.0  # seconds; far more than anything here takes


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader("reader-that-starts")
    yield reader
    reader.close()


def ran(event: threading.Event) -> bool:
    return event.wait(BOUND)


class Racing:
    """A lock before which another thread was faster."""

    def __init__(self, other: Callable[[], object]) -> None:
        self.other = other

    def __enter__(self) -> None:
        self.other()

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def acquire(self, timeout: float) -> bool:
        self.other()
        return True

    def release(self) -> None:
        """Nothing is held."""


def test_two_threads_start_one_thread(reader: Reader) -> None:
    reader._start_lock = Racing(lambda: setattr(reader, "_made", True))  # type: ignore[assignment]  # to race
    reader._start()
    assert not [thread for thread in threading.enumerate() if thread.name == reader.name]
    reader._start_lock = threading.Lock()
    reader._made = False


def test_who_starts_the_thread_holds_nobody_up_for_long(reader: Reader) -> None:
    """A signal handler may have interrupted it, and wait for what others do."""
    reader._made = True
    with reader._start_lock:
        done = threading.Event()
        started = time.monotonic()
        reader.call_soon(done.set)
        assert ran(done)
        assert time.monotonic() - started < BOUND / 2


def test_two_threads_make_one_reader_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    faster = Reader("faster")

    def make() -> None:
        reader_module._client_reader = faster

    with monkeypatch.context() as patch:
        patch.setattr(reader_module, "_client_reader", None)
        patch.setattr(reader_module, "_client_lock", Racing(make))
        assert client_reader() is faster
    faster.close()


def test_a_thread_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader("reader-that-starts")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            reader.call_soon(lambda: None)
    done = threading.Event()
    reader.call_soon(done.set)
    assert ran(done)
    reader.close()


def test_a_thread_that_is_not_the_readers_leaves(reader: Reader) -> None:
    done = threading.Event()
    reader.call_soon(done.set)
    assert ran(done)
    thread = reader.thread
    reader._run()
    assert not reader.closed
    assert reader.thread is thread


@pytest.mark.parametrize("when", ["before it runs", "while it runs"])
def test_an_interrupted_start_leaves_one_thread(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    start = threading.Thread.start
    late: list[threading.Thread] = []

    def interrupted(self: threading.Thread) -> None:
        if when == "before it runs":
            late.append(self)
        else:
            start(self)
            while not reader._claims:
                time.sleep(0.001)  # start() returns before the thread has claimed anything
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader.call_soon(lambda: None)
    done, inside = threading.Event(), list[bool]()
    reader.call_soon(lambda: inside.append(reader.in_thread()))
    reader.call_soon(done.set)
    assert ran(done)
    for thread in late:
        thread.start()
        thread.join(BOUND)
        assert not thread.is_alive()
    assert inside == [True]
    assert [thread for thread in reader._claims if thread and thread.is_alive()] == [reader.thread]


def test_a_reader_that_is_closed_before_its_thread_begins_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a signal handler in the middle of Thread.start()."""
    start = threading.Thread.start
    reader = Reader("reader-that-starts")

    def late(self: threading.Thread) -> None:
        reader.close()
        start(self)

    monkeypatch.setattr(threading.Thread, "start", late)
    assert not reader.call_soon(lambda: None)
    assert reader.thread is None
    assert lib.syncws_mailbox_descriptor(reader.mailbox) < 0
    reader.close()
