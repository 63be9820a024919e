"""Redirects: where an answer like 302 leads, and when it is not followed.

What belongs here: the rules. What does not: connecting again, and leaving out what was meant
for the first server only (:mod:`.client`).
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse

from .exceptions import InsecureRedirectError, InvalidURI, RedirectError
from .http11 import Request, Response
from .uri import WebSocketURI, parse_uri

__all__ = ["Redirects", "same_origin"]

# RFC 9110 section 15.4. 300 wants a choice and 304 a cache; 305 is obsolete: a proxy is nothing
# that a server may choose for us.
_STATUSES = frozenset({301, 302, 303, 307, 308})
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f]")
# A scheme or "//", and no authority behind it: "http:///x", "http:x", "//".
_WITHOUT_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!//[^/?#])|//(?![^/?#])")


def same_origin(one: WebSocketURI, other: WebSocketURI) -> bool:
    """Whether what is meant for one may be told to the other (RFC 6454 section 5)."""
    return (one.secure, one.host, one.port) == (other.secure, other.host, other.port)


class Redirects:
    """The redirects of one ``connect()``.

    Args:
        most: How many are followed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[tuple[object, ...]] = set()

    def follow(self, target: WebSocketURI, request: Request, response: Response) -> WebSocketURI:
        """Where to go from ``target``.

        Its user information goes along to the same origin; what the redirect has is ignored,
        for only the program knows who it is.

        Args:
            target: Who sent the response.
            request: What it was sent.
            response: Its answer.

        Raises:
            RedirectError: The redirect is not followed.
        """
        self._seen.add(_place(target, request))
        location = _location(target, response)
        if target.secure and not location.secure:
            raise InsecureRedirectError(response, f"it leads from wss:// to {_shown(location)}")
        if len(self._seen) > self._most:
            problem = f"it is one more than max_redirects={self._most}"
            raise RedirectError(response, problem)
        return location

    def check_loop(self, target: WebSocketURI, request: Request, response: Response) -> None:
        """Refuses to ask again what was asked already.

        Raises:
            RedirectError: ``response`` led there.
        """
        if _place(target, request) in self._seen:
            raise RedirectError(response, f"it leads back to {_shown(target)}")

    @staticmethod
    def is_redirect(response: Response) -> bool:
        """Whether the response names another place to ask."""
        return response.status_code in _STATUSES


def _place(target: WebSocketURI, request: Request) -> tuple[object, ...]:
    # With the cookies: a server may set one and redirect to itself.
    cookies = tuple(request.headers.get_all("Cookie"))
    return target.secure, target.host, target.port, request.path, cookies


def _shown(target: WebSocketURI) -> str:
    # Without user information and query: both may be secrets.
    return f"{'wss' if target.secure else 'ws'}://{target.host_header}{target.path}"


def _location(target: WebSocketURI, response: Response) -> WebSocketURI:
    values = response.headers.get_all("Location")
    if len(values) != 1:
        raise RedirectError(response, f"there are {len(values)} Location headers")
    try:
        location = _resolve(target, values[0])
    except InvalidURI as error:
        problem = f"its Location is not valid: {error.problem}"
    except ValueError:
        problem = "its Location is not a URI"
    else:
        if location.host == target.host.partition("%")[0]:
            # RFC 6874: only this machine knows the zone of an address.
            location = dataclasses.replace(location, host=target.host)
        kept = same_origin(location, target)
        return dataclasses.replace(
            location,
            username=target.username if kept else None,
            password=target.password if kept else None,
        )
    # Outside of the except clauses: an exception is printed with its context, which could
    # show a query.
    raise RedirectError(response, problem)


def _resolve(target: WebSocketURI, location: str) -> WebSocketURI:
    # What is beyond ASCII should not be there; browsers take it for UTF-8.
    location = location.encode("latin-1").decode()
    # urljoin() would strip some of these.
    if not location or _FORBIDDEN.search(location) is not None:
        raise ValueError
    # Nor is a missing host the one that said so (RFC 9110 section 4.2.1).
    if _WITHOUT_HOST.match(location) is not None:
        raise ValueError
    base = f"http{'s' if target.secure else ''}://{target.host_header}{target.resource_name}"
    absolute = urllib.parse.urljoin(base, location).partition("#")[0]
    scheme, separator, rest = absolute.partition("://")
    return parse_uri(f"{_SCHEMES.get(scheme.lower(), scheme)}{separator}{rest}")
