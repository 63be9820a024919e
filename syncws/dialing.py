"""From a host name or a path to a connected socket, before a deadline.

What belongs here: name resolution and the connecting of stream sockets, for clients.
What does not: TLS, HTTP, and what the user is told about a timeout: the functions here
raise a bare :exc:`TimeoutError`, :mod:`.client` knows which option it was.

Deadlines are ``time.monotonic()`` values or ``None``.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import threading
import time
from typing import Any, NamedTuple

from .frames import SLICE
from .workers import Workers

__all__ = ["Address", "connect_tcp", "connect_unix", "resolve"]

# RFC 8305 section 5: the recommended Connection Attempt Delay, in seconds.
ATTEMPT_DELAY = 0.25
# getaddrinfo() cannot be interrupted: a name server that does not answer holds a thread for
# tens of seconds after its caller gave up. So many may hang at once; more lookups queue.
RESOLVER_THREADS = 16
_UNIX_RETRY = 0.01
# What connect() says when it has succeeded or will say later how it ends.
_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)


class Address(NamedTuple):
    """What ``socket.socket()`` and its ``connect()`` need."""

    family: int
    type: int
    protocol: int
    sockaddr: Any


def _new_resolvers() -> Workers:
    return Workers("syncws-resolver", limit=RESOLVER_THREADS, idle_timeout=0)


_resolvers = _new_resolvers()


def _after_fork_in_child() -> None:
    global _resolvers
    _resolvers = _new_resolvers()  # its threads and perhaps its lock stayed in the parent


os.register_at_fork(after_in_child=_after_fork_in_child)


def resolve(host: str, port: int, deadline: float | None) -> list[Address]:
    """Returns the addresses of ``host``, the preferred one first; at least one.

    Raises:
        OSError: There is no such host (``socket.gaierror``).
        TimeoutError: The deadline passed.
    """
    try:
        # What getaddrinfo() would say, without the IDNA codec and its own detours.
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        pass  # IPv6, an unusual form, or a name
    else:
        sockaddr = (host, port)
        return [Address(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, sockaddr)]
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except OSError:
        pass  # a name
    lookup = _Lookup(host, port)
    try:
        _resolvers.submit(lookup.run)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"cannot resolve {host}: {error}") from error
    try:
        return lookup.wait(deadline)
    finally:
        lookup.wanted = False


def _look_up(host: str, port: int, flags: int = 0) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:  # an IDNA label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from None
    return [
        Address(family, kind, protocol, address) for family, kind, protocol, _, address in found
    ]


class _Lookup:
    """One call of getaddrinfo() in a thread of its own, which nobody has to wait for."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.wanted = True
        self._result: list[Address] | Exception = []
        # Held until there is a result. Not a SimpleQueue: up to Python 3.12 its get(timeout=)
        # waits forever when a signal handler runs in it for longer than the timeout.
        self._unfinished = threading.Lock()
        self._unfinished.acquire()

    def run(self) -> None:
        if self.wanted:
            try:
                self._result = _look_up(self.host, self.port)
            except Exception as error:  # whatever it is: somebody waits for it
                self._result = error
            self._unfinished.release()

    def wait(self, deadline: float | None) -> list[Address]:
        while True:
            remaining = SLICE if deadline is None else deadline - time.monotonic()
            if self._unfinished.acquire(timeout=min(max(remaining, 0.0), SLICE)):
                break
            if remaining <= 0:
                raise TimeoutError
        result, self._result = self._result, []
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result  # its traceback holds this frame: a cycle
        return result


def connect_tcp(addresses: list[Address], deadline: float | None) -> socket.socket:
    """Connects to whichever of the addresses answers first.

    A new attempt begins when the last one failed or is ATTEMPT_DELAY old, the families
    taking turns (RFC 8305 sections 4 and 5). The socket is non-blocking.

    Raises:
        OSError: Every address failed.
        TimeoutError: The deadline passed.
    """
    waiting = _take_turns(addresses) if len(addresses) > 1 else list(addresses)
    attempts: dict[int, socket.socket] = {}  # by descriptor
    errors: list[OSError] = []
    next_attempt = 0.0
    poll: select.poll | None = None  # which costs no descriptor, and has no limit of 1,024
    winner: socket.socket | None = None
    try:
        while winner is None:
            now = time.monotonic()
            if waiting and (now >= next_attempt or not attempts):
                try:
                    sock = _begin(waiting.pop(0))
                except OSError as error:
                    errors.append(error)
                    continue
                attempts[sock.fileno()] = sock
                if _is_connected(sock):  # to this machine it takes no time
                    winner = sock
                    break
                if poll is None:
                    poll = select.poll()
                poll.register(sock, select.POLLOUT)
                next_attempt = now + ATTEMPT_DELAY
                continue
            if poll is None or not attempts:
                raise _summary(errors)
            if deadline is not None and now >= deadline:
                raise TimeoutError
            until = next_attempt if waiting else now + SLICE
            until = min(until, now + SLICE, now + SLICE if deadline is None else deadline)
            # Rounded up: a wait must not become a busy loop in its last millisecond.
            for descriptor, _ in poll.poll(max(math.ceil((until - now) * 1000), 0)):
                sock = attempts[descriptor]
                try:
                    _complete(sock)
                except OSError as error:
                    errors.append(error)
                    poll.unregister(descriptor)
                    del attempts[descriptor]
                    sock.close()
                    next_attempt = now
                else:
                    winner = sock
                    break
        return winner
    finally:
        for sock in attempts.values():
            if sock is not winner:
                sock.close()


def _take_turns(addresses: list[Address]) -> list[Address]:
    """Orders them so that the families alternate, beginning with the first one's."""
    first = [address for address in addresses if address.family == addresses[0].family]
    others = [address for address in addresses if address.family != addresses[0].family]
    mixed = []
    while first or others:
        mixed += [group.pop(0) for group in (first, others) if group]
    return mixed


def _begin(address: Address) -> socket.socket:
    sock = socket.socket(address.family, address.type, address.protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # For programs that turn our keepalive off: the kernel finds dead peers, if slowly.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _check(sock.connect_ex(address.sockaddr), _UNDER_WAY)
    except BaseException:
        sock.close()
        raise
    return sock


def _check(code: int, fine: tuple[int, ...] = (0,)) -> None:
    if code not in fine:
        raise OSError(code, os.strerror(code))


def _is_connected(sock: socket.socket) -> bool:
    """Whether nothing is left for :func:`_complete` to look into."""
    try:
        return bool(sock.getpeername() != sock.getsockname())
    except OSError:  # not yet, or never
        return False


def _complete(sock: socket.socket) -> None:
    _check(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    if sock.getsockname() == sock.getpeername():
        # A local port nobody listens on can be chosen as our own: TCP's simultaneous
        # open then connects the socket to itself.
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _summary(errors: list[OSError]) -> OSError:
    if len({(error.errno, error.strerror) for error in errors}) == 1:
        return errors[0]
    text = "; ".join(str(error.strerror or error) for error in errors)
    return OSError(errors[0].errno, f"no address could be connected to: {text}")


def connect_unix(path: str | bytes | os.PathLike[str], deadline: float | None) -> socket.socket:
    """Connects to a Unix socket. The socket returned is non-blocking.

    Raises:
        OSError: It failed.
        TimeoutError: The server did not make room for us before the deadline.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(os.fspath(path))
            except BlockingIOError:
                # The backlog is full, and there is nothing to poll for: try again.
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError from None
                time.sleep(_UNIX_RETRY)
            except OSError as error:
                if error.errno is not None:  # else it is too long, and the text says so
                    error.filename = os.fspath(path)
                raise
            else:
                return sock
    except BaseException:
        sock.close()
        raise
