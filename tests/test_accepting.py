"""Listening sockets and the accept loop."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pathlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncws import reader
from syncws.accepting import _BATCH, Acceptor, listen_tcp, listen_unix, unix_remover
from syncws.reader import Reader

PATIENCE = 10.0
FAREWELL = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def own_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # a reader thread may be closing its own
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def listen(host: str | None = "127.0.0.1", port: int = 0, **options: Any) -> list[socket.socket]:
    return listen_tcp(host, port, **{"backlog": 10, "reuse_port": False, **options})


def close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_listens_on_a_free_port() -> None:
    [sock] = listen()
    with sock, socket.create_connection(sock.getsockname()):
        sock.accept()[0].close()


@pytest.mark.parametrize("host", [None, ""])
def test_listens_on_every_interface(host: str | None) -> None:
    sockets = listen(host)
    assert {sock.getsockname()[0] for sock in sockets} <= {"0.0.0.0", "::"}
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    close_all(sockets)


class Addresses:
    """Stands in for getaddrinfo(): a name with the addresses given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        self.hosts = hosts
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: str, port: int, *, type: int, flags: int) -> Any:
        return [(socket.AF_INET, type, 6, "", (host, port)) for host in self.hosts]


def test_g14x_all_addresses_of_a_name_get_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    Addresses(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    sockets = listen("name")
    [port] = {sock.getsockname()[1] for sock in sockets}
    hosts = [sock.getsockname()[0] for sock in sockets]
    assert hosts == ["127.0.0.1", "127.0.0.2"]
    assert port > 0
    close_all(sockets)


def test_a_host_that_cannot_be_found_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(socket.gaierror, match="not a host name: üüü"):
        listen("ü" * 70)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(socket.gaierror, match=r"not known: name\.invalid"):
        listen("name.invalid")


def test_an_address_that_this_machine_lacks_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Addresses(monkeypatch, "192.0.2.1", "127.0.0.1")
    [sock] = listen("name")
    assert sock.getsockname()[0] == "127.0.0.1"
    sock.close()


def test_no_address_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    Addresses(monkeypatch, "192.0.2.1")
    with pytest.raises(OSError, match="assign") as raised:
        listen("name")
    assert raised.value.errno == errno.EADDRNOTAVAIL


def test_port_0_is_tried_again_if_the_port_is_taken_on_another_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
    real, fail = socket.create_server, [True]

    def create(address: Any, **options: Any) -> socket.socket:
        if address[0] == "127.0.0.2" and fail:
            fail.pop()
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return real(address, **options)

    monkeypatch.setattr(socket, "create_server", create)
    sockets = listen("name")
    assert len(sockets) == 2
    close_all(sockets)


def test_g14x_a_port_that_is_taken() -> None:
    [sock] = listen()
    with sock, pytest.raises(OSError, match="in use") as raised:
        listen(port=sock.getsockname()[1])
    assert raised.value.errno == errno.EADDRINUSE


def test_g14x_two_servers_may_share_a_port_if_both_want_to() -> None:
    [first] = listen(reuse_port=True)
    [second] = listen(port=first.getsockname()[1], reuse_port=True)
    close_all([first, second])


def test_g14x_a_port_can_be_used_again_at_once() -> None:
    """Connections in TIME_WAIT do not keep it busy."""
    [sock] = listen()
    port = sock.getsockname()[1]
    with socket.create_connection(sock.getsockname()) as client:
        accepted, _ = sock.accept()
        accepted.close()  # the server closes first
        assert client.recv(1) == b""
    sock.close()
    close_all(listen(port=port))


def test_g14x_a_stale_unix_socket_is_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "socket"
    listen_unix(path, backlog=1).close()
    assert path.exists()
    with listen_unix(path, backlog=1) as sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        sock.accept()[0].close()


def test_g14x_a_unix_socket_in_use_is_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "socket"
    with listen_unix(path, backlog=1):
        with pytest.raises(OSError, match="in use"):
            listen_unix(path, backlog=1)
        assert path.exists()


def test_g14x_a_file_is_not_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        listen_unix(path, backlog=1)
    assert path.read_text() == "precious"


def test_a_unix_socket_that_may_not_be_probed_is_left_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "socket"
    listen_unix(path, backlog=1).close()

    def forbid(path: str) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", forbid)
        with pytest.raises(OSError, match="in use"):
            listen_unix(path, backlog=1)
    assert path.exists()


def test_g14x_the_path_of_a_unix_socket_is_too_long(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match="too long"):
        listen_unix(tmp_path / ("x" * 200), backlog=1)


def test_an_abstract_unix_socket() -> None:
    name = f"\0syncws-test-{os.getpid()}"
    with listen_unix(name, backlog=1):
        with pytest.raises(OSError, match="in use"):
            listen_unix(name, backlog=1)
        unix_remover(name)()


def test_only_our_own_unix_socket_is_removed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "socket"
    with listen_unix(path, backlog=1) as first:
        remove_first = unix_remover(path)
        first.close()
        path.rename(tmp_path / "kept")  # so that its inode is not used again
        with listen_unix(path, backlog=1):
            remove_second = unix_remover(path)
            remove_first()
            assert path.exists()
            remove_second()
            assert not path.exists()
            remove_second()


class FakeListener:
    """A listening socket whose accept() fails as it is told to."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.errors: list[int] = []
        self.always: int | None = None
        self.calls = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        if self.always is not None:
            raise OSError(self.always, os.strerror(self.always))
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return self.real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Server:
    """An acceptor in a reader of its own, and what it was given."""

    def __init__(self, *listeners: Any) -> None:
        self.reader = Reader("test-reader")
        self.accepted: list[socket.socket] = []
        self.reports: list[OSError] = []
        self.waits = 0
        self.stop_after_first = False
        self.acceptor = Acceptor(
            list(listeners),
            self.reader,
            admit=self.admit,
            farewell=FAREWELL,
            report=self.reports.append,
        )
        self.reader.call_soon(self.acceptor.start)

    def admit(self, reader: Reader, sock: socket.socket) -> None:
        assert reader is self.reader
        self.accepted.append(sock)
        if self.stop_after_first:
            self.acceptor.close()

    def call(self, function: Callable[[], object]) -> None:
        done = threading.Event()
        self.reader.call_soon(function)
        self.reader.call_soon(done.set)
        assert done.wait(PATIENCE)

    def close(self) -> None:
        self.call(self.acceptor.close)
        self.call(self.acceptor.close)  # idempotent
        self.reader.close()
        close_all(self.accepted)
        assert list(reader.failures) == []


@pytest.fixture
def listener() -> Iterator[FakeListener]:
    [sock] = listen(backlog=200)
    with sock:
        yield FakeListener(sock)


@pytest.fixture
def server(listener: FakeListener) -> Iterator[Server]:
    reader.failures.clear()
    before = own_descriptors()
    server = Server(listener)
    yield server
    server.close()
    # Nothing is left but the wake-up descriptors of the reader, which live as long as it.
    left = [what for number, what in own_descriptors().items() if number not in before]
    assert not [name for name in left if name.startswith("socket:") or name == os.devnull]


def connect(listener: FakeListener) -> socket.socket:
    return socket.create_connection(listener.real.getsockname(), timeout=PATIENCE)


def test_accepts(server: Server, listener: FakeListener) -> None:
    clients = [connect(listener) for _ in range(100)]
    wait_until(lambda: len(server.accepted) == 100)
    close_all(clients)


def test_a_full_batch_does_not_end_the_accepting(server: Server, listener: FakeListener) -> None:
    """More peers than one batch wait before the reader's thread looks at the listener."""
    held = threading.Event()
    server.reader.call_soon(lambda: held.wait(PATIENCE))
    clients = [connect(listener) for _ in range(_BATCH + 1)]
    held.set()
    wait_until(lambda: len(server.accepted) == len(clients))
    close_all(clients)


def test_listens_on_several_sockets(listener: FakeListener) -> None:
    [other] = listen()
    server = Server(listener, other)
    with connect(listener), socket.create_connection(other.getsockname()):
        wait_until(lambda: len(server.accepted) == 2)
    server.close()


def test_closing_while_it_accepts(server: Server, listener: FakeListener) -> None:
    server.stop_after_first = True
    with connect(listener):
        wait_until(lambda: len(server.accepted) == 1)


def watch_pauses(server: Server) -> list[tuple[float, float, float]]:
    """The pauses from here on: when each was begun, when it is due, and when that was said."""
    pauses: list[tuple[float, float, float]] = []
    real_pause = server.acceptor._pause

    def pause() -> None:
        begun = time.monotonic()
        real_pause()
        timer = server.acceptor._timer
        assert timer is not None
        pauses.append((begun, timer.when, time.monotonic()))

    server.acceptor._pause = pause  # type: ignore[method-assign]  # counts the wake-ups
    return pauses


@pytest.mark.parametrize("name", ["ECONNABORTED", "EPERM", "EINTR", "EPROTO", "ENETDOWN", "EIO"])
def test_g11x_an_error_of_one_connection_ends_nothing(
    server: Server, listener: FakeListener, name: str
) -> None:
    pauses = watch_pauses(server)
    listener.errors = [getattr(errno, name)] * 3
    with connect(listener):
        wait_until(lambda: len(server.accepted) == 1)
    assert len(pauses) <= 3
    assert all(due <= said + 0.1 for _, due, said in pauses)
    assert server.reports == []


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPERM"])
def test_g11x_an_error_that_lasts_does_not_spin(
    server: Server, listener: FakeListener, name: str
) -> None:
    """At most ten wake-ups a second, each of which may try a few times."""
    pauses = watch_pauses(server)
    listener.always = getattr(errno, name)
    with connect(listener):
        wait_until(lambda: len(pauses) >= 5)
        listener.always = None
        wait_until(lambda: len(server.accepted) == 1)
    # Each is a tenth of a second, and however late a thread may be, none is cut short.
    assert all(begun + 0.1 <= due <= said + 0.1 for begun, due, said in pauses)
    assert all(due <= begun for (_, due, _), (begun, _, _) in itertools.pairwise(pauses))
    exhausted = name in ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")
    assert len(server.reports) == exhausted  # once, not ten times a second


def test_g11x_a_peer_is_told_why_when_descriptors_run_out(
    server: Server, listener: FakeListener
) -> None:
    """The descriptor kept in reserve is used to answer one peer at a time."""
    listener.errors = [errno.EMFILE]
    with connect(listener) as first:
        first.send(b"GET / HTTP/1.1\r\n")
        answer = b""
        while data := first.recv(100):
            answer += data
        assert answer == FAREWELL
    with connect(listener):
        wait_until(lambda: len(server.accepted) == 1)
    # In the reader's thread, which may not have seen yet that nobody else waits.
    server.call(lambda: listener.errors.append(errno.EMFILE))
    with connect(listener) as second:
        assert second.recv(100) == FAREWELL
    wait_until(lambda: server.acceptor._reserve is not None)


def test_g11x_no_descriptor_in_reserve(
    server: Server, listener: FakeListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.call(lambda: os.close(server.acceptor._reserve or 0))
    server.acceptor._reserve = None
    real_open = os.open
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        patch.setattr(os, "open", fail)
        listener.errors = [errno.EMFILE, errno.EMFILE]
        with connect(listener):
            wait_until(lambda: len(server.accepted) == 1)
        assert server.acceptor._reserve is None
    assert os.open is real_open


def test_closing_during_a_pause(server: Server, listener: FakeListener) -> None:
    listener.errors = [errno.EMFILE]
    with connect(listener) as client:
        assert client.recv(100) == FAREWELL
        server.call(server.acceptor.close)
        server.call(server.acceptor._resume)  # the timer had fired already


def test_an_event_from_before_the_pause_is_ignored(server: Server, listener: FakeListener) -> None:
    def provoke() -> None:
        server.acceptor._pause()
        server.acceptor._accept(listener)  # type: ignore[arg-type]  # it acts like a socket

    calls = listener.calls
    server.call(provoke)
    assert listener.calls == calls
    with connect(listener):
        wait_until(lambda: len(server.accepted) == 1)


def test_g11x_a_selector_that_refuses_once(
    server: Server, listener: FakeListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = server.acceptor.reader
    watch = reader.watch
    refused: list[int] = []

    def refusing(descriptor: int, *arguments: Any) -> None:
        if not refused:
            refused.append(descriptor)
            raise OSError(errno.ENOSPC, "no room to watch")
        watch(descriptor, *arguments)

    monkeypatch.setattr(reader, "watch", refusing)
    server.call(lambda: server.acceptor._watch(listener))  # type: ignore[arg-type]  # as above
    assert refused
    with connect(listener):
        wait_until(lambda: len(server.accepted) == 1)


def test_a_closed_acceptor_is_not_watched(server: Server, listener: FakeListener) -> None:
    server.call(server.acceptor.close)
    assert listener.real.fileno() == -1
    assert not select.select([], [], [], 0)[0]


def test_a_listening_socket_that_the_user_has_closed(
    server: Server, listener: FakeListener
) -> None:
    """Then nobody is accepted there, and nothing else happens."""
    [other] = listen()
    other.setblocking(False)
    server.acceptor.sockets.append(other)

    def provoke() -> None:
        listener.real.close()
        server.acceptor._resume()

    server.call(provoke)
    with socket.create_connection(other.getsockname()):
        wait_until(lambda: len(server.accepted) == 1)
