"""The random parts of a thread's working memory."""

from __future__ import annotations

import itertools

from syncws._codec import ffi, lib


def test_the_separator_does_not_overlap_itself() -> None:
    scratch = ffi.new("syncws_scratch *")
    seen = set()
    for _ in range(2000):
        lib.syncws_scratch_init(scratch)
        separator = bytes(ffi.buffer(scratch.separator))
        assert separator[0] not in separator[1:]
        seen.add(separator)
    assert len(seen) > 1900


def test_masking_keys_do_not_repeat() -> None:
    scratch = ffi.new("syncws_scratch *")
    lib.syncws_scratch_init(scratch)
    key = ffi.new("uint8_t[4]")
    keys = []
    for _ in range(1000):
        assert lib.syncws_mask_key(scratch, key) == 0
        keys.append(bytes(ffi.buffer(key)))
    assert len(set(keys)) > 995
    overlaps = sum(old[2:] == new[:2] for old, new in itertools.pairwise(keys))
    assert overlaps < 5
