"""What a reader does for those who hold the interpreter's exit up (:mod:`syncws.reader`)."""

from __future__ import annotations

import threading
import time

import pytest

from syncws import exiting
from syncws import reader as reader_module
from syncws.reader import Reader

PATIENCE = 10.0


class Attached:
    """What a reader looks after, here a connection that knows when it was ended."""

    def __init__(self) -> None:
        self.token = reader_module.new_token()
        self.looked = threading.Event()
        self.ended: list[float] = []

    def look(self) -> None:
        self.looked.set()

    def leave_at_exit(self) -> None:
        """It has nobody to tell."""

    def after_fork(self) -> None:
        """Nobody forks."""

    def abort(self, cause: BaseException | None, explanation: str) -> None:
        assert cause is None
        assert explanation == "the interpreter exits"
        self.ended.append(time.monotonic())


@pytest.mark.parametrize("exits", [True, False])
def test_connections_outlast_the_beginning_of_the_exit_by_moments(
    monkeypatch: pytest.MonkeyPatch, exits: bool
) -> None:
    reader = Reader("test-reader")
    attached = Attached()
    reader.attach(attached)
    started = threading.Event()
    reader.call_soon(started.set)
    assert started.wait(PATIENCE)
    over_at = time.monotonic() + 0.2
    monkeypatch.setattr(exiting, "_over_at", over_at if exits else None)
    reader.leave_at_exit()
    thread = reader.thread
    assert thread is not None
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(attached.ended) == exits
    assert all(moment >= over_at for moment in attached.ended)
    reader.close()
