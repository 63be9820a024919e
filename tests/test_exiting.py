"""What calls of daemon threads do while the interpreter exits (:mod:`syncws.exiting`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from syncws import exiting
from syncws.exceptions import ConnectionClosedError

PATIENCE = 10.0


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[threading.ExceptHookArgs]]:
    """What threads would print; the interpreter exits as long as the test says."""
    seen: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setattr(exiting, "_over_at", None)
    yield seen
    seen.clear()  # it keeps threads


def wait(daemon: bool) -> threading.Thread:
    thread = threading.Thread(target=exiting.wait_for_exit, daemon=daemon)
    thread.start()
    return thread


def test_nobody_waits_before(printed: list[threading.ExceptHookArgs]) -> None:
    assert not exiting.exiting()
    exiting.sit_out_exit()
    thread = wait(daemon=True)
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.usefixtures("printed")
def test_a_daemon_thread_waits_for_its_end_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = time.monotonic()
    exiting.begin_exit()
    assert exiting.exiting()
    first, second = wait(daemon=True), wait(daemon=True)
    for thread in (first, second):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert time.monotonic() - begun >= exiting.GRACE
    # Moments for all of them together: what holds a lock may be the next call of each.
    exiting.wait_for_exit()
    monkeypatch.setattr(time, "sleep", None)
    thread = wait(daemon=True)
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.usefixtures("printed")
def test_threads_that_are_waited_for_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exiting, "_over_at", time.monotonic() + 3600)
    exiting.wait_for_exit()  # the main thread
    thread = wait(daemon=False)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def raised(error: BaseException, daemon: bool) -> None:
    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail, daemon=daemon)
    thread.start()
    thread.join(PATIENCE)


def test_a_daemon_thread_prints_no_end_of_a_connection(
    printed: list[threading.ExceptHookArgs],
) -> None:
    closed, other = ConnectionClosedError(None, None), ValueError()
    raised(closed, daemon=True)
    exiting.begin_exit()
    raised(closed, daemon=True)
    raised(closed, daemon=False)
    raised(other, daemon=True)
    threading.excepthook(threading.ExceptHookArgs((type(closed), closed, None, None)))
    assert [arguments.exc_value for arguments in printed] == [closed, closed, other, closed]
