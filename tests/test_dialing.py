"""Name resolution and connecting, each before a deadline."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pairing import InThread, eventually

from syncws import dialing
from syncws.dialing import Address, connect_tcp, connect_unix, resolve
from syncws.workers import Workers

PATIENCE = 10.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Accepts nothing and refuses nothing: its queue is full, and SYNs are dropped."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(sock.getsockname())
        yield sock


@pytest.fixture
def refusing() -> Iterator[socket.socket]:
    """Bound, but not listening: connecting is refused at once."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def address_of(sock: socket.socket) -> Address:
    return Address(socket.AF_INET, socket.SOCK_STREAM, 0, sock.getsockname())


def soon(seconds: float = PATIENCE) -> float:
    return time.monotonic() + seconds


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def interrupt(condition: Callable[[], object]) -> float:
    """Ctrl-C for who waits a moment after ``condition`` is true; when it came."""
    assert eventually(condition)
    time.sleep(0.1)  # for it to wait: from outside nobody sees whether it does
    now = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
    return now


class Names:
    """Stands in for getaddrinfo() where names are concerned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = threading.Event()
        self.asked: list[str] = []
        self._real: Callable[..., Any] = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: str, port: int, *, type: int, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return self._real(host, port, type=type, flags=flags)
        self.asked.append(host)
        self.release.wait(PATIENCE)
        return self._real("127.0.0.9", port, type=type)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """A name server that does not answer before ``names.release`` is set."""
    resolvers = dialing._new_resolvers()
    monkeypatch.setattr(dialing, "_resolvers", resolvers)
    names = Names(monkeypatch)
    yield names
    names.release.set()
    resolvers.close()
    resolvers.join(PATIENCE)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_needs_no_thread(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "_resolvers", None)
    [address] = resolve(host, 80, None)
    assert address.sockaddr[:2] == (host, 80)
    assert address.type == socket.SOCK_STREAM


@pytest.mark.parametrize("deadline", [None, 1e9])
def test_a_name_is_looked_up_in_a_thread_that_ends(deadline: float | None, names: Names) -> None:
    names.release.set()
    [address] = resolve("name.invalid", 81, deadline and soon())
    assert address.sockaddr == ("127.0.0.9", 81)
    assert names.asked == ["name.invalid"]


def test_localhost() -> None:
    assert resolve("localhost", 80, soon())


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str, port: int, **_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(socket.gaierror, match="not known"):
        resolve("name.invalid", 80, soon())


def test_a_lookup_that_fails_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def fail(host: str, port: int, *, type: int, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return look_up(host, port, type=type, flags=flags)
        raise MemoryError("for the addresses")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(MemoryError, match="addresses"):
        resolve("name.invalid", 80, soon(5))


def test_a_label_too_long_for_idna_is_an_unknown_name() -> None:
    with pytest.raises(socket.gaierror, match="not a host name"):
        resolve("ü" * 70 + ".example", 80, soon())


def test_a_name_server_that_does_not_answer(names: Names) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        resolve("name.invalid", 80, soon(0.3))
    assert time.monotonic() - started < PATIENCE / 2


def test_lookups_that_hang_are_limited_and_those_given_up_are_not_made(names: Names) -> None:
    before = threading.active_count()

    def give_up(seconds: float = 0.01) -> None:
        with pytest.raises(TimeoutError):
            resolve("name.invalid", 80, soon(seconds))

    seconds = 0.01
    while len(names.asked) < dialing.RESOLVER_THREADS:
        give_up(seconds)  # maybe before its thread has come to it
        seconds *= 1.1
    for _ in range(3):
        give_up()
    assert eventually(lambda: threading.active_count() - before <= dialing.RESOLVER_THREADS)
    names.release.set()
    assert resolve("last.invalid", 80, soon())
    assert len(names.asked) == dialing.RESOLVER_THREADS + 1


def test_an_interrupt_ends_a_lookup_at_once(names: Names) -> None:
    interrupting = InThread(interrupt, lambda: names.asked)
    with pytest.raises(KeyboardInterrupt):
        resolve("name.invalid", 80, None)
    assert time.monotonic() - interrupting.result() < PATIENCE / 2


def test_a_slow_signal_handler_does_not_suspend_the_deadline(names: Names) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(0.5))
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(TimeoutError):
            resolve("name.invalid", 80, soon(1))
        timer.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_no_thread_for_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Workers, *_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Workers, "submit", fail)
    with pytest.raises(OSError, match="cannot resolve name") as raised:
        resolve("name.invalid", 80, soon())
    assert raised.value.errno == errno.EAGAIN


def test_a_forked_child_has_resolvers_of_its_own() -> None:
    before = dialing._resolvers
    try:
        dialing._after_fork_in_child()
        assert dialing._resolvers is not before
    finally:
        dialing._resolvers = before


def test_the_families_take_turns() -> None:
    """RFC 8305 section 4."""
    addresses = [
        Address(family, 1, 6, name)
        for family, name in [(10, "a"), (10, "b"), (10, "c"), (2, "d"), (2, "e")]
    ]
    assert "".join(address.sockaddr for address in dialing._take_turns(addresses)) == "adbec"


def test_connects_without_delay_and_without_nagle(listener: socket.socket) -> None:
    with connect_tcp([address_of(listener)], soon()) as sock:
        assert sock.getpeername() == listener.getsockname()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not sock.getblocking()


def test_f12c_an_address_that_is_silent_costs_a_moment(
    silent: socket.socket, listener: socket.socket
) -> None:
    descriptors = open_descriptors()
    started = time.monotonic()
    with connect_tcp([address_of(silent), address_of(listener)], soon()) as sock:
        assert sock.getpeername() == listener.getsockname()
        assert dialing.ATTEMPT_DELAY * 0.9 < time.monotonic() - started < PATIENCE / 2
        assert open_descriptors() == descriptors + 1


def test_f12c_an_address_that_refuses_costs_nothing(
    refusing: socket.socket, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "ATTEMPT_DELAY", 60.0)
    with connect_tcp([address_of(refusing), address_of(listener)], soon()) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_f12c_a_name_with_a_hundred_addresses_keeps_the_deadline(silent: socket.socket) -> None:
    descriptors = open_descriptors()
    with pytest.raises(TimeoutError):
        connect_tcp([address_of(silent)] * 100, soon(0.6))
    assert open_descriptors() == descriptors


def test_the_earlier_attempt_may_still_win(
    silent: socket.socket, refusing: socket.socket, listener: socket.socket
) -> None:
    """It is not given up when the next one begins."""

    def drain() -> None:
        time.sleep(0.5)
        for _ in range(2):
            silent.accept()[0].close()

    thread = threading.Thread(target=drain)
    thread.start()
    # The kernel repeats its SYN after a second.
    with connect_tcp([address_of(silent), address_of(refusing)], soon()) as sock:
        assert sock.getpeername() == silent.getsockname()
    thread.join()


def test_without_a_deadline(silent: socket.socket, listener: socket.socket) -> None:
    with connect_tcp([address_of(silent), address_of(listener)], None) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_one_reason_for_all_addresses(refusing: socket.socket) -> None:
    descriptors = open_descriptors()
    with pytest.raises(ConnectionRefusedError) as raised:
        connect_tcp([address_of(refusing)] * 2, soon())
    assert raised.value.errno == errno.ECONNREFUSED
    assert open_descriptors() == descriptors


def test_several_reasons_are_all_named(refusing: socket.socket) -> None:
    impossible = Address(socket.AF_INET, socket.SOCK_STREAM, 0, ("255.255.255.255", 9))
    with pytest.raises(ConnectionRefusedError, match=r"refused; .*unreachable|refused; .*denied"):
        connect_tcp([address_of(refusing), impossible], soon())


def test_a_family_that_is_missing_is_passed_over(listener: socket.socket) -> None:
    missing = Address(9999, socket.SOCK_STREAM, 0, ("::1", 1))
    with connect_tcp([missing, address_of(listener)], soon()) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_a_socket_connected_to_itself_is_refused() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        assert not dialing._is_connected(sock)
        with pytest.raises(ConnectionRefusedError):
            dialing._complete(sock)


def test_an_interrupt_ends_connecting_and_closes(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, begun = dialing._begin, list[socket.socket]()

    def begin_one(address: Address) -> socket.socket:
        begun.append(begin(address))
        return begun[0]

    monkeypatch.setattr(dialing, "_begin", begin_one)
    descriptors = open_descriptors()
    interrupting = InThread(interrupt, lambda: begun)
    with pytest.raises(KeyboardInterrupt):
        connect_tcp([address_of(silent)], None)
    interrupting.result()
    assert open_descriptors() == descriptors


def test_a_unix_socket(tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        with connect_unix(tmp_path / "socket", soon()) as sock:
            assert sock.getpeername() == str(tmp_path / "socket")
            assert not sock.getblocking()


def test_no_unix_socket(tmp_path: pathlib.Path) -> None:
    descriptors = open_descriptors()
    with pytest.raises(FileNotFoundError):
        connect_unix(tmp_path / "socket", None)
    assert open_descriptors() == descriptors


@pytest.mark.parametrize("accepts", [False, True])
def test_a_unix_socket_whose_queue_is_full(tmp_path: pathlib.Path, accepts: bool) -> None:
    path = tmp_path / "socket"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(0)
        first = stack.enter_context(socket.socket(socket.AF_UNIX))
        first.connect(str(path))
        if accepts:
            threading.Timer(0.1, lambda: server.accept()[0].close()).start()
            stack.enter_context(connect_unix(path, None))
        else:
            with pytest.raises(TimeoutError):
                connect_unix(path, soon(0.1))


def test_an_ipv4_address_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve("127.0.0.1", 80, None)
    assert found == [
        Address(
            *socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)[0][:3], ("127.0.0.1", 80)
        )
    ]

    def unwanted(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("looked up")

    monkeypatch.setattr(socket, "getaddrinfo", unwanted)
    assert resolve("127.0.0.1", 80, None) == found
