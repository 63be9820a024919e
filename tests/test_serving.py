"""ThreadingServer: threads, limits, faults of the system, and shutting down."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from talking import PATIENCE, RawClient, masked_frame, wait_until
from upgrading import request

import syncws
from syncws import accepting, reader, serving

Handler = Callable[[syncws.Connection], object]


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message)


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> Iterator[None]:
    syncws.client.client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()
    reader.failures.clear()
    yield
    assert list(reader.failures) == []


Start = Callable[..., syncws.ThreadingServer]


@pytest.fixture
def start(clean: None) -> Iterator[Start]:
    """Starts servers that are shut down after the test."""
    with contextlib.ExitStack() as stack:

        def start(handler: Handler = echo, **options: Any) -> syncws.ThreadingServer:
            options = {"host": "127.0.0.1", "close_timeout": 1.0, **options}
            return stack.enter_context(syncws.serve(handler, **options))

        yield start


def handler_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("syncws-handler-")]


def check_alive(server: syncws.ThreadingServer) -> None:
    """The next peer is served."""
    with RawClient(server.address) as raw:
        raw.open().send(masked_frame(1, b"hello"))
        assert raw.receive_frame() == (1, b"hello")


class Meeting:
    """A handler that can be watched and held.

    Attributes:
        connections: Of the handlers that began.
        ended: How many have ended.
    """

    def __init__(self) -> None:
        self.connections: list[syncws.Connection] = []
        self.release = threading.Event()
        self.ended = 0

    def hold(self, ws: syncws.Connection) -> None:
        """Does not look at the connection until it is released."""
        self.connections.append(ws)
        self.release.wait(PATIENCE)
        self.ended += 1

    def receive(self, ws: syncws.Connection) -> None:
        """Waits for messages."""
        self.connections.append(ws)
        try:
            for _ in ws:
                pass
        finally:
            self.ended += 1

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.connections) == count)


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
    assert threading.active_count() - threads == 10
    assert len(os.listdir("/dev/fd")) - files == 20  # both ends are in this process
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
    assert time.monotonic() - started < 1
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
        patch.setattr(serving.Opening, "start", fail)
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
    assert 0.2 < time.monotonic() - started < 3


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
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), syncws.serve(echo, "127.0.0.1") as server:
        server.serve_forever()
    assert time.monotonic() - started < 3
    timer.join()
    assert server.fileno() == -1


@pytest.mark.usefixtures("clean")
def test_a_peer_accepted_by_a_server_that_has_no_reader() -> None:
    server = syncws.serve(echo, "127.0.0.1")
    ours, theirs = socket.socketpair()
    with theirs:
        server._open(ours)
        assert theirs.recv(100) == b""
    server.shutdown()


# -- shutting down ----------------------------------------------------------------


def test_shutdown_closes_everybody_at_the_same_time(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.receive, close_timeout=5)
    clients = [RawClient(server.address).open() for _ in range(20)]
    meeting.wait_for(20)
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(server.shutdown(reason="bye")))
    thread.start()
    # Every one of them gets the close frame before any of them answers.
    frames = [raw.receive_frame() for raw in clients]
    assert frames == [(8, b"\x03\xe9bye")] * 20
    started = time.monotonic()
    for raw in clients:
        raw.send(masked_frame(8, b"\x03\xe9"))
        raw.sock.close()
    thread.join(PATIENCE)
    assert done == [[]]
    assert time.monotonic() - started < 3
    assert meeting.ended == 20
    assert handler_threads() == []


def test_g19x_peers_that_do_not_answer_are_aborted(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.receive)
    clients = [RawClient(server.address).open() for _ in range(5)]
    meeting.wait_for(5)
    started = time.monotonic()
    assert server.shutdown(timeout=0.3) == []
    assert time.monotonic() - started < 1.3
    assert meeting.ended == 5
    for raw in clients:
        raw.sock.close()


def test_f4_g19x_a_handler_that_is_blocked_in_send(start: Start) -> None:
    failures: list[Exception] = []
    meeting = Meeting()

    def handler(ws: syncws.Connection) -> None:
        meeting.connections.append(ws)
        try:
            while True:
                ws.send(b"x" * 1_000_000)
        except syncws.ConnectionClosed as error:
            failures.append(error)

    server = start(handler)
    with RawClient(server.address) as raw:
        raw.open()
        meeting.wait_for(1)
        wait_until(lambda: meeting.connections[0].stats.bytes_unsent > 0)
        started = time.monotonic()
        assert server.shutdown() == []  # close_timeout is 1
        assert time.monotonic() - started < 2
    assert len(failures) == 1


def test_g20x_a_handler_that_never_returns_is_reported(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.hold)
    with RawClient(server.address) as raw:
        raw.open()
        meeting.wait_for(1)
        started = time.monotonic()
        [stuck] = server.shutdown(timeout=0.2)
        assert time.monotonic() - started < 1.2
        assert stuck.thread_name == "syncws-handler-1"
        assert stuck.connection is meeting.connections[0]
        assert "in hold" in stuck.stack
        # Twice gives the same answer, now at once.
        [again] = server.shutdown(timeout=0.2)
        assert again.thread_name == stuck.thread_name
        meeting.release.set()
        wait_until(lambda: not handler_threads())
        assert server.shutdown() == []


def test_g20x_user_code_that_hangs_in_the_handshake(start: Start) -> None:
    entered, release = threading.Event(), threading.Event()

    def select(request: Any, offered: Any) -> None:
        entered.set()
        release.wait(PATIENCE)

    server = start(select_subprotocol=select)
    with RawClient(server.address) as raw:
        raw.send(request())
        assert entered.wait(PATIENCE)
        [stuck] = server.shutdown(timeout=0.1)
        assert stuck.connection is None
        assert "in select" in stuck.stack
        release.set()
        # There is no reader any more that could turn it away politely.
        assert raw.receive_rest() == b""
        wait_until(lambda: not server._sessions)


def test_g19x_user_code_in_the_handshake_that_ends_in_time(start: Start) -> None:
    entered, release = threading.Event(), threading.Event()

    def select(request: Any, offered: Any) -> None:
        entered.set()
        release.wait(PATIENCE)

    server = start(select_subprotocol=select)
    with RawClient(server.address) as raw:
        raw.send(request())
        assert entered.wait(PATIENCE)
        threading.Timer(0.1, release.set).start()
        assert server.shutdown(timeout=5) == []
        raw.expect_refusal(503)


def test_g19x_peers_in_their_handshake_are_told_503(
    start: Start, server_context: ssl.SSLContext
) -> None:
    server = start()
    secure = start(ssl=server_context)
    with RawClient(server.address) as raw, RawClient(secure.address) as other:
        raw.send(request()[:-4])
        other.send(b"\x16\x03\x01")
        wait_until(lambda: bool(server._openings and secure._openings))
        started = time.monotonic()
        assert server.shutdown() == []
        assert secure.shutdown() == []
        assert time.monotonic() - started < 1
        raw.expect_refusal(503)
        assert other.receive_rest() == b""


def test_a_request_that_comes_during_the_shutdown_is_told_503(start: Start) -> None:
    """The close frames are out, a handler is still busy, and the request was under way."""
    server = start()
    with RawClient(server.address) as raw:
        raw.send(request()[:-4])
        wait_until(lambda: bool(server._openings))
        [opening] = server._openings
        server._goodbye = syncws.Close(1001, "")
        raw.send(request()[-4:])
        raw.expect_refusal(503)
    wait_until(lambda: opening not in server._openings)


@pytest.mark.parametrize("limit", [5.0, 0.3])
def test_g19x_shut_down_by_a_handler(start: Start, limit: float) -> None:
    """It does not wait for itself, and its own connection is closed, too."""
    results: list[Any] = []
    meeting = Meeting()

    def handler(ws: syncws.Connection) -> None:
        if ws.recv() == "wait":
            meeting.receive(ws)
        else:
            results.append(server.shutdown(timeout=limit))

    server = start(handler)
    with RawClient(server.address) as raw, RawClient(server.address) as other:
        raw.open()
        other.open().send(masked_frame(1, b"wait"))
        meeting.wait_for(1)
        raw.send(masked_frame(1, b"stop"))
        assert raw.receive_frame() == (8, b"\x03\xe9")
        if limit > 1:
            raw.send(masked_frame(8, b"\x03\xe9"))
            raw.sock.close()
            other.answer_close()
            other.sock.close()
        wait_until(lambda: results == [[]])
        wait_until(lambda: not handler_threads())
        server.serve_forever()  # returns: it has been shut down


def test_g19x_shut_down_by_several_threads_at_once(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.receive)
    results: list[Any] = []
    with RawClient(server.address) as raw:
        raw.open()
        meeting.wait_for(1)
        threads = [
            threading.Thread(target=lambda: results.append(server.shutdown())) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        raw.answer_close()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [[]] * 4


@pytest.mark.usefixtures("clean")
def test_g19x_shut_down_by_a_signal_handler() -> None:
    """In the middle of serve_forever(), as a program that catches SIGTERM does."""
    server = syncws.serve(echo, "127.0.0.1", close_timeout=1)
    results = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: results.append(server.shutdown()))
    try:
        with RawClient(server.address) as raw:
            timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
            peer = threading.Thread(target=lambda: raw.open().answer_close())
            peer.start()
            timer.start()
            server.serve_forever()
            peer.join(PATIENCE)
            timer.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert results == [[]]


def test_g19x_a_signal_handler_in_the_middle_of_a_shutdown(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.receive)
    results = []
    previous = signal.signal(
        signal.SIGUSR1, lambda *_: results.append(server.shutdown(timeout=0.1))
    )
    try:
        with RawClient(server.address) as raw:
            raw.open()
            meeting.wait_for(1)
            timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            started = time.monotonic()
            results.append(server.shutdown(timeout=8))
            assert time.monotonic() - started < 5
            timer.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert results == [[], []]


def test_nobody_is_accepted_after_a_shutdown(start: Start) -> None:
    server = start()
    server.shutdown()
    with pytest.raises(ConnectionRefusedError):
        RawClient(server.address)


@pytest.mark.parametrize("close_timeout", [None, 1])
def test_how_long_a_shutdown_may_take(start: Start, close_timeout: float | None) -> None:
    assert start(close_timeout=close_timeout).shutdown() == []


def test_a_shutdown_in_no_time(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.receive)
    with RawClient(server.address) as raw, RawClient(server.address) as other:
        raw.open()
        other.send(b"GET")
        wait_until(lambda: bool(server._openings))
        meeting.wait_for(1)
        assert server.shutdown(timeout=0) == []
        wait_until(lambda: meeting.ended == 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"code": 1005}, "code 1005 must not be sent"),
        ({"code": 1001, "reason": "x" * 124}, "reason"),
        ({"timeout": -1}, "timeout must not be negative"),
    ],
)
def test_a_bad_argument_shuts_nothing_down(
    start: Start, arguments: dict[str, Any], text: str
) -> None:
    server = start()
    with pytest.raises(ValueError, match=text):
        server.shutdown(**arguments)
    check_alive(server)


def test_a_helper_that_hangs_does_not_hang_a_shutdown(
    start: Start, authority: Any, client_context: ssl.SSLContext
) -> None:
    """A user's SNI callback has the TLS object; the socket is closed when it returns."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    entered, release = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        entered.set()
        release.wait(PATIENCE)

    context.sni_callback = hang
    server = start(ssl=context)
    outgoing = ssl.MemoryBIO()
    tls = client_context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with RawClient(server.address) as raw:
        raw.send(outgoing.read())
        assert entered.wait(PATIENCE)
        started = time.monotonic()
        assert server.shutdown(timeout=0.2) == []
        assert time.monotonic() - started < 2.5
        release.set()
        raw.receive_rest()
        wait_until(lambda: not [t for t in threading.enumerate() if "helper" in t.name])


# -- processes --------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_g9x_a_forked_child_leaves_the_server_alone() -> None:
    with syncws.serve(echo, "127.0.0.1", close_timeout=1) as server:
        with RawClient(server.address) as raw:
            raw.open()
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
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
