"""Conversations with headless Chromium: a page has them, and reports through syncws."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import syncws

from .conftest import Security
from .conversation import PATIENCE, address, check_traffic, server
from .relay import relayed

HERE = Path(__file__).parent
# Given the site of a page that may connect: the address to connect to, and its certificate.
Conversation = Callable[[str], AbstractContextManager[tuple[str, Path | None]]]
OPTIONS = [
    "--headless",
    # Tests may run as root, in containers: there its sandbox does not work.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    # It talks to this machine only.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-quic",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--remote-debugging-port=0",
]


class Page(SimpleHTTPRequestHandler):
    """Serves the directory of the page without writing a log."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def web_server() -> Iterator[str]:
    """Serves the page: a page in a file has no origin that a server could trust."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Page, directory=HERE)) as running:
        serving = threading.Thread(target=running.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            serving.join()


@contextlib.contextmanager
def chromium(url: str, profile: Path, *options: str) -> Iterator[None]:
    """Has Chromium show a page for the time of the block; ends it with all its processes."""
    log = profile / "log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            ["chromium", *OPTIONS, f"--user-data-dir={profile}", *options, url],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    except queue.Empty:
        pytest.fail(f"Chromium did not report:\n{log.read_text(errors='replace')[-4000:]}")
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def trusting(certificate: Path) -> str:
    """The option that has Chromium accept this certificate and no other unknown one."""
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return f"--ignore-certificate-errors-spki-list={digest}"


def report_of_page(
    conversation: Conversation,
    profile: Path,
    compression: str | None = "deflate",
    *,
    refused: bool = False,
) -> str:
    """Has the page hold the conversation, which is served for its site; what it reports.

    ``compression`` is what the server is expected to accept.
    """
    reports: queue.Queue[str] = queue.Queue()

    def take_report(connection: syncws.Connection) -> None:
        reports.put(connection.recv(PATIENCE, decode=True))

    with (
        web_server() as site,
        conversation(site) as (url, certificate),
        # Plain: a page that is not secure itself may open it from anywhere.
        syncws.serve(take_report, "127.0.0.1", 0, origins=[site]) as told,
    ):
        task = {"of": url, "to": address(told.address[1], None)}
        if refused:
            task["refused"] = ""
        if compression is not None:
            task["compression"] = compression
        options = [] if certificate is None else [trusting(certificate)]
        with chromium(f"{site}/chromium.html#{urlencode(task)}", profile, *options):
            return reports.get(timeout=PATIENCE)


def served_by(security: Security, compression: str | None) -> Conversation:
    """The conversation with syncws itself, compressed or not."""

    @contextlib.contextmanager
    def conversation(site: str) -> Iterator[tuple[str, Path | None]]:
        with (
            server(security.server, origins=[site], compression=compression) as direct,
            relayed(direct) as (url, relay),
        ):
            yield url, security.certificate
            check_traffic(relay, compression)

    return conversation


def refused_by(security: Security) -> Conversation:
    """A server that names no origins."""

    @contextlib.contextmanager
    def conversation(site: str) -> Iterator[tuple[str, Path | None]]:
        with server(security.server) as url:
            yield url, security.certificate

    return conversation


@pytest.mark.timeout(3 * PATIENCE)
def test_chromium_as_client(security: Security, compression: str | None, tmp_path: Path) -> None:
    """Whatever the page checks is as it should be."""
    conversation = served_by(security, compression)
    assert report_of_page(conversation, tmp_path, compression) == ""


@pytest.mark.timeout(3 * PATIENCE)
def test_chromium_on_a_page_of_another_site(security: Security, tmp_path: Path) -> None:
    """A server that names no origins wants pages of its own host only."""
    assert report_of_page(refused_by(security), tmp_path, refused=True) == ""
