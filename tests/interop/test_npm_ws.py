"""Conversations with npm's ws, the WebSocket library of most programs on Node.js."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .conftest import Security
from .conversation import PATIENCE, address, check_traffic, converse, converse_at_length, server
from .relay import relayed

HERE = Path(__file__).parent


def npm_ws_client(url: str, authority: Path | None, compression: str | None = "deflate") -> None:
    """Has its client hold the conversation; it offers compression, and expects this."""
    command = ["node", str(HERE / "npm_ws_client.mjs"), url, compression or ""]
    if authority is not None:
        command.append(str(authority))
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "the conversation is over\n"


def test_npm_ws_as_client(security: Security, compression: str | None) -> None:
    """Its client finds everything it checks in syncws's server."""
    with (
        server(security.server, compression=compression) as direct,
        relayed(direct) as (url, relay),
    ):
        npm_ws_client(url, security.authority, compression)
        check_traffic(relay, compression)


def test_npm_ws_as_server(security: Security, compression: str | None) -> None:
    """syncws's client finds everything it checks in its server."""
    # Its server accepts permessage-deflate from those who offer it.
    command = ["node", str(HERE / "npm_ws_server.mjs")]
    if security.certificate is not None:
        command += [str(security.certificate), str(security.key)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None and running.stdout is not None
        try:
            port = running.stdout.readline().strip()
            assert port, "the server of ws did not start"
            with relayed(address(int(port), security.client)) as (url, relay):
                converse(url, security.client, compression=compression)
                converse_at_length(url, security.client, compression)
                check_traffic(relay, compression)
            assert running.poll() is None
            running.stdin.close()
            assert running.wait(PATIENCE) == 0
        finally:
            running.kill()
