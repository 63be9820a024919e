"""The cffi build of ``syncws._codec``: API mode, abi3.

``setup.py`` names ``ffibuilder``. This file is executed, not imported, with the
project's root as the working directory, so it imports nothing of the package.
"""

from __future__ import annotations

import glob
import sys

from cffi import FFI


def declarations() -> str:
    """The part of the header that cffi reads: one source of truth for both compilers."""
    with open("csrc/syncws.h", encoding="utf-8") as header:
        text = header.read()
    begin, end = "/* CDEF BEGIN */", "/* CDEF END */"
    return text[text.index(begin) : text.index(end)]


def files(pattern: str) -> list[str]:
    """Paths from the root with forward slashes, in an order that every machine has."""
    return sorted(path.replace("\\", "/") for path in glob.glob(f"csrc/{pattern}"))


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "syncws._codec",
    '#include "syncws.h"',
    sources=files("[!_]*.c"),
    include_dirs=["csrc"],
    depends=[*files("*.h"), "csrc/build.py"],
    # -fvisibility=hidden: only the module's init function is exported.
    extra_compile_args=(
        [] if sys.platform == "win32" else ["-std=gnu11", "-O3", "-fvisibility=hidden", "-pthread"]
    ),
    extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
