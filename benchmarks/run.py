"""Runs the benchmarks: ``python -m benchmarks.run``, in the environment of environment.sh.

What belongs here: which scenarios, in which order, and the table. What does not: the two
ends (:mod:`benchmarks.clients`, :mod:`benchmarks.load`).

Every client is a process of its own, pinned to the same core as the server, so that what is
measured is the work of both ends and not the luck of the scheduler. Within a round all
clients take turns, in another order each time: what disturbs the machine for a while
disturbs all of them alike. A figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks.clients import CLIENTS

RAW = "raw socket"
# Every client gets as many messages as it handles in so many seconds.
MEASUREMENT_TIME = 0.2


class Scenario(NamedTuple):
    """``few``: so many messages are enough to begin the calibration with."""

    title: str
    name: str
    size: int
    few: int


SCENARIOS = [
    Scenario("ping-pong, 64 B", "pingpong", 64, 200),
    Scenario("ping-pong, 1 KiB", "pingpong", 1024, 200),
    Scenario("receive 64 B", "receive", 64, 2000),
    Scenario("receive 64 B, text", "text", 64, 2000),
    Scenario("receive 1 KiB", "receive", 1024, 1000),
    Scenario("receive 1 MiB", "receive", 2**20, 4),
    Scenario("send 64 B", "send", 64, 1000),
    Scenario("send 1 KiB", "send", 1024, 1000),
    Scenario("send 1 MiB", "send", 2**20, 4),
    Scenario("connect and close", "connect", 1, 10),
]
# Where the two rows would say the same as plain syncws.
RECEIVE_ONLY = {"syncws, for", "syncws, recv_many"}


class Process:
    """A client process."""

    def __init__(self, name: str, port: int, server_process: int, core: int) -> None:
        self.name = name
        self._process = start(
            "benchmarks.clients", core, name, f"ws://127.0.0.1:{port}", str(server_process)
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.name} has ended")
        return line

    def measure(self, scenario: Scenario, count: int) -> tuple[float, float]:
        """Seconds a message: on the wall clock, and of processor time of both ends."""
        assert self._process.stdin is not None
        print(scenario.name, scenario.size, count, file=self._process.stdin, flush=True)
        wall, processor = json.loads(self._read())
        return wall / count, processor / count

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def start(module: str, core: int, *arguments: str) -> subprocess.Popen[str]:
    """Runs a module of this package, pinned to a core."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def measure_all(
    names: list[str], scenarios: list[Scenario], rounds: int, core: int, scale: float
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Results by scenario's title and client's name, one for each round."""
    server = start("benchmarks.load", core)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    results: dict[str, dict[str, list[tuple[float, float]]]] = {}
    try:
        processes = [Process(name, port, server.pid, core) for name in names]
        counts: dict[tuple[str, str], int] = {}
        for scenario in scenarios:
            results[scenario.title] = {}
            for process in processes:
                if process.name in RECEIVE_ONLY and scenario.name not in ("receive", "text"):
                    continue
                results[scenario.title][process.name] = []
                counts[scenario.title, process.name] = calibrate(
                    process, scenario, MEASUREMENT_TIME * scale
                )
        for number in range(1, rounds + 1):
            begin = time.monotonic()
            for scenario in scenarios:
                for process in random.sample(processes, len(processes)):
                    count = counts.get((scenario.title, process.name))
                    if count is not None:
                        result = process.measure(scenario, count)
                        results[scenario.title][process.name].append(result)
            taken = time.monotonic() - begin
            print(f"round {number} of {rounds}: {taken:.0f} s", file=sys.stderr)
        for process in processes:
            process.end()
    finally:
        server.kill()
        server.wait()
    return results


def calibrate(process: Process, scenario: Scenario, duration: float) -> int:
    """How many messages take so many seconds."""
    count = scenario.few
    while True:
        seconds, _ = process.measure(scenario, count)
        if seconds * count > duration / 4:
            return max(2, int(duration / seconds))
        count *= 4


def table(
    results: dict[str, dict[str, list[tuple[float, float]]]], names: list[str], clock: int
) -> str:
    """Markdown: for each client messages a second and, in brackets, the ratio to raw."""
    lines = ["| |" + "|".join(f" {name} " for name in names) + "|"]
    lines.append("|---|" + "---|" * len(names))
    for title, by_name in results.items():
        raws = by_name.get(RAW)
        cells = []
        for name in names:
            if name not in by_name:
                cells.append("")
                continue
            rate = 1 / statistics.median(result[clock] for result in by_name[name])
            cell = f"{rate:,.0f}"
            if raws is not None and name != RAW:
                # Of the same round: what slowed one down slowed the other, too.
                ratio = statistics.median(
                    raw[clock] / result[clock]
                    for raw, result in zip(raws, by_name[name], strict=True)
                )
                cell += f" ({ratio:.2f})"
            cells.append(cell)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--scale", type=float, default=1.0, help="of the time per measurement")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument(
        "--scenarios", nargs="+", metavar="TITLE", help="only those whose title begins so"
    )
    parser.add_argument(
        "--clock",
        choices=["wall", "processor"],
        default="wall",
        help="processor: the time that both ends computed, for a machine that is busy otherwise",
    )
    parser.add_argument("--json", help="write every single measurement into this file")
    options = parser.parse_args()
    scenarios = [
        scenario
        for scenario in SCENARIOS
        if options.scenarios is None or scenario.title.startswith(tuple(options.scenarios))
    ]
    names = [name for name in CLIENTS if name in options.clients]
    results = measure_all(names, scenarios, options.rounds, options.core, options.scale)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file)
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}")
    print(
        f"{options.rounds} rounds, {options.clock} clock, load average {os.getloadavg()[0]:.1f}\n"
    )
    print(table(results, names, 0 if options.clock == "wall" else 1))


if __name__ == "__main__":
    main()
