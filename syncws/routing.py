"""A handler for each path, through ``werkzeug.routing`` (the extra ``routing``).

What belongs here: finding the rule for a request, and answers where there is none. What does
not: patterns, converters and their errors (Werkzeug's), serving (:mod:`.server`).
"""

from __future__ import annotations

import functools
import os
import urllib.parse
from typing import TYPE_CHECKING, Any

from .hooks import Hooks, ProcessRequest
from .http11 import Request, Response
from .options import check_function
from .server import serve, unix_serve
from .server_connection import PendingConnection, ServerConnection
from .serving import ThreadingServer

if TYPE_CHECKING:
    from werkzeug.routing import Map, MapAdapter

__all__ = ["route", "unix_route"]


def route(
    url_map: Map,
    host: str | None = "localhost",
    port: int = 0,
    *,
    server_name: str | None = None,
    process_request: ProcessRequest | None = None,
    **options: Any,
) -> ThreadingServer:
    """Makes a server whose handlers are chosen by path::

        from werkzeug.routing import Map, Rule

        def room(ws, name): ...
        def health(connection, request):
            return connection.respond(200, "fine")

        rules = [
            Rule("/rooms/<string(length=8):name>", endpoint=room),
            Rule("/health", endpoint=health, methods=["GET"]),
        ]
        with syncws.route(Map(rules), "localhost", 8765) as server:
            server.serve_forever()

    A rule without ``methods`` is for WebSockets: its ``websocket`` is set, and its endpoint is
    the handler, called with the connection and what the converters made of the path, as keyword
    arguments. A rule with ``methods`` is for plain HTTP, unless it says ``websocket=True``: its
    endpoint is called as ``process_request`` would be, with the same keyword arguments.

    A path without a rule is answered with 404, one that lacks its slash with a redirect, one
    that has no rule for the method with 405, and a plain request to a handler with 426.

    Args:
        url_map: The rules. With ``host_matching=True`` they are matched with the ``Host``
            header, too.
        host: As for :func:`serve`.
        port: As for :func:`serve`.
        server_name: For rules with a ``subdomain``: the domain that it is part of.
        process_request: Called before a rule is looked for; what it returns, if not
            ``None``, is the answer. If it lets some paths pass, it should compare with
            those, not with others: ``/%61`` and ``http://host/a`` are ``/a``, too.
        **options: The others of :func:`serve`.

    Raises:
        ImportError: Werkzeug is missing.
        OSError: The address cannot be listened on.
        TypeError: An argument has the wrong type, or an endpoint cannot be called or is ``async``.
        ValueError: An argument has a value that makes no sense.
    """
    hook = _Router(url_map, server_name, process_request)
    return serve(ServerConnection.close, host, port, process_request=hook, **options)


def unix_route(
    url_map: Map,
    path: str | bytes | os.PathLike[str],
    *,
    server_name: str | None = None,
    process_request: ProcessRequest | None = None,
    **options: Any,
) -> ThreadingServer:
    """Makes a server on a Unix socket whose handlers are chosen by path.

    Args:
        url_map: As for :func:`route`.
        path: As for :func:`unix_serve`.
        server_name: As for :func:`route`.
        process_request: As for :func:`route`.
        **options: The others of :func:`unix_serve`.

    Raises:
        Exception: Those of :func:`route`.
    """
    hook = _Router(url_map, server_name, process_request)
    return unix_serve(ServerConnection.close, path, process_request=hook, **options)


class _Router:
    """The ``process_request`` that chooses the handler."""

    def __init__(
        self, url_map: Map, server_name: str | None, process_request: ProcessRequest | None
    ) -> None:
        try:
            from werkzeug import exceptions, routing
        except ImportError as error:
            raise ImportError("route() needs Werkzeug: pip install 'syncws[routing]'") from error
        if not isinstance(url_map, routing.Map):
            raise TypeError(f"url_map must be a werkzeug.routing.Map, not {type(url_map).__name__}")
        if server_name is not None and not isinstance(server_name, str):
            raise TypeError(f"server_name must be a str or None, not {type(server_name).__name__}")
        for rule in url_map.iter_rules():
            if rule.redirect_to is None and not rule.build_only:
                check_function(f"the endpoint of {rule.rule!r}", rule.endpoint)
            if rule.methods is None:
                rule.websocket = True
        Hooks(process_request)  # checks it
        self._url_map = url_map
        self._server_name = None if server_name is None else server_name.lower()
        self._process_request = process_request
        self._routing = routing
        self._exceptions = exceptions

    def __call__(self, connection: PendingConnection, request: Request) -> Response | None:
        if self._process_request is not None:
            response = self._process_request(connection, request)
            if response is not None:
                return response
        websocket = [v.lower() for v in request.headers.get_all("Upgrade")] == ["websocket"]
        target = urllib.parse.urlsplit(request.path)
        try:
            # As WSGI servers do it, but what is not UTF-8 is nobody's path.
            path = urllib.parse.unquote(target.path, errors="strict")
            adapter = self._bind(connection, request, websocket)
            rule, values = adapter.match(
                path, request.method, return_rule=True, query_args=target.query, websocket=websocket
            )
        except UnicodeDecodeError:
            return connection.respond(404, "Nothing is here.\n")
        except self._routing.RequestRedirect as redirect:
            response = connection.respond(redirect.code, "It is elsewhere.\n")
            response.headers["Location"] = _relative(redirect.new_url, adapter)
            return response
        except self._routing.WebsocketMismatch:
            return connection.respond(404, "No WebSocket is here.\n") if websocket else None
        except self._exceptions.MethodNotAllowed as error:
            response = connection.respond(405, "Another method is needed.\n")
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
            return response
        except self._exceptions.NotFound:
            return connection.respond(404, "Nothing is here.\n")
        if websocket:
            connection.handler = functools.partial(rule.endpoint, **values)
            return None
        answer: Response | None = rule.endpoint(connection, request, **values)
        return answer

    def _bind(self, connection: PendingConnection, request: Request, websocket: bool) -> MapAdapter:
        scheme = ("ws" if websocket else "http") + ("s" if connection.secure else "")
        host = request.headers["Host"].lower().removesuffix(":443" if connection.secure else ":80")
        server_name, subdomain = self._server_name, None
        if server_name is None or self._url_map.host_matching:
            server_name = host
        elif host == server_name:
            subdomain = ""
        elif host.endswith(f".{server_name}"):
            subdomain = host.removesuffix(f".{server_name}")
        else:
            raise self._exceptions.NotFound
        return self._url_map.bind(server_name, subdomain=subdomain, url_scheme=scheme)


def _relative(url: str, adapter: MapAdapter) -> str:
    """``url`` without the scheme and host if they stay as they are.

    A proxy may know this server by others.
    """
    same = f"{adapter.url_scheme}://{adapter.get_host(None)}/"
    return "/" + url[len(same) :].lstrip("/") if url.startswith(same) else url
