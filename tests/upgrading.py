"""Upgrade requests as bytes, and what a server answers to them.

What belongs here: what the tests of the handshake and of its negotiation share. What does
not: what the answer should be.
"""

from __future__ import annotations

from typing import Any

from feeding import cuts

from syncws.exceptions import InvalidMessage
from syncws.handshake import error_response
from syncws.http11 import Request, RequestParser, Response, ResponseParser
from syncws.server_handshake import accept, check_upgrade

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(line: str = "GET / HTTP/1.1", extra: str = "", **changes: str | None) -> bytes:
    """A good request with some headers replaced (``_`` for ``-``), left out or added."""
    fields: dict[str, str | None] = dict(HEADERS)
    for name, value in changes.items():
        fields[name.replace("_", "-")] = value
    lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value is not None]
    return f"{line}\r\n{''.join(lines)}{extra}\r\n".encode("latin-1")


def answer(pieces: list[bytes], **options: Any) -> tuple[Response | None, bytes]:
    """What a server answers, and the bytes left for the frame decoder."""
    parser = RequestParser()
    for index, piece in enumerate(pieces):
        try:
            parsed = parser.feed(piece)
        except InvalidMessage as error:
            return error_response(error.status_code, str(error)), b""
        if parsed is not None:
            response = check_upgrade(parsed) or accept(parsed, **options).response
            return response, parser.rest + b"".join(pieces[index + 1 :])
    return None, b""


def status_of(data: bytes, **options: Any) -> int:
    """The status of the answer, which has to be the same however the bytes are cut."""
    response, _ = answer([data], **options)
    assert response is not None
    for pieces in cuts(data):
        other, _ = answer(pieces, **options)
        assert other is not None
        assert other.status_code == response.status_code
    check_shape(response)
    return response.status_code


def check_shape(response: Response) -> None:
    """What every answer has in common."""
    parser = ResponseParser()
    parsed = parser.feed(response.serialize())
    assert parsed == response  # in particular: nothing was split
    headers = response.headers
    options = headers["Connection"].split(", ")
    if response.status_code == 101:
        assert options == ["Upgrade"]
        assert not response.body
        return
    assert options[0] == "close"
    assert headers["Content-Length"] == str(len(response.body))
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert 0 < len(response.body) < 200
    assert headers["Date"].endswith(" GMT")
    if response.status_code == 405:
        assert headers["Allow"] == "GET"
    if response.status_code == 426:
        assert options == ["close", "Upgrade"]
        assert headers["Upgrade"] == "websocket"
        assert headers["Sec-WebSocket-Version"] == "13"


def upgrade(**changes: Any) -> Request:
    """A parsed request; the arguments are those of :func:`request`."""
    parsed = RequestParser().feed(request(**changes))
    assert parsed is not None
    return parsed
