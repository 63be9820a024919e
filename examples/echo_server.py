"""An echo server: sends every message back. Stop it with Ctrl-C.

python examples/echo_server.py [port]
"""

from __future__ import annotations

import sys

import syncws


def echo(ws: syncws.Connection) -> None:
    """Runs in a thread of its own for each connection; its end closes the connection."""
    for message in ws:
        ws.send(message)


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765
    with syncws.serve(echo, "localhost", port) as server:
        print(f"listening on {server.url}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("shutting down")


if __name__ == "__main__":
    main()
