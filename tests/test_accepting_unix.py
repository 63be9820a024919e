"""Paths of Unix sockets: who may take one, and who removes it."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import socket
import threading
from typing import Any

import pytest

import syncws
from syncws import accepting
from syncws.accepting import listen_unix, unix_remover

PATIENCE = 10.0


def test_a_unix_socket_is_removed_only_once(tmp_path: pathlib.Path) -> None:
    """The next one may have the same inode."""
    path = tmp_path / "socket"
    with listen_unix(path, backlog=1):
        remove = unix_remover(path)
        os.link(path, tmp_path / "same inode")
        remove()
        assert not path.exists()
        os.link(tmp_path / "same inode", path)
        remove()
        assert path.exists()
    path.unlink()
    with listen_unix(path, backlog=1):
        remove = unix_remover(path)
        os.link(path, tmp_path / "another name")
        path.unlink()
        remove()
        os.link(tmp_path / "another name", path)
        remove()
        assert path.exists()


def test_g14x_two_servers_want_one_unix_socket_at_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its bind() and its listen() the first one looks like one that is gone."""
    path = tmp_path / "socket"
    outcomes: list[object] = []
    listen = socket.socket.listen

    def other() -> None:
        try:
            listen_unix(path, backlog=1).close()
        except OSError as error:
            outcomes.append(error.errno)

    def slowly(self: socket.socket, backlog: int) -> None:
        monkeypatch.undo()
        thread.start()
        thread.join(0.5)
        outcomes.append(path.exists())
        listen(self, backlog)

    thread = threading.Thread(target=other)
    monkeypatch.setattr(socket.socket, "listen", slowly)
    with listen_unix(path, backlog=1):
        thread.join(PATIENCE)
        assert outcomes == [True, errno.EADDRINUSE]
        assert path.exists()


def test_a_lock_that_somebody_else_holds_is_not_waited_for_long(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read the directory may lock it, and keep that for ever."""
    monkeypatch.setattr(accepting, "_TURN_TIME", 0.05)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        with listen_unix(tmp_path / "socket", backlog=1) as sock:
            assert sock.getsockname()
    finally:
        os.close(held)


def test_a_child_that_is_forked_meanwhile_does_not_keep_the_lock(tmp_path: pathlib.Path) -> None:
    with accepting._one_at_a_time(os.fspath(tmp_path / "socket")):
        # What a child has: the same open file.
        [descriptor] = [
            int(name)
            for name in os.listdir("/dev/fd")
            if os.path.realpath(f"/dev/fd/{name}") == os.path.realpath(tmp_path)
        ]
        copy = os.dup(descriptor)
    try:
        other = os.open(tmp_path, os.O_RDONLY)
        try:
            assert accepting._try_lock(other)
        finally:
            os.close(other)
    finally:
        os.close(copy)


def test_a_file_system_without_locks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    def interrupt(*_: object) -> None:
        raise TimeoutError  # of a signal handler

    monkeypatch.setattr(fcntl, "flock", refuse)
    with listen_unix(tmp_path / "socket", backlog=1) as sock:
        assert sock.getsockname()
    monkeypatch.setattr(fcntl, "flock", interrupt)
    with pytest.raises(TimeoutError):
        listen_unix(tmp_path / "another", backlog=1)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_a_directory_that_cannot_be_opened(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, "not for you")

    monkeypatch.setattr(os, "open", refuse)
    with listen_unix(tmp_path / "socket", backlog=1) as sock:
        assert sock.getsockname()


def test_what_a_signal_handler_raises_is_no_error_of_the_system(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "socket"

    def interrupt(*_: object, **__: object) -> Any:
        raise TimeoutError

    with monkeypatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(os, "open", interrupt)
        listen_unix(path, backlog=1)
    with listen_unix(path, backlog=1):
        remove = unix_remover(path)
        with monkeypatch.context() as patch, pytest.raises(TimeoutError):
            patch.setattr(os, "stat", interrupt)
            remove()
        remove()
        assert not path.exists()


def test_the_path_is_free_before_the_socket_is_closed(tmp_path: pathlib.Path) -> None:
    """Later a new server might have it already, and even the same inode."""
    path = tmp_path / "socket"
    server = syncws.unix_serve(lambda ws: None, path)
    clean_up = server.clean_up
    open_then: list[bool] = []

    def look() -> None:
        open_then.append(server.fileno() >= 0)
        clean_up()

    server.clean_up = look
    with server:
        assert path.exists()
    assert not path.exists()
    server.shutdown()
    assert open_then == [True, False]
