"""Group C of the catalogue, negotiation: C2 and C3, as a raw peer sees it.

The literal table of what is offered, accepted and declined is in the tests of the modules;
here are the values that have broken other libraries, against the public API.
"""

from __future__ import annotations

import pytest

import syncws

from . import peer as wire
from .deflating import NAME, open_deflating, parse
from .subject import Subject

# RFC 7692 section 7.1.2: a decimal integer between 8 and 15 without leading zeros.
BAD_VALUES = [
    *("7", "16", "08", "010", "+10", "-9", "10abc", "1e1", "0x9", "", "999", "2147483648"),
    "99999999999999999999",
    '"7"',
    '" 9"',
    "\u0661\u0660",
]
MALFORMED = [
    *(f"{NAME}; server_max_window_bits={value}" for value in BAD_VALUES),
    *(f"{NAME}; client_max_window_bits={value}" for value in BAD_VALUES),
    f"{NAME}; server_max_window_bits",
    f"{NAME}; server_no_context_takeover=1",
    f"{NAME}; client_no_context_takeover=true",
    f"{NAME}; server_no_context_takeover; server_no_context_takeover",
    f"{NAME}; client_max_window_bits=9; client_max_window_bits=9",
    f"{NAME}; unknown",
    f"{NAME}; unknown=1",
    f"{NAME}; Server_No_Context_Takeover_",
]


def extensions(head: bytes) -> list[str]:
    """What a head says about extensions."""
    return wire.header_values(head, "Sec-WebSocket-Extensions")


def offer(subject: Subject, value: str) -> list[str]:
    """What the server answers to an offer; the connection has to work either way."""
    headers = [("Sec-WebSocket-Extensions", value.encode().decode("latin-1"))]
    with subject.open(headers=headers) as conversation:
        answer = extensions(conversation.peer.head)
        conversation.peer.send_frame(wire.TEXT, b"x")
        assert conversation.peer.read_frame() is not None
        conversation.expect_normal_end()
    return answer


@pytest.mark.parametrize("value", MALFORMED)
def test_C2_a_bad_offer_is_declined_as_a_whole(plain_server: Subject, value: str) -> None:
    """RFC 7692 section 7.1: decline. The connection opens without the extension."""
    try:
        answer = offer(plain_server, value)
    except AssertionError as error:
        # A header that cannot be parsed at all may be answered with 400, too.
        assert "400" in str(error), error
    else:
        assert answer == []


@pytest.mark.parametrize("value", MALFORMED)
def test_C2_an_offer_behind_a_bad_one_is_accepted(plain_server: Subject, value: str) -> None:
    try:
        answer = offer(plain_server, f"{value}, {NAME}")
    except AssertionError as error:
        assert "400" in str(error), error
    else:
        assert len(answer) == 1
        assert parse(answer[0]).keys() <= {
            "server_no_context_takeover",
            "client_no_context_takeover",
            "server_max_window_bits",
        }


@pytest.mark.parametrize("bits", range(8, 16))
def test_C2_every_window_that_a_client_may_ask_for(plain_server: Subject, bits: int) -> None:
    """8 as well, by whatever means: what comes is inflated with no more than that window."""
    (answer, *more) = [*offer(plain_server, f"{NAME}; server_max_window_bits={bits}"), ""]
    if bits > 8 or answer:
        assert more == [""]
        granted = parse(answer)["server_max_window_bits"]
        assert granted is not None
        assert 8 <= int(granted) <= bits
        conversation, deflating = open_deflating(
            plain_server, {"server_max_window_bits": str(bits)}
        )
        with conversation:
            data = b"".join(b"%d," % number for number in range(500)) * 3
            for _ in range(3):
                deflating.send(wire.TEXT, data)
                deflating.expect(wire.TEXT, data)
            conversation.expect_normal_end()


def test_C2_the_client_of_a_server_with_a_window_of_8_bits(subject: Subject) -> None:
    """The peer compresses with it: an inflater with a larger window reads that as well."""
    parameters = {"client_max_window_bits" if subject.is_server else "server_max_window_bits": "8"}
    conversation, deflating = open_deflating(subject, parameters)
    with conversation:
        for number in range(20):
            data = b"%d and so on" % number * 100
            deflating.send(wire.TEXT, data)
            deflating.expect(wire.TEXT, data)
        conversation.expect_normal_end()


@pytest.mark.parametrize(
    "value",
    [
        *MALFORMED,
        f"{NAME}; client_max_window_bits",
        f"{NAME}, {NAME}",
        "permessage-bzip2",
        f"{NAME}, permessage-bzip2",
        "x-webkit-deflate-frame",
        f"{NAME};",
        f"{NAME}; ;",
        f"{NAME}; =9",
        f'{NAME}; server_max_window_bits="9',
    ],
)
def test_C3_a_bad_answer_fails_the_handshake(client: Subject, value: str) -> None:
    """RFC 7692 section 7.1, RFC 6455 section 4.1: and no thread or socket is left."""
    outcome = client.start_client()
    headers = [("Sec-WebSocket-Extensions", value.encode().decode("latin-1"))]
    with client.listener.accept(headers=headers) as peer:
        outcome.wait()
        assert isinstance(outcome.error, syncws.InvalidHandshake), repr(outcome.error)
        # What it was, for whoever reads the log.
        assert "extension" in str(outcome.error).lower() or NAME in str(outcome.error)
        peer.read_raw()


def test_C3_an_answer_that_was_not_asked_for(client: Subject) -> None:
    outcome = client.start_client(compression=None)
    with client.listener.accept(headers=[("Sec-WebSocket-Extensions", NAME)]) as peer:
        assert extensions(peer.head) == []
        outcome.wait()
        assert isinstance(outcome.error, syncws.InvalidHandshake), repr(outcome.error)
        peer.read_raw()


@pytest.mark.parametrize(
    "value",
    [
        NAME,
        f"{NAME}; server_no_context_takeover",
        f"{NAME}; client_no_context_takeover",
        f"{NAME};client_max_window_bits=9;server_max_window_bits=15",
        f'{NAME} ; server_max_window_bits = "10"',
        f"{NAME}; server_no_context_takeover; client_no_context_takeover; "
        "server_max_window_bits=9; client_max_window_bits=9",
    ],
)
def test_C3_good_answers_are_taken(client: Subject, value: str) -> None:
    headers = [("Sec-WebSocket-Extensions", value)]
    with client.open(headers=headers) as conversation:
        conversation.peer.send_frame(wire.TEXT, b"x")
        assert conversation.peer.read_frame() is not None
        conversation.expect_normal_end()
