"""The reader thread: calls, timers, one-shot readiness, listed channels, its end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from syncws import reader as reader_module
from syncws.frames import lib
from syncws.reader import READ, WRITE, Reader, client_reader
from syncws.readiness import EpollPoller, PollPoller

BOUND = 10.0  # seconds; far more than anything here takes


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader("test-reader")
    yield reader
    reader.close()


def ran(event: threading.Event) -> bool:
    return event.wait(BOUND)


class Attached:
    """The least that a reader can look after."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.looked = threading.Event()
        self.at_exit = self.forked = False
        self.error: BaseException | None = None
        self.failed: list[BaseException] = []

    def look(self) -> None:
        self.looked.set()
        if self.error is not None:
            raise self.error

    def fail_in_reader(self, error: BaseException) -> None:
        self.failed.append(error)

    def leave_at_exit(self) -> None:
        self.at_exit = True

    def abort(self, cause: BaseException | None, explanation: str) -> None:
        """No interpreter exits here."""

    def after_fork(self) -> None:
        self.forked = True


def test_calls_run_in_order_in_one_daemon_thread(reader: Reader) -> None:
    done = threading.Event()
    seen: list[tuple[int, threading.Thread]] = []
    for number in range(100):
        reader.call_soon(lambda number=number: seen.append((number, threading.current_thread())))
    reader.call_soon(done.set)
    assert ran(done)
    assert [number for number, _ in seen] == list(range(100))
    (thread,) = {thread for _, thread in seen}
    assert thread.daemon
    assert thread.name == "test-reader"
    assert not reader.in_thread()


def test_timers_run_in_the_order_of_their_times(reader: Reader) -> None:
    held, go_on, done = (threading.Event() for _ in range(3))
    seen: list[str] = []
    reader.call_soon(lambda: (held.set(), ran(go_on)))  # until all of them are there
    assert ran(held)
    now = time.monotonic()
    reader.call_at(now + 0.10, seen.append, "late")
    reader.call_at(now + 0.05, seen.append, "early")
    cancelled = reader.call_at(now + 0.07, seen.append, "never")
    cancelled.cancel()
    reader.call_at(now + 0.15, done.set)
    go_on.set()
    assert ran(done)
    assert seen == ["early", "late"]
    assert time.monotonic() >= now + 0.15


def test_timers_may_be_set_by_the_thread_itself(reader: Reader) -> None:
    done = threading.Event()
    reader.call_soon(lambda: reader.call_at(time.monotonic(), done.set))
    assert ran(done)


def test_cancelled_timers_do_not_pile_up(reader: Reader) -> None:
    done = threading.Event()
    later = time.monotonic() + 1000
    kept = [reader.call_at(later, done.set) for _ in range(300)]
    for _ in range(5000):
        reader.call_at(later, done.set).cancel()
    reader.call_soon(done.set)
    assert ran(done)
    assert len(reader._timers) < 1000
    assert sum(not entry[2].cancelled for entry in reader._timers) == len(kept)


def test_a_timer_runs_once() -> None:
    seen: list[int] = []
    timer = reader_module.Timer(0.0, seen.append, (1,))
    timer.run()
    timer.run()
    assert seen == [1]


def pollers() -> list[type]:
    return [EpollPoller, PollPoller]


@pytest.fixture(params=pollers(), ids=["epoll", "poll"])
def any_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.setattr(reader_module, "new_poller", request.param)
    reader = Reader("test-reader")
    yield reader
    reader.close()


def test_readiness_is_reported_once(any_reader: Reader) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        events: list[int] = []
        first = threading.Event()

        def ready(mask: int) -> None:
            events.append(mask)
            first.set()

        any_reader.call_soon(any_reader.watch, ours.fileno(), READ, ready)
        theirs.send(b"x")
        assert ran(first)
        theirs.send(b"y")
        settled = threading.Event()
        any_reader.call_at(time.monotonic() + 0.1, settled.set)
        assert ran(settled)
        assert events == [READ]
        first.clear()
        any_reader.call_soon(any_reader.watch, ours.fileno(), READ | WRITE, ready)
        assert ran(first)
        assert events[1] & READ or events[1] & WRITE


def test_both_interests_and_the_end_are_reported(any_reader: Reader) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        masks: list[int] = []
        event = threading.Event()

        def ready(mask: int) -> None:
            masks.append(mask)
            event.set()

        any_reader.call_soon(any_reader.watch, ours.fileno(), WRITE, ready)
        assert ran(event)
        assert masks == [WRITE]
        event.clear()
        theirs.close()
        any_reader.call_soon(any_reader.watch, ours.fileno(), READ, ready)
        assert ran(event)
        assert masks[1] & READ


def test_unwatching_another_ones_descriptor_does_nothing(any_reader: Reader) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        event = threading.Event()

        def mine(_: int) -> None:
            event.set()

        def others(_: int) -> None:
            raise AssertionError

        any_reader.call_soon(any_reader.watch, ours.fileno(), READ, mine)
        any_reader.call_soon(any_reader.unwatch, ours.fileno(), others)
        theirs.send(b"x")
        assert ran(event)
        event.clear()
        ours.recv(1)
        any_reader.call_soon(any_reader.watch, ours.fileno(), READ, mine)
        any_reader.call_soon(any_reader.unwatch, ours.fileno())
        any_reader.call_soon(theirs.send, b"y")
        settled = threading.Event()
        any_reader.call_at(time.monotonic() + 0.1, settled.set)
        assert ran(settled)
        assert not event.is_set()


def test_a_closed_descriptor_hurts_nobody(any_reader: Reader) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        any_reader.call_soon(any_reader.watch, ours.fileno(), READ, lambda mask: None)
        settled = threading.Event()
        any_reader.call_soon(settled.set)
        assert ran(settled)
        any_reader.forget(ours.fileno())
        ours.close()
        done = threading.Event()
        any_reader.call_at(time.monotonic() + 0.1, done.set)
        assert ran(done)


def test_checks_are_repeated_until_they_are_done(reader: Reader) -> None:
    done = threading.Event()
    calls: list[int] = []

    def check() -> bool:
        calls.append(1)
        if len(calls) == 3:
            done.set()
            return True
        return False

    reader.call_soon(reader.look_again, check)
    assert ran(done)
    settled = threading.Event()
    reader.call_at(time.monotonic() + 0.1, settled.set)
    assert ran(settled)
    assert len(calls) == 3


@pytest.mark.parametrize("urgent", [0, 1])
def test_listed_channels_are_looked_at(reader: Reader, urgent: int) -> None:
    attached = Attached(reader_module.new_token())
    reader.attach(attached)
    channel = lib.syncws_channel_new(reader.mailbox, attached.token, 0, 0, 0, 1, 1)
    stranger = lib.syncws_channel_new(reader.mailbox, reader_module.new_token(), 0, 0, 0, 1, 1)
    try:
        lib.syncws_list(stranger, urgent)
        lib.syncws_list(channel, urgent)
        assert ran(attached.looked)
        attached.looked.clear()
        reader.detach(attached)
        lib.syncws_list(channel, urgent)
        settled = threading.Event()
        reader.call_at(time.monotonic() + 0.1, settled.set)
        assert ran(settled)
        assert not attached.looked.is_set()
    finally:
        lib.syncws_channel_free(channel)
        lib.syncws_channel_free(stranger)


def test_an_error_ends_the_connection_and_not_the_thread(reader: Reader) -> None:
    attached = Attached(reader_module.new_token())
    attached.error = RuntimeError("unforeseen")
    reader.attach(attached)
    channel = lib.syncws_channel_new(reader.mailbox, attached.token, 0, 0, 0, 1, 1)
    try:
        lib.syncws_list(channel, 1)
        assert ran(attached.looked)
        done = threading.Event()
        reader.call_soon(done.set)
        assert ran(done)
        assert attached.failed == [attached.error]
    finally:
        lib.syncws_channel_free(channel)


def test_an_error_that_belongs_to_nobody_is_kept(reader: Reader) -> None:
    error = RuntimeError("nobody's")

    def fail() -> None:
        raise error

    done = threading.Event()
    reader.call_soon(fail)
    reader.call_soon(done.set)
    assert ran(done)
    assert error in reader_module.failures
    reader_module.failures.remove(error)


def test_closing_is_bounded_idempotent_and_possible_from_within() -> None:
    reader = Reader("test-reader")
    reader.close()
    assert reader.closed
    reader.call_soon(lambda: None)
    reader = Reader("test-reader")
    done = threading.Event()
    reader.call_soon(done.set)
    assert ran(done)
    thread = reader.thread
    assert thread is not None
    reader.call_soon(reader.close)
    thread.join(BOUND)
    assert not thread.is_alive()
    reader.close()


def test_a_call_that_is_asked_for_as_the_thread_stops_is_run_or_refused(reader: Reader) -> None:
    held, go_on, done = (threading.Event() for _ in range(3))
    assert reader.call_soon(lambda: (held.set(), ran(go_on)))
    assert ran(held)
    assert reader.call_soon(done.set)  # behind the last look at `closed`
    closing = threading.Thread(target=reader.close)
    closing.start()
    while not reader.closed:
        time.sleep(0.001)
    assert not reader.call_soon(done.clear)
    go_on.set()
    assert ran(done)
    closing.join()
    assert not reader.call_soon(done.clear)
    assert not reader._calls


def test_a_call_that_the_thread_took_before_it_stopped_is_not_refused(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    class Late:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def syncws_mailbox_wake(self, mailbox: object) -> None:
            lib.syncws_mailbox_wake(mailbox)
            assert ran(done)
            reader.closed = True

    monkeypatch.setattr(reader_module, "lib", Late())
    assert reader.call_soon(done.set)


def test_no_descriptors_for_a_reader_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def syncws_mailbox_new(self) -> object:
            return reader_module.ffi.NULL

    monkeypatch.setattr(reader_module, "lib", Exhausted())
    with pytest.raises(OSError, match="wake-up pipe"):
        Reader("test-reader")


def test_clients_share_one_reader() -> None:
    first = client_reader()
    assert client_reader() is first
    first.close()
    second = client_reader()
    assert second is not first


def test_an_interrupted_wait_is_repeated(reader: Reader) -> None:
    wait = reader._poller.wait
    interrupted = threading.Event()

    def once(timeout: float) -> list[tuple[int, int]]:
        if not interrupted.is_set():
            interrupted.set()
            raise InterruptedError
        return wait(timeout)

    reader._poller.wait = once  # type: ignore[method-assign]  # to interrupt it
    reader.call_soon(lambda: None)
    assert ran(interrupted)
    done = threading.Event()
    reader.call_soon(done.set)
    assert ran(done)


def test_g10x_at_exit_every_connection_may_say_goodbye() -> None:
    reader = Reader("test-reader")
    attached = Attached(reader_module.new_token())
    reader.attach(attached)
    reader.leave_at_exit()
    assert attached.at_exit
    assert reader.closed


def test_g9x_in_a_forked_child_everything_is_new() -> None:
    program = """
import os, sys, threading
from syncws import reader
first = reader.client_reader()
class Attached:
    token = reader.new_token()
    forked = False
    def look(self): pass
    def leave_at_exit(self): pass
    def after_fork(self): self.forked = True
attached = Attached()
first.attach(attached)
pid = os.fork()
if pid == 0:
    second = reader.client_reader()
    done = threading.Event()
    second.call_soon(done.set)
    good = attached.forked and second is not first and first.closed and done.wait(10)
    os._exit(0 if good else 1)
_, status = os.waitpid(pid, 0)
done = threading.Event()
first.call_soon(done.set)
sys.exit(os.waitstatus_to_exitcode(status) or not done.wait(10) or attached.forked)
"""
    result = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert result.returncode == 0


def test_after_fork_forgets_what_was_asked_for() -> None:
    reader = Reader("test-reader")
    attached = Attached(reader_module.new_token())
    reader.attach(attached)
    reader.after_fork()
    assert attached.forked
    assert reader.closed
    assert reader.thread is None


def test_g16x_descriptors_above_1023_are_watched(any_reader: Reader) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        high = os.dup2(ours.fileno(), 1500)
        try:
            event = threading.Event()
            any_reader.call_soon(any_reader.watch, high, READ, lambda mask: event.set())
            theirs.send(b"x")
            assert ran(event)
        finally:
            os.close(high)


def test_an_error_in_the_loop_does_not_end_it(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("unforeseen")
    run_calls = reader._run_calls
    failed: list[BaseException] = []

    def failing() -> None:
        if not failed:
            failed.append(error)
            raise error
        run_calls()

    monkeypatch.setattr(reader, "_run_calls", failing)
    done = threading.Event()
    reader.call_soon(done.set)
    assert ran(done)
    assert error in reader_module.failures
    reader_module.failures.remove(error)
