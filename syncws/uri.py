"""``ws://`` and ``wss://`` URIs (RFC 6455 section 3) and the ``host[:port]`` inside them.

What belongs here: taking a URI or an authority apart, strictly. Nothing is stripped
silently: what cannot be sent as it is written is either percent-encoded (non-ASCII
text in a path or a query) or refused. What does not: resolving names, HTTP.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
import urllib.parse

from .exceptions import InvalidURI

__all__ = [
    "WebSocketURI",
    "parse_authority",
    "parse_host",
    "parse_uri",
    "parse_userinfo",
    "unmapped",
]

_URI = re.compile(r"(wss?)://([^/?#]*)(/[^?#]*)?(?:\?([^#]*))?(#.*)?", re.ASCII | re.IGNORECASE)
# Control characters (C0, DEL, C1) and spaces: none of them may be part of a URI, and a
# request line that contained one would be read as something else.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
# DNS names (RFC 1035 section 2.3.4), with the underscore that private networks use.
_LABEL = r"[A-Za-z0-9_-]{1,63}"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_MAX_NAME_LENGTH = 254  # 253 characters and the dot of the root
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?")
_ZONE = re.compile(r"([^%]+)%25([A-Za-z0-9._~-]+)")


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class WebSocketURI:
    """A valid WebSocket URI, in parts.

    Args:
        secure: ``True`` for ``wss://``.
        host: The name (ASCII, lower case) or the address to connect to; an IPv6 address
            is without brackets and keeps its zone (``fe80::1%eth0``).
        port: 1 to 65535; 80 or 443 if the URI has none.
        path: Begins with ``/``; ASCII.
        query: Without the ``?``; ASCII; ``""`` if there is none.
        username: Percent-decoded, or ``None``.
        password: Percent-decoded, or ``None``; ``""`` if only a user name is given.
    """

    secure: bool
    host: str
    port: int
    path: str
    query: str
    username: str | None = None
    password: str | None = None

    @property
    def resource_name(self) -> str:
        """The target of the request: the path and, if there is one, the query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def host_header(self) -> str:
        """The value of the ``Host`` header: without a default port (RFC 9110 section 4.2)."""
        # RFC 6874 section 4: a zone means something to this machine only.
        host = self.host.partition("%")[0]
        if ":" in host:
            host = f"[{host}]"
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def __repr__(self) -> str:
        # User information and queries carry passwords and tokens.
        scheme = "wss" if self.secure else "ws"
        user = "" if self.username is None else "***@"
        query = "?***" if self.query else ""
        return f"<WebSocketURI {scheme}://{user}{self.host_header}{self.path}{query}>"


def parse_authority(authority: str) -> tuple[str, int | None]:
    """Takes ``host[:port]`` apart, as in a URI, a ``Host`` or an ``Origin`` header.

    Args:
        authority: ASCII text without user information.

    Returns:
        The host in lower case, an IPv6 address without its brackets, and the port or
        ``None`` if it is not there.

    Raises:
        ValueError: It is not a host with an optional port from 1 to 65535.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("the host or the port is malformed")
    host, digits = match[1], match[2]
    if not host:
        raise ValueError("the host is missing")
    if host[0] == "[":
        host = host[1:-1]
        try:
            if "%" in host:
                raise ValueError
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("the host is not a valid IPv6 address") from None
    elif len(host) > _MAX_NAME_LENGTH or _NAME.fullmatch(host) is None:
        raise ValueError("the host is not a valid name")
    port = int(digits) if digits else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError("the port is not between 1 and 65535")
    return host.lower(), port


def parse_uri(uri: str) -> WebSocketURI:
    """Takes a ``ws://`` or ``wss://`` URI apart.

    Non-ASCII text in the path and the query is percent-encoded as UTF-8; a non-ASCII
    host becomes its IDNA form (that of the standard library, RFC 3490).

    Args:
        uri: The URI. Its user information, if any, is meant for HTTP Basic
            authentication.

    Raises:
        InvalidURI: It is not a WebSocket URI: another scheme, no host, a fragment, a
            bad port, a space or a control character. The exception carries the URI
            without user information and query. It is a :exc:`ValueError` as well.
        TypeError: ``uri`` is not a ``str``.
    """
    if not isinstance(uri, str):
        raise TypeError(f"uri must be a str, not {type(uri).__name__}")
    try:
        return _parse(uri)
    except ValueError as error:
        problem = str(error)
    # Outside of the except clause: the context of an exception is printed with it, and a
    # UnicodeError carries the text that it is about.
    raise InvalidURI(uri, problem)


# As urllib.parse.urlsplit() does. A program that connects often, connects to few URIs.
@functools.lru_cache(maxsize=64, typed=True)
def _parse(uri: str) -> WebSocketURI:
    if _FORBIDDEN.search(uri) is not None:
        raise ValueError("it contains a space or a control character; percent-encode it")
    match = _URI.fullmatch(uri)
    if match is None:
        raise ValueError("the scheme is not ws or wss")
    scheme, authority, path, query, fragment = match.groups()
    if fragment is not None:
        # RFC 6455 section 3: fragment identifiers are meaningless here.
        raise ValueError("it has a fragment; a '#' that is part of the path is '%23'")
    userinfo, at_sign, authority = authority.rpartition("@")
    username = password = None
    if at_sign:
        username, password = parse_userinfo(userinfo)
    host, port = parse_host(authority)
    secure = scheme.lower() == "wss"
    return WebSocketURI(
        secure=secure,
        host=host,
        port=port if port is not None else 443 if secure else 80,
        path=_percent_encode(path or "/"),
        query=_percent_encode(query or ""),
        username=username,
        password=password,
    )


def parse_userinfo(userinfo: str) -> tuple[str, str]:
    """Takes ``user[:password]`` apart and decodes it.

    Raises:
        ValueError: It cannot be used for HTTP Basic authentication (RFC 7617).
    """
    if "\\" in userinfo:
        # Browsers read it as a slash, so that the host would be another one.
        raise ValueError("the user information contains a backslash; it is '%5C'")
    if "@" in userinfo:
        raise ValueError("it has more than one '@'; in a user name or password it is '%40'")
    parts = []
    for part in userinfo.split(":", 1):
        try:
            decoded = urllib.parse.unquote(part, errors="strict")
            decoded.encode()
        except UnicodeError:
            raise ValueError("the user information is not valid UTF-8") from None
        # RFC 7617 section 2: neither part may contain control characters.
        if _CONTROL.search(decoded) is not None:
            raise ValueError("the user information contains a control character")
        parts.append(decoded)
    username, password = parts if len(parts) == 2 else (parts[0], "")
    if ":" in username:
        # RFC 7617 section 2: the first colon ends the user name.
        raise ValueError("the user name contains a colon")
    return username, password


def parse_host(authority: str) -> tuple[str, int | None]:
    """As :func:`parse_authority`, for what people write: IDNA and zones of IPv6, too.

    Raises:
        ValueError: As there.
    """
    zone = ""
    if authority.startswith("["):
        address, bracket, rest = authority.partition("]")
        match = _ZONE.fullmatch(address)
        if match is not None:
            # RFC 6874: fe80::1%25eth0 names the interface that leads to the address.
            authority, zone = match[1] + bracket + rest, "%" + match[2]
    elif not authority.isascii():
        name, colon, digits = authority.partition(":")
        if len(name) > _MAX_NAME_LENGTH:
            raise ValueError("the host is not a valid name")
        try:
            encoded = name.encode("idna").decode("ascii")
        except UnicodeError:
            encoded = ""
        # Compatibility characters become colons, brackets and slashes.
        if _NAME.fullmatch(encoded) is None:
            raise ValueError("the host is not a valid internationalized name")
        authority = encoded + colon + digits
    host, port = parse_authority(authority)
    return host + zone, port


def unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one stands for (RFC 4291 section 2.5.5.2), or itself.

    What a socket for both families calls an IPv4 peer.
    """
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _percent_encode(text: str) -> str:
    if text.isascii():
        return text
    try:
        return _NOT_ASCII.sub(lambda match: urllib.parse.quote(match[0], safe=""), text)
    except UnicodeEncodeError:
        raise ValueError("it contains a lone surrogate") from None
