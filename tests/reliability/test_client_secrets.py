"""Group F of the catalogue, what must stay secret or be random: F9c, F10c, F11c."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import random
import socket
import threading
from collections.abc import Iterator
from http.cookiejar import CookieJar
from typing import Any

import pytest

import syncws
from syncws.client_handshake import ClientHandshake
from syncws.frames import FrameEncoder, Opcode, Side
from syncws.uri import parse_uri

from . import launch
from . import peer as wire
from .subject import Subject, collect

SECRETS = ["hunter2", base64.b64encode(b"user:hunter2").decode(), "c2VjcmV0"]


def assert_clean(*texts: object) -> None:
    """No secret is in any of the texts."""
    for text in texts:
        for secret in SECRETS:
            assert secret not in str(text), text
            assert secret not in repr(text), text


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that is logged, which is looked at in the end."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert_clean(*(record.getMessage() for record in caplog.records))
    assert_clean(*(record.exc_text for record in caplog.records))


GIVEN: dict[str, Any] = {
    "additional_headers": {"Cookie": "a=hunter2", "X-Test": "1"},
    "origin": "https://origin.example",
}


def uri_with_secrets(client: Subject) -> str:
    """User information and a query."""
    return client.listener.uri.replace("://", "://user:hunter2@") + "path?token=hunter2"


def test_F9c_an_open_connection(client: Subject, logged: pytest.LogCaptureFixture) -> None:
    outcome = client.start_client(collect, uri_with_secrets(client), **GIVEN)
    with client.listener.accept(headers=[("Set-Cookie", "b=hunter2")]) as peer:
        assert b"hunter2" in peer.head
        assert SECRETS[1].encode() in peer.head
        ws = outcome.opened()
        assert_clean(ws, ws.request, ws.response, ws.request.headers, ws.response.headers)
        peer.send_close(1000)
        peer.read_until_close()
        outcome.wait()
    assert_clean(outcome.error)


ANSWERS = {
    "401": b"HTTP/1.1 401 X\r\nContent-Length: 0\r\nSet-Cookie: b=hunter2\r\n\r\n",
    "redirect": b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: ftp://user:hunter2@h/\r\n\r\n",
    "redirect to a bad port": (
        b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: ws://h:0/?hunter2\r\n\r\n"
    ),
    "nothing": b"",
    "no HTTP": b"hunter2\r\n",
    "bad accept": (
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: x\r\n\r\n"
    ),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_F9c_refusals(client: Subject, answer: bytes, logged: pytest.LogCaptureFixture) -> None:
    outcome = client.start_client(collect, uri_with_secrets(client), **GIVEN)
    with client.listener.accept_raw() as peer:
        wire.read_head(peer)
        peer.send(answer)
        peer.close()
    error: BaseException | None = outcome.wait().error
    assert isinstance(error, syncws.InvalidHandshake)
    while error is not None:
        assert_clean(error, error.args)
        assert_clean(getattr(error, "response", None))
        error = error.__cause__ or error.__context__


def test_F9c_failures_on_the_way(logged: pytest.LogCaptureFixture) -> None:
    """The URI of a host that is not there, and a proxy that is not."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{sock.getsockname()[1]}"
        for uri, proxy in [
            (f"ws://user:hunter2@{place}/?token=hunter2", None),
            ("ws://user:hunter2@name.invalid/?token=hunter2", f"http://user:hunter2@{place}"),
            ("ws://user:hunter2@name.invalid/?token=hunter2", f"socks5h://user:hunter2@{place}"),
        ]:
            with pytest.raises(ConnectionRefusedError) as caught:
                syncws.connect(uri, proxy=proxy, cookies=CookieJar())
            assert_clean(caught.value, caught.value.args)


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:hunter2@h/",
        "ws://user:hunter2@h:0/",
        "ws://user:hunter2@h/#hunter2",
        "ws://user:hunter2@h/?a b=hunter2",
        "ws://user@hunter2@h/",
        "ws://user:hunter2%ff@h/",
        "ws://user:hunter2@/",
    ],
)
def test_F9c_uris_that_are_none(uri: str) -> None:
    arguments: list[dict[str, Any]] = [
        {"uri": uri},
        {"uri": "ws://h/", "proxy": uri.replace("http:", "ftp:").replace("ws:", "http:")},
    ]
    for each in arguments:
        with pytest.raises(ValueError) as caught:
            syncws.connect(**each)
        assert_clean(caught.value, caught.value.args, caught.value.__context__)


# -- randomness -------------------------------------------------------------------


def masking_keys(count: int) -> list[bytes]:
    """Those of frames without a payload."""
    encoder = FrameEncoder(Side.CLIENT)
    return [encoder.encode(Opcode.BINARY, b"")[2:6] for _ in range(count)]


def test_F10c_masking_keys_are_uniform() -> None:
    count = launch.storm(1_000_000)
    keys = masking_keys(count)
    # Of n keys of 32 bits, n * n / 2**33 collide on average, which is a Poisson figure.
    expected = count * count / 2**33
    assert count - len(set(keys)) < expected + 10 * (expected + 1) ** 0.5
    for position in range(4):
        counts = [0] * 256
        for key in keys:
            counts[key[position]] += 1
        mean = count / 256
        chi_squared = sum((each - mean) ** 2 for each in counts) / mean
        # 255 degrees of freedom: 255, give or take 22.6; 8 times that never happens.
        assert 255 - 8 * 22.6 < chi_squared < 255 + 8 * 22.6


def test_F10c_masking_keys_do_not_depend_on_the_random_module() -> None:
    state = random.getstate()
    try:
        seen = []
        for _ in range(2):
            random.seed(0)
            seen.append(masking_keys(100))
    finally:
        random.setstate(state)
    # One is the same by chance once in 400,000 runs, two never.
    assert len(set(seen[0]) & set(seen[1])) < 2


def test_F10c_a_forked_child_has_keys_of_its_own() -> None:
    """They come in blocks: without care, parent and child would use the same block."""
    masking_keys(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writing, b"".join(masking_keys(1000)))
        os._exit(0)
    os.close(writing)
    mine = masking_keys(1000)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    theirs = [data[index : index + 4] for index in range(0, len(data), 4)]
    assert len(theirs) == 1000
    # One is the same by chance once in 4,000 runs, two hardly ever.
    assert len(set(mine) & set(theirs)) < 2


def test_F10c_threads_have_keys_of_their_own() -> None:
    found: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(masking_keys(1000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(wire.PATIENCE)
    assert len({key for keys in found for key in keys}) > 3996


def test_F11c_nonces_do_not_repeat() -> None:
    count = launch.storm(1_000_000)
    target = parse_uri("ws://h/")
    seen = set()
    for _ in range(count):
        seen.add(ClientHandshake(target).request.headers["Sec-WebSocket-Key"])
    assert len(seen) == count
    assert all(len(base64.b64decode(key)) == 16 for key in list(seen)[:1000])
