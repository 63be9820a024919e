"""``python -m syncws`` as a person meets it: at a terminal, interrupted, and ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conversing import PATIENCE, join_reader, serving

import syncws
from syncws import cli


class Terminal:
    """A pseudo-terminal: what a person would type and see."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self._seen = b""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str) -> str:
        """Waits until ``text`` is on the screen; all up to there since the last time."""
        wanted = text.encode()
        while wanted not in self._seen:
            self._seen += os.read(self.master, 4096)
        before, _, self._seen = self._seen.partition(wanted)
        return (before + wanted).decode()

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    join_reader()
    terminal.close()


@contextlib.contextmanager
def standard_streams(terminal: Terminal) -> Iterator[None]:
    """Those of this process; not a fixture, for pytest exchanges them before the call."""
    with (
        open(terminal.slave, closefd=False) as reading,
        open(terminal.slave, "w", closefd=False) as writing,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        monkeypatch.setattr(sys, "stdin", reading)
        monkeypatch.setattr(sys, "stdout", writing)
        monkeypatch.setattr(sys, "stderr", writing)
        yield
        join_reader()


@pytest.mark.parametrize("missing", [None, "readline", "termios"])
def test_a_conversation_at_a_terminal(
    terminal: Terminal, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)
    terminal.type("hello\n")

    def handler(ws: syncws.Connection) -> None:
        ws.send(f"you said: {ws.recv()}")
        ws.wait_closed(PATIENCE)

    def person() -> None:
        terminal.expect("< you said: hello")
        terminal.type("\x04")
        terminal.expect("Connection closed: sent 1000")

    typing = threading.Thread(target=person)
    typing.start()
    with serving(handler) as url, standard_streams(terminal):
        assert cli.main([url]) == 0
    typing.join()


@contextlib.contextmanager
def program(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    # The package under test, not what the working directory may hold.
    command = [sys.executable, "-P", "-m", "syncws", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(cli.__file__))}
    environment |= {"TERM": "dumb", "INPUTRC": os.devnull}  # for the tests at a terminal
    with subprocess.Popen(command, env=environment, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def own_terminal() -> None:
    """In the child: its terminal is the one that can interrupt it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextlib.contextmanager
def program_at(terminal: Terminal, url: str) -> Iterator[subprocess.Popen[bytes]]:
    slave = terminal.slave
    with program(url, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal) as process:
        yield process


def test_a_message_that_comes_while_a_line_is_typed(terminal: Terminal) -> None:
    typed = threading.Event()
    received = []

    def handler(ws: syncws.Connection) -> None:
        typed.wait(PATIENCE)
        ws.send("news")
        received.append(ws.recv(timeout=PATIENCE))
        ws.wait_closed(PATIENCE)

    with serving(handler) as url, program_at(terminal, url) as process:
        terminal.expect("> ")
        terminal.type("hal")
        terminal.expect("hal")
        typed.set()
        # The line is shown again below the message, and can be edited on.
        terminal.expect("< news\r\n> hal")
        terminal.type("\x7fllo\n")
        while not received:
            time.sleep(0.01)
        terminal.type("\x03")
        assert process.wait(PATIENCE) == 0
        terminal.expect("Connection closed: sent 1000")
    assert received == ["hallo"]


@pytest.mark.parametrize("missing", [None, "readline"])
def test_a_greeting_that_comes_at_once_leaves_one_prompt(
    terminal: Terminal, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the greeting or the prompt is first, the prompt stands once on the last line."""
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)
    greeted = threading.Event()
    typed_lines = cli._Conversation._typed_lines

    def late(conversation: cli._Conversation) -> Iterator[str]:
        greeted.wait(PATIENCE)
        return typed_lines(conversation)

    monkeypatch.setattr(cli._Conversation, "_typed_lines", late)
    shown = []

    def person() -> None:
        terminal.expect("< hi\r\n> ")
        greeted.set()
        shown.append(terminal.expect("> "))
        terminal.type("\x04")
        terminal.expect("Connection closed: sent 1000")

    def handler(ws: syncws.Connection) -> None:
        ws.send("hi")
        ws.wait_closed(PATIENCE)

    typing = threading.Thread(target=person)
    typing.start()
    with serving(handler) as url, standard_streams(terminal):
        assert cli.main([url]) == 0
    typing.join()
    assert shown[0].translate({1: None, 2: None}) == "\r\x1b[K> "


def test_the_terminal_is_left_as_it_was(terminal: Terminal) -> None:
    """Although the connection ends while a line is being edited."""
    prompted = threading.Event()

    def handler(ws: syncws.Connection) -> None:
        prompted.wait(PATIENCE)

    before = termios.tcgetattr(terminal.slave)
    with serving(handler) as url, program_at(terminal, url) as process:
        terminal.expect("> ")
        terminal.type("unfinished")
        terminal.expect("unfinished")
        prompted.set()
        assert process.wait(PATIENCE) == 0
    assert termios.tcgetattr(terminal.slave) == before


def test_an_interrupt_of_the_program_in_a_pipe() -> None:
    with (
        serving(lambda ws: ws.wait_closed(PATIENCE)) as url,
        program(url, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        assert process.stderr is not None
        assert process.stderr.readline() == b"Connected.\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert b"Connection closed: sent 1000" in error
    assert b"Traceback" not in error


def test_the_program_ends_while_a_thread_reads_its_input() -> None:
    """That thread must not hold a lock that the interpreter needs to exit."""
    with (
        serving(lambda ws: ws.send("bye")) as url,
        program(url, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.read() == b"bye\n"
        assert process.wait(PATIENCE) == 0


def test_the_demo_as_a_program() -> None:
    with program("demo", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, error = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0
    assert error == b""
    assert output.count(b"closed with code 1000") == 2
