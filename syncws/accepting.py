"""Listening sockets, and an accept loop that nothing ends.

What belongs here: making listening sockets; accepting in the reader thread, with the
errors of the operating system and the lack of descriptors that this meets. What does not:
anything that reads from the sockets accepted (:mod:`.opening`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .reader import READ, Reader, Timer

__all__ = ["Acceptor", "listen_tcp", "listen_unix", "unix_remover"]

# How often an exhausted server looks whether descriptors have come back, in seconds.
PAUSE = 0.1
# How long a server waits for another one that is just taking a path beside its own, in seconds.
_TURN_TIME = 1.0
# Connections accepted in one turn of the reader thread; others have to live, too.
_BATCH = 64
# How often port 0 is tried when a host has several addresses: the port that the kernel
# chose for the first may be taken on another.
_PORT_ATTEMPTS = 10

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def listen_tcp(
    host: str | None, port: int, *, backlog: int, reuse_port: bool
) -> list[socket.socket]:
    """Listens on every address of ``host`` (``None``: on all interfaces), on one port."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:  # an IDNA label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {host}: {error}") from None
    except OSError as error:
        error.strerror = f"{error.strerror}: {host}"
        raise
    addresses = list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))
    attempt = 1
    while True:
        try:
            return _listen_all(addresses, port, backlog, reuse_port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or attempt == _PORT_ATTEMPTS:
                raise
        attempt += 1


def _listen_all(
    addresses: Sequence[tuple[int, tuple[Any, ...]]],
    port: int,
    backlog: int,
    reuse_port: bool,
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, sockaddr in addresses:
            address = (sockaddr[0], port, *sockaddr[2:])
            try:
                # Sets SO_REUSEADDR where that is safe, and IPV6_V6ONLY.
                sock = socket.create_server(
                    address,
                    family=family,
                    backlog=backlog,
                    reuse_port=reuse_port,
                )
            except OSError as error:
                # A name such as localhost may stand for a family this machine lacks.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
                continue
            sockets.append(sock)
            port = port or sock.getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def listen_unix(path: str | bytes | os.PathLike[str], *, backlog: int) -> socket.socket:
    """Listens on a Unix socket at ``path``, in place of one that nobody listens on any more."""
    path = os.fspath(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Between bind() and listen() a socket looks as if its server were gone.
        with _one_at_a_time(path):
            try:
                sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_stale(path):
                    raise
                os.unlink(path)
                sock.bind(path)
            sock.listen(backlog)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = path  # not if it is too long, which the text says already
        sock.close()
        raise
    return sock


def unix_remover(path: str | bytes | os.PathLike[str]) -> Callable[[], None]:
    """A function that removes the socket that is at ``path`` now, and no later one.

    To be called while that socket is open: then nobody replaces it, and no other file has the
    number of its inode. Only the first call does anything.
    """
    path = os.fspath(path)
    if _is_abstract(path):
        return lambda: None
    found = os.stat(path)
    ours: tuple[int, int] | None = (found.st_dev, found.st_ino)

    def remove() -> None:
        nonlocal ours
        if ours is None:
            return
        try:
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == ours:
                os.unlink(path)
        except OSError as error:
            if error.errno is None:  # a signal handler's own
                raise
        ours = None

    return remove


def _is_abstract(path: str | bytes) -> bool:
    """Whether it is one of Linux's abstract names, which are not files."""
    return path[:1] in ("\0", b"\0")


@contextlib.contextmanager
def _one_at_a_time(path: str | bytes) -> Iterator[None]:
    """Keeps other servers, in this process or another one, from taking ``path`` meanwhile.

    A courtesy, not a right: who may not read the directory does without, and so does who does
    not get its turn within a second. Somebody else may hold that lock for reasons of their own.
    """
    descriptor = -1
    try:
        if not _is_abstract(path):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            try:
                descriptor = os.open(os.path.dirname(path) or ".", flags)
            except OSError as error:
                if error.errno is None:  # a signal handler's own
                    raise
        deadline = time.monotonic() + _TURN_TIME
        while descriptor >= 0 and not _try_lock(descriptor) and time.monotonic() < deadline:
            time.sleep(0.01)  # flock() itself knows no time limit
        yield
    finally:
        if descriptor >= 0:
            # Not by closing alone: a child forked meanwhile has a copy of the descriptor.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """False: it is somebody else's turn."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno is None:  # a signal handler's own
            raise
    return True  # also where there are no such locks


def _is_stale(path: str | bytes) -> bool:
    """Whether ``path`` is a socket whose server is gone."""
    if _is_abstract(path):
        return False
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


class Acceptor:
    """Accepts connections in a reader thread.

    Every method but the constructor is to be called in the reader thread; without a reader
    thread, :meth:`close` may be called by anybody.

    While the process or the system has no descriptors, it wakes up at most ten times a
    second. Each time it gives up a descriptor kept in reserve to take one peer from the
    backlog and to turn it away; the others wait in the backlog.

    Args:
        sockets: The listening sockets.
        reader: Where it runs.
        admit: Gets the reader and each socket accepted; it must not raise.
        farewell: What a peer is sent that is turned away for lack of descriptors.
        report: Gets the error when a lack of descriptors begins.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        reader: Reader,
        *,
        admit: Callable[[Reader, socket.socket], object],
        farewell: bytes,
        report: Callable[[OSError], object],
    ) -> None:
        self.sockets = sockets
        self.reader = reader
        self._admit = admit
        self._farewell = farewell
        self._report = report
        self._reserve: int | None = None
        self._turned_away: socket.socket | None = None
        self._timer: Timer | None = None
        self._exhausted = False
        self._started = False
        self._closed = False

    def start(self) -> None:
        """Begins to accept. Idempotent."""
        if self._started or self._closed:
            return
        self._started = True
        for sock in self.sockets:
            sock.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Stops accepting and closes the listening sockets. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for sock in self.sockets:
            if sock.fileno() >= 0:
                self.reader.unwatch(sock.fileno())
                sock.close()
        self._end_turned_away()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def _resume(self) -> None:
        self._timer = None
        if self._closed:
            return
        self._end_turned_away()
        if self._reserve is None:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for sock in self.sockets:
            if sock.fileno() >= 0:  # or the user has closed it
                self._watch(sock)

    def _watch(self, sock: socket.socket) -> None:
        try:
            self.reader.watch(sock.fileno(), READ, lambda ready: self._accept(sock))
        except OSError:
            # epoll_ctl(2): ENOMEM, ENOSPC. Unwatched, nobody would ever be accepted again.
            self._pause()

    def _accept(self, listener: socket.socket) -> None:
        if self._closed or self._timer is not None:
            return  # an event from before the pause
        for attempt in range(_BATCH):
            try:
                sock, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno == errno.ECONNABORTED and attempt < _BATCH - 1:
                    continue  # the peer left before we saw it
                # accept(2): "any already pending network errors on the new socket", and
                # what a packet filter says (EPERM). The reason may persist: do not spin.
                if error.errno in _EXHAUSTED:
                    if not self._exhausted:
                        self._exhausted = True
                        self._report(error)
                    self._turn_away(listener)
                self._pause()
                return
            self._exhausted = False
            self._admit(self.reader, sock)
            if self._closed:
                return
        self._watch(listener)

    def _pause(self) -> None:
        for sock in self.sockets:
            self.reader.unwatch(sock.fileno())
        self._timer = self.reader.call_at(time.monotonic() + PAUSE, self._resume)

    def _turn_away(self, listener: socket.socket) -> None:
        """Answers one peer with the help of the reserve; it may read until the pause ends."""
        if self._reserve is None:
            return
        os.close(self._reserve)
        self._reserve = None
        with contextlib.suppress(OSError):
            sock, _address = listener.accept()
            self._turned_away = sock
            sock.setblocking(False)
            sock.send(self._farewell)
            sock.shutdown(socket.SHUT_WR)

    def _end_turned_away(self) -> None:
        sock, self._turned_away = self._turned_away, None
        if sock is not None:
            # Closing with the request unread would send a reset, and our answer be lost.
            with contextlib.suppress(OSError):
                sock.recv(65536)
            sock.close()
