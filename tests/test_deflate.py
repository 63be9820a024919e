"""Raw DEFLATE, message by message, against the standard library's zlib."""

from __future__ import annotations

import importlib
import itertools
import random
import sys
import time
import types
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncws import deflate
from syncws.deflate import Compression, Deflater, Engine, Inflater
from syncws.exceptions import DecompressionError, PayloadTooBig

TAIL = b"\x00\x00\xff\xff"
HELLO_FINAL = bytes.fromhex("f348cdc9c9070000")  # RFC 7692 section 7.2.3.4
HELLO = bytes.fromhex("f248cdc9c90700")  # section 7.2.3.1
PLENTY = 2**20


def engines() -> list[Engine]:
    found = [deflate.stdlib_engine()]
    try:
        found.append(Engine("zlib-ng", importlib.import_module("zlib_ng.zlib_ng")))
    except ImportError:  # it is optional
        pass
    return found


@pytest.fixture(params=engines(), ids=lambda engine: engine.name.split()[0])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    return found


def packed(data: bytes, level: int = -1) -> bytes:
    """``data`` as a message by the standard library."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]


def inflater(engine: Engine, bits: int = 15, takeover: bool = True) -> Inflater:
    return Inflater(engine, bits, takeover)


def deflater(engine: Engine, bits: int = 15, takeover: bool = True, level: int = -1) -> Deflater:
    return Deflater(engine, Compression(bits, level, 8, 0), takeover)


def referring(distance: int) -> bytes:
    """A message of 258 bytes, copied from ``distance`` (a power of 2, from 512 on) bytes before."""
    log = distance.bit_length() - 1
    code, extra = 2 * (log - 1) + 1, log - 2  # RFC 1951 section 3.2.5: the code ends there
    fields = [
        (0b010, 3),  # not final, fixed codes; in the order of the wire
        (0b11000101, 8),  # length 258
        (code, 5),
        (2**extra - 1, extra),
        (0, 7 + 3),  # the end of the block, and the one that is not sent
    ]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    return int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little")


def contents(seed: int, count: int = 40) -> list[bytes]:
    """Messages that resemble each other, of many sizes."""
    rnd = random.Random(seed)
    words = [rnd.randbytes(rnd.randrange(2, 20)) for _ in range(50)]
    return [
        b"".join(rnd.choices(words, k=rnd.choice((0, 1, 5, 40, 400, 3000)))) for _ in range(count)
    ]


# -- engines ------------------------------------------------------------------------------


def forget_engines() -> None:
    deflate.best_engine.cache_clear()
    deflate.stdlib_engine.cache_clear()


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Engines are looked for anew, in the test and after it."""
    forget_engines()
    yield
    forget_engines()


@pytest.mark.usefixtures("forgotten")
def test_engines_are_looked_for_once() -> None:
    best, stdlib = deflate.best_engine(), deflate.stdlib_engine()
    assert deflate.best_engine() is best
    assert deflate.stdlib_engine() is stdlib


@pytest.mark.usefixtures("forgotten")
def test_without_the_drop_in_the_standard_library_compresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    assert deflate.best_engine() == (f"zlib {zlib.ZLIB_RUNTIME_VERSION}", zlib)


@pytest.mark.usefixtures("forgotten")
def test_the_drop_in_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(ZLIBNG_RUNTIME_VERSION="9.9")
    monkeypatch.setitem(sys.modules, "zlib_ng", types.ModuleType("zlib_ng"))
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", module)  # type: ignore[arg-type]
    assert deflate.best_engine() == ("zlib-ng 9.9", module)


@pytest.mark.usefixtures("forgotten")
def test_c12_an_old_zlib_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zlib, "ZLIB_RUNTIME_VERSION", "1.2.11")
    with pytest.warns(RuntimeWarning, match=r"CVE-2018-25032.*1\.2\.13"):
        deflate.stdlib_engine()
    monkeypatch.setattr(zlib, "ZLIB_RUNTIME_VERSION", "1.3.1.zlib-ng")
    forget_engines()
    assert deflate.stdlib_engine().name == "zlib 1.3.1.zlib-ng"


# -- whole messages -------------------------------------------------------------------------


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("bits", range(9, 16))
def test_c8_what_we_compress_zlib_decompresses(engine: Engine, bits: int, takeover: bool) -> None:
    ours = deflater(engine, bits, takeover)
    oracle = zlib.decompressobj(-bits)
    for message in contents(bits):
        compressed = ours.message(message)
        if not takeover:
            oracle = zlib.decompressobj(-bits)
        assert oracle.decompress(compressed + TAIL) == message


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("bits", range(9, 16))
def test_c8_what_zlib_compresses_we_decompress(engine: Engine, bits: int, takeover: bool) -> None:
    ours = inflater(engine, bits, takeover)
    oracle = zlib.compressobj(9, zlib.DEFLATED, -bits)
    mode = zlib.Z_SYNC_FLUSH if takeover else zlib.Z_FULL_FLUSH
    for message in contents(bits):
        compressed = oracle.compress(message) + oracle.flush(mode)
        assert ours.message(compressed[:-4], PLENTY) == message


def test_a_window_of_8_bits_is_decompressed_with_9(engine: Engine) -> None:
    assert inflater(engine, 8).message(packed(b"x" * 700), PLENTY) == b"x" * 700


def test_without_takeover_the_compressor_is_the_threads(engine: Engine) -> None:
    first, second = deflater(engine, takeover=False), deflater(engine, takeover=False)
    assert first.message(b"abcabcabcabc") == second.message(b"abcabcabcabc")
    assert first._compressor is None and second._compressor is None


def test_after_forget_nothing_refers_to_earlier_messages(engine: Engine) -> None:
    ours = deflater(engine)
    message = random.Random(1).randbytes(500)
    first = ours.message(message)
    assert len(ours.message(message)) < 50
    ours.forget()
    assert ours.message(message) == first


def test_c5_empty_messages(engine: Engine) -> None:
    ours = inflater(engine)
    assert ours.message(b"\x00", PLENTY) == b""
    assert ours.message(b"", PLENTY) == b""
    assert ours.parts(b"", False, PLENTY) == ours.parts(b"", True, PLENTY) == []
    assert ours.message(HELLO, PLENTY) == b"Hello"
    assert deflater(engine).message(b"") in (b"\x00", b"\x02\x00")


def test_context_takeover_over_the_rfcs_example(engine: Engine) -> None:
    ours = inflater(engine)
    assert ours.message(HELLO, PLENTY) == b"Hello"
    assert ours.message(bytes.fromhex("f200110000"), PLENTY) == b"Hello"
    with pytest.raises(DecompressionError):
        inflater(engine, takeover=False).message(bytes.fromhex("f200110000"), PLENTY)


# -- final blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize("wire", [HELLO_FINAL, HELLO_FINAL[:-1]], ids=["padded", "bare"])
@pytest.mark.parametrize("cut", range(9))
def test_c4_final_blocks_however_they_are_cut(engine: Engine, wire: bytes, cut: int) -> None:
    ours = inflater(engine)
    for _ in range(3):
        parts = ours.parts(wire[:cut], False, 5) + ours.parts(wire[cut:], True, 5)
        assert b"".join(parts) == b"Hello"
        assert ours.message(bytes.fromhex("f200110000"), PLENTY) == b"Hello"


def test_c4_several_streams_in_one_message(engine: Engine) -> None:
    final = HELLO_FINAL[:-1]
    ours = inflater(engine)
    assert ours.message(final + final + HELLO, PLENTY) == b"Hello" * 3
    assert ours.message(final + final, PLENTY) == b"Hello" * 2
    # The second one may refer to the first: what is sent is one stream for the window.
    assert ours.message(final + bytes.fromhex("f200110000"), PLENTY) == b"Hello" * 2


@pytest.mark.parametrize("garbage", [b"\xff", b"garbage", TAIL, b"\x00\x00\x00\xff\xff\xff"])
def test_c4_garbage_behind_a_final_block(engine: Engine, garbage: bytes) -> None:
    with pytest.raises(DecompressionError):
        inflater(engine).message(HELLO_FINAL[:-1] + garbage, PLENTY)


def test_c10_final_blocks_without_contents_are_limited(engine: Engine) -> None:
    empty = b"\x01\x00\x00\xff\xff"
    assert inflater(engine).message(empty * 100 + HELLO, PLENTY) == b"Hello"
    with pytest.raises(DecompressionError, match="too many final blocks"):
        inflater(engine).message(empty * 1000, PLENTY)


def test_c10_the_cost_is_linear(engine: Engine) -> None:
    def seconds(data: bytes) -> float:
        start = time.thread_time()  # not what the machine does meanwhile
        inflater(engine).message(data, 2**30)
        return time.thread_time() - start

    for unit in (b"\x00\x01\x00\xfe\xffx", b"\x00\x00\x00\xff\xff"):
        # A thousand nanoseconds for a byte: a quadratic cost would be far above it.
        assert seconds(unit * (2**20 // len(unit)) + b"\x00") < 2**20 * 1e-6
    one = b"\x01\x3b\x00\xc4\xff" + b"x" * 59
    assert seconds(one * 8000 + b"\x00") < 10


# -- what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_c6_every_truncation_is_noticed(engine: Engine, level: int) -> None:
    whole = packed(random.Random(2).randbytes(40) * 3, level)
    for cut in range(1, len(whole)):
        if whole[:cut] == b"\x00":
            continue  # by chance a whole message: an empty one
        with pytest.raises(DecompressionError):
            inflater(engine).message(whole[:cut], PLENTY)
        with pytest.raises(DecompressionError):
            row = inflater(engine)
            assert row.messages([whole[:cut], whole, whole], PLENTY) == []
            row.message(whole[:cut], PLENTY)


def test_c6_no_message_ends_in_the_next_one(engine: Engine) -> None:
    # A block of 10 bytes, of which 2 are there: the tail and the next message would be the rest.
    cut = b"\x00\x0a\x00\xf5\xffab"
    for following in (b"cdef\x00", b"cdef" + HELLO):
        ours = inflater(engine)
        assert ours.messages([HELLO, cut, following], PLENTY) == []
        assert ours.message(HELLO, PLENTY) == b"Hello"
        with pytest.raises(DecompressionError):
            ours.message(cut, PLENTY)


@pytest.mark.parametrize(
    "wire",
    [
        b"\x06",  # reserved block type
        b"\x00\x05\x00\x00\x00Hello\x00",  # LEN is not the complement of NLEN
        bytes.fromhex("f200110000"),  # refers to what there is not
        HELLO + TAIL,  # the tail is on the wire: it is not the end of a message then
        HELLO + b"\xff",
    ],
)
def test_c6_c7_bad_streams(engine: Engine, wire: bytes) -> None:
    with pytest.raises(DecompressionError):
        inflater(engine).message(wire, PLENTY)
    assert inflater(engine).messages([wire], PLENTY) == []


def test_c7_a_whole_empty_block_more_is_harmless(engine: Engine) -> None:
    assert inflater(engine).message(HELLO + TAIL + b"\x00", PLENTY) == b"Hello"


# -- limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 4096, 2**18 - 1, 2**18, 2**18 + 1, 2**20])
def test_a3_the_limit_is_exact(engine: Engine, size: int) -> None:
    wire = packed(bytes(size))
    for pieces in ([wire], [wire[i : i + 7] for i in range(0, len(wire), 7)]):
        for limit in (size - 1, size, size + 1):
            ours = inflater(engine)
            left = limit
            try:
                for number, piece in enumerate(pieces, 1):
                    left -= sum(map(len, ours.parts(piece, number == len(pieces), left)))
            except PayloadTooBig:
                assert limit == size - 1
            else:
                assert left == limit - size >= 0


def test_c1_a_bomb_is_not_decompressed_beyond_the_limit(engine: Engine) -> None:
    produced = 0

    class Counting:
        def __init__(self, *arguments: Any) -> None:
            self._real = engine.module.decompressobj(*arguments)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            nonlocal produced
            part: bytes = self._real.decompress(data, max_length)
            produced += len(part)
            return part

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    module = types.SimpleNamespace(decompressobj=Counting, error=engine.module.error)
    with pytest.raises(PayloadTooBig):
        Inflater(Engine("counting", module), 15, True).message(packed(bytes(2**24)), 1000)
    assert produced == 1001


# -- messages in a row ----------------------------------------------------------------------


def rows(wires: list[bytes], ours: Inflater) -> Iterator[bytes]:
    while wires:
        done = ours.messages(wires, PLENTY)
        assert done
        yield from done
        wires = wires[len(done) :]


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_a15_a_row_of_messages_gives_the_same(engine: Engine, bits: int) -> None:
    oracle = zlib.compressobj(-1, zlib.DEFLATED, -bits)
    messages = contents(bits, 200)
    wires = [(oracle.compress(each) + oracle.flush(zlib.Z_SYNC_FLUSH))[:-4] for each in messages]
    ours = inflater(engine, bits)
    assert list(rows(wires[:100], ours)) == messages[:100]
    assert [ours.message(wire, PLENTY) for wire in wires[100:150]] == messages[100:150]
    assert list(rows(wires[150:], ours)) == messages[150:]


def test_a_row_ends_when_others_should_get_their_turn(engine: Engine) -> None:
    wires = [packed(bytes(600_000))] * 5
    assert len(inflater(engine).messages(wires, PLENTY)) == 2


def test_there_is_no_row_where_it_is_of_no_use(engine: Engine) -> None:
    assert inflater(engine, takeover=False).messages([HELLO] * 2, PLENTY) == [b"Hello"] * 2
    assert inflater(engine).messages([HELLO_FINAL], PLENTY) == []
    assert inflater(engine).messages([HELLO, packed(bytes(6))], 5) == []
    assert inflater(engine).messages([b"\x00", b"", HELLO], 5) == [b"", b"", b"Hello"]
    begun = inflater(engine)
    begun.parts(HELLO[:3], False, PLENTY)
    assert begun.messages([HELLO], PLENTY) == []


def test_an_idle_inflater_keeps_no_more_than_the_window(engine: Engine) -> None:
    for bits in (9, 15):
        ours = inflater(engine, bits)
        ours.messages([packed(bytes(500_000))], PLENTY)
        ours.message(packed(bytes(500_000)), PLENTY)
        for _ in range(100):
            ours.messages([packed(b"x" * 100)] * 10, PLENTY)
            ours.message(packed(b"x" * 100), PLENTY)
        assert sum(map(len, ours._recent)) <= 2**bits + 32 * 1000
        assert ours._decompressor is None
        nothing = inflater(engine, bits, takeover=False)
        nothing.message(packed(bytes(5000)), PLENTY)
        assert nothing._recent == [b""]


def kept(ours: Inflater) -> int:
    """Bytes that an inflater keeps, and the objects around them."""
    return sum(map(sys.getsizeof, ours._recent))


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_an_idle_inflater_keeps_nothing_but_the_window(engine: Engine, bits: int) -> None:
    size = 2**bits
    large, almost = packed(bytes(500_000)), packed(b"x" * (size - 1))
    for wires in ([large], [almost] * 5, [HELLO, large], [packed(b"ab")] * 3000):
        ours = inflater(engine, bits)
        assert sum(map(len, rows(wires, ours))) > 0
        assert kept(ours) <= size + 100
        for wire in wires:
            ours.message(wire, PLENTY)
        assert kept(ours) <= size + 100
    ours = inflater(engine, bits)
    oracle = zlib.compressobj(9, zlib.DEFLATED, -bits)
    for _ in range(31):
        piece = oracle.compress(b"x" * (size - 1)) + oracle.flush(zlib.Z_SYNC_FLUSH)
        ours.parts(piece, False, PLENTY)
        assert kept(ours) <= 10 * size + 1000  # in the middle of a message
    ours.parts(b"\x00", True, PLENTY)
    assert kept(ours) <= size + 100


@pytest.mark.parametrize("bits", [9, 15])
def test_what_is_kept_is_all_that_may_be_referred_to(engine: Engine, bits: int) -> None:
    rnd = random.Random(bits)
    before, start = rnd.randbytes(2**bits), rnd.randbytes(300)
    size = 2**bits
    for sizes in ([size], [size - 1, 1], [1] * 400 + [size - 400], [size - 500, 0, 500]):
        cuts = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
        messages = [before[a:b] for a, b in itertools.pairwise(cuts)]
        wires = [packed(each, 0) for each in [start, *messages]]
        # All of it once more: a distance of the whole window, which zlib does not use itself.
        again = referring(2**bits)
        ours = inflater(engine, bits)
        assert b"".join(rows(wires, ours)) == start + before
        assert ours.message(again, PLENTY) == before[:258]
        ours = inflater(engine, bits)
        assert b"".join([ours.message(wire, PLENTY) for wire in wires]) == start + before
        assert ours.message(again, PLENTY) == before[:258]


# -- properties -----------------------------------------------------------------------------

MESSAGES = st.lists(st.binary(max_size=300) | st.integers(0, 70000).map(bytes), max_size=6)


@given(
    MESSAGES, st.integers(9, 15), st.integers(-1, 9), st.integers(1, 9), st.booleans(), st.data()
)
@settings(deadline=None)
def test_c8_any_messages_in_any_pieces(
    messages: list[bytes], bits: int, level: int, memory: int, takeover: bool, data: st.DataObject
) -> None:
    every = st.sampled_from(engines())
    sender = Deflater(data.draw(every), Compression(bits, level, memory, 0), takeover)
    receiver = Inflater(data.draw(every), bits, takeover)
    for message in messages:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(message)), max_size=3)))
        wire = b""
        for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True):
            wire += sender.piece(message[start:end], False, data.draw(st.booleans()))
        wire += sender.piece(b"", True, True)
        got = b""
        size = data.draw(st.integers(1, max(1, len(wire))))
        for start in range(0, max(1, len(wire)), size):
            piece = wire[start : start + size]
            got += b"".join(receiver.parts(piece, start + size >= len(wire), PLENTY))
        assert got == message


@given(st.binary(min_size=1, max_size=200), st.integers(0, 9), st.data())
@settings(deadline=None)
def test_c6_any_corruption_gives_a_message_or_a_documented_error(
    message: bytes, level: int, data: st.DataObject
) -> None:
    wire = bytearray(packed(message, level))
    position = data.draw(st.integers(0, len(wire) - 1))
    match data.draw(st.sampled_from(["flip", "insert", "cut"])):
        case "flip":
            wire[position] ^= 1 << data.draw(st.integers(0, 7))
        case "insert":
            wire[position:position] = data.draw(st.binary(min_size=1, max_size=5))
        case "cut":
            del wire[position:]
            if not wire or wire == b"\x00":
                return  # whole messages, although empty ones
    for engine in engines():
        try:
            Inflater(engine, 15, True).message(bytes(wire), 1000)
        except (DecompressionError, PayloadTooBig):
            pass
