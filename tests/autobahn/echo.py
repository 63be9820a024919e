"""Echoes messages as a server or as a client of the Autobahn Testsuite, in a process of its own.

    python echo.py server                       prints the port and serves until its stdin ends
    python echo.py client ws://127.0.0.1:9001   runs all cases of that fuzzing server

What belongs here: the party that is tested, with the default options of its library. What does
not: starting the suite and judging its results (run.py).

With ``--library websockets`` it is another library with the same interface: what the suite then
finds shows that a bad result does not go unnoticed.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from typing import Any

AGENT = "subject"


def library(name: str) -> tuple[Any, Any, Any]:
    """Returns connect, serve and ConnectionClosed."""
    if name == "websockets":
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.client import connect
        from websockets.sync.server import serve

        return connect, serve, ConnectionClosed
    import syncws

    return syncws.connect, syncws.serve, syncws.ConnectionClosed


def run_server(serve: Any) -> None:
    """Echoes every message of every connection."""

    def echo(connection: Any) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        print(server.socket.getsockname()[1], flush=True)
        sys.stdin.read()
        server.shutdown()


def offers(library: str, case: str) -> dict[str, Any]:
    """What a client has to offer so that the suite's server can ask for what the case is about.

    RFC 7692 section 7.1.1.2: a server may answer with ``client_no_context_takeover`` to any offer,
    but the suite does so only to those that contain it, and takes any other as a client that
    does not implement the case.
    """
    if not case.startswith(("13.2.", "13.5.", "13.6.", "13.7.")):
        return {}
    if library == "websockets":
        from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
    else:
        from syncws import ClientPerMessageDeflateFactory
    without_takeover = ClientPerMessageDeflateFactory(
        client_no_context_takeover=True, client_max_window_bits=True
    )
    extensions = [without_takeover]
    if case.startswith("13.7."):
        # As the suite's own client in this case: several offers, the most demanding first.
        extensions.append(ClientPerMessageDeflateFactory(client_no_context_takeover=True))
        extensions.append(ClientPerMessageDeflateFactory())
    return {"compression": None, "extensions": extensions}


def run_client(connect: Any, closed: Any, library: str, url: str) -> None:
    """Asks for the number of cases, runs each, and has the report written."""
    with connect(f"{url}/getCaseCount") as connection:
        count = int(connection.recv())
    for number in range(1, count + 1):
        with connect(f"{url}/getCaseInfo?case={number}") as connection:
            case = json.loads(connection.recv())["id"]
        address = f"{url}/runCase?case={number}&agent={AGENT}"
        with connect(address, **offers(library, case)) as connection:
            try:
                while True:
                    connection.send(connection.recv())
            except closed:
                pass  # How it ended is what the suite reports.
    with connect(f"{url}/updateReports?agent={AGENT}"):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("role", choices=["server", "client"])
    parser.add_argument("address", nargs="?")
    parser.add_argument("--library", choices=["syncws", "websockets"], default="syncws")
    arguments = parser.parse_args()
    connect, serve, closed = library(arguments.library)
    if arguments.role == "server":
        run_server(serve)
    else:
        run_client(connect, closed, arguments.library, arguments.address)


if __name__ == "__main__":
    main()
