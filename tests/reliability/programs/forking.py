"""What a forked child may do with its parent's connections: nothing.

Arguments: the URL of an echo server, what the child does. Prints "done".
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import syncws

URL, WHAT = sys.argv[1], sys.argv[2]
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def refused(call: Callable[[], Any]) -> None:
    started = time.monotonic()
    try:
        call()
    except syncws.ForkedConnectionError:
        assert time.monotonic() - started < 1
        return
    raise AssertionError("the child may use its parent's connection")


def echo(connection: Any) -> None:
    for message in connection:
        connection.send(message)


def in_child(work: Callable[[], None], leave: Callable[[int], object] = os._exit) -> None:
    """Runs ``work`` in a child and demands that it succeeds."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
        leave(0)
    deadline = time.monotonic() + 10
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.005)
    assert ended[1] == 0, ended


def works(connection: Any) -> None:
    connection.send("still there?")
    assert connection.recv(5) == "still there?"
    assert connection.ping().wait(5)


def use_everything() -> None:
    refused(lambda: connection.send("x"))
    refused(lambda: connection.send(b"x" * 1_000_000))
    refused(lambda: connection.send(iter(["x", "y"])))
    refused(lambda: connection.recv(1))
    refused(lambda: next(connection.recv_streaming()))
    refused(lambda: connection.recv_many(1))
    refused(connection.ping)
    refused(connection.pong)
    refused(connection.close)
    refused(connection.start_close)
    refused(connection.abort)
    refused(lambda: connection.wait_closed(1))
    refused(lambda: syncws.wait([connection], 1))
    refused(lambda: syncws.broadcast([connection], "x"))


def drop() -> None:
    global connection
    del connection
    gc.collect()


def open_another() -> None:
    with syncws.connect(URL) as mine:
        works(mine)
    with syncws.serve(echo, "127.0.0.1", 0) as server, syncws.connect(server.url) as mine:
        works(mine)


def task() -> None:
    refused(lambda: connection.send("x"))


connection = syncws.connect(URL)
works(connection)
if WHAT == "use":
    in_child(use_everything)
elif WHAT == "drop":
    in_child(drop)
elif WHAT == "exit":
    # With all the interpreter's clean-up.
    in_child(lambda: None, sys.exit)
elif WHAT == "open another":
    in_child(open_another)
elif WHAT == "reader busy":
    # The fork comes while the reader thread and a receiver are in the middle of something.
    others = [syncws.connect(URL) for _ in range(8)]
    stop = threading.Event()

    def talk(other: Any) -> None:
        while not stop.is_set():
            works(other)

    threads = [threading.Thread(target=talk, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for _ in range(10):
        in_child(open_another)
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    for other in others:
        other.close()
elif WHAT == "server":
    with syncws.serve(echo, "127.0.0.1", 0) as server:
        mine = syncws.connect(server.url)
        works(mine)
        in_child(lambda: None, sys.exit)

        def shut_down() -> None:
            server.shutdown()

        in_child(shut_down)
        works(mine)
        with syncws.connect(server.url) as fresh:
            works(fresh)
        mine.close()
elif WHAT == "server before it serves":
    server = syncws.serve(echo, "127.0.0.1", 0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        with server:
            os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    with syncws.connect(server.url) as mine:
        works(mine)
    # It has served long enough.
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    server.shutdown()
elif WHAT == "multiprocessing":
    process = multiprocessing.get_context("fork").Process(target=task)
    process.start()
    process.join(10)
    assert process.exitcode == 0, process.exitcode
elif WHAT == "masks":
    # One message each from parent and child, whose masking keys a raw peer compares.
    random.seed(0)
    child = os.fork()
    random.seed(0)
    mine = syncws.connect(URL)
    for _ in range(64):
        mine.send("child" if child == 0 else "parent")
    mine.recv(5)
    mine.close()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
else:
    raise SystemExit(f"unknown: {WHAT}")
works(connection)
connection.close()
assert connection.close_code == 1000, connection.close_code
print("done")
