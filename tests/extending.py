"""Extensions for tests, and two protocols that talk through them.

What belongs here: what the tests of several modules share. What does not: expectations.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from syncws.deflate import Engine, stdlib_engine
from syncws.extensions import (
    ClientExtensionFactory,
    Extension,
    ExtensionParameters,
    Fragment,
    SendControl,
    ServerExtensionFactory,
    Unit,
)
from syncws.frames import Side
from syncws.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from syncws.protocol import Protocol


class Adding(Extension):
    """Puts a mark behind each unit, sets an RSV bit if it owns one, and remembers its calls."""

    def __init__(
        self,
        mark: bytes = b"!",
        rsv: int = 0,
        opcodes: Sequence[int] = (),
        unit: Unit = Unit.MESSAGE,
        name: str = "adding",
    ) -> None:
        self.mark = mark
        self.rsv = rsv
        self.opcodes = frozenset(opcodes)
        self.unit = unit
        self.name = name
        self.calls: list[Any] = []
        self.send_control: SendControl | None = None
        self.forgets = True

    def encode(self, fragment: Fragment) -> Fragment:
        self.calls.append(("encode", bytes(fragment.data)))
        rsv = fragment.rsv | self.rsv if fragment.first else fragment.rsv
        return fragment._replace(data=bytes(fragment.data) + self.mark, rsv=rsv)

    def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
        self.calls.append(("decode", bytes(fragment.data), max_size))
        data = bytes(fragment.data)
        if not data.endswith(self.mark):
            raise ValueError("no mark")
        return fragment._replace(
            data=memoryview(data)[: len(data) - len(self.mark)], rsv=fragment.rsv & ~self.rsv
        )

    def forget_message(self) -> bool:
        self.calls.append("forget")
        return self.forgets

    def attach(self, send_control: SendControl) -> None:
        self.send_control = send_control

    def receive_control(self, opcode: int, data: bytes) -> None:
        self.calls.append(("control", opcode, data))

    def connection_ended(self) -> None:
        self.calls.append("ended")

    def statistics(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}


class ClientOffer(ClientExtensionFactory):
    """Offers any extension."""

    def __init__(self, name: str, params: ExtensionParameters = (), **claims: Any) -> None:
        self.name = name
        self.params = params
        self.claims = claims
        self.made: list[Adding] = []

    def get_request_params(self) -> ExtensionParameters:
        return self.params

    def process_response_params(
        self, params: ExtensionParameters, accepted_extensions: Sequence[Extension]
    ) -> Extension:
        self.made.append(Adding(name=self.name, **self.claims))
        return self.made[-1]


class ServerOffer(ServerExtensionFactory):
    """Accepts any extension."""

    def __init__(self, name: str, answer: ExtensionParameters = (), **claims: Any) -> None:
        self.name = name
        self.answer = answer
        self.claims = claims
        self.made: list[Adding] = []

    def process_request_params(
        self, params: ExtensionParameters, accepted_extensions: Sequence[Extension]
    ) -> tuple[ExtensionParameters, Extension]:
        self.made.append(Adding(name=self.name, **self.claims))
        return self.answer, self.made[-1]


def engines() -> list[Engine]:
    """Those that are installed."""
    found = [stdlib_engine()]
    try:
        found.append(Engine("zlib-ng", importlib.import_module("zlib_ng.zlib_ng")))
    except ImportError:  # it is optional
        pass
    return found


def agreed(
    client: ClientPerMessageDeflateFactory | None = None,
    server: ServerPerMessageDeflateFactory | None = None,
) -> tuple[Extension, Extension]:
    """The codecs of permessage-deflate of both sides."""
    client = client or ClientPerMessageDeflateFactory()
    server = server or ServerPerMessageDeflateFactory()
    answer, theirs = server.process_request_params(client.get_request_params(), [])
    return client.process_response_params(answer, []), theirs


def protocols(
    client: Sequence[Extension], server: Sequence[Extension], **limits: Any
) -> tuple[Protocol, Protocol]:
    return (
        Protocol(Side.CLIENT, extensions=client, **limits),
        Protocol(Side.SERVER, extensions=server, **limits),
    )


def pass_on(sender: Protocol, receiver: Protocol, size: int = 0) -> list[Any]:
    """What the receiver makes of what the sender has to send, in reads of ``size`` bytes."""
    data = b"".join(sender.data_to_send())
    size = size or max(1, len(data))
    for start in range(0, len(data), size):
        receiver.receive_data(data[start : start + size])
    return receiver.events_received()
