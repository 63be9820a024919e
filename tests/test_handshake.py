"""``syncws.handshake``: what both sides of the opening handshake share."""

from __future__ import annotations

import pytest

from syncws.exceptions import InvalidHeader, InvalidUpgrade
from syncws.handshake import accept_value, check_upgrade_headers, error_response, single
from syncws.headers import Headers


def test_accept_value_of_the_example() -> None:
    """RFC 6455 section 1.3."""
    assert accept_value("dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


GOOD = [
    ("websocket", "Upgrade"),
    ("WebSocket", "keep-alive, upgrade"),
    ("WEBSOCKET", "a,\tUPGRADE"),
]
BAD = [
    ("h2c", "Upgrade", "Upgrade"),
    ("h2c, websocket", "Upgrade", "Upgrade"),
    ("websocket", "close", "Connection"),
    ("websocket", "upgraded", "Connection"),
]


@pytest.mark.parametrize(("upgrade", "connection"), GOOD)
def test_upgrade_headers_good(upgrade: str, connection: str) -> None:
    check_upgrade_headers(Headers({"Upgrade": upgrade, "Connection": connection}))


@pytest.mark.parametrize(("upgrade", "connection", "name"), BAD)
def test_upgrade_headers_bad(upgrade: str, connection: str, name: str) -> None:
    with pytest.raises(InvalidUpgrade) as caught:
        check_upgrade_headers(Headers({"Upgrade": upgrade, "Connection": connection}))
    assert caught.value.name == name


def test_single() -> None:
    assert single("A", ["b"]) == "b"
    for values in ([], ["b", "b"]):
        with pytest.raises(InvalidHeader):
            single("A", values)


def test_error_response_ends_the_connection() -> None:
    response = error_response(403, "No.", [("Retry-After", "1")])
    assert response.reason_phrase == "Forbidden"
    assert response.body == b"No.\n"
    assert response.headers["Content-Length"] == "4"
    assert response.headers["Connection"] == "close"
    assert response.headers["Retry-After"] == "1"
    assert error_response(426, "No.", {"Connection": "close, Upgrade"}).headers.get_all(
        "Connection"
    ) == ["close, Upgrade"]
