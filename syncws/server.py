"""The functions that make servers, and ``broadcast()``.

What belongs here: the public functions and the checks of their arguments. What does not:
the server itself (:mod:`.serving`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl as ssl_module
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

from .accepting import listen_tcp, listen_unix, unix_remover
from .connection import Connection
from .exceptions import ConnectionClosed
from .extension_options import server_extensions
from .extensions import ServerExtensionFactory
from .forwarded import ProxyAddress, TrustedProxies
from .frames import Opcode
from .hooks import Hooks, ProcessRequest, ProcessResponse
from .messages import as_message, payload_of
from .negotiation import Origins, SelectSubprotocol
from .options import (
    Options,
    check_flag,
    check_function,
    check_integer,
    check_logger,
    check_path,
    check_seconds,
    check_size,
    check_socket,
)
from .server_connection import Handler
from .server_handshake import SERVER, accept, check_server_options
from .serving import StuckHandler, ThreadingServer
from .session import Service
from .waiting import AnyConnection, check_connections

__all__ = ["Handler", "StuckHandler", "ThreadingServer", "broadcast", "serve", "unix_serve"]

_DEFAULTS = Options()
# The kernel cuts it down to net.core.somaxconn.
_BACKLOG = 4096
_MAX_BACKLOG = 2**31 - 1  # listen() takes an int


def serve(
    handler: Handler,
    host: str | None = "localhost",
    port: int = 0,
    *,
    sock: socket.socket | None = None,
    ssl: ssl_module.SSLContext | None = None,
    origins: Origins | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    extensions: Sequence[ServerExtensionFactory] | None = None,
    compression: str | None = "deflate",
    process_request: ProcessRequest | None = None,
    process_response: ProcessResponse | None = None,
    server_header: str | None = SERVER,
    trusted_proxies: Collection[ProxyAddress] | None = None,
    proxy_protocol: bool = False,
    open_timeout: float | None = 10,
    max_connections: int | None = None,
    reuse_port: bool = False,
    backlog: int = _BACKLOG,
    ping_interval: float | None = _DEFAULTS.ping_interval,
    ping_timeout: float | None = _DEFAULTS.ping_timeout,
    close_timeout: float | None = _DEFAULTS.close_timeout,
    max_size: int | None = _DEFAULTS.max_size,
    max_frame_size: int | None = _DEFAULTS.max_frame_size,
    max_fragments: int | None = _DEFAULTS.max_fragments,
    max_queue: int | None = _DEFAULTS.max_queue,
    write_limit: int = _DEFAULTS.write_limit,
    logger: logging.Logger | None = None,
) -> ThreadingServer:
    """Makes a server that listens on TCP.

    The server serves from its ``start()``, ``serve_forever()`` or ``with`` block on::

        def echo(ws):
            for message in ws:
                ws.send(message)

        with syncws.serve(echo, "localhost", 8765) as server:
            server.serve_forever()

    Args:
        handler: Called with each connection, in a thread of its own; when it returns, the
            connection is closed with code 1000, and if it raises, with 1011.
        host: A host name or address; all addresses of a name are listened on. ``None``:
            every interface of this machine.
        port: ``0``: a free one; ``server.url`` and ``server.address`` tell which.
        sock: Listen on this socket instead, which is already bound. The server closes it.
        ssl: For ``wss://``: a server-side context with a certificate. Its protocols (ALPN)
            are set to ``http/1.1``: a server of WebSockets speaks no other.
        origins: Acceptable values of the ``Origin`` header: strings, compiled regular
            expressions, and ``None`` for requests without it. By default these are
            accepted, and of the others those that name the host of the request: what
            protects browser users from pages of other sites.
        subprotocols: Supported subprotocols in order of preference.
        select_subprotocol: Chooses the subprotocol instead: called with the request and
            the list of what the client offers, in the handler's thread.
        extensions: Factories of the extensions to accept, in order of preference.
        compression: ``"deflate"``: accept ``permessage-deflate`` as well, unless it is among
            ``extensions``; ``None``: do not.
        process_request: Called with a :class:`PendingConnection` and the request before
            anything else is decided, in the handler's thread; if it returns a
            :class:`Response`, this is the answer, with its ``Content-Length`` and
            ``Connection: close``. With it, GET and HEAD requests without a valid upgrade
            reach it, too, and get their 426 only if it returns ``None``.
        process_response: Called with the :class:`PendingConnection`, the request and the
            response, a 101 or a refusal; it may change the response or return another.
            An exception in one of these three is logged, and answered with 500.
        server_header: The ``Server`` header, or ``None`` for none.
        trusted_proxies: Addresses and networks (``"10.0.0.0/8"``) of proxies in front of the
            server; ``"unix:"`` for all that connect to a Unix socket. Of them, and of
            nobody else, ``Forwarded``, ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are
            believed: ``remote_address`` and ``secure`` are those of the peer behind them.
            They have to replace or extend what a client sends.
        proxy_protocol: Only these proxies may connect, and each connection has to begin
            with a header of the PROXY protocol, version 1 or 2; all others are closed.
        open_timeout: Seconds a peer has for its whole opening handshake, or ``None``.
        max_connections: Peers beyond so many connections are told 503.
        reuse_port: Lets several processes listen on the same port (``SO_REUSEPORT``).
        backlog: How many connections may wait to be accepted.
        ping_interval: Seconds between keepalive pings, ``None`` for none; this and the
            following options are those of :func:`connect`.
        logger: Default: ``logging.getLogger("syncws.server")``.

    Raises:
        OSError: The address cannot be listened on.
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that makes no sense.
    """
    check_function("handler", handler)
    _check_context(ssl)
    check_seconds("open_timeout", open_timeout)
    check_size("max_connections", max_connections, 1)
    if host is not None and not isinstance(host, str):
        raise TypeError(f"host must be a str or None, not {type(host).__name__}")
    check_integer("port", port, 0, 65535)
    check_integer("backlog", backlog, 0, _MAX_BACKLOG)
    check_logger(logger)
    if sock is not None:
        check_socket(sock)
        if sock.family != socket.AF_UNIX and sock.getsockname()[1] == 0:
            # listen() would take a free port of every interface.
            raise ValueError("sock must be bound")
    for name, choice in (("proxy_protocol", proxy_protocol), ("reuse_port", reuse_port)):
        if not isinstance(choice, bool):
            raise TypeError(f"{name} must be a bool, not {type(choice).__name__}")
    if proxy_protocol and trusted_proxies is None:
        raise ValueError("proxy_protocol needs trusted_proxies: anybody may write such a header")
    check_server_options(
        origins=origins,
        subprotocols=subprotocols,
        select_subprotocol=select_subprotocol,
        server_header=server_header,
    )
    service = Service(
        handler=handler,
        accept=partial(
            accept,
            origins=origins,
            subprotocols=subprotocols,
            select_subprotocol=select_subprotocol,
            extensions=server_extensions(extensions, compression),
            server_header=server_header,
        ),
        options=Options(
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_size=max_size,
            max_frame_size=max_frame_size,
            max_fragments=max_fragments,
            max_queue=max_queue,
            write_limit=write_limit,
        ),
        logger=logging.getLogger("syncws.server") if logger is None else logger,
        hooks=Hooks(process_request, process_response),
        trusted_proxies=None if trusted_proxies is None else TrustedProxies(trusted_proxies),
        proxy_protocol=proxy_protocol,
    )
    if sock is not None:
        sock.listen(backlog)
        sockets = [sock]
    else:
        sockets = listen_tcp(host, port, backlog=backlog, reuse_port=reuse_port)
    return ThreadingServer(
        service,
        sockets,
        context=ssl,
        open_timeout=open_timeout,
        max_connections=max_connections,
    )


def unix_serve(
    handler: Handler,
    path: str | bytes | os.PathLike[str],
    *,
    backlog: int = _BACKLOG,
    **options: Any,
) -> ThreadingServer:
    """Makes a server that listens on a Unix socket.

    A socket at ``path`` that nobody listens on any more is replaced. The server removes
    its own as the first thing of its shutdown: while the last connections close, the path is
    free for the next server, and a client that comes finds none.

    Args:
        handler: As for :func:`serve`.
        path: Where; about 100 bytes at most, which is the system's limit.
        backlog: As for :func:`serve`.
        **options: Those of :func:`serve`, without ``host``, ``port``, ``sock`` and
            ``reuse_port``.

    Raises:
        OSError: The path cannot be listened on; somebody else may be doing so.
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that makes no sense.
    """
    for name in ("host", "port", "sock", "reuse_port"):
        if name in options:
            raise TypeError(f"unix_serve() does not take {name}")
    check_integer("backlog", backlog, 0, _MAX_BACKLOG)
    path = check_path(path)
    sock = listen_unix(path, backlog=backlog)
    clean_up = unix_remover(path)
    try:
        server = serve(handler, sock=sock, **options)
    except BaseException:
        clean_up()
        sock.close()
        raise
    server.clean_up = clean_up
    return server


def broadcast(
    connections: Iterable[AnyConnection],
    message: str | bytes | bytearray | memoryview,
    *,
    text: bool | None = None,
    compress: bool | None = None,
) -> list[AnyConnection]:
    """Sends a message to many connections, without waiting for any of their peers.

    A peer that reads slowly keeps nobody waiting: the message is dropped for a connection
    that holds ``write_limit`` bytes which its peer has not taken, or that another thread is
    sending a message in fragments to (one that encodes the first is given a tenth of a
    second). Those connections are returned: the application
    decides whether it can live with the gap or closes them. So are those whose extension raises
    an exception, which is logged: the others get the message. A connection that is closed or
    closing is passed over silently.

    Args:
        connections: For example ``server.connections``.
        message: A ``str`` is sent as text and a bytes-like object as binary.
        text: ``True``: send as text; ``False``: as binary, whatever the type.
        compress: As for ``send()``. Each connection compresses for itself, as it remembers
            other messages than its neighbour: ``False`` saves that time.

    Returns:
        The connections for which the message was dropped.

    Raises:
        TypeError: ``message`` is neither a ``str`` nor bytes-like, or ``connections`` is no
            iterable of connections; nothing was sent.
        ForkedConnectionError: One of them belongs to the parent of this process; nothing was sent.
        UnicodeDecodeError: ``text=True`` and the bytes are not UTF-8; nothing was sent.
    """
    whole = as_message(message)
    if whole is None:
        raise TypeError(f"message must be str or bytes-like, not {type(message).__name__}")
    payload, opcode = payload_of(whole)  # once; others may change theirs while we are at it
    if text is not None:
        check_flag("text", text)
        opcode = Opcode.TEXT if text else Opcode.BINARY
    if opcode == Opcode.TEXT and not isinstance(whole, str):
        payload.decode()
    if compress is not None:
        check_flag("compress", compress)
    skipped = []
    for connection in check_connections(connections):
        try:
            if not connection.try_send(payload, opcode, compress):
                skipped.append(connection)
        except ConnectionClosed:
            continue
        except Exception:
            # Of an extension. Raised it would lose the message for the others, or who missed it.
            _log_failure(connection)
            skipped.append(connection)
    return skipped


def _log_failure(connection: Connection) -> None:
    with contextlib.suppress(Exception):  # of a log handler: a line of the log and nothing else
        connection.logger.error(
            "broadcast to connection %s with %s failed",
            connection.id,
            connection.remote_address,
            exc_info=True,
        )


def _check_context(context: ssl_module.SSLContext | None) -> None:
    if context is None:
        return
    if not isinstance(context, ssl_module.SSLContext):
        raise TypeError(f"ssl must be an ssl.SSLContext, not {type(context).__name__}")
    if context.protocol == ssl_module.PROTOCOL_TLS_CLIENT:
        raise ValueError("ssl must be a server-side context: ssl.PROTOCOL_TLS_SERVER")
    # Otherwise a context that offers h2, too, would agree on it with browsers.
    context.set_alpn_protocols(["http/1.1"])
