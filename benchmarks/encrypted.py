"""Benchmarks over TLS: ``python -m benchmarks.encrypted``, in the environment of environment.sh.

What belongs here: the scenarios. What does not: the way of measuring, which is that of
:mod:`benchmarks.run`, and the ends. The ratios are to a ``ssl.SSLSocket``.
"""

from __future__ import annotations

from benchmarks.encrypted_clients import CLIENTS
from benchmarks.run import Scenario, arguments, chosen, measure_all, module, report

SCENARIOS = [
    Scenario("TLS: ping-pong, 64 B", "pingpong", 64, 100),
    Scenario("TLS: ping-pong, 1 KiB", "pingpong", 1024, 100),
    Scenario("TLS: receive 64 B", "receive", 64, 2000),
    Scenario("TLS: receive 1 KiB", "receive", 1024, 1000),
    Scenario("TLS: receive 1 MiB", "receive", 2**20, 4),
    Scenario("TLS: send 64 B", "send", 64, 500),
    Scenario("TLS: send 1 MiB", "send", 2**20, 4),
    Scenario("TLS: connect and close", "connect", 1, 10),
]


def main() -> None:
    options = arguments(__doc__, CLIENTS).parse_args()
    names = [name for name in CLIENTS if name in options.clients]
    results = measure_all(
        names,
        chosen(options, SCENARIOS),
        options.rounds,
        options.core,
        options.scale,
        "benchmarks.encrypted_load",
        lambda name: [*module("benchmarks.encrypted_clients"), name],
    )
    report(options, [(results, names)], "SSLSocket")


if __name__ == "__main__":
    main()
