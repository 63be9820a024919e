"""A client: one message to an echo server, one back.

python examples/hello_client.py [url]
"""

from __future__ import annotations

import sys

import syncws


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:8765/"
    ws = syncws.connect(url)
    try:
        ws.send("Hello!")
        print("received:", ws.recv(timeout=5))
        ws.ping().wait(5)
        print(f"the connection's latency is {ws.latency * 1000:.2f} ms")
    finally:
        ws.close()


if __name__ == "__main__":
    main()
