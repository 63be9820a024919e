"""Group E of the catalogue once more, with the door that hooks open: E4 to E11, E13, E14, E18, E19.

What belongs here: the same bad requests as elsewhere, to a server that answers plain HTTP too,
with and without an upgrade; and answers that a hook makes of what an attacker sent. What does
not: what hooks are for (tests/test_hooks.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

import syncws

from . import peer as wire
from .asking import KEY, ask, expect_refusal, expect_upgrade, upgrade
from .subject import PATIENCE, Subject, settle
from .test_handshake_syntax import BODIES, LINES, TARGETS
from .test_handshake_upgrade import HOSTS, KEYS, UPGRADES, VERSIONS

seen: list[str] = []


def witness(connection: Any, request: Any) -> None:
    """A hook that notes what reaches it and lets everything go on."""
    seen.append(request.path)


def welcome(connection: Any, request: Any) -> Any:
    """A hook that answers whatever reaches it."""
    seen.append(request.path)
    return connection.respond(200, "welcome")


@pytest.fixture(autouse=True)
def nobody_seen() -> None:
    seen.clear()


def plain(data: bytes) -> bytes:
    """The same request without its upgrade."""
    return data.replace(b"Upgrade: websocket\r\n", b"").replace(b"Connection: Upgrade\r\n", b"")


def expect_unseen(server: Subject, data: bytes, status_code: int) -> None:
    """Demands that a request is refused before any hook, with an upgrade and without."""
    for request in {data, plain(data), data.replace(b"GET ", b"HEAD ", 1)}:
        if request.startswith(b"HEAD "):
            ask(server, request, process_request=welcome)
        else:
            expect_refusal(server, request, status_code, process_request=welcome)
    assert seen == []


@pytest.mark.parametrize(("extra", "body"), BODIES.values(), ids=BODIES)
def test_E4_no_hook_sees_a_request_with_a_body(
    plain_server: Subject, extra: bytes, body: bytes
) -> None:
    expect_unseen(plain_server, upgrade(extra) + body, 400)


@pytest.mark.parametrize("data", LINES.values(), ids=LINES)
def test_E5_no_hook_sees_a_malformed_request(plain_server: Subject, data: bytes) -> None:
    expect_unseen(plain_server, data, 400)


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PRI"]
)
def test_E6_no_hook_sees_another_method(plain_server: Subject, method: str) -> None:
    line = f"{method} / HTTP/1.1".encode()
    for data in (upgrade(line=line), plain(upgrade(line=line))):
        answer = expect_refusal(plain_server, data, 405, process_request=welcome)
        assert wire.header_values(answer.head, "Allow") == ["GET, HEAD"]
    assert seen == []


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0"])
def test_E6_no_hook_sees_another_version(plain_server: Subject, version: str) -> None:
    expect_unseen(plain_server, upgrade(line=f"GET / {version}".encode()), 505)


@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
def test_E7_no_hook_sees_a_bad_host(plain_server: Subject, hosts: list[bytes]) -> None:
    lines = [b"Host: " + host for host in hosts]
    expect_unseen(plain_server, upgrade(*lines, without=[b"Host"]), 400)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_E8_no_hook_sees_a_bad_target(plain_server: Subject, target: bytes) -> None:
    expect_unseen(plain_server, upgrade(line=b"GET " + target + b" HTTP/1.1"), 400)


WRONG: dict[str, tuple[bytes, list[bytes], int]] = {
    **{f"E9 {name}": (*row, 426) for name, row in UPGRADES.items()},
    **{f"E10 {name}": (b"Sec-WebSocket-Key", row, 400) for name, row in KEYS.items()},
    **{f"E11 {name}": (b"Sec-WebSocket-Version", row, 426) for name, row in VERSIONS.items()},
}


@pytest.mark.parametrize(("name", "values", "status_code"), WRONG.values(), ids=WRONG)
def test_E9_to_E11_a_hook_that_says_nothing_upgrades_nothing(
    plain_server: Subject, name: bytes, values: list[bytes], status_code: int
) -> None:
    """It is asked, for it may have a page at this path; then the request is refused as ever."""
    data = upgrade(*(name + b": " + value for value in values), without=[name])
    expect_refusal(plain_server, data, status_code, process_request=witness)
    assert set(seen) == {"/"}


def test_E9_a_head_is_never_upgraded(server: Subject) -> None:
    answer = ask(server, upgrade(line=b"HEAD / HTTP/1.1"), process_request=witness)
    assert answer.status_code == 426


def test_E14_what_follows_an_answered_request_is_ignored(server: Subject) -> None:
    """One answer and the end, also for a second request, which no hook sees."""
    answer = expect_refusal(server, plain(upgrade()), 200, process_request=welcome)
    assert answer.body == b"welcome"
    seen.clear()
    data = plain(upgrade())
    ask(server, data + data.replace(b"GET /", b"GET /second"), process_request=welcome)
    assert seen == ["/"]


def test_E14_a_hook_does_not_disturb_what_follows_an_upgrade(server: Subject) -> None:
    expect_upgrade(server, upgrade(), process_request=witness)


Hook = Callable[[Any, Any], Any]


def header(name: str, value: str) -> Hook:
    """A hook whose answer has a header that an attacker chose."""

    def hook(connection: Any, request: Any) -> Any:
        response = connection.respond(200, "welcome")
        response.headers[name] = value
        return response

    return hook


def response(*arguments: Any, **changes: Any) -> Hook:
    """A hook with a response that an attacker had a hand in."""

    def hook(connection: Any, request: Any) -> Any:
        made = syncws.Response(*arguments)
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    return hook


EVIL = "x\r\nSet-Cookie: evil=1\r\n\r\nHTTP/1.1 200 OK"
NONE = syncws.Headers()
SPLITTING: dict[str, Hook] = {
    "value": header("X", EVIL),
    "value LF": header("X", "x\nSet-Cookie: evil=1"),
    "value CR": header("X", "x\rSet-Cookie: evil=1"),
    "value NUL": header("X", "x\0evil"),
    "name": header("X: y\r\nSet-Cookie", "evil=1"),
    "name with a colon": header("Set-Cookie: evil=1; X", "y"),
    "reason": response(200, EVIL, NONE),
    "reason, later": response(200, "OK", NONE, reason_phrase=EVIL),
    "mapping": response(200, "OK", {"X": EVIL}),
    "status": response(200, "OK", NONE, status_code=f"200 OK\r\nX: {EVIL}"),
    "interim": response(100, "evil", NONE),
    "switching": response(101, "evil", NONE),
    "chunked": header("Transfer-Encoding", "chunked"),
    "body of text": response(200, "OK", NONE, body="evil"),
    "body of a 204": response(204, "evil", NONE, b"evil"),
    "body of a 304": response(304, "evil", NONE, b"evil"),
    "no response": lambda connection, request: EVIL,
}


@pytest.mark.parametrize("hook", SPLITTING.values(), ids=SPLITTING)
@pytest.mark.parametrize("upgrading", [False, True])
def test_E13_an_answer_that_would_be_split_is_a_500(
    plain_server: Subject, hook: Hook, upgrading: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # The server reports a hook that failed: a line above WARNING, as it should be.
    caplog.set_level(logging.CRITICAL, logger="syncws.server")
    data = upgrade() if upgrading else plain(upgrade())
    answer = expect_refusal(plain_server, data, 500, process_request=hook)
    assert b"evil" not in answer.head + answer.body


@pytest.mark.parametrize("name", ["Content-Length", "Connection", "Keep-Alive"])
def test_E13_a_hook_does_not_frame_its_answer(plain_server: Subject, name: str) -> None:
    """A wrong length would make the rest of the body another answer."""
    answer = expect_refusal(plain_server, plain(upgrade()), 200, process_request=header(name, "1"))
    assert answer.body == b"welcome"
    assert wire.header_values(answer.head, "Keep-Alive") == []


def test_E13_a_hook_does_not_forge_an_upgrade(
    plain_server: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by an answer of its own nor by a change to ours."""
    caplog.set_level(logging.CRITICAL, logger="syncws.server")

    def forge(connection: Any, request: Any, response: Any) -> Any:
        del response.headers["Sec-WebSocket-Accept"]
        response.headers["Sec-WebSocket-Accept"] = KEY.decode()

    expect_refusal(plain_server, upgrade(), 500, process_response=forge)


def leaking(*_: Any) -> Any:
    """A hook that fails with a secret in its text."""
    raise RuntimeError("password=hunter2")


@pytest.mark.parametrize("name", ["process_request", "process_response"])
def test_E18_error_page_tells_nothing(
    server: Subject, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="syncws.server")
    answer = expect_refusal(server, upgrade(), 500, **{name: leaking})
    for secret in (b"hunter2", b"RuntimeError", b"Traceback", b".py"):
        assert secret not in answer.head + answer.body


@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("upgrading", [False, True])
def test_E19_peer_vanishes_while_a_hook_runs(
    plain_server: Subject, end: str, upgrading: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    entered, release = threading.Event(), threading.Event()

    def hook(connection: Any, request: Any) -> Any:
        entered.set()
        release.wait(PATIENCE)
        return None if upgrading else connection.respond(200, "x" * 1_000_000)

    peer = wire.dial(plain_server.address(process_request=hook))
    peer.send(upgrade())
    assert entered.wait(PATIENCE)
    peer.reset() if end == "RST" else peer.close()
    release.set()
    server = plain_server.server(process_request=hook)
    settle(lambda: len(server.connections) + len(server._sessions) + len(server._openings), 0)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
