"""What nginx answers to a client: redirects, refusals, and the requests that it lets through.

What belongs here: syncws's client. What does not: syncws's server behind nginx.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

import syncws

from .conversation import server
from .daemons import free_port, running

CONFIGURATION = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    proxy_set_header Host $http_host;

    server {{
        listen 127.0.0.1:{port};
        location = /echo {{ proxy_pass http://127.0.0.1:{backend}; }}
        location = /private {{
            auth_basic everybody;
            auth_basic_user_file {directory}/users;
            proxy_pass http://127.0.0.1:{backend}/echo;
        }}
        location = /301 {{ return 301 /echo; }}
        location = /302 {{ return 302 /echo; }}
        location = /303 {{ return 303 /echo; }}
        location = /307 {{ return 307 /echo; }}
        location = /308 {{ return 308 /echo; }}
        location = /chain {{ return 302 /301; }}
        location = /loop {{ return 302 /loop2; }}
        location = /loop2 {{ return 302 /loop; }}
        location = /away {{ return 302 http://127.0.0.1:{other}/seen; }}
        location = /up {{ return 301 https://127.0.0.1:{secure}/secure; }}
        location = /cookie {{ add_header Set-Cookie "session=1; Path=/" always; return 302 /seen; }}
        location = /seen {{ return 403 "$http_authorization|$http_cookie|$http_x_token"; }}
        location = /403 {{ return 403; }}
        location = /503 {{ return 503 "busy"; }}
        location = /big {{ return 404 "{big}"; }}
        location = /nowhere {{ proxy_pass http://127.0.0.1:{nobody}; }}
        location = /hang-up {{ return 444; }}
    }}
    server {{
        listen 127.0.0.1:{other};
        location = /seen {{ return 403 "$http_authorization|$http_cookie|$http_x_token"; }}
    }}
    server {{
        listen 127.0.0.1:{secure} ssl;
        ssl_certificate {directory}/certificate.pem;
        ssl_certificate_key {directory}/certificate.pem;
        location = /secure {{ proxy_pass http://127.0.0.1:{backend}/echo; }}
        location = /down {{ return 301 http://127.0.0.1:{port}/echo; }}
        location = /mutual {{ if ($ssl_client_verify != SUCCESS) {{ return 495; }} return 200; }}
        ssl_verify_client optional;
        ssl_client_certificate {directory}/authority.pem;
    }}
}}
"""


class Nginx(NamedTuple):
    """Where it listens."""

    plain: str
    secure: str


@pytest.fixture
def nginx(authority: trustme.CA, tmp_path: Path) -> Iterator[Nginx]:
    """nginx before an echo server."""
    # Its workers give up being root, so they must be able to get there.
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    (tmp_path / "users").write_text("me:{PLAIN}secret\n")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "certificate.pem"
    )
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    ports = {name: free_port() for name in ("port", "other", "secure", "nobody")}
    with server(None) as url:
        backend = url.rpartition(":")[2]
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(directory=tmp_path, backend=backend, big="x" * 4000, **ports)
        )
        command = ["nginx", "-c", str(configuration), "-e", "stderr"]
        with running(command, [ports["port"], ports["secure"]], tmp_path / "log"):
            yield Nginx(f"127.0.0.1:{ports['port']}", f"127.0.0.1:{ports['secure']}")


def connect(uri: str, **options: Any) -> syncws.Connection:
    """As the echo server wants it."""
    return syncws.connect(uri, subprotocols=["chat"], **options)


@pytest.mark.parametrize("path", ["echo", "301", "302", "303", "307", "308", "chain"])
def test_redirects_that_are_followed(nginx: Nginx, path: str) -> None:
    with connect(f"ws://{nginx.plain}/{path}") as connection:
        connection.send("hello")
        assert connection.recv(10) == "hello"
        assert connection.request.path == "/echo"


def test_redirects_that_are_not_followed(nginx: Nginx, client_context: ssl.SSLContext) -> None:
    with pytest.raises(syncws.RedirectError, match="leads back"):
        connect(f"ws://{nginx.plain}/loop")
    with pytest.raises(syncws.RedirectError, match="max_redirects=1"):
        connect(f"ws://{nginx.plain}/chain", max_redirects=1)
    with pytest.raises(syncws.InsecureRedirectError, match="from wss:// to ws://"):
        connect(f"wss://{nginx.secure}/down", ssl=client_context)


def test_a_redirect_to_tls_is_verified(nginx: Nginx, client_context: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(f"ws://{nginx.plain}/up")
    with connect(f"wss://{nginx.secure}/secure", ssl=client_context) as connection:
        connection.send("hello")
        assert connection.recv(10) == "hello"


def seen(uri: str, **options: Any) -> bytes:
    """What nginx says it got of ``Authorization``, ``Cookie`` and ``X-Token``."""
    with pytest.raises(syncws.InvalidStatus) as caught:
        connect(uri, **options)
    assert caught.value.response.status_code == 403
    return bytes(caught.value.response.body)


def test_what_another_origin_is_told(nginx: Nginx) -> None:
    headers = {"Cookie": "a=1", "X-Token": "2"}
    given = seen(f"ws://me:secret@{nginx.plain}/seen", additional_headers=headers)
    assert given == b"Basic bWU6c2VjcmV0|a=1|2"
    assert seen(f"ws://me:secret@{nginx.plain}/away", additional_headers=headers) == b"||"


def test_cookies_of_a_redirect(nginx: Nginx) -> None:
    jar = CookieJar()
    assert seen(f"ws://{nginx.plain}/cookie", cookies=jar) == b"|session=1|"
    assert [(cookie.name, cookie.value) for cookie in jar] == [("session", "1")]
    assert seen(f"ws://{nginx.plain}/cookie") == b"||"


def test_basic_authentication(nginx: Nginx) -> None:
    with connect(f"ws://me:secret@{nginx.plain}/private") as connection:
        connection.send("hello")
        assert connection.recv(10) == "hello"
    for credentials in ("", "me:wrong@", "you:secret@"):
        with pytest.raises(syncws.InvalidStatus) as caught:
            connect(f"ws://{credentials}{nginx.plain}/private")
        assert caught.value.response.status_code == 401
        assert caught.value.response.headers["WWW-Authenticate"] == 'Basic realm="everybody"'


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("403", 403, b"</html>"),
        ("503", 503, b"busy"),
        ("big", 404, b"x" * 4000),
        ("nowhere", 502, b"</html>"),
        ("missing", 404, b"</html>"),
    ],
)
def test_refusals(nginx: Nginx, path: str, status: int, body: bytes) -> None:
    with pytest.raises(syncws.InvalidStatus) as caught:
        connect(f"ws://{nginx.plain}/{path}")
    response = caught.value.response
    assert response.status_code == status
    assert response.body.rstrip().endswith(body)
    assert not response.truncated
    assert response.headers["Server"].startswith("nginx")


def test_no_answer_at_all(nginx: Nginx) -> None:
    with pytest.raises(syncws.InvalidMessage, match="without a response"):
        connect(f"ws://{nginx.plain}/hang-up")
    with pytest.raises(ssl.SSLError):
        connect(f"wss://{nginx.plain}/echo")


def test_mutual_tls(nginx: Nginx, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    for status in (400, 200):  # 400 is how nginx says 495
        with pytest.raises(syncws.InvalidStatus) as caught:
            connect(f"wss://{nginx.secure}/mutual", ssl=context)
        assert caught.value.response.status_code == status
        authority.issue_cert("client.example").configure_cert(context)
