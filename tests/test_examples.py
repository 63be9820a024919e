"""Every example runs as its first lines say, and does what it says."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import syncws

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
PATIENCE = 30.0
# The package under test, wherever it was imported from.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(syncws.__file__))}


def output_of(name: str, *arguments: str) -> str:
    """What an example prints; it must succeed and complain about nothing."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextlib.contextmanager
def server(name: str) -> Iterator[str]:
    """The URL of an example that serves until it is interrupted."""
    command = [sys.executable, str(EXAMPLES / name), "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on ws://")
            yield line.split()[-1]
            process.send_signal(signal.SIGINT)
            output, error = process.communicate(timeout=PATIENCE)
            assert (process.returncode, output, error) == (0, "shutting down\n", "")
        finally:
            process.kill()


def test_all_examples_are_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "chat_server.py",
        "checksum_extension.py",
        "echo_server.py",
        "full_duplex.py",
        "hello_client.py",
        "routed_server.py",
        "tls_echo.py",
        "zstd_extension.py",
    }


def test_hello_client_talks_to_echo_server() -> None:
    with server("echo_server.py") as url:
        output = output_of("hello_client.py", url)
    assert output.startswith("received: Hello!\nthe connection's latency is ")


def test_chat_server_tells_everybody() -> None:
    with server("chat_server.py") as url:
        with syncws.connect(url) as first:
            assert first.recv(timeout=PATIENCE) == "guest 1 has come"
            with syncws.connect(url) as second:
                for ws in (first, second):
                    assert ws.recv(timeout=PATIENCE) == "guest 2 has come"
                second.send("hi")
                second.send(b"not shown")
                second.send("bye")
                for ws in (first, second):
                    assert ws.recv(timeout=PATIENCE) == "guest 2: hi"
                    assert ws.recv(timeout=PATIENCE) == "guest 2: bye"
            assert first.recv(timeout=PATIENCE) == "guest 2 has left"


def page(url: str, path: str) -> tuple[int, str]:
    """Status and body of a plain HTTP request to a WebSocket server."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_routed_server() -> None:
    with server("routed_server.py") as url:
        assert page(url, "/health") == (200, "fine\n")
        assert page(url, "/")[1].startswith("<!doctype html>")
        for path in ("/nothing", "/rooms/7", "/%72ooms/7", "/health?x", "http://localhost/rooms/7"):
            assert page(url, path)[0] == 401
        with syncws.connect(
            url.replace("://", "://guest:correct%20horse%20battery%20staple@") + "rooms/7"
        ) as ws:
            assert ws.recv(timeout=PATIENCE) == "welcome to room 7, guest"
            ws.send("hi")
            assert ws.recv(timeout=PATIENCE) == "room 7: 'hi'"


def test_tls_echo() -> None:
    assert output_of("tls_echo.py") == "received: Hello over TLS!\n"


def test_full_duplex() -> None:
    assert output_of("full_duplex.py") == "200 messages went out and came back in order\n"


def test_checksum_extension() -> None:
    """More of it in test_extension_examples.py."""
    assert output_of("checksum_extension.py") == (
        "agreed on: permessage-checksum, permessage-deflate\n{'appended': 3, 'verified': 3}\n"
    )


def test_zstd_extension() -> None:
    output = output_of("zstd_extension.py")
    agreed, sizes = output.splitlines()
    assert agreed == "agreed on: permessage-zstd; max_window_log=17"
    before, after = (int(word) for word in sizes.split() if word.isdigit())
    assert before == 8890 and after < 2000
