"""Masking: every kernel against the definition of RFC 6455 section 5.3."""

from __future__ import annotations

import pytest
from codec_driver import codec_mask
from hypothesis import given
from hypothesis import strategies as st
from reference import mask
from syncws._codec import ffi, lib

KEY = b"\x37\xfa\x21\x3d"


pytestmark = pytest.mark.usefixtures("isa_level")


def test_a16_every_length_and_phase() -> None:
    data = bytes(range(256)) + bytes(range(45))
    for length in range(301):
        for phase in range(4):
            assert codec_mask(data[:length], KEY, phase) == mask(data[:length], KEY, phase)


def test_a16_every_alignment_in_place_leaves_the_neighbours_alone() -> None:
    for alignment in range(64):
        for length in (0, 1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, 129, 300):
            before = bytes((alignment + index) % 251 for index in range(64 + 300 + 64))
            memory = ffi.new("uint8_t[]", before)
            start = memory + alignment
            lib.syncws_mask(start, start, length, KEY, alignment % 4)
            after = bytes(ffi.buffer(memory, len(before)))
            end = alignment + length
            assert after[:alignment] == before[:alignment]
            assert after[alignment:end] == mask(before[alignment:end], KEY, alignment % 4)
            assert after[end:] == before[end:]


@given(data=st.binary(max_size=600), key=st.binary(min_size=4, max_size=4), cut=st.integers(0, 600))
def test_masking_in_two_parts_is_masking_once(data: bytes, key: bytes, cut: int) -> None:
    cut = min(cut, len(data))
    parts = codec_mask(data[:cut], key, 0) + codec_mask(data[cut:], key, cut % 4)
    assert parts == mask(data, key)
    assert codec_mask(parts, key, 0) == data


def test_large_payload() -> None:
    data = bytes(index * 7 % 256 for index in range(100_003))
    assert codec_mask(data, KEY, 3) == mask(data, KEY, 3)
