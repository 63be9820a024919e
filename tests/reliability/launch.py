"""Programs that need a process of their own: signals, fork, exit, failing system calls.

What belongs here: starting them, talking to them, and how often a storm blows. What does
not: what they do (``programs/``).
"""

from __future__ import annotations

import atexit
import functools
import os
import pathlib
import select
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from types import TracebackType

import syncws

PROGRAMS = pathlib.Path(__file__).parent / "programs"

# SYNCWS_STORM=1: the counts of the catalogue; otherwise a twentieth of them.
FULL = os.environ.get("SYNCWS_STORM") == "1"


def storm(full_count: int) -> int:
    """How often to do what the catalogue asks for ``full_count`` times."""
    return full_count if FULL else max(1, full_count // 20)


def storm_timeout(seconds: int) -> int:
    """For ``pytest.mark.timeout``: what a storm may take."""
    return 20 * seconds if FULL else seconds


@functools.cache
def shim() -> str:
    """The path of ``programs/faults.c``, compiled."""
    directory = tempfile.mkdtemp(prefix="syncws-faults-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    library = os.path.join(directory, "faults.so")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    options = ["-std=c11", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra"]
    subprocess.run(
        [*compiler, *options, "-o", library, str(PROGRAMS / "faults.c"), "-ldl"], check=True
    )
    return library


class Program:
    """A running program of ``programs/``.

    Args:
        name: The file's name without ``.py``.
        arguments: Its arguments.
        faults: Whether it runs under ``faults.c``.
        options: For the interpreter.
    """

    def __init__(
        self, name: str, *arguments: object, faults: bool = False, options: tuple[str, ...] = ()
    ) -> None:
        # What is tested here is what is tested there.
        where = pathlib.Path(syncws.__file__).parent.parent
        environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONUNBUFFERED": "1"}
        # It could not find its siblings.
        environment.pop("PYTHONSAFEPATH", None)
        # Not measured: an exception at any moment may leave the lock of coverage itself held.
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
        if faults:
            environment["LD_PRELOAD"] = shim()
        self._output = b""
        self.process = subprocess.Popen(
            [sys.executable, *options, str(PROGRAMS / f"{name}.py"), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def tell(self, line: str) -> None:
        """Writes a line to its input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def read_line(self, timeout: float = 20.0) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._output:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            assert ready, f"the program says nothing: {self._complaints()}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"the program ended: {self._complaints()}"
            self._output += data
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def _complaints(self) -> str:
        self.process.kill()
        assert self.process.stderr is not None
        return self.process.stderr.read().decode(errors="replace")

    def expect_end(self, timeout: float = 20.0) -> str:
        """Ends its input and waits: status 0, nothing on the error stream; its output."""
        try:
            output, errors = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # Its stacks, if it has faulthandler enabled.
            self.process.send_signal(6)
            output, errors = self.process.communicate()
            raise AssertionError(f"the program hangs: {errors.decode()}") from None
        text = errors.decode(errors="replace")
        assert (self.process.returncode, text) == (0, ""), (self.process.returncode, text)
        return (self._output + output).decode()


def run(
    name: str,
    *arguments: object,
    timeout: float = 30.0,
    faults: bool = False,
    options: tuple[str, ...] = ("-X", "faulthandler"),
) -> str:
    """Runs a program to its end, which must be a good one; its output."""
    with Program(name, *arguments, faults=faults, options=options) as program:
        return program.expect_end(timeout)
