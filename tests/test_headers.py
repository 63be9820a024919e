"""``syncws.headers``: what may be in a header, how it is looked up, what is shown of it."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncws.exceptions import MultipleValuesError
from syncws.headers import Headers
from syncws.http11 import RequestParser

SAMPLE = [("Host", "h"), ("Accept", "a"), ("X-Empty", ""), ("ACCEPT", "b: c")]


def test_lookup_ignores_case_and_keeps_order() -> None:
    headers = Headers(SAMPLE)
    assert headers["host"] == headers["HOST"] == headers.get("hOsT") == "h"
    assert headers["x-empty"] == ""
    assert headers.get_all("accept") == ["a", "b: c"]
    assert headers.get_all("missing") == []
    assert list(headers.raw_items()) == SAMPLE
    assert list(headers) == ["host", "accept", "x-empty"]
    assert len(headers) == 3
    assert "ACCEPT" in headers
    assert "accep" not in headers
    assert not headers.__contains__(1)
    assert headers.serialize() == b"Host: h\r\nAccept: a\r\nX-Empty: \r\nACCEPT: b: c\r\n\r\n"


def test_lookup_compares_whole_names_and_never_looks_into_values() -> None:
    headers = Headers(
        [("X-Host", "Host: no"), ("Hos", "t: no"), ("Latin", "\xc4\xb5\xdf\xff"), ("B", "c")]
    )
    for name in ("Host", "Hos: t", "no", "", "ost", "X-Hos"):
        assert headers.get_all(name) == []
    # Lower case of these has as many characters, so that what is behind them is found.
    assert headers["b"] == "c"
    assert all(len(chr(code).lower()) == 1 for code in range(256))


def test_missing_and_repeated_values() -> None:
    headers = Headers(SAMPLE)
    with pytest.raises(KeyError, match="missing"):
        headers["missing"]
    assert headers.get("missing") is None
    for lookup in (headers.__getitem__, headers.get):
        with pytest.raises(MultipleValuesError, match=r"2 Accept headers.*get_all") as caught:
            lookup("Accept")
        assert isinstance(caught.value, LookupError)
        assert (caught.value.name, caught.value.count) == ("Accept", 2)


def test_assigning_appends_and_deleting_removes_all() -> None:
    headers = Headers(SAMPLE)
    headers["accept"] = "d"
    assert headers.get_all("Accept") == ["a", "b: c", "d"]
    del headers["ACCEPT"]
    assert list(headers.raw_items()) == [("Host", "h"), ("X-Empty", "")]
    with pytest.raises(KeyError):
        del headers["accept"]
    headers.clear()
    assert not headers
    assert headers.serialize() == b"\r\n"


class HasKeys:
    """Not a Mapping, but shaped like one, as the headers of many HTTP libraries are."""

    def keys(self) -> list[str]:
        return ["A", "B"]

    def __getitem__(self, name: str) -> str:
        return name.lower()


class Repeated(HasKeys):
    """As the headers of websockets: a mapping with all the pairs beside it."""

    def raw_items(self) -> Iterator[tuple[str, str]]:
        return iter([("A", "a"), ("B", "b")])


def test_sources() -> None:
    expected = [("A", "a"), ("B", "b")]
    for source in (
        {"A": "a", "B": "b"},
        expected,
        iter(expected),
        [["A", "a"], ["B", "b"]],
        Headers(expected),
        HasKeys(),
        Repeated(),
    ):
        assert list(Headers(source).raw_items()) == expected  # type: ignore[arg-type]  # lists as pairs
    assert list(Headers({"A": "a"}, B="b").raw_items()) == expected
    headers = Headers(SAMPLE)
    headers.update(Headers(SAMPLE))
    assert headers.get_all("Accept") == ["a", "b: c"] * 2


def test_equality_and_copies() -> None:
    headers = Headers(SAMPLE)
    assert headers == Headers([("host", "h"), ("accept", "a"), ("accept", "b: c"), ("x-empty", "")])
    assert headers != Headers(SAMPLE[:3])
    assert headers != dict(SAMPLE)
    for duplicate in (headers.copy(), copy.deepcopy(headers), pickle.loads(pickle.dumps(headers))):
        assert duplicate == headers
        duplicate["Host"] = "other"
        assert headers["Host"] == "h"


BAD_VALUES = [
    ("CR", "a\rb"),
    ("LF", "a\nb"),
    ("CRLF", "a\r\nX-Evil: 1"),
    ("final-LF", "a\n"),
    ("NUL", "a\0b"),
    ("ESC", "a\x1bb"),
    ("DEL", "a\x7fb"),
    ("nonlatin", "\u20ac"),
    ("surrogate", "\ud800"),
    ("leading-space", " a"),
    ("trailing-tab", "a\t"),
]
BAD_NAMES = [
    ("empty", ""),
    ("CR", "X\r"),
    ("LF", "X\n"),
    ("CRLF", "X\r\nY"),
    ("NUL", "X\0"),
    ("ESC", "\x1bX"),
    ("space", "X Y"),
    ("colon", "X:"),
    ("parenthesis", "X("),
    ("latin", "\xe4"),
    ("nonlatin", "\u212aey"),
]
Enter = Callable[[str, Any], object]
ENTRANCES: list[tuple[str, Enter]] = [
    ("list", lambda name, value: Headers([("A", "a"), (name, value)])),
    ("mapping", lambda name, value: Headers({name: value})),
    ("keyword", lambda name, value: Headers(**{name: value})),
    ("assignment", lambda name, value: Headers().__setitem__(name, value)),
    ("update", lambda name, value: Headers().update([(name, value)])),
    ("setdefault", lambda name, value: Headers().setdefault(name, value)),
]
each_entrance = pytest.mark.parametrize(
    "enter", [e for _, e in ENTRANCES], ids=[i for i, _ in ENTRANCES]
)


@each_entrance
@pytest.mark.parametrize(
    "value", [v for _, v in BAD_VALUES], ids=[f"F1c-{i}" for i, _ in BAD_VALUES]
)
def test_bad_value(enter: Enter, value: str) -> None:
    with pytest.raises(ValueError, match="value of header X-Name ") as caught:
        enter("X-Name", value)
    assert "Evil" not in str(caught.value)


@each_entrance
@pytest.mark.parametrize("name", [n for _, n in BAD_NAMES], ids=[f"F1c-{i}" for i, _ in BAD_NAMES])
def test_bad_name(enter: Enter, name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid name for a header") as caught:
        enter(name, "value")
    assert str(caught.value).isprintable()


@each_entrance
def test_types(enter: Enter) -> None:
    with pytest.raises(TypeError, match="value of header X must be a str, not bytes"):
        enter("X", b"value")


def test_name_must_be_text() -> None:
    with pytest.raises(TypeError, match="name of a header must be a str, not bytes"):
        Headers({b"X": "value"})  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("source", ["X: 1", b"X: 1", 1, None])
def test_source_must_be_pairs(source: Any) -> None:
    with pytest.raises(TypeError, match="mapping or an iterable"):
        Headers(source)


@pytest.mark.parametrize("pair", ["X: 1", ("X",), ("X", "1", "2"), 1])
def test_each_must_be_a_pair(pair: Any) -> None:
    with pytest.raises(TypeError, match="must be a pair"):
        Headers([pair])


def test_a_failed_update_changes_nothing() -> None:
    headers = Headers(SAMPLE)
    with pytest.raises(ValueError, match="header C"):
        headers.update([("B", "b"), ("C", "\n")])
    assert list(headers.raw_items()) == SAMPLE


def test_f9c_no_secret_in_repr_or_text() -> None:
    names = ["Authorization", "proxy-authorization", "COOKIE", "Set-Cookie"]
    headers = Headers([(name, "s3cret") for name in names])
    headers["Location"] = "http://me:s3cret@h/x?token=s3cret"
    headers["Referer"] = "http://h/y"
    headers["Host"] = "h"
    for shown in (repr(headers), str(headers), f"{headers}"):
        assert "s3cret" not in shown
        assert all(name in shown for name in names)
        assert "http://***@h/x?***" in shown
        assert "http://h/y'" in shown
        assert "('Host', 'h')" in shown


def test_f9c_no_secret_in_the_exception_of_a_line_as_name() -> None:
    with pytest.raises(ValueError, match="Authorization") as caught:
        Headers({"Authorization: Bearer s3cret": ""})
    assert "s3cret" not in str(caught.value)


BROWSER = (
    "GET /chat?room=1 HTTP/1.1\r\n"
    "Host: www.example.com\r\n"
    "Connection: Upgrade\r\n"
    "Pragma: no-cache\r\n"
    "Cache-Control: no-cache\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36\r\n"
    "Upgrade: websocket\r\n"
    "Origin: https://www.example.com\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: de-DE,de;q=0.9\r\n"
    "Cookie: session=0123456789abcdef0123456789abcdef\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    "\r\n"
)


def test_headers_take_little_more_memory_than_their_text() -> None:
    request = RequestParser().feed(BROWSER.encode())
    assert request is not None
    held = [request, request.headers, request.path, request.headers._text]
    assert sum(map(sys.getsizeof, held)) <= len(BROWSER) + 300


tokens = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
values = st.from_regex(r"[\t\x20-\x7e\x80-\xff]{0,20}", fullmatch=True).map(
    lambda text: text.strip(" \t")
)
pairs = st.lists(st.tuples(tokens | st.sampled_from(["A", "a", "Aa", "aA"]), values), max_size=12)


@given(pairs)
def test_against_a_plain_model(items: list[tuple[str, str]]) -> None:
    headers = Headers(items)
    assert list(headers.raw_items()) == items
    model: dict[str, list[str]] = {}
    for name, value in items:
        model.setdefault(name.lower(), []).append(value)
    assert list(headers) == list(model)
    assert len(headers) == len(model)
    for name, found in model.items():
        assert headers.get_all(name.upper()) == headers.get_all(name) == found
    for name in model:
        rest = headers.copy()
        del rest[name]
        assert list(rest.raw_items()) == [item for item in items if item[0].lower() != name]


@given(pairs)
def test_round_trip_over_the_wire(items: list[tuple[str, str]]) -> None:
    request = RequestParser().feed(b"GET / HTTP/1.1\r\n" + Headers(items).serialize())
    assert request is not None
    assert list(request.headers.raw_items()) == items
