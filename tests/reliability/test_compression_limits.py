"""Group C of the catalogue, limits: C1 and C11, and the compressed half of A3.

Memory is bounded by what the options say, whatever a megabyte on the wire becomes.
"""

from __future__ import annotations

import itertools
import random
import time
import zlib
from typing import Any

import pytest

import syncws

from . import peer as wire
from .deflating import RSV1, TAIL, Parameters, open_deflating
from .subject import Subject, collect

MIB = 2**20
FRESH: Parameters = dict.fromkeys(["server_no_context_takeover", "client_no_context_takeover"])


def zeros(mebibytes: int) -> bytes:
    """The payload of a message of so many MiB of zeros; blocks that can be repeated."""
    compressor = zlib.compressobj(9, wbits=-15)
    first = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (first * mebibytes)[: -len(TAIL)]


def peak(reset: bool = False) -> int:
    """The most resident memory since the last reset."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("takeover", [{}, FRESH], ids=["takeover", "no takeover"])
@pytest.mark.parametrize("frames", [1, 100])
def test_C1_a_bomb_ends_in_1009_within_max_size(
    plain_subject: Subject, takeover: Parameters, frames: int
) -> None:
    """1 GiB of zeros in 1 MiB, whole and in fragments."""
    payload = zeros(1024)
    assert len(payload) < 1.1 * MIB
    conversation, _ = open_deflating(plain_subject, takeover, collect, max_size=32 * MIB)
    with conversation:
        size = -(-len(payload) // frames)
        data = b"".join(
            plain_subject.frame(
                wire.CONTINUATION if begin else wire.BINARY,
                payload[begin : begin + size],
                rsv=0 if begin else RSV1,
                fin=begin + size >= len(payload),
            )
            for begin in range(0, len(payload), size)
        )
        del payload
        before = peak(reset=True)
        conversation.peer.send(data)
        conversation.expect_failure(1009)
        # What came, what was made of it, and the peer's own buffers: it is in this process.
        assert peak() - before < 32 * MIB + 8 * MIB


def test_C1_messages_just_under_the_limit_do_not_add_up(plain_subject: Subject) -> None:
    def answer(connection: syncws.Connection, _: Any) -> None:
        while True:
            connection.send(connection.recv())

    conversation, deflating = open_deflating(plain_subject, behaviour=answer, max_size=MIB)
    with conversation:
        payload = zeros(1)
        frame = plain_subject.frame(wire.BINARY, payload, rsv=RSV1)
        for number in range(200):
            conversation.peer.send(frame)
            deflating.expect(wire.BINARY, bytes(MIB))
            if number == 20:
                before = peak(reset=True)
        assert peak() - before < 8 * MIB
        conversation.expect_normal_end()


def test_C1_messages_that_come_at_once_do_not_add_up(plain_subject: Subject) -> None:
    """Some sixty of them in each read, and a program that is slow to take them."""
    count = 200

    def take(connection: syncws.Connection, _: Any) -> None:
        assert connection.recv() == bytes(MIB)
        peak(reset=True)
        for _ in range(count):
            time.sleep(0.002)  # this is what makes it slow
            assert connection.recv() == bytes(MIB)
        connection.send(str(peak() - before))
        connection.recv()

    conversation, _ = open_deflating(plain_subject, behaviour=take, max_size=MIB)
    with conversation:
        frame = plain_subject.frame(wire.BINARY, zeros(1), rsv=RSV1)
        before = peak(reset=True)
        conversation.peer.send(frame * (count + 1))
        grown = conversation.peer.read_frame()
        assert grown is not None and int(grown.payload) < 8 * MIB
        conversation.expect_normal_end()


@pytest.mark.parametrize("fragments", [1, 3])
def test_A3_C11_the_limit_is_of_what_is_inflated(subject: Subject, fragments: int) -> None:
    limit = 100_000
    for kind, excess in itertools.product(["zeros", "random"], [-1, 0, 1]):
        data = bytes(limit + excess)
        if kind == "random":
            # What cannot be compressed is longer on the wire than the limit.
            data = random.Random(3).randbytes(limit + excess)
        conversation, deflating = open_deflating(subject, max_size=limit)
        with conversation:
            payload = deflating.compress(data)
            size = -(-len(payload) // fragments)
            for begin in range(0, len(payload), size):
                conversation.peer.send(
                    subject.frame(
                        wire.CONTINUATION if begin else wire.BINARY,
                        payload[begin : begin + size],
                        rsv=0 if begin else RSV1,
                        fin=begin + size >= len(payload),
                    )
                )
            if excess > 0:
                conversation.expect_failure(1009)
            else:
                deflating.expect(wire.BINARY, data)
                conversation.expect_normal_end()
