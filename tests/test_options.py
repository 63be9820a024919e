"""The options of a connection: defaults, limits, and errors that name the option."""

from __future__ import annotations

import functools
import logging
import math
import pathlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from syncws.options import (
    Options,
    check_flag,
    check_function,
    check_logger,
    check_path,
    check_seconds,
    check_timeout,
    shared_options,
)

SECONDS = ["ping_interval", "ping_timeout", "close_timeout"]
SIZES = ["max_size", "max_frame_size", "max_fragments", "max_queue", "write_limit"]


def test_defaults() -> None:
    options = Options()
    assert options.max_frame_size == 16 * 2**20
    assert options.max_size == 64 * 2**20
    assert options.max_fragments == 128
    assert (options.ping_interval, options.ping_timeout, options.close_timeout) == (20, 20, 10)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan])
def test_seconds_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Options(**{name: value})


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", ["1", True, b"", [1]])
def test_seconds_must_be_numbers(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        Options(**{name: value})  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_must_be_positive(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        Options(**{name: value})


@pytest.mark.parametrize("name", SIZES)
def test_sizes_must_fit_into_what_c_has_for_them(name: str) -> None:
    assert getattr(Options(**{name: 2**31}), name) == 2**31
    with pytest.raises(ValueError, match=f"{name} must be at most"):
        Options(**{name: 2**64})


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", ["1", True, 1.5])
def test_sizes_must_be_integers(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        Options(**{name: value})  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("name", SECONDS + SIZES[:-1])
def test_none_lifts_a_limit(name: str) -> None:
    assert getattr(Options(**{name: None}), name) is None


def test_memory_for_output_must_have_a_bound() -> None:
    with pytest.raises(TypeError, match="write_limit"):
        Options(write_limit=None)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("name", SECONDS)
def test_fractions_of_a_second_are_welcome(name: str) -> None:
    assert getattr(Options(**{name: 0.25}), name) == 0.25


def test_check_seconds_accepts_none() -> None:
    check_seconds("anything", None)


def test_check_function() -> None:
    async def coroutine() -> None: ...

    async def generator() -> AsyncIterator[int]:
        yield 1

    class Called:
        async def __call__(self) -> None: ...

    check_function("handler", len)

    class Made(Called):
        """To call the class is to make one."""

    class Proxy:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("there is nothing behind it yet")

        def __call__(self) -> None: ...

    check_function("handler", Options)
    check_function("handler", Made)
    check_function("handler", Proxy())
    with pytest.raises(TypeError, match="handler must be callable, and int is not"):
        check_function("handler", 1)
    for function in (coroutine, generator, Called(), functools.partial(coroutine)):
        with pytest.raises(TypeError, match="handler must be a plain function, not an async one"):
            check_function("handler", function)


def test_check_timeout_gives_a_monotonic_deadline() -> None:
    before = time.monotonic()
    deadline = check_timeout(5)
    assert deadline is not None
    assert before + 5 <= deadline <= time.monotonic() + 5
    assert check_timeout(None) is None
    assert check_timeout(math.inf) is None


def test_check_flag() -> None:
    check_flag("decode", True)
    with pytest.raises(TypeError, match="decode must be True, False or None, not int"):
        check_flag("decode", 1)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("timeout", ["1", True, None.__class__])
def test_check_timeout_refuses_other_types(timeout: object) -> None:
    with pytest.raises(TypeError, match="timeout must be a number"):
        check_timeout(timeout)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan])
def test_check_timeout_refuses_negative_numbers(timeout: float) -> None:
    with pytest.raises(ValueError, match="negative"):
        check_timeout(timeout)


@pytest.mark.parametrize("path", ["a", b"a", pathlib.Path("a"), "\0a\0b", b"\0a"], ids=repr)
def test_check_path_accepts_paths_and_abstract_names(path: str | bytes | pathlib.Path) -> None:
    assert check_path(path) == (str(path) if isinstance(path, pathlib.Path) else path)


@pytest.mark.parametrize("path", ["a\0b", b"a\0"])
def test_check_path_refuses_what_the_system_would_cut(path: str | bytes) -> None:
    with pytest.raises(ValueError, match="path must not contain a NUL"):
        check_path(path)


def test_check_path_refuses_other_types() -> None:
    with pytest.raises(TypeError, match="path must be a str, bytes or os\\.PathLike, not int"):
        check_path(5)  # type: ignore[arg-type]  # that is the test


def test_check_logger() -> None:
    logger = logging.getLogger("tests")
    check_logger(None)
    check_logger(logger)
    check_logger(logging.LoggerAdapter(logger))  # type: ignore[arg-type]  # nearly a logger
    with pytest.raises(TypeError, match="logger must be a logging\\.Logger or None, not str"):
        check_logger("tests")  # type: ignore[arg-type]  # that is the test


def test_the_same_values_share_their_options() -> None:
    options = shared_options(max_size=5, ping_interval=1)
    assert shared_options(max_size=5, ping_interval=1) is options
    assert shared_options() == Options()


@pytest.mark.parametrize("value", [1024.0, True, [1024], {}])
def test_a_value_that_only_equals_a_good_one_is_refused(value: Any) -> None:
    shared_options(max_queue=1024)
    shared_options(max_queue=1)
    with pytest.raises(TypeError, match="max_queue"):
        shared_options(max_queue=value)
