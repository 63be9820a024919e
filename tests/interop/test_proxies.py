"""Conversations through proxies that other people wrote and use.

What belongs here: that syncws and they understand each other. What does not: what a bad proxy
could answer (``tests/test_proxy.py``, ``tests/test_socks.py``).
"""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import websockets.sync.server

import syncws

from .conftest import Security
from .conversation import PATIENCE, address, converse, server
from .daemons import free_port, running
from .test_websockets import serve_conversation

TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 60
BasicAuth me secret
LogLevel Critical
"""
SQUID = """
http_port 127.0.0.1:{port}
https_port 127.0.0.1:{secure_port} tls-cert={certificate}
acl closed port 1
acl forbidden dstdomain forbidden.invalid
http_access deny forbidden
http_access allow all
cache deny all
access_log none
cache_log {directory}/squid.log
pid_filename none
pinger_enable off
shutdown_lifetime 0 seconds
connect_retries 0
"""
DANTE = """
logoutput: stderr
internal: 127.0.0.1 port = {port}
external: 127.0.0.1
clientmethod: none
socksmethod: none
client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 command: connect }}
"""


@pytest.fixture
def tinyproxy(tmp_path: Path) -> Iterator[str]:
    """``host:port`` of a proxy that knows me and my secret."""
    port = free_port()
    configuration = tmp_path / "tinyproxy.conf"
    configuration.write_text(TINYPROXY.format(port=port))
    with running(["tinyproxy", "-d", "-c", str(configuration)], [port], tmp_path / "log"):
        yield f"127.0.0.1:{port}"


@pytest.fixture
def squid(authority: trustme.CA, tmp_path: Path) -> Iterator[dict[str, str]]:
    """``host:port`` for HTTP and for HTTPS."""
    # It gives up being root, so it must be able to get there.
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    tmp_path.chmod(0o777)
    certificate = tmp_path / "proxy.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    certificate.chmod(0o644)
    port, secure_port = free_port(), free_port()
    configuration = tmp_path / "squid.conf"
    configuration.write_text(
        SQUID.format(
            port=port, secure_port=secure_port, certificate=certificate, directory=tmp_path
        )
    )
    ports = [port, secure_port]
    with running(["squid", "-N", "-f", str(configuration)], ports, tmp_path / "log"):
        yield {"http": f"127.0.0.1:{port}", "https": f"127.0.0.1:{secure_port}"}


@pytest.fixture
def dante(tmp_path: Path) -> Iterator[str]:
    """``host:port`` of a proxy for SOCKS 4 and 5."""
    port = free_port()
    configuration = tmp_path / "dante.conf"
    configuration.write_text(DANTE.format(port=port))
    with running(["danted", "-f", str(configuration), "-N", "1"], [port], tmp_path / "log"):
        yield f"127.0.0.1:{port}"


@pytest.fixture
def microsocks(tmp_path: Path) -> Iterator[str]:
    """``host:port`` of a proxy for SOCKS5 that knows me and my secret."""
    port = free_port()
    command = ["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", "me", "-P", "secret"]
    with running(command, [port], tmp_path / "log"):
        yield f"127.0.0.1:{port}"


def curl(proxy: str, url: str, *options: str) -> tuple[int, int, int]:
    """curl's exit status, and the status codes of the proxy and of the server.

    It does not come from a library that shares our habits, so it is the judge.
    """
    command = ["curl", "--silent", "--proxytunnel", "--noproxy", "", "--proxy", proxy]
    form = "%{http_connect} %{http_code}"
    result = subprocess.run(
        [*command, *options, "--output", os.devnull, "--write-out", form, url],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    proxy_code, code = map(int, result.stdout.split())
    return result.returncode, proxy_code, code


@pytest.fixture
def target(security: Security) -> Iterator[str]:
    """The URI of a server of somebody else's."""
    with websockets.sync.server.serve(
        serve_conversation,
        "127.0.0.1",
        0,
        ssl=security.server,
        subprotocols=[websockets.Subprotocol("chat")],
        max_size=None,
    ) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield address(server.socket.getsockname()[1], security.server)
        finally:
            server.shutdown()
            serving.join(PATIENCE)


# -- HTTP -------------------------------------------------------------------------


def test_tinyproxy(security: Security, target: str, tinyproxy: str) -> None:
    converse(target, security.client, proxy=f"http://me:secret@{tinyproxy}")


@pytest.mark.parametrize("credentials", ["", "me:wrong@", "you:secret@", "me@"])
def test_tinyproxy_wants_credentials(tinyproxy: str, credentials: str) -> None:
    """401 is what it says for 407."""
    proxy = f"http://{credentials}{tinyproxy}"
    with server(None) as url:
        with pytest.raises(syncws.ProxyError) as caught:
            syncws.connect(f"{url}/echo", proxy=proxy)
        _, code, _ = curl(proxy, url.replace("ws:", "http:"))
    response = caught.value.response
    assert response is not None
    assert response.status_code == code
    assert code in (401, 407)
    assert b"</html>" in response.body


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_squid(
    security: Security,
    target: str,
    squid: dict[str, str],
    client_context: ssl.SSLContext,
    scheme: str,
) -> None:
    """Over HTTPS and to wss:// it is TLS inside TLS."""
    converse(
        target,
        security.client,
        proxy=f"{scheme}://{squid[scheme]}",
        proxy_ssl=client_context if scheme == "https" else None,
    )


def test_squid_refuses(squid: dict[str, str]) -> None:
    """A rule (403), and a server that is not there (503): the whole page is in the error."""
    proxy = f"http://{squid['http']}"
    for target in ("forbidden.invalid", f"127.0.0.1:{free_port()}"):
        with pytest.raises(syncws.ProxyError) as caught:
            syncws.connect(f"ws://{target}/", proxy=proxy)
        response = caught.value.response
        assert response is not None
        _, code, _ = curl(proxy, f"http://{target}/")
        assert response.status_code == code
        assert code == (403 if "forbidden" in target else 503)
        assert response.body.rstrip().endswith(b"</html>")
        assert len(response.body) == int(response.headers["Content-Length"])


def test_the_server_answers_curl_as_it_answers_us(squid: dict[str, str]) -> None:
    """What is refused inside the tunnel is the server's refusal, not the proxy's."""
    proxy = f"http://{squid['http']}"
    with server(None, origins=["https://allowed.example"]) as url:
        with pytest.raises(syncws.InvalidStatus) as caught:
            syncws.connect(f"{url}/echo", proxy=proxy, origin="https://other.example")
        assert caught.value.response.status_code == 403
        assert curl(proxy, url.replace("ws:", "http:")) == (0, 200, 426)


# -- SOCKS ------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["socks4", "socks5", "socks5h"])
def test_dante(security: Security, target: str, dante: str, scheme: str) -> None:
    """It takes the 0.0.0.1 of SOCKS4a for an address, so that is left to tests/test_socks.py."""
    target = target.replace("127.0.0.1", "localhost")
    converse(target, security.client, proxy=f"{scheme}://{dante}")


def test_dante_refuses(dante: str) -> None:
    for scheme in ("socks4", "socks5"):
        with pytest.raises(syncws.ProxyError, match="SOCKS proxy did not connect"):
            syncws.connect(f"ws://127.0.0.1:{free_port()}/", proxy=f"{scheme}://{dante}")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_microsocks(security: Security, target: str, microsocks: str, scheme: str) -> None:
    converse(target, security.client, proxy=f"{scheme}://me:secret@{microsocks}")


@pytest.mark.parametrize("credentials", ["", "me:wrong@"])
def test_microsocks_wants_credentials(microsocks: str, credentials: str) -> None:
    with server(None) as url, pytest.raises(syncws.ProxyError, match="SOCKS proxy"):
        syncws.connect(f"{url}/echo", proxy=f"socks5h://{credentials}{microsocks}")
