"""permessage-deflate (RFC 7692): every parameter on both sides, and what is compressed."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import pytest
from extending import agreed, engines, pass_on, protocols
from hypothesis import given, settings
from hypothesis import strategies as st

from syncws import deflate, permessage_deflate
from syncws.deflate import Engine
from syncws.exceptions import NegotiationError
from syncws.extensions import Fragment
from syncws.frames import Opcode
from syncws.permessage_deflate import (
    ClientPerMessageDeflateFactory as Client,
)
from syncws.permessage_deflate import (
    PerMessageDeflate,
)
from syncws.permessage_deflate import (
    ServerPerMessageDeflateFactory as Server,
)
from syncws.protocol import Failed

SNC, CNC = "server_no_context_takeover", "client_no_context_takeover"
SMW, CMW = "server_max_window_bits", "client_max_window_bits"
DECLINE = None
LARGE: dict[str, Any] = {"memory": "large"}


def params(text: str) -> list[tuple[str, str | None]]:
    """``a; b=1`` taken apart."""
    found = []
    for part in filter(None, text.split("; ")):
        name, equals, value = part.partition("=")
        found.append((name, value if equals else None))
    return found


def text_of(parameters: Any) -> str:
    return "; ".join(name if value is None else f"{name}={value}" for name, value in parameters)


def agreement(extension: Any) -> tuple[int, bool, int, bool]:
    """Of a codec: how it sends, then how it receives."""
    figures = extension.statistics()
    return (
        figures["send_window_bits"],
        figures["send_context_takeover"],
        figures["receive_window_bits"],
        figures["receive_context_takeover"],
    )


# The server: (its options, the offer) -> (the answer, how it sends and receives), or a decline.
SERVER: list[tuple[dict[str, Any], str, tuple[str, tuple[int, bool, int, bool]] | None]] = [
    # -- the presets
    ({}, "", (f"{SMW}=12", (12, True, 15, True))),
    ({}, CMW, (f"{SMW}=12; {CMW}=12", (12, True, 12, True))),
    (LARGE, "", ("", (15, True, 15, True))),
    (LARGE, CMW, ("", (15, True, 15, True))),
    ({"memory": "small"}, "", (f"{SNC}; {CNC}", (15, False, 15, False))),
    # -- context takeover
    (LARGE, SNC, (SNC, (15, False, 15, True))),
    (LARGE, CNC, (CNC, (15, True, 15, False))),
    (LARGE, f"{SNC}; {CNC}", (f"{SNC}; {CNC}", (15, False, 15, False))),
    ({**LARGE, SNC: True}, "", (SNC, (15, False, 15, True))),
    ({**LARGE, CNC: True}, "", (CNC, (15, True, 15, False))),
    ({"memory": "small", SNC: False, CNC: False}, "", ("", (15, True, 15, True))),
    ({"memory": "small", SNC: False}, SNC, (f"{SNC}; {CNC}", (15, False, 15, False))),
    # -- how far the server refers back
    (LARGE, f"{SMW}=15", (f"{SMW}=15", (15, True, 15, True))),
    (LARGE, f"{SMW}=14", (f"{SMW}=14", (14, True, 15, True))),
    (LARGE, f"{SMW}=10", (f"{SMW}=10", (10, True, 15, True))),
    (LARGE, f"{SMW}=9", (f"{SMW}=9", (9, True, 15, True))),
    (LARGE, f"{SMW}=8", DECLINE),
    ({**LARGE, SMW: 10}, "", (f"{SMW}=10", (10, True, 15, True))),
    ({**LARGE, SMW: 10}, f"{SMW}=12", (f"{SMW}=10", (10, True, 15, True))),
    ({**LARGE, SMW: 12}, f"{SMW}=10", (f"{SMW}=10", (10, True, 15, True))),
    # -- how far the client refers back
    (LARGE, f"{CMW}=15", ("", (15, True, 15, True))),
    (LARGE, f"{CMW}=10", (f"{CMW}=10", (15, True, 10, True))),
    (LARGE, f"{CMW}=8", (f"{CMW}=8", (15, True, 8, True))),
    ({**LARGE, CMW: 8}, CMW, (f"{CMW}=8", (15, True, 8, True))),
    ({**LARGE, CMW: 10}, CMW, (f"{CMW}=10", (15, True, 10, True))),
    ({**LARGE, CMW: 10}, f"{CMW}=12", (f"{CMW}=10", (15, True, 10, True))),
    ({**LARGE, CMW: 12}, f"{CMW}=10", (f"{CMW}=10", (15, True, 10, True))),
    ({**LARGE, CMW: 10}, "", ("", (15, True, 15, True))),
    ({**LARGE, CMW: 10, "require_client_max_window_bits": True}, "", DECLINE),
    (
        {**LARGE, CMW: 10, "require_client_max_window_bits": True},
        CMW,
        (f"{CMW}=10", (15, True, 10, True)),
    ),
    # -- everything at once
    (
        LARGE,
        f"{SNC}; {CNC}; {SMW}=9; {CMW}=11",
        (f"{SNC}; {CNC}; {SMW}=9; {CMW}=11", (9, False, 11, False)),
    ),
    # -- C2: what no offer may be
    *[
        (LARGE, f"{name}={value}", DECLINE)
        for name in (SMW, CMW)
        for value in ("7", "16", "0", "08", "+10", "10abc", "-10", "1_0", "2147483648", "١٠", "")
    ],
    (LARGE, SMW, DECLINE),
    *[(LARGE, f"{name}={value}", DECLINE) for name in (SNC, CNC) for value in ("", "true", "10")],
    *[(LARGE, f"{name}; {name}", DECLINE) for name in (SNC, CNC, CMW)],
    (LARGE, f"{SMW}=10; {SMW}=10", DECLINE),
    (LARGE, f"{CMW}; {CMW}=10", DECLINE),
    (LARGE, "unknown", DECLINE),
    (LARGE, f"{SNC}; mode=fast", DECLINE),
    (LARGE, SNC.upper(), DECLINE),
]


@pytest.mark.parametrize(("options", "offer", "expected"), SERVER)
def test_c2_what_a_server_answers(options: dict[str, Any], offer: str, expected: Any) -> None:
    factory = Server(**options)
    if expected is DECLINE:
        with pytest.raises(NegotiationError, match="permessage-deflate"):
            factory.process_request_params(params(offer), [])
    else:
        answer, extension = factory.process_request_params(params(offer), [])
        assert (text_of(answer), agreement(extension)) == expected


# The client: (its options, its offer, an answer) -> how it sends and receives, or a refusal.
CLIENT: list[tuple[dict[str, Any], str, str, tuple[int, bool, int, bool] | None]] = [
    ({}, CMW, "", (12, True, 15, True)),
    (LARGE, CMW, "", (15, True, 15, True)),
    (LARGE, CMW, f"{CMW}=9", (9, True, 15, True)),
    (LARGE, CMW, f"{CMW}=8", (8, True, 15, True)),
    ({**LARGE, CMW: None}, "", "", (15, True, 15, True)),
    ({**LARGE, CMW: None}, "", f"{CMW}=10", DECLINE),
    ({**LARGE, CMW: 10}, f"{CMW}=10", "", (10, True, 15, True)),
    ({**LARGE, CMW: 10}, f"{CMW}=10", f"{CMW}=9", (9, True, 15, True)),
    # 7.1.2.2: the server may ignore the hint; we keep to it all the same.
    ({**LARGE, CMW: 10}, f"{CMW}=10", f"{CMW}=15", (10, True, 15, True)),
    ({"memory": "small"}, f"{SNC}; {CNC}; {CMW}", f"{SNC}; {CNC}", (15, False, 15, False)),
    ({"memory": "small"}, f"{SNC}; {CNC}; {CMW}", SNC, (15, False, 15, False)),
    ({"memory": "small"}, f"{SNC}; {CNC}; {CMW}", CNC, DECLINE),
    ({**LARGE, SNC: True}, f"{SNC}; {CMW}", SNC, (15, True, 15, False)),
    ({**LARGE, SNC: True}, f"{SNC}; {CMW}", "", DECLINE),
    (LARGE, CMW, SNC, (15, True, 15, False)),
    (LARGE, CMW, CNC, (15, False, 15, True)),
    ({**LARGE, CNC: True}, f"{CNC}; {CMW}", "", (15, False, 15, True)),
    (LARGE, CMW, f"{SMW}=10", (15, True, 10, True)),
    (LARGE, CMW, f"{SMW}=8", (15, True, 8, True)),
    ({**LARGE, SMW: 10}, f"{SMW}=10; {CMW}", f"{SMW}=10", (15, True, 10, True)),
    ({**LARGE, SMW: 10}, f"{SMW}=10; {CMW}", f"{SMW}=9", (15, True, 9, True)),
    ({**LARGE, SMW: 10}, f"{SMW}=10; {CMW}", f"{SMW}=11", DECLINE),
    ({**LARGE, SMW: 10}, f"{SMW}=10; {CMW}", "", DECLINE),
    ({**LARGE, SMW: 8}, f"{SMW}=8; {CMW}", f"{SMW}=8", (15, True, 8, True)),
    # -- C3: what no answer may be
    *[
        (LARGE, CMW, f"{name}={value}", DECLINE)
        for name in (SMW, CMW)
        for value in ("7", "16", "0", "999", "08", "+10", "10abc", "-10", "2147483648", "")
    ],
    (LARGE, CMW, SMW, DECLINE),
    (LARGE, CMW, CMW, DECLINE),
    *[(LARGE, CMW, f"{name}={value}", DECLINE) for name in (SNC, CNC) for value in ("", "true")],
    *[(LARGE, CMW, f"{name}; {name}", DECLINE) for name in (SNC, CNC)],
    *[(LARGE, CMW, f"{name}=10; {name}=10", DECLINE) for name in (SMW, CMW)],
    (LARGE, CMW, "unknown", DECLINE),
    (LARGE, CMW, "x=y", DECLINE),
]


@pytest.mark.parametrize(("options", "offer", "answer", "expected"), CLIENT)
def test_c3_which_answers_a_client_accepts(
    options: dict[str, Any], offer: str, answer: str, expected: Any
) -> None:
    factory = Client(**options)
    assert text_of(factory.get_request_params()) == offer
    assert repr(factory) == f"<ClientPerMessageDeflateFactory {offer}>"
    if expected is DECLINE:
        with pytest.raises(NegotiationError, match="permessage-deflate"):
            factory.process_response_params(params(answer), [])
    else:
        assert agreement(factory.process_response_params(params(answer), [])) == expected


CHOICES = {
    SNC: [None, True, False],
    CNC: [None, True, False],
    SMW: [None, 9, 12, 15],
    CMW: [None, 9, 12, 15],
}


@pytest.mark.parametrize("memory", ["small", "medium", "large"])
def test_c2_both_sides_agree_whatever_they_want(memory: Any) -> None:
    for ours in itertools.product(*CHOICES.values()):
        client = Client(memory=memory, **dict(zip(CHOICES, ours, strict=True)))  # type: ignore[arg-type]
        for theirs in itertools.product([None, True], [None, True], [None, 10], [None, 8, 10]):
            server = Server(memory="large", **dict(zip(CHOICES, theirs, strict=True)))  # type: ignore[arg-type]
            one, other = agreed(client, server)
            send_bits, send_takeover, receive_bits, receive_takeover = agreement(one)
            their_bits, their_takeover, least, remembers = agreement(other)
            # Nobody refers back further than the other remembers.
            assert send_bits <= least and their_bits <= receive_bits
            assert send_takeover <= remembers and their_takeover <= receive_takeover


# -- options --------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [Client, Server])
@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("memory", "huge"),
        ("level", 10),
        ("level", -2),
        ("level", "6"),
        ("strategy", 5),
        ("threshold", -1),
        ("threshold", True),
        ("memory_level", 0),
        ("memory_level", 10),
        (SNC, 1),
        (CNC, "yes"),
        (SMW, 7),
        (SMW, 16),
        (SMW, True),
        (CMW, 7),
        (CMW, 16),
        (CMW, "10"),
        (CMW, False),
    ],
)
def test_options_that_make_no_sense(factory: Any, option: str, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{option} must be"):
        factory(**{option: wrong})


def test_options_of_one_side() -> None:
    with pytest.raises(ValueError, match=CMW):
        Client(client_max_window_bits=8)  # we cannot compress like that
    with pytest.raises(TypeError, match=f"{CMW} must be True, None or a number, not False"):
        Client(client_max_window_bits=False)
    with pytest.raises(ValueError, match=SMW):
        Server(server_max_window_bits=8)
    with pytest.raises(TypeError, match="require_client_max_window_bits"):
        Server(require_client_max_window_bits=1)  # type: ignore[arg-type]


# -- the codec ------------------------------------------------------------------------------


def test_a_small_window_is_the_standard_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permessage_deflate, "best_engine", lambda: Engine("other", zlib))
    standard = f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    for memory, engine in (
        ("small", "other"),
        ("medium", f"{standard}, other"),
        ("large", "other"),
    ):
        codec, _ = agreed(Client(memory=memory), Server(memory=memory))  # type: ignore[arg-type]
        assert codec.statistics()["engine"] == engine
        assert repr(codec).startswith(f"<PerMessageDeflate engine='{engine}'")


def test_c2_a_window_of_8_bits_is_never_compressed_with() -> None:
    client = Client().process_response_params([(CMW, "8")], [])
    assert client.threshold > 2**62
    assert client.encode_message(b"x" * 1000, True) == (0, b"x" * 1000)
    fragment = Fragment(Opcode.BINARY, b"x" * 1000, compress=True)
    assert client.encode(fragment) is fragment
    assert client.forget_message()


def test_c13_the_threshold() -> None:
    codec, _ = agreed(Client(threshold=100))
    assert isinstance(codec, PerMessageDeflate)
    for size, compress, compressed in (
        (99, None, False),
        (100, None, True),
        (99, True, True),
        (100, False, False),
        (0, True, True),
    ):
        data = bytes(size)
        assert (codec.encode_message(data, compress)[0] == 4) == compressed
        fragment = codec.encode(Fragment(Opcode.BINARY, data, compress=compress))
        assert (fragment.rsv == 4) == compressed
        assert (fragment.data is data) == (not compressed)
    # How long a message in fragments will be, nobody knows.
    assert codec.encode(Fragment(Opcode.BINARY, b"x", True, False)).rsv == 4
    assert codec.encode(Fragment(Opcode.BINARY, b"x", False, True)).rsv == 0


def test_the_figures() -> None:
    client, server = agreed()
    sender, receiver = protocols([client], [server])
    for size in (200, 300, 10):
        sender.send_message(bytes(size))
    sender.send_message(bytes(100), fin=False)
    sender.send_continuation(bytes(100), fin=True)
    assert len(pass_on(sender, receiver, 50)) == 4
    ours, theirs = client.statistics(), server.statistics()
    assert ours["sent"] == theirs["received"] == 700
    assert ours["sent_compressed"] == theirs["received_compressed"] < 100
    assert ours["received"] == theirs["sent"] == 0


# -- properties -----------------------------------------------------------------------------

BITS = st.integers(9, 15)
FLAG = st.sampled_from([None, True, False])
MEMORY = st.sampled_from(["small", "medium", "large"])
COMMON = {
    SNC: FLAG,
    CNC: FLAG,
    "level": st.integers(-1, 9),
    "memory_level": st.none() | st.integers(1, 9),
    "strategy": st.integers(0, 4),
    "threshold": st.sampled_from([0, 10, 128]),
    "memory": MEMORY,
}
CLIENTS = st.fixed_dictionaries({**COMMON, SMW: st.none() | BITS, CMW: st.none() | BITS})
SERVERS = st.fixed_dictionaries(
    {**COMMON, SMW: st.none() | BITS, CMW: st.none() | st.integers(8, 15)}
)
CONTENTS = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=300),
    st.builds(
        lambda unit, count: unit * count, st.binary(min_size=1, max_size=9), st.integers(0, 9000)
    ),
)


@given(CLIENTS, SERVERS, st.data())
@settings(deadline=None)
def test_c8_anything_agreed_on_with_any_messages_in_any_fragments(
    client: dict[str, Any], server: dict[str, Any], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        engine = data.draw(st.sampled_from(engines()))
        patch.setattr(permessage_deflate, "best_engine", lambda: engine)
        one, other = agreed(Client(**client), Server(**server))
    sides = protocols([one], [other])
    for _ in range(data.draw(st.integers(1, 5))):
        sender, receiver = data.draw(st.sampled_from([sides, sides[::-1]]))
        message = data.draw(CONTENTS)
        compress = data.draw(FLAG)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(message)), max_size=3)))
        parts = [
            message[start:end] for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True)
        ]
        sender.send_message(parts[0], fin=len(parts) == 1, compress=compress)
        for index, part in enumerate(parts[1:], 2):
            sender.send_ping(b"between")
            sender.send_continuation(part, fin=index == len(parts))
        size = data.draw(st.sampled_from([0, 1, 7, 1000]) if len(message) < 2000 else st.just(0))
        events = pass_on(sender, receiver, size)
        assert [event for event in events if isinstance(event, str | bytes)] == [message]
        receiver.data_to_send()  # pongs


@given(st.binary(min_size=130, max_size=400), st.data())
@settings(deadline=None)
def test_c6_corrupted_messages_fail_the_connection_or_are_messages(
    message: bytes, data: st.DataObject
) -> None:
    one, other = agreed(Client(), Server())
    sender, receiver = protocols([one], [other], max_size=2000)
    sender.send_message(message, compress=True)
    (wire,) = sender.data_to_send()
    head = 2 + (0, 2)[wire[1] & 127 == 126]
    key, payload = wire[head : head + 4], bytearray(wire[head + 4 :])
    position = data.draw(st.integers(0, len(payload) - 1))
    truncated = data.draw(st.booleans())
    plain = bytearray(byte ^ key[i % 4] for i, byte in enumerate(payload))
    if truncated:
        del plain[max(1, position) :]
    else:
        plain[position] ^= 1 << data.draw(st.integers(0, 7))
    masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(plain))
    size = len(masked)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    receiver.receive_data(wire[:1] + length + key + masked)
    (event,) = receiver.events_received()
    if isinstance(event, Failed):
        assert event.error.close_code in (1007, 1009)
    else:
        assert isinstance(event, bytes)
        assert not truncated or bytes(plain) == b"\x00"


def test_the_default_engine_is_the_best() -> None:
    codec, _ = agreed(Client(memory="large"), Server(memory="large"))
    assert codec.statistics()["engine"] == deflate.best_engine().name
