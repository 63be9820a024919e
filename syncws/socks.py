"""SOCKS4, 4a, 5 and 5h, by python-socks (the extra ``socks``).

What belongs here: giving that package a stream with our deadline, and who looks the name up.
What does not: the protocol.

Its blocking interface dials by itself and has a timeout for each read. But where one proxy
stands behind another it asks a ``forward`` for the stream, and ours is a transport.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from .dialing import resolve
from .exceptions import InvalidProxy, ProxyError
from .exchange import Budget
from .proxy import Proxy
from .transport import Transport
from .uri import WebSocketURI

__all__ = ["check_socks", "open_socks"]

_LONGEST = 255  # bytes of a name, a user name or a password: their length is one byte


def check_socks(proxy: Proxy, target: WebSocketURI) -> None:
    """Refuses what cannot work before anything is opened.

    Raises:
        ImportError: The extra is not installed.
        InvalidProxy: The proxy's user name or password cannot be sent.
        ProxyError: No address of this kind can be reached by this kind of proxy.
        ValueError: The target's name is too long.
    """
    try:
        import python_socks
        import python_socks.sync

        if int(python_socks.__version__.partition(".")[0]) < 3:
            raise ImportError(f"python-socks {python_socks.__version__} is too old")
    except ImportError as error:
        text = "needs python-socks 3: pip install 'syncws[socks]'; proxy=None is for no proxy"
        raise ImportError(f"a {proxy.scheme}:// proxy {text}") from error
    if len(target.host) > _LONGEST:
        raise ValueError(f"SOCKS has no room for a name of more than {_LONGEST} bytes")
    problem = _credentials_problem(proxy)
    if problem:
        raise InvalidProxy(f"{proxy.scheme}://{proxy.host}", problem)
    if proxy.scheme.startswith("socks4") and ":" in target.host:
        raise ProxyError("SOCKS4 knows no IPv6 addresses; use socks5:// or socks5h://")


def _credentials_problem(proxy: Proxy) -> str:
    if proxy.username is None:
        return ""
    texts = [proxy.username, proxy.password or ""]
    if not all(text.isascii() and len(text) <= _LONGEST for text in texts):
        return f"user name and password must be ASCII, of at most {_LONGEST} characters"
    if proxy.scheme.startswith("socks4"):
        return "SOCKS4 has a user name and no password" if proxy.password else ""
    # RFC 1929 section 2: each has at least one byte.
    return "" if all(texts) else "SOCKS5 wants a user name and a password, or neither"


def open_socks(transport: Transport, proxy: Proxy, target: WebSocketURI, budget: Budget) -> None:
    """Makes a SOCKS proxy connect ``transport`` to ``target``.

    ``socks4`` and ``socks5`` look the name up here, ``socks4a`` and ``socks5h`` have the
    proxy do it.

    Raises:
        ProxyError: The proxy refused, or what it answered makes no sense.
        TimeoutError: The deadline passed.
        OSError: The connection broke, or the name cannot be looked up.
    """
    import python_socks
    import python_socks.sync

    host = target.host.partition("%")[0]
    remotely = proxy.scheme in ("socks4a", "socks5h")
    if not remotely:
        with budget.step(f"resolving {host}"):
            host = _address(host, target.port, proxy, budget)
    kinds = python_socks.ProxyType
    forward: Any = _Forward(transport, budget)
    client = python_socks.sync.Proxy(
        kinds.SOCKS4 if proxy.scheme.startswith("socks4") else kinds.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.username,
        proxy.password,
        rdns=remotely,
        forward=forward,
    )
    try:
        with budget.step("waiting for the SOCKS proxy"):
            client.connect(host, target.port)
    except python_socks.ProxyError as error:
        raise ProxyError(f"the SOCKS proxy did not connect: {error}") from error
    except (LookupError, ValueError) as error:  # UnicodeError is a ValueError
        raise ProxyError("the answer of the SOCKS proxy is malformed") from error


def _address(host: str, port: int, proxy: Proxy, budget: Budget) -> str:
    """One address for the proxy, which may have no IPv6 itself."""
    addresses = resolve(host, port, budget.deadline)
    addresses.sort(key=lambda address: address.family != socket.AF_INET)
    if proxy.scheme == "socks4" and addresses[0].family != socket.AF_INET:
        raise ProxyError(f"SOCKS4 knows no IPv6 addresses, and {host} has no other")
    return str(ipaddress.ip_address(addresses[0].sockaddr[0].partition("%")[0]))


class _Forward:
    """What python-socks takes for another proxy, and then for a socket."""

    def __init__(self, transport: Transport, budget: Budget) -> None:
        self._transport = transport
        self._deadline = budget.deadline

    def connect(self, **_: Any) -> _Forward:
        return self

    def sendall(self, data: bytes) -> None:
        self._transport.send_before(bytes(data), self._deadline)

    def recv(self, size: int) -> bytes:
        return self._transport.receive_before(self._deadline, size)

    def close(self) -> None:
        """Leaves the transport to whoever made it."""
