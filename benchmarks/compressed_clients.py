"""The Python clients that are compared with compression on, and the process of one of them.

What belongs here: how each library is used well for JSON messages. What does not: npm's ws, which
runs on Node.js (npm_ws.mjs), and the order of the measurements (:mod:`benchmarks.compressed`).

A client process reads lines ``<scenario> <size> <count>`` and answers each with a JSON list:
seconds on the wall clock, and seconds of processor time of both ends.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from benchmarks.clients import CLOSE_FRAME, Clock, Raw
from benchmarks.compressed_load import COMPRESSED_TEXT, TAIL, header, messages, prepared


class Blocking:
    """The libraries with ``send()``, ``recv()`` and ``close()``."""

    def open(self, url: str) -> Any:
        raise NotImplementedError

    def pingpong(self, ws: Any, texts: Iterator[str]) -> None:
        send, recv = ws.send, ws.recv
        for text in texts:
            send(text)
            recv()

    def receive(self, ws: Any, count: int) -> None:
        ws.send("!")
        recv = ws.recv
        for _ in range(count):
            recv()

    def send(self, ws: Any, texts: Iterator[str]) -> None:
        send = ws.send
        for text in texts:
            send(text)
        ws.recv()

    def close(self, ws: Any) -> None:
        ws.close()


class Syncws(Blocking):
    """With its default options."""

    def open(self, url: str) -> Any:
        import syncws

        ws = syncws.connect(url)
        assert "permessage-deflate" in ws.response.headers.get("Sec-WebSocket-Extensions", "")
        return ws


class Websockets(Blocking):
    """websockets.sync, with its default options."""

    def open(self, url: str) -> Any:
        from websockets.sync.client import connect

        ws = connect(url, max_size=None, proxy=None, legacy=True)
        assert ws.response is not None
        assert "permessage-deflate" in ws.response.headers.get("Sec-WebSocket-Extensions", "")
        return ws


class RawZlib(Blocking):
    """A Python socket and zlib: what remains if everything else were free, nearly."""

    engine = "zlib"

    class Connection:
        def __init__(self, sock: Any, engine: Any) -> None:
            self.sock = sock
            self.compressor = engine.compressobj(wbits=-15)
            self.decompressor = engine.decompressobj(wbits=-15)
            self.data = b""

        def send(self, text: str) -> None:
            payload = self.compressor.compress(text.encode())
            payload = (payload + self.compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]
            # Masked with a key of zeros, which changes nothing.
            self.sock.sendall(header(COMPRESSED_TEXT, len(payload), 0x80) + bytes(4) + payload)

        def recv(self) -> str:
            while True:
                data = self.data
                if len(data) >= 2:
                    begin, end = 2, 2 + data[1]
                    if data[1] == 126:
                        begin, end = 4, 4 + int.from_bytes(data[2:4], "big")
                    if begin <= len(data) >= end:
                        self.data = data[end:]
                        if data[0] == COMPRESSED_TEXT:
                            payload = data[begin:end] + TAIL
                            return self.decompressor.decompress(payload).decode()
                        return data[begin:end].decode()
                self.data += self.sock.recv(8192)

    def open(self, url: str) -> Any:
        sock = Raw().open(url, "Sec-WebSocket-Extensions: permessage-deflate\r\n")
        return self.Connection(sock, importlib.import_module(self.engine))

    def close(self, ws: Any) -> None:
        ws.sock.sendall(CLOSE_FRAME)
        while ws.sock.recv(4096):
            pass
        ws.sock.close()


class RawZlibNg(RawZlib):
    """The same with zlib-ng."""

    engine = "zlib_ng.zlib_ng"


class ZlibNgAlone(Blocking):
    """No socket, no frames, no other end: what nothing that uses zlib-ng can be faster than."""

    class Connection:
        def __init__(self, payloads: list[bytes]) -> None:
            engine = importlib.import_module("zlib_ng.zlib_ng")
            self.compressor = engine.compressobj(wbits=-15)
            self.decompressor = engine.decompressobj(wbits=-15)
            self.payloads = itertools.cycle(payloads)

        def send(self, text: str) -> None:
            self.compressor.compress(text.encode())
            self.compressor.flush(zlib.Z_SYNC_FLUSH)

        def recv(self) -> str:
            return self.decompressor.decompress(next(self.payloads)).decode()

    def open(self, url: str) -> Any:
        scenario, size, _ = url.rsplit("/", 3)[1:]
        frames = prepared(int(size), 15, not scenario.startswith("fresh-"))
        return self.Connection([frame[4 if frame[1] == 126 else 2 :] + TAIL for frame in frames])

    def receive(self, ws: Any, count: int) -> None:
        for _ in range(count):
            ws.recv()

    def send(self, ws: Any, texts: Iterator[str]) -> None:
        for text in texts:
            ws.send(text)

    def close(self, ws: Any) -> None:
        pass


CLIENTS: dict[str, type[Blocking]] = {
    "zlib-ng alone": ZlibNgAlone,
    "raw socket, zlib": RawZlib,
    "raw socket, zlib-ng": RawZlibNg,
    "syncws": Syncws,
    "websockets.sync": Websockets,
}


def measure(
    client: Blocking, base: str, scenario: str, size: int, count: int, clock: Clock
) -> tuple[float, float]:
    """One measurement of one client: opening and closing are not part of it."""
    texts = [data.decode() for data in messages(size, seed=6455)]
    ws = client.open(f"{base}/{scenario}/{size}/{count}")
    clock.start()
    match scenario.removeprefix("fresh-"):
        case "pingpong":
            client.pingpong(ws, itertools.islice(itertools.cycle(texts), count))
        case "receive":
            client.receive(ws, count)
        case "send":
            client.send(ws, itertools.islice(itertools.cycle(texts), count))
    result = clock.stop()
    client.close(ws)
    return result


def main() -> None:
    name, base, server_process = sys.argv[1:]
    client = CLIENTS[name]()
    clock = Clock(int(server_process))
    print("ready", flush=True)
    for line in sys.stdin:
        scenario, size, count = line.split()
        print(json.dumps(measure(client, base, scenario, int(size), int(count), clock)), flush=True)


if __name__ == "__main__":
    main()
