"""``connect()``: from a URI to an open connection, before one deadline.

What belongs here: the arguments, and the order of what is done with them. What does not:
the way to the server (:mod:`.reaching`), and what is said there (:mod:`.client_handshake`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import ssl as ssl_module
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .client_handshake import USER_AGENT, ClientHandshake
from .connection import Connection
from .cookies import check_jar, cookie_header, store_cookies
from .dialing import connect_unix
from .exceptions import InvalidStatus, NegotiationError
from .exchange import Budget, exchange
from .extension_options import client_extensions
from .extensions import ClientExtensionFactory
from .frames import Close, CloseCode, FrameEncoder, Opcode, Side
from .headers import Headers, HeadersLike
from .http11 import Response, ResponseParser
from .options import (
    Options,
    check_integer,
    check_logger,
    check_path,
    check_seconds,
    check_socket,
    shared_options,
)
from .reaching import Route, make_route, reach, secure
from .reader import client_reader
from .redirects import Redirects, same_origin
from .transport import Transport
from .uri import WebSocketURI, parse_uri

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

__all__ = ["connect", "unix_connect"]

_DEFAULTS = Options()
_OPEN_TIMEOUT = 10.0
_MAX_REDIRECTS = 10
_logger = logging.getLogger("syncws.client")


def connect(
    uri: str,
    *,
    sock: socket.socket | None = None,
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
    proxy: str | Literal[True] | None = True,
    proxy_ssl: ssl_module.SSLContext | None = None,
    proxy_server_hostname: str | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] | None = None,
    extensions: Sequence[ClientExtensionFactory] | None = None,
    compression: str | None = "deflate",
    additional_headers: HeadersLike | None = None,
    user_agent_header: str | None = USER_AGENT,
    cookies: CookieJar | None = None,
    max_redirects: int = _MAX_REDIRECTS,
    open_timeout: float | None = _OPEN_TIMEOUT,
    ping_interval: float | None = _DEFAULTS.ping_interval,
    ping_timeout: float | None = _DEFAULTS.ping_timeout,
    close_timeout: float | None = _DEFAULTS.close_timeout,
    max_size: int | None = _DEFAULTS.max_size,
    max_frame_size: int | None = _DEFAULTS.max_frame_size,
    max_fragments: int | None = _DEFAULTS.max_fragments,
    max_queue: int | None = _DEFAULTS.max_queue,
    write_limit: int = _DEFAULTS.write_limit,
    logger: logging.Logger | None = None,
) -> Connection:
    """Connects to a WebSocket server.

    Both forms are fine::

        ws = syncws.connect("wss://example.org/feed")
        message = ws.recv()
        ws.close()

        with syncws.connect("ws://localhost:8765") as ws:
            ws.send("hello")

    Args:
        uri: ``ws://`` or ``wss://``. User information in it is sent as an
            ``Authorization`` header.
        sock: Use this connected stream socket instead of connecting one. It belongs to the
            connection from then on, and is closed if connecting fails.
        ssl: Rules and certificates for ``wss://``. Default: TLS 1.2 at least, the
            certificate and the host name verified against the certificates of the system
            and those of certifi, all read once per process. A context with a certificate
            of ours (``load_cert_chain()``) shows it to a server that asks for one.
        server_hostname: Whom the server's certificate must name; default: the URI's host.
        proxy: ``"http://user:password@host:port"``, or ``https``, ``socks4``, ``socks4a``,
            ``socks5`` or ``socks5h`` instead of ``http``; ``None``: none. ``True``: the
            one that the environment names (``wss_proxy``, ``https_proxy``, ..., except
            for hosts in ``no_proxy``), if any. SOCKS needs the extra ``socks``.
        proxy_ssl: As ``ssl``, for an ``https://`` proxy.
        proxy_server_hostname: As ``server_hostname``, for an ``https://`` proxy.
        origin: The ``Origin`` header; default: none.
        subprotocols: In order of preference; default: none.
        extensions: Factories of the extensions to offer, in order of preference.
        compression: ``"deflate"``: offer ``permessage-deflate`` as well, unless it is among
            ``extensions``; ``None``: do not.
        additional_headers: More headers, as a mapping or pairs.
        user_agent_header: The ``User-Agent`` header; ``None`` for none.
        cookies: A jar of the standard library (``http.cookiejar``): what it has for the
            server is sent, and what the server sets, also in a refusal, is stored in it.
        max_redirects: Redirects followed. To another scheme, host or port go neither user
            information, ``additional_headers`` nor ``server_hostname``, and cookies as the
            jar decides; from ``wss://`` to ``ws://`` goes nothing. With ``sock``, a
            redirect is an :exc:`InvalidStatus`.
        open_timeout: Seconds for everything together, redirects, too: name resolution,
            TCP, a proxy, TLS, and the opening handshake; ``None``: no limit.
        ping_interval: Seconds between keepalive pings; ``None``: none are sent.
        ping_timeout: Seconds after a ping without a sign of life until the connection is
            closed with 1011; ``None``: never.
        close_timeout: Seconds for the whole closing handshake and the end of TCP.
        max_size: Bytes of an incoming message; a longer one is refused with 1009.
        max_frame_size: Bytes of an incoming frame; a longer one is refused with 1009.
            Outgoing messages are split so that no frame exceeds it.
        max_fragments: Fragments of an incoming message beyond which they must carry 64
            bytes each on average, else it is refused with 1008.
        max_queue: Messages received and not yet taken, beyond which reading stops; the
            peer then waits.
        write_limit: Bytes accepted by ``send()`` and not yet by the socket, beyond which
            it waits.
        logger: Default: ``logging.getLogger("syncws.client")``.

    Returns:
        The connection, open. It need not be used in a ``with`` statement.

    Raises:
        InvalidURI: ``uri`` is not valid.
        InvalidProxy: ``proxy``, or what the environment says, is not valid.
        ValueError: An argument makes no sense; nothing has been sent.
        TypeError: An argument has the wrong type.
        OSError: The host cannot be found or reached, or TLS failed
            (``ssl.SSLCertVerificationError`` for a certificate).
        TimeoutError: ``open_timeout`` passed; the text says what it was waiting for.
        ProxyError: The proxy refused; ``error.response`` is its answer, if it is HTTP.
        InvalidStatus: The server refused; ``error.response`` is its answer, with the first
            MiB of its body.
        RedirectError: It redirected, and this was not followed: an ``InvalidStatus``, too.
        InvalidHandshake: The server's answer is not one to a WebSocket handshake.
    """
    approach: _Approach = reach
    if isinstance(sock, _UnixPath):
        approach, sock = functools.partial(_reach_path, sock.path), None
    elif sock is not None:
        check_socket(sock)
        _check_connected(sock)
        approach = functools.partial(_take_over, sock)
    try:
        target = parse_uri(uri)
        if approach is not reach:
            if isinstance(proxy, str):
                raise ValueError("proxy is for TCP connections that are made here")
            proxy = None if proxy is True else proxy
        # Whatever it is, it is read for each attempt.
        additional = None if additional_headers is None else _headers(additional_headers)
        if cookies is not None:
            check_jar(cookies)
        offered = client_extensions(extensions, compression)
        check_seconds("open_timeout", open_timeout)
        check_integer("max_redirects", max_redirects, 0)
        check_logger(logger)
        options = shared_options(
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_size=max_size,
            max_frame_size=max_frame_size,
            max_fragments=max_fragments,
            max_queue=max_queue,
            write_limit=write_limit,
        )

        def prepare(target: WebSocketURI, trusted: bool) -> tuple[Route, ClientHandshake]:
            """One attempt; what is for the first server only is not for others."""
            route = make_route(
                target,
                ssl=ssl,
                server_hostname=server_hostname if trusted else None,
                proxy=proxy,
                proxy_ssl=proxy_ssl,
                proxy_server_hostname=proxy_server_hostname,
                user_agent_header=user_agent_header,
            )
            handshake = ClientHandshake(
                target,
                origin=origin,
                subprotocols=subprotocols,
                additional_headers=_with_cookies(additional if trusted else None, cookies, target),
                user_agent_header=user_agent_header,
                extensions=offered,
            )
            return route, handshake

        opened = _open(prepare, target, approach, open_timeout, max_redirects, cookies)
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    # Not inside the try: from here on the descriptor is the connection's to close.
    connection = Connection(
        opened.transport,
        Side.CLIENT,
        reader=client_reader(),
        options=options,
        request=opened.handshake.request,
        response=opened.response,
        subprotocol=opened.handshake.subprotocol,
        extensions=opened.handshake.extensions,
        early_data=opened.early_data,
        logger=_logger if logger is None else logger,
    )
    if connection.logger.isEnabledFor(logging.DEBUG):
        connection.logger.debug("connection %s to %r opened", connection.id, opened.target)
    return connection


def unix_connect(
    path: str | bytes | os.PathLike[str], uri: str = "ws://localhost/", **options: Any
) -> Connection:
    """Connects to a WebSocket server that listens on a Unix socket.

    Args:
        path: The socket's path.
        uri: For the request: its host becomes the ``Host`` header; ``wss://`` for TLS.
        **options: Those of :func:`connect`, without ``sock``.

    Returns:
        The connection, open.

    Raises:
        OSError: There is no server at ``path``.
        Exception: What :func:`connect` raises.
    """
    if "sock" in options:
        raise TypeError("unix_connect() does not take sock")
    given: Any = _UnixPath(check_path(path))
    return connect(uri, sock=given, **options)


class _UnixPath(NamedTuple):
    """What :func:`unix_connect` passes for a socket, to be connected before the deadline."""

    path: str | bytes


# Each makes the transport to the server of a route.
_Approach = Callable[[Route, Budget], Transport]


def _reach_path(path: str | bytes, route: Route, budget: Budget) -> Transport:
    with budget.step("connecting to the Unix socket"):
        sock = connect_unix(path, budget.deadline)
    return _take_over(sock, route, budget)


def _take_over(sock: socket.socket, route: Route, budget: Budget) -> Transport:
    try:
        return secure(Transport(sock), route, budget)
    except BaseException:
        sock.close()
        raise


class _Opened(NamedTuple):
    """A stream on which the opening handshake is complete."""

    target: WebSocketURI
    transport: Transport
    handshake: ClientHandshake
    response: Response
    early_data: bytes


def _open(
    prepare: Callable[[WebSocketURI, bool], tuple[Route, ClientHandshake]],
    target: WebSocketURI,
    approach: _Approach,
    open_timeout: float | None,
    max_redirects: int,
    cookies: CookieJar | None,
) -> _Opened:
    """Asks ``target``, and then whoever it sends us to, until one accepts."""
    redirects = Redirects(max_redirects)
    trusted = True
    route, handshake = prepare(target, trusted)
    budget = Budget(open_timeout)
    while True:
        transport = approach(route, budget)
        try:
            response, early_data = _ask(transport, handshake, target, budget, cookies)
            return _Opened(target, transport, handshake, response, early_data)
        except BaseException as error:
            transport.close()
            # No other server is at the caller's socket or path.
            if approach is not reach or not isinstance(error, InvalidStatus):
                raise
            response = error.response
            if not redirects.is_redirect(response):
                raise
        before, target = target, redirects.follow(target, handshake.request, response)
        # Who was among strangers once is not believed to come home.
        trusted = trusted and same_origin(before, target)
        route, handshake = prepare(target, trusted)
        redirects.check_loop(target, handshake.request, response)


def _ask(
    transport: Transport,
    handshake: ClientHandshake,
    target: WebSocketURI,
    budget: Budget,
    cookies: CookieJar | None,
) -> tuple[Response, bytes]:
    parser = ResponseParser()
    response = exchange(transport, handshake.request, parser, budget, "the opening handshake")
    if cookies is not None:
        store_cookies(cookies, target, response)
    try:
        handshake.check_response(response)
    except NegotiationError as error:
        _refuse(transport, error, budget)
        raise
    return response, parser.rest


def _refuse(transport: Transport, error: NegotiationError, budget: Budget) -> None:
    """The server believes that the connection is open: a close frame tells it why it is not."""
    close = Close(CloseCode.MANDATORY_EXTENSION, str(error)[:100])
    frame = FrameEncoder(Side.CLIENT).encode(Opcode.CLOSE, close.serialize())
    with contextlib.suppress(OSError):
        transport.send_before(frame, budget.deadline)


def _headers(additional: HeadersLike) -> Headers:
    try:
        return Headers(additional)
    except TypeError as error:
        raise TypeError(f"additional_headers: {error}") from None
    except ValueError as error:
        raise ValueError(f"additional_headers: {error}") from None


def _with_cookies(
    additional: Headers | None, cookies: CookieJar | None, target: WebSocketURI
) -> Headers | None:
    if cookies is None:
        return additional
    headers = Headers(()) if additional is None else additional.copy()
    if "Cookie" in headers:
        raise ValueError("both cookies and additional_headers set the Cookie header")
    cookie = cookie_header(cookies, target)
    if cookie is not None:
        headers["Cookie"] = cookie
    return headers


def _check_connected(sock: socket.socket) -> None:
    """Refuses a socket that never was connected; a broken connection is no wrong argument."""
    try:
        sock.getpeername()
    except OSError:
        # One that was connected has a local port, and still has it after a reset.
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens or sock.family == socket.AF_UNIX or sock.getsockname()[1] == 0:
            raise ValueError("sock must be connected") from None
