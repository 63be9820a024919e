"""The cffi build of ``syncws._codec``: API mode, abi3.

``setup.py`` names ``ffibuilder``. This file is executed, not imported, with the
project's root as the working directory, so it imports nothing of the package.
"""

from __future__ import annotations

import os
import sys

from cffi import FFI

SOURCES = ["channel.c", "cpu.c", "frame.c", "mailbox.c", "mask.c", "output.c", "pack.c", "utf8.c"]
HEADERS = ["codec.h", "internal.h", "syncws.h"]


def declarations() -> str:
    """The part of the header that cffi reads: one source of truth for both compilers."""
    with open("csrc/syncws.h", encoding="utf-8") as header:
        text = header.read()
    begin, end = "/* CDEF BEGIN */", "/* CDEF END */"
    return text[text.index(begin) : text.index(end)]


def existing(names: list[str]) -> list[str]:
    """Those of ``names`` that exist, as paths from the root with forward slashes."""
    return [f"csrc/{name}" for name in names if os.path.exists(f"csrc/{name}")]


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "syncws._codec",
    '#include "syncws.h"',
    sources=existing(SOURCES),
    include_dirs=["csrc"],
    depends=[*existing(HEADERS), "csrc/build.py"],
    # -fvisibility=hidden: only the module's init function is exported.
    extra_compile_args=(
        [] if sys.platform == "win32" else ["-std=gnu11", "-O3", "-fvisibility=hidden", "-pthread"]
    ),
    extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
