"""``syncws.extensions``: what an extension does by itself, and what may be claimed."""

from __future__ import annotations

from typing import Any

import pytest
from extending import Adding, pass_on, protocols

from syncws.exceptions import NegotiationError
from syncws.extensions import (
    ClientExtensionFactory,
    Extension,
    Fragment,
    ServerExtensionFactory,
    check_compatible,
)
from syncws.frames import Opcode, Record, lib

TEXT, BINARY = Opcode.TEXT, Opcode.BINARY


def piece(data: bytes, first: bool = True, last: bool = True, **more: Any) -> Record:
    return Record(lib.SYNCWS_PIECE, more.pop("opcode", BINARY), data, first, last, **more)


# -- what an extension does by itself -------------------------------------------------------


def test_an_extension_that_does_nothing() -> None:
    extension = Extension()
    fragment = Fragment(TEXT, b"data")
    assert extension.encode(fragment) is fragment
    assert extension.decode(fragment, None) is fragment
    assert extension.forget_message()
    assert extension.statistics() == {}
    extension.attach(lambda opcode, data: True)
    extension.receive_control(11, b"")
    extension.connection_ended()
    (sender, receiver) = protocols([extension], [Extension()])
    sender.send_message("text")
    sender.send_message(b"bytes", fin=False)
    sender.send_continuation(b" more", fin=True)
    assert pass_on(sender, receiver) == ["text", b"bytes more"]


def test_what_has_to_be_written() -> None:
    with pytest.raises(NotImplementedError, match="ExtensionFactory has no get_request_params"):
        ClientExtensionFactory().get_request_params()
    with pytest.raises(
        NotImplementedError, match="ExtensionFactory has no process_response_params"
    ):
        ClientExtensionFactory().process_response_params([], [])
    with pytest.raises(NotImplementedError, match="ExtensionFactory has no process_request_params"):
        ServerExtensionFactory().process_request_params([], [])


def test_what_a_factory_returns_is_checked() -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="returned None, which is not an Extension"):
        check_compatible(nothing, [])


@pytest.mark.parametrize(
    ("claims", "other", "compatible"),
    [
        ({}, {}, True),
        ({"rsv": 4}, {"rsv": 2}, True),
        ({"rsv": 4}, {"rsv": 6}, False),
        ({"opcodes": [3, 11]}, {"opcodes": [4, 12]}, True),
        ({"opcodes": [3, 11]}, {"opcodes": [4, 11]}, False),
        ({"rsv": 8}, {}, False),
        ({"opcodes": [2]}, {}, False),
        ({"opcodes": [8]}, {}, False),
        ({"opcodes": [16]}, {}, False),
    ],
)
def test_what_may_be_claimed_together(
    claims: dict[str, Any], other: dict[str, Any], compatible: bool
) -> None:
    extension, accepted = Adding(**claims), Adding(name="other", **other)
    if compatible:
        check_compatible(extension, [accepted])
    else:
        with pytest.raises(NegotiationError, match="adding"):
            check_compatible(extension, [accepted])
