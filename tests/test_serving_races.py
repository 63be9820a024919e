"""ThreadingServer when two things happen at once: each test makes them meet."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from started import Meeting, Start, check_alive, handler_threads, observed, servers
from talking import PATIENCE, RawClient, wait_until
from upgrading import request

import syncws
from syncws import serving as serving_module
from syncws import session as session_module
from syncws.frames import Close
from syncws.reader import Reader


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> Iterator[None]:
    with observed(nothing_left):
        yield


@pytest.fixture
def start(clean: None) -> Iterator[Start]:
    with servers() as start:
        yield start


def answer_and_leave(raw: RawClient) -> None:
    """What a peer does that is told goodbye."""
    raw.answer_close()
    raw.receive_rest()
    raw.sock.close()


def test_g19x_a_signal_handler_wherever_its_thread_is(start: Start) -> None:
    """Nothing that handlers or the reader thread need is held by who is asked for little."""
    random_moment = random.Random(19)
    took: list[float] = []

    def shut_down(*_: object) -> None:
        started = time.monotonic()
        assert server.shutdown() == []
        took.append(time.monotonic() - started)

    previous = signal.signal(signal.SIGALRM, shut_down)
    try:
        for number in range(20):
            meeting = Meeting()
            server = start(meeting.receive, close_timeout=PATIENCE)
            with RawClient(server.address) as raw:
                raw.open()
                meeting.wait_for(1)
                answering = threading.Thread(target=answer_and_leave, args=(raw,))
                answering.start()
                signal.setitimer(signal.ITIMER_REAL, 0.001 + random_moment.random() / 100)
                while len(took) == number:
                    assert len(server.connections) <= 1
                answering.join(PATIENCE)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert max(took) < PATIENCE / 2


def test_a_signal_handler_in_the_middle_of_starting(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to shut down yet: whoever starts finds that it is over."""
    servers_made: list[syncws.ThreadingServer] = []

    def interrupted(name: str) -> Reader:
        servers_made[-1].shutdown()
        return Reader(name)

    monkeypatch.setattr(serving_module, "Reader", interrupted)
    servers_made.append(syncws.serve(lambda ws: None, "127.0.0.1"))
    with pytest.raises(RuntimeError, match="was shut down"):
        servers_made[-1].start()
    with pytest.raises(RuntimeError, match="was shut down"):
        servers_made[-1].start()
    servers_made.append(syncws.serve(lambda ws: None, "127.0.0.1"))
    servers_made[-1].serve_forever()
    assert [server.shutdown() for server in servers_made] == [[], []]


@pytest.mark.parametrize("when", ["before its reader thread runs", "while it waits for it"])
def test_g19x_a_signal_handler_while_the_reader_thread_is_started(
    clean: None, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """That thread needs nothing of the one that starts it."""
    begin = threading.Thread.start
    server = syncws.serve(lambda ws: None, "127.0.0.1", close_timeout=PATIENCE)
    results: list[object] = []

    def interrupted(self: threading.Thread) -> None:
        ours = self.name == "syncws-server-reader"
        if ours and when == "before its reader thread runs":
            results.append(server.shutdown(timeout=0))
        begin(self)
        if ours and when == "while it waits for it":
            started = time.monotonic()
            results.append(server.shutdown())
            assert time.monotonic() - started < PATIENCE / 2

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(RuntimeError, match="was shut down"):
        server.start()
    assert results == [[]]
    server.serve_forever()


def test_a_server_whose_start_failed_can_be_shut_down(
    clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server = syncws.serve(lambda ws: None, "127.0.0.1", close_timeout=PATIENCE)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        server.start()
    started = time.monotonic()
    assert server.shutdown() == []
    assert time.monotonic() - started < PATIENCE / 2
    assert server.fileno() == -1


def test_a_handler_may_shut_down_before_start_returns(
    clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has begun and served, so it is no error."""
    done = threading.Event()

    def handler(ws: syncws.Connection) -> None:
        ws.send("hello")
        done.set()
        server.shutdown(timeout=0)

    server = syncws.serve(handler, "127.0.0.1")
    call_soon = Reader.call_soon

    def late(self: Reader, function: Callable[..., object], *arguments: object) -> bool:
        result = call_soon(self, function, *arguments)
        if server._acceptor is not None and function == server._acceptor.start:
            assert done.wait(PATIENCE)
            wait_until(lambda: server._goodbye is not None)
        return result

    monkeypatch.setattr(Reader, "call_soon", late)
    with RawClient(server.address) as raw:
        raw.send(request())
        server.start()
        assert raw.receive_head().startswith(b"HTTP/1.1 101")
    wait_until(lambda: not handler_threads())
    assert server.shutdown() == []


def test_a_start_that_meets_a_shutdown_stops_no_reader_that_serves(
    clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another start() may have come in between, and peers with it: they have their time."""
    server = syncws.serve(lambda ws: None, "127.0.0.1")
    acceptor = serving_module.Acceptor

    def interrupted(*arguments: Any, **options: Any) -> Any:
        made = acceptor(*arguments, **options)
        made.reader.call_soon(len, ())  # what the other start() did
        wait_until(lambda: made.reader.thread is not None)
        server._goodbye = Close(1001, "")
        return made

    monkeypatch.setattr(serving_module, "Acceptor", interrupted)
    with pytest.raises(RuntimeError, match="was shut down"):
        server.start()
    assert server._acceptor is not None
    assert not server._acceptor.reader.closed
    assert server.shutdown() == []
    assert server._acceptor.reader.closed


def test_a_start_that_failed_can_be_repeated(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "syncws-server-reader":
            raise RuntimeError("can't start new thread")
        begin(self)

    server = syncws.serve(lambda ws: [ws.send(message) for message in ws], "127.0.0.1")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            server.start()
    server.start()
    server.start()
    check_alive(server)
    assert server.shutdown() == []


def test_g20x_a_refusal_that_is_ready_as_the_reader_thread_stops(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was handed to it before it was told to stop is not lost."""
    entered, release, gate = threading.Event(), threading.Event(), threading.Event()
    close = Reader.close

    def refuse(pending: Any, request: Any) -> Any:
        entered.set()
        release.wait(PATIENCE)
        return pending.respond(403, "no\n")

    def close_then(self: Reader) -> None:
        if self.name == "syncws-server-reader":
            # It is busy until it is closed, and by then the refusal has come.
            self.call_soon(gate.wait, PATIENCE)
            wait_until(lambda: not self._calls)
            release.set()
            wait_until(lambda: bool(self._calls))
            threading.Timer(0.2, gate.set).start()
        close(self)

    monkeypatch.setattr(Reader, "close", close_then)
    server = start(process_request=refuse)
    with RawClient(server.address) as raw:
        raw.send(request())
        assert entered.wait(PATIENCE)
        assert server.shutdown(timeout=0) == []
        raw.receive_rest()
        assert not server._sessions


@pytest.mark.parametrize("when", ["while it waits", "after it"])
def test_g20x_a_connection_that_is_made_when_the_others_have_been_aborted(
    start: Start, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Without a reader thread its handler would wait for a silent peer for ever."""
    entered, release = threading.Event(), threading.Event()
    make = session_module.ServerConnection

    def make_slowly(*arguments: Any, **options: Any) -> syncws.ServerConnection:
        entered.set()
        release.wait(PATIENCE)
        return make(*arguments, **options)

    monkeypatch.setattr(session_module, "ServerConnection", make_slowly)
    meeting = Meeting()
    server = start(meeting.receive, close_timeout=None)
    with RawClient(server.address) as raw:
        raw.send(request())
        assert entered.wait(PATIENCE)
        if when == "while it waits":
            threading.Timer(0.2, release.set).start()
        server.shutdown(timeout=0)
        release.set()
        wait_until(lambda: meeting.ended == 1)
        wait_until(lambda: not handler_threads())
