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
import sys
import threading
from typing import Any

AGENT = "subject"


def library(name: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Returns connect, serve, ConnectionClosed and options that switch extensions off."""
    if name == "websockets":
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.client import connect
        from websockets.sync.server import serve

        return connect, serve, ConnectionClosed, {"compression": None}
    import syncws

    return syncws.connect, syncws.serve, syncws.ConnectionClosed, {}


def run_server(serve: Any, options: dict[str, Any]) -> None:
    """Echoes every message of every connection."""

    def echo(connection: Any) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, **options) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        print(server.socket.getsockname()[1], flush=True)
        sys.stdin.read()
        server.shutdown()


def run_client(connect: Any, closed: Any, options: dict[str, Any], address: str) -> None:
    """Asks for the number of cases, runs each, and has the report written."""
    with connect(f"{address}/getCaseCount", **options) as connection:
        count = int(connection.recv())
    for case in range(1, count + 1):
        with connect(f"{address}/runCase?case={case}&agent={AGENT}", **options) as connection:
            try:
                while True:
                    connection.send(connection.recv())
            except closed:
                pass  # How it ended is what the suite reports.
    with connect(f"{address}/updateReports?agent={AGENT}", **options):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("role", choices=["server", "client"])
    parser.add_argument("address", nargs="?")
    parser.add_argument("--library", choices=["syncws", "websockets"], default="syncws")
    arguments = parser.parse_args()
    connect, serve, closed, options = library(arguments.library)
    if arguments.role == "server":
        run_server(serve, options)
    else:
        run_client(connect, closed, options, arguments.address)


if __name__ == "__main__":
    main()
