"""How a thread waits: in slices where signals are handled, and for news that comes twice."""

from __future__ import annotations

import time

import pytest
from pairing import PATIENCE, InThread, Pair

from syncws import waiters as waiters_module
from syncws.waiters import Waiter, wait_milliseconds


def test_waits_are_cut_into_slices_in_the_main_thread_only() -> None:
    assert wait_milliseconds(None) == 200
    assert wait_milliseconds(time.monotonic() + 100) == 200
    assert 0 < wait_milliseconds(time.monotonic() + 0.05) <= 51
    assert wait_milliseconds(time.monotonic() - 1) == 0
    assert InThread(wait_milliseconds, None).result() == 3_600_000
    assert 99_000 < InThread(wait_milliseconds, time.monotonic() + 100).result() <= 100_001


def test_after_fork_the_forking_thread_is_the_main_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiters_module, "_main_thread_id", waiters_module._main_thread_id)

    def fork() -> int:
        waiters_module.adopt_main_thread()
        return wait_milliseconds(None)

    assert InThread(fork).result() == 200


def test_a_waiter_survives_being_woken_twice() -> None:
    with Pair() as pair:
        with Waiter((pair.channel,)) as waiter:
            waiter.wake()
            waiter.wake()
            waiter.wait(PATIENCE)
            start = time.monotonic()
            waiter.wait(0.05)
            assert time.monotonic() - start >= 0.05
            pair.channel.notify()
        assert not pair.channel.waiters
