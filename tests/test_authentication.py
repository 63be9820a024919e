"""basic_auth(): who is let in, and what the others learn."""

from __future__ import annotations

import base64
import hmac
import logging
import socket
from typing import Any

import pytest
from upgrading import upgrade

import syncws
from syncws import basic_auth
from syncws.server_connection import PendingConnection
from syncws.transport import Transport


def authorization(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return "Basic " + base64.b64encode(data).decode()


def ask(hook: Any, *values: str) -> tuple[syncws.Response | None, PendingConnection]:
    """What the hook says to a request with these ``Authorization`` headers."""
    request = upgrade(extra="".join(f"Authorization: {value}\r\n" for value in values))
    sock = socket.socket()
    transport = Transport(sock)
    sock.close()
    connection = PendingConnection(request, transport, logging.getLogger("test"))
    return hook(connection, request), connection


HOOK = basic_auth("staff", [("jo", "secret"), ("zo\u00eb", "p\u00e4ss:word"), ("empty", "")])


@pytest.mark.parametrize(
    ("text", "username"),
    [("jo:secret", "jo"), ("zo\u00eb:p\u00e4ss:word", "zo\u00eb"), ("empty:", "empty")],
)
def test_the_right_password(text: str, username: str) -> None:
    for value in (authorization(text), authorization(text).replace("Basic ", "bAsIC   ")):
        response, connection = ask(HOOK, value)
        assert response is None
        assert connection.username == username


BAD: dict[str, list[str]] = {
    "none": [],
    "two": [authorization("jo:secret")] * 2,
    "empty": [""],
    "another scheme": ["Bearer am86c2VjcmV0"],
    "no value": ["Basic"],
    "wrong password": [authorization("jo:secre")],
    "longer password": [authorization("jo:secrets")],
    "another case": [authorization("JO:secret")],
    "no password": [authorization("jo:")],
    "no colon": [authorization("jo")],
    "unknown user": [authorization("al:secret")],
    "password of another": [authorization("jo:p\u00e4ss:word")],
    "no base64": ["Basic !!!!"],
    "bad padding": ["Basic am86c2VjcmV0="],
    "one digit": ["Basic a"],
    "url-safe base64": ["Basic _-8="],
    "not UTF-8": [authorization(b"jo:\xff")],
    "latin-1": [authorization("zo\u00eb:p\u00e4ss:word".encode("latin-1"))],
    "control character": [authorization("jo:sec\nret")],
    "E17 control character of C1": [authorization("j\u009b2J:secret")],
    "trailing text": [authorization("jo:secret") + " x"],
}


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_anything_else_is_a_401(values: list[str]) -> None:
    response, connection = ask(HOOK, *values)
    assert response is not None
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="staff", charset="UTF-8"'
    assert b"jo" not in response.body
    assert connection.username is None


def test_e16_each_attempt_does_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """One comparison of 32 bytes, in constant time, whatever user and however right."""
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(left: Any, right: Any) -> bool:
        assert isinstance(left, bytes) and isinstance(right, bytes)
        compared.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    password = "0123456789abcdef0123456789abcdef"
    hook = basic_auth("", ("jo", password))
    attempts = [password[:length] for length in range(32)]
    attempts += [attempt.ljust(32, "x") for attempt in attempts]
    for username in ("jo", "nobody"):
        for attempt in attempts:
            response, _ = ask(hook, authorization(f"{username}:{attempt}"))
            assert response is not None
    assert ask(hook, authorization(f"jo:{password}"))[0] is None
    assert compared == [(32, 32)] * (2 * len(attempts) + 1)


def test_e16_a_realm_is_escaped() -> None:
    response, _ = ask(basic_auth('a "b" \\ c', ("jo", "secret")))
    assert response is not None
    expected = r'Basic realm="a \"b\" \\ c", charset="UTF-8"'
    assert response.headers["WWW-Authenticate"] == expected


@pytest.mark.parametrize("realm", ["a\r\nSet-Cookie: b", "a\0", "\u00e9", "\x7f"])
def test_e16_a_realm_that_cannot_be_sent(realm: str) -> None:
    with pytest.raises(ValueError, match="realm"):
        basic_auth(realm, ("jo", "secret"))


def test_a_function_that_checks() -> None:
    asked: list[tuple[str, str]] = []

    def check(username: str, password: str) -> bool:
        asked.append((username, password))
        return password == "good"

    hook = basic_auth(check_credentials=check)
    assert ask(hook, authorization("jo:good"))[1].username == "jo"
    assert ask(hook, authorization("jo:bad"))[1].username is None
    assert ask(hook)[0] is not None
    assert asked == [("jo", "good"), ("jo", "bad")]


def test_a_function_that_lets_everybody_in_by_mistake() -> None:
    """A coroutine is true."""
    hook = basic_auth(check_credentials=lambda username, password: "yes")  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="not a bool"):
        ask(hook, authorization("jo:x"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"credentials": ("a", "b"), "check_credentials": lambda *_: True}, TypeError),
        ({"check_credentials": "x"}, TypeError),
        ({"credentials": ("a", "b", "c")}, TypeError),
        ({"credentials": [("a",)]}, TypeError),
        ({"credentials": [("a", b"b")]}, TypeError),
        ({"credentials": ["ab"]}, TypeError),
        ({"credentials": ("a:b", "c")}, ValueError),
        ({"credentials": ("a", "c\n")}, ValueError),
        ({"realm": b"x", "credentials": ("a", "b")}, TypeError),
    ],
)
def test_a_bad_argument(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        basic_auth(**arguments)
    assert "a:b" not in str(raised.value)


def test_f9c_no_password_is_shown() -> None:
    hook: Any = basic_auth("staff", ("jo", "secret"))
    cells = [cell.cell_contents for cell in hook.__closure__]
    assert "<1 passwords>" in map(repr, cells)
    assert "secret" not in repr(cells)


def test_with_a_server_and_a_client() -> None:
    def handler(ws: syncws.ServerConnection) -> None:
        ws.send(ws.username or "")

    with syncws.serve(handler, "127.0.0.1", process_request=HOOK) as server:
        with syncws.connect(server.url.replace("://", "://jo:secret@")) as ws:
            assert ws.recv(10) == "jo"
        with pytest.raises(syncws.InvalidStatus) as raised:
            syncws.connect(server.url.replace("://", "://jo:wrong@"))
        assert raised.value.response.status_code == 401
