"""What compressed messages take of memory, measured in a process of its own for each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from extending import engines

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc"
)

MIB = 2**20

COMMON = """
import sys, zlib, importlib
from syncws import deflate, permessage_deflate
from syncws.deflate import Engine
from syncws.frames import Side
from syncws.permessage_deflate import ClientPerMessageDeflateFactory as Client
from syncws.permessage_deflate import ServerPerMessageDeflateFactory as Server
from syncws.protocol import Protocol

engine = Engine("forced", importlib.import_module(sys.argv[1]))
permessage_deflate.best_engine = lambda: engine


def kib(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))


def reset():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak counts from now on
    return kib("VmRSS")


def grown(before):
    return (kib("VmHWM") - before) * 1024


def frame(first_byte, data):
    size = len(data)
    if size < 126:
        head = bytes([size])
    elif size < 65536:
        head = bytes([126]) + size.to_bytes(2)
    else:
        head = bytes([127]) + size.to_bytes(8)
    return bytes([first_byte]) + head + data


def zeros(mib):
    # The same mebibyte again and again, with nothing referring to what is before it.
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (block * mib)[:-4]


def fragments(wire, count):
    size = -(-len(wire) // count)
    parts = [wire[i : i + size] for i in range(0, len(wire), size)]
    parts = [(0x42 if i == 0 else 0, part) for i, part in enumerate(parts)]
    parts[-1] = (parts[-1][0] | 0x80, parts[-1][1])
    return b"".join([frame(*part) for part in parts])
"""


def measured(program: str, *arguments: object) -> list[str]:
    """What a program prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", COMMON + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.fixture(params=[engine.module.__name__ for engine in engines()])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


BOMB = """
count, takeover, max_size = int(sys.argv[2]), sys.argv[3] == "True", int(sys.argv[4])
wire = fragments(zeros(1024), count)
_, codec = Server(memory="large", client_no_context_takeover=not takeover).process_request_params(
    [], []
)
receiver = Protocol(Side.CLIENT, extensions=[codec], max_size=max_size, max_fragments=None)
before = reset()
for start in range(0, len(wire), 65536):
    receiver.receive_data(wire[start : start + 65536])
(event,) = receiver.events_received()
print(event.error.close_code, grown(before), len(wire))
"""


@pytest.mark.parametrize("max_size", [MIB, 100 * MIB])
@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("fragments", [1, 1000])
def test_c1_a_gibibyte_of_zeros_takes_no_more_than_max_size(
    engine: str, fragments: int, takeover: bool, max_size: int
) -> None:
    code, grown, size = map(int, measured(BOMB, engine, fragments, takeover, max_size))
    assert code == 1009
    assert size < 1.1 * MIB
    # Pieces of 4 KiB become 4 MiB at most before they are put together.
    assert grown < max_size + 10 * MIB


RECEIVED = """
size = 64 * 2**20
wire = zeros(64)
codec = Client(memory="large").process_response_params([], [])
receiver = Protocol(Side.CLIENT, extensions=[codec], max_size=size, max_fragments=None)
wire = fragments(wire, int(sys.argv[2]))
before = reset()
for start in range(0, len(wire), 65536):
    receiver.receive_data(wire[start : start + 65536])
(message,) = receiver.events_received()
assert len(message) == size
print(grown(before))
"""


@pytest.mark.parametrize("fragments", [1, 100])
def test_a_received_message_of_64_mib_is_held_once(engine: str, fragments: int) -> None:
    (grown,) = map(int, measured(RECEIVED, engine, fragments))
    assert 60 * MIB < grown < 80 * MIB


SENT = """
import os, threading, time
import syncws

def handler(connection):
    for piece in connection.recv_streaming():
        pass
    connection.send("done")

message = os.urandom(2**20) * 64
kind = sys.argv[2]
with syncws.serve(handler, "127.0.0.1", 0, max_size=2**27, max_frame_size=2**27) as server:
    uri = f"ws://127.0.0.1:{server.address[1]}/"
    with syncws.connect(uri, compression="deflate") as connection:
        assert connection.extensions
        # What comes before the handler asks for pieces would be gathered.
        while not any(peer._channel.streaming for peer in server.connections):
            time.sleep(0.01)
        before = reset()
        if kind == "whole":
            connection.send(message)
        else:
            view = memoryview(message)
            connection.send(view[i : i + 2**20] for i in range(0, len(view), 2**20))
        print(grown(before))
        assert connection.recv(60) == "done"
"""


@pytest.mark.parametrize("kind", ["whole", "fragments"])
def test_a_sent_message_of_64_mib_is_not_held_again(engine: str, kind: str) -> None:
    (grown,) = map(int, measured(SENT, engine, kind))
    assert grown < 16 * MIB
