"""Sec-WebSocket-Extensions (RFC 6455 section 9): grammar, offers, answers, refusals."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from extending import ClientOffer, ServerOffer
from pairing import eventually
from reliability.peer import Peer
from scripted import Serve, head_101, read_head, scripted_servers, wait_for_end
from upgrading import request, status_of

import syncws
from syncws.exceptions import InvalidHeaderFormat, NegotiationError
from syncws.headers import Headers
from syncws.http11 import RequestParser
from syncws.negotiation import (
    accepted_extensions,
    answer_extensions,
    extensions_header,
    parse_extensions,
)
from syncws.permessage_deflate import ClientPerMessageDeflateFactory as Client
from syncws.permessage_deflate import ServerPerMessageDeflateFactory as Server
from syncws.reader import client_reader
from syncws.server_handshake import accept

PMD = "permessage-deflate"


def headers(*values: str) -> Headers:
    return Headers([("Sec-WebSocket-Extensions", value) for value in values])


# -- grammar --------------------------------------------------------------------------------

GRAMMAR: list[tuple[tuple[str, ...], Any]] = [
    ((), []),
    (("a",), [("a", [])]),
    (("a, b",), [("a", []), ("b", [])]),
    (("a", "b"), [("a", []), ("b", [])]),
    (("a;b",), [("a", [("b", None)])]),
    (("a; b=1;c ;d = e",), [("a", [("b", "1"), ("c", None), ("d", "e")])]),
    (("a\t; b , c",), [("a", [("b", None)]), ("c", [])]),
    (('a; b="10"',), [("a", [("b", "10")])]),
    (('a; b="\\1\\0"',), [("a", [("b", "10")])]),
    (('a; b="1\\0", c; d="x"',), [("a", [("b", "10")]), ("c", [("d", "x")])]),
    (("a; b=1; b=2",), [("a", [("b", "1"), ("b", "2")])]),
    (("a; b, a",), [("a", [("b", None)]), ("a", [])]),
]


@pytest.mark.parametrize(("values", "expected"), GRAMMAR)
def test_the_grammar(values: tuple[str, ...], expected: Any) -> None:
    assert parse_extensions(headers(*values)) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("", ",", "a,", ",a", "a,,b", ";", "a;", ";b", "a;;b", "a=1", "a; =1", "a; b=", "a b"),
        *('a; b="', 'a; b=""', 'a; b="x y"', 'a; b="x,y"', 'a; b="x"y', 'a; b="\\"', "a; b==c"),
        *('"a"', 'a; "b"', 'a; b="x\\"y"', "a; b='x y'", "a/b", "a; b=(1)", "é", "a; b=1=2"),
    ],
)
def test_what_is_no_extension_header(value: str) -> None:
    with pytest.raises(InvalidHeaderFormat):
        parse_extensions(headers(value))
    with pytest.raises(InvalidHeaderFormat):
        accepted_extensions(headers(value), [Client()])
    assert status_of(request(extra=f"Sec-WebSocket-Extensions: {value}\r\n")) == 400


def test_what_is_written_can_be_read() -> None:
    written = [("a", []), ("b", [("c", None), ("d", "e")]), ("b", [("c", "f")])]
    assert extensions_header(written) == "a, b; c; d=e, b; c=f"
    assert parse_extensions(headers(extensions_header(written))) == written
    assert extensions_header([]) == ""


@pytest.mark.parametrize(
    "wrong", [("a b", []), ("a", [("", None)]), ("a", [("b", "x\r\ny")]), ("a", [("b", '"')])]
)
def test_what_cannot_be_written(wrong: Any) -> None:
    with pytest.raises(ValueError, match="is not a token"):
        extensions_header([wrong])
    with pytest.raises(ValueError, match="is not a token"):
        syncws.connect("ws://127.0.0.1:1/", extensions=[ClientOffer(*wrong)])


def test_what_is_written_is_text() -> None:
    wrong: Any = ("a", [("b", 5)])
    with pytest.raises(TypeError, match="extension 'a': 5 must be a str"):
        extensions_header([wrong])


# -- a server -------------------------------------------------------------------------------

A, B = ServerOffer("x-a", [("yes", None)], rsv=2), ServerOffer("x-b", opcodes=[3])
SAME_BIT = ServerOffer("x-same-bit", rsv=6)
SAME_OPCODE = ServerOffer("x-same-opcode", opcodes=[3, 11])
UNRESERVED = ServerOffer("x-unreserved", opcodes=[8])
LARGE = Server(memory="large")

# (factories, offers) -> the answer
SERVER: list[tuple[list[Any], tuple[str, ...], str]] = [
    ([], (PMD,), ""),
    ([LARGE], (), ""),
    ([LARGE], ("x-unknown",), ""),
    ([LARGE], (PMD,), PMD),
    ([LARGE], (f"x-unknown, {PMD}",), PMD),
    ([LARGE], ("x-unknown", PMD), PMD),
    ([LARGE], (f'{PMD}; server_max_window_bits="1\\0"',), f"{PMD}; server_max_window_bits=10"),
    # Offers with a fallback: the first that can be accepted counts.
    ([LARGE], (f"{PMD}; server_max_window_bits=8, {PMD}",), PMD),
    ([LARGE], (f"{PMD}; unknown, {PMD}; server_max_window_bits=7",), ""),
    (
        [LARGE],
        (f"{PMD}; server_max_window_bits=9, {PMD}; server_max_window_bits=15",),
        f"{PMD}; server_max_window_bits=9",
    ),
    # What one factory declines another of its name may accept.
    (
        [Server(memory="large", require_client_max_window_bits=True), LARGE],
        (PMD,),
        PMD,
    ),
    # Several extensions, in the client's order.
    ([LARGE, A, B], (f"x-b, {PMD}, x-a",), f"x-b, {PMD}, x-a; yes"),
    ([A, LARGE], (f"{PMD}, x-a",), f"{PMD}, x-a; yes"),
    # RFC 6455 9.1: no two that claim one bit or opcode.
    ([A, SAME_BIT, LARGE], (f"x-a, x-same-bit, {PMD}",), f"x-a; yes, {PMD}"),
    ([SAME_BIT, LARGE], (f"x-same-bit, {PMD}",), "x-same-bit"),
    ([SAME_BIT, LARGE], (f"{PMD}, x-same-bit",), PMD),
    ([B, SAME_OPCODE], ("x-b, x-same-opcode",), "x-b"),
    ([UNRESERVED, B], ("x-unreserved, x-b",), "x-b"),
]


@pytest.mark.parametrize(("factories", "offers", "expected"), SERVER)
def test_what_a_server_answers(
    factories: list[Any], offers: tuple[str, ...], expected: str
) -> None:
    answer, extensions = answer_extensions(headers(*offers), factories)
    assert answer == expected
    assert [extension.name for extension in extensions] == [
        name for name, _ in parse_extensions(headers(*([answer] if answer else [])))
    ]
    extra = "".join(f"Sec-WebSocket-Extensions: {offer}\r\n" for offer in offers)
    parsed = RequestParser().feed(request(extra=extra))
    assert parsed is not None
    response = accept(parsed, extensions=factories).response
    assert response.status_code == 101
    assert response.headers.get("Sec-WebSocket-Extensions", "") == expected


def test_a_factory_that_answers_what_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="not a token"):
        answer_extensions(headers("x-a"), [ServerOffer("x-a", [("b", "c\r\nd")])])


def test_what_a_codec_calls_itself_does_not_matter() -> None:
    """One without a name was accepted again for each further offer."""

    class NamelessHere(ServerOffer):
        def process_request_params(self, *arguments: Any) -> Any:
            answer, extension = super().process_request_params(*arguments)
            extension.name = ""
            return answer, extension

    class NamelessThere(ClientOffer):
        def process_response_params(self, *arguments: Any) -> Any:
            extension = super().process_response_params(*arguments)
            extension.name = "x-b"
            return extension

    answer, extensions = answer_extensions(headers("x-a, x-a; b"), [NamelessHere("x-a")])
    assert (answer, len(extensions)) == ("x-a", 1)
    offers = [NamelessThere("x-a"), ClientOffer("x-b")]
    assert len(accepted_extensions(headers("x-a, x-b"), offers)) == 2
    with pytest.raises(NegotiationError, match="twice: x-a"):
        accepted_extensions(headers("x-a, x-a"), offers)


# -- a client -------------------------------------------------------------------------------

# (factories, the answer) -> the names accepted, or why not
CLIENT: list[tuple[list[Any], tuple[str, ...], list[str] | str]] = [
    ([], (), []),
    ([Client()], (), []),
    ([Client()], (PMD,), [PMD]),
    ([Client()], (f'{PMD}; server_max_window_bits="\\1\\0"',), [PMD]),
    ([], (PMD,), f"not offered: {PMD}"),
    ([Client()], ("x-a",), "not offered: x-a"),
    ([Client()], (f"{PMD}, x-a",), "not offered: x-a"),
    ([Client()], (f"{PMD}, {PMD}",), f"twice: {PMD}"),
    ([Client()], (PMD, PMD), f"twice: {PMD}"),
    ([Client()], (f"{PMD}; unknown",), "a parameter is unknown"),
    # The answer may be to the second offer.
    ([Client(server_max_window_bits=9), Client()], (PMD,), [PMD]),
    (
        [Client(server_max_window_bits=9), Client(server_no_context_takeover=True)],
        (PMD,),
        "did not agree to no context takeover",
    ),
    ([Client(), ClientOffer("x-a", rsv=2)], (f"x-a, {PMD}",), ["x-a", PMD]),
    ([Client(), ClientOffer("x-a", rsv=4)], (f"x-a, {PMD}",), "claim the same bit or opcode"),
    (
        [ClientOffer("x-a", opcodes=[3]), ClientOffer("x-b", opcodes=[3])],
        ("x-b, x-a",),
        "claim the same bit or opcode",
    ),
    ([ClientOffer("x-a", rsv=8)], ("x-a",), "claims what is not reserved"),
]


@pytest.mark.parametrize(("factories", "answers", "expected"), CLIENT)
def test_which_answers_a_client_accepts(
    factories: list[Any], answers: tuple[str, ...], expected: list[str] | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(NegotiationError, match=expected):
            accepted_extensions(headers(*answers), factories)
    else:
        extensions = accepted_extensions(headers(*answers), factories)
        assert [extension.name for extension in extensions] == expected


@pytest.fixture
def scripted(nothing_left: Callable[[], None]) -> Iterator[Serve]:
    client_reader().call_soon(len, ())  # lives as long as the process
    nothing_left()
    with scripted_servers() as start:
        yield start


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        ("x-never-offered", {}),
        (PMD, {"compression": None}),
        (f"{PMD}; client_max_window_bits=16", {}),
        (f"{PMD}; server_max_window_bits=999", {}),
    ],
)
def test_c3_a_wrong_answer_is_refused_with_1010(
    scripted: Serve, answer: str, options: dict[str, Any]
) -> None:
    frames: list[Any] = []

    def script(sock: socket.socket) -> None:
        sock.sendall(head_101(read_head(sock), f"Sec-WebSocket-Extensions: {answer}"))
        frames.append(Peer(sock, is_client=False).read_frame())
        wait_for_end(sock)

    server = scripted(script)
    with pytest.raises(NegotiationError) as caught:
        syncws.connect(server.uri, **options)
    server.close()
    (frame,) = frames
    assert (frame.opcode, frame.payload[:2], frame.masked) == (8, (1010).to_bytes(2), True)
    assert frame.payload[2:].decode() == str(caught.value)[:100]


def test_extensions_is_not_a_header_of_the_callers() -> None:
    with pytest.raises(ValueError, match="use extensions="):
        syncws.connect("ws://127.0.0.1:1/", additional_headers={"Sec-WebSocket-Extensions": PMD})


def test_both_sides_over_a_connection() -> None:
    def handler(connection: syncws.Connection) -> None:
        for message in connection:
            connection.send(message)

    offered = ClientOffer("x-a", rsv=2)
    with (
        syncws.serve(handler, "127.0.0.1", 0, extensions=[ServerOffer("x-a", rsv=2)]) as server,
        syncws.connect(f"ws://127.0.0.1:{server.address[1]}/", extensions=[offered]) as connection,
    ):
        assert [each.name for each in connection.extensions] == ["x-a", PMD]
        for message in ("text", b"bytes" * 1000, ""):
            connection.send(message)
            assert connection.recv(10) == message
        (codec,) = offered.made
        assert codec.send_control is not None
    assert eventually(lambda: "ended" in codec.calls)
    assert codec.calls[-1] == "ended" and codec.calls.count("ended") == 1
