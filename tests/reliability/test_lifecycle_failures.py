"""Group G, what the operating system refuses: accept and threads (G11x), memory (G17x),
every other system call (G18x); faults 1 to 3 and 24."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from . import launch
from . import peer as wire
from .subject import Contexts, Subject, settle

EXHAUSTED = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]
PASSING = ["ECONNABORTED", "EPERM", "EINTR", "EPROTO", "EAGAIN"]


class Victim:
    """A server in a process of its own, under ``faults.c``."""

    def __init__(self, program: launch.Program) -> None:
        self.program = program
        self.address = "127.0.0.1", int(program.read_line())

    def ask(self, command: str) -> Any:
        """Its answer to a command."""
        self.program.tell(command)
        return json.loads(self.program.read_line())

    def status(self) -> int | None:
        """What a new client is told; ``None``: its connection is closed without a word."""
        with wire.dial(self.address) as peer:
            peer.send(wire.request(f"{self.address[0]}:{self.address[1]}"))
            with contextlib.suppress(AssertionError):
                return wire.status_code(wire.read_head(peer))
        return None

    def check_alive(self, within: float = 1.0) -> None:
        """The next client is served in time."""
        started = time.monotonic()
        with wire.connect(self.address) as peer:
            peer.send_frame(wire.TEXT, b"still there?")
            frame = peer.read_frame()
            assert frame is not None
            assert frame.payload == b"still there?"
            assert time.monotonic() - started < within
            peer.send_close()
            peer.read_frames()

    def usage(self) -> tuple[int, int]:
        """Descriptors and connections."""
        state = self.ask("state")
        return state["descriptors"], state["connections"]

    def baseline(self) -> tuple[int, int]:
        """The same, when the last connection has gone."""
        settle(lambda: self.usage()[1], 0)
        time.sleep(0.2)
        return self.usage()

    def expect_no_more(self, before: tuple[int, int]) -> None:
        """Demands the baseline again; something may have gone only after that was taken."""

        def no_more() -> bool:
            descriptors, connections = self.usage()
            return descriptors <= before[0] and connections <= before[1]

        settle(no_more, True)

    def end(self) -> None:
        """It shuts down in time, and exits without a word."""
        answer = self.ask("shutdown")
        assert answer["stuck"] == 0
        assert answer["took"] < 3
        self.program.expect_end()


@pytest.fixture
def victim() -> Iterator[Victim]:
    """A server that has served somebody, so that all it keeps is there."""
    with launch.Program("serving", "faults", faults=True) as program:
        server = Victim(program)
        server.check_alive(5)
        yield server


def test_fault_01_G11x_no_descriptors(victim: Victim) -> None:
    """Peers are told 503 or wait; no spinning; service within a second of their return."""
    before = victim.baseline()
    with wire.connect(victim.address) as old:
        victim.ask("exhaust")
        assert victim.status() == 503
        started = time.monotonic()
        victim.ask("order epoll_wait 1000000 EINTR 1")
        with wire.dial(victim.address), wire.dial(victim.address):
            time.sleep(1.0)
            # Ten a second, two for each peer turned away, and those of our commands.
            waits = victim.ask("seen epoll_wait")
            assert waits <= 30 + 10 * (time.monotonic() - started)
            # Who is connected is served on.
            old.send_frame(wire.TEXT, b"not me")
            frame = old.read_frame()
            assert frame is not None
            assert frame.payload == b"not me"
        victim.ask("release")
        settle(victim.status, 101, within=1.0)
        victim.check_alive()
    victim.expect_no_more(before)
    assert len(victim.ask("state")["warnings"]) == 1
    victim.end()


@pytest.mark.parametrize("name", [*EXHAUSTED, *PASSING])
def test_fault_03_G11x_accept_fails(victim: Victim, name: str) -> None:
    """Whatever accept() reports, once or for a while, the loop goes on."""
    before = victim.baseline()
    for times in (1, 3, 8):
        victim.ask(f"order accept 1 {name} {times}")
        deadline = time.monotonic() + 1 + 0.1 * times
        while (status := victim.status()) != 101:
            assert status in (503, None)
            assert time.monotonic() < deadline, "the server is dead"
        victim.ask("cancel accept")
        victim.check_alive()
    victim.expect_no_more(before)
    victim.end()


@pytest.mark.parametrize("times", [1, 3])
def test_fault_02_G11x_no_thread_can_be_started(victim: Victim, times: int) -> None:
    """One 503 for each; the loop lives, and shutdown() works."""
    refusals = []
    with contextlib.ExitStack() as stack:
        victim.ask(f"order pthread_create 1 EAGAIN {times}")
        # They stay: each needs a thread, and at most two are idle.
        for _ in range(times + 2):
            peer = stack.enter_context(wire.dial(victim.address))
            peer.send(wire.request(f"{victim.address[0]}:{victim.address[1]}"))
            refusals.append(wire.status_code(wire.read_head(peer)))
        victim.ask("cancel pthread_create")
    # The warning about it needs a thread, too, and takes some of the failures.
    assert set(refusals) <= {503, 101}
    assert 503 in refusals
    victim.check_alive()
    victim.end()


CALLS = {
    "recv": ["ECONNRESET", "EIO", "ENOMEM", "EINTR", "EAGAIN"],
    "recvmsg": ["ECONNRESET", "EIO", "ENOMEM", "EINTR", "EAGAIN"],
    "send": ["EPIPE", "ECONNRESET", "ENOBUFS", "EIO", "EINTR", "EAGAIN"],
    "sendmsg": ["EPIPE", "ECONNRESET", "ENOBUFS", "EIO", "EINTR", "EAGAIN"],
    "poll": ["EINTR", "ENOMEM"],
    "epoll_wait": ["EINTR"],
    "epoll_ctl": ["ENOMEM", "ENOSPC"],
    "setsockopt": ["EINVAL", "ENOPROTOOPT", "ENOBUFS"],
    "getsockname": ["ENOBUFS", "EINVAL"],
    "getpeername": ["ENOTCONN", "ENOBUFS"],
    "shutdown": ["ENOTCONN", "EINVAL"],
    "malloc": ["ENOMEM"],
}


def converse(address: tuple[str, int]) -> None:
    """Small and big messages, fragments, a ping; whatever fails, it must end."""
    with contextlib.suppress(AssertionError, OSError, TypeError), wire.connect(address) as peer:
        for payload in (b"x", bytes(70_000), bytes(200_000)):
            peer.send_frame(wire.BINARY, payload)
            frame = peer.read_frame(2)
            assert frame is not None
            assert frame.opcode == wire.CLOSE or frame.payload == payload
        peer.send_frame(wire.PING, b"x")
        peer.read_frame(2)
        peer.send_close()
        peer.read_frames(4)


@pytest.mark.parametrize("call", CALLS)
def test_fault_24_G18x_server_meets_a_failing_call(victim: Victim, call: str) -> None:
    """Each call fails once: this connection may end, nobody else notices, nothing leaks."""
    if call == "malloc":
        victim.ask("watch")
    before = victim.baseline()
    happened = 0
    for name in CALLS[call]:
        for nth in range(1, launch.storm(80) + 1):
            victim.ask(f"order {call} {nth} {name} 1")
            started = time.monotonic()
            converse(victim.address)
            assert time.monotonic() - started < 6
            if not victim.ask(f"cancel {call}"):
                break
            happened += 1
            victim.check_alive()
            victim.expect_no_more(before)
    # Not every path uses each of them: TLS and SYNCWS_IO=python do without some.
    if call in ("recv", "epoll_wait", "malloc"):
        assert happened
    victim.end()


@pytest.fixture(params=["ws", "wss"])
def echo_server(request: pytest.FixtureRequest, contexts: Contexts) -> Subject:
    """For a client whose calls fail."""
    subject = Subject("server", contexts if request.param == "wss" else None)
    request.addfinalizer(subject.close)
    return subject


@pytest.mark.timeout(launch.storm_timeout(60))
def test_fault_24_G18x_client_meets_a_failing_call(echo_server: Subject) -> None:
    """Every call, twelve errors: a documented exception or none, in time, and no leak."""
    output = launch.run(
        "failing_client",
        echo_server.server().url,
        "calls",
        launch.storm(60),
        faults=True,
        timeout=launch.storm_timeout(55),
    )
    report = json.loads(output)
    assert report.pop("unexpected") == []
    assert sum(report.values()) > 30, report
    assert report["ConnectionClosedError"] > 5, report
    echo_server.check_alive()


def test_fault_24_G17x_client_without_memory(echo_server: Subject) -> None:
    """Every allocation of the C core fails once: MemoryError, or the connection is closed."""
    output = launch.run(
        "failing_client", echo_server.server().url, "memory", 1000, faults=True, timeout=50
    )
    report = json.loads(output)
    assert report.pop("unexpected") == []
    # The connection itself; then what it queues and what it collects.
    assert report["MemoryError"] >= 1
    assert report["ConnectionClosedError"] >= 1
    echo_server.check_alive()
