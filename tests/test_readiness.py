"""Which descriptors are ready; ``tests/test_reader.py`` runs the reader on each of these."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest

from syncws.readiness import READ, WRITE, EpollPoller, PollPoller, new_poller

Poller = EpollPoller | PollPoller


@pytest.fixture(params=[EpollPoller, PollPoller] if hasattr(select, "epoll") else [PollPoller])
def poller(request: pytest.FixtureRequest) -> Iterator[Poller]:
    poller: Poller = request.param()
    yield poller
    poller.close()


def test_the_poller_of_this_platform() -> None:
    expected = EpollPoller if hasattr(select, "epoll") else PollPoller
    poller = new_poller()
    assert type(poller) is expected
    poller.close()
    PollPoller().close()


def test_readiness_is_reported_once(poller: Poller) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        poller.arm(ours.fileno(), READ | WRITE)
        assert poller.wait(1.0) == [(ours.fileno(), WRITE)]
        theirs.send(b"x")
        assert poller.wait(0.0) == []
        poller.arm(ours.fileno(), READ)
        assert poller.wait(1.0) == [(ours.fileno(), READ)]
        poller.arm(ours.fileno(), READ)
        poller.forget(ours.fileno())


def test_what_is_always_watched_is_reported_each_time(poller: Poller) -> None:
    reading, writing = os.pipe()
    try:
        poller.watch_always(reading)
        assert poller.wait(0.0) == []
        os.write(writing, b"x")
        assert poller.wait(1.0) == poller.wait(1.0) == [(reading, READ)]
    finally:
        os.close(reading)
        os.close(writing)


def test_an_end_is_readiness_for_everything_asked_for(poller: Poller) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        poller.arm(ours.fileno(), READ)
        [(descriptor, ready)] = poller.wait(1.0)
        assert descriptor == ours.fileno()
        assert ready & READ
