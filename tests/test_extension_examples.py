"""The extensions in examples/ agree, transform, refuse, and work with others in any order."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import pathlib
import random
import ssl
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest

import syncws
from syncws.negotiation import accepted_extensions, answer_extensions

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
PATIENCE = 20.0


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


checksum: Any = load("checksum_extension")
zstd: Any = load("zstd_extension")

CLIENTS = {
    "checksum": checksum.ClientChecksum,
    "zstd": zstd.ClientZstd,
    "deflate": syncws.ClientPerMessageDeflateFactory,
}
SERVERS = {
    "checksum": checksum.ServerChecksum,
    "zstd": zstd.ServerZstd,
    "deflate": syncws.ServerPerMessageDeflateFactory,
}
# Each alone, and all that can be composed of them in every order.
CHAINS = [names for count in (1, 2, 3) for names in itertools.permutations(CLIENTS, count)]
each_chain = pytest.mark.parametrize("names", CHAINS, ids="-".join)


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message)


@contextlib.contextmanager
def conversation(
    clients: Sequence[syncws.ClientExtensionFactory],
    servers: Sequence[syncws.ServerExtensionFactory],
    handler: Callable[[syncws.Connection], object] = echo,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    server_options: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[syncws.Connection]:
    """A client of a server with these extensions and no others."""
    server_context, client_context = contexts or (None, None)
    with (
        syncws.serve(
            handler,
            "localhost",
            0,
            ssl=server_context,
            extensions=servers,
            compression=None,
            **(server_options or {}),
        ) as server,
        syncws.connect(
            server.url, ssl=client_context, extensions=clients, compression=None, **options
        ) as ws,
    ):
        yield ws


def chained(names: Sequence[str], **options: Any) -> Any:
    """A conversation with the extensions of these names in this order."""
    return conversation(
        [CLIENTS[name]() for name in names], [SERVERS[name]() for name in names], **options
    )


@functools.cache
def messages() -> list[str | bytes]:
    """Empty, short, long, of many pieces; those that can be compressed and those that cannot."""
    chance = random.Random(7)
    return [
        "",
        b"",
        "é",
        b"\x00" * 127,
        "line\n" * 500,
        bytes(300_000),
        chance.randbytes(200_000),
        "".join(chance.choices("abcdefghéß€😀", k=600_000)),
    ]


# -- composed -------------------------------------------------------------------------


@each_chain
def test_round_trip(names: tuple[str, ...]) -> None:
    with chained(names) as ws:
        assert len(ws.extensions) == len(names)
        for message in messages():
            ws.send(message)
            assert ws.recv(timeout=PATIENCE) == message
        for message in messages()[:5]:
            ws.send(message, compress=True)
            assert ws.recv(timeout=PATIENCE) == message
            ws.send(message, compress=False)
            assert ws.recv(timeout=PATIENCE) == message


@each_chain
def test_round_trip_in_fragments(names: tuple[str, ...]) -> None:
    chance = random.Random(3)
    with chained(names, max_frame_size=5000, server_options={"max_frame_size": 5000}) as ws:
        for message in messages():
            cuts = sorted(chance.choices(range(len(message) + 1), k=5))
            ends = [0, *cuts, len(message)]
            ws.send([message[begin:end] for begin, end in itertools.pairwise(ends)])
            assert ws.recv(timeout=PATIENCE) == message


@each_chain
def test_round_trip_in_pieces(names: tuple[str, ...]) -> None:
    def in_pieces(ws: syncws.Connection) -> None:
        while True:
            ws.send(b"".join(ws.recv_streaming(decode=False)))

    with chained(names, handler=in_pieces) as ws:
        for message in messages():
            ws.send(message)
            received = b"".join(ws.recv_streaming(decode=False, timeout=PATIENCE))
            assert received == (message.encode() if isinstance(message, str) else message)


@pytest.mark.parametrize("names", [("checksum", "zstd"), ("zstd", "checksum")], ids="-".join)
def test_round_trip_over_tls(
    names: tuple[str, ...], server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with chained(names, contexts=(server_context, client_context)) as ws:
        for message in messages():
            ws.send(message)
            assert ws.recv(timeout=PATIENCE) == message


@each_chain
def test_broadcast(names: tuple[str, ...]) -> None:
    def tell_all(ws: syncws.Connection) -> None:
        for message in ws:
            assert syncws.broadcast([ws], message) == []

    with chained(names, handler=tell_all) as ws:
        for message in messages()[:6]:
            ws.send(message)
            assert ws.recv(timeout=PATIENCE) == message


@each_chain
def test_message_of_max_size_passes_and_a_larger_one_does_not(names: tuple[str, ...]) -> None:
    with chained(names, server_options={"max_size": 10_000}) as ws:
        for message in (bytes(10_000), random.Random(1).randbytes(10_000)):
            ws.send(message)
            assert ws.recv(timeout=PATIENCE) == message
            ws.send([message[:6_000], message[6_000:]])
            assert ws.recv(timeout=PATIENCE) == message
        ws.send([bytes(6_000), bytes(4_001)])
        with pytest.raises(syncws.ConnectionClosedError) as caught:
            ws.recv(timeout=PATIENCE)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009


def test_zstd_leaves_alone_what_deflate_has_compressed() -> None:
    with chained(["deflate", "zstd"]) as ws:
        ws.send("line\n" * 500)
        assert ws.recv(timeout=PATIENCE) == "line\n" * 500
        figures = ws.stats.extensions
    assert (
        figures["permessage-deflate"]["sent"] == figures["permessage-deflate"]["received"] == 2500
    )
    assert figures["permessage-zstd"]["sent"] == figures["permessage-zstd"]["received"] == 0


# -- negotiated -----------------------------------------------------------------------

CHECKSUM = "permessage-checksum"
ZSTD = "permessage-zstd"


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (CHECKSUM, CHECKSUM),
        (f"{CHECKSUM}; algorithm=sha256", ""),
        (f"{CHECKSUM}; algorithm=sha256, {CHECKSUM}", CHECKSUM),
        (f"{ZSTD}; max_window_log=10", f"{ZSTD}; max_window_log=17"),
        (f'{ZSTD}; max_window_log="23"', f"{ZSTD}; max_window_log=17"),
        (ZSTD, ""),
        (f"{ZSTD}; max_window_log", ""),
        (f"{ZSTD}; max_window_log=9", ""),
        (f"{ZSTD}; max_window_log=24", ""),
        (f"{ZSTD}; max_window_log=017", ""),
        (f"{ZSTD}; max_window_log=17; max_window_log=17", ""),
        (f"{ZSTD}; max_window_log=17; dictionary=3", ""),
        (f"{ZSTD}; dictionary=3, {ZSTD}; max_window_log=17", f"{ZSTD}; max_window_log=17"),
        (f"{ZSTD}; max_window_log=17, {CHECKSUM}", f"{ZSTD}; max_window_log=17, {CHECKSUM}"),
        (f"{CHECKSUM}, {ZSTD}; max_window_log=17", f"{CHECKSUM}, {ZSTD}; max_window_log=17"),
        ("permessage-deflate", ""),
    ],
)
def test_server_answers(offer: str, answer: str) -> None:
    headers = syncws.Headers({"Sec-WebSocket-Extensions": offer})
    factories = [checksum.ServerChecksum(), zstd.ServerZstd()]
    assert answer_extensions(headers, factories)[0] == answer


@pytest.mark.parametrize(
    "answer",
    [
        f"{CHECKSUM}; algorithm=crc32",
        f"{CHECKSUM}, {CHECKSUM}",
        ZSTD,
        f"{ZSTD}; max_window_log=24",
        f"{ZSTD}; max_window_log=17; level=3",
        f"{ZSTD}; max_window_log=17, {ZSTD}; max_window_log=17",
        "permessage-deflate",
    ],
)
def test_client_refuses(answer: str) -> None:
    headers = syncws.Headers({"Sec-WebSocket-Extensions": answer})
    with pytest.raises(syncws.NegotiationError):
        accepted_extensions(headers, [checksum.ClientChecksum(), zstd.ClientZstd()])


def test_server_without_them_is_fine() -> None:
    with conversation([checksum.ClientChecksum(), zstd.ClientZstd()], []) as ws:
        assert ws.extensions == ()
        ws.send("hello")
        assert ws.recv(timeout=PATIENCE) == "hello"


def test_another_owner_of_rsv2_is_not_accepted_beside_zstd() -> None:
    class Other(syncws.Extension):
        name = "other"
        rsv = 2

    class ServerOther(syncws.ServerExtensionFactory):
        name = "other"

        def process_request_params(self, *_: Any) -> tuple[syncws.ExtensionParameters, Other]:
            return [], Other()

    headers = syncws.Headers({"Sec-WebSocket-Extensions": f"{ZSTD}; max_window_log=17, other"})
    answer, agreed = answer_extensions(headers, [zstd.ServerZstd(), ServerOther()])
    assert answer == f"{ZSTD}; max_window_log=17"
    assert [extension.name for extension in agreed] == [ZSTD]


@pytest.mark.parametrize(("ours", "theirs"), [(10, 23), (23, 10), (10, 10), (23, 23)])
def test_each_side_keeps_to_the_window_of_the_other(ours: int, theirs: int) -> None:
    message = random.Random(5).randbytes(40_000) * 30
    with conversation(
        [zstd.ClientZstd(max_window_log=ours)], [zstd.ServerZstd(max_window_log=theirs)]
    ) as ws:
        for sent in (message, [message[:500_000], message[500_000:]]):
            ws.send(sent)
            assert ws.recv(timeout=PATIENCE) == message
        compressed = ws.stats.extensions[ZSTD]["received_compressed"]
    # A window of 1 KiB cannot reach back to the repetition, one of 8 MiB can.
    assert (compressed > len(message)) == (min(ours, theirs) == 10)


def test_window_outside_the_limits_is_refused() -> None:
    for size in (9, 24):
        with pytest.raises(ValueError, match="max_window_log must be from 10 to 23"):
            zstd.ServerZstd(max_window_log=size)


# -- attacked -------------------------------------------------------------------------


class Forger(syncws.Extension):
    """Sends what it likes instead of a message, as another extension of the same name."""

    unit = syncws.Unit.PIECE

    def __init__(self, name: str, rsv: int, forge: Callable[[Any], bytes]) -> None:
        self.name = name
        self.rsv = rsv
        self.forge = forge

    def encode(self, fragment: syncws.Fragment) -> syncws.Fragment:
        return fragment._replace(data=self.forge(fragment.data), rsv=self.rsv)


class ServerForger(syncws.ServerExtensionFactory):
    def __init__(self, name: str, rsv: int, forge: Callable[[Any], bytes]) -> None:
        self.name = name
        self.make = functools.partial(Forger, name, rsv, forge)

    def process_request_params(
        self, params: syncws.ExtensionParameters, _: Any
    ) -> tuple[syncws.ExtensionParameters, Forger]:
        return params, self.make()


def send_one(ws: syncws.Connection) -> None:
    ws.send(b"some bytes of a message " * 20)
    ws.wait_closed(PATIENCE)


def failure(
    client: syncws.ClientExtensionFactory, forger: ServerForger, **options: Any
) -> syncws.ProtocolError:
    """What the one message of a forger makes of a connection."""
    with conversation([client], [forger], send_one, **options) as ws:
        with pytest.raises(syncws.ConnectionClosedError) as caught:
            ws.recv(timeout=PATIENCE)
        error = caught.value.__cause__
        assert isinstance(error, syncws.ProtocolError)
        assert caught.value.sent is not None and caught.value.sent.code == error.close_code
        return error


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def with_crc(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("forge", "text"),
    [
        (lambda data: flipped(with_crc(data)), "wrong CRC-32"),
        (lambda data: with_crc(data)[:-1], "wrong CRC-32"),
        (lambda data: with_crc(data) + b"\x00", "wrong CRC-32"),
        (bytes, "wrong CRC-32"),
        (lambda data: b"", "a message of 0 bytes has no checksum"),
        (lambda data: b"\x00" * 3, "a message of 3 bytes has no checksum"),
    ],
)
def test_wrong_checksum_fails_the_connection(forge: Callable[[bytes], bytes], text: str) -> None:
    error = failure(checksum.ClientChecksum(), ServerForger(CHECKSUM, 0, forge))
    assert (type(error), error.close_code) == (syncws.ProtocolError, 1002)
    assert text in str(error)


def compressed(data: bytes) -> bytes:
    return bytes(
        zstd.zstd.compress(data, options={zstd.zstd.CompressionParameter.checksum_flag: 1})
    )


@pytest.mark.parametrize(
    ("forge", "text"),
    [
        (lambda data: compressed(data)[:-1], "truncated"),
        (lambda data: compressed(data)[:5], "truncated"),
        (lambda data: b"", "truncated"),
        (lambda data: compressed(data) + b"x", "goes on after its end"),
        (lambda data: compressed(data) * 2, "goes on after its end"),
        (bytes, "Unknown frame descriptor"),
        (lambda data: compressed(data)[:-4] + b"\x00" * 4, "checksum"),
        (lambda data: compressed(random.Random(1).randbytes(2**20) * 2), "too much memory"),
    ],
)
def test_bad_frame_of_zstandard_fails_the_connection(
    forge: Callable[[bytes], bytes], text: str
) -> None:
    error = failure(zstd.ClientZstd(), ServerForger(ZSTD, 2, forge))
    assert (type(error), error.close_code) == (syncws.DecompressionError, 1007)
    assert text in str(error)


def test_bomb_ends_in_1009() -> None:
    """It would be 1 GiB; what is too much is not even decompressed."""
    compressor = zstd.zstd.ZstdCompressor(options={zstd.zstd.CompressionParameter.window_log: 17})
    bomb = b"".join(compressor.compress(bytes(2**20)) for _ in range(2**10)) + compressor.flush()
    assert len(bomb) < 2**17
    asked: list[int] = []

    class Watched(zstd.Zstd):  # type: ignore[misc, name-defined]
        def decode(self, fragment: syncws.Fragment, max_size: int | None) -> syncws.Fragment:
            try:
                decoded = super().decode(fragment, max_size)
            except syncws.PayloadTooBig:
                asked.append(-1)
                raise
            asked.append(len(decoded.data))
            return decoded

    class Client(zstd.ClientZstd):  # type: ignore[misc, name-defined]
        def codec(self, params: syncws.ExtensionParameters) -> Watched:
            return Watched(17, 17, 3, 0)

    error = failure(Client(), ServerForger(ZSTD, 2, lambda data: bomb), max_size=2**20)
    assert (type(error), error.close_code) == (syncws.PayloadTooBig, 1009)
    assert asked[-1] == -1 and sum(asked[:-1]) <= 2**20


@pytest.mark.parametrize("name", ["checksum", "zstd"])
def test_bit_of_nobody_is_refused(name: str) -> None:
    """The bit that neither extension owns, in a message of a peer that agreed on it."""
    client = CLIENTS[name]()
    error = failure(client, ServerForger(client.name, 1, with_crc))
    assert error.close_code == 1002


MESSAGE = "some text to be changed on its way, é " * 10


@pytest.mark.parametrize("names", [names for names in CHAINS if "checksum" in names], ids="-".join)
@pytest.mark.parametrize("place", range(0, 400, 37))
def test_changed_byte_gives_no_wrong_message(names: tuple[str, ...], place: int) -> None:
    """Whatever stands around the checksum: no other message arrives."""
    ours = [CLIENTS[name]() for name in names]
    theirs = [SERVERS[name]() for name in names]
    headers = syncws.Headers({"Sec-WebSocket-Extensions": offer_of(ours)})
    agreed, codecs = answer_extensions(headers, theirs)
    headers = syncws.Headers({"Sec-WebSocket-Extensions": agreed})
    answered = accepted_extensions(headers, ours)
    wire = Chain(codecs).encode(MESSAGE)
    changed = bytearray(wire.data)
    changed[place % len(changed)] ^= 1 << place % 8
    with contextlib.suppress(syncws.ProtocolError):
        # There are bits that mean nothing, such as the first of a compressed message.
        assert Chain(answered).decode(wire._replace(data=bytes(changed))) == MESSAGE


def offer_of(factories: Sequence[syncws.ClientExtensionFactory]) -> str:
    return ", ".join(
        "; ".join(
            [
                factory.name,
                *(
                    name if value is None else f"{name}={value}"
                    for name, value in factory.get_request_params()
                ),
            ]
        )
        for factory in factories
    )


class Chain:
    """The extensions of one end, without a connection."""

    def __init__(self, extensions: Sequence[syncws.Extension]) -> None:
        self.extensions = extensions

    def encode(self, message: str) -> syncws.Fragment:
        fragment = syncws.Fragment(syncws.Opcode.TEXT, message.encode())
        for extension in self.extensions:
            fragment = extension.encode(fragment)
        return fragment._replace(data=bytes(fragment.data))

    def decode(self, fragment: syncws.Fragment) -> str:
        for extension in reversed(self.extensions):
            if fragment.rsv & extension.rsv or not extension.rsv:
                fragment = extension.decode(fragment, None)
        return bytes(fragment.data).decode()
