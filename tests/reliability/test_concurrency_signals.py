"""Group G, signals: Ctrl-C at any moment (G7x), handlers that use the connection (G8x).

The programs that are interrupted run in processes of their own; the server is here, and
must survive whatever they leave behind.
"""

from __future__ import annotations

import json

import pytest

from . import launch
from .subject import Contexts, Subject


def url(subject: Subject) -> str:
    """Of an echo server that takes what the programs send."""
    return str(subject.server(max_size=None).url)


def check_counts(output: str, count: int) -> dict[str, int]:
    """The program's report: it was interrupted as often as asked for."""
    report: dict[str, int] = json.loads(output)
    assert report["interrupts"] >= count
    return report


@pytest.fixture(params=["ws", "wss"])
def server(request: pytest.FixtureRequest, contexts: Contexts) -> Subject:
    """An echo server; interrupted clients end however they like."""
    subject = Subject("server", contexts if request.param == "wss" else None)
    request.addfinalizer(subject.close)
    return subject


@pytest.mark.timeout(launch.storm_timeout(60))
def test_fault_19_G7x_interrupt_at_a_random_moment(server: Subject) -> None:
    """No lock is left, no message is mixed up; only a message in the middle may cost the
    connection, and then every call says so at once."""
    count = launch.storm(5000)
    output = launch.run(
        "interrupted", url(server), count, 1, "once", timeout=launch.storm_timeout(50)
    )
    report = check_counts(output, count)
    # Messages in the middle: about a third of the calls interrupted are of this kind.
    assert report.get("broken", 0) <= count / 2, report
    server.check_alive(max_size=None)


@pytest.mark.timeout(launch.storm_timeout(60))
def test_G7x_storm_of_interrupts(server: Subject) -> None:
    """Ctrl-C again and again: also in what the library does because of the first one."""
    count = launch.storm(5000)
    output = launch.run(
        "interrupted", url(server), count, 2, "storm", timeout=launch.storm_timeout(50)
    )
    check_counts(output, count)
    server.check_alive(max_size=None)


@pytest.mark.timeout(launch.storm_timeout(60))
def test_G7x_asynchronous_exceptions_in_a_thread(server: Subject) -> None:
    """``PyThreadState_SetAsyncExc``, as test runners and debuggers use it."""
    count = launch.storm(2000)
    output = launch.run(
        "interrupted", url(server), count, 3, "exception", timeout=launch.storm_timeout(50)
    )
    check_counts(output, count)
    server.check_alive(max_size=None)


@pytest.mark.timeout(launch.storm_timeout(60))
def test_G8x_signal_handler_uses_the_connection(server: Subject) -> None:
    """It succeeds or gets ConcurrencyError; it never waits for its own thread."""
    count = launch.storm(10_000)
    output = launch.run("reentrant", url(server), count, 1, "use", timeout=launch.storm_timeout(50))
    report = json.loads(output)
    assert report["signals"] >= count
    for call in ("send", "send long", "ping", "recv"):
        assert report.get(f"{call}: done", 0) > 0, report
    server.check_alive(max_size=None)


@pytest.mark.timeout(launch.storm_timeout(60))
def test_G8x_signal_handler_closes_the_connection(server: Subject) -> None:
    """``close()`` inside of another call returns, and the connection ends."""
    count = launch.storm(4000)
    output = launch.run(
        "reentrant", url(server), count, 2, "close", timeout=launch.storm_timeout(50)
    )
    report = json.loads(output)
    assert report["close: done"] >= count, report
    server.check_alive(max_size=None)
