"""Sending through extensions: the order on the wire, and what became of what was not sent."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from channels import InThread, interpose, interrupted_after
from extending import Adding, agreed
from pairing import Pair
from reliability.peer import Peer

from syncws import encoding as encoding_module
from syncws import output as output_module
from syncws.connection import Connection
from syncws.encoding import encoded_frames
from syncws.exceptions import ConcurrencyError, ConnectionClosedError
from syncws.extension_chain import ExtensionChain
from syncws.extensions import Extension, Fragment, Unit
from syncws.frames import Opcode, Record, Side, lib
from syncws.server import broadcast

TEXT, BINARY = Opcode.TEXT, Opcode.BINARY


class Meeting:
    """A connection with extensions, and the codecs of its peer."""

    def __init__(
        self, *extensions: Extension, theirs: tuple[Extension, ...] = (), **options: Any
    ) -> None:
        if not extensions:
            client, server = agreed()
            extensions, theirs = (client,), (server,)
        self.pair = Pair(extensions=extensions, ping_interval=None, **options)
        self.connection = self.pair.connection
        self.peer = Peer(self.pair.peer, is_client=options.get("side") is Side.SERVER)
        self.chain = ExtensionChain(theirs, None) if theirs else None
        self.first_bytes: list[int] = []
        self.sizes: list[int] = []

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_: object) -> None:
        self.pair.close()

    def message(self) -> bytes:
        """The next message as the peer's codecs decode it."""
        self.first_bytes = []
        self.sizes = []
        got = b""
        rsv = opcode = 0
        while True:
            frame = self.peer.read_frame()
            assert frame is not None
            self.first_bytes.append((0x80 if frame.fin else 0) | frame.rsv << 4 | frame.opcode)
            self.sizes.append(len(frame.payload))
            first = frame.opcode != Opcode.CONTINUATION
            if first:
                rsv, opcode = frame.rsv, frame.opcode
            data: Any = frame.payload
            if self.chain is not None:
                part = self.chain.decode(
                    encoding_record(opcode, frame.payload, first, frame.fin, rsv)
                )
                data = b"" if part is None else part.data
            got += data
            if frame.fin:
                return got


def encoding_record(opcode: int, data: bytes, first: bool, last: bool, rsv: int) -> Any:
    return Record(lib.SYNCWS_PIECE, opcode, data, first, last, rsv)


# -- frames ---------------------------------------------------------------------------------


def fragments(*parts: tuple[bytes, bool]) -> Iterator[Fragment]:
    for index, (data, end) in enumerate(parts):
        yield Fragment(BINARY, data, index == 0, index == len(parts) - 1, 0, end)


@pytest.mark.parametrize(
    ("parts", "frame_size", "expected"),
    [
        ([(b"ab", True), (b"", True)], 9, [(0x42, b"ab!"), (0x80, b"!")]),
        ([(b"ab", False), (b"c", True)], 9, [(0xC2, b"ab!c!")]),
        ([(b"abcdef", True)], 3, [(0x42, b"abc"), (0, b"def"), (0x80, b"!")]),
        ([(b"", True)], 3, [(0xC2, b"!")]),
        (
            [(b"x" * 65536, False), (b"y", True)],
            2**20,
            [(0x42, b"x" * 65536 + b"!"), (0x80, b"y!")],
        ),
    ],
)
def test_frames(
    parts: list[tuple[bytes, bool]], frame_size: int, expected: list[tuple[int, bytes]]
) -> None:
    chain = ExtensionChain([Adding(rsv=4, unit=Unit.PIECE)], None)
    got = encoded_frames(chain, fragments(*parts), frame_size)
    assert [(first, bytes(data)) for first, data in got] == expected


def test_an_extension_that_waits_makes_one_frame() -> None:
    chain = ExtensionChain([Adding(rsv=4)], None)
    got = list(encoded_frames(chain, fragments((b"a", True), (b"b", True)), 100))
    assert got == [(0xC2, b"ab!")]


def test_frames_that_an_extension_has_seen_are_not_cut() -> None:
    chain = ExtensionChain([Adding(b"!" * 9, 4, unit=Unit.FRAME)], None)
    got = list(encoded_frames(chain, fragments((b"abcde", True), (b"", True)), 6))
    mark = b"!" * 9
    assert got == [(0x42, b"abc" + mark), (0, b"de" + mark), (0x80, mark)]


# -- send() ---------------------------------------------------------------------------------


def test_c13_what_is_compressed_and_what_is_not() -> None:
    with Meeting() as meeting:
        for message, compress, first_byte in (
            (b"x" * 127, None, 0x82),
            (b"x" * 128, None, 0xC2),
            (b"x" * 127, True, 0xC2),
            (b"x" * 1000, False, 0x82),
            (b"", True, 0xC2),
            ("y" * 200, None, 0xC1),
        ):
            meeting.connection.send(message, compress=compress)
            data = message.encode() if isinstance(message, str) else message
            assert meeting.message() == data
            assert meeting.first_bytes == [first_byte]


def test_c9_messages_in_fragments() -> None:
    with Meeting() as meeting:
        meeting.connection.send([b"ab", b"cd" * 100])
        assert meeting.message() == b"ab" + b"cd" * 100
        assert meeting.first_bytes == [0x42, 0, 0x80]
        meeting.connection.send(["ab", "cd"], compress=False)
        assert meeting.message() == b"abcd"
        assert meeting.first_bytes == [1, 0, 0x80]


def test_large_messages_leave_in_several_frames() -> None:
    with Meeting() as meeting:
        data = bytes(range(256)) * 4096 * 3
        sender = InThread(meeting.connection.send, data)
        assert meeting.message() == data
        sender.result()
        assert meeting.first_bytes[0] in (0x42, 0xC2)


WAYS: dict[str, Callable[[Connection, bytes, bool], Any]] = {
    "send": lambda ws, data, compress: ws.send(data, compress=compress),
    "send fragments": lambda ws, data, compress: ws.send([data, data[:5]], compress=compress),
    "try_send": lambda ws, data, compress: ws.try_send(data, BINARY, compress),
    "broadcast": lambda ws, data, compress: broadcast([ws], data, compress=compress) == [],
}


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("size", [999, 1000, 1001, 3000, 200_000])
@pytest.mark.parametrize("way", WAYS)
def test_no_frame_exceeds_the_limit(way: str, size: int, compress: bool) -> None:
    data = random.Random(size).randbytes(size)
    with Meeting(max_frame_size=1000) as meeting:
        sender = InThread(WAYS[way], meeting.connection, data, compress)
        assert meeting.message() == (data + data[:5] if way == "send fragments" else data)
        assert sender.result() in (True, None)
        assert max(meeting.sizes) <= 1000
        if not compress and way != "send fragments":
            assert len(meeting.sizes) == -(-size // 1000)
        *before, last = meeting.first_bytes
        assert last & 0x80
        assert [first_byte & 0x8F for first_byte in before] == [BINARY, *[0] * len(before)][:-1]
        assert meeting.first_bytes[0] & 0x70 == (0x40 if compress else 0)


@pytest.mark.parametrize("size", [0, 10, 990, 3000, 2**20, 2**20 + 2**19])
@pytest.mark.parametrize("limit", [2000, 2**20])
def test_the_frames_that_leave_are_those_that_an_extension_of_frames_encoded(
    size: int, limit: int
) -> None:
    mark = b"<end>"
    extension = Adding(mark, unit=Unit.FRAME)
    with Meeting(extension, theirs=(Adding(mark),), max_frame_size=limit) as meeting:
        data = random.Random(size).randbytes(size)
        sending = InThread(meeting.connection.send, data)
        got = []
        while not got or not got[-1].fin:
            frame = meeting.peer.read_frame()
            assert frame is not None and len(frame.payload) <= limit
            got.append(frame)
        sending.result()
    assert [each.payload for each in got] == [
        call[1] + mark for call in extension.calls[: len(got)]
    ]
    assert b"".join(each.payload[: -len(mark)] for each in got) == data
    assert (len(got) == 1) == (size < limit // 2 + 1)


def test_the_argument_is_checked() -> None:
    with Meeting() as meeting:
        for wrong in (1, "yes", b""):
            with pytest.raises(TypeError, match="compress"):
                meeting.connection.send(b"x", compress=wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="compress"):
                meeting.connection.send([b"x"], compress=wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="compress"):
                meeting.connection.try_send(b"x", BINARY, wrong)  # type: ignore[arg-type]


def test_without_extensions_it_is_ignored() -> None:
    with Pair(ping_interval=None) as pair:
        for compress in (True, False):
            pair.connection.send(b"x", compress=compress)
            pair.connection.send([b"x"], compress=compress)
            assert pair.connection.try_send(b"x", BINARY, compress)
            assert pair.peer.recv(1)[0] == 0x82
            pair.peer.recv(100)


@pytest.mark.parametrize("changes", [{"data": "text"}, {"data": [1]}, {"opcode": 9}])
def test_what_is_no_message_is_refused_before_its_first_byte(changes: dict[str, Any]) -> None:
    class Odd(Adding):
        odd = True

        def encode(self, fragment: Fragment) -> Fragment:
            return fragment._replace(**changes) if self.odd else fragment

    extension = Odd()
    with Meeting(extension) as meeting:
        for message in (b"whole", [b"a", b"b"]):
            with pytest.raises((TypeError, RuntimeError), match="adding"):
                meeting.connection.send(message)
        with pytest.raises((TypeError, RuntimeError), match="adding"):
            meeting.connection.try_send(b"posted", BINARY)
        extension.odd = False
        meeting.connection.send(b"next")
        assert meeting.message() == b"next"


# -- what was not sent ----------------------------------------------------------------------


class Failing(Adding):
    """Fails when told to."""

    fails = False

    def encode(self, fragment: Fragment) -> Fragment:
        if self.fails:
            raise LookupError("no encoding")
        return super().encode(fragment)


def test_an_encoder_that_raises_leaves_the_connection_usable() -> None:
    client, server = agreed()
    failing = Failing(b"")
    with Meeting(client, failing, theirs=(server, Adding(b""))) as meeting:
        meeting.connection.send(b"abc" * 100)
        assert meeting.message() == b"abc" * 100
        failing.fails = True
        # The compressor has moved on: what comes next must not refer to this.
        for call in (meeting.connection.send, lambda data: meeting.connection.try_send(data, 2)):
            with pytest.raises(LookupError):
                call(bytes(range(200)))
        failing.fails = False
        meeting.connection.send(bytes(range(200)) * 2)
        assert meeting.message() == bytes(range(200)) * 2
        assert failing.calls.count("forget") == 2


def test_an_encoder_that_raises_behind_the_first_fragment_ends_the_connection() -> None:
    failing = Failing(unit=Unit.PIECE)

    def pieces() -> Iterator[bytes]:
        yield b"one"
        failing.fails = True
        yield b"two"

    with Meeting(failing) as meeting:
        with pytest.raises(LookupError):
            meeting.connection.send(pieces())
        with pytest.raises(ConnectionClosedError):
            meeting.connection.send(b"x")
        frame = meeting.peer.read_frame()
        assert frame is not None and (frame.payload, frame.fin) == (b"one!", False)
        close = meeting.peer.read_frame()
        assert close is not None and close.payload[:2] == (1011).to_bytes(2)


def test_what_gives_no_fragment_had_none_encoded() -> None:
    failing = Failing()

    def nothing() -> Iterator[bytes]:
        raise KeyError("nothing to send")
        yield

    with Meeting(failing) as meeting:
        for fails in (False, True):
            failing.fails = fails
            if fails:
                with pytest.raises(LookupError, match="no encoding"):
                    meeting.connection.send(b"x")
            with pytest.raises(KeyError):
                meeting.connection.send(nothing())
            meeting.connection.send([])
            failing.fails = False
            meeting.connection.send([b"x"])
            assert meeting.message() == b"x!"
            # Nor is what came before them forgotten.
            assert failing.calls.count("forget") == fails


def test_an_extension_that_cannot_go_on_ends_the_connection() -> None:
    failing = Failing()
    failing.forgets = False
    with Meeting(failing) as meeting:
        failing.fails = True
        with pytest.raises(LookupError):
            meeting.connection.send(b"x")
        failing.fails = False
        with pytest.raises(ConnectionClosedError) as caught:
            meeting.connection.send(b"x")
        assert isinstance(caught.value.__cause__, ConcurrencyError)
        close = meeting.peer.read_frame()
        assert close is not None and close.payload == (1011).to_bytes(2)


def test_a_timeout_before_the_first_byte_is_forgotten() -> None:
    noise = random.Random(4).randbytes(2**16)
    with Meeting(write_limit=100_000) as meeting:
        meeting.connection.send(noise[:500])
        filled = []
        for size in (len(noise), 500):
            while meeting.connection.try_send(noise[:size], BINARY, False):
                filled.append(size)
        for message in (noise[:1000], [noise[:1000], b"more"]):
            # It is compressed, and refers to what the peer has; then it is not sent.
            with pytest.raises(TimeoutError, match="can still be used"):
                meeting.connection.send(message, timeout=0.01)
        assert meeting.message() == noise[:500]
        for size in filled:
            assert meeting.message() == noise[:size]
        for _ in range(3):
            meeting.connection.send(noise[:1000])
            assert meeting.message() == noise[:1000]


def test_a_timeout_behind_another_message_leaves_the_context_alone() -> None:
    with Meeting() as meeting:
        with meeting.pair.channel.send_lock:
            sender = InThread(meeting.connection.send, b"abc" * 100, None, 0.01)
            with pytest.raises(TimeoutError, match="can still be used"):
                sender.result()
        meeting.connection.send(b"abc" * 100)
        assert meeting.message() == b"abc" * 100


def test_an_interrupt_after_the_frame_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with Meeting() as meeting:
        with monkeypatch.context() as patch:
            interpose(
                patch, output_module, syncws_frame_send=interrupted_after("syncws_frame_send")
            )
            with pytest.raises(KeyboardInterrupt):
                meeting.connection.send(b"abc" * 100)
        for _ in range(3):
            meeting.connection.send(b"abc" * 100)
        assert [meeting.message() for _ in range(4)] == [b"abc" * 100] * 4


@pytest.mark.parametrize("name", ["syncws_message_open", "syncws_frame_send"])
def test_an_interrupted_post(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with Meeting() as meeting:
        with monkeypatch.context() as patch:
            interpose(patch, encoding_module, **{name: interrupted_after(name)})
            with pytest.raises(KeyboardInterrupt):
                meeting.connection.try_send(b"abc" * 100, BINARY)
        for _ in range(3):
            assert InThread(meeting.connection.try_send, b"abc" * 100, BINARY).result()
        count = 4 if name == "syncws_frame_send" else 3
        assert [meeting.message() for _ in range(count)] == [b"abc" * 100] * count
