"""Compares engines for permessage-deflate: ``python -m benchmarks.deflate_engines``.

What belongs here: raw deflate of JSON messages by each module with the interface of ``zlib``,
without any WebSocket: speed, ratio, memory, and whether it behaves as ``zlib`` does where
RFC 7692 needs that. What does not: connections (:mod:`benchmarks.run`).

Prints Markdown. An engine that is not installed is an error, unless ``--engines`` leaves it out.
Linux only: memory is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

ENGINES = {"zlib": "zlib", "zlib-ng": "zlib_ng.zlib_ng", "isal": "isal.isal_zlib"}
LEVELS = {"zlib": [1, 3, 6, 9], "zlib-ng": [1, 2, 3, 6, 9], "isal": [0, 1, 2, 3]}
# The levels that are compared in everything but the first table.
USUAL = {"zlib": 6, "zlib-ng": 6, "isal": 2}
SIZES = {"200 B": 200, "1 KiB": 1024, "64 KiB": 65536}
# RFC 7692 section 7.2.1: what ends a flushed block is not sent.
TAIL = b"\x00\x00\xff\xff"
# How much is compressed for one figure of speed.
SAMPLE_BYTES = 2**18
REPEATS = 5
OBJECTS = 1000

WORDS = (
    "open close pending done failed north south alpha beta gamma price volume order trade "
    "account client region status update Müller Søren Zoë Łukasz"
).split()


def engine(name: str) -> Any:
    return importlib.import_module(ENGINES[name])


def record(rng: random.Random, number: int) -> dict[str, Any]:
    """What an application sends: the same keys again and again, values that differ."""
    return {
        "id": number,
        "type": rng.choice(["trade", "quote", "order"]),
        "time": f"2025-03-{rng.randrange(1, 29):02}T{rng.randrange(24):02}:00:00.{number:03}Z",
        "user": {"name": rng.choice(WORDS), "token": f"{rng.getrandbits(64):016x}"},
        "price": round(rng.uniform(1, 1000), 2),
        "tags": rng.sample(WORDS, 3),
    }


def messages(size: int, seed: int = 7692) -> list[bytes]:
    """Different JSON messages of about ``size`` bytes, together SAMPLE_BYTES."""
    rng = random.Random(seed)
    made = []
    number = 0
    for _ in range(max(4, SAMPLE_BYTES // size)):
        records = []
        length = 0
        while length < size - 100:
            number += 1
            records.append(record(rng, number))
            length += len(json.dumps(records[-1])) + 2
        made.append(json.dumps(records if len(records) > 1 else records[0]).encode())
    return made


def compress_keeping(compressor: Any, data: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    return bytes((compressor.compress(data) + compressor.flush(flush))[: -len(TAIL)])


def decompress(decompressor: Any, data: bytes) -> bytes:
    return bytes(decompressor.decompress(data + TAIL))


def best(function: Callable[[], Any]) -> float:
    """Seconds of processor time, the least of several runs: the machine may be busy."""
    times = []
    for _ in range(REPEATS):
        begin = time.thread_time()
        function()
        times.append(time.thread_time() - begin)
    return min(times)


def measure(module: Any, takeover: str, data: list[bytes], **options: Any) -> tuple[float, ...]:
    """Microseconds a message to compress, to decompress, and the size left of it.

    Args:
        takeover: "kept": one context for all messages. "fresh": a new object for each. "reset":
            one object, and a full flush after each message, which ends the context as well.
    """
    wbits = options.setdefault("wbits", -15)

    def compressed() -> list[bytes]:
        if takeover == "fresh":
            return [compress_keeping(module.compressobj(**options), item) for item in data]
        flush = zlib.Z_FULL_FLUSH if takeover == "reset" else zlib.Z_SYNC_FLUSH
        compressor = module.compressobj(**options)
        return [compress_keeping(compressor, item, flush) for item in data]

    payloads = compressed()

    def decompressed() -> list[bytes]:
        if takeover == "fresh":
            return [decompress(module.decompressobj(wbits=wbits), item) for item in payloads]
        decompressor = module.decompressobj(wbits=wbits)
        return [decompress(decompressor, item) for item in payloads]

    # The other side need not use the same engine.
    reader = zlib.decompressobj(wbits=wbits)
    for item, payload in zip(data, payloads, strict=True):
        if takeover != "kept":
            reader = zlib.decompressobj(wbits=wbits)
        assert decompress(reader, payload) == item
    assert decompressed() == data
    microseconds = 1e6 / len(data)
    left = sum(map(len, payloads)) / sum(map(len, data))
    return best(compressed) * microseconds, best(decompressed) * microseconds, left


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def head(*titles: str) -> str:
    return row(titles) + "\n|" + "---|" * len(titles)


def speed(names: list[str]) -> None:
    print("\n## Speed and ratio: window bits 15, memLevel 8\n")
    print("Microseconds a message to compress / to decompress, and what is left of the size.\n")
    print('"kept": context takeover. "fresh": none, a new object for each message. "reset": none,')
    print("one object that gets a full flush after each message.\n")
    print(head("engine", "level", "context", *SIZES))
    for name in names:
        for level in LEVELS[name]:
            for takeover in ("kept", "fresh", "reset"):
                cells = []
                for size in SIZES.values():
                    packing, unpacking, left = measure(
                        engine(name), takeover, messages(size), level=level
                    )
                    cells.append(f"{packing:.1f} / {unpacking:.1f}, {left:.0%}")
                print(row([name, str(level), takeover, *cells]), flush=True)


def windows(names: list[str]) -> None:
    print("\n## Smaller windows, memLevels and strategies: 1 KiB, context kept\n")
    print(head("engine", "window bits", "memLevel", "strategy", "compress / decompress, left"))
    variants = [(bits, 8, 0) for bits in (15, 13, 12, 11, 10, 9)]
    variants += [(15, 5, 0), (12, 5, 0), (11, 4, 0), (9, 1, 0), (15, 9, 0)]
    variants += [(15, 8, strategy) for strategy in (1, 2, 3, 4)]
    data = messages(1024)
    for name in names:
        for bits, memory_level, strategy in variants:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                packing, unpacking, left = measure(
                    engine(name),
                    "kept",
                    data,
                    level=USUAL[name],
                    wbits=-bits,
                    memLevel=memory_level,
                    strategy=strategy,
                )
            shown = f"{packing:.1f} / {unpacking:.1f}, {left:.0%}"
            if said:
                shown += " (warns: ignored)"
            kind = ["default", "filtered", "Huffman only", "RLE", "fixed"][strategy]
            print(row([name, str(bits), str(memory_level), kind, shown]), flush=True)


def resident() -> int:
    """Bytes of memory that the process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_of(name: str, kind: str, bits: int, memory_level: int, level: int) -> int:
    """Bytes for one object after its first message; for a process of its own."""
    module = engine(name)
    rng = random.Random(1)
    # More than a window, so that all of it is touched: zlib takes pages it may never use.
    text = json.dumps([record(rng, number) for number in range(400)]).encode()
    payload = compress_keeping(zlib.compressobj(wbits=-bits), text)
    compress_keeping(module.compressobj(level=level, wbits=-bits), text)
    decompress(module.decompressobj(wbits=-bits), payload)
    kept = []
    before = resident()
    for _ in range(OBJECTS):
        if kind == "compressor":
            made = module.compressobj(level=level, wbits=-bits, memLevel=memory_level)
            compress_keeping(made, text)
        else:
            made = module.decompressobj(wbits=-bits)
            decompress(made, payload)
        kept.append(made)
    return (resident() - before) // OBJECTS


def memory(names: list[str]) -> None:
    print(f"\n## Memory: bytes an object, the mean of {OBJECTS:,} after a message of 64 KiB\n")
    compressors = [(15, 9), (15, 8), (15, 5), (15, 1), (13, 8), (12, 5), (12, 4), (11, 4), (10, 2)]
    compressors.append((9, 1))
    columns = [(name, USUAL[name]) for name in names]
    if "zlib-ng" in names:
        columns.append(("zlib-ng", 1))
    if "isal" in names:
        columns += [("isal", 0), ("isal", 1)]
    print(head("object", *(f"{name} level {level}" for name, level in columns)))
    variants = [("compressor", bits, memory_level) for bits, memory_level in compressors]
    variants += [("decompressor", bits, 0) for bits in (15, 13, 12, 11, 10, 9)]
    for kind, bits, memory_level in variants:
        cells = []
        for name, level in columns:
            arguments = ["--memory-of", name, kind, str(bits), str(memory_level), str(level)]
            ran = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.deflate_engines", *arguments],
                check=True,
                capture_output=True,
                text=True,
            )
            cells.append(f"{int(ran.stdout):,}")
        title = f"{kind}, window bits {bits}"
        if kind == "compressor":
            title += f", memLevel {memory_level}"
        print(row([title, *cells]), flush=True)


def outcome(function: Callable[[], object]) -> str:
    """What a function returns, or the exception it raises, for a table."""
    try:
        result = function()
    except Exception as error:
        return f"{type(error).__module__}.{type(error).__name__}: {error}"
    return "yes" if result is True else "NO" if result is False else str(result)


def beyond_window(module: Any, level: int, bits: int) -> bool:
    """Whether the compressor refers to anything that lies further back than the window."""
    rng = random.Random(bits)
    block = f"{rng.getrandbits(800):x}".encode()
    between = "".join(rng.choices("abcdefghij ", k=2**bits)).encode()
    data = block + between + block
    payload = compress_keeping(module.compressobj(level=level, wbits=-bits), data) + TAIL
    # A byte at a time zlib has no more history than the window, and fails at what lies beyond.
    reader = zlib.decompressobj(wbits=-bits)
    out = b""
    try:
        while piece := reader.decompress(payload, 1):
            out += piece
            payload = reader.unconsumed_tail
    except zlib.error:
        return True
    assert out == data
    return False


def bounded(module: Any, limit: int) -> str:
    """Inflates 16 MiB of zeros with a limit for each call."""
    compressor = zlib.compressobj(wbits=-15)
    rest = compress_keeping(compressor, bytes(2**24)) + TAIL
    reader = module.decompressobj(wbits=-15)
    total = calls = 0
    while True:
        piece = reader.decompress(rest, limit)
        rest = reader.unconsumed_tail
        total, calls = total + len(piece), calls + 1
        if len(piece) > limit:
            return "NO: more than was allowed"
        if not rest and len(piece) < limit:
            return f"yes, {calls} calls" if total == 2**24 else f"NO: {total} bytes"


def final_block(module: Any) -> str:
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(b"hello") + compressor.flush(zlib.Z_FINISH)
    reader = module.decompressobj(wbits=-15)
    out = reader.decompress(data + b"more")
    return f"{out!r}, eof={reader.eof}, unused_data={reader.unused_data!r}"


def limited_final_block(module: Any) -> str:
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(b"hello") + compressor.flush(zlib.Z_FINISH)
    reader = module.decompressobj(wbits=-15)
    out = reader.decompress(data + b"more", 3)
    return f"{out!r}, tail={reader.unconsumed_tail.hex() or 'empty'}, eof={reader.eof}"


def after_error(module: Any) -> str:
    reader = module.decompressobj(wbits=-15)
    try:
        reader.decompress(b"\x07")
    except module.error:
        return outcome(lambda: f"NO ERROR, returned {reader.decompress(b'abc')!r}")
    return "NO: the first was none"


def independent(module: Any, level: int) -> bool:
    """Whether messages after a full flush can be read without those before."""
    compressor = module.compressobj(level=level, wbits=-15)
    for data in messages(1024):
        payload = compress_keeping(compressor, data, zlib.Z_FULL_FLUSH)
        if decompress(zlib.decompressobj(wbits=-15), payload) != data:
            return False
    return True


def dictionary(module: Any) -> bool:
    compressor = module.compressobj(wbits=-15, zdict=b'{"id": ')
    payload = compress_keeping(compressor, b'{"id": 1}')
    reader = zlib.decompressobj(wbits=-15, zdict=b'{"id": ')
    return decompress(reader, payload) == b'{"id": 1}'


def behaviour(names: list[str]) -> None:
    print("\n## Behaviour\n")
    usual = [(engine(name), USUAL[name], LEVELS[name]) for name in names]
    print(head("question", *names))

    def ask(question: str, answer: Callable[[Any, int, list[int]], object]) -> None:
        cells = [outcome(partial(answer, *of_engine)) for of_engine in usual]
        print(row([question, *cells]), flush=True)

    def made(kind: str, options: dict[str, int], module: Any, *_: Any) -> bool:
        return bool(getattr(module, kind)(**options))

    def flushed(module: Any, level: int, data: bytes) -> bytes:
        compressor = module.compressobj(level=level, wbits=-15)
        return bytes(compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))

    for bits in (8, 9, 15):
        options = {"wbits": -bits}
        ask(f"compressor with window bits {bits}", partial(made, "compressobj", options))
        ask(f"decompressor with {bits}", partial(made, "decompressobj", options))
    ask(
        "levels whose compressor keeps to windows of 9-14 bits",
        lambda m, _, levels: [
            level
            for level in levels
            if not any(beyond_window(m, level, bits) for bits in range(9, 15))
        ],
    )
    ask("level -1", partial(made, "compressobj", {"level": -1}))
    ask("level 9", partial(made, "compressobj", {"level": 9}))
    ask("a sync flush ends in 00 00 ff ff", lambda m, n, _: flushed(m, n, b"x").endswith(TAIL))
    ask("an empty message", lambda m, n, _: flushed(m, n, b"").hex(" "))
    ask("a full flush ends the context", lambda m, n, _: independent(m, n))
    ask("zdict", lambda m, _, __: dictionary(m))
    ask("compressor.copy", lambda m, _, __: hasattr(m.compressobj(), "copy"))
    ask("decompressor.copy", lambda m, _, __: hasattr(m.decompressobj(), "copy"))
    ask("output bounded by max_length", lambda m, _, __: bounded(m, 2**16))
    ask("the same with an odd bound", lambda m, _, __: bounded(m, 12345))
    ask("a final block", lambda m, _, __: final_block(m))
    ask("a final block, max_length 3", lambda m, _, __: limited_final_block(m))
    ask("the error is a zlib.error", lambda m, _, __: issubclass(m.error, zlib.error))
    ask("invalid block type", lambda m, _, __: m.decompressobj(wbits=-15).decompress(b"\x07"))
    ask("used again after an error", lambda m, _, __: after_error(m))


PARTS = {"behaviour": behaviour, "speed": speed, "windows": windows, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--memory-of", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        name, kind, *numbers = options.memory_of
        print(memory_of(name, kind, *map(int, numbers)))
        return
    print(f"{platform.python_implementation()} {platform.python_version()}", end="")
    for name in options.engines:
        if name == "zlib":
            version = zlib.ZLIB_RUNTIME_VERSION
        else:
            version = importlib.metadata.version(name)
        print(f", {name} {version}", end="")
    print()
    for part in options.parts:
        PARTS[part](options.engines)


if __name__ == "__main__":
    main()
