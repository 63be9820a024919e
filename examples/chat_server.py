"""A chat: what anybody says goes to everybody. Stop it with Ctrl-C.

python examples/chat_server.py [port]
python -m syncws ws://localhost:8765/        (in several terminals)
"""

from __future__ import annotations

import itertools
import sys

import syncws

_numbers = itertools.count(1)


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765

    def tell(message: str) -> None:
        # broadcast() waits for nobody. Whoever reads too slowly misses messages, and would
        # not know: better to close, so that the client connects again.
        for slow in syncws.broadcast(server.connections, message):
            slow.start_close(1008, "reading too slowly")

    def chat(ws: syncws.Connection) -> None:
        name = f"guest {next(_numbers)}"
        tell(f"{name} has come")
        try:
            for message in ws:
                if isinstance(message, str):
                    tell(f"{name}: {message}")
        finally:
            tell(f"{name} has left")

    with syncws.serve(chat, "localhost", port) as server:
        print(f"listening on {server.url}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("shutting down")


if __name__ == "__main__":
    main()
