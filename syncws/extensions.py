"""Extensions (RFC 6455 section 9): what they are, and how several work together.

What belongs here: the classes that an extension is written with, and the chain that a
connection sends and receives messages through. What does not: the header in which
extensions are agreed on (:mod:`.negotiation`), and any particular extension
(:mod:`.permessage_deflate`).

A *factory* stands for an extension that a program is willing to use. When the opening
handshake settles on it, the factory makes an :class:`Extension`: the codec of that one
connection. Messages are encoded by the extensions in the order of the header, and decoded
in the opposite order.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from .exceptions import NegotiationError

__all__ = [
    "ClientExtensionFactory",
    "Extension",
    "ExtensionParameters",
    "Fragment",
    "SendControl",
    "ServerExtensionFactory",
    "Unit",
    "WholeMessageExtension",
    "check_compatible",
]

ExtensionParameters: TypeAlias = Sequence[tuple[str, str | None]]
"""Parameters of an extension in the header; ``None`` is the value of one without a value."""

SendControl: TypeAlias = Callable[[int, bytes], bool]
"""Sends a control frame (opcode, payload) without waiting; whether it could."""


class Unit(enum.Enum):
    """How much of a message an extension wants at a time."""

    PIECE = "piece"
    """Whatever there is: parts of frames, as they come."""
    FRAME = "frame"
    """Whole frames; in front of an extension that gets whole messages, these."""
    MESSAGE = "message"
    """Whole messages."""


class Fragment(NamedTuple):
    """A part of a message, or all of it, on its way through the extensions.

    Attributes:
        opcode: That of the message: ``Opcode.TEXT``, ``Opcode.BINARY``, or one of 3 to 7
            that an extension owns.
        data: The bytes. They are valid during the call only, and must not be changed.
        first: The message begins with it.
        last: The message ends with it.
        rsv: RSV bits of the message: RSV1 = 4, RSV2 = 2, RSV3 = 1.
        frame_end: A frame ends with it. When encoding, ``False`` says that more of the
            message follows at once, so an encoder may keep bytes back.
        compress: What the caller of ``send()`` wishes: ``False`` for no compression,
            ``True`` for compression, ``None`` for what the extension thinks best.
    """

    opcode: int
    data: Any
    first: bool = True
    last: bool = True
    rsv: int = 0
    frame_end: bool = True
    compress: bool | None = None


class Extension:
    """The codec of one extension on one connection. Subclass it.

    ``encode`` runs in threads that send, one at a time; ``decode`` in whichever thread
    reads, one at a time: one that receives, or the thread that reads for everybody. Both
    may run at the same time as each other. Neither may wait for anything.

    An extension that owns RSV bits or opcodes, be they of control frames, is shown only those
    incoming messages that carry one of them; one that owns none is shown every message. So a
    peer can pass by one that owns an RSV bit, by leaving that out.

    What ``decode`` raises fails the connection: a :exc:`ProtocolError` with its
    ``close_code``, anything else with 1011. What ``encode`` raises comes out of ``send()``.

    Attributes:
        name: As in the header.
        rsv: RSV bits it owns: RSV1 = 4, RSV2 = 2, RSV3 = 1.
        opcodes: Reserved opcodes it owns: 3 to 7 for messages, 11 to 15 for control frames.
        unit: How much of a message it wants at a time.
    """

    name: str = ""
    rsv: int = 0
    opcodes: frozenset[int] = frozenset()
    unit: Unit = Unit.MESSAGE

    def encode(self, fragment: Fragment) -> Fragment:
        """Encodes a part of an outgoing message.

        Args:
            fragment: What to encode. With :attr:`unit` ``MESSAGE`` all of a message.

        Returns:
            What to send instead; perhaps with RSV bits set on the first fragment.
        """
        return fragment

    def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
        """Decodes a part of an incoming message.

        Args:
            fragment: What has come.
            max_size: Bytes that the result may have at most; ``None`` for no limit. If it
                would have more, raise :exc:`PayloadTooBig`, before memory is spent on it.

        Returns:
            The decoded part, with this extension's own RSV bits and opcode gone.
        """
        return fragment

    def forget_message(self) -> bool:
        """What was encoded last has not been sent, and will not be.

        Returns:
            Whether the next message can be encoded all the same. An extension whose output
            depends on earlier messages starts afresh, or returns ``False``, and the
            connection fails.
        """
        return True

    def attach(self, send_control: SendControl) -> None:
        """The connection is open.

        Args:
            send_control: Sends a control frame with one of :attr:`opcodes`, from any thread;
                ``False`` if there is no room for it now. Raises :exc:`ConnectionClosed`.
        """

    def receive_control(self, opcode: int, data: bytes) -> None:
        """A control frame with one of :attr:`opcodes` has come; runs like ``decode``."""

    def connection_ended(self) -> None:
        """The connection has ended, perhaps beside ``encode``. What it raises is ignored."""

    def statistics(self) -> Mapping[str, Any]:
        """Figures for ``Connection.stats``; may be called by any thread at any time."""
        return {}


class WholeMessageExtension(Extension):
    """One that need not see every outgoing message, and has a shorter way for whole ones.

    Attributes:
        threshold: Bytes from which on a message is encoded, if the caller has no wish.
        encode_message: Encodes a whole message: its RSV bits and its payload.
        decode_messages: Decodes the first of several whole messages; perhaps none of them.
        decode_parts: Decodes a part of a message into bytes that are not put together.
    """

    threshold: int
    encode_message: Callable[[bytes, bool | None], tuple[int, bytes]]
    decode_messages: Callable[[Sequence[bytes], int], list[bytes]]
    decode_parts: Callable[[bytes, bool, int], list[bytes]]


class ClientExtensionFactory:
    """An extension that a client offers. Subclass it.

    The same factory may serve any number of connections at the same time. Several factories
    of one name are several offers, the preferred one first.

    Attributes:
        name: As in the header.
    """

    name: str = ""

    def get_request_params(self) -> ExtensionParameters:
        """The parameters of the offer."""
        raise NotImplementedError(f"{type(self).__name__} has no get_request_params()")

    def process_response_params(
        self, params: ExtensionParameters, accepted_extensions: Sequence[Extension]
    ) -> Extension:
        """The server accepted an offer of this name.

        Args:
            params: As the server answered.
            accepted_extensions: Those accepted before this one.

        Returns:
            The codec.

        Raises:
            NegotiationError: The parameters do not answer this offer.
        """
        raise NotImplementedError(f"{type(self).__name__} has no process_response_params()")


class ServerExtensionFactory:
    """An extension that a server accepts. Subclass it.

    The same factory may serve any number of connections at the same time. Its method runs in
    handler threads.

    Attributes:
        name: As in the header.
    """

    name: str = ""

    def process_request_params(
        self, params: ExtensionParameters, accepted_extensions: Sequence[Extension]
    ) -> tuple[ExtensionParameters, Extension]:
        """A client offers an extension of this name.

        Args:
            params: Of the offer.
            accepted_extensions: Those accepted before this one.

        Returns:
            The parameters of the answer, and the codec.

        Raises:
            NegotiationError: The offer is declined; the next one may be accepted.
        """
        raise NotImplementedError(f"{type(self).__name__} has no process_request_params()")


def check_compatible(extension: Extension, accepted: Sequence[Extension]) -> None:
    """Whether ``extension`` may be used together with those accepted before it.

    Raises:
        NegotiationError: It claims an RSV bit or an opcode of one of them (RFC 6455 9.1), or
            one that no extension may have (section 5.2).
        TypeError: It is no extension.
    """
    if not isinstance(extension, Extension):
        raise TypeError(f"a factory returned {extension!r}, which is not an Extension")
    if extension.rsv & ~7 or extension.opcodes - {3, 4, 5, 6, 7, 11, 12, 13, 14, 15}:
        raise NegotiationError(f"extension {extension.name} claims what is not reserved")
    for other in accepted:
        if extension.rsv & other.rsv or extension.opcodes & other.opcodes:
            raise NegotiationError(
                f"extensions {other.name} and {extension.name} claim the same bit or opcode"
            )
