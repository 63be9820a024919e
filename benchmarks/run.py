"""Runs the benchmarks: ``python -m benchmarks.run``, in the environment of environment.sh.

What belongs here: which scenarios, in which order, and the tables. What does not: the two
ends (:mod:`benchmarks.clients`, :mod:`benchmarks.load`, :mod:`benchmarks.servers`).

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
from collections.abc import Callable, Iterable
from typing import NamedTuple

from benchmarks.clients import CLIENTS
from benchmarks.servers import SERVERS

# Seconds a message, wall clock and processor, by scenario, by name, one for each round.
Results = dict[str, dict[str, list[tuple[float, float]]]]

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
# Of the servers; the load is the raw socket's client, so their ratios say less than a client's.
SERVING = Scenario("serve: connect and close", "connect", 1, 10)
# Where the two rows would say the same as plain syncws.
RECEIVE_ONLY = {"syncws, for", "syncws, recv_many"}


class Process:
    """A client process."""

    def __init__(self, name: str, command: list[str], core: int) -> None:
        self.name = name
        self._process = start(command, core)
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


def start(command: list[str], core: int) -> subprocess.Popen[str]:
    """Runs a command, pinned to a core."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def module(name: str) -> list[str]:
    """The command that runs a module of this package."""
    return [sys.executable, "-m", name]


def measure_all(
    names: list[str],
    scenarios: list[Scenario],
    rounds: int,
    core: int,
    scale: float,
    load: str = "benchmarks.load",
    client: Callable[[str], list[str]] = lambda name: [*module("benchmarks.clients"), name],
) -> Results:
    """Measures all clients in turns.

    Args:
        load: The module of the other end.
        client: The command of the process of a client, but for the server's address and process.

    Returns:
        Results by scenario's title and client's name, one for each round.
    """
    server = start(module(load), core)
    assert server.stdout is not None
    told = [f"ws://127.0.0.1:{int(server.stdout.readline())}", str(server.pid)]
    results: Results = {}
    try:
        processes = [Process(name, [*client(name), *told], core) for name in names]
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


def measure_servers(names: list[str], rounds: int, core: int, scale: float) -> Results:
    """The same for servers: each has a raw-socket client of its own."""
    servers, processes, counts = [], {}, {}
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    try:
        for name in names:
            server = start([*module("benchmarks.servers"), name], core)
            servers.append(server)
            assert server.stdout is not None
            port = int(server.stdout.readline())
            told = [f"ws://127.0.0.1:{port}", str(server.pid)]
            processes[name] = Process(RAW, [*module("benchmarks.clients"), RAW, *told], core)
            counts[name] = calibrate(processes[name], SERVING, MEASUREMENT_TIME * scale)
        for number in range(1, rounds + 1):
            for name in random.sample(names, len(names)):
                results[name].append(processes[name].measure(SERVING, counts[name]))
            print(f"servers, round {number} of {rounds}", file=sys.stderr)
        for process in processes.values():
            process.end()
    finally:
        for server in servers:
            server.kill()
            server.wait()
    return {SERVING.title: results}


def calibrate(process: Process, scenario: Scenario, duration: float) -> int:
    """How many messages take so many seconds."""
    count = scenario.few
    while True:
        seconds, _ = process.measure(scenario, count)
        if seconds * count > duration / 4:
            return max(2, int(duration / seconds))
        count *= 4


def table(
    results: Results,
    names: list[str],
    clock: int,
    reference: str = RAW,
) -> str:
    """Markdown: for each client messages a second and, in brackets, the ratio to the reference."""
    lines = ["| |" + "|".join(f" {name} " for name in names) + "|"]
    lines.append("|---|" + "---|" * len(names))
    for title, by_name in results.items():
        references = by_name.get(reference)
        cells = []
        for name in names:
            if name not in by_name:
                cells.append("")
                continue
            rate = 1 / statistics.median(result[clock] for result in by_name[name])
            cell = f"{rate:,.0f}"
            if references is not None and name != reference:
                # Of the same round: what slowed one down slowed the other, too.
                ratio = statistics.median(
                    of_reference[clock] / result[clock]
                    for of_reference, result in zip(references, by_name[name], strict=True)
                )
                cell += f" ({ratio:.2f})"
            cells.append(cell)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments(description: str | None, clients: Iterable[str]) -> argparse.ArgumentParser:
    """The options that all benchmarks of this kind share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--scale", type=float, default=1.0, help="of the time per measurement")
    parser.add_argument("--clients", nargs="*", choices=clients, default=list(clients))
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
    return parser


def report(
    options: argparse.Namespace,
    results: list[tuple[Results, list[str]]],
    reference: str = RAW,
) -> None:
    """Prints what was measured of whom, and on what."""
    if options.json:
        with open(options.json, "w") as file:
            json.dump([measured for measured, _ in results], file)
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}")
    print(f"{options.rounds} rounds, {options.clock} clock, load average {os.getloadavg()[0]:.1f}")
    for measured, names in results:
        if measured:
            clock = 0 if options.clock == "wall" else 1
            print("\n" + table(measured, names, clock, reference))


def chosen(options: argparse.Namespace, scenarios: list[Scenario]) -> list[Scenario]:
    """The scenarios that were asked for."""
    if options.scenarios is None:
        return scenarios
    return [one for one in scenarios if one.title.startswith(tuple(options.scenarios))]


def main() -> None:
    parser = arguments(__doc__, CLIENTS)
    parser.add_argument("--servers", nargs="*", choices=SERVERS, default=list(SERVERS))
    options = parser.parse_args()
    clients = [name for name in CLIENTS if name in options.clients]
    servers = [name for name in SERVERS if name in options.servers]
    limits = (options.rounds, options.core, options.scale)
    results: list[tuple[Results, list[str]]] = [
        (measure_all(clients, chosen(options, SCENARIOS), *limits) if clients else {}, clients),
        (measure_servers(servers, *limits) if servers else {}, servers),
    ]
    report(options, results)


if __name__ == "__main__":
    main()
