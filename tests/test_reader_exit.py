"""What calls of daemon threads do while the interpreter exits (:mod:`syncws.reader`)."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from syncws import reader as reader_module


def test_a_daemon_thread_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    class Clock:
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            monkeypatch.setattr(reader_module, "_exiting", False)

    monkeypatch.setattr(reader_module, "time", Clock())
    monkeypatch.setattr(reader_module, "_exiting", True)
    thread = threading.Thread(target=reader_module.wait_for_exit)
    thread.start()
    thread.join(10)
    assert slept == [1]


def test_the_main_thread_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_exiting", True)
    reader_module.wait_for_exit()
