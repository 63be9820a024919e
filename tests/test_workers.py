"""Threads that are kept and reused."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncws.workers import Workers

PATIENCE = 10.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers("test-worker")
    yield workers
    workers.close()
    workers.join(PATIENCE)
    assert threads_of("test-worker") == []


def run(workers: Workers, function: Callable[[], object]) -> None:
    """Runs a job and waits for it."""
    done = threading.Event()

    def job() -> None:
        try:
            function()
        finally:
            done.set()

    workers.submit(job)
    assert done.wait(PATIENCE)


def wait_for_idle(workers: Workers, count: int = 1) -> None:
    wait_until(lambda: len(workers._idle) == count)


def test_threads_are_daemons_with_numbered_names(workers: Workers) -> None:
    seen: list[threading.Thread] = []
    run(workers, lambda: seen.append(threading.current_thread()))
    assert seen[0].name == "test-worker-1"
    assert seen[0].daemon


def test_an_idle_thread_is_used_again(workers: Workers) -> None:
    seen: list[threading.Thread] = []
    for _ in range(3):
        run(workers, lambda: seen.append(threading.current_thread()))
        wait_for_idle(workers)
    assert len(set(seen)) == 1


def test_without_a_limit_no_job_waits(workers: Workers) -> None:
    barrier = threading.Barrier(5)
    for _ in range(4):
        workers.submit(barrier.wait, PATIENCE)
    barrier.wait(PATIENCE)
    wait_for_idle(workers, 4)


def test_jobs_beyond_the_limit_wait_for_a_thread() -> None:
    workers = Workers("test-worker", limit=2)
    release, done = threading.Event(), threading.Semaphore(0)

    def job() -> None:
        release.wait(PATIENCE)
        done.release()

    for _ in range(6):
        workers.submit(job)
    assert len(threads_of("test-worker")) == 2
    release.set()
    for _ in range(6):
        assert done.acquire(timeout=PATIENCE)
    workers.close()
    workers.join(PATIENCE)
    assert threads_of("test-worker") == []


def test_a_thread_without_a_job_ends_after_the_idle_timeout() -> None:
    workers = Workers("test-worker", idle_timeout=0)
    run(workers, lambda: None)
    wait_until(lambda: not threads_of("test-worker"))
    run(workers, lambda: None)  # and another one starts
    workers.close()
    workers.join(PATIENCE)


def test_a_job_given_at_the_last_moment_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The idle timeout expires just when the thread is taken from the idle list."""
    workers = Workers("test-worker", idle_timeout=0.2)
    run(workers, lambda: None)
    wait_for_idle(workers)
    done = threading.Event()
    with workers._lock:
        inbox = workers._idle.pop()
        time.sleep(0.4)
        inbox.put((done.set, ()))
    assert done.wait(PATIENCE)
    workers.close()
    workers.join(PATIENCE)


def test_an_exception_is_reported_and_the_thread_lives_on(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    seen: list[threading.Thread] = []

    def fail() -> None:
        seen.append(threading.current_thread())
        raise SystemExit(3)

    run(workers, fail)
    wait_for_idle(workers)
    run(workers, lambda: seen.append(threading.current_thread()))
    assert seen[0] is seen[1]
    assert reported[0].exc_type is SystemExit
    assert reported[0].thread is seen[0]


def test_an_idle_thread_keeps_nothing_of_its_last_job_alive(workers: Workers) -> None:
    class Thing:
        def method(self) -> None:
            pass

    thing = Thing()
    reference = weakref.ref(thing)
    run(workers, thing.method)
    wait_for_idle(workers)
    del thing
    gc.collect()
    assert reference() is None


def test_a_thread_that_cannot_start_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers("test-worker", limit=1)
    with monkeypatch.context() as patch:

        def fail(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="start new thread"):
            workers.submit(lambda: None)
    run(workers, lambda: None)
    workers.close()
    workers.join(PATIENCE)


def test_close_lets_a_busy_thread_finish_its_job(workers: Workers) -> None:
    release, done = threading.Event(), threading.Event()

    def job() -> None:
        release.wait(PATIENCE)
        done.set()

    workers.submit(job)
    workers.close()
    workers.join(0.01)
    assert len(threads_of("test-worker")) == 1
    release.set()
    assert done.wait(PATIENCE)


def interpose(workers: Workers, index: int, inbox: Any) -> None:
    """Puts something that acts like an inbox in the place of an idle thread's own."""
    workers._idle[index] = inbox


def make_idle(workers: Workers, count: int) -> None:
    """Lets it have so many idle threads."""
    together = threading.Barrier(count + 1)
    for _ in range(count):
        workers.submit(together.wait, PATIENCE)
    together.wait(PATIENCE)
    wait_for_idle(workers, count)


class Interrupted:
    """In place of an inbox: a Ctrl-C that comes when something is put into it."""

    def __init__(self, inbox: object) -> None:
        self.inbox: Any = inbox
        self.times = 0

    def put(self, job: object) -> None:
        self.times += 1
        if self.times == 1:
            raise KeyboardInterrupt
        self.inbox.put(job)


def test_an_interrupted_close_can_be_repeated(workers: Workers) -> None:
    """No thread is forgotten, wherever in the row of idle ones the Ctrl-C comes."""
    make_idle(workers, 4)
    interpose(workers, 1, Interrupted(workers._idle[1]))
    with pytest.raises(KeyboardInterrupt):
        workers.close()
    assert len(workers._idle) == 4
    workers.close()
    workers.join(PATIENCE)
    assert threads_of("test-worker") == []


def test_an_idle_thread_that_is_just_being_told_to_end_gets_no_job(workers: Workers) -> None:
    run(workers, lambda: None)
    wait_for_idle(workers)
    interpose(workers, 0, Interrupted(workers._idle[0]))
    with pytest.raises(KeyboardInterrupt):
        workers.close()
    run(workers, lambda: None)
    workers.close()


def test_a_signal_handler_may_close_in_the_middle_of_closing(workers: Workers) -> None:
    make_idle(workers, 3)

    class Closing(Interrupted):
        def put(self, job: object) -> None:
            self.times += 1
            if self.times == 1:
                workers.close()
            self.inbox.put(job)

    interpose(workers, 1, Closing(workers._idle[1]))
    workers.close()
    workers.join(PATIENCE)
    assert threads_of("test-worker") == []


def test_a_job_that_waits_for_a_thread_that_ends_is_run() -> None:
    workers = Workers("test-worker", limit=1)
    run(workers, lambda: None)
    wait_for_idle(workers)
    done = threading.Event()
    with workers._lock:  # the thread has been told to end, and still counts
        workers.close()
        workers.submit(done.set)
    assert done.wait(PATIENCE)
    workers.join(PATIENCE)
    assert threads_of("test-worker") == []


def test_a_thread_whose_job_was_interrupted_on_the_way_ends_when_it_is_idle_too_long() -> None:
    workers = Workers("test-worker", idle_timeout=0.2)
    run(workers, lambda: None)
    wait_for_idle(workers)
    with workers._lock:
        interpose(workers, 0, Interrupted(None))
        with pytest.raises(KeyboardInterrupt):
            workers.submit(lambda: None)
    wait_until(lambda: threads_of("test-worker") == [])
    assert workers._threads == set()


def test_a_hook_that_fails_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers("test-worker", limit=1)

    def fail(*_: object) -> None:
        raise ValueError("the program's own hook")

    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", fail)
        run(workers, lambda: fail())
        run(workers, lambda: None)
    workers.close()
    workers.join(PATIENCE)
    assert threads_of("test-worker") == []


def test_join_waits_neither_for_its_own_thread_nor_for_those_to_spare() -> None:
    workers = Workers("test-worker")
    release, done = threading.Event(), threading.Event()
    stuck: list[threading.Thread] = []

    def hang() -> None:
        stuck.append(threading.current_thread())
        release.wait(PATIENCE)

    def job() -> None:
        wait_until(lambda: bool(stuck))
        workers.close()
        workers.join(PATIENCE, set(stuck))
        done.set()

    workers.submit(hang)
    workers.submit(job)
    assert done.wait(PATIENCE / 2)
    release.set()
    workers.join(PATIENCE)
    assert threads_of("test-worker") == []
