"""Fixtures and the report header that all tests share.

What belongs here: certificates, the check that nothing is left behind, the turns of test
processes, and what the header of a run tells. What does not: fixtures for the tests of one module.

There is nothing here to choose the I/O path: the library reads ``SYNCWS_IO`` once, when it is
imported, so the whole suite runs once for each path (see tox.ini).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator

import pytest
import trustme
from codec_driver import levels
from syncws._codec import lib

# How long something that is about to end may take, on a machine with other things to do.
SETTLING = 10.0

# Which test runs when, if several processes test: files that all of them have, locked for each
# test. A test marked `alone` waits behind the turnstile until it has the machine for itself, and
# whoever comes later waits for it there.
_TURNSTILE = os.open(__file__, os.O_RDONLY)
_MACHINE = os.open(pathlib.Path(__file__).with_name("pairing.py"), os.O_RDONLY)


def pytest_configure() -> None:
    """Gives Ctrl-C its meaning back, and Hypothesis time.

    A shell's background jobs, and what they start, ignore Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(ImportError):  # tests/interop has no use for it
        from hypothesis import HealthCheck, settings

        # How long an example takes depends on what else the machine does.
        settings.register_profile(
            "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
        settings.load_profile("unhurried")


def pytest_report_header() -> list[str]:
    """Names what a failure may depend on."""
    path = "portable" if os.environ.get("SYNCWS_IO") == "python" else "native"
    return [f"syncws: {path} I/O path, {ssl.OPENSSL_VERSION}, {sys.implementation.cache_tag}"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Waits for its turn, before the clock of its timeout runs."""
    alone = item.get_closest_marker("alone") is not None
    fcntl.flock(_TURNSTILE, fcntl.LOCK_EX)
    try:
        fcntl.flock(_MACHINE, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    finally:
        fcntl.flock(_TURNSTILE, fcntl.LOCK_UN)
    try:
        return (yield)
    finally:
        fcntl.flock(_MACHINE, fcntl.LOCK_UN)


@pytest.fixture(params=levels())
def isa_level(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test once for each of the machine's ISA levels."""
    before = lib.syncws_isa()
    assert lib.syncws_set_isa(request.param) == request.param
    yield request.param
    lib.syncws_set_isa(before)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that exists for this run."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """The context of a server that is called localhost, 127.0.0.1 or ::1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """The context of a client that trusts ``authority`` and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def descriptors() -> dict[int, str]:
    """Open descriptors of this process, with what the system calls them where it says so."""
    found = {}
    for name in os.listdir("/dev/fd"):
        # The directory itself was open only while it was listed.
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found[int(name)] = name
    if os.path.isdir("/proc/self/fd"):
        for number in found:
            with contextlib.suppress(OSError):
                found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _leftovers(threads: set[threading.Thread], files: dict[int, str]) -> list[str]:
    new_threads = [thread.name for thread in threading.enumerate() if thread not in threads]
    now = descriptors()
    return new_threads + [
        f"descriptor {number}: {what}" for number, what in now.items() if files.get(number) != what
    ]


@pytest.fixture
def nothing_left() -> Iterator[Callable[[], None]]:
    """Fails the test if a thread or a descriptor is still there a while after it.

    What lives as long as the process (the reader thread of the clients) has to exist before:
    a test that may be the first to need it calls what it is given once that is so.
    """
    before = threading.enumerate(), descriptors()

    def start_here() -> None:
        nonlocal before
        before = threading.enumerate(), descriptors()

    yield start_here
    deadline = time.monotonic() + SETTLING
    while left := _leftovers(set(before[0]), before[1]):
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {', '.join(left)}")
        time.sleep(0.01)
