"""Benchmarks of compressed JSON messages: ``python -m benchmarks.compressed``.

What belongs here: the scenarios, and how npm's ws comes into it. What does not: the way of
measuring, which is that of :mod:`benchmarks.run`, and the ends.

Needs the environment of environment.sh, Node.js, and npm's ws as scripts/install-npm-packages.sh
installs it. The ratios are to websockets.sync.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.compressed_clients import CLIENTS
from benchmarks.compressed_load import messages
from benchmarks.run import Scenario, arguments, chosen, measure_all, module, report

NPM_WS = "npm ws"
NAMES = [*CLIENTS, NPM_WS]
SCENARIOS = [
    Scenario("ping-pong, JSON 1 KiB", "pingpong", 1024, 100),
    Scenario("receive, JSON 1 KiB", "receive", 1024, 500),
    Scenario("send, JSON 1 KiB", "send", 1024, 200),
    Scenario("no takeover: ping-pong, JSON 1 KiB", "fresh-pingpong", 1024, 100),
    Scenario("no takeover: receive, JSON 1 KiB", "fresh-receive", 1024, 500),
    Scenario("no takeover: send, JSON 1 KiB", "fresh-send", 1024, 200),
]
INTEROP = Path(__file__).parent.parent / "tests" / "interop"


def main() -> None:
    options = arguments(__doc__, NAMES).parse_args()
    names = [name for name in NAMES if name in options.clients]
    with tempfile.TemporaryDirectory(dir=INTEROP) as directory:
        # Node.js looks for packages beside the program, not where it is started.
        program = Path(directory, "npm_ws.mjs")
        program.write_bytes(Path(__file__).with_name("npm_ws.mjs").read_bytes())
        texts = Path(directory, "messages.json")
        texts.write_text(json.dumps({1024: [data.decode() for data in messages(1024, seed=6455)]}))

        def client(name: str) -> list[str]:
            if name == NPM_WS:
                return ["node", str(program), str(texts)]
            return [*module("benchmarks.compressed_clients"), name]

        results = measure_all(
            names,
            chosen(options, SCENARIOS),
            options.rounds,
            options.core,
            options.scale,
            "benchmarks.compressed_load",
            client,
        )
    report(options, [(results, names)], "websockets.sync")


if __name__ == "__main__":
    main()
