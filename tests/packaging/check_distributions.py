"""Builds the sdist and the wheel, looks into both, and uses each in a clean environment.

What belongs here: that what users install is complete, and that the first command of the README
works as it stands there. What does not: tests of the library.

The project is built from a copy of what git would hand out, so that nothing that lies around
(an extension built in place, say) makes up for what a distribution lacks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SMOKE = Path(__file__).parent / "smoke.py"
IN_SDIST = [
    "LICENSE",
    "README.md",
    "csrc/build.py",
    "csrc/syncws.h",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
    "syncws/py.typed",
]


def run(*command: str | Path, cwd: Path) -> None:
    """Runs a command and shows it; the environment names no other place to import from."""
    print("$", *command, flush=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(part) for part in command], cwd=cwd, env=environment, check=True)


def copy_sources(target: Path) -> None:
    """Copies the files that are in git, and those that are about to be."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())


def check_wheel(path: Path) -> None:
    """One wheel serves every CPython from 3.11 on, and holds the package and nothing else."""
    python, abi, platform = path.stem.split("-")[2:]
    assert (python, abi) == ("cp311", "abi3"), path.name
    assert platform != "any", path.name
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    expected = {f"syncws/{module.name}" for module in (ROOT / "syncws").glob("*.py")}
    expected |= {"syncws/py.typed", "syncws/_codec.abi3.so"}
    assert {name for name in names if ".dist-info/" not in name} == expected, sorted(names)
    assert any(name.endswith("LICENSE") for name in names), sorted(names)


def check_sdist(path: Path) -> None:
    """Everything that a build needs."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = set(IN_SDIST)
    for pattern in ("csrc/*.c", "csrc/*.h", "syncws/*.py"):
        expected |= {str(file.relative_to(ROOT)) for file in ROOT.glob(pattern)}
    missing = expected - names - {"csrc/_codec.c"}
    assert not missing, sorted(missing)
    built = [name for name in names if name.endswith((".so", ".o"))]
    assert not built, built


def use(distribution: Path, interpreter: Path, directory: Path) -> None:
    """Installs a distribution into an environment of its own, and uses it."""
    with tempfile.TemporaryDirectory(dir=directory) as environment:
        run(interpreter, "-m", "venv", environment, cwd=directory)
        python = Path(environment) / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", distribution, cwd=directory)
        # -I: neither the current directory nor that of the script is a place to import from.
        run(python, "-I", SMOKE, cwd=directory)


def other_interpreters() -> list[Path]:
    """Later Pythons that happen to be here: on the path, or kept by pyenv."""
    found = []
    for minor in range(12, 20):
        name = f"python3.{minor}"
        candidates = [shutil.which(name)]
        if pyenv := shutil.which("pyenv"):
            prefix = subprocess.run(
                [pyenv, "prefix", f"3.{minor}"], capture_output=True, text=True, check=False
            )
            candidates.append(f"{prefix.stdout.strip()}/bin/{name}")
        for candidate in filter(None, candidates):
            # A command of pyenv on the path fails for versions that are not in force.
            asked = [candidate, "-c", "import ensurepip"]
            if (
                Path(candidate).exists()
                and not subprocess.run(asked, stderr=subprocess.DEVNULL).returncode
            ):
                found.append(Path(candidate))
                break
    return found


def run_first_command(source: Path) -> None:
    """Runs the README's command that installs and shows the demo, in the copied source tree."""
    readme = (source / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^ {4}(python3 -m venv .* -m syncws demo)$", readme, re.MULTILINE)
    run("bash", "-c", command, cwd=source)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="distributions-") as name:
        directory = Path(name)
        copy_sources(directory / "source")
        # The wheel is built from the sdist, which therefore has to hold all that a build needs.
        run(sys.executable, "-m", "build", "--outdir", directory, "source", cwd=directory)
        [wheel], [sdist] = directory.glob("*.whl"), directory.glob("*.tar.gz")
        check_wheel(wheel)
        check_sdist(sdist)
        for distribution in (wheel, sdist):
            use(distribution, Path(sys.executable), directory)
            print(f"{distribution.name} is complete and works", flush=True)
        for interpreter in other_interpreters():
            use(wheel, interpreter, directory)
            print(f"{wheel.name} works with {interpreter.name}", flush=True)
        run_first_command(directory / "source")
        print("the README's first command works", flush=True)


if __name__ == "__main__":
    main()
