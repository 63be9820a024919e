"""What is believed of Forwarded, X-Forwarded-For and X-Forwarded-Proto, and from whom."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncws.exceptions import InvalidMessage
from syncws.forwarded import Peer, TrustedProxies, forwarded_peer
from syncws.headers import Headers

TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", ipaddress.ip_address("192.0.2.7")])


def peer(*headers: tuple[str, str]) -> Peer:
    return forwarded_peer(Headers(headers), TRUSTED)


def x(value: str) -> tuple[str, str]:
    return "X-Forwarded-For", value


def proto(value: str) -> tuple[str, str]:
    return "X-Forwarded-Proto", value


def forwarded(value: str) -> tuple[str, str]:
    return "Forwarded", value


# -- whom to trust ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        (("10.1.2.3", 80), True),
        (("11.1.2.3", 80), False),
        (("192.0.2.7", 80), True),
        (("192.0.2.8", 80), False),
        (("::ffff:10.1.2.3", 80, 0, 0), True),
        (("::ffff:11.1.2.3", 80, 0, 0), False),
        (("fd12::1", 80, 0, 0), True),
        (("fd12::1%eth0", 80, 0, 2), True),
        (("2001:db8::1", 80, 0, 0), False),
        (("not an address", 80), False),
        ("", False),
        ("/run/socket", False),
        (None, False),
    ],
)
def test_addresses(address: Any, trusted: bool) -> None:
    assert TRUSTED.include(address) is trusted


@pytest.mark.parametrize(("address", "trusted"), [("", True), (b"", True), (None, False)])
def test_unix_sockets(address: Any, trusted: bool) -> None:
    assert TrustedProxies(["unix:"]).include(address) is trusted
    assert not TrustedProxies([]).include(address)


@pytest.mark.parametrize(
    ("proxies", "error"),
    [
        ("10.0.0.1", TypeError),
        (7, TypeError),
        ([7], TypeError),
        ([b"10.0.0.1"], TypeError),
        (["localhost"], ValueError),
        (["10.0.0.1/8"], ValueError),  # the network is 10.0.0.0/8: which is meant?
        (["*"], ValueError),
    ],
)
def test_bad_proxies(proxies: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="trusted_proxies"):
        TrustedProxies(proxies)


# -- what they say ----------------------------------------------------------------

V6 = ("2001:db8::1", 0, 0, 0)
STATEMENTS: dict[str, tuple[list[tuple[str, str]], Any, bool | None]] = {
    "nothing": ([], None, None),
    "x": ([x("1.2.3.4")], ("1.2.3.4", 0), None),
    "x with a port": ([x("1.2.3.4:567")], ("1.2.3.4", 567), None),
    "x v6": ([x("2001:db8::1")], V6, None),
    "x v6 in brackets": ([x("[2001:db8::1]")], V6, None),
    "x v6 with a port": ([x("[2001:db8::1]:9")], ("2001:db8::1", 9, 0, 0), None),
    "x mapped": ([x("::ffff:1.2.3.4")], ("1.2.3.4", 0), None),
    "x through two": ([x("1.2.3.4, 10.0.0.2")], ("1.2.3.4", 0), None),
    "x in two lines": ([x("1.2.3.4"), x("10.0.0.2")], ("1.2.3.4", 0), None),
    "x with holes": ([x("1.2.3.4, ,10.0.0.2,")], ("1.2.3.4", 0), None),
    "x through proxies only": ([x("10.0.0.3, 10.0.0.2")], ("10.0.0.3", 0), None),
    "x spoofed": ([x("9.9.9.9, 1.2.3.4")], ("1.2.3.4", 0), None),
    "x spoofed as a proxy": ([x("9.9.9.9, 10.0.0.9, 1.2.3.4, 10.0.0.2")], ("1.2.3.4", 0), None),
    "x unknown": ([x("unknown")], None, None),
    "x unknown behind one": ([x("9.9.9.9, unknown, 10.0.0.2")], ("10.0.0.2", 0), None),
    "x garbage": ([x("1.2.3.4, <script>")], None, None),
    "x bad address": ([x("1.2.3.256")], None, None),
    "x bad port": ([x("1.2.3.4:65536")], None, None),
    "x empty": ([x("")], None, None),
    "proto alone": ([proto("https")], None, True),
    "proto": ([x("1.2.3.4"), proto("https")], ("1.2.3.4", 0), True),
    "proto http": ([x("1.2.3.4"), proto("HTTP")], ("1.2.3.4", 0), False),
    "proto wss": ([x("1.2.3.4"), proto("wss")], ("1.2.3.4", 0), True),
    "proto other": ([x("1.2.3.4"), proto("gopher")], ("1.2.3.4", 0), None),
    "proto of each": ([x("1.2.3.4, 10.0.0.2"), proto("https, http")], ("1.2.3.4", 0), True),
    "proto of one": ([x("1.2.3.4, 10.0.0.2"), proto("https")], ("1.2.3.4", 0), True),
    "proto spoofed": ([x("9.9.9.9, 1.2.3.4"), proto("https, http")], ("1.2.3.4", 0), False),
    "f": ([forwarded("for=1.2.3.4")], ("1.2.3.4", 0), None),
    "f port": ([forwarded('for="1.2.3.4:567"')], ("1.2.3.4", 567), None),
    "f v6": ([forwarded('for="[2001:db8::1]"')], V6, None),
    "f v6 port": ([forwarded('For="[2001:DB8::1]:9"')], ("2001:db8::1", 9, 0, 0), None),
    "f secret port": ([forwarded('for="1.2.3.4:_port"')], ("1.2.3.4", 0), None),
    "f proto": ([forwarded("for=1.2.3.4;proto=https;by=10.0.0.1")], ("1.2.3.4", 0), True),
    "f spaces": ([forwarded("for=1.2.3.4 ; proto=http ,")], ("1.2.3.4", 0), False),
    "f through two": ([forwarded("for=1.2.3.4;proto=https, for=10.0.0.2;proto=http")],
                      ("1.2.3.4", 0), True),
    "f in two lines": ([forwarded("for=1.2.3.4"), forwarded("for=10.0.0.2")], ("1.2.3.4", 0), None),
    "f spoofed": ([forwarded("for=9.9.9.9;proto=https, for=1.2.3.4;proto=http")],
                  ("1.2.3.4", 0), False),
    "f unknown": ([forwarded("for=unknown;proto=https")], None, True),
    "f obfuscated": ([forwarded("for=9.9.9.9, for=_hidden, for=10.0.0.2")], ("10.0.0.2", 0), None),
    "f without for": ([forwarded("proto=https")], None, True),
    "f escapes": ([forwarded(r'for="\1.2.3\.4"')], ("1.2.3.4", 0), None),
    "f other pairs": ([forwarded('for=1.2.3.4;secret="a\\", for=9.9.9.9"')], ("1.2.3.4", 0), None),
    "f empty elements": ([forwarded(", ;for=1.2.3.4,,")], ("1.2.3.4", 0), None),
    "f empty": ([forwarded("")], None, None),
    "f unbracketed v6 is none": ([forwarded('for="2001:db8::1"')], None, None),
    "both": ([forwarded("for=1.2.3.4"), x("1.2.3.4"), proto("https")], ("1.2.3.4", 0), True),
    "both proto": ([forwarded("for=1.2.3.4;proto=https"), x("1.2.3.4"), proto("https")],
                   ("1.2.3.4", 0), True),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "address", "secure"), STATEMENTS.values(), ids=STATEMENTS)
def test_statements(headers: list[tuple[str, str]], address: Any, secure: bool | None) -> None:
    assert peer(*headers) == Peer(address, secure)


@pytest.mark.parametrize(
    "headers",
    [
        [forwarded("for=9.9.9.9"), x("1.2.3.4")],
        [forwarded("for=1.2.3.4"), x("unknown")],
        [forwarded("proto=https"), x("1.2.3.4")],
        [forwarded("for=1.2.3.4;proto=http"), x("1.2.3.4"), proto("https")],
        [forwarded("for=1.2.3.4;proto=http"), proto("https")],
    ],
)
def test_h6x_headers_that_contradict_each_other(headers: list[tuple[str, str]]) -> None:
    """One of them is not the proxy's: it passed on what a client sent."""
    with pytest.raises(InvalidMessage, match="contradict") as raised:
        peer(*headers)
    assert raised.value.status_code == 400


@pytest.mark.parametrize(
    "value",
    [
        'for="1.2.3.4',
        'for="9.9.9.9, for=1.2.3.4',  # a client's open quote would swallow the proxy's element
        "for=1.2.3.4:80",
        "for=[2001:db8::1]",
        "for",
        "for=",
        "=1.2.3.4",
        "for =1.2.3.4",
        "for=1.2.3.4 proto=https",
        "for=1.2.3.4;for=9.9.9.9",
        "for=1.2.3.4;FOR=9.9.9.9",
    ],
)
def test_h6x_a_malformed_header(value: str) -> None:
    with pytest.raises(InvalidMessage, match="malformed"):
        peer(forwarded(value))


PIECES = ["for", "=", '"', "\\", ",", ";", " ", "1.2.3.4", "[::1]", "proto", "https", "\xff", "a"]


@pytest.mark.parametrize(
    ("network", "trusted"),
    [
        ("::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.0/104", True),
        ("::ffff:11.0.0.0/104", False),
        ("::/0", False),  # of IPv4 it says nothing
    ],
)
def test_a_network_of_mapped_addresses_is_one_of_ipv4(network: str, trusted: bool) -> None:
    proxies = TrustedProxies([network])
    assert proxies.include(("10.0.0.1", 1)) is trusted
    assert proxies.include(("::ffff:10.0.0.1", 1, 0, 0)) is trusted


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.sampled_from(["Forwarded", *x("")[:1]]))
def test_any_value_has_a_verdict(pieces: list[str], name: str) -> None:
    try:
        result = peer((name, "".join(pieces).strip(" ")))
    except InvalidMessage:
        return
    assert result.address is None or result.address[0] in ("1.2.3.4", "::1")


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For"])
@pytest.mark.parametrize("begin", ['for="', "for=1.2.3.4", "for=1.2.3.4,"])
@pytest.mark.parametrize(
    "attack", [",", ";", '"', "\\", '"\\', "a", " ", "\t", " ,", "for=1.2.3.4,", "1."]
)
def test_e1_no_value_takes_long(name: str, begin: str, attack: str) -> None:
    def seconds(length: int) -> float:
        headers = Headers([(name, begin + attack * (length // len(attack)) + "@")])
        best = 1.0
        for _ in range(5):
            started = time.perf_counter()
            try:
                forwarded_peer(headers, TRUSTED)
            except InvalidMessage:
                pass
            best = min(best, time.perf_counter() - started)
        return best

    # Linear would be 4; the rest is for the noise of a busy machine.
    assert seconds(32_000) < 16 * seconds(8_000) + 0.01
