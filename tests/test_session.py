"""A connection and its handler, from the valid request to the end."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from talking import PATIENCE, RawClient, masked_frame, wait_until
from upgrading import upgrade

import syncws
import syncws.session
from syncws.forwarded import TrustedProxies
from syncws.frames import Close
from syncws.hooks import Hooks
from syncws.opening import Opening
from syncws.options import Options
from syncws.reader import Reader
from syncws.server_handshake import accept
from syncws.session import Service, Session
from syncws.transport import Transport
from syncws.workers import Workers


class Logger(logging.Logger):
    """Keeps what it is told; fails if it is to."""

    def __init__(self) -> None:
        super().__init__("test", logging.INFO)
        self.records: list[logging.LogRecord] = []
        self.broken = False

    def handle(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self.broken:
            raise RuntimeError("the log is full")

    def at(self, level: int) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelno == level]


class Stage:
    """Runs one session in the calling or another thread, with a raw peer opposite."""

    def __init__(self) -> None:
        self.reader = Reader("test-reader")
        self.workers = Workers("test-tls")
        self.logger = Logger()
        self.ours, theirs = socket.socketpair()
        self.peer = RawClient(theirs)
        theirs.settimeout(PATIENCE)
        self.handler: Callable[[syncws.Connection], object] = lambda ws: None
        self.accept: Callable[..., Any] = accept
        self.hooks = Hooks()
        self.trusted_proxies: TrustedProxies | None = None
        self.opening = Opening(
            self.ours,
            reader=self.reader,
            context=None,
            tls_workers=self.workers,
            open_timeout=0.5,
            admit=lambda opening: None,
            ended=lambda opening: None,
        )
        self.opening.request = upgrade()
        self.opening._transport = Transport(self.ours)

    def session(self) -> Session:
        service = Service(
            handler=lambda ws: self.handler(ws),
            accept=lambda request, secure: self.accept(request),
            options=Options(close_timeout=0.5),
            logger=self.logger,
            hooks=self.hooks,
            trusted_proxies=self.trusted_proxies,
        )
        return Session(service, self.reader)

    def run(self, session: Session | None = None) -> syncws.Response | None:
        return (session or self.session()).run(self.opening)

    def start(self, session: Session | None = None) -> threading.Thread:
        thread = threading.Thread(target=self.run, args=(session,))
        thread.start()
        return thread

    def close(self) -> None:
        self.peer.sock.close()
        self.ours.close()
        self.reader.close()


@pytest.fixture
def stage(nothing_left: Callable[[], None]) -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def test_a_handler_that_returns_closes_with_1000(stage: Stage) -> None:
    stage.handler = lambda ws: ws.send("hello")
    thread = stage.start()
    assert stage.peer.receive_head().startswith(b"HTTP/1.1 101 ")
    assert stage.peer.receive_frame() == (1, b"hello")
    assert stage.peer.answer_close() == 1000
    assert stage.peer.receive_rest() == b""
    thread.join(PATIENCE)
    assert stage.ours.fileno() == -1
    assert stage.logger.records == []


def test_early_data_comes_first(stage: Stage) -> None:
    received: list[Any] = []
    stage.handler = lambda ws: received.append(ws.recv(PATIENCE))
    stage.opening.early_data = masked_frame(1, b"early")
    thread = stage.start()
    stage.peer.receive_head()
    assert stage.peer.answer_close() == 1000
    thread.join(PATIENCE)
    assert received == ["early"]


@pytest.mark.parametrize("error", [RuntimeError("oops"), SystemExit(3), KeyboardInterrupt()])
def test_a_handler_that_raises_closes_with_1011(stage: Stage, error: BaseException) -> None:
    def handler(ws: syncws.Connection) -> None:
        raise error

    stage.handler = handler
    thread = stage.start()
    stage.peer.receive_head()
    opcode, payload = stage.peer.receive_frame()
    assert (opcode, payload) == (8, b"\x03\xf3")  # and not a word of the reason
    stage.peer.send(masked_frame(8, payload))
    thread.join(PATIENCE)
    [record] = stage.logger.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.exc_info[1] is error
    assert "handler of connection" in record.getMessage()


def test_the_end_of_its_connection_is_no_failure_of_a_handler(stage: Stage) -> None:
    stage.handler = lambda ws: ws.recv()
    thread = stage.start()
    stage.peer.receive_head()
    stage.peer.send(masked_frame(8, b"\x03\xe9a\nb\x1b"))
    assert stage.peer.receive_frame()[0] == 8
    thread.join(PATIENCE)
    [record] = stage.logger.records
    assert record.levelno == logging.INFO
    assert "a\\nb\\x1b" in record.getMessage()  # E17: the peer's reason cannot forge lines


def test_the_end_of_another_connection_is_one(stage: Stage) -> None:
    def handler(ws: syncws.Connection) -> None:
        raise syncws.ConnectionClosedOK(None, None)

    stage.handler = handler
    thread = stage.start()
    stage.peer.receive_head()
    assert stage.peer.answer_close() == 1011
    thread.join(PATIENCE)
    assert len(stage.logger.at(logging.ERROR)) == 1


def test_g20x_a_handler_that_closes_itself(stage: Stage) -> None:
    stage.handler = lambda ws: ws.close(4000, "bye")
    thread = stage.start()
    stage.peer.receive_head()
    assert stage.peer.answer_close() == 4000
    thread.join(PATIENCE)
    assert stage.logger.records == []


def test_d13_a_peer_that_does_not_answer_the_close(stage: Stage) -> None:
    thread = stage.start()
    stage.peer.receive_head()
    started = time.monotonic()
    thread.join(PATIENCE)
    assert time.monotonic() - started < 3  # close_timeout is 0.5
    assert stage.ours.fileno() == -1


def test_a_close_that_fails_is_an_abort(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(syncws.Connection, "close", fail)
    thread = stage.start()
    thread.join(PATIENCE)
    wait_until(lambda: stage.ours.fileno() == -1)
    assert len(stage.logger.at(logging.INFO)) == 1


def test_g9x_a_handler_that_forked_ends_quietly_in_the_child(stage: Stage) -> None:
    seen: list[syncws.Connection] = []

    def handler(ws: syncws.Connection) -> None:
        seen.append(ws)
        ws._channel.forked = True

    stage.handler = handler
    stage.run()
    [text] = stage.logger.at(logging.INFO)
    assert "os.fork()" in text
    assert seen[0].connected
    seen[0]._channel.forked = False
    seen[0].abort()


def test_a_request_that_is_refused(stage: Stage) -> None:
    stage.accept = lambda request: accept(request, origins=["https://example.com"])
    response = stage.run()
    assert response is not None
    assert response.status_code == 403
    [text] = stage.logger.at(logging.INFO)
    assert text == f"request of {stage.ours.getpeername()}: HTTP 403"


def test_what_is_no_failure_is_told_at_level_debug(stage: Stage) -> None:
    stage.logger.setLevel(logging.DEBUG)
    seen: list[Any] = []
    stage.handler = lambda ws: seen.append((ws.id, ws.remote_address))
    thread = stage.start()
    stage.peer.receive_head()
    assert stage.peer.answer_close() == 1000
    thread.join(PATIENCE)
    [(identifier, address)] = seen
    assert stage.logger.at(logging.DEBUG) == [
        f"connection {identifier} from {address} {event}" for event in ("opened", "closed")
    ]
    assert len(stage.logger.records) == 2


def test_an_answer_that_is_no_refusal_is_told_at_level_debug(stage: Stage) -> None:
    stage.logger.setLevel(logging.DEBUG)
    stage.hooks = Hooks(process_request=lambda pending, request: pending.respond(200, "alive"))
    stage.run()
    [text] = stage.logger.at(logging.DEBUG)
    assert text.endswith("HTTP 200")


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(3)])
def test_e18_an_exception_of_the_users_is_a_500_without_its_text(
    stage: Stage, error: BaseException
) -> None:
    def fail(request: Any) -> Any:
        raise error

    stage.accept = fail
    response = stage.run()
    assert response is not None
    assert response.status_code == 500
    assert b"secret" not in response.serialize()
    [text] = stage.logger.at(logging.ERROR)
    assert text.startswith("opening handshake with ")


def test_e13_a_subprotocol_that_was_not_offered_is_a_500(stage: Stage) -> None:
    stage.accept = lambda request: accept(
        request, select_subprotocol=lambda request, offered: "a\r\nX: y"
    )
    response = stage.run()
    assert response is not None
    assert response.status_code == 500


def test_g11x_a_logger_that_raises_costs_a_line(stage: Stage) -> None:
    stage.logger.broken = True

    def fail(request: Any) -> Any:
        raise ValueError

    stage.accept = fail
    response = stage.run()
    assert response is not None
    assert len(stage.logger.records) == 2  # why, and what it was told


def test_a_peer_that_left_before_the_answer(stage: Stage) -> None:
    stage.peer.sock.close()
    assert stage.run() is None
    assert stage.ours.fileno() == -1
    assert len(stage.logger.at(logging.INFO)) == 1


def test_a_peer_that_left_is_no_trusted_proxy(stage: Stage) -> None:
    stage.trusted_proxies = TrustedProxies(["unix:"])
    stage.ours.close()
    assert stage.run() is None
    assert len(stage.logger.at(logging.INFO)) == 1


def test_a_peer_that_does_not_read_the_answer(stage: Stage) -> None:
    """It has what is left of open_timeout."""
    stage.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with pytest.raises(BlockingIOError):
        while True:
            stage.ours.send(b"x" * 1000)
    started = time.monotonic()
    assert stage.run() is None
    assert time.monotonic() - started < 3
    assert stage.ours.fileno() == -1
    assert len(stage.logger.at(logging.INFO)) == 1


def test_no_memory_for_a_connection(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(syncws.session, "ServerConnection", fail)
    assert stage.run() is None
    assert stage.ours.fileno() == -1
    assert len(stage.logger.at(logging.ERROR)) == 1


def test_a_session_needs_a_request(stage: Stage) -> None:
    stage.opening.request = None
    with pytest.raises(RuntimeError, match="begins with a request"):
        stage.run()


# -- shutting down ----------------------------------------------------------------


def test_g19x_closed_before_the_answer(stage: Stage) -> None:
    session = stage.session()
    session.close(Close(1001, ""))
    response = stage.run(session)
    assert response is not None
    assert response.status_code == 503
    assert session.connection is None


def test_g19x_closed_while_the_answer_is_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = stage.session()
    real = syncws.ServerConnection

    def connect(*arguments: Any, **options: Any) -> syncws.ServerConnection:
        session.close(Close(1001, "too late"))
        return real(*arguments, **options)

    monkeypatch.setattr(syncws.session, "ServerConnection", connect)
    stage.handler = lambda ws: ws.recv()
    thread = stage.start(session)
    stage.peer.receive_head()
    assert stage.peer.receive_frame() == (8, b"\x03\xe9too late")
    stage.peer.send(masked_frame(8, b"\x03\xe9"))
    thread.join(PATIENCE)


def test_g19x_closed_in_the_handler(stage: Stage) -> None:
    entered = threading.Event()

    def handler(ws: syncws.Connection) -> None:
        entered.set()
        ws.recv()

    stage.handler = handler
    session = stage.session()
    thread = stage.start(session)
    stage.peer.receive_head()
    assert entered.wait(PATIENCE)
    session.close(Close(1012, ""))
    assert stage.peer.answer_close() == 1012
    thread.join(PATIENCE)
