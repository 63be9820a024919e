"""ThreadingServer: threads, limits, faults of the system, and processes."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from started import Meeting, Start, check_alive, echo, handler_threads, observed, servers
from talking import PATIENCE, RawClient, masked_frame, wait_until
from upgrading import request

import syncws
from syncws import accepting
from syncws.opening import Opening


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> Iterator[None]:
    with observed(nothing_left):
        yield


@pytest.fixture
def start(clean: None) -> Iterator[Start]:
    with servers() as start:
        yield start


# -- threads and limits -----------------------------------------------------------


def test_no_thread_before_the_request_is_whole(start: Start) -> None:
    server = start()
    with RawClient(server.address) as raw:
        raw.send(request()[:-1])
        time.sleep(0.1)
        assert handler_threads() == []
        raw.send(request()[-1:])
        raw.receive_head()
        assert len(handler_threads()) == 1


def test_one_thread_and_one_descriptor_for_an_idle_connection(start: Start) -> None:
    server = start(Meeting().receive)
    check_idle = [RawClient(server.address).open() for _ in range(3)]
    threads, files = threading.active_count(), len(os.listdir("/dev/fd"))
    check_idle += [RawClient(server.address).open() for _ in range(10)]
    wait_until(lambda: len(server.connections) == 13)
    assert len(handler_threads()) == 13
    # What other tests have left may end meanwhile.
    assert threading.active_count() - threads <= 10
    assert len(os.listdir("/dev/fd")) - files <= 20  # both ends are in this process
    for raw in check_idle:
        raw.sock.close()


def test_threads_are_reused(start: Start) -> None:
    names = []

    def handler(ws: syncws.Connection) -> None:
        names.append(threading.current_thread().name)

    server = start(handler)
    for _ in range(5):
        with RawClient(server.address) as raw:
            raw.open().answer_close()
        wait_until(lambda: bool(server._handlers._idle))
    assert set(names) == {"syncws-handler-1"}


def test_beyond_max_connections_peers_are_told_503(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.hold, max_connections=2)
    with RawClient(server.address) as first, RawClient(server.address) as second:
        first.open()
        second.open()
        with RawClient(server.address) as third:
            third.send(request())
            third.expect_refusal(503)
        with pytest.raises(syncws.InvalidStatus, match="503"):
            syncws.connect(server.url)
    meeting.release.set()
    wait_until(lambda: not server._sessions)
    with RawClient(server.address) as raw:
        raw.open()


def test_a_refusal_that_a_handler_thread_decided(start: Start) -> None:
    server = start(origins=["https://a.example"])
    with RawClient(server.address) as raw:
        raw.send(request(Origin="https://b.example"))
        raw.expect_refusal(403)
    with RawClient(server.address) as raw:
        raw.send(request("POST / HTTP/1.1"))
        raw.expect_refusal(405)
    wait_until(lambda: not server._openings and not server._sessions)


def test_connections_are_those_that_are_open(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.hold)
    with RawClient(server.address) as raw:
        raw.open()
        meeting.wait_for(1)
        assert server.connections == set(meeting.connections)
        raw.send(masked_frame(8, b"\x03\xe8"))
        wait_until(lambda: server.connections == set())
        assert len(server._sessions) == 1  # its handler goes on
    meeting.release.set()


def test_a_connection_is_held_until_its_handler_ends(start: Start) -> None:
    """Also if the handler lets go of it."""

    def handler(ws: syncws.Connection) -> None:
        del ws
        time.sleep(0.1)

    server = start(handler)
    with RawClient(server.address) as raw:
        assert raw.open().answer_close() == 1000


def test_a_handler_that_fails_ends_its_connection_only(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(ws: syncws.Connection) -> None:
        if ws.recv() == "exit":
            sys.exit(3)
        raise RuntimeError

    server = start(handler)
    with caplog.at_level(logging.CRITICAL, "syncws.server"):
        for word in (b"exit", b"fail", b"exit"):
            with RawClient(server.address) as raw:
                raw.open().send(masked_frame(1, word))
                assert raw.answer_close() == 1011


# -- faults of the system ---------------------------------------------------------


def test_f1_descriptors_run_out(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """For real: the limit is lowered to what is open."""
    server = start()
    check_alive(server)
    wait_until(lambda: not server._sessions)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [socket.socket() for _ in range(5)]
    wait_until(lambda: server._acceptor is not None and server._acceptor._reserve is not None)
    highest = max(int(name) for name in os.listdir("/dev/fd") if int(name) < 3000)
    fillers = []
    with contextlib.suppress(OSError):
        while True:
            filler = os.dup(0)
            fillers.append(filler)
            if filler > highest:
                break
    with caplog.at_level(logging.WARNING, "syncws.server"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
            for sock in waiting:
                sock.settimeout(PATIENCE)
                sock.connect(server.address)
            assert waiting[0].recv(100).startswith(b"HTTP/1.1 503 ")
            time.sleep(0.5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
    started = time.monotonic()
    check_alive(server)
    assert time.monotonic() - started < 5
    for sock in waiting:
        sock.close()
    messages = [record.getMessage() for record in caplog.records]
    assert len([text for text in messages if "cannot accept connections" in text]) == 1


def test_f2_no_thread_can_be_started(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    with monkeypatch.context() as patch:

        def fail(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", fail)
        for _ in range(3):
            with RawClient(server.address) as raw:
                raw.send(request())
                raw.expect_refusal(503)
    check_alive(server)
    assert server.shutdown() == []


def test_g18x_a_peer_whose_socket_is_broken_already(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()

    def fail(self: Any) -> None:
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(Opening, "start", fail)
        with RawClient(server.address) as raw:
            assert raw.receive_rest() == b""
    check_alive(server)


def test_d12_slow_peers_do_not_slow_the_others_down(start: Start) -> None:
    server = start(open_timeout=5)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(RawClient(server.address)) for _ in range(200)]
        for raw in slow:
            raw.send(b"G")
        with syncws.connect(server.url) as ws:
            times = []
            for number in range(100):
                slow[number].send(b"E")
                started = time.monotonic()
                ws.send("x")
                assert ws.recv(PATIENCE) == "x"
                times.append(time.monotonic() - started)
            assert sorted(times)[90] < 0.05
        assert len(handler_threads()) == 1


def test_d12_the_opening_handshake_has_one_deadline(start: Start) -> None:
    server = start(open_timeout=0.3)
    started = time.monotonic()
    with RawClient(server.address) as raw, contextlib.suppress(OSError):
        while time.monotonic() - started < PATIENCE:
            raw.send(b"G")
            time.sleep(0.02)
    assert 0.2 < time.monotonic() - started < 8


# -- starting and waiting ---------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_serving_in_the_foreground() -> None:
    server = syncws.serve(echo, "127.0.0.1", close_timeout=1)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    check_alive(server)
    server.start()  # it serves already
    assert thread.is_alive()
    server.shutdown()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.usefixtures("clean")
def test_g19x_shut_down_before_it_serves() -> None:
    server = syncws.serve(echo, "127.0.0.1")
    assert server.shutdown() == []
    server.serve_forever()  # returns at once
    with pytest.raises(RuntimeError, match="shut down"):
        server.start()
    with pytest.raises(ConnectionRefusedError):
        syncws.connect(server.url)


@pytest.mark.usefixtures("clean")
def test_an_interrupt_ends_serve_forever_at_once() -> None:
    main = threading.main_thread().ident
    assert main is not None
    interrupted = [0.0]

    def interrupt() -> None:
        # Not sooner: it would hit whatever comes before.
        wait_until(lambda: sys._current_frames()[main].f_code.co_name == "serve_forever")
        interrupted[0] = time.monotonic()
        signal.pthread_kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), syncws.serve(echo, "127.0.0.1") as server:
        thread = threading.Thread(target=interrupt)
        thread.start()
        server.serve_forever()
    assert time.monotonic() - interrupted[0] < 3
    thread.join()
    assert server.fileno() == -1


# -- processes --------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_g9x_a_forked_child_leaves_the_server_alone() -> None:
    with syncws.serve(echo, "127.0.0.1", close_timeout=1) as server:
        with RawClient(server.address) as raw:
            raw.open()
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    with pytest.raises(RuntimeError, match="in the parent"):
                        server.start()
                    status = 0 if server.shutdown() == [] and server.fileno() == -1 else 1
                    server.serve_forever()  # returns
                    os._exit(status)
                os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            raw.send(masked_frame(1, b"hello"))
            assert raw.receive_frame() == (1, b"hello")
        check_alive(server)


@pytest.mark.usefixtures("clean")
def test_g9x_a_server_that_does_not_serve_yet_may_serve_in_a_child() -> None:
    server = syncws.serve(echo, "127.0.0.1", close_timeout=1)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            server.start()
            time.sleep(PATIENCE)
        os._exit(0)
    try:
        check_alive(server)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    server.shutdown()


PROGRAM = """
    import sys, threading, syncws

    def handler(ws):
        ready.set()
        for message in ws:
            pass

    ready = threading.Event()
    server = syncws.serve(handler, "127.0.0.1")
    server.start()
    ws = syncws.connect(server.url)
    ready.wait(10)
    {end}
"""


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "server.shutdown(timeout=0.2)"])
def test_g10x_a_program_ends_with_a_server_open(end: str) -> None:
    program = textwrap.dedent(PROGRAM).format(end=end)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - started < 5


def test_the_pause_of_an_exhausted_server_is_a_tenth_of_a_second() -> None:
    """RELIABILITY: at most ten wake-ups a second."""
    assert accepting.PAUSE >= 0.1
