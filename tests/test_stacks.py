"""Stacks of other threads: what must not happen while they are followed."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from syncws import stacks
from syncws.stacks import stacks_of

PATIENCE = 10.0


@pytest.fixture
def thread() -> Iterator[threading.Thread]:
    """One that waits in hold()."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)
    yield thread
    release.set()
    thread.join(PATIENCE)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, float]]:
    """Whether garbage is collected, and the switch interval, each time that threads are listed."""
    current_frames = sys._current_frames
    seen: list[tuple[bool, float]] = []

    def noted() -> dict[int, FrameType]:
        seen.append((gc.isenabled(), sys.getswitchinterval()))
        return current_frames()

    monkeypatch.setattr(sys, "_current_frames", noted)
    return seen


def test_the_stack_of_a_thread(thread: threading.Thread) -> None:
    ended = threading.Thread()
    found = stacks_of([thread, ended])
    assert list(found) == [thread]
    lines = found[thread]
    assert 0 < lines.index("in run\n") < lines.index("in hold\n")
    assert "release.wait(PATIENCE)" in lines


def test_nobody_is_looked_for_where_nobody_is_asked_for(seen: list[object]) -> None:
    assert stacks_of([]) == {}
    assert seen == []


@pytest.mark.parametrize("collects", [True, False])
def test_nothing_is_collected_while_the_threads_are_listed(
    thread: threading.Thread, seen: list[tuple[bool, float]], collects: bool
) -> None:
    """On Python 3.11 a finalizer that lets go of the interpreter's lock there stops everything."""
    if not collects:
        gc.disable()
    try:
        assert "in hold" in stacks_of([thread])[thread]
        assert [enabled for enabled, _ in seen] == [False]
        assert gc.isenabled() is collects
    finally:
        gc.enable()


@pytest.mark.parametrize("alone", [True, False])
def test_nobody_else_runs_while_a_stack_is_followed(
    thread: threading.Thread, seen: list[tuple[bool, float]], alone: bool
) -> None:
    """On Python 3.11 a thread that returns meanwhile crashes the interpreter."""
    interval = sys.getswitchinterval()
    if not alone:  # another thread is just doing this, and sets it back
        stacks._interval_lock.acquire()
    try:
        assert "in hold" in stacks_of([thread])[thread]
    finally:
        if not alone:
            stacks._interval_lock.release()
    assert [set_to for _, set_to in seen] == [1.0 if alone else interval]
    assert sys.getswitchinterval() == interval
    assert not stacks._interval_lock.locked()


def test_the_switch_interval_of_another_thread_is_not_kept(
    thread: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gets the lock just as another one has set the interval back sets it back to that."""
    interval = sys.getswitchinterval()

    class Racing:
        def acquire(self, blocking: bool) -> bool:
            sys.setswitchinterval(interval)  # the other one leaves
            return True

        def release(self) -> None:
            """Nothing is held."""

    monkeypatch.setattr(stacks, "_interval_lock", Racing())
    sys.setswitchinterval(1.0)  # the other one is in the middle of it
    try:
        assert stacks_of([thread])
        assert sys.getswitchinterval() == interval
    finally:
        sys.setswitchinterval(interval)
