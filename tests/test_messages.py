"""Messages as programs pass them, and the frames they become."""

from __future__ import annotations

import array
import ctypes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncws.frames import Opcode
from syncws.messages import (
    as_message,
    control_payload,
    converted,
    fragment_frames,
    payload_of,
    split_frame,
)


@pytest.mark.parametrize(
    ("message", "payload", "opcode"),
    [
        ("é", b"\xc3\xa9", Opcode.TEXT),
        (b"x", b"x", Opcode.BINARY),
        (bytearray(b"x"), b"x", Opcode.BINARY),
        (memoryview(b"xyz")[::2], b"xz", Opcode.BINARY),
        (array.array("b", b"xx"), b"xx", Opcode.BINARY),
        ((ctypes.c_char * 2)(b"x", b"y"), b"xy", Opcode.BINARY),
    ],
)
def test_payloads(message: Any, payload: bytes, opcode: int) -> None:
    whole = as_message(message)
    assert whole is not None
    assert payload_of(whole) == (payload, opcode)
    if opcode == Opcode.BINARY:
        assert control_payload(message) == payload
        assert next(iter(fragment_frames(iter([message]), None))) == (opcode, payload)


class Objects(ctypes.Array[Any]):
    """Its memory has addresses in it."""

    _type_ = ctypes.py_object
    _length_ = 2


OTHERS = [None, 1, ["x"], iter(b"x"), {}, Objects("a", "b"), array.array("H", [1]), ctypes.c_byte()]


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_message(other: object) -> None:
    assert as_message(other) is None


def test_lone_surrogates_cannot_be_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        payload_of("\ud800")


@pytest.mark.parametrize(
    ("message", "decode", "result"),
    [
        ("é", None, "é"),
        (b"x", None, b"x"),
        ("é", True, "é"),
        (b"\xc3\xa9", True, "é"),
        ("é", False, b"\xc3\xa9"),
        (b"x", False, b"x"),
    ],
)
def test_conversion(message: Any, decode: bool | None, result: Any) -> None:
    assert converted(message, decode) == result


def test_conversion_of_what_is_not_utf8() -> None:
    with pytest.raises(UnicodeDecodeError):
        converted(b"\xff", True)


def test_control_payloads() -> None:
    assert control_payload("é") == b"\xc3\xa9"
    assert control_payload(bytearray(b"x" * 125)) == b"x" * 125
    with pytest.raises(ValueError, match="data must not exceed 125 bytes"):
        control_payload("é" * 63)
    with pytest.raises(TypeError, match="data must be"):
        control_payload(5)  # type: ignore[arg-type]  # that is the test


def frames(fragments: list[Any], text: bool | None = None) -> list[tuple[int, bytes]]:
    return list(fragment_frames(iter(fragments), text))


def test_fragments() -> None:
    assert frames(["a", "b"]) == [(1, b"a"), (0, b"b"), (0x80, b"")]
    assert frames([b"a"]) == [(2, b"a"), (0x80, b"")]
    assert frames([b"a"], text=True) == [(1, b"a"), (0x80, b"")]
    assert frames(["a"], text=False) == [(2, b"a"), (0x80, b"")]
    assert frames([]) == []


@pytest.mark.parametrize("fragments", [["a", b"b"], [b"a", "b"]])
def test_fragments_of_two_types(fragments: list[Any]) -> None:
    with pytest.raises(TypeError, match="one type"):
        frames(fragments)


@pytest.mark.parametrize("fragment", [1, None, ["x"]])
def test_fragments_of_other_types(fragment: Any) -> None:
    with pytest.raises(TypeError, match="iterable of str or bytes-like"):
        frames([fragment])


@given(st.binary(max_size=100), st.integers(1, 50), st.sampled_from([1, 2]))
def test_split_frames_join_to_the_same(data: bytes, size: int, opcode: int) -> None:
    parts = list(split_frame(opcode, data, True, size))
    assert b"".join(bytes(part) for _, part in parts) == data
    assert all(len(part) <= size for _, part in parts)
    assert [first & 15 for first, _ in parts] == [opcode] + [0] * (len(parts) - 1)
    assert [first >> 7 for first, _ in parts] == [0] * (len(parts) - 1) + [1]
