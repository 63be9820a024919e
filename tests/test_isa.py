"""The choice of the instruction set."""

from __future__ import annotations

from codec_driver import levels
from syncws._codec import lib


def test_the_best_level_not_above_the_request_is_in_force() -> None:
    before = lib.syncws_isa()
    available = levels()
    try:
        for request in range(-1, 6):
            wanted = max((level for level in available if level <= request), default=0)
            assert lib.syncws_set_isa(request) == wanted
            assert lib.syncws_isa() == wanted
    finally:
        assert lib.syncws_set_isa(before) == before


def test_the_best_available_level_is_detected() -> None:
    assert lib.syncws_isa() == max(levels())
