"""Full duplex: one thread sends while another receives, on one connection.

python examples/full_duplex.py

The sender is far ahead of the receiver most of the time. With a library that can only do
one thing at a time, this program would stop for ever once the buffers of both ends are full.
"""

from __future__ import annotations

import threading

import syncws

COUNT = 200
SIZE = 100_000


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message)


def main() -> None:
    with (
        syncws.serve(echo, "localhost", 0) as server,
        syncws.connect(server.url) as ws,
    ):

        def send_all() -> None:
            for number in range(COUNT):
                ws.send(number.to_bytes(4, "big") + bytes(SIZE), timeout=30)

        sender = threading.Thread(target=send_all)
        sender.start()
        for number in range(COUNT):
            message = ws.recv(timeout=30, decode=False)
            assert int.from_bytes(message[:4], "big") == number
        sender.join()
        print(f"{COUNT} messages went out and came back in order")


if __name__ == "__main__":
    main()
