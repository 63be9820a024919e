"""curl talks to the plain HTTP answers of a server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import syncws

from .conftest import Security
from .conversation import PATIENCE

LARGE = bytes(range(256)) * 20_000  # 5 MB


def page(connection: syncws.PendingConnection, request: syncws.Request) -> syncws.Response | None:
    """The pages that curl asks for."""
    match request.path:
        case "/health":
            return connection.respond(200, "fine\n")
        case "/large":
            headers = syncws.Headers({"Content-Type": "application/octet-stream"})
            return syncws.Response(200, "OK", headers, LARGE)
        case "/empty":
            return syncws.Response(204, "No Content", syncws.Headers())
        case "/private":
            return authenticate(connection, request) or connection.respond(
                200, f"hello {connection.username}\n"
            )
        case "/":
            return None
        case _:
            return connection.respond(404, "nothing here\n")


authenticate = syncws.basic_auth('the "inner" room', ("jo", "sec:ret"))


@pytest.fixture
def url(security: Security) -> Iterator[str]:
    """A server with pages."""
    with syncws.serve(
        lambda ws: None, "127.0.0.1", 0, ssl=security.server, process_request=page
    ) as server:
        yield server.url.replace("ws", "http", 1).rstrip("/")


def curl(security: Security, *arguments: str, status: int = 0) -> bytes:
    """What curl prints; ``status`` is its own."""
    command = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE)]
    if security.authority is not None:
        command += ["--cacert", str(security.authority)]
    done = subprocess.run([*command, *arguments], capture_output=True, check=False)
    assert done.returncode == status, done.stderr.decode()
    return done.stdout


def fields_of(head: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)


def test_get(security: Security, url: str) -> None:
    head, _, body = curl(security, "--include", f"{url}/health").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"fine\n"
    fields = fields_of(head)
    assert fields["Content-Length"] == "5"
    assert fields["Connection"] == "close"
    assert fields["Content-Type"] == "text/plain; charset=utf-8"


def test_head(security: Security, url: str) -> None:
    head, _, body = curl(security, "--head", f"{url}/large").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b""
    assert fields_of(head)["Content-Length"] == str(len(LARGE))


@pytest.mark.parametrize(
    ("path", "status"), [("/nothing", 404), ("/", 426), ("/empty", 204), ("/private", 401)]
)
def test_status(security: Security, url: str, path: str, status: int) -> None:
    written = curl(security, "--output", "/dev/null", "--write-out", "%{http_code}", url + path)
    assert int(written) == status


def test_a_large_body(security: Security, url: str) -> None:
    assert curl(security, f"{url}/large") == LARGE


def test_several_on_one_command(security: Security, url: str) -> None:
    """Each answer ends its connection, and curl makes another."""
    urls = [f"{url}/health"] * 5
    written = curl(security, *urls, "--write-out", "%{num_connects}\n")
    assert written == b"fine\n1\n" * 5


def test_http_2_is_declined(security: Security, url: str) -> None:
    """By ALPN, or by ignoring the upgrade to h2c (RFC 9110 section 7.8)."""
    written = curl(security, "--http2", f"{url}/health", "--write-out", "%{http_version}")
    assert written == b"fine\n1.1"


def test_a_password(security: Security, url: str) -> None:
    assert curl(security, "--user", "jo:sec:ret", f"{url}/private") == b"hello jo\n"
    head = curl(security, "--head", "--user", "jo:secret", f"{url}/private").partition(b"\r\n\r\n")
    assert head[0].startswith(b"HTTP/1.1 401 ")
    challenge = fields_of(head[0])["WWW-Authenticate"]
    assert challenge == r'Basic realm="the \"inner\" room", charset="UTF-8"'


@pytest.mark.parametrize(
    "arguments",
    [["--data", "x=y"], ["--request", "DELETE"], ["--upload-file", __file__]],
    ids=["POST", "DELETE", "PUT"],
)
def test_another_method(security: Security, url: str, arguments: list[str]) -> None:
    """curl reads the answer, although the server takes none of what it uploads."""
    head = curl(security, "--include", *arguments, f"{url}/health").partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 405 ")
    assert fields_of(head)["Allow"] == "GET, HEAD"


def test_a_get_with_a_body(security: Security, url: str) -> None:
    head = curl(security, "--include", "--get", "--request", "GET", "--data", "x", f"{url}/health")
    assert head.startswith(b"HTTP/1.1 404 ")  # --get puts it into the query: another path
    head = curl(security, "--include", "--request", "GET", "--data", "x", f"{url}/health")
    assert head.startswith(b"HTTP/1.1 400 ")


def test_a_slow_reader_gets_everything_in_its_time(security: Security, url: str) -> None:
    """5 MB at 5 MB a second: more than buffers take, and less than open_timeout."""
    assert curl(security, "--limit-rate", "5M", f"{url}/large") == LARGE


def test_a_reader_that_is_too_slow_is_cut(security: Security, tmp_path: Path) -> None:
    """60 MB at 10 MB a second would take 6 s; open_timeout gives it one."""
    huge = syncws.Response(200, "OK", syncws.Headers(), LARGE * 12)
    with syncws.serve(
        lambda ws: None,
        "127.0.0.1",
        0,
        ssl=security.server,
        process_request=lambda connection, request: huge,
        open_timeout=1,
    ) as server:
        url = server.url.replace("ws", "http", 1)
        target = tmp_path / "huge"
        # A partial file, or a stream of TLS without its end.
        with pytest.raises(AssertionError, match=r"transfer closed|SSL_read"):
            curl(security, "--limit-rate", "10M", "--output", str(target), url)
        assert target.stat().st_size < len(huge.body)
