"""What a scanner sees of a server's TLS: ``openssl s_client``."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import syncws

from .conversation import PATIENCE


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[syncws.ThreadingServer]:
    """A server with a context as the documentation makes it: no option is changed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with syncws.serve(
        lambda ws: None,
        "127.0.0.1",
        0,
        ssl=context,
        process_request=lambda connection, request: connection.respond(200, "fine\n"),
    ) as running:
        yield running


def s_client(
    server: syncws.ThreadingServer,
    *arguments: str,
    said: str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
) -> tuple[int, str]:
    """The status and the output of s_client, which says something and reads to the end."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.address[1]}", "-ign_eof"]
    done = subprocess.run(
        [*command, *arguments],
        input=said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_versions_that_are_served(
    server: syncws.ThreadingServer,
    authority: trustme.CA,
    tmp_path: Path,
    option: str,
    version: str,
) -> None:
    root = tmp_path / "ca.pem"
    root.write_bytes(authority.cert_pem.bytes())
    status, output = s_client(
        server,
        option,
        "-alpn",
        "h2,http/1.1",
        "-CAfile",
        str(root),
        "-verify_return_error",
        "-verify_hostname",
        "localhost",
    )
    assert status == 0, output
    assert "Verify return code: 0 (ok)" in output
    assert "ALPN protocol: http/1.1" in output
    assert re.search(rf"New, {re.escape(version)}, Cipher is [\w-]*(GCM|CHACHA20)", output), output
    assert "Compression: NONE" in output
    assert output.count("HTTP/1.1 200 OK") == 1
    assert "\nfine\n" in output


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_versions_that_are_refused(server: syncws.ThreadingServer, option: str) -> None:
    """By the server, with the alert that says so: this client would do it."""
    status, output = s_client(server, option, "-cipher", "DEFAULT@SECLEVEL=0")
    assert status != 0
    assert "alert protocol version" in output, output
    assert "Cipher is (NONE)" in output
    assert s_client(server)[0] == 0  # and the next one is served


@pytest.mark.parametrize("ciphers", ["eNULL", "aNULL", "RC4", "3DES", "EXPORT", "MD5"])
def test_ciphers_that_are_refused(server: syncws.ThreadingServer, ciphers: str) -> None:
    status, output = s_client(server, "-tls1_2", "-cipher", f"{ciphers}@SECLEVEL=0")
    assert status != 0
    assert "alert handshake failure" in output or "no cipher" in output, output


@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
def test_sessions_are_resumed(server: syncws.ThreadingServer, tmp_path: Path, option: str) -> None:
    session = str(tmp_path / "session")
    status, output = s_client(server, option, "-sess_out", session)
    assert status == 0, output
    assert "\nNew, " in output
    status, output = s_client(server, option, "-sess_in", session)
    assert status == 0, output
    assert "\nReused, " in output


def test_no_renegotiation_by_the_client(server: syncws.ThreadingServer) -> None:
    """It would cost the server a key exchange each time (R is s_client's command for it)."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.address[1]}", "-tls1_2"]
    done = subprocess.run(
        command, input="R\n", capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    output = done.stdout + done.stderr
    assert "RENEGOTIATING" in output
    assert "no renegotiation" in output or "unexpected" in output.lower(), output
