"""Group E of the catalogue, what peers do to the server besides HTTP: E17 to E20."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import pytest

import syncws

from . import peer as wire
from .asking import ask, expect_refusal, upgrade
from .subject import Contexts, Subject, collect, no_trace, settle

NASTY = "\x1b[31mred\x1b[0m\r\nINFO forged line\x00\x07\x9b2J\u2028"


def control_characters(record: logging.LogRecord) -> list[str]:
    """Those of a log line that could move a terminal's cursor or forge another line."""
    text = logging.Formatter("%(name)s %(message)s").format(record)
    return [character for character in text if ord(character) < 32 or 127 <= ord(character) < 160]


@pytest.mark.parametrize("role", ["server", "client"])
def test_E17_close_reason_in_the_log(
    role: str, warm: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    subject = Subject(role, None)
    try:
        with subject.open() as conversation:
            conversation.peer.send_close(1000, NASTY.encode())
            conversation.peer.read_until_close()
            conversation.outcome.wait()
    finally:
        subject.close()
    assert not [line for record in caplog.records for line in control_characters(record)]


@pytest.mark.parametrize(
    "data",
    [
        upgrade(line=b"GET /\x1b[31m HTTP/1.1"),
        upgrade(b"User-Agent: \x1b[31m"),
        upgrade(b"Sec-WebSocket-Protocol: \x1b[31m"),
        upgrade(b"Origin: \x1b[31m"),
        upgrade(b"User-Agent: \x9b2J"),
        upgrade(b"Sec-WebSocket-Protocol: \xe2\x80\xa8"),
        upgrade(b"Origin: https://\x9b2J"),
        b"\x1b[31m\r\n\r\n",
    ],
    ids=["path", "agent", "subprotocol", "origin", "c1 agent", "separator", "c1 origin", "line"],
)
def test_E17_requests_in_the_log(
    plain_server: Subject, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    with wire.dial(plain_server.address()) as peer:
        peer.send(data)
        peer.half_close()
        peer.read_raw()
    assert not [line for record in caplog.records for line in control_characters(record)]


def leaking(request: object, offered: list[str]) -> str:
    """A hook that fails with a secret in its text."""
    raise RuntimeError("password=hunter2")


def test_E18_error_page_tells_nothing(server: Subject, caplog: pytest.LogCaptureFixture) -> None:
    # The server reports a hook that failed: a line above WARNING, as it should be.
    caplog.set_level(logging.CRITICAL, logger="syncws.server")
    answer = expect_refusal(server, upgrade(), 500, select_subprotocol=leaking)
    for secret in (b"hunter2", b"RuntimeError", b"Traceback", b".py"):
        assert secret not in answer.head + answer.body


@pytest.mark.parametrize("end", ["FIN", "RST", "half-close"])
def test_E19_peer_vanishes_in_the_handshake(
    server: Subject, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    caplog.set_level(logging.INFO)
    request = upgrade()
    context = None if server.tls is None else server.tls.client
    step = 1 if context is None else 7
    for offset in range(0, len(request), step):
        peer = wire.dial(server.address(), context)
        peer.send(request[:offset])
        if end == "FIN":
            peer.close()
        elif end == "RST":
            peer.reset()
        else:
            with peer:
                peer.half_close()
                peer.read_raw(timeout=3.0)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert not server.server().connections


def test_E19_peer_vanishes_during_the_response(plain_server: Subject) -> None:
    """The request was whole: the handler runs, and learns that its peer is gone."""
    for reset in (False, True):
        for _ in range(20):
            peer = wire.dial(plain_server.address())
            peer.send(upgrade())
            peer.reset() if reset else peer.close()


def test_E19_silent_peer_is_dropped_at_open_timeout(server: Subject) -> None:
    started = time.monotonic()
    peers = []
    try:
        for data in (b"", b"GET", upgrade()[:-2]):
            context = None if server.tls is None else server.tls.client
            peer = wire.dial(server.address(open_timeout=0.5), context)
            peers.append(peer)
            peer.send(data)
        for peer in peers:
            peer.read_raw(timeout=4.0)
        assert time.monotonic() - started < 4.0
    finally:
        for peer in peers:
            peer.close()


def test_E19_dribbling_peer_is_dropped_at_open_timeout(plain_server: Subject) -> None:
    """The deadline is a total: a byte now and then does not move it."""
    with wire.dial(plain_server.address(open_timeout=0.5)) as peer:
        started = time.monotonic()
        for byte in upgrade():
            peer.sock.settimeout(0.02)
            try:
                peer.sock.sendall(bytes([byte]))
                if not peer.sock.recv(1000):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.3 < time.monotonic() - started < 3.0


CLIENT_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(154)


def test_E20_tls_to_a_plain_port(plain_server: Subject) -> None:
    for garbage in (CLIENT_HELLO, CLIENT_HELLO[:20], b"\0" * 100):
        with wire.dial(plain_server.address(open_timeout=1)) as peer:
            peer.send(garbage)
            peer.half_close()
            raw = peer.read_raw(timeout=3.0)
            assert raw == b"" or raw.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "data",
    [upgrade(), b"\0" * 100, b"\x16\x03\x01\xff\xff" + os.urandom(300), CLIENT_HELLO, b""],
    ids=["request", "zeros", "random", "hello", "nothing"],
)
def test_E20_garbage_to_a_tls_port(
    contexts: Contexts, warm: None, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    with no_trace(caplog):
        subject = Subject("server", contexts)
        try:
            with wire.dial(subject.address(open_timeout=1)) as peer:
                started = time.monotonic()
                peer.send(data)
                peer.read_raw(timeout=4.0)
                assert time.monotonic() - started < 3.0
            subject.check_alive(open_timeout=1)
        finally:
            subject.close()


def test_E20_tls_cut_in_the_handshake(
    contexts: Contexts, warm: None, caplog: pytest.LogCaptureFixture
) -> None:
    with no_trace(caplog):
        subject = Subject("server", contexts)
        try:
            for offset in range(0, len(CLIENT_HELLO), 5):
                for reset in (False, True):
                    peer = wire.dial(subject.address())
                    peer.send(CLIENT_HELLO[:offset])
                    peer.reset() if reset else peer.close()
            subject.check_alive()
        finally:
            subject.close()


def served(subject: Subject) -> bool:
    """Whether a server of one connection has room for a peer."""
    try:
        subject.check_alive(max_connections=1)
    except AssertionError as refused:
        assert "503" in str(refused)
        return False
    return True


def test_E_connections_are_counted_and_refused(
    contexts: Contexts, warm: None, caplog: pytest.LogCaptureFixture
) -> None:
    """One over ``max_connections`` is told so; afterwards there is room again."""
    with no_trace(caplog):
        subject = Subject("server", None)
        try:
            with subject.open(collect, max_connections=1) as first:
                answer = ask(subject, upgrade(), max_connections=1)
                assert answer.status_code == 503
                first.expect_normal_end()
            # A connection counts until its handler has returned.
            settle(lambda: served(subject), True)
        finally:
            subject.close()


def test_E_serve_does_not_start_by_itself(warm: None) -> None:
    """Nothing answers before ``start()``; what came meanwhile is served then."""

    def handler(connection: Any) -> None:
        connection.send("late")

    server = syncws.serve(handler, "127.0.0.1", 0)
    with wire.dial(server.socket.getsockname()[:2]) as peer:
        peer.send(upgrade())
        with pytest.raises(TimeoutError):
            peer.read_frame(timeout=0.05)
        with server:
            wire.read_head(peer)
            frame = peer.read_frame()
            assert frame is not None
            assert frame.payload == b"late"
            peer.read_until_close()
            peer.send_close()
            peer.half_close()
