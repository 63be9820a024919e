"""Ctrl-C at random moments of every blocking call.

After each interruption a second thread uses the connection: it would hang on a lock that
the main thread still holds. What the peer echoes must be what was sent, in order.

Arguments: URL, number of interruptions, seed, "once" or "storm" or "exception".
Prints a JSON object.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import faulthandler
import json
import os
import random
import signal
import ssl
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import syncws

URL, COUNT, SEED, MODE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
# Made once: reading the certificates of the system takes milliseconds.
CONTEXT = ssl._create_unverified_context() if URL.startswith("wss") else None
PATIENCE = 10.0

source = random.Random(SEED)
counts: collections.Counter[str] = collections.Counter()
# Whether an interruption is ordered, and the seconds to the next one, if there is one.
active, interval = False, 0.0
numbers = iter(range(10**9))


class Crash(Exception):
    """Something that must not happen."""


def connect() -> Any:
    return syncws.connect(URL, ssl=CONTEXT, max_size=None)


class Conversation:
    """A connection to an echo server, and what was sent over it."""

    def __init__(self) -> None:
        self.connection = connect()
        self.highest = -1  # the number of the last echo

    def receive(self, timeout: float) -> int:
        """Takes a message and checks it."""
        message = self.connection.recv(timeout)
        number, _, filling = message.partition(b":")
        if filling.strip(b"x") or int(number) <= self.highest:
            raise Crash(f"{message[:40]!r} of {len(message)} bytes after {self.highest}")
        self.highest = int(number)
        return self.highest

    def send(self, size: int) -> int:
        number = next(numbers)
        self.connection.send(b"%d:" % number + b"x" * size, timeout=PATIENCE)
        return number

    def send_fragments(self) -> int:
        number = next(numbers)
        self.connection.send(iter([b"%d:" % number, b"x" * 100, b"x" * 5000]), timeout=PATIENCE)
        return number

    def ping(self) -> None:
        self.connection.ping().wait(PATIENCE)

    def echo(self) -> None:
        sent = self.send(10)
        while self.receive(PATIENCE) < sent:
            pass

    def idle(self) -> None:
        with contextlib.suppress(TimeoutError):
            self.receive(0.02)

    def reopen(self) -> None:
        self.connection.close()
        self.connection = connect()


def guarded(operation: Callable[[], Any]) -> None:
    """Signals interrupt what is called from here, and nothing else."""
    operation()


def ignore(unraisable: object) -> None:
    """An exception in a finalizer cannot leave it; Python would print it."""
    if active:
        # What it was to interrupt may go on until it is interrupted.
        signal.setitimer(signal.ITIMER_REAL, 0.0001, interval)


def handle(number: int, frame: types.FrameType | None) -> None:
    """Ctrl-C, but only inside of ``guarded()``, and not inside of ``ignore()``."""
    outer = frame.f_back if frame is not None else None
    if frame is not None and frame.f_code is ignore.__code__:
        outer = None
    while outer is not None and outer.f_code is not ignore.__code__:
        if outer.f_code is guarded.__code__:
            raise KeyboardInterrupt
        outer = outer.f_back
    if active:
        # Too early: again in a moment.
        signal.setitimer(signal.ITIMER_REAL, 0.0001, interval)


def interrupt(operation: Callable[[], Any], delay: float, pause: float) -> None:
    """Raises KeyboardInterrupt in ``operation`` after ``delay`` seconds, maybe again."""
    global active, interval
    active, interval = True, pause
    signal.setitimer(signal.ITIMER_REAL, delay, pause)
    try:
        guarded(operation)
    except KeyboardInterrupt:
        counts["interrupts"] += 1
    except syncws.ConnectionClosed:
        pass
    finally:
        active = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def in_other_thread(function: Callable[[], None]) -> None:
    """Runs ``function`` where no lock of the main thread helps."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        faulthandler.dump_traceback(all_threads=True)
        os._exit(3)
    if errors:
        raise errors[0]


def check(conversation: Conversation) -> None:
    """The connection works or says at once that it is broken."""
    sent: list[int] = []

    def use() -> None:
        started = time.monotonic()
        try:
            sent.append(conversation.send(10))
            sent.append(conversation.send(100_000))  # by the way of long messages
            conversation.ping()
        except syncws.ConnectionClosed:
            if time.monotonic() - started > 1:
                raise Crash("a broken connection does not say so at once") from None
            raise

    def receive() -> None:
        while conversation.receive(PATIENCE) < sent[-1]:
            pass

    try:
        in_other_thread(use)
        in_other_thread(receive)
    except syncws.ConnectionClosed as error:
        closed = error.sent is not None and error.sent.code == 1000
        counts["closed" if closed else "broken"] += 1
        counts[f"{error.explanation or error}"] += 1
        conversation.connection.close()
        conversation.connection = connect()


def interrupt_main_thread() -> None:
    conversation = Conversation()
    operations: list[Callable[[], Any]] = [
        lambda: conversation.send(10),
        lambda: conversation.send(300_000),
        conversation.send_fragments,
        conversation.ping,
        conversation.echo,
        conversation.echo,
        conversation.idle,
        conversation.reopen,
    ]
    while counts["interrupts"] < COUNT:
        operation = source.choice(operations)
        longest = 0.02 if operation == conversation.idle else 0.0006
        pause = source.choice([0.00005, 0.0003]) if MODE == "storm" else 0.0
        # Some go on until the timer fires, so that it always fires inside.
        forever = source.random() < 0.5

        def work(operation: Callable[[], Any] = operation, forever: bool = forever) -> None:
            operation()
            while forever:
                conversation.echo()

        interrupt(work, source.uniform(0.00001, longest), pause)
        check(conversation)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    conversation.connection.close()


def raise_in_thread() -> None:
    """The same by PyThreadState_SetAsyncExc in a thread that is not the main one."""
    conversation = Conversation()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raise_in.argtypes = [ctypes.c_ulong, ctypes.py_object]
    while counts["interrupts"] < COUNT:
        started = threading.Event()

        def work(started: threading.Event = started) -> None:
            try:
                started.set()
                while True:
                    conversation.echo()
                    conversation.send(200_000)
            except (KeyboardInterrupt, syncws.ConnectionClosed):
                counts["interrupts"] += 1

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        started.wait()
        time.sleep(source.uniform(0.0, 0.002))
        raise_in(thread.ident, KeyboardInterrupt)
        thread.join(PATIENCE)
        if thread.is_alive():
            raise Crash("a thread does not end")
        check(conversation)
    conversation.connection.close()


signal.signal(signal.SIGALRM, handle)
sys.unraisablehook = ignore
if MODE == "exception":
    raise_in_thread()
else:
    interrupt_main_thread()
print(json.dumps(counts))
