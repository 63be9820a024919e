"""Who a server's peer is, where proxies stand in between (RFC 7239, and what came before).

What belongs here: whose word is taken, and what ``Forwarded``, ``X-Forwarded-For`` and
``X-Forwarded-Proto`` say. What does not: the PROXY protocol (:mod:`.proxy_protocol`).

These headers are lists to which each proxy appends who it was talking to. What stands to the
left of the first hop that is not trusted is whatever a client wrote there; so they are read
from the right, and no further than to that hop.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, TypeAlias

from .exceptions import InvalidMessage
from .headers import TOKEN, Headers
from .uri import unmapped

__all__ = ["Peer", "ProxyAddress", "TrustedProxies", "forwarded_peer", "socket_address"]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
ProxyAddress: TypeAlias = str | _Address | _Network
"""An address, a network such as ``10.0.0.0/8``, or ``unix:`` for every Unix socket."""

UNIX = "unix:"

# One pair of a Forwarded element and what follows it (RFC 7239 section 4). Possessive, for two
# runs of spaces side by side can be told apart in as many ways as there are spaces.
_PAIR = re.compile(
    rf'[ \t]*+(?:({TOKEN})=(?:({TOKEN})|"((?:[^"\\]|\\[^\x00-\x08\x0a-\x1f\x7f])*)")[ \t]*+)?'
    r"([;,]|\Z)"
)
_QUOTED_PAIR = re.compile(r"\\(.)")
# Section 6: an address, IPv6 in brackets, with a port that may be a made-up name.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:([0-9]{1,5})|_[A-Za-z0-9._-]+))?")
# RFC 4291 section 2.5.5.2.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_SECURE = {"https": True, "wss": True, "http": False, "ws": False}


class TrustedProxies:
    """The proxies whose word is taken.

    Args:
        proxies: Addresses, networks, and ``"unix:"``.

    Raises:
        TypeError: It is not a collection of these.
        ValueError: A string in it is none of these.
    """

    def __init__(self, proxies: Collection[ProxyAddress]) -> None:
        if isinstance(proxies, (str, bytes)) or not isinstance(proxies, Collection):
            raise TypeError("trusted_proxies must be a collection of addresses and networks")
        self._unix = False
        self._networks: list[_Network] = []
        for proxy in proxies:
            if proxy == UNIX:
                self._unix = True
                continue
            if not isinstance(proxy, (str, *_ADDRESSES, *_NETWORKS)):
                raise TypeError(f"trusted_proxies must not contain {type(proxy).__name__}")
            try:
                self._networks.append(_unmapped_network(ipaddress.ip_network(proxy)))
            except ValueError as error:
                raise ValueError(f"trusted_proxies: {error}") from None

    def include(self, address: Any) -> bool:
        """Whether an address, as ``getpeername()`` gives it, is one of theirs."""
        if isinstance(address, tuple):
            return self.include_address(_parsed(address[0]))
        # A Unix socket's client has no name, as a rule. None: the peer is gone.
        return self._unix and address is not None

    def include_address(self, address: _Address | None) -> bool:
        """The same for a parsed address."""
        return address is not None and any(address in network for network in self._networks)


_ADDRESSES = (ipaddress.IPv4Address, ipaddress.IPv6Address)
_NETWORKS = (ipaddress.IPv4Network, ipaddress.IPv6Network)


class Peer(NamedTuple):
    """What proxies say of a peer.

    Attributes:
        address: As ``getpeername()`` would give it; ``None``: they do not say.
        secure: Whether it came over TLS; ``None``: they do not say.
    """

    address: Any
    secure: bool | None

    def corrected(self, by: Peer) -> Peer:
        """What ``by`` says, or this where it says nothing."""
        return Peer(by.address or self.address, self.secure if by.secure is None else by.secure)


class _Hop(NamedTuple):
    """One proxy's statement on who it was talking to; no address: unknown or kept secret."""

    address: _Address | None
    port: int
    secure: bool | None


def socket_address(address: _Address, port: int) -> Any:
    """An address in the form of ``getpeername()``."""
    address = unmapped(address)
    host = str(address)
    return (host, port) if address.version == 4 else (host, port, 0, 0)


def forwarded_peer(headers: Headers, trusted: TrustedProxies) -> Peer:
    """Reads the headers of a request that came from a trusted proxy.

    Raises:
        InvalidMessage: ``Forwarded`` is malformed, or contradicts ``X-Forwarded-For`` or
            ``X-Forwarded-Proto``: then one of them is from a client, and nobody can tell
            which. The text repeats nothing of them.
    """
    elements = list(_forwarded_hops(headers))
    standard, _ = _walk(elements, trusted)
    hops = list(_x_forwarded_hops(headers))
    other, passed = _walk(hops, trusted)
    protocols = _items(headers, "X-Forwarded-Proto")
    if protocols:
        # One for each hop, or fewer where a proxy replaces what it finds.
        protocol = protocols[-min(max(passed, 1), len(protocols))]
        other = other._replace(secure=_SECURE.get(protocol.lower()))
    if not elements:
        return Peer(_stated(other), other.secure)
    schemes = {hop.secure for hop in (standard, other) if hop.secure is not None}
    if (hops and standard.address != other.address) or len(schemes) > 1:
        raise InvalidMessage("The Forwarded and the X-Forwarded headers contradict each other.")
    secure = other.secure if standard.secure is None else standard.secure
    return Peer(_stated(standard), secure)


def _walk(hops: list[_Hop], trusted: TrustedProxies) -> tuple[_Hop, int]:
    """The hop nearest to the client whose word can be taken, and how many were looked at."""
    found, passed = _Hop(None, 0, None), 0
    for hop in reversed(hops):
        passed += 1
        if hop.address is None:
            # Said by somebody whom we trust: so much about the peer is unknown.
            return found._replace(secure=hop.secure), passed
        found = hop
        if not trusted.include_address(hop.address):
            break
    return found, passed


def _stated(hop: _Hop) -> Any:
    return None if hop.address is None else socket_address(hop.address, hop.port)


def _parsed(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return unmapped(address)


def _unmapped_network(network: _Network) -> _Network:
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        address = int(network.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((address, network.prefixlen - 96))
    return network


def _items(headers: Headers, name: str) -> list[str]:
    items = ",".join(headers.get_all(name)).split(",")
    return [item for item in (item.strip(" \t") for item in items) if item]


def _hop(node: str, secure: bool | None) -> _Hop:
    match = _NODE.fullmatch(node)
    address = None if match is None else _parsed(match[1] or match[2])
    if match is None or address is None or int(match[3] or 0) > 65535:
        return _Hop(None, 0, secure)
    return _Hop(address, int(match[3] or 0), secure)


def _x_forwarded_hops(headers: Headers) -> Iterator[_Hop]:
    for item in _items(headers, "X-Forwarded-For"):
        address = _parsed(item)  # an IPv6 address without brackets
        yield _hop(item, None) if address is None else _Hop(address, 0, None)


def _forwarded_hops(headers: Headers) -> Iterator[_Hop]:
    text = ",".join(headers.get_all("Forwarded"))
    position, separator = 0, ","
    pairs: dict[str, str] = {}
    while position < len(text) or pairs:
        match = _PAIR.match(text, position)
        if match is None:
            raise InvalidMessage("The Forwarded header is malformed.")
        position, separator = match.end(), match[4]
        if match[1] is not None:
            name = match[1].lower()
            if name in pairs:
                raise InvalidMessage("The Forwarded header is malformed.")
            pairs[name] = _QUOTED_PAIR.sub(r"\1", match[3]) if match[2] is None else match[2]
        if separator != ";" and pairs:
            secure = _SECURE.get(pairs.get("proto", "").lower())
            yield _hop(pairs.get("for", ""), secure)
            pairs = {}
