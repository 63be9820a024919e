"""Which extensions the arguments of ``connect()`` and ``serve()`` ask for.

What belongs here: ``extensions=`` and ``compression=``, checked before anything is opened. What
does not: negotiating (:mod:`.negotiation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .extensions import ClientExtensionFactory, ServerExtensionFactory
from .permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory

__all__ = ["client_extensions", "server_extensions"]

Factory = TypeVar("Factory", ClientExtensionFactory, ServerExtensionFactory)

# Without options of its own, a connection needs no factory of its own.
_CLIENT_DEFAULT = ClientPerMessageDeflateFactory()
_SERVER_DEFAULT = ServerPerMessageDeflateFactory()


def client_extensions(
    extensions: Sequence[ClientExtensionFactory] | None, compression: str | None
) -> list[ClientExtensionFactory]:
    """What a client offers, by the arguments of ``connect()``.

    Raises:
        TypeError, ValueError: Naming the argument.
    """
    return _with_default(extensions, compression, ClientExtensionFactory, _CLIENT_DEFAULT)


def server_extensions(
    extensions: Sequence[ServerExtensionFactory] | None, compression: str | None
) -> list[ServerExtensionFactory]:
    """What a server supports, by the arguments of ``serve()``; raises the same."""
    return _with_default(extensions, compression, ServerExtensionFactory, _SERVER_DEFAULT)


def _with_default(
    extensions: Sequence[Factory] | None, compression: str | None, kind: type, default: Factory
) -> list[Factory]:
    if compression is not None and compression != "deflate":
        raise ValueError(f"compression must be 'deflate' or None, not {compression!r}")
    if extensions is not None and (
        isinstance(extensions, str) or not isinstance(extensions, Sequence)
    ):
        raise TypeError("extensions must be a sequence of factories")
    factories: list[Factory] = [] if extensions is None else list(extensions)
    for factory in factories:
        if not isinstance(factory, kind):
            raise TypeError(f"extensions must contain objects of {kind.__name__}, not {factory!r}")
    if compression is not None and all(factory.name != default.name for factory in factories):
        factories.append(default)
    return factories
