"""``python -m syncws``: its arguments, the client in a pipe, and the demo.

These tests run ``main()`` in this process. What a terminal shows, signals, and the exit of the
program are in test_cli_program.py.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from conversing import PATIENCE, echo, join_reader, serving

import syncws
from syncws import cli


class Stdin:
    """What the client reads, from the test's side."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.file = open(self.reading)

    def write(self, data: bytes) -> None:
        os.write(self.writing, data)

    def end(self) -> None:
        if self.writing != -1:
            os.close(self.writing)
            self.writing = -1


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stdin]:
    """A pipe in place of the standard input."""
    pipe = Stdin()
    monkeypatch.setattr(sys, "stdin", pipe.file)
    yield pipe
    # Ends the thread that reads it, before the descriptor gets another meaning.
    pipe.end()
    join_reader()
    pipe.file.close()


# -- arguments --------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"syncws {syncws.__version__}\n"


def test_the_package_can_be_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["syncws", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("syncws", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("syncws ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--header", "no colon", "ws://localhost/"],
        ["--ping-interval", "-1", "ws://localhost/"],
        ["--linger", "nan", "ws://localhost/"],
    ],
)
def test_bad_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m syncws" in capsys.readouterr().err


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "complaint", "status"),
    [
        (["http://localhost/"], "not a valid WebSocket URI", 2),
        (["ws://localhost/", "--header", "Bad Name: x"], "header", 2),
        (["wss://localhost/", "--ca-file", "/does/not/exist"], "/does/not/exist: No such file", 2),
        (["wss://localhost/", "--ca-file", "/dev/null"], "--ca-file /dev/null: ", 2),
        ([f"ws://127.0.0.1:{closed_port()}/"], "refused", 1),
    ],
)
def test_what_prevents_a_connection_is_said(
    arguments: list[str], complaint: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == status
    error = capsys.readouterr().err
    assert error.startswith("Cannot connect: ")
    assert complaint.lower() in error.lower()


def test_a_proxy_that_needs_an_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_socks.sync", None)
    monkeypatch.setenv("all_proxy", "socks5h://127.0.0.1:1")
    assert cli.main(["wss://name.invalid/"]) == 1
    assert "pip install 'syncws[socks]'" in capsys.readouterr().err


def test_an_interrupt_while_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "connect", connect)
    assert cli.main(["ws://localhost/"]) == 130


def test_options_reach_the_server(stdin: Stdin, capsys: pytest.CaptureFixture[str]) -> None:
    requests = []

    def handler(ws: syncws.Connection) -> None:
        requests.append(ws.request)

    arguments = ["--origin", "https://example.org", "--subprotocol", "chat", "--header"]
    with serving(handler, subprotocols=["chat"], origins=["https://example.org"]) as url:
        assert cli.main([*arguments, "X-Word: a: b", url]) == 0
    assert requests[0].headers["X-Word"] == "a: b"
    assert requests[0].headers["Origin"] == "https://example.org"
    assert "Connected, subprotocol chat.\n" in capsys.readouterr().err


def test_tls_with_a_certificate_file(
    stdin: Stdin,
    tmp_path: Any,
    authority: trustme.CA,
    server_context: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stdin.write(b"secret\n")
    stdin.end()
    with serving(echo, ssl=server_context) as url:
        assert cli.main([url, "--ca-file", str(tmp_path / "ca.pem")]) == 0
    assert capsys.readouterr().out == "secret\n"


# -- in a pipe --------------------------------------------------------------------


def test_lines_go_out_and_messages_come_in(
    stdin: Stdin, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin.write("first\n\nGrüße\nno newline".encode())
    stdin.end()
    with serving(echo) as url:
        assert cli.main([url]) == 0
    output = capsys.readouterr()
    assert output.out == "first\n\nGrüße\nno newline\n"
    assert output.err.startswith("Connected.\nConnection closed: ")
    assert "1000" in output.err


def test_a_line_is_sent_when_it_is_there(stdin: Stdin) -> None:
    """Not when the input ends."""
    received = threading.Event()

    def handler(ws: syncws.Connection) -> None:
        assert ws.recv(timeout=PATIENCE) == "now"
        received.set()

    stdin.write(b"now\n")
    with serving(handler) as url:
        assert cli.main([url]) == 0
    assert received.is_set()


def test_answers_are_waited_for_at_the_end_of_the_input(
    stdin: Stdin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lingering, shown = threading.Semaphore(0), threading.Semaphore(0)
    waits: list[float | None] = []
    show = cli._Conversation._print

    def handler(ws: syncws.Connection) -> None:
        ws.recv()
        # Who reads answers a close frame at once, and could not send any more.
        reading = threading.Thread(target=list, args=(ws,))
        reading.start()
        for number in range(3):
            assert lingering.acquire(timeout=PATIENCE)
            ws.send(str(number))
        reading.join()

    def shown_now(conversation: cli._Conversation, message: str | bytes) -> None:
        show(conversation, message)
        shown.release()

    def wait_closed(ws: syncws.Connection, timeout: float | None = None) -> bool:
        # Each answer comes while it waits, however late that is, and behind the last one none.
        waits.append(timeout)
        lingering.release()
        return len(waits) <= 3 and not shown.acquire(timeout=PATIENCE)

    monkeypatch.setattr(cli._Conversation, "_print", shown_now)
    monkeypatch.setattr(syncws.Connection, "wait_closed", wait_closed)
    stdin.write(b"question\n")
    stdin.end()
    with serving(handler) as url:
        assert cli.main([url, "--linger", "1.5"]) == 0
    assert capsys.readouterr().out == "0\n1\n2\n"
    assert waits == [1.5] * 4


def test_a_line_that_is_not_text_is_not_sent(
    stdin: Stdin, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin.write(b"\xff\xfe\nfine\n")
    stdin.end()
    with serving(echo) as url:
        assert cli.main([url]) == 0
    output = capsys.readouterr()
    assert output.out == "fine\n"
    assert "Not sent" in output.err


def test_a_peer_cannot_drive_the_terminal(stdin: Stdin, capsys: pytest.CaptureFixture[str]) -> None:
    def handler(ws: syncws.Connection) -> None:
        ws.send("\x1b]0;title\x07 \r\n \x7f \x9b2J \u202eabc ok: é 漢")
        ws.close(1000, "\x1b[2J")

    with serving(handler) as url:
        assert cli.main([url]) == 0
    output = capsys.readouterr()
    assert output.out == "\\x1b]0;title\\x07 \\r\\n \\x7f \\x9b2J \\u202eabc ok: é 漢\n"
    assert "\\x1b[2J" in output.err
    assert not re.search("[\x00-\x09\x0b-\x1f]", output.out + output.err)


def test_binary_messages_are_shown_in_hexadecimal(
    stdin: Stdin, capsys: pytest.CaptureFixture[str]
) -> None:
    def handler(ws: syncws.Connection) -> None:
        ws.send(b"\x00\x1b\xff")
        ws.send(bytes(100))

    with serving(handler) as url:
        assert cli.main([url]) == 0
    zeros = " ".join(["00"] * 32)
    assert capsys.readouterr().out == (
        f"(binary, 3 bytes) 00 1b ff\n(binary, 100 bytes) {zeros}...\n"
    )


def test_output_that_knows_only_ascii(stdin: Stdin, monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    with serving(lambda ws: ws.send("é")) as url:
        assert cli.main([url]) == 0
    assert output.getvalue() == b"\\xe9\n"


def test_output_that_nobody_reads(stdin: Stdin, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``| head -1``."""
    reading, writing = os.pipe()
    os.close(reading)

    def handler(ws: syncws.Connection) -> None:
        with contextlib.suppress(syncws.ConnectionClosed):
            while True:
                ws.send("spam", timeout=PATIENCE)

    with open(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with serving(handler) as url:
            assert cli.main([url]) == 0


def test_an_abnormal_end_is_status_1(stdin: Stdin, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda ws: ws.close(1011, "trouble")) as url:
        assert cli.main([url]) == 1
    assert "trouble" in capsys.readouterr().err


def test_the_end_of_the_connection_ends_the_client_while_it_reads_the_input(
    stdin: Stdin, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda ws: ws.send("bye")) as url:
        assert cli.main([url]) == 0
    assert capsys.readouterr().out == "bye\n"
    stdin.write(b"too late\n")  # the thread that reads it must end all the same
    join_reader()


def test_an_interrupt_closes_the_connection(
    stdin: Stdin, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = []

    def handler(ws: syncws.Connection) -> None:
        ws.recv()  # now the client is in its loop
        os.kill(os.getpid(), signal.SIGINT)
        ws.wait_closed(PATIENCE)
        codes.append(ws.close_code)

    stdin.write(b"go\n")
    with serving(handler) as url:
        assert cli.main([url]) == 0
    assert codes == [1000]
    assert "Connection closed: sent 1000" in capsys.readouterr().err


def test_a_second_interrupt_ends_it_at_once(stdin: Stdin, monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(ws: syncws.Connection) -> None:
        ws.recv()
        os.kill(os.getpid(), signal.SIGINT)
        ws.wait_closed(PATIENCE)

    def close(connection: syncws.Connection) -> None:
        connection.abort()
        raise KeyboardInterrupt

    stdin.write(b"go\n")
    with serving(handler) as url:
        monkeypatch.setattr(syncws.Connection, "close", close)
        assert cli.main([url]) == 130
        monkeypatch.undo()


# -- the demo ---------------------------------------------------------------------


def test_the_demo_in_a_hurry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_MEASURE_TIME", 0.02)
    assert cli.main(["demo"]) == 0
    output = capsys.readouterr().out
    assert re.findall("server on (wss?)://", output) == ["ws", "wss"]
    assert output.count("closed with code 1000") == 2
    rates = [float(rate.replace(",", "")) for rate in re.findall(r"([\d,]+)/s", output)]
    assert len(rates) == 4
    assert min(rates) > 0


def test_the_demo_without_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_MEASURE_TIME", 0.02)
    monkeypatch.setitem(sys.modules, "trustme", None)
    assert cli.main(["demo"]) == 1
    output = capsys.readouterr()
    assert output.out.count("closed with code 1000") == 1
    assert "pip install 'syncws[demo]'" in output.err


def test_the_demo_notices_a_wrong_answer() -> None:
    with serving(lambda ws: ws.send("other")) as url, syncws.connect(url) as ws:
        with pytest.raises(RuntimeError, match="something else"):
            cli._exchange(ws, "this")
