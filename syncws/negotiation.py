"""What the two sides agree on: origins, subprotocols, extensions.

What belongs here: the rules of each, for both sides. What does not: answers to a peer,
and the rest of the handshake (:mod:`.client_handshake`, :mod:`.server_handshake`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from .exceptions import InvalidHeaderFormat, NegotiationError
from .extensions import (
    ClientExtensionFactory,
    Extension,
    ExtensionParameters,
    ServerExtensionFactory,
    check_compatible,
)
from .headers import TOKEN, Headers, is_token
from .http11 import Request
from .uri import parse_authority

__all__ = [
    "ExtensionHeader",
    "Origins",
    "SelectSubprotocol",
    "accepted_extensions",
    "answer_extensions",
    "check_origins",
    "check_subprotocols",
    "extensions_header",
    "is_origin",
    "offered_subprotocols",
    "origin_allowed",
    "parse_extensions",
    "preferred_subprotocol",
    "selected_subprotocol",
]

Origins: TypeAlias = Collection[str | re.Pattern[str] | None]
"""Acceptable origins; ``None`` stands for a request without an ``Origin`` header."""
SelectSubprotocol: TypeAlias = Callable[[Request, list[str]], str | None]
"""Chooses among the subprotocols that a client offers, or none."""
ExtensionHeader: TypeAlias = tuple[str, list[tuple[str, str | None]]]
"""A name and its parameters; ``None`` is the value of a parameter without one."""

# An ASCII serialization (RFC 6454 section 6.2) or "null"; what matters is that it can be sent.
is_origin = re.compile(r"[\x21-\x7e]+").fullmatch
_WEB_ORIGIN = re.compile(r"(https?)://([^/?#@]+)", re.ASCII | re.IGNORECASE)
_WEB_URI = re.compile(r"https?://", re.IGNORECASE).match
# RFC 6455 section 9.1: a quoted value is a token, too, when its escapes are undone.
_EXTENSION_PART = re.compile(
    rf'[ \t]*({TOKEN})(?:[ \t]*=[ \t]*(?:({TOKEN})|"((?:\\?{TOKEN[:-1]})+)"))?[ \t]*([;,]|\Z)'
)
_MAX_SUBPROTOCOLS = 128  # offered by one client; nobody has that many


def check_origins(origins: Origins | None) -> None:
    """Checks a server's ``origins`` argument before it is used.

    Raises:
        TypeError: It is not a collection of strings, patterns and ``None``.
        ValueError: A string in it can never be an origin.
    """
    if origins is None:
        return
    if isinstance(origins, (str, bytes)) or not isinstance(origins, Collection):
        raise TypeError("origins must be a collection of str, compiled patterns and None")
    for origin in origins:
        if isinstance(origin, re.Pattern):
            if not isinstance(origin.pattern, str):
                raise TypeError("origins: a pattern must be compiled from a str")
        elif isinstance(origin, str):
            if is_origin(origin) is None:
                raise ValueError(f"origins: {origin!r} is not an origin")
            if "*" in origin:
                raise ValueError(f"origins: {origin!r} is a pattern: compile it with re.compile()")
            if _WEB_URI(origin) is not None and _WEB_ORIGIN.fullmatch(origin) is None:
                # RFC 6454 section 6.2: it would never be equal to what a browser sends.
                raise ValueError(f"origins: {origin!r} is more than scheme://host:port")
        elif origin is not None:
            raise TypeError(f"origins must not contain {type(origin).__name__}")


def check_subprotocols(subprotocols: Sequence[str] | None) -> list[str]:
    """Checks the ``subprotocols`` argument of either side; returns a copy.

    Raises:
        TypeError: It is not a sequence of strings.
        ValueError: One of them is not a token, or comes twice.
    """
    if subprotocols is None:
        return []
    if isinstance(subprotocols, (str, bytes)) or not isinstance(subprotocols, Sequence):
        raise TypeError("subprotocols must be a sequence of str")
    checked: list[str] = []
    for subprotocol in subprotocols:
        if not isinstance(subprotocol, str):
            raise TypeError(f"subprotocols must not contain {type(subprotocol).__name__}")
        # RFC 6455 section 4.1: tokens, each of them once.
        if is_token(subprotocol) is None:
            raise ValueError(f"subprotocols: {subprotocol!r} is not a token")
        if subprotocol in checked:
            raise ValueError(f"subprotocols: {subprotocol!r} comes twice")
        checked.append(subprotocol)
    return checked


def offered_subprotocols(headers: Headers) -> list[str]:
    """Returns what a request offers, in the client's order of preference.

    Raises:
        InvalidHeaderFormat: Not a list of different tokens, or more than 128 of them.
    """
    values = headers.get_all("Sec-WebSocket-Protocol")
    if not values:
        return []
    offered = [item.strip(" \t") for item in ",".join(values).split(",", _MAX_SUBPROTOCOLS)]
    if (
        len(offered) > _MAX_SUBPROTOCOLS
        or len(set(offered)) != len(offered)
        or not all(map(is_token, offered))
    ):
        raise InvalidHeaderFormat("Sec-WebSocket-Protocol", ", ".join(values))
    return offered


def preferred_subprotocol(subprotocols: Sequence[str] | None, offered: list[str]) -> str | None:
    """Returns the server's first subprotocol that the client offers too.

    Returns:
        ``None`` if the server supports no subprotocol at all.

    Raises:
        NegotiationError: The client offers none of those that the server supports.
    """
    if not subprotocols:
        return None
    for subprotocol in subprotocols:
        if subprotocol in offered:
            return subprotocol
    raise NegotiationError("no subprotocol in common")


def selected_subprotocol(subprotocol: str | None, offered: list[str]) -> str | None:
    """Returns what the user's ``select_subprotocol`` chose, if a client can accept it.

    Raises:
        TypeError: It is neither a ``str`` nor ``None``.
        ValueError: It was not offered.
    """
    if subprotocol is None:
        return None
    if not isinstance(subprotocol, str):
        raise TypeError(f"select_subprotocol returned {type(subprotocol).__name__}, not a str")
    if subprotocol not in offered:
        # RFC 6455 section 4.1: the client would have to fail the connection.
        raise ValueError(f"select_subprotocol returned {subprotocol!r}, which was not offered")
    return subprotocol


def origin_allowed(headers: Headers, origins: Origins | None, secure: bool) -> bool:
    """Whether a request may come from where its ``Origin`` header says.

    Args:
        headers: Those of the request.
        origins: See :func:`syncws.server_handshake.accept`.
        secure: Whether the connection came over TLS.
    """
    values = headers.get_all("Origin")
    if len(values) > 1:
        # RFC 6454 section 7.3: at most one.
        return False
    origin = values[0] if values else None
    if origins is None:
        return origin is None or _same_origin(origin, headers["Host"], secure)
    for allowed in origins:
        if isinstance(allowed, re.Pattern):
            if origin is not None and allowed.fullmatch(origin) is not None:
                return True
        elif allowed == origin:
            return True
    return False


def _same_origin(origin: str, host_header: str, secure: bool) -> bool:
    match = _WEB_ORIGIN.fullmatch(origin)
    if match is None:
        return False
    https = match[1].lower() == "https"
    if secure and not https:
        return False
    try:
        origin_host, origin_port = parse_authority(match[2])
        host, port = parse_authority(host_header)
    except ValueError:
        return False
    # A Host header without a port means the default one of the origin's scheme: the
    # port that this server listens on may be another, behind a proxy.
    default = 443 if https else 80
    return (origin_host, origin_port or default) == (host, port or default)


def parse_extensions(headers: Headers) -> list[ExtensionHeader]:
    """Takes the ``Sec-WebSocket-Extensions`` headers apart (RFC 6455 section 9.1).

    Returns:
        In order: the name of each extension and its parameters; the value of one that
        has none is ``None``.

    Raises:
        InvalidHeaderFormat: A header is malformed.
    """
    extensions: list[ExtensionHeader] = []
    for text in headers.get_all("Sec-WebSocket-Extensions"):
        position, separator = 0, ","
        while separator:
            match = _EXTENSION_PART.match(text, position)
            if match is None:
                raise InvalidHeaderFormat("Sec-WebSocket-Extensions", text)
            name, plain, quoted = match[1], match[2], match[3]
            value = plain if quoted is None else quoted.replace("\\", "")
            if separator == ";":
                extensions[-1][1].append((name, value))
            elif value is None:
                extensions.append((name, []))
            else:
                raise InvalidHeaderFormat("Sec-WebSocket-Extensions", text)
            position, separator = match.end(), match[4]
    return extensions


def extensions_header(extensions: Sequence[tuple[str, ExtensionParameters]]) -> str:
    """The value of a ``Sec-WebSocket-Extensions`` header; it may be empty.

    Raises:
        ValueError: A name or a value of a factory's is not a token.
        TypeError: It is not even a ``str``.
    """
    parts = []
    for name, parameters in extensions:
        part = name
        tokens = [name]
        for parameter, value in parameters:
            tokens += [parameter] if value is None else [parameter, value]
            part += f"; {parameter}" if value is None else f"; {parameter}={value}"
        for token in tokens:
            if not isinstance(token, str):
                raise TypeError(f"extension {name!r}: {token!r} must be a str")
            if is_token(token) is None:
                raise ValueError(f"extension {name!r}: {token!r} is not a token")
        parts.append(part)
    return ", ".join(parts)


def accepted_extensions(
    headers: Headers, factories: Sequence[ClientExtensionFactory]
) -> list[Extension]:
    """The extensions that a server's response settles on, in its order.

    Args:
        headers: Those of the response.
        factories: What was offered.

    Raises:
        InvalidHeaderFormat: The header is malformed.
        NegotiationError: The server chose something that was not offered, or that does not
            go together.
    """
    accepted: list[Extension] = []
    # Those of the header: what a codec calls itself is the program's.
    names: set[str] = set()
    for name, parameters in parse_extensions(headers):
        if name in names:
            raise NegotiationError(f"the server chose an extension twice: {name}")
        problem = NegotiationError(f"the server chose an extension not offered: {name}")
        for factory in factories:
            if factory.name == name:
                try:
                    extension = factory.process_response_params(parameters, accepted)
                    check_compatible(extension, accepted)
                except NegotiationError as error:
                    # It may be the answer to another offer of the same name.
                    problem = error
                else:
                    accepted.append(extension)
                    names.add(name)
                    break
        else:
            raise problem
    return accepted


def answer_extensions(
    headers: Headers, factories: Sequence[ServerExtensionFactory]
) -> tuple[str, list[Extension]]:
    """What a server makes of the extensions that a client offers.

    Of several offers of one extension the first that can be accepted counts.

    Args:
        headers: Those of the request.
        factories: What the server supports.

    Returns:
        The value of the response's header, perhaps empty, and the extensions in its order.

    Raises:
        ValueError: A factory answers with what cannot be sent.
    """
    accepted: list[Extension] = []
    answers: list[tuple[str, ExtensionParameters]] = []
    for name, parameters in parse_extensions(headers) if factories else ():
        if any(name == answered for answered, _ in answers):
            continue
        for factory in factories:
            if factory.name == name:
                try:
                    answer, extension = factory.process_request_params(parameters, accepted)
                    check_compatible(extension, accepted)
                except NegotiationError:
                    continue
                accepted.append(extension)
                answers.append((name, answer))
                break
    return extensions_header(answers), accepted
