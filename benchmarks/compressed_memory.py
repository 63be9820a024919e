"""Memory of connections with compression: ``python -m benchmarks.compressed_memory``.

What belongs here: bytes a connection, at both ends, for each preset of ``memory`` and without
compression, before a message and after some. What does not: engines alone
(:mod:`benchmarks.deflate_engines`).

Linux only: memory is read from ``/proc``. Each end is a process of its own, and each preset has
new ones. What a process takes for the first connections is not counted. The threads of the
server's handlers are: their stacks are touched as far as handlers go.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import subprocess
import sys
import time

import syncws
from benchmarks.deflate_engines import messages, resident

PRESETS = ["none", "small", "medium", "large"]
WARM = 20


def options(preset: str, side: str) -> dict[str, object]:
    """The options of ``connect()`` or ``serve()``."""
    if preset == "none":
        return {"compression": None}
    factory = getattr(syncws, f"{side}PerMessageDeflateFactory")
    return {"compression": None, "extensions": [factory(memory=preset)]}


def serve(preset: str) -> None:
    """Echoes; answers each line on its input with its resident memory."""

    def echo(connection: syncws.Connection) -> None:
        for message in connection:
            connection.send(message)

    with syncws.serve(echo, "127.0.0.1", 0, max_connections=None, **options(preset, "Server")) as (
        server
    ):
        server.start()
        print(server.address[1], flush=True)
        for _ in sys.stdin:
            gc.collect()
            print(resident(), flush=True)


def measure(preset: str, count: int) -> list[tuple[float, float]]:
    """Bytes a connection of the client's and the server's, at each stage."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.compressed_memory", "--serve", preset],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def now() -> tuple[int, int]:
        # The readers have looked after whatever there was.
        time.sleep(0.5)
        gc.collect()
        print(file=server.stdin, flush=True)
        return resident(), int(server.stdout.readline())

    url = f"ws://127.0.0.1:{server.stdout.readline().strip()}/"
    texts = [text.decode() for text in messages(1024)]

    def talk(connection: syncws.Connection, number: int) -> None:
        for text in texts[:number]:
            connection.send(text)
            assert connection.recv(10) == text

    connections = []
    try:
        for _ in range(WARM):
            connections.append(syncws.connect(url, **options(preset, "Client")))
            talk(connections[-1], 100)
        begin = now()
        found = []
        for _ in range(count):
            connections.append(syncws.connect(url, **options(preset, "Client")))
        found.append(now())
        for number in (1, 100):
            for connection in connections[WARM:]:
                talk(connection, number)
            found.append(now())
        return [
            ((client - begin[0]) / count, (server_side - begin[1]) / count)
            for client, server_side in found
        ]
    finally:
        for connection in connections:
            connection.close()
        server.stdin.close()
        server.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="connections")
    parser.add_argument("--measure", choices=PRESETS, help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=PRESETS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    if arguments.measure:
        cells = [
            f"{client / 1024:.1f} / {server / 1024:.1f}"
            for client, server in measure(arguments.measure, arguments.count)
        ]
        print(f"| {arguments.measure} | " + " | ".join(cells) + " |")
        return
    installed = importlib.util.find_spec("zlib_ng") is not None
    print(f"KiB a connection, client / server; zlib-ng is {'' if installed else 'not '}installed\n")
    print("| memory | open | after 1 message each way | after 100 |")
    print("|---|---|---|---|", flush=True)
    for preset in PRESETS:
        command = [sys.executable, "-m", "benchmarks.compressed_memory", "--measure", preset]
        subprocess.run([*command, "--count", str(arguments.count)], check=True)


if __name__ == "__main__":
    main()
