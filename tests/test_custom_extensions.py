"""What only extensions of one's own show: sizes, attributes, and how they end.

What belongs here: what went wrong when the first ones were written. What does not: those in
examples/ (``test_extension_examples.py``), and compression.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pairing import eventually

import syncws
from syncws import deflate

PATIENCE = 20.0


class Padding(syncws.Extension):
    """Makes every message four bytes longer. Its other attributes are nobody else's business."""

    name = "padding"
    threshold = 1000

    def encode(self, fragment: syncws.Fragment) -> syncws.Fragment:
        return fragment._replace(data=bytes(fragment.data) + b"----")

    def decode(self, fragment: syncws.Fragment, max_size: int | None) -> syncws.Fragment:
        assert fragment.data[-4:] == b"----"
        return fragment._replace(data=fragment.data[:-4])

    def encode_message(self) -> None:
        raise AssertionError("this is not for the library")

    decode_messages = encode_message


class ClientPadding(syncws.ClientExtensionFactory):
    name = "padding"
    extension = Padding

    def get_request_params(self) -> syncws.ExtensionParameters:
        return []

    def process_response_params(self, *_: Any) -> Padding:
        return self.extension()


class ServerPadding(syncws.ServerExtensionFactory):
    name = "padding"
    extension = Padding

    def process_request_params(self, *_: Any) -> tuple[syncws.ExtensionParameters, Padding]:
        return [], self.extension()


def echo(ws: syncws.Connection) -> None:
    for message in ws:
        ws.send(message, compress=True)


@contextlib.contextmanager
def padded(**options: Any) -> Iterator[syncws.Connection]:
    with (
        syncws.serve(
            echo, "localhost", 0, extensions=[ServerPadding()], compression=None, **options
        ) as server,
        syncws.connect(server.url, extensions=[ClientPadding()], compression=None, **options) as ws,
    ):
        yield ws


@pytest.mark.parametrize("size", [996, 997, 1000, 1001, 3000, 50_000])
def test_encoded_message_is_cut_into_frames(size: int) -> None:
    """Only the last of its frames ends it."""
    message = random.Random(size).randbytes(size)
    with padded(max_frame_size=1000) as ws:
        ws.send(message)
        assert ws.recv(timeout=PATIENCE) == message
    with (
        syncws.serve(echo, "localhost", 0, max_frame_size=1000) as server,
        syncws.connect(server.url, max_frame_size=1000) as ws,
    ):
        ws.send(message, compress=True)
        assert ws.recv(timeout=PATIENCE) == message


def test_what_an_extension_adds_does_not_count_to_max_size() -> None:
    with padded(max_size=1000) as ws:
        for message in (bytes(1000), [bytes(600), bytes(400)]):
            ws.send(message)
            assert ws.recv(timeout=PATIENCE) == bytes(1000)
        ws.send([bytes(600), bytes(401)])
        with pytest.raises(syncws.ConnectionClosedError) as caught:
            ws.recv(timeout=PATIENCE)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009


def test_attributes_of_an_extension_have_no_meaning_of_their_own() -> None:
    """A threshold is the extension's affair: it sees short messages all the same."""
    with padded() as ws:
        for message in ("", "short", "x" * 2000):
            ws.send(message)
            assert ws.recv(timeout=PATIENCE) == message


def test_peer_is_not_told_what_went_wrong_in_an_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise LookupError("a detail of this program")

    with padded() as ws:
        monkeypatch.setattr(Padding, "decode", fail)
        ws.send("hello")  # the server's fails
        with pytest.raises(syncws.ConnectionClosedError) as caught:
            ws.recv(timeout=PATIENCE)
    assert caught.value.rcvd == syncws.Close(1011, "")


def test_exception_of_an_extension_is_the_cause_of_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise LookupError("a detail of this program")

    def hello(ws: syncws.Connection) -> None:
        ws.send("hello")
        ws.wait_closed(PATIENCE)

    monkeypatch.setattr(Padding, "decode", fail)
    with (
        syncws.serve(hello, "localhost", 0, extensions=[ServerPadding()]) as server,
        syncws.connect(server.url, extensions=[ClientPadding()], compression=None) as ws,
        pytest.raises(syncws.ConnectionClosedError) as caught,
    ):
        ws.recv(timeout=PATIENCE)
    cause = caught.value.__cause__
    assert isinstance(cause, syncws.ProtocolError)
    assert str(cause) == "an extension failed: LookupError: a detail of this program"
    assert isinstance(cause.__cause__, LookupError)


def test_extension_that_fails_at_the_end_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Padding] = []

    # Not Padding itself: the reader thread may still be ending an earlier test's connection.
    class Failing(Padding):
        def connection_ended(self) -> None:
            ended.append(self)
            raise RuntimeError("nobody is there to hear this")

    monkeypatch.setattr(ClientPadding, "extension", Failing)
    monkeypatch.setattr(ServerPadding, "extension", Failing)
    with padded() as ws:
        ws.send("hello")
        assert ws.recv(timeout=PATIENCE) == "hello"
        ws.close()
        assert ws.wait_closed(PATIENCE)
    assert eventually(lambda: len(ended) == 2)
    assert ended[0] is not ended[1]


def test_few_compressors_are_kept_however_many_were_at_work() -> None:
    """Without context takeover they belong to no connection and to no thread."""
    compression = deflate.Compression(window_bits=15, level=2, memory_level=8, strategy=0)
    engine = deflate.stdlib_engine()
    deflaters = [deflate.Deflater(engine, compression, takeover=False) for _ in range(20)]
    for deflater in deflaters:
        deflater.piece(b"the first half ", last=False, flush=False)
    compressed = {deflater.piece(b"and the second", True, True) for deflater in deflaters}
    assert len(compressed) == 1
    spare = deflate._spare[(engine.module, compression)]
    assert len(spare) == deflate._SPARES < len(deflaters)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(deflaters[0].message, b"the first half and the second").result(PATIENCE)
    assert len(spare) == deflate._SPARES
    inflater = deflate.Inflater(engine, 15, takeover=False)
    for message in (again, *compressed):
        assert inflater.message(message, 100) == b"the first half and the second"
