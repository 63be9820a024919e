"""Fixtures of the reliability tests."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import trustme

from .subject import Contexts, Subject, no_trace


@pytest.fixture(scope="session")
def contexts() -> Contexts:
    """TLS contexts of a server at 127.0.0.1 and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Contexts(server, client)


@pytest.fixture(scope="session")
def warm() -> None:
    """Starts what lives as long as the process, so that it does not look like a leak."""
    subject = Subject("client", None)
    subject.check_alive()
    subject.close()


def _started(
    role: str,
    contexts: Contexts | None,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Subject]:
    with no_trace(caplog):
        subject = Subject(role, contexts)
        try:
            yield subject
            subject.check_alive()
        finally:
            subject.close()


@pytest.fixture(params=["server-ws", "server-wss", "client-ws", "client-wss"])
def subject(
    request: pytest.FixtureRequest,
    contexts: Contexts,
    warm: None,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Subject]:
    """syncws in both roles, plain and over TLS, under the oracles of every row."""
    role, _, scheme = request.param.partition("-")
    yield from _started(role, contexts if scheme == "wss" else None, caplog)


@pytest.fixture(params=["server", "client"])
def plain_subject(
    request: pytest.FixtureRequest, warm: None, caplog: pytest.LogCaptureFixture
) -> Iterator[Subject]:
    """syncws in both roles, plain only: for rows that TLS cannot change."""
    yield from _started(request.param, None, caplog)


@pytest.fixture(params=["ws", "wss"])
def server(
    request: pytest.FixtureRequest,
    contexts: Contexts,
    warm: None,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Subject]:
    """syncws as a server, plain and over TLS."""
    yield from _started("server", contexts if request.param == "wss" else None, caplog)


@pytest.fixture
def plain_server(warm: None, caplog: pytest.LogCaptureFixture) -> Iterator[Subject]:
    """syncws as a server, plain only."""
    yield from _started("server", None, caplog)


@pytest.fixture(params=["ws", "wss"])
def client(
    request: pytest.FixtureRequest,
    contexts: Contexts,
    warm: None,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Subject]:
    """syncws as a client, plain and over TLS."""
    yield from _started("client", contexts if request.param == "wss" else None, caplog)
