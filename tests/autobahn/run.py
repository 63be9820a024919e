"""Runs the Autobahn Testsuite against syncws in both roles and on both I/O paths.

    python tests/autobahn/run.py                         sections 1-10; exits 1 if any case fails
    python tests/autobahn/run.py --sections compression  12 and 13, on the native I/O path
    python tests/autobahn/run.py --role client           one role
    python tests/autobahn/run.py --io native             one I/O path
    python tests/autobahn/run.py --cases '12.1.*'        some cases only
    python tests/autobahn/run.py --update                writes the file of expected results

A case passes if both its behaviour and its closing behaviour are OK or INFORMATIONAL. The results
are also compared with those expected: a case that is missing, new or of another kind fails.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SUITE = [
    str(ROOT / ".tools" / "autobahn" / "bin" / "python"),
    str(HERE / "launch_suite.py"),
]
PASSING = {"OK", "INFORMATIONAL"}
START_TIMEOUT = 60.0
AGENT = "subject"

Results = dict[str, list[str]]


class Sections(NamedTuple):
    """Cases that are run together.

    Attributes:
        cases: Their patterns.
        count: How many there are.
        io: The I/O paths that they are run on by default.
        expected: The file of expected results.
        timeout: Seconds for one run. A case that hangs ends by the suite's own timers.
        parallel: Whether both roles run at once. One run keeps one core busy: its two processes
            wait for each other.
    """

    cases: list[str]
    count: int
    io: list[str]
    expected: Path
    timeout: float
    parallel: bool


SECTIONS = {
    # Section 8 and 11 do not exist. Half a minute a run on an idle machine.
    "protocol": Sections(
        ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"],
        301,
        ["native", "portable"],
        HERE / "expected-results.json",
        400.0,
        False,
    ),
    # 216,000 messages, 10 GB.
    "compression": Sections(
        ["12.*", "13.*"],
        216,
        ["native"],
        HERE / "expected-results-compression.json",
        2400.0,
        True,
    ),
}


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


def wait_for_exit(running: subprocess.Popen[str], what: str, log: Path, timeout: float) -> None:
    try:
        status = running.wait(timeout)
    except subprocess.TimeoutExpired:
        raise RunError(f"{what} did not finish within {timeout:.0f} s") from None
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


def run(sections: Sections, role: str, io: str, library: str, directory: Path) -> Results:
    """Runs all cases once and returns the behaviours of each."""
    environment = {key: value for key, value in os.environ.items() if key != "SYNCWS_IO"}
    if io == "portable":
        environment["SYNCWS_IO"] = "python"
    echo = [sys.executable, str(HERE / "echo.py"), "--library", library]
    reports = directory / "reports"
    specification: dict[str, Any] = {
        "outdir": str(reports),
        "cases": sections.cases,
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
                with process([*SUITE, "-m", "fuzzingclient", "-s", str(path)], **output) as it:
                    wait_for_exit(it, "the fuzzing client", log_path, sections.timeout)
                if server.poll() is not None:
                    raise RunError("the echo server did not survive")
        else:
            port_number = free_port()
            address = f"ws://127.0.0.1:{port_number}"
            specification["url"] = address
            path.write_text(json.dumps(specification))
            suite = [*SUITE, "-m", "fuzzingserver", "-s", str(path), "-u", "0"]
            with process(suite, **output) as it:
                wait_for_listener(port_number, it)
                with process([*echo, "client", address], env=environment) as client:
                    wait_for_exit(client, "the echo client", log_path, sections.timeout)
    index = json.loads((reports / "index.json").read_text())[AGENT]
    return {case: [index[case]["behavior"], index[case]["behaviorClose"]] for case in index}


def judge(results: Results, count: int | None, expected: Results | None) -> list[str]:
    """Everything that is wrong with the results of one run."""
    wrong = [
        f"case {case}: {' / '.join(kinds)}"
        for case, kinds in results.items()
        if not PASSING.issuperset(kinds)
    ]
    if count is not None and len(results) != count:
        wrong.append(f"{len(results)} cases ran, not {count}")
    if not results:
        wrong.append("no case ran")
    if expected is not None:
        # Where only some cases were asked for, the others are not missing.
        cases = results.keys() if count is None else results.keys() | expected.keys()
        for case in sorted(cases):
            kinds = results.get(case)
            if kinds != expected.get(case) and PASSING.issuperset(kinds or []):
                wrong.append(f"case {case}: {kinds}, expected {expected.get(case)}")
    return wrong


def run_and_judge(
    sections: Sections,
    role: str,
    io: str,
    library: str,
    count: int | None,
    expected: Results | None,
) -> tuple[Results, bool]:
    """Runs all cases once, says what came of it, and returns the results and whether they pass."""
    start = time.monotonic()
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="autobahn-") as directory:
        try:
            results = run(sections, role, io, library, Path(directory))
            wrong = judge(results, count, expected)
        except RunError as error:
            wrong = [str(error)]
    kinds = Counter(kind for behaviours in results.values() for kind in behaviours)
    lines = [
        f"Autobahn, {library} as {role}, {io} I/O: {len(results)} cases, "
        + (", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none")
        + f" in {time.monotonic() - start:.0f} s: "
        + (f"{len(wrong)} WRONG" if wrong else "all as they should be"),
        *(f"  {line}" for line in wrong),
    ]
    print("\n".join(lines), flush=True)
    return results, not wrong


def write_expected(path: Path, by_role: dict[str, Results]) -> None:
    """Writes the results as they should be from now on."""
    lines = ",\n".join(
        f' "{role}": {{\n'
        + ",\n".join(
            f'  "{case}": {json.dumps(by_role[role][case])}'
            for case in sorted(by_role[role], key=lambda case: [*map(int, case.split("."))])
        )
        + "\n }"
        for role in sorted(by_role)
    )
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sections", choices=SECTIONS, default="protocol")
    parser.add_argument("--cases", nargs="+", metavar="PATTERN", help="of the sections, only these")
    parser.add_argument("--role", choices=["server", "client"])
    parser.add_argument("--io", choices=["native", "portable"])
    parser.add_argument("--library", choices=["syncws", "websockets"], default="syncws")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    if arguments.update and (arguments.cases or arguments.role):
        parser.error("--update needs all cases of both roles")
    if not Path(SUITE[0]).exists():
        print(f"{SUITE[0]} is missing: run scripts/install-autobahn.sh", file=sys.stderr)
        return 1
    sections = SECTIONS[arguments.sections]
    count: int | None = sections.count
    if arguments.cases:
        sections, count = sections._replace(cases=arguments.cases), None
    expected: dict[str, Results] = {}
    if not arguments.update:
        expected = json.loads(sections.expected.read_text(encoding="utf-8"))
    ios = [arguments.io] if arguments.io else sections.io
    roles = [arguments.role] if arguments.role else ["server", "client"]
    with ThreadPoolExecutor(len(roles) if sections.parallel else 1) as pool:
        running = {
            (io, role): pool.submit(
                run_and_judge, sections, role, io, arguments.library, count, expected.get(role)
            )
            for io in ios
            for role in roles
        }
        outcomes = {key: future.result() for key, future in running.items()}
    passed = all(good for _, good in outcomes.values())
    if arguments.update and passed:
        by_role = {role: results for (_, role), (results, _) in outcomes.items()}
        write_expected(sections.expected, by_role)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
