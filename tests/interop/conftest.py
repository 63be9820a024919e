"""Fixtures of the interoperability tests.

What belongs here: contexts for plain and TLS runs, and certificates as files for peers that are
not written in Python. What does not: the peers.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme


class Security(NamedTuple):
    """What both sides need; all ``None`` for a plain connection."""

    server: ssl.SSLContext | None
    client: ssl.SSLContext | None
    certificate: Path | None
    key: Path | None
    authority: Path | None


@pytest.fixture(params=["ws", "wss"])
def security(
    request: pytest.FixtureRequest,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    tmp_path: Path,
) -> Security:
    """Runs a test once plain and once over TLS."""
    if request.param == "ws":
        return Security(None, None, None, None, None)
    issued = authority.issue_cert("localhost", "127.0.0.1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(server)
    certificate, key, root = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    root.write_bytes(authority.cert_pem.bytes())
    return Security(server, client_context, certificate, key, root)


@pytest.fixture(params=["uncompressed", "compressed"])
def compression(request: pytest.FixtureRequest) -> str | None:
    """Runs a test once without and once with permessage-deflate: the option of syncws."""
    return None if request.param == "uncompressed" else "deflate"
