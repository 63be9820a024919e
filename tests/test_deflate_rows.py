"""Messages that come in a row are what they would be if each came by itself."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator

import pytest
from extending import engines
from hypothesis import given, settings
from hypothesis import strategies as st

from syncws import deflate
from syncws.deflate import Engine, Inflater
from syncws.exceptions import DecompressionError, PayloadTooBig, ProtocolError

PLENTY = 2**20
HELLO = bytes.fromhex("f248cdc9c90700")
FINAL_HELLO = bytes.fromhex("f348cdc9c90700")


@pytest.fixture(params=engines(), ids=lambda engine: engine.name.split()[0])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    return found


def bits_of(data: bytes) -> list[int]:
    return [byte >> i & 1 for byte in data for i in range(8)]


def packed_bits(bits: Iterable[int]) -> bytes:
    text = "".join(map(str, bits))
    return int(text[::-1] or "0", 2).to_bytes(-(-len(text) // 8), "little")


def one_at_a_time(ours: Inflater, wires: list[bytes], limit: int) -> Iterator[bytes]:
    for wire in wires:
        yield ours.message(wire, limit)


def in_rows(ours: Inflater, wires: list[bytes], limit: int) -> Iterator[bytes]:
    while wires:
        done = ours.messages(wires, limit) or [ours.message(wires[0], limit)]
        yield from done
        wires = wires[len(done) :]


def outcome(messages: Iterator[bytes]) -> tuple[list[bytes], type[ProtocolError] | None, str]:
    done: list[bytes] = []
    try:
        for message in messages:
            done.append(message)
    except (DecompressionError, PayloadTooBig) as error:
        return done, type(error), str(error)
    return done, None, ""


def compare(engine: Engine, wires: list[bytes], bits: int, takeover: bool, limit: int) -> None:
    alone = outcome(one_at_a_time(Inflater(engine, bits, takeover), wires, limit))
    assert outcome(in_rows(Inflater(engine, bits, takeover), wires, limit)) == alone


# -- where a message ends -------------------------------------------------------------------

ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]


def codes(lengths: dict[int, int]) -> dict[int, str]:
    """The canonical code for these lengths (RFC 1951 section 3.2.2)."""
    found, code = {}, 0
    for length in range(1, 16):
        for symbol in sorted(lengths):
            if lengths[symbol] == length:
                found[symbol] = f"{code:0{length}b}"
                code += 1
        code <<= 1
    return found


def split_in_a_header() -> list[bytes]:
    """Two messages that are one for who puts the tail between them: in the lengths of codes."""
    of_lengths = {0: 1, 7: 2, 8: 2}
    code = codes(of_lengths)
    # 257 and 1 lengths, of which the code comes first; zeros up to the end of the byte.
    first = f"001{0:05b}{0:05b}1011" + "".join(
        f"{of_lengths.get(symbol, 0):03b}"[::-1] for symbol in ORDER[:17]
    )
    zeros = -len(first) % 8
    first += code[0] * zeros
    lengths = [0] * zeros + [0] * 16 + [8] * 8  # the tail: 16 bits 0, 16 bits 1
    lengths += [0] * (257 - len(lengths) - 132) + [7] * 116 + [8] * 16
    assert sum(2**-length for length in lengths if length) == 1
    letters = codes({symbol: length for symbol, length in enumerate(lengths) if length})
    second = "".join(code[length] for length in [*lengths[zeros + 24 :], 0])
    second += letters[255] * 5 + letters[256] + "000"
    return [packed_bits(map(int, first)), packed_bits(map(int, second))]


def longest_header(probe: bytes) -> int:
    """Bits that the code lengths of a header can take of the probe, whatever the code for them.

    More than there can be: any code word may stand for a repetition.
    """
    bits = bits_of(probe)
    windows = [int("".join(map(str, bits[i : i + 7])), 2) for i in range(len(bits) - 7)]
    longest = 0
    for counts in complete_codes(1, 2, 19):
        widths = [width for width, count in enumerate(counts, 1) for _ in range(count << 7 - width)]
        # The fewest lengths that lead to a position; one that began before ends anywhere.
        fewest = [0] * 16 + [316] * len(windows)
        for position, window in enumerate(windows):
            have = fewest[position]
            if have < 316:
                longest = max(longest, position)
                after = position + widths[window]
                for extra, lengths in ((0, 1), (2, 3), (3, 3), (7, 11)):
                    fewest[after + extra] = min(fewest[after + extra], have + lengths)
    return longest


def complete_codes(width: int, free: int, symbols: int) -> Iterator[list[int]]:
    """For every complete code of at most so many symbols: how many have 1, 2, ... 7 bits."""
    for count in range(min(free, symbols) + 1):
        left = 2 * (free - count)
        if left == 0:
            yield [count] + [0] * (7 - width)
        elif width < 7 and count + left // 2 < symbols + 1:
            for counts in complete_codes(width + 1, left, symbols - count):
                yield [count, *counts]


def test_c6_no_header_of_a_block_is_longer_than_the_probe() -> None:
    # What comes before the lengths, and the last of them; then a length and a distance that are
    # not complete (15 + 5 + 15 + 13 bits); and then what the next test looks at.
    around = 14 + 19 * 3 + 14 + 48 + 52
    assert longest_header(deflate._PROBE) + around < 8 * len(deflate._PROBE)


@pytest.mark.parametrize("offset", range(40))
def test_c6_a_block_that_begins_in_the_probe_is_harmless_or_noticed(
    engine: Engine, offset: int
) -> None:
    # Empty blocks of 10 bits, and one of 19 with a byte in it, up to the offset in a byte.
    before = [0, 1, 0, *[1, 1, 0, 0, 1, 0, 0, 0, 0], *[0] * 7] * (offset % 2)
    while len(before) % 8 != offset % 8:
        before += [0, 1, 0, *[0] * 7]
    group = bits_of(b"\x00" + deflate.TAIL)
    # 52 bits and the rest of a byte; and up to where an empty block begins.
    rest = (group * 4)[offset : offset + 60 + -(offset + 60) % 40]
    ours = engine.module.decompressobj(-15)
    try:
        out = ours.decompress(packed_bits(before + rest), PLENTY)
        if len(out) == offset % 2 and not ours.eof:
            assert ours.decompress(HELLO, PLENTY) == b"Hello"
    except engine.module.error:
        assert 5 < offset < 40


def test_c6_a_message_cut_in_the_header_of_a_block_is_not_delivered(engine: Engine) -> None:
    wires = split_in_a_header()
    raw = zlib.decompressobj(-15)
    assert raw.decompress(wires[0] + deflate.TAIL) == b""
    assert raw.decompress(wires[1] + deflate.TAIL) == b"\xff" * 5
    for row in (wires, [HELLO, *wires, HELLO]):
        assert Inflater(engine, 15, True).messages(row, PLENTY) == []
        compare(engine, row, 15, True, PLENTY)


# -- what a message may refer to ------------------------------------------------------------


def test_c8_without_takeover_no_message_of_a_row_refers_to_another(engine: Engine) -> None:
    wires = [HELLO, bytes.fromhex("f200110000")]  # RFC 7692 section 7.2.3.2
    assert Inflater(engine, 15, False).messages(wires, PLENTY) == []
    compare(engine, wires, 15, False, PLENTY)
    assert Inflater(engine, 15, True).messages(wires, PLENTY) == [b"Hello"] * 2
    wires = [HELLO, b"", b"\x00", HELLO]
    assert Inflater(engine, 15, False).messages(wires, 5) == [b"Hello", b"", b"", b"Hello"]
    assert Inflater(engine, 15, False).messages(wires, 4) == []
    assert Inflater(engine, 15, False).messages([HELLO, b"\x06"], 5) == []
    large = zlib.compressobj(9, zlib.DEFLATED, -15)
    wire = large.compress(bytes(600_000)) + large.flush(zlib.Z_SYNC_FLUSH)
    assert len(Inflater(engine, 15, False).messages([wire[:-4]] * 5, PLENTY)) == 2


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_c8_how_far_back_a_message_refers_does_not_depend_on_the_cut(
    engine: Engine, bits: int
) -> None:
    rnd = random.Random(bits)
    for distance in (2**bits - 300, 2**bits - 1, 2**bits + 1, 2**bits + 300, 2000):
        oracle = zlib.compressobj(9, zlib.DEFLATED, -15)
        blob = rnd.randbytes(distance)
        for messages in ([blob, blob], [blob + blob], [blob[:100], blob[100:], blob]):
            wires = [(oracle.compress(m) + oracle.flush(zlib.Z_SYNC_FLUSH))[:-4] for m in messages]
            compare(engine, wires, bits, True, PLENTY)
            expected = outcome(one_at_a_time(Inflater(engine, bits, True), wires, PLENTY))
            for size in (1, 7, 1000):
                ours = Inflater(engine, bits, True)
                assert outcome(in_pieces(ours, wires, size)) == expected


def in_pieces(ours: Inflater, wires: list[bytes], size: int) -> Iterator[bytes]:
    for wire in wires:
        pieces = [wire[i : i + size] for i in range(0, len(wire), size)] or [b""]
        parts: list[bytes] = []
        for number, piece in enumerate(pieces, 1):
            parts += ours.parts(piece, number == len(pieces), PLENTY)
        yield b"".join(parts)


def test_c10_final_blocks_are_counted_the_same_however_they_are_cut(engine: Engine) -> None:
    random_bytes = random.Random(1).randbytes(100_000)
    stored = zlib.compressobj(0, zlib.DEFLATED, -15)
    rest = (stored.compress(random_bytes) + stored.flush(zlib.Z_SYNC_FLUSH))[:-4]
    for count in (100, 200):
        wires = [b"\x01\x00\x00\xff\xff" * count + rest]
        alone = outcome(one_at_a_time(Inflater(engine, 15, True), wires, PLENTY))
        for size in (100, 1000, 50_000):
            assert outcome(in_pieces(Inflater(engine, 15, True), wires, size)) == alone
        assert (alone[1] is None) == (count == 100)


# -- rows -----------------------------------------------------------------------------------


def test_a_row_of_many_small_messages_may_have_a_large_one(engine: Engine) -> None:
    messages = [b"%d" % number * (number % 50) for number in range(300)]
    messages[200] = bytes(100_000)
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    wires = [
        (compressor.compress(each) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for each in messages
    ]
    for part in (wires, wires[:200], wires[:1]):
        ours = Inflater(engine, 15, True)
        assert ours.messages(part, PLENTY) == messages[: len(part)]
    assert Inflater(engine, 15, True).messages([], PLENTY) == []
    # What has final blocks is nothing for rows, whichever message it is.
    for row in ([FINAL_HELLO], [HELLO, FINAL_HELLO, HELLO]):
        assert Inflater(engine, 15, True).messages(row, PLENTY) == []
        compare(engine, row, 15, True, PLENTY)
    incompressible = random.Random(1).randbytes(30_000)
    wires = [b"\x00\x30\x75\xcf\x8a" + incompressible + b"\x00"] * 3
    assert Inflater(engine, 15, True).messages(wires, PLENTY) == [incompressible] * 3


CONTENT = st.one_of(
    st.binary(max_size=200),
    st.text("ab{}:,", max_size=400).map(str.encode),
    st.integers(0, 5000).map(lambda count: b"ab" * count),
)


@given(
    st.lists(CONTENT, min_size=1, max_size=6),
    st.integers(9, 15),
    st.booleans(),
    st.integers(-1, 9),
    st.data(),
)
@settings(deadline=None)
def test_a15_any_row_gives_what_its_messages_give_one_at_a_time(
    messages: list[bytes], bits: int, takeover: bool, level: int, data: st.DataObject
) -> None:
    # A peer that keeps to what was agreed on, or not; and then something goes wrong.
    window = data.draw(st.sampled_from([bits, 15]))
    keeps = data.draw(st.booleans())
    mode = zlib.Z_SYNC_FLUSH if takeover or not keeps else zlib.Z_FULL_FLUSH
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window)
    wires = [(compressor.compress(each) + compressor.flush(mode))[:-4] for each in messages]
    index = data.draw(st.integers(0, len(wires) - 1))
    wire = bytearray(wires[index])
    position = data.draw(st.integers(0, len(wire) - 1))
    match data.draw(st.sampled_from(["nothing", "flip", "insert", "remove", "cut"])):
        case "flip":
            wire[position] ^= 1 << data.draw(st.integers(0, 7))
        case "insert":
            wire[position:position] = data.draw(st.binary(min_size=1, max_size=5))
        case "remove":
            del wire[position]
        case "cut":
            del wire[position:]
    wires[index] = bytes(wire)
    largest = max(map(len, messages))
    limit = data.draw(st.sampled_from([PLENTY, largest, max(0, largest - 1), 1]))
    for engine in engines():
        compare(engine, wires, bits, takeover, limit)


@pytest.mark.parametrize("seed", range(20))
def test_a15_random_rows_give_what_their_messages_give_one_at_a_time(
    engine: Engine, seed: int
) -> None:
    rnd = random.Random(seed)
    for _ in range(50):
        takeover = rnd.random() < 0.5
        bits = rnd.randint(9, 15)
        compressor = zlib.compressobj(rnd.randint(1, 9), zlib.DEFLATED, -15, 8, rnd.randint(0, 4))
        wires = []
        for _ in range(rnd.randint(2, 8)):
            content = bytes(rnd.choices(b'abcdef {}:,"', k=rnd.randrange(rnd.choice((20, 3000)))))
            wires.append((compressor.compress(content) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4])
        damaged = bytearray(rnd.choice(wires))
        damaged[rnd.randrange(len(damaged))] ^= 1 << rnd.randrange(8)
        del damaged[rnd.randrange(1, len(damaged) + 1) :]
        wires[rnd.randrange(len(wires))] = bytes(damaged)
        compare(engine, wires, bits, takeover, PLENTY)
