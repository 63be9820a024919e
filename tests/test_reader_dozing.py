"""When the reader thread sleeps, and when it only dozes until the next tick."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from syncws import reader as reader_module
from syncws.frames import lib
from syncws.reader import READ, Reader


def test_a_reader_that_is_busy_dozes_until_the_next_tick(nothing_left: object) -> None:
    reader = Reader("test-reader")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        modes: list[int] = []
        sleep = lib.syncws_mailbox_sleep

        class Noted:
            def __getattr__(self, name: str) -> Any:
                return getattr(lib, name)

            def syncws_mailbox_sleep(self, mailbox: Any, mode: int) -> int:
                modes.append(mode)
                return int(sleep(mailbox, mode))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reader_module, "lib", Noted())
            seen = threading.Event()
            reader.call_soon(reader.watch, ours.fileno(), READ, lambda ready: seen.set())
            theirs.send(b"x")
            assert seen.wait(30)
            # After the event it dozes, and after a tick without news it sleeps.
            deadline = time.monotonic() + 30
            while modes[-2:] != [lib.SYNCWS_DOZING, lib.SYNCWS_ASLEEP]:
                assert time.monotonic() < deadline, modes
                time.sleep(0.001)
        reader.call_soon(reader.unwatch, ours.fileno())
    reader.close()
