"""What TLS needs of the caller: contexts, and the name that a certificate must have.

What belongs here: the default context of clients and checks of TLS arguments, before a byte
is sent. What does not: moving encrypted bytes (:mod:`.transport`).
"""

from __future__ import annotations

import os
import ssl
import threading

__all__ = ["certificate_name", "check_client_context", "check_hostname", "default_context"]

# Guards the next line. Reading the certificates of the system takes tens of milliseconds.
_context_lock = threading.RLock()  # a signal handler may connect, too
_default_context: ssl.SSLContext | None = None


def default_context() -> ssl.SSLContext:
    """The context of ``wss://`` without ``ssl=``; the same object each time.

    ``SSLKEYLOGFILE`` in the environment names a file for the keys of its connections; like
    the certificates, it is looked at once per process.
    """
    global _default_context
    with _context_lock:
        if _default_context is None:
            # Here and not above: it takes a sixth of the time to import the package, and
            # most programs bring their own context or speak to a plain server.
            import certifi

            context = ssl.create_default_context()  # knows SSLKEYLOGFILE
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_verify_locations(cafile=certifi.where())
            # RFC 7301: a server that speaks HTTP/2, too, must not choose it.
            context.set_alpn_protocols(["http/1.1"])
            _default_context = context
        return _default_context


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held it.
    global _context_lock
    _context_lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def check_client_context(name: str, context: ssl.SSLContext) -> None:
    """A context for the client's side.

    Raises:
        TypeError: Something else.
        ValueError: A context for servers.
    """
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"{name} must be an ssl.SSLContext, not {type(context).__name__}")
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(f"{name} must be a client-side context: ssl.PROTOCOL_TLS_CLIENT")


def check_hostname(name: str, hostname: str) -> None:
    """Refuses at once what the TLS handshake would refuse after connecting.

    Raises:
        TypeError: Not a ``str``.
        ValueError: Nothing that a certificate can name.
    """
    if not isinstance(hostname, str):
        raise TypeError(f"{name} must be a str, not {type(hostname).__name__}")
    try:
        encoded = hostname.encode("idna")
    except UnicodeError:
        encoded = b""
    if not encoded or b"\0" in encoded:
        raise ValueError(f"{name} is not a valid name")


def certificate_name(host: str) -> str:
    """Whom the certificate of ``host`` must name."""
    # Certificates know neither the dot of the root nor the zone of an address.
    return host.partition("%")[0].rstrip(".")
