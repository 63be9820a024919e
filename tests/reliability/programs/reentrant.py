"""A signal handler that uses the connection in the middle of any call on it.

Arguments: URL, number of signals, seed, "use" or "close".
Prints a JSON object: what the handler's calls came to.
"""

from __future__ import annotations

import collections
import json
import random
import signal
import ssl
import sys
from typing import Any

import syncws

URL, COUNT, SEED, MODE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
# Made once: reading the certificates of the system takes milliseconds.
CONTEXT = ssl._create_unverified_context() if URL.startswith("wss") else None
PATIENCE = 10.0

source = random.Random(SEED)
counts: collections.Counter[str] = collections.Counter()


def connect() -> Any:
    return syncws.connect(URL, ssl=CONTEXT)


connection = connect()


def handle(number: int, frame: object) -> None:
    """Runs between two bytecodes of whatever the main thread is doing."""
    counts["signals"] += 1
    calls = {
        "send": lambda: connection.send("handler:", timeout=PATIENCE),
        "send long": lambda: connection.send("handler:" + "x" * 100_000, timeout=PATIENCE),
        "ping": lambda: connection.ping(),
        "recv": lambda: connection.recv(0),
        "close": lambda: connection.close(),
    }
    name = "close" if MODE == "close" else source.choice(["send", "send long", "ping", "recv"])
    try:
        calls[name]()
        counts[f"{name}: done"] += 1
    except RuntimeError as error:
        assert isinstance(error, syncws.ConcurrencyError), error
        counts[f"{name}: refused"] += 1
    except TimeoutError:
        assert name == "recv"
    except syncws.ConnectionClosed:
        # A peer may have closed; by ourselves only in the other mode.
        if MODE != "close":
            raise
    # The handler alone ends the signals: one that is pending while the main program stops the
    # timer would start it again.
    if counts["signals"] < COUNT:
        signal.setitimer(signal.ITIMER_REAL, source.uniform(0.0001, 0.002))


def converse() -> None:
    """Echoes; those of the handler come in between, whole."""
    sent = taken = 0
    while counts["signals"] < COUNT:
        connection.send(f"main:{sent}", timeout=PATIENCE)
        sent += 1
        if sent % 20 == 0:
            connection.send("padding:" + "x" * 150_000, timeout=PATIENCE)
        for _ in range(10):
            kind, _, rest = connection.recv(PATIENCE).partition(":")
            if kind == "main":
                # One that the handler took is missing here.
                assert taken <= int(rest) < sent, (taken, rest)
                taken = int(rest) + 1
            else:
                assert kind in ("handler", "padding"), kind
                assert len(rest) in (0, 100_000, 150_000), len(rest)
            if taken == sent:
                break
            if counts["recv: done"]:
                break  # it may be the one waited for
        connection.ping().wait(PATIENCE)


def drain() -> None:
    """Takes the echoes that are still on their way, so that nobody waits for room."""
    try:
        while True:
            connection.recv(0.2)
    except TimeoutError:
        pass


signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001)
if MODE == "use":
    converse()
    drain()
else:
    while counts["signals"] < COUNT:
        try:
            while counts["signals"] < COUNT:
                connection.send("x" * source.choice([1, 1000, 100_000]), timeout=PATIENCE)
                connection.recv(PATIENCE)
        except syncws.ConnectionClosed:
            # Few of the signals are to be spent on what is closed already.
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert connection.wait_closed(PATIENCE)
            connection = connect()
            if counts["signals"] < COUNT:
                signal.setitimer(signal.ITIMER_REAL, source.uniform(0.0001, 0.002))
connection.close()
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(json.dumps(counts))
