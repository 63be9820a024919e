"""Feeding a parser the same bytes in many ways; each way must end the same.

What belongs here: the ways to cut a stream. What does not: what the parsers should say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from syncws.exceptions import InvalidMessage

Pieces = list[bytes]


def cuts(data: bytes) -> Iterator[Pieces]:
    """Whole; byte by byte; in two pieces, cut at every offset (of up to 4 KiB)."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    if len(data) <= 4096:
        for offset in range(1, len(data)):
            yield [data[:offset], data[offset:]]
    else:
        for size in (2, 1000, 4096):
            yield [data[i : i + size] for i in range(0, len(data), size)]


def outcome(make_parser: Callable[[], Any], pieces: Pieces) -> tuple[Any, ...]:
    """How feeding those pieces ends.

    ``("message", message, what follows it)``, ``("error", class, status_code)`` or
    ``("incomplete",)``.
    """
    parser = make_parser()
    for index, piece in enumerate(pieces):
        try:
            message = parser.feed(piece)
        except InvalidMessage as error:
            return "error", type(error), error.status_code
        if message is not None:
            if getattr(message, "status_code", 101) != 101:
                # After a refusal the stream is of no use.
                return "message", message, parser.rest
            return "message", message, parser.rest + b"".join(pieces[index + 1 :])
    return ("incomplete",)


def only_outcome(make_parser: Callable[[], Any], data: bytes) -> tuple[Any, ...]:
    """The outcome that all the ways of feeding ``data`` have in common."""
    expected = outcome(make_parser, [data])
    for pieces in cuts(data):
        assert outcome(make_parser, pieces) == expected, [len(piece) for piece in pieces][:10]
    return expected
