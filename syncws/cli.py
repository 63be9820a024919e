"""``python -m syncws``: an interactive client, and the demo.

What belongs here: the command line, the terminal, and what the demo shows. What does not:
anything a program would import; it has the functions of the package for that.

The main thread receives and prints; a daemon thread reads the standard input and sends.
So an interrupt finds the main thread in ``recv()``, where it takes effect at once, and the
end of the connection need not interrupt a read of the terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import platform
import re
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .client import connect
from .connection import Connection
from .exceptions import ConnectionClosed, ConnectionClosedOK, WebSocketError
from .server import serve
from .version import version

__all__ = ["main"]

PROMPT = "> "
# What a terminal obeys (C0, DEL, C1), and what reorders the text around it.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_ERASE_LINE = "\r\x1b[K"
# A message that came between two lines has shown a prompt already. readline counts what
# stands between these marks as no column.
_UNCOUNTED = "\x01{}\x02"
# As much of a binary message as fits on a line.
_SHOWN_BYTES = 32
_LINGER = 1.0
_INTERRUPTED = 130  # what shells report for a program ended by SIGINT

_DESCRIPTION = """\
Talks to a WebSocket server: sends each line of the standard input as a text message, and
prints each message received on a line of its own, with control characters escaped.
The end of the input (Ctrl-D) and Ctrl-C close the connection.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        The exit status: 0 if all went well and the connection was closed normally.

    Raises:
        SystemExit: The arguments make no sense, or ask for help or the version.
    """
    options = _parser().parse_args(arguments)
    try:
        return _demo() if options.uri == "demo" else _client(options)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m syncws",
        usage="%(prog)s [options] URI | demo",
        description=_DESCRIPTION,
        epilog='"demo" runs a server, a conversation with it, and a measurement, in this process.',
    )
    parser.add_argument("uri", metavar="URI", help="ws:// or wss://, or the word demo")
    parser.add_argument("--version", action="version", version=f"syncws {version}")
    parser.add_argument("--origin", help="the Origin header (default: none)")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        type=_header,
        help="one more header; may be repeated",
    )
    parser.add_argument(
        "--subprotocol",
        action="append",
        metavar="NAME",
        help="may be repeated, in order of preference",
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="trust the certificates in FILE instead of those of the system",
    )
    parser.add_argument(
        "--ping-interval",
        type=_seconds,
        default=20,
        metavar="SECONDS",
        help="between keepalive pings (default: 20; 0: none)",
    )
    parser.add_argument(
        "--linger",
        type=_seconds,
        default=_LINGER,
        metavar="SECONDS",
        help="at the end of an input that is not a terminal, close the connection once nothing"
        " has come for so long (default: %(default)s)",
    )
    return parser


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} has no colon")
    return name, value.strip()


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value


# -- the interactive client -------------------------------------------------------


def _client(options: argparse.Namespace) -> int:
    try:
        context = None
        if options.ca_file is not None:
            context = _context(options.ca_file)
        connection = connect(
            options.uri,
            ssl=context,
            origin=options.origin,
            subprotocols=options.subprotocol,
            additional_headers=options.header,
            ping_interval=options.ping_interval or None,
        )
    except (WebSocketError, OSError, ValueError, ImportError) as error:
        _say(f"Cannot connect: {error}")
        # An argument that makes no sense, or what was met on the way: a certificate that cannot
        # be verified is an OSError and a ValueError, too.
        return 2 if isinstance(error, ValueError) and not isinstance(error, OSError) else 1
    with _terminal_kept():
        return _Conversation(connection, options.linger).run()


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ValueError(f"--ca-file {ca_file}: {error.strerror or error}") from error


class _Conversation:
    """One connection between the standard input and the standard output."""

    def __init__(self, connection: Connection, linger: float) -> None:
        self.connection = connection
        self.linger = linger
        # With both ends at a terminal there is a prompt, and a line being typed.
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        # Importing it gives input() its line editing. Some systems have none.
        self.readline = _optional_module("readline") if self.interactive else None
        self.received = 0  # messages; written by the main thread only

    def run(self) -> int:
        """Until the connection is closed; the exit status."""
        sending = threading.Thread(target=self._send_lines, name="syncws-stdin", daemon=True)
        subprotocol = self.connection.subprotocol
        try:
            _say("Connected." if subprotocol is None else f"Connected, subprotocol {subprotocol}.")
            sending.start()
            for message in self.connection:
                self._print(message)
        except ConnectionClosed:
            pass  # reported below, like the normal end of the loop
        except KeyboardInterrupt:
            self.connection.close()  # a second interrupt ends this, too
        except BrokenPipeError:
            # Nobody reads our output. Python would complain again when it flushes.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            self.connection.close()
        return self._report()

    def _report(self) -> int:
        while True:
            try:
                self.connection.recv()  # what came before the end, after an interrupt
            except ConnectionClosed as closed:
                if self.interactive:
                    sys.stdout.write(_ERASE_LINE)
                    sys.stdout.flush()
                _say(f"Connection closed: {closed}.")
                return 0 if isinstance(closed, ConnectionClosedOK) else 1

    def _print(self, message: str | bytes) -> None:
        self.received += 1
        if isinstance(message, str):
            text = _escaped(message)
        else:
            dots = "..." if len(message) > _SHOWN_BYTES else ""
            text = f"(binary, {len(message)} bytes) {message[:_SHOWN_BYTES].hex(' ')}{dots}"
        if self.interactive:
            # The line being typed is torn apart: show it again.
            typed = "" if self.readline is None else self.readline.get_line_buffer()
            text = f"{_ERASE_LINE}< {text}\n{PROMPT}{typed}"
        else:
            text += "\n"
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()

    # -- in the thread that reads the standard input ------------------------------

    def _send_lines(self) -> None:
        try:
            for line in self._typed_lines() if self.interactive else _piped_lines():
                try:
                    self.connection.send(line if isinstance(line, str) else line.decode())
                except UnicodeError:
                    _say("Not sent: the line is not valid in the encoding of the input.")
            if not sys.stdin.isatty():
                self._linger()
            self.connection.close()
        except ConnectionClosed:
            pass  # the main thread reports it

    def _typed_lines(self) -> Iterator[str]:
        erase = _ERASE_LINE if self.readline is None else _UNCOUNTED.format(_ERASE_LINE)
        with contextlib.suppress(EOFError):
            while True:
                yield input(erase + PROMPT)

    def _linger(self) -> None:
        """Waits for answers to what was sent."""
        seen = -1
        while seen != self.received and self.connection.connected:
            seen = self.received
            self.connection.wait_closed(self.linger)


def _piped_lines() -> Iterator[bytes]:
    """The lines, as soon as each is there.

    Without ``sys.stdin.buffer``, whose lock this thread would still hold at the exit of the
    interpreter, which is fatal.
    """
    descriptor = sys.stdin.fileno()
    rest = b""
    while data := os.read(descriptor, 65536):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest


@contextlib.contextmanager
def _terminal_kept() -> Iterator[None]:
    """Leaves the terminal as it was, although a thread may be editing a line."""
    termios = _optional_module("termios")
    if termios is None or not sys.stdin.isatty():
        yield
        return
    attributes = termios.tcgetattr(sys.stdin.fileno())
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, attributes)


def _optional_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _say(text: str) -> None:
    """To the user, apart from the messages, which may go to another program."""
    print(_escaped(text), file=sys.stderr, flush=True)


# -- the demo ---------------------------------------------------------------------

_FLOOD = "flood"
_DONE = "done"
_MEASURE_TIME = 1.0
_PAYLOAD = os.urandom(64)
_BIG_PAYLOAD = os.urandom(2**20)


def _demo() -> int:
    print(f"syncws {version}, {platform.python_implementation()} {platform.python_version()}")
    _show()
    try:
        server_context, client_context = _certificate()
    except ImportError:
        _say("TLS is not shown: trustme is missing. Install the extra: pip install 'syncws[demo]'")
        return 1
    _show(server_context, client_context)
    print("Both ends shared one process; docs/performance.md has measurements.")
    return 0


def _certificate() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for a server on this machine and its clients, with a certificate of today.

    Raises:
        ImportError: The extra ``demo`` is not installed.
    """
    trustme = importlib.import_module("trustme")
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    return server_context, client_context


def _show(
    server_context: ssl.SSLContext | None = None, client_context: ssl.SSLContext | None = None
) -> None:
    """A server on a free port, a conversation with it, and the rates reached."""
    with serve(_answer, "localhost", 0, ssl=server_context) as server:
        print(f"\nserver on {server.url}")
        start = time.perf_counter()
        connection = connect(server.url, ssl=client_context)
        print(f"  connected in {_milliseconds(start)}")
        with connection:
            _talk(connection)
            print(f"  64-byte round trips:        {_round_trips(connection):9,.0f}/s")
            print(f"  64-byte messages received:  {_messages_received(connection):9,.0f}/s")
        print(f"  closed with code {connection.close_code}")


def _answer(connection: Connection) -> None:
    """The server's side: an echo, but for the word that asks for a flood."""
    for message in connection:
        if message != _FLOOD:
            connection.send(message)
            continue
        end = time.monotonic() + _MEASURE_TIME
        while time.monotonic() < end:
            for _ in range(100):
                connection.send(_PAYLOAD)
        connection.send(_DONE)


def _talk(connection: Connection) -> None:
    _exchange(connection, "Grüße!")
    print("  sent and received a text message")
    start = time.perf_counter()
    _exchange(connection, _BIG_PAYLOAD)
    print(f"  sent and received 1 MiB in {_milliseconds(start)}")
    start = time.perf_counter()
    connection.ping().wait()
    print(f"  ping answered in {_milliseconds(start)}")


def _exchange(connection: Connection, message: str | bytes) -> None:
    connection.send(message)
    if connection.recv() != message:
        raise RuntimeError("the server answered with something else")


def _round_trips(connection: Connection) -> float:
    count = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _MEASURE_TIME:
        for _ in range(100):
            _exchange(connection, _PAYLOAD)
        count += 100
    return count / elapsed


def _messages_received(connection: Connection) -> float:
    connection.send(_FLOOD)
    count = 0
    start = time.perf_counter()
    while True:
        messages = connection.recv_many()
        count += len(messages)
        if messages[-1] == _DONE:
            return (count - 1) / (time.perf_counter() - start)


def _milliseconds(start: float) -> str:
    return f"{(time.perf_counter() - start) * 1000:.2f} ms"
