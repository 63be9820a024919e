"""The UTF-8 check: every kernel against Unicode's table 3-7 and ``bytes.decode``."""

from __future__ import annotations

import codecs
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import WELL_FORMED, ReferenceText
from syncws._codec import lib

INVALID = lib.SYNCWS_UTF8_INVALID

# One byte from each class that table 3-7 distinguishes, and their borders.
CLASSES = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")

VALID = [
    "",
    "plain ASCII",
    "\0\x7f",
    "\x80\u07ff",
    "\u0800\ud7ff\ue000\uffff",
    "\U00010000\U0010ffff",
    "κόσμε",
    "Hello-µ@ßöäüàá-UTF-8!!",
    "\ufffe\ufffd\U0001fffe",
]
BROKEN = [
    bytes.fromhex(text)
    for text in (
        "80 | bf | 80bf | c080 | c1bf | e08080 | e09fbf | eda080 | edbfbf | f0808080 | f08fbfbf "
        "| f4908080 | f7bfbfbf | f888808080 | fc8480808080 | fe | ff | c2 | c241 | e282 | e28241 "
        "| f09f98 | f09f9841 | c3c3 | e2e282ac | 41bf | e282acac | f09f988080 | f5808080"
    ).split("|")
]


pytestmark = pytest.mark.usefixtures("isa_level")


def check(data: bytes, state: int = 0) -> int:
    return int(lib.syncws_utf8(state, data, len(data)))


def verdict(data: bytes) -> str:
    """What the oracle says: complete, unfinished or invalid."""
    text = ReferenceText()
    for byte in data:
        text.feed(byte)
        if not text.valid:
            return "invalid"
    return "complete" if text.complete else "unfinished"


def codec_verdict(data: bytes) -> str:
    state = check(data)
    return "complete" if state == 0 else "invalid" if state == INVALID else "unfinished"


@pytest.mark.parametrize("text", VALID)
def test_b1_valid_text_ends_at_a_boundary(text: str) -> None:
    assert check(text.encode()) == 0


@pytest.mark.parametrize("data", BROKEN, ids=bytes.hex)
def test_b1_broken_text_is_seen_at_the_same_byte_as_by_the_oracle(data: bytes) -> None:
    for length in range(len(data) + 1):
        assert codec_verdict(data[:length]) == verdict(data[:length])
    assert check(data) != 0


def test_b1_every_sequence_of_the_byte_classes() -> None:
    for size in (1, 2, 3, 4):
        classes = CLASSES if size < 4 else CLASSES[::2] + b"\x80\x8f\x90"
        for sequence in itertools.product(classes, repeat=size):
            data = bytes(sequence)
            assert codec_verdict(data) == verdict(data)


def test_b2_invalid_is_sticky() -> None:
    assert check(b"\xff") == INVALID
    assert check(b"a" * 200, INVALID) == INVALID
    assert check(b"", INVALID) == INVALID


@pytest.mark.parametrize(
    "character", ["a", "\x80", "é", "\u0800", "€", "\ud7ff", "\U00010000", "😀"]
)
def test_b3_a_character_split_anywhere(character: str) -> None:
    data = character.encode()
    text = b"ascii " * 30 + data * 30
    for first, second in itertools.combinations(range(150, 250), 2):
        if second - first > 9:
            continue
        state = check(text[:first])
        state = check(text[first:second], state)
        assert check(text[second:], state) == 0


@pytest.mark.parametrize("filler", [b"a", "é".encode(), "€".encode(), "😀".encode()])
def test_b4_broken_sequences_at_every_offset_of_a_block(filler: bytes) -> None:
    for data in BROKEN:
        for before in range(65):
            head = (filler * 65)[: before // len(filler) * len(filler)]
            whole = head + data + b"a" * (128 - len(head))
            assert check(whole) == INVALID, (data.hex(), len(head))
            assert codec_verdict(head + data) == verdict(data), (data.hex(), len(head))


def test_b4_valid_characters_at_every_offset_of_a_block() -> None:
    borders = [bytes(edge[i] for edge in row) for row in WELL_FORMED for i in (0, 1)]
    for data in borders:
        for before in range(65):
            assert check(b"a" * before + data + b"a" * (128 - before)) == 0
            assert check(b"a" * before + data * 40) == 0


@given(text=st.text(max_size=200), cut=st.integers(0, 800))
def test_text_is_valid_and_its_parts_leave_the_state(text: str, cut: int) -> None:
    data = text.encode()
    cut = min(cut, len(data))
    assert check(data[cut:], check(data[:cut])) == 0


@given(
    text=st.text(max_size=100), noise=st.binary(min_size=1, max_size=4), where=st.integers(0, 400)
)
def test_noise_is_judged_like_by_python(text: str, noise: bytes, where: int) -> None:
    data = text.encode()
    data = data[: where % (len(data) + 1)] + noise + data[where % (len(data) + 1) :]
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(data)
    except UnicodeDecodeError:
        assert check(data) == INVALID
    else:
        unfinished = decoder.getstate()[0]
        assert (check(data) == 0) == (not unfinished)
        assert check(data) != INVALID
