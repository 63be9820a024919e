"""Proxies: which one to use, and the tunnel through an HTTP proxy.

What belongs here: addresses of proxies, the variables of the environment, CONNECT. What
does not: the way to the proxy (:mod:`.reaching`), SOCKS (:mod:`.socks`).
"""

from __future__ import annotations

import dataclasses
import http
import ipaddress
import os
import re

from .client_handshake import basic_authorization
from .exceptions import InvalidMessage, InvalidProxy, ProxyError
from .exchange import Budget, exchange
from .headers import Headers
from .http11 import Request, Response, ResponseParser
from .transport import Transport
from .uri import WebSocketURI, parse_host, parse_userinfo, unmapped

__all__ = ["Proxy", "choose_proxy", "open_tunnel", "parse_proxy"]

# The usual port of each scheme.
_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}
_PROXY = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://)?([^/?#]*)/?", re.ASCII)
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f]")

# What is asked for in turn. RFC 6455 section 4.1: a SOCKS proxy before one for HTTPS, and that
# before one for HTTP, which may not let a connection live for long.
_SECURE = ("wss_proxy", "socks_proxy", "https_proxy", "all_proxy")
_PLAIN = ("ws_proxy", "socks_proxy", "https_proxy", "http_proxy", "all_proxy")

_LOOPBACK = re.compile(r"127(?:\.[0-9]{1,3}){3}")
_EXCEPTION = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]{1,5}))?")


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """The address of a proxy.

    Args:
        scheme: ``http``, ``https``, ``socks4``, ``socks4a``, ``socks5`` or ``socks5h``.
        host: As in :class:`.uri.WebSocketURI`.
        port: 1 to 65535.
        username: Percent-decoded, or ``None``.
        password: Percent-decoded, or ``None``.
    """

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    @property
    def is_http(self) -> bool:
        """Whether it speaks HTTP, over TLS or not; else it is SOCKS."""
        return self.scheme in ("http", "https")

    def __repr__(self) -> str:
        user = "" if self.username is None else "***@"
        return f"<Proxy {self.scheme}://{user}{_authority(self.host, self.port)}>"


def parse_proxy(proxy: str, origin: str = "") -> Proxy:
    """Takes the address of a proxy apart.

    Args:
        proxy: ``scheme://user:password@host:port``, where only the host is needed; without
            a scheme it is ``http``.
        origin: Where the address comes from, for errors.

    Raises:
        InvalidProxy: It is not one. The exception shows no credentials.
    """
    try:
        return _parse(proxy)
    except ValueError as error:
        problem = str(error)
    # Outside of the except clause: the context of an exception is printed with it, and a
    # UnicodeError carries the text that it is about.
    raise InvalidProxy(proxy, problem + origin)


def _parse(proxy: str) -> Proxy:
    if _FORBIDDEN.search(proxy) is not None:
        raise ValueError("it contains a space or a control character; percent-encode it")
    match = _PROXY.fullmatch(proxy)
    if match is None:
        raise ValueError("it has a path, a query or a fragment")
    scheme = "http" if match[1] is None else match[1].lower()
    if scheme == "socks":
        scheme = "socks5h"  # as GNOME writes it into all_proxy
    if scheme not in _PORTS:
        raise ValueError(f"the scheme must be one of {', '.join(_PORTS)}")
    userinfo, at_sign, authority = match[2].rpartition("@")
    username = password = None
    if at_sign:
        username, password = parse_userinfo(userinfo)
    host, port = parse_host(authority)
    return Proxy(scheme, host, port or _PORTS[scheme], username, password)


def choose_proxy(target: WebSocketURI) -> Proxy | None:
    """The proxy that the environment names for ``target``, if any.

    For ``ws://`` the first that is set of ``ws_proxy``, ``socks_proxy``, ``https_proxy``,
    ``http_proxy`` and ``all_proxy``; for ``wss://`` of ``wss_proxy``, ``socks_proxy``,
    ``https_proxy`` and ``all_proxy``. Each may be in upper case, but what is in lower case
    counts first. ``no_proxy`` has exceptions, and this machine needs no proxy to itself.

    Raises:
        InvalidProxy: A variable is not the address of a proxy.
    """
    host = target.host.partition("%")[0].rstrip(".")
    if _is_this_machine(host):
        return None
    for name in _SECURE if target.secure else _PLAIN:
        text = _variable(name)
        if text:
            break
    else:
        return None
    if _is_excepted(host, target.port, _variable("no_proxy")):
        return None
    if name == "socks_proxy":
        # As desktop environments write it: a SOCKS proxy, whatever its scheme says.
        text = re.sub(r"^(http://|(?![A-Za-z][A-Za-z0-9+.-]*://))", "socks5h://", text)
    return parse_proxy(text, f" (it comes from {name} in the environment; see proxy=)")


def _variable(name: str) -> str:
    text = os.environ.get(name)
    if text is None:
        # A CGI server puts the header "Proxy" of a request into HTTP_PROXY ("httpoxy").
        if name == "http_proxy" and "REQUEST_METHOD" in os.environ:
            return ""
        text = os.environ.get(name.upper(), "")
    return text.strip()


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    if _LOOPBACK.fullmatch(host) is not None:
        return True
    address = _address(host) if ":" in host else None
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return unmapped(ipaddress.ip_address(host))
    except ValueError:
        return None


def _is_excepted(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``no_proxy`` has ``host``, a domain above it, or a network with it."""
    address = _address(host)
    for entry in re.split(r"[\s,]+", no_proxy.lower()):
        # What has more colons than that is an address of IPv6.
        match = _EXCEPTION.fullmatch(entry)
        name, number = (entry, None) if match is None else (match[1].strip("[]"), match[2])
        if not name or (number is not None and int(number) != port):
            continue
        if name == "*":
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:
                pass  # a name
            continue
        name = _ascii(name.removeprefix("*").strip("."))
        if name and (host == name or host.endswith(f".{name}")):
            return True
    return False


def _ascii(name: str) -> str:
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return ""


def open_tunnel(
    transport: Transport,
    proxy: Proxy,
    target: WebSocketURI,
    user_agent_header: str | None,
    budget: Budget,
) -> None:
    """Makes an HTTP proxy connect ``transport`` to ``target`` (RFC 9110 section 9.3.6).

    Raises:
        ProxyError: The proxy refused, or what it answered makes no sense.
        TimeoutError: The deadline passed.
        OSError: The connection broke.
    """
    # With the port, always. RFC 6874 section 4: a zone means something to this machine only.
    authority = _authority(target.host.partition("%")[0], target.port)
    headers = Headers([("Host", authority)])
    if user_agent_header is not None:
        headers["User-Agent"] = user_agent_header
    if proxy.username is not None:
        credentials = basic_authorization(proxy.username, proxy.password or "")
        headers["Proxy-Authorization"] = credentials
    parser = ResponseParser(connect=True)
    try:
        response = exchange(
            transport,
            Request(authority, headers, "CONNECT"),
            parser,
            budget,
            "CONNECT by the proxy",
        )
    except InvalidMessage as error:
        raise ProxyError(f"the proxy's answer is malformed: {error}") from error
    if not 200 <= response.status_code < 300:
        raise ProxyError(_refusal(response), response)
    if parser.rest:
        # Nobody was asked anything yet: in the tunnel the client speaks first.
        raise ProxyError("the proxy sent more than the head of its answer", response)


def _refusal(response: Response) -> str:
    status_code = response.status_code
    try:
        phrase = f" ({http.HTTPStatus(status_code).phrase})"
    except ValueError:
        phrase = ""
    text = f"the proxy refused to connect: HTTP {status_code}{phrase}"
    if status_code in (401, 407):  # tinyproxy says 401
        text += "; credentials go into its address: proxy='http://user:password@host:port'"
    return text


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
