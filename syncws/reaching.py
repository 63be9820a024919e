"""The way to a server: name, TCP, a proxy perhaps, and TLS.

What belongs here: the order of these steps, and errors that say which one failed. What does
not: how each step works, the handshake with the server (:mod:`.client`), redirects.
"""

from __future__ import annotations

import socket
import ssl as ssl_module
from typing import Any, Literal, NamedTuple

from .dialing import connect_tcp, resolve
from .exchange import Budget
from .proxy import Proxy, choose_proxy, open_tunnel, parse_proxy
from .socks import check_socks, open_socks
from .tls import certificate_name, check_client_context, check_hostname, default_context
from .transport import TLSTransport, Transport
from .uri import WebSocketURI

__all__ = ["Route", "make_route", "reach", "secure"]


class _ProxyTransport(TLSTransport):
    """TLS to a proxy: the certificate seen here is not that of the server."""

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """Nothing: the server behind the proxy has shown none."""
        return None


class Route(NamedTuple):
    """What the arguments of ``connect()`` say about the way to one server.

    Args:
        target: Where to.
        ssl: For TLS with the server, ``None`` for a plain connection.
        server_hostname: Whom the server's certificate must name, or ``None``.
        proxy: The proxy to use, or ``None``.
        proxy_ssl: For TLS with the proxy, ``None`` for a plain connection.
        proxy_server_hostname: Whom the proxy's certificate must name, or ``None``.
        user_agent_header: What the proxy is told, or ``None``.
    """

    target: WebSocketURI
    ssl: ssl_module.SSLContext | None
    server_hostname: str | None
    proxy: Proxy | None
    proxy_ssl: ssl_module.SSLContext | None
    proxy_server_hostname: str | None
    user_agent_header: str | None


def make_route(
    target: WebSocketURI,
    *,
    ssl: ssl_module.SSLContext | None,
    server_hostname: str | None,
    proxy: str | Literal[True] | None,
    proxy_ssl: ssl_module.SSLContext | None,
    proxy_server_hostname: str | None,
    user_agent_header: str | None,
) -> Route:
    """Checks arguments, and looks into the environment for ``proxy=True``.

    Raises:
        TypeError: One has the wrong type.
        ValueError: One makes no sense, by itself or beside the others.
        ImportError: The proxy needs an extra that is not installed.
        ProxyError: The proxy cannot reach the target.
    """
    _check_tls("ssl", ssl, "server_hostname", server_hostname)
    if not target.secure:
        _refuse("wss:// URIs, and this one is ws://", ssl=ssl, server_hostname=server_hostname)
    _check_tls("proxy_ssl", proxy_ssl, "proxy_server_hostname", proxy_server_hostname)
    if proxy is True:
        chosen = choose_proxy(target)
    else:
        chosen = None if proxy is None else _given_proxy(proxy)
        if chosen is None or chosen.scheme != "https":
            _refuse(
                "https:// proxies, and proxy names none",
                proxy_ssl=proxy_ssl,
                proxy_server_hostname=proxy_server_hostname,
            )
    if chosen is not None and not chosen.is_http:
        check_socks(chosen, target)
    return Route(
        target,
        (ssl or default_context()) if target.secure else None,
        server_hostname,
        chosen,
        (proxy_ssl or default_context()) if chosen and chosen.scheme == "https" else None,
        proxy_server_hostname,
        user_agent_header,
    )


def _given_proxy(proxy: str) -> Proxy:
    if not isinstance(proxy, str):
        raise TypeError(f"proxy must be True, None or a str, not {type(proxy).__name__}")
    return parse_proxy(proxy)


def _check_tls(
    context_name: str,
    context: ssl_module.SSLContext | None,
    hostname_name: str,
    hostname: str | None,
) -> None:
    if context is not None:
        check_client_context(context_name, context)
    if hostname is not None:
        check_hostname(hostname_name, hostname)


def _refuse(where: str, **arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name} is for {where}")


def reach(route: Route, budget: Budget) -> Transport:
    """A stream of bytes to the server.

    Raises:
        OSError: It cannot be reached, or TLS failed.
        ProxyError: The proxy did not open a way.
        TimeoutError: The deadline passed.
    """
    target, proxy = route.target, route.proxy
    if proxy is None:
        transport = Transport(_dial(target.host, target.port, "", budget))
    else:
        transport = Transport(_dial(proxy.host, proxy.port, "the proxy ", budget))
    try:
        if proxy is not None:
            transport = _pass(transport, proxy, route, budget)
        return secure(transport, route, budget)
    except BaseException:
        transport.close()
        raise


def _pass(transport: Transport, proxy: Proxy, route: Route, budget: Budget) -> Transport:
    if route.proxy_ssl is not None:
        transport = _ProxyTransport(
            transport,
            route.proxy_ssl,
            server_hostname=route.proxy_server_hostname or certificate_name(proxy.host),
        )
        with budget.step("in the TLS handshake with the proxy"):
            transport.complete_handshake(budget.deadline)
    if proxy.is_http:
        open_tunnel(transport, proxy, route.target, route.user_agent_header, budget)
    else:
        open_socks(transport, proxy, route.target, budget)
    return transport


def secure(transport: Transport, route: Route, budget: Budget) -> Transport:
    """TLS over ``transport`` if the route's target wants it.

    Raises:
        OSError: TLS failed (``ssl.SSLError``), or the connection broke.
        TimeoutError: The deadline passed.
    """
    if route.ssl is None:
        return transport
    transport = TLSTransport(
        transport,
        route.ssl,
        server_hostname=route.server_hostname or certificate_name(route.target.host),
    )
    with budget.step("in the TLS handshake"):
        transport.complete_handshake(budget.deadline)
    return transport


def _dial(host: str, port: int, role: str, budget: Budget) -> socket.socket:
    try:
        with budget.step(f"resolving {role}{host}"):
            addresses = resolve(host, port, budget.deadline)
        with budget.step(f"connecting to {role}{host} port {port}"):
            return connect_tcp(addresses, budget.deadline)
    except OSError as error:
        if error.strerror is not None:  # not our own timeout, which has said it
            error.strerror = f"{error.strerror}: {role}{host} port {port}"
        raise
