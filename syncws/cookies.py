"""Cookies in a jar of the standard library, for one request and its response.

What belongs here: showing our request and response to ``http.cookiejar`` in the form that it
knows. What does not: its rules (RFC 6265 and older), which are its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .headers import Headers
from .http11 import Response
from .uri import WebSocketURI

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

__all__ = ["check_jar", "cookie_header", "store_cookies"]


def check_jar(cookies: CookieJar) -> None:
    """A jar.

    Raises:
        TypeError: Something else.
    """
    # Here and not above: it imports urllib.request, and whoever has a jar has it already.
    from http.cookiejar import CookieJar

    if not isinstance(cookies, CookieJar):
        kind = type(cookies).__name__
        raise TypeError(f"cookies must be a http.cookiejar.CookieJar, not {kind}")


def cookie_header(cookies: CookieJar, target: WebSocketURI) -> str | None:
    """The ``Cookie`` header for a request to ``target``, if there is one to send."""
    request = _Request(target)
    cookies.add_cookie_header(cast(Any, request))
    return request.cookie


def store_cookies(cookies: CookieJar, target: WebSocketURI, response: Response) -> None:
    """Puts the cookies that ``target`` has set into the jar, those that it may set."""
    cookies.extract_cookies(cast(Any, _Response(response.headers)), cast(Any, _Request(target)))


class _Request:
    """As much of a ``urllib.request.Request`` as jars and their policies use."""

    def __init__(self, target: WebSocketURI) -> None:
        # Jars know ws:// as http://: cookies have no other scheme (RFC 6265 section 8.6).
        self.type = "https" if target.secure else "http"
        self.host = target.host_header  # for its port
        self.origin_req_host = target.host
        # Not by a page of a third party, but by the program.
        self.unverifiable = False
        self.cookie: str | None = None
        self._url = f"{self.type}://{self.host}{target.resource_name}"

    def get_full_url(self) -> str:
        return self._url

    def has_header(self, name: str) -> bool:
        return False

    def add_unredirected_header(self, name: str, value: str) -> None:
        if name == "Cookie":  # Cookie2 is obsolete (RFC 6265 section 9.4)
            self.cookie = value


class _Response:
    """As much of a response as jars use; it is its own ``info()``."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def info(self) -> _Response:
        return self

    def get_all(self, name: str, default: list[str]) -> list[str]:
        return self._headers.get_all(name) or default
