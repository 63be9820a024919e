"""Runs the Autobahn Testsuite against syncws in both roles and on both I/O paths.

    python tests/autobahn/run.py                     everything; exits 1 if any case fails
    python tests/autobahn/run.py --role client       one role
    python tests/autobahn/run.py --io native         one I/O path
    python tests/autobahn/run.py --update            writes expected-results.json

A case passes if both its behaviour and its closing behaviour are OK or INFORMATIONAL. The results
are also compared with expected-results.json: a case that is missing, new or of another kind fails.
The suite (scripts/install-autobahn.sh) has to be there; without it this fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SUITE = ROOT / ".tools" / "autobahn" / "bin" / "wstest"
EXPECTED = HERE / "expected-results.json"
# All but the performance cases of section 9's successors: 12 and 13 are of permessage-deflate,
# and section 8 does not exist.
SECTIONS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
CASES = 301
PASSING = {"OK", "INFORMATIONAL"}
# A run takes half a minute on an idle machine. A case that hangs ends by the suite's own timers.
RUN_TIMEOUT = 400.0
START_TIMEOUT = 60.0
AGENT = "subject"

Results = dict[str, list[str]]


class RunError(Exception):
    """The suite or the party under test did not do its part."""


@contextlib.contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Runs a command for the time of the block and ends it, whatever happens."""
    running = subprocess.Popen(command, text=True, **options)
    try:
        yield running
    finally:
        if running.stdin:
            with contextlib.suppress(OSError):
                running.stdin.close()
        try:
            running.wait(5 if running.stdin else 0)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        if running.stdout:
            running.stdout.close()


def wait_for_exit(running: subprocess.Popen[str], what: str, log: Path) -> None:
    try:
        status = running.wait(RUN_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise RunError(f"{what} did not finish within {RUN_TIMEOUT:.0f} s") from None
    if status != 0:
        raise RunError(f"{what} exited with {status}:\n{log.read_text()[-4000:]}")


def wait_for_listener(port: int, running: subprocess.Popen[str]) -> None:
    """Waits until the suite's server accepts connections."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise RunError(f"the suite exited with {running.returncode} before it listened")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RunError(f"the suite does not listen after {START_TIMEOUT:.0f} s")


def free_port() -> int:
    """A port that nothing listens on now: the suite cannot choose one and tell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(role: str, io: str, library: str, directory: Path) -> Results:
    """Runs all cases once and returns the behaviours of each."""
    environment = {key: value for key, value in os.environ.items() if key != "SYNCWS_IO"}
    if io == "portable":
        environment["SYNCWS_IO"] = "python"
    echo = [sys.executable, str(HERE / "echo.py"), "--library", library]
    reports = directory / "reports"
    specification: dict[str, Any] = {
        "outdir": str(reports),
        "cases": SECTIONS,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    path = directory / "specification.json"
    log_path = directory / "log"
    with log_path.open("w") as log:
        output: dict[str, Any] = {"cwd": directory, "stdout": log, "stderr": subprocess.STDOUT}
        if role == "server":
            with process(
                [*echo, "server"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as server:
                assert server.stdout is not None
                port = server.stdout.readline().strip()
                if not port:
                    raise RunError("the echo server did not start")
                specification["servers"] = [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}"}]
                path.write_text(json.dumps(specification))
                with process([str(SUITE), "-m", "fuzzingclient", "-s", str(path)], **output) as it:
                    wait_for_exit(it, "the fuzzing client", log_path)
                if server.poll() is not None:
                    raise RunError("the echo server did not survive")
        else:
            port_number = free_port()
            address = f"ws://127.0.0.1:{port_number}"
            specification["url"] = address
            path.write_text(json.dumps(specification))
            suite = [str(SUITE), "-m", "fuzzingserver", "-s", str(path), "-u", "0"]
            with process(suite, **output) as it:
                wait_for_listener(port_number, it)
                with process([*echo, "client", address], env=environment) as client:
                    wait_for_exit(client, "the echo client", log_path)
    index = json.loads((reports / "index.json").read_text())[AGENT]
    return {case: [index[case]["behavior"], index[case]["behaviorClose"]] for case in index}


def judge(results: Results, expected: Results | None) -> list[str]:
    """Everything that is wrong with the results of one run."""
    wrong = [
        f"case {case}: {' / '.join(kinds)}"
        for case, kinds in results.items()
        if not PASSING.issuperset(kinds)
    ]
    if len(results) != CASES:
        wrong.append(f"{len(results)} cases ran, not {CASES}")
    if expected is not None:
        for case in sorted(results.keys() | expected.keys()):
            if results.get(case) != expected.get(case) and case not in wrong:
                wrong.append(f"case {case}: {results.get(case)}, expected {expected.get(case)}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--role", choices=["server", "client"])
    parser.add_argument("--io", choices=["native", "portable"])
    parser.add_argument("--library", choices=["syncws", "websockets"], default="syncws")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    if not SUITE.exists():
        print(f"{SUITE} is missing: run scripts/install-autobahn.sh", file=sys.stderr)
        return 1
    expected: dict[str, Results] = {}
    if not arguments.update:
        expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    failed = 0
    for io in [arguments.io] if arguments.io else ["native", "portable"]:
        for role in [arguments.role] if arguments.role else ["server", "client"]:
            start = time.monotonic()
            results: Results = {}
            with tempfile.TemporaryDirectory(prefix="autobahn-") as directory:
                try:
                    results = run(role, io, arguments.library, Path(directory))
                    wrong = judge(results, None if arguments.update else expected[role])
                except RunError as error:
                    wrong = [str(error)]
            kinds = Counter(kind for behaviours in results.values() for kind in behaviours)
            print(
                f"Autobahn, {arguments.library} as {role}, {io} I/O: {len(results)} cases,",
                ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none",
                f"in {time.monotonic() - start:.0f} s:",
                f"{len(wrong)} WRONG" if wrong else "all as they should be",
                flush=True,
            )
            for line in wrong:
                print(f"  {line}", flush=True)
            failed += bool(wrong)
            expected[role] = results
    if arguments.update and not failed:
        lines = ",\n".join(
            f' "{role}": {{\n'
            + ",\n".join(
                f'  "{case}": {json.dumps(expected[role][case])}'
                for case in sorted(expected[role], key=lambda case: [*map(int, case.split("."))])
            )
            + "\n }"
            for role in sorted(expected)
        )
        EXPECTED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
