"""ThreadingServer.shutdown(): bounded, whatever is going on, whoever calls it."""

from __future__ import annotations

import math
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from started import Meeting, Start, check_alive, echo, handler_threads, observed, servers
from talking import PATIENCE, RawClient, masked_frame, wait_until
from upgrading import request

import syncws
from syncws.session import Session


@pytest.fixture
def clean(nothing_left: Callable[[], None]) -> Iterator[None]:
    with observed(nothing_left):
        yield


@pytest.fixture
def start(clean: None) -> Iterator[Start]:
    with servers() as start:
        yield start


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
    wait_until(lambda: not handler_threads())


def test_g19x_peers_that_do_not_answer_are_aborted(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.receive, close_timeout=8)
    clients = [RawClient(server.address).open() for _ in range(5)]
    meeting.wait_for(5)
    started = time.monotonic()
    assert server.shutdown(timeout=0.3) == []
    assert time.monotonic() - started < 5
    assert meeting.ended == 5
    for raw in clients:
        raw.sock.close()


@pytest.mark.parametrize("secure", [False, True])
def test_f4_g19x_a_handler_that_is_blocked_in_send(
    start: Start,
    secure: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    failures: list[Exception] = []
    sent_at = [time.monotonic()]

    def handler(ws: syncws.Connection) -> None:
        try:
            while True:
                ws.send(b"x" * 1_000_000)
                sent_at[0] = time.monotonic()
        except syncws.ConnectionClosed as error:
            failures.append(error)

    server = start(handler, ssl=server_context if secure else None)
    with RawClient(server.address, client_context if secure else None) as raw:
        raw.open()
        wait_until(lambda: time.monotonic() - sent_at[0] > 0.5)
        started = time.monotonic()
        assert server.shutdown() == []  # close_timeout is 1
        assert time.monotonic() - started < 5
    assert len(failures) == 1


def test_g20x_a_handler_that_never_returns_is_reported(start: Start) -> None:
    meeting = Meeting()
    server = start(meeting.hold)
    with RawClient(server.address) as raw:
        raw.open()
        meeting.wait_for(1)
        started = time.monotonic()
        [stuck] = server.shutdown(timeout=0.2)
        assert time.monotonic() - started < 5
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
    server = start(close_timeout=8)
    secure = start(ssl=server_context, close_timeout=8)
    with RawClient(server.address) as raw, RawClient(secure.address) as other:
        raw.send(request()[:-4])
        other.send(b"\x16\x03\x01")
        wait_until(lambda: bool(server._openings and secure._openings))
        started = time.monotonic()
        assert server.shutdown() == []
        assert secure.shutdown() == []
        assert time.monotonic() - started < 5
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

            def talk() -> None:
                raw.open()
                wait_until(lambda: bool(server.connections))
                os.kill(os.getpid(), signal.SIGUSR1)
                raw.answer_close()

            peer = threading.Thread(target=talk)
            peer.start()
            server.serve_forever()
            peer.join(PATIENCE)
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
        ({"timeout": math.nan}, "timeout must not be negative"),
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
        assert time.monotonic() - started < 5
        release.set()
        raw.receive_rest()
        wait_until(lambda: not [t for t in threading.enumerate() if "server-helper" in t.name])


def test_a_session_that_has_no_thread_yet_is_not_stuck(start: Start) -> None:
    """A thread has been asked for and does not run yet."""
    server = start()
    assert server._acceptor is not None
    server._sessions.add(Session(server._service, server._acceptor.reader))
    assert server.shutdown(timeout=0.1) == []
    server._sessions.clear()
