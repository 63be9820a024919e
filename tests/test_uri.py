"""``syncws.uri``: what is a WebSocket URI, and what of it may be shown."""

from __future__ import annotations

import ipaddress
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncws.exceptions import InvalidURI
from syncws.uri import WebSocketURI, parse_authority, parse_uri, unmapped

# (URI, secure, host, port, resource name, Host header)
VALID = [
    ("ws://example.com", False, "example.com", 80, "/", "example.com"),
    ("wss://example.com", True, "example.com", 443, "/", "example.com"),
    ("WSS://Example.COM/Path", True, "example.com", 443, "/Path", "example.com"),
    ("ws://example.com:80/", False, "example.com", 80, "/", "example.com"),
    ("ws://example.com:443/", False, "example.com", 443, "/", "example.com:443"),
    ("wss://example.com:80/", True, "example.com", 80, "/", "example.com:80"),
    ("wss://example.com:443/", True, "example.com", 443, "/", "example.com"),
    ("ws://example.com:1", False, "example.com", 1, "/", "example.com:1"),
    ("ws://example.com:65535", False, "example.com", 65535, "/", "example.com:65535"),
    ("ws://example.com:/x", False, "example.com", 80, "/x", "example.com"),
    ("ws://h?q=1", False, "h", 80, "/?q=1", "h"),
    ("ws://h/?", False, "h", 80, "/", "h"),
    ("ws://h/a?b?c=d&e=%20", False, "h", 80, "/a?b?c=d&e=%20", "h"),
    ("ws://h/a@b:c/d", False, "h", 80, "/a@b:c/d", "h"),
    ("ws://h/%23%0d%0a", False, "h", 80, "/%23%0d%0a", "h"),
    (
        "ws://h/\u00e4/\u6f22?\u00fc=\U0001f600",
        False,
        "h",
        80,
        "/%C3%A4/%E6%BC%A2?%C3%BC=%F0%9F%98%80",
        "h",
    ),
    ("ws://127.0.0.1:8000/", False, "127.0.0.1", 8000, "/", "127.0.0.1:8000"),
    ("ws://my_service:8000/", False, "my_service", 8000, "/", "my_service:8000"),
    ("ws://example.com./", False, "example.com.", 80, "/", "example.com."),
    ("ws://[::1]/", False, "::1", 80, "/", "[::1]"),
    ("wss://[2001:DB8::1]:8443", True, "2001:db8::1", 8443, "/", "[2001:db8::1]:8443"),
    ("ws://[::ffff:1.2.3.4]:", False, "::ffff:1.2.3.4", 80, "/", "[::ffff:1.2.3.4]"),
    ("ws://[fe80::1%25eth0]:81/", False, "fe80::1%eth0", 81, "/", "[fe80::1]:81"),
    (
        "ws://b\u00fccher.example:81",
        False,
        "xn--bcher-kva.example",
        81,
        "/",
        "xn--bcher-kva.example:81",
    ),
    (
        "ws://\u4f8b\u3002\u6d4b\u8bd5/",
        False,
        "xn--fsq.xn--0zwm56d",
        80,
        "/",
        "xn--fsq.xn--0zwm56d",
    ),
]


@pytest.mark.parametrize(("uri", "secure", "host", "port", "resource_name", "host_header"), VALID)
def test_valid(
    uri: str, secure: bool, host: str, port: int, resource_name: str, host_header: str
) -> None:
    parsed = parse_uri(uri)
    assert (parsed.secure, parsed.host, parsed.port) == (secure, host, port)
    assert parsed.resource_name == resource_name
    assert parsed.host_header == host_header
    assert (parsed.username, parsed.password) == (None, None)


USER_INFORMATION = [
    ("ws://user:pass@h/", "user", "pass"),
    ("ws://user@h/", "user", ""),
    ("ws://user:@h/", "user", ""),
    ("ws://:pass@h/", "", "pass"),
    ("ws://@h/", "", ""),
    ("ws://us%40er:p%3Aa%2Fss:w@h/", "us@er", "p:a/ss:w"),
    ("ws://\u00fcser:%C3%BC@h/", "\u00fcser", "\u00fc"),
]


@pytest.mark.parametrize(("uri", "username", "password"), USER_INFORMATION)
def test_user_information(uri: str, username: str, password: str) -> None:
    parsed = parse_uri(uri)
    assert (parsed.username, parsed.password, parsed.host) == (username, password, "h")


CONTROLS = [
    ("CR", "\r"),
    ("LF", "\n"),
    ("NUL", "\0"),
    ("ESC", "\x1b"),
    ("TAB", "\t"),
    ("DEL", "\x7f"),
    ("C1", "\x85"),
    ("space", " "),
]
PLACES = [
    ("host", "ws://h{}h/"),
    ("path", "ws://h/a{}b"),
    ("query", "ws://h/?a{}b"),
    ("userinfo", "ws://u{}v:p@h/"),
    ("start", "{}ws://h/"),
    ("end", "ws://h/{}"),
    ("port", "ws://h:8{}0/"),
]
INVALID = [
    ("F1c-nonlatin-host", "ws://h\u2100h/"),  # IDNA makes "a/c" of it
    ("F1c-wide-port", "ws://internal\uff1a22/"),  # "internal:22"
    ("F1c-wide-address", "ws://\uff3b\uff1a\uff1a1\uff3d:22/"),  # "[::1]:22"
    ("F1c-surrogate-path", "ws://h/\ud800"),
    ("F1c-surrogate-host", "ws://h\ud800/"),
    ("F1c-percent-CRLF-host", "ws://h%0d%0ah/"),
    ("F1c-percent-CRLF-username", "ws://u%0d%0a:p@h/"),
    ("F1c-percent-LF-password", "ws://u:p%0a@h/"),
    ("F1c-percent-NUL-password", "ws://u:p%00@h/"),
    ("F1c-percent-C1-password", "ws://u:p%C2%85@h/"),
    ("F1c-percent-colon-username", "ws://u%3A:p@h/"),
    ("F1c-userinfo-not-UTF-8", "ws://u%ff:p@h/"),
    ("F1c-userinfo-surrogate", "ws://u\ud800:p@h/"),
    ("empty", ""),
    ("no-scheme", "example.com"),
    ("no-authority", "ws:example.com"),
    ("http", "http://h/"),
    ("long-s", "w\u017f://h/"),  # its upper case is "S"
    ("fragment", "ws://h/#x"),
    ("empty-fragment", "ws://h#"),
    ("no-host", "ws:///x"),
    ("no-host-but-port", "ws://:80/"),
    ("no-host-but-user", "ws://u:p@/"),
    ("two-at-signs", "ws://good@evil@h/"),
    ("backslash", "ws://good\\@evil/"),
    ("port-0", "ws://h:0/"),
    ("port-65536", "ws://h:65536/"),
    ("port-6-digits", "ws://h:000080/"),
    ("port-sign", "ws://h:+80/"),
    ("port-letters", "ws://h:http/"),
    ("port-other-digits", "ws://h:\u0668\u0660/"),
    ("two-ports", "ws://h:1:2/"),
    ("IPv6-without-brackets", "ws://::1/"),
    ("IPv6-open", "ws://[::1/"),
    ("IPv6-behind-text", "ws://x[::1]/"),
    ("IPv6-before-text", "ws://[::1]x/"),
    ("IPv6-malformed", "ws://[1::2::3]/"),
    ("IPv6-empty", "ws://[]/"),
    ("IPv6-raw-zone", "ws://[fe80::1%eth0]/"),
    ("IPv6-empty-zone", "ws://[fe80::1%25]/"),
    ("IPvFuture", "ws://[v1.x]/"),
    ("IPv4-in-brackets", "ws://[1.2.3.4]/"),
    ("empty-label", "ws://a..b/"),
    ("label-64", f"ws://{'a' * 64}.com/"),
    ("name-255", f"ws://{'.'.join(['a' * 63] * 4)}/"),
    ("IDNA-label-too-long", f"ws://{chr(0xFC) * 64}/"),
    ("IDNA-name-too-long", f"ws://{chr(0xFC) * 300}/"),
    ("wildcard", "ws://*/"),
] + [
    (f"F1c-{name}-{place}", template.format(character))
    for name, character in CONTROLS
    for place, template in PLACES
]


@pytest.mark.parametrize("uri", [uri for _, uri in INVALID], ids=[name for name, _ in INVALID])
def test_invalid(uri: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("uri", [None, b"ws://h/", 1])
def test_uri_must_be_text(uri: object) -> None:
    with pytest.raises(TypeError, match="uri must be a str"):
        parse_uri(uri)  # type: ignore[arg-type]  # the mistake under test


SECRETS = [
    "ws://user:s3cret@h/ x",
    "ws://user:s3cret@h/?token=s3cret#",
    "ws://user:s3/s3cret@h/",
    "ws://user:s3?s3cret@h:1/",
    "ws://user:s3#s3cret@h/",
    "ws://user:s3://s3cret@h/",
    "ws://user:s3cret@x@h/",
    "user:s3cret@h/",
    "http://user:s3cret@h/?s3cret",
    "ws://s3cret%ff@h/",
    "ws://s3cret\ud800@h/",
    "ws://s3cret%0a@h/",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_f9c_no_secret_in_the_exception(uri: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    error = caught.value
    shown = [str(error), repr(error), repr(error.args), error.uri, error.problem]
    shown += traceback.format_exception_only(error)
    assert error.__context__ is None
    assert error.__cause__ is None
    assert "s3" not in " ".join(shown)


def test_the_exception_shows_what_is_no_secret() -> None:
    for uri, shown in (
        ("ws://h:0/path", "ws://h:0/path"),
        ("ws://user:pass@h:0/path?token=a@b", "ws://h:0/path"),
        ("ws://h:0/path?token=a@b", "ws://h:0/path"),
        ("ws://h:0?token=ab", "ws://h:0"),
        ("example.com/path", "example.com/path"),
    ):
        with pytest.raises(InvalidURI) as caught:
            parse_uri(uri)
        assert caught.value.uri == shown
        assert repr(shown) in str(caught.value)


def test_f9c_no_secret_in_the_repr() -> None:
    parsed = parse_uri("wss://user:s3cret@h:1/path?token=s3cret")
    assert repr(parsed) == "<WebSocketURI wss://***@h:1/path?***>"
    assert repr(parse_uri("ws://h/path")) == "<WebSocketURI ws://h/path>"


@pytest.mark.parametrize("zone", ["[fe80::1%25eth0]", "[fe80::1%eth0]"])
def test_a_header_cannot_have_a_zone(zone: str) -> None:
    with pytest.raises(ValueError, match="IPv6"):
        parse_authority(zone)


def test_authority() -> None:
    assert parse_authority("H") == ("h", None)
    assert parse_authority("h:") == ("h", None)
    assert parse_authority("[::1]:81") == ("::1", 81)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for uri in (text, f"ws://{text}", f"ws://h/{text}", f"ws://h?{text}", f"ws://{text}@h"):
        try:
            parsed = parse_uri(uri)
        except InvalidURI:
            continue
        # Whatever was accepted can be written into a request line and a Host header.
        for part in (parsed.resource_name, parsed.host_header):
            assert all("!" <= character <= "~" for character in part)
        assert "#" not in parsed.resource_name


names = st.from_regex(r"[a-z0-9_-]{1,20}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True)
addresses = st.ip_addresses(v=6).map(str)
visible = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#?"), max_size=20
)


@given(st.booleans(), names | addresses, st.integers(1, 65535), visible, visible)
def test_round_trip(secure: bool, host: str, port: int, path: str, query: str) -> None:
    uri = WebSocketURI(secure, host, port, f"/{path}", query)
    scheme = "wss" if secure else "ws"
    assert parse_uri(f"{scheme}://{uri.host_header}{uri.resource_name}") == uri


@pytest.mark.parametrize(
    ("address", "result"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1")],
)
def test_an_address_that_stands_for_another(address: str, result: str) -> None:
    assert str(unmapped(ipaddress.ip_address(address))) == result
