"""The clients that are compared, one class each, and the process in which one of them runs.

What belongs here: how each library is used well for each scenario, and the clock around it.
What does not: the order of the measurements and their evaluation (:mod:`benchmarks.run`).

A client process reads lines ``<scenario> <size> <count>`` and answers each with a JSON list:
seconds on the wall clock, and seconds of processor time of both ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from benchmarks import load

CLOSE_FRAME = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


class Clock:
    """Wall clock and the processor time of this process and the server's."""

    def __init__(self, server_process: int) -> None:
        # The clock of another process: clock_getcpuclockid() of Linux, which Python lacks.
        self._server_clock = (~server_process << 3) | 2
        self._start = (0.0, 0.0)

    def _now(self) -> tuple[float, float]:
        processor = time.process_time() + time.clock_gettime(self._server_clock)
        return time.perf_counter(), processor

    def start(self) -> None:
        self._start = self._now()

    def stop(self) -> tuple[float, float]:
        now = self._now()
        return now[0] - self._start[0], now[1] - self._start[1]


class Client(Protocol):
    """One library. Each method is one scenario; the clock runs for its essence only."""

    def pingpong(self, url: str, payload: bytes, count: int, clock: Clock) -> tuple[float, float]:
        """``count`` times: send a message, receive the answer."""

    def receive(self, url: str, count: int, clock: Clock) -> tuple[float, float]:
        """Receive ``count`` messages, each as ``bytes`` or ``str``."""

    def send(self, url: str, payload: bytes, count: int, clock: Clock) -> tuple[float, float]:
        """Send ``count`` messages, and receive the word that all have arrived."""

    def connect(self, url: str, count: int, clock: Clock) -> tuple[float, float]:
        """``count`` times: open and close a connection, both with handshakes."""


class Blocking:
    """The libraries with ``send()``, ``recv()`` and ``close()`` share their loops."""

    def open(self, url: str) -> Any:
        raise NotImplementedError

    def sender(self, ws: Any) -> Any:
        return ws.send

    def pingpong(self, url: str, payload: bytes, count: int, clock: Clock) -> tuple[float, float]:
        ws = self.open(url)
        send, recv = self.sender(ws), ws.recv
        clock.start()
        for _ in range(count):
            send(payload)
            recv()
        result = clock.stop()
        ws.close()
        return result

    def receive(self, url: str, count: int, clock: Clock) -> tuple[float, float]:
        ws = self.open(url)
        send = self.sender(ws)
        send(b"?")
        ws.recv()
        clock.start()
        send(b"!")
        self.receive_all(ws, count)
        result = clock.stop()
        ws.close()
        return result

    def receive_all(self, ws: Any, count: int) -> None:
        recv = ws.recv
        for _ in range(count):
            recv()

    def send(self, url: str, payload: bytes, count: int, clock: Clock) -> tuple[float, float]:
        ws = self.open(url)
        send = self.sender(ws)
        clock.start()
        for _ in range(count):
            send(payload)
        ws.recv()
        result = clock.stop()
        ws.close()
        return result

    def connect(self, url: str, count: int, clock: Clock) -> tuple[float, float]:
        clock.start()
        for _ in range(count):
            self.open(url).close()
        return clock.stop()


class Syncws(Blocking):
    options: ClassVar[dict[str, Any]] = {}

    def open(self, url: str) -> Any:
        import syncws

        return syncws.connect(url, **self.options)


class SyncwsIterator(Syncws):
    """``for message in ws``."""

    def receive_all(self, ws: Any, count: int) -> None:
        for _ in ws:
            count -= 1
            if not count:
                return


class SyncwsMany(Syncws):
    """``for message in ws.recv_many()``."""

    def receive_all(self, ws: Any, count: int) -> None:
        while count:
            for _ in ws.recv_many():
                count -= 1


class Websockets(Blocking):
    """websockets.sync, without compression: the server offers none anyway."""

    options: ClassVar[dict[str, Any]] = {
        "compression": None,
        "max_size": None,
        "proxy": None,
        "legacy": True,
    }

    def open(self, url: str) -> Any:
        from websockets.sync.client import connect

        return connect(url, **self.options)


class WebsocketClient(Blocking):
    options: ClassVar[dict[str, Any]] = {}

    def open(self, url: str) -> Any:
        import websocket

        return websocket.create_connection(url, **self.options)

    def sender(self, ws: Any) -> Any:
        return ws.send_binary


class WebsocketRs(Blocking):
    def open(self, url: str) -> Any:
        import websocket_rs.sync.client

        return websocket_rs.sync.client.connect(url, tcp_nodelay=True)


class Raw:
    """A Python socket and frames built beforehand: the bytes, and nothing else."""

    def __init__(self) -> None:
        self.buffer = bytearray(load.RECEIVE_SIZE)

    def open(self, url: str, fields: str = "") -> Any:
        import socket

        authority, _, path = url.partition("://")[2].partition("/")
        host, _, port = authority.partition(":")
        sock = self.connected(socket.create_connection((host, int(port))))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Version: 13\r\n{fields}\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(4096)
        return sock

    def connected(self, sock: Any) -> Any:
        """What speaks over a TCP connection that has just been made."""
        return sock

    def close(self, sock: Any) -> None:
        sock.sendall(CLOSE_FRAME)
        while sock.recv_into(self.buffer):
            pass
        sock.close()

    def frame(self, payload: bytes) -> bytes:
        # Masked with a key of zeros, which changes nothing.
        return load.header(load.BINARY, len(payload), 0x80) + bytes(4) + payload

    def pingpong(self, url: str, payload: bytes, count: int, clock: Clock) -> tuple[float, float]:
        sock = self.open(url)
        frame = self.frame(payload)
        size = len(frame) - 4
        clock.start()
        for _ in range(count):
            sock.sendall(frame)
            # Not recv_into(): everybody else makes an object of each message, too.
            received = len(sock.recv(65536))
            while received < size:
                received += len(sock.recv(65536))
        result = clock.stop()
        self.close(sock)
        return result

    def receive(self, url: str, count: int, clock: Clock) -> tuple[float, float]:
        sock = self.open(url)
        size = int(url.split("/")[-2])
        frame = self.frame(b"?")
        sock.sendall(frame)
        load.receive_exactly(sock, 3, self.buffer)
        clock.start()
        sock.sendall(frame)
        load.receive_exactly(sock, count * (load.masked_size(size) - 4), self.buffer)
        result = clock.stop()
        self.close(sock)
        return result

    def send(self, url: str, payload: bytes, count: int, clock: Clock) -> tuple[float, float]:
        sock = self.open(url)
        frame = self.frame(payload)
        clock.start()
        for _ in range(count):
            sock.sendall(frame)
        load.receive_exactly(sock, 3, self.buffer)
        result = clock.stop()
        self.close(sock)
        return result

    def connect(self, url: str, count: int, clock: Clock) -> tuple[float, float]:
        clock.start()
        for _ in range(count):
            self.close(self.open(url))
        return clock.stop()


class Picows:
    """picows on uvloop. It calls back for each frame, which suits it best."""

    options: ClassVar[dict[str, Any]] = {"max_frame_size": 2**26, "enable_auto_pong": True}

    def __init__(self) -> None:
        import picows
        import uvloop

        # It warns of every pause in writing, which takes longer than the pause.
        logging.disable(logging.WARNING)
        self.picows = picows
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

        class Listener(picows.WSListener):
            """Sends ``message`` until ``sends`` are out, counts ``receives`` down."""

            def __init__(self) -> None:
                self.done = asyncio.get_running_loop().create_future()
                self.receives = 1
                self.answer: bytes | None = None

            def on_ws_connected(self, transport: Any) -> None:
                self.transport = transport

            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                if frame.msg_type == picows.WSMsgType.CLOSE:
                    transport.disconnect()
                    return
                if frame.msg_type == picows.WSMsgType.TEXT:
                    frame.get_payload_as_utf8_text()
                else:
                    frame.get_payload_as_bytes()
                self.receives -= 1
                if not self.receives:
                    self.done.set_result(None)
                elif self.answer is not None:
                    transport.send(picows.WSMsgType.BINARY, self.answer)

        self.listener = Listener

    async def open(self, url: str) -> Any:
        _, listener = await self.picows.ws_connect(self.listener, url, **self.options)
        return listener

    async def close(self, listener: Any) -> None:
        listener.transport.send_close(self.picows.WSCloseCode.OK)
        await listener.transport.wait_disconnected()

    def pingpong(self, url: str, payload: bytes, count: int, clock: Clock) -> tuple[float, float]:
        async def run() -> tuple[float, float]:
            listener = await self.open(url)
            listener.receives, listener.answer = count, payload
            clock.start()
            listener.transport.send(self.picows.WSMsgType.BINARY, payload)
            await listener.done
            result = clock.stop()
            await self.close(listener)
            return result

        return self.runner.run(run())

    def receive(self, url: str, count: int, clock: Clock) -> tuple[float, float]:
        async def run() -> tuple[float, float]:
            listener = await self.open(url)
            listener.transport.send(self.picows.WSMsgType.BINARY, b"?")
            await listener.done
            listener.done = asyncio.get_running_loop().create_future()
            listener.receives = count
            clock.start()
            listener.transport.send(self.picows.WSMsgType.BINARY, b"!")
            await listener.done
            result = clock.stop()
            await self.close(listener)
            return result

        return self.runner.run(run())

    def send(self, url: str, payload: bytes, count: int, clock: Clock) -> tuple[float, float]:
        async def run() -> tuple[float, float]:
            listener = await self.open(url)
            send, binary = listener.transport.send, self.picows.WSMsgType.BINARY
            # It never waits; without a look at its buffer all would end up there.
            buffered = listener.transport.underlying_transport.get_write_buffer_size
            clock.start()
            for _ in range(count):
                send(binary, payload)
                while buffered() > 2**16:
                    await asyncio.sleep(0)
            await listener.done
            result = clock.stop()
            await self.close(listener)
            return result

        return self.runner.run(run())

    def connect(self, url: str, count: int, clock: Clock) -> tuple[float, float]:
        async def run() -> tuple[float, float]:
            clock.start()
            for _ in range(count):
                await self.close(await self.open(url))
            return clock.stop()

        return self.runner.run(run())


CLIENTS: dict[str, type[Client]] = {
    "raw socket": Raw,
    "syncws": Syncws,
    "syncws, for": SyncwsIterator,
    "syncws, recv_many": SyncwsMany,
    "websocket-rs": WebsocketRs,
    "picows, uvloop": Picows,
    "websocket-client": WebsocketClient,
    "websockets.sync": Websockets,
}


def measure(
    client: Client, base: str, scenario: str, size: int, count: int, clock: Clock
) -> tuple[float, float]:
    """One measurement of one client."""
    url = f"{base}/{scenario}/{size}/{count}"
    if scenario == "pingpong":
        return client.pingpong(url, os.urandom(size), count, clock)
    if scenario == "send":
        return client.send(url, os.urandom(size), count, clock)
    if scenario == "connect":
        return client.connect(url, count, clock)
    return client.receive(url, count, clock)


def main(clients: Mapping[str, type[Client]] = CLIENTS, scheme: str = "ws") -> None:
    name, base, server_process = sys.argv[1:]
    base = f"{scheme}://{base.partition('://')[2]}"
    client = clients[name]()
    clock = Clock(int(server_process))
    print("ready", flush=True)
    for line in sys.stdin:
        scenario, size, count = line.split()
        print(json.dumps(measure(client, base, scenario, int(size), int(count), clock)), flush=True)


if __name__ == "__main__":
    main()
