"""Messages that nobody waits for, through extensions, beside those of other threads.

What belongs here: try_send() and broadcast(). What does not: waiting calls (test_encoding.py).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from channels import InThread
from extending import Adding, agreed
from pairing import PATIENCE, eventually
from test_encoding import Meeting

from syncws import encoding as encoding_module
from syncws.exceptions import ConcurrencyError, ConnectionClosedError
from syncws.extensions import Extension, Fragment, Unit
from syncws.frames import Opcode, Side
from syncws.permessage_deflate import ClientPerMessageDeflateFactory
from syncws.server import broadcast

TEXT, BINARY = Opcode.TEXT, Opcode.BINARY


def test_posted_messages_are_encoded() -> None:
    with Meeting() as meeting:
        for data in (b"small", b"large" * 100):
            assert meeting.connection.try_send(data, BINARY)
            assert meeting.message() == data
        assert meeting.first_bytes == [0xC2]
        assert meeting.connection.try_send(b"large" * 100, TEXT, False)
        assert meeting.message() == b"large" * 100
        assert meeting.first_bytes == [0x81]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_an_extension_may_give_any_bytes(kind: Any) -> None:
    class Giving(Adding):
        def encode(self, fragment: Fragment) -> Fragment:
            return fragment._replace(data=kind(bytes(fragment.data)))

    with Meeting(Giving()) as meeting:
        assert meeting.connection.try_send(b"posted", BINARY)
        meeting.connection.send(b"sent")
        meeting.connection.send([b"in ", b"parts"])
        assert [meeting.message() for _ in range(3)] == [b"posted", b"sent", b"in parts"]


@pytest.mark.parametrize("size", [3000, 300_000])
def test_a_frame_that_an_extension_has_seen_is_not_cut(size: int) -> None:
    """Nobody can queue several of them at once, so it is one of any size."""
    extension = Adding(b"<end>", unit=Unit.FRAME)
    with Meeting(extension, theirs=(Adding(b"<end>"),), max_frame_size=1000) as meeting:
        data = random.Random(size).randbytes(size)
        posting = InThread(meeting.connection.try_send, data, BINARY)
        frame = meeting.peer.read_frame()
        assert posting.result()
        assert frame is not None and frame.fin
        assert frame.payload == data + b"<end>"
        # send() gives it smaller ones.
        sending = InThread(meeting.connection.send, data)
        frame = meeting.peer.read_frame()
        assert frame is not None and len(frame.payload) <= 1000
        while not frame.fin:
            frame = meeting.peer.read_frame()
            assert frame is not None and len(frame.payload) <= 1000
        sending.result()


def test_a_full_queue_takes_nothing_and_encodes_nothing() -> None:
    with Meeting(write_limit=1000) as meeting:
        noise = random.Random(3).randbytes(2**18)
        while meeting.connection.try_send(noise, BINARY, False):
            pass
        before = meeting.connection.stats.extensions["permessage-deflate"]["sent"]
        assert not meeting.connection.try_send(noise, BINARY)
        assert broadcast([meeting.connection], noise) == [meeting.connection]
        assert meeting.connection.stats.extensions["permessage-deflate"]["sent"] == before


def test_a_signal_handler_inside_a_message_posts_nothing() -> None:
    with Meeting() as meeting:
        answers: list[bool] = []

        def pieces() -> Iterator[bytes]:
            yield b"one"
            for data in (b"x" * 500, b"x"):
                answers.append(meeting.connection.try_send(data, BINARY))
            with pytest.raises(ConcurrencyError):
                meeting.connection.send(b"x" * 500)
            yield b"two"

        meeting.connection.send(pieces())
        assert answers == [False, False]
        assert meeting.message() == b"onetwo"


@pytest.mark.parametrize("compress", [None, False])
@pytest.mark.parametrize("extensions", [[], [Adding()]], ids=["of fragments", "of messages"])
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_a_message_in_fragments_of_another_thread_lets_nothing_pass_nor_wait(
    monkeypatch: pytest.MonkeyPatch,
    extensions: list[Extension],
    asked: int,
    compress: bool | None,
) -> None:
    monkeypatch.setattr(encoding_module, "_ENCODING", 5 * PATIENCE)
    with Meeting(*extensions) as meeting:
        begun, go_on = threading.Event(), threading.Event()

        def pieces() -> Iterator[bytes]:
            for index, piece in enumerate((b"one", b"two", b"")):
                if index == asked:
                    begun.set()
                    go_on.wait(PATIENCE)
                yield piece

        sender = InThread(meeting.connection.send, pieces(), None, None, compress)
        assert begun.wait(PATIENCE)
        for data in (b"x" * 500, b"x"):
            assert not InThread(meeting.connection.try_send, data, BINARY).result(PATIENCE / 2)
        go_on.set()
        sender.result()
        assert meeting.message() == b"onetwo" + b"!" * len(extensions)


def test_a_large_message_of_another_thread_lets_nothing_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding_module, "_ENCODING", 5 * PATIENCE)
    # A server masks nothing: what the peer does not take is not in the queue.
    with Meeting(side=Side.SERVER) as meeting:
        data = bytes(2**23)
        sender = InThread(meeting.connection.send, data, None, None, False)
        assert eventually(lambda: meeting.pair.channel.senders)
        poster = InThread(broadcast, [meeting.connection], b"x" * 500)
        assert poster.result() == [meeting.connection]
        assert meeting.message() == data
        sender.result()


@pytest.mark.parametrize("data", [b"x", b"x" * 500])
def test_a_message_is_not_dropped_because_another_thread_encodes(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    encoding, go_on = threading.Event(), threading.Event()

    class Slow(Adding):
        def encode(self, fragment: Fragment) -> Fragment:
            if bytes(fragment.data) == b"slow":
                encoding.set()
                go_on.wait(PATIENCE)
            return fragment

    monkeypatch.setattr(encoding_module, "_ENCODING", PATIENCE)
    with Meeting(Slow()) as meeting:
        sender = InThread(meeting.connection.send, b"slow")
        assert encoding.wait(PATIENCE)
        poster = InThread(broadcast, [meeting.connection], data)
        go_on.set()
        assert poster.result() == []
        sender.result()
        assert [meeting.message(), meeting.message()] == [b"slow", data]
        monkeypatch.setattr(encoding_module, "_ENCODING", 0.01)
        encoding.clear()
        go_on.clear()
        sender = InThread(meeting.connection.send, b"slow")
        assert encoding.wait(PATIENCE)
        assert broadcast([meeting.connection], data) == [meeting.connection]
        go_on.set()
        sender.result()


@pytest.mark.parametrize("frame_size", [None, 7])
def test_many_threads_send_and_post_at_once(frame_size: int | None) -> None:
    client, server = agreed(ClientPerMessageDeflateFactory(threshold=50))
    with Meeting(client, theirs=(server,), max_frame_size=frame_size) as meeting:
        count = 60
        texts = [bytes([65 + index]) * 10 * (index + 1) for index in range(8)]

        def send(text: bytes) -> None:
            for _ in range(count):
                meeting.connection.send(text)

        def post(text: bytes) -> None:
            for _ in range(count):
                while broadcast([meeting.connection], text):
                    pass  # on a busy machine the others may have the lock for long

        threads = [InThread(send if i % 2 else post, text) for i, text in enumerate(texts)]
        got = [meeting.message() for _ in range(count * len(texts))]
        for thread in threads:
            thread.result()
        assert {text: got.count(text) for text in texts} == dict.fromkeys(texts, count)


@pytest.mark.parametrize("end", ["abort", "start_close"])
def test_nothing_is_encoded_after_the_end(end: str) -> None:
    extension = Adding()
    with Meeting(extension) as meeting:
        getattr(meeting.connection, end)()
        for data in (b"x", b"x" * 500):
            with pytest.raises(ConnectionClosedError):
                meeting.connection.try_send(data, BINARY)
            with pytest.raises(ConnectionClosedError):
                meeting.connection.send(data)
        meeting.pair.peer.close()
        assert meeting.connection.wait_closed(PATIENCE)
        assert eventually(lambda: extension.calls)
        assert extension.calls == ["ended"]
