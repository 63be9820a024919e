"""The rules on what may import what, and on sizes, that docs/architecture.md states.

What belongs here: checks on the source as text. What does not: anything that runs it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "syncws"
LONGEST = 500
# A run-time dependency beside the standard library has to be written down here first.
# python_socks, trustme, werkzeug and zlib_ng are extras.
THIRD_PARTY = {
    "certifi": {"tls"},
    "cffi": {"frames"},
    "python_socks": {"socks"},
    "trustme": {"cli", "demo"},
    "werkzeug": {"routing"},
    "zlib_ng": {"deflate"},
}
# What imports by a name in a string.
BY_NAME = {"importlib.import_module", "_optional_module"}
# Both are lists of names or of one call, with nothing to test by themselves.
WITHOUT_TESTS = {"__init__", "__main__", "version"}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
# __init__ and __main__ put the layers together, so they stand to the right of everything.
LAYERED = [module for module in MODULES if module not in {"__init__", "__main__"}]


@cache
def allowed() -> dict[str, set[str]]:
    """For each module, all those to its left in the lines of the page's section "Layers"."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## Layers", 1)[1].split("\n|", 1)[0]
    left: dict[str, set[str]] = {}
    for line in re.findall(r"^ {4}(.+<-.+)$", section, re.MULTILINE):
        layers = [[name.strip() for name in layer.split(",")] for layer in line.split("<-")]
        for name in layers[0]:
            left.setdefault(name, set())
        for below, above in pairwise(layers):
            for name in above:
                left.setdefault(name, set()).update(below)
    changed = True
    while changed:
        changed = False
        for below_names in left.values():
            reached = below_names.union(*(left[name] for name in below_names))
            changed = changed or reached != below_names
            below_names |= reached
    return left


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``node``, without what only type checkers look at."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from running_nodes(child)


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Name and whether it is of this package, for each import, also those within functions.

    So is each call of a function that imports by name.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in running_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, _, rest = alias.name.partition(".")
                own = first == "syncws"
                yield rest.split(".")[0] if own else first, own
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            path = node.module or ""
            if node.level == 0 and path.split(".")[0] != "syncws":
                yield path.split(".")[0], False
                continue
            path = path if node.level else path.partition(".")[2]
            for name in [path.split(".")[0]] if path else names:
                yield name, True
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME:
            # The name stands there as it is, or the function is one of BY_NAME itself.
            if isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value).split(".")[0], False


def own_imports(file: Path) -> set[str]:
    """The modules of the package that a file imports; names of ``__init__`` count as it."""
    return {
        name if name in MODULES or name == "_codec" else "__init__"
        for name, own in imports(file)
        if own
    }


def source(module: str) -> Path:
    """Where a module of the package stands."""
    return PACKAGE / f"{module}.py"


def modules_behind(test: Path) -> set[str]:
    """The modules of the package that a test needs, it or its helpers, directly or not."""
    found, files = {test}, [test]
    while files:
        file = files.pop()
        helpers = {ROOT / "tests" / f"{name}.py" for name, own in imports(file) if not own}
        new = {path for path in helpers if path.is_file()}
        new |= {source(module) for module in own_imports(file) - {"_codec"}}
        files += new - found
        found |= new
    return {file.stem for file in found if file.parent == PACKAGE}


def sources() -> list[Path]:
    """Everything that people write and edit by hand, in every directory of the project."""
    directories = ["syncws", "csrc", "tests", "examples", "benchmarks", "scripts"]
    return [
        path
        for directory in directories
        for path in sorted((ROOT / directory).rglob("*"))
        # csrc/_codec.c is what cffi leaves behind.
        if path.suffix in {".py", ".c", ".h", ".mjs", ".sh"}
        and path.name != "_codec.c"
        and "node_modules" not in path.parts
    ]


def test_page_lists_every_module() -> None:
    """No module is without a place, and no place without a module."""
    assert set(LAYERED) == set(allowed()) - {"csrc/"}


def test_page_has_no_cycle() -> None:
    """A module to the left of itself would allow any import."""
    assert [name for name, below in allowed().items() if name in below] == []


@pytest.mark.parametrize("module", LAYERED)
def test_imports_only_what_stands_to_its_left(module: str) -> None:
    """An edge that the page does not draw is either a mistake here or missing there."""
    below = {"_codec" if name == "csrc/" else name for name in allowed().get(module, set())}
    assert own_imports(source(module)) - below == set()


def test_imports_have_no_cycle() -> None:
    """Also none that goes through ``__init__``."""
    edges = {module: own_imports(source(module)) - {"_codec"} for module in MODULES}
    while edges:
        leaves = {module for module, targets in edges.items() if not targets & edges.keys()}
        assert leaves, f"import cycle among {sorted(edges)}"
        edges = {module: targets for module, targets in edges.items() if module not in leaves}


def test_only_frames_imports_the_c_module() -> None:
    """What cffi returns has no types, and its buffers have rules: one room for both."""
    assert [module for module in MODULES if "_codec" in own_imports(source(module))] == ["frames"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_no_other_distribution(module: str) -> None:
    """The library needs cffi and certifi, and nothing else."""
    others = {
        name
        for name, own in imports(source(module))
        if not own and name != "__future__" and name not in sys.stdlib_module_names
    }
    assert [name for name in others if module not in THIRD_PARTY.get(name, set())] == []


@pytest.mark.parametrize("module", [name for name in MODULES if name not in WITHOUT_TESTS])
def test_module_has_its_tests(module: str) -> None:
    """``tests/test_<module>.py`` is where one looks for the tests of a module."""
    assert (ROOT / "tests" / f"test_{module}.py").is_file()


@pytest.mark.parametrize("module", MODULES)
def test_module_opens_with_its_rule(module: str) -> None:
    """A docstring first, and annotations that nothing evaluates."""
    tree = ast.parse(source(module).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    first = next(node for node in tree.body if isinstance(node, ast.ImportFrom | ast.Import))
    assert isinstance(first, ast.ImportFrom) and first.module == "__future__"


def test_no_source_is_too_long() -> None:
    """A file with more lines has more than one job."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources()
    }
    assert len(lengths) > len(MODULES)  # the patterns still find something
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_module_for_odds_and_ends() -> None:
    """A helper lives with its one user; shared by two, it belongs to the lower layer."""
    names = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py", "typing.py"}
    assert [str(path) for path in sources() if path.name in names] == []


def test_ci_runs_the_second_command_of_the_readme() -> None:
    """Exactly, and in front of it only what finds the project's root."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.findall(r"^ {4}(python3 -m venv .* && .venv/bin/tox .*)$", readme, re.MULTILINE)
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith(("#", "set ", "cd "))] == command


def test_setup_py_has_three_lines() -> None:
    """What a build needs is declared in pyproject.toml, and the rest in csrc/build.py."""
    assert len((ROOT / "setup.py").read_text(encoding="utf-8").splitlines()) == 3


def test_what_runs_on_one_io_path_knows_of_none() -> None:
    """The tests that the environment ``py-python-io`` leaves out would see no difference."""
    patterns = re.findall(r"--ignore-glob (\S+)", (ROOT / "tox.ini").read_text(encoding="utf-8"))
    files = {pattern: list(ROOT.glob(pattern)) for pattern in patterns}
    assert patterns and all(files.values())
    for file in (file for found in files.values() for file in found):
        assert not modules_behind(file) & {"transport", "__init__"}, file.name
    assert "transport" in modules_behind(ROOT / "tests" / "test_channel.py")
