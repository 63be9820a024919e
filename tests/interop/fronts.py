"""nginx and HAProxy in front of a server, by the configurations of ``examples/deployment``.

What belongs here: starting them. In the configurations nothing is changed but what everybody
has to change: ports, addresses, paths, and timeouts that no test can wait for. What does not:
what is said through them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import trustme

from .daemons import free_port, running

DEPLOYMENT = Path(__file__).parents[2] / "examples" / "deployment"
KINDS = ("nginx", "haproxy", "haproxy-tcp")
NGINX = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
worker_processes 1;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/client;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/site.conf;
}}
"""


class Front(NamedTuple):
    """A proxy that runs: the addresses of both of its doors, and its certificate."""

    plain: str
    secure: str
    certificate: Path

    def url(self, secure: bool) -> str:
        return self.secure if secure else self.plain


def replaced(text: str, changes: dict[str, str]) -> str:
    """``text`` with every change made, each of which must be possible."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the configuration any more"
        text = text.replace(old, new)
    return text


def configure(
    kind: str, directory: Path, backend: int, ports: tuple[int, int], idle: str
) -> Sequence[str]:
    """Writes the configuration; the command that runs it."""
    certificate, key, both = (
        str(directory / name) for name in ("certificate.pem", "key.pem", "both.pem")
    )
    plain, secure = ports
    if kind == "nginx":
        text = replaced(
            (DEPLOYMENT / "nginx.conf").read_text(),
            {
                "listen 80;": f"listen 127.0.0.1:{plain};",
                "listen 443 ssl;": f"listen 127.0.0.1:{secure} ssl;",
                "server 127.0.0.1:8765;": f"server 127.0.0.1:{backend};",
                "/etc/ssl/syncws/certificate.pem": certificate,
                "/etc/ssl/syncws/key.pem": key,
                " 60s;": f" {idle};",
            },
        )
        (directory / "site.conf").write_text(text)
        user = "user root;" if os.geteuid() == 0 else ""
        main = directory / "nginx.conf"
        main.write_text(NGINX.format(directory=directory, user=user))
        return ["nginx", "-p", str(directory), "-c", str(main)]
    text = replaced(
        (DEPLOYMENT / f"{kind}.cfg").read_text(),
        {
            "bind :80\n": f"bind 127.0.0.1:{plain}\n",
            "bind :443 ": f"bind 127.0.0.1:{secure} ",
            "127.0.0.1:8765 ": f"127.0.0.1:{backend} ",
            "/etc/ssl/syncws/both.pem": both,
            "  60s\n": f"  {idle}\n",
        },
    )
    path = directory / "haproxy.cfg"
    path.write_text(text)
    return ["haproxy", "-db", "-f", str(path)]


@contextlib.contextmanager
def front(
    kind: str, authority: trustme.CA, directory: Path, backend: int, idle: str = "60s"
) -> Iterator[Front]:
    """Runs a proxy in front of a server on this machine for the time of the block."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    (directory / "certificate.pem").write_bytes(chain)
    (directory / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (directory / "both.pem").write_bytes(chain + issued.private_key_pem.bytes())
    ports = free_port(), free_port()
    command = configure(kind, directory, backend, ports, idle)
    with running(command, ports, directory / "log"):
        yield Front(
            f"ws://127.0.0.1:{ports[0]}",
            f"wss://127.0.0.1:{ports[1]}",
            directory / "certificate.pem",
        )
