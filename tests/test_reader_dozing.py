"""When the reader thread sleeps, and when it only dozes until the next tick."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
from pairing import eventually

from syncws import reader as reader_module
from syncws.frames import lib
from syncws.reader import READ, Reader


def test_a_reader_that_is_busy_dozes_until_the_next_tick(nothing_left: object) -> None:
    reader = Reader("test-reader")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        modes: list[int] = []
        now = [time.monotonic()]
        sleep = lib.syncws_mailbox_sleep

        class Noted:
            def __getattr__(self, name: str) -> Any:
                return getattr(lib, name)

            def syncws_mailbox_sleep(self, mailbox: Any, mode: int) -> int:
                if mailbox == reader.mailbox:
                    modes.append(mode)
                return int(sleep(mailbox, mode))

        class Clock:
            """Stands still: the event comes before the next tick, however late it is."""

            def __getattr__(self, name: str) -> Any:
                return getattr(time, name)

            def monotonic(self) -> float:
                return now[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reader_module, "lib", Noted())
            patch.setattr(reader_module, "time", Clock())
            seen = threading.Event()
            reader.call_soon(reader.watch, ours.fileno(), READ, lambda ready: seen.set())
            theirs.send(b"x")
            assert seen.wait(30)
            # After the event it dozes, and after a tick without news it sleeps.
            before = len(modes)
            assert eventually(lambda: len(modes) > before, 30)
            assert modes[before] == lib.SYNCWS_DOZING
            now[0] += reader_module.TICK
            assert eventually(lambda: modes[-1] == lib.SYNCWS_ASLEEP, 30), modes
        reader.call_soon(reader.unwatch, ours.fileno())
    reader.close()


def test_an_idle_reader_sleeps(nothing_left: object) -> None:
    reader = Reader("test-reader")
    waits: list[float] = []
    wait = reader._poller.wait

    def counted(timeout: float) -> list[tuple[int, int]]:
        waits.append(timeout)
        return wait(timeout)

    reader._poller.wait = counted  # type: ignore[method-assign]  # to count
    done = threading.Event()
    reader.call_soon(done.set)
    assert done.wait(30)

    def sleeps() -> bool:
        before = len(waits)
        time.sleep(0.5)
        return len(waits) <= before + 1

    # It may doze until the next tick, and the wake-up for the call may come after the call.
    assert eventually(sleeps)
    reader.close()
