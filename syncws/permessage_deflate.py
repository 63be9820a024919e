"""``permessage-deflate`` (RFC 7692): what is agreed on, and the extension itself.

What belongs here: the parameters and their rules on both sides, presets of memory, and
which messages are compressed. What does not: compressing (:mod:`.deflate`).
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from .deflate import Compression, Deflater, Engine, Inflater, best_engine, stdlib_engine
from .exceptions import NegotiationError
from .extensions import (
    ClientExtensionFactory,
    Extension,
    ExtensionParameters,
    Fragment,
    ServerExtensionFactory,
    Unit,
    WholeMessageExtension,
)
from .frames import UNLIMITED, joined

__all__ = [
    "ClientPerMessageDeflateFactory",
    "Memory",
    "PerMessageDeflate",
    "ServerPerMessageDeflateFactory",
]


Memory: TypeAlias = Literal["small", "medium", "large"]
"""How much memory compression may take for a connection."""

_NAME = "permessage-deflate"
_RSV1 = 4
# Section 7.1.2: decimal, no sign, no leading zero.
_is_window_bits = re.compile(r"8|9|1[0-5]").fullmatch
_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS = ("server_max_window_bits", "client_max_window_bits")


@dataclasses.dataclass(frozen=True, slots=True)
class _Preset:
    takeover: bool
    window_bits: int
    memory_level: int


_PRESETS: dict[str, _Preset] = {
    "small": _Preset(False, 15, 8),  # what is borrowed may be large
    "medium": _Preset(True, 12, 5),
    "large": _Preset(True, 15, 8),
}
# zlib-ng has no small compressors: 139 KB each, whatever is asked for. Where memory was asked
# to be small, those of the standard library are better.
_SMALL_WINDOW = 12


def _parse(params: ExtensionParameters, bare: str) -> dict[str, int]:
    """The parameters by name; 0 is the value of those without one.

    Args:
        params: As they came.
        bare: The window parameter that may come without a value, if any.

    Raises:
        NegotiationError: One is unknown, comes twice, or has a bad value.
    """
    parsed: dict[str, int] = {}
    for name, value in params:
        if name in parsed:
            raise NegotiationError(f"{_NAME}: {name} comes twice")
        if name in _FLAGS and value is None:
            parsed[name] = 0
        elif name in _WINDOWS and value is None and name == bare:
            parsed[name] = 0
        elif name in _WINDOWS and value is not None and _is_window_bits(value):
            parsed[name] = int(value)
        elif name in _FLAGS or name in _WINDOWS:
            raise NegotiationError(f"{_NAME}: {name} has a value that it must not have")
        else:
            raise NegotiationError(f"{_NAME}: a parameter is unknown")
    return parsed


class PerMessageDeflate(WholeMessageExtension):
    """The codec of one connection.

    Args:
        engine: For what is not kept between messages; see :class:`~.deflate.Engine`.
        inflater: For incoming messages.
        deflater: For outgoing messages; ``None``: they are never compressed.
        threshold: Bytes; shorter messages are not compressed unless the caller wishes it.
        description: For ``repr()``.
    """

    name = _NAME
    rsv = _RSV1
    unit = Unit.PIECE

    def __init__(
        self,
        *,
        inflater: Inflater,
        deflater: Deflater | None,
        threshold: int,
        description: Mapping[str, Any],
    ) -> None:
        self._inflater = inflater
        self._deflater = deflater
        self.threshold = UNLIMITED if deflater is None else threshold
        self._description = description
        # Whether the outgoing message under way is compressed.
        self._compressing = False
        # Bytes of compressed messages, as they are and as they are on the wire; each pair
        # is written by one thread at a time.
        self._sent = self._sent_compressed = 0
        self._received = self._received_compressed = 0

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={value!r}" for name, value in self._description.items())
        return f"<{type(self).__name__} {parts}>"

    def encode(self, fragment: Fragment) -> Fragment:
        """See :meth:`Extension.encode`."""
        if fragment.first:
            self._compressing = self._wanted(fragment)
        if not self._compressing:
            return fragment
        assert self._deflater is not None
        data = self._deflater.piece(fragment.data, fragment.last, fragment.frame_end)
        self._sent += len(fragment.data)
        self._sent_compressed += len(data)
        # Section 6.1: RSV1 on the first frame only.
        rsv = fragment.rsv | _RSV1 if fragment.first else fragment.rsv
        return fragment._replace(data=data, rsv=rsv)

    def _wanted(self, fragment: Fragment) -> bool:
        if self._deflater is None or fragment.compress is False:
            return False
        # How long a message in fragments will be, nobody knows.
        return fragment.compress is True or not fragment.last or self._pays(len(fragment.data))

    def _pays(self, size: int) -> bool:
        return size >= self.threshold

    def encode_message(self, data: bytes, compress: bool | None) -> tuple[int, bytes]:
        """See :class:`WholeMessageExtension`."""
        deflater = self._deflater
        if compress is None:
            compress = self._pays(len(data))
        if deflater is None or not compress:
            return 0, data
        compressed = deflater.message(data)
        self._sent += len(data)
        self._sent_compressed += len(compressed)
        return _RSV1, compressed

    def decode(self, fragment: Fragment, max_size: int | None) -> Fragment:
        """See :meth:`Extension.decode`."""
        compressed = bytes(fragment.data)
        limit = _LARGEST if max_size is None else max_size
        data = joined(self.decode_parts(compressed, fragment.last, limit))
        return fragment._replace(data=data, rsv=fragment.rsv & ~_RSV1)

    def decode_parts(self, data: bytes, last: bool, max_size: int) -> list[bytes]:
        """Decodes a part of a message into bytes that need not be put together."""
        parts = self._inflater.parts(data, last, min(max_size, _LARGEST))
        self._received += sum(map(len, parts))
        self._received_compressed += len(data)
        return parts

    def decode_messages(self, messages: Sequence[bytes], max_size: int) -> list[bytes]:
        """See :class:`WholeMessageExtension`."""
        done = self._inflater.messages(messages, min(max_size, _LARGEST))
        self._received += sum(map(len, done))
        self._received_compressed += sum(map(len, messages[: len(done)]))
        return done

    def forget_message(self) -> bool:
        """See :meth:`Extension.forget_message`."""
        if self._deflater is not None:
            self._deflater.forget()
        return True

    def statistics(self) -> Mapping[str, Any]:
        """The parameters, and bytes of compressed messages with and without compression."""
        return {
            **self._description,
            "sent": self._sent,
            "sent_compressed": self._sent_compressed,
            "received": self._received,
            "received_compressed": self._received_compressed,
        }


_LARGEST = 2**62  # more than memory has, and an argument that every engine takes


class _Settings:
    """What both factories have in common: how we compress ourselves."""

    def __init__(
        self,
        memory: Memory,
        level: int,
        memory_level: int | None,
        strategy: int,
        threshold: int,
    ) -> None:
        if memory not in _PRESETS:
            raise ValueError(f"memory must be 'small', 'medium' or 'large', not {memory!r}")
        self.preset = _PRESETS[memory]
        _check("level", level, -1, 9)
        _check("strategy", strategy, 0, 4)
        _check("threshold", threshold, 0, UNLIMITED)
        if memory_level is None:
            memory_level = self.preset.memory_level
        _check("memory_level", memory_level, 1, 9)
        self.level = level
        self.memory_level = memory_level
        self.strategy = strategy
        self.threshold = threshold

    def extension(
        self, *, receive_bits: int, receive_takeover: bool, send_bits: int, send_takeover: bool
    ) -> PerMessageDeflate:
        """The codec for what was agreed on."""
        engine = best_engine()
        compressing = engine
        deflater = None
        if send_bits > 8:
            # No engine can compress with a window of 8 bits (section 7.1.2): with one of 9 the
            # peer could not read it. We may still send everything uncompressed.
            if send_takeover and send_bits <= _SMALL_WINDOW:
                compressing = stdlib_engine()
            deflater = Deflater(
                compressing,
                Compression(send_bits, self.level, self.memory_level, self.strategy),
                send_takeover,
            )
        return PerMessageDeflate(
            inflater=Inflater(engine, receive_bits, receive_takeover),
            deflater=deflater,
            threshold=self.threshold,
            description={
                "engine": _engine_names(compressing, engine),
                "send_window_bits": send_bits,
                "send_context_takeover": send_takeover,
                "receive_window_bits": receive_bits,
                "receive_context_takeover": receive_takeover,
            },
        )


def _engine_names(compressing: Engine, decompressing: Engine) -> str:
    if compressing == decompressing:
        return compressing.name
    return f"{compressing.name}, {decompressing.name}"


def _check(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {value}")


def _check_flag(name: str, value: bool | None) -> None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


def _serialize(
    flags: Mapping[str, bool], windows: Mapping[str, int | bool | None]
) -> ExtensionParameters:
    params: list[tuple[str, str | None]] = [(name, None) for name, on in flags.items() if on]
    for name, value in windows.items():
        if value is True:
            params.append((name, None))
        elif value:
            params.append((name, str(value)))
    return params


class ClientPerMessageDeflateFactory(ClientExtensionFactory):
    """Offers ``permessage-deflate``.

    Args:
        server_no_context_takeover: Ask the server not to refer to earlier messages, so that
            nothing has to be remembered for it. Default: as ``memory`` says.
        client_no_context_takeover: Tell the server that we do not refer to earlier messages.
            Default: as ``memory`` says.
        server_max_window_bits: Ask the server to refer back by 2 to the power of it bytes at
            most, 8 to 15. A server that cannot declines. Default: nothing is asked for.
        client_max_window_bits: ``True``: the server may limit how far we refer back; a number
            from 9 to 15: and we limit it to that anyway; ``None``: it may not. However far
            we may, we refer back as far as ``memory`` says.
        level: Of compression, 0 to 9, -1 for the engine's default (6). 1 is about twice as
            fast, and makes messages a quarter larger.
        memory_level: 1 to 9, of the compressor's state. Default: as ``memory`` says.
        strategy: As for :func:`zlib.compressobj`.
        threshold: Bytes; shorter messages are not compressed.
        memory: ``"small"``: nothing is kept between messages; they compress much less well.
            ``"medium"``: about 45 KiB for a connection that has sent and received. ``"large"``:
            about 300 KiB, for messages of tens of KiB that resemble each other.

    Raises:
        TypeError, ValueError: Naming the argument.
    """

    name = _NAME

    def __init__(
        self,
        *,
        server_no_context_takeover: bool | None = None,
        client_no_context_takeover: bool | None = None,
        server_max_window_bits: int | None = None,
        client_max_window_bits: int | bool | None = True,
        level: int = -1,
        memory_level: int | None = None,
        strategy: int = zlib.Z_DEFAULT_STRATEGY,
        threshold: int = 128,
        memory: Memory = "medium",
    ) -> None:
        self._settings = settings = _Settings(memory, level, memory_level, strategy, threshold)
        _check_flag("server_no_context_takeover", server_no_context_takeover)
        _check_flag("client_no_context_takeover", client_no_context_takeover)
        if server_max_window_bits is not None:
            _check("server_max_window_bits", server_max_window_bits, 8, 15)
        if client_max_window_bits is False:
            raise TypeError("client_max_window_bits must be True, None or a number, not False")
        if client_max_window_bits is not None and client_max_window_bits is not True:
            _check("client_max_window_bits", client_max_window_bits, 9, 15)
        takeover = settings.preset.takeover
        self._server_takeover = _given(server_no_context_takeover, not takeover) is False
        self._client_takeover = _given(client_no_context_takeover, not takeover) is False
        self._server_bits = server_max_window_bits
        self._client_bits = client_max_window_bits

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_show(self.get_request_params())}>"

    def get_request_params(self) -> ExtensionParameters:
        """See :meth:`ClientExtensionFactory.get_request_params`."""
        return _serialize(
            {
                "server_no_context_takeover": not self._server_takeover,
                "client_no_context_takeover": not self._client_takeover,
            },
            {
                "server_max_window_bits": self._server_bits,
                "client_max_window_bits": self._client_bits,
            },
        )

    def process_response_params(
        self, params: ExtensionParameters, accepted_extensions: Sequence[Extension]
    ) -> PerMessageDeflate:
        """See :meth:`ClientExtensionFactory.process_response_params`."""
        answer = _parse(params, bare="")
        if not self._server_takeover and "server_no_context_takeover" not in answer:
            # Section 7.1.1.1: accepting the offer means to promise it.
            raise NegotiationError(f"{_NAME}: the server did not agree to no context takeover")
        server_bits = answer.get("server_max_window_bits")
        if self._server_bits is not None and (server_bits or 16) > self._server_bits:
            # Section 7.1.2.1: "the same or smaller value".
            raise NegotiationError(f"{_NAME}: the server did not agree to server_max_window_bits")
        client_bits = answer.get("client_max_window_bits")
        if client_bits is not None and self._client_bits is None:
            # Section 7.1.2.2: only in answer to an offer that has it.
            raise NegotiationError(f"{_NAME}: client_max_window_bits was not offered")
        own = self._settings.preset.window_bits
        if self._client_bits is not None and self._client_bits is not True:
            own = self._client_bits
        return self._settings.extension(
            receive_bits=server_bits or 15,
            receive_takeover="server_no_context_takeover" not in answer,
            send_bits=min(client_bits or 15, own),
            send_takeover=self._client_takeover and "client_no_context_takeover" not in answer,
        )


class ServerPerMessageDeflateFactory(ServerExtensionFactory):
    """Accepts ``permessage-deflate``.

    Args:
        server_no_context_takeover: Do not refer to earlier messages. Default: as ``memory``
            says, and whenever a client asks for it.
        client_no_context_takeover: Forbid clients to refer to earlier messages. Default: as
            ``memory`` says.
        server_max_window_bits: How far we refer back, 9 to 15; less if a client asks for it.
            Default: as ``memory`` says.
        client_max_window_bits: How far clients may refer back, 8 to 15, if they let us choose.
            Default: as ``memory`` says.
        require_client_max_window_bits: Decline clients that do not let us choose.
        level: As for :class:`ClientPerMessageDeflateFactory`, like all that follow.
        memory_level: 1 to 9.
        strategy: As for :func:`zlib.compressobj`.
        threshold: Bytes; shorter messages are not compressed.
        memory: ``"small"``, ``"medium"`` or ``"large"``.

    Raises:
        TypeError, ValueError: Naming the argument.
    """

    name = _NAME

    def __init__(
        self,
        *,
        server_no_context_takeover: bool | None = None,
        client_no_context_takeover: bool | None = None,
        server_max_window_bits: int | None = None,
        client_max_window_bits: int | None = None,
        require_client_max_window_bits: bool = False,
        level: int = -1,
        memory_level: int | None = None,
        strategy: int = zlib.Z_DEFAULT_STRATEGY,
        threshold: int = 128,
        memory: Memory = "medium",
    ) -> None:
        self._settings = settings = _Settings(memory, level, memory_level, strategy, threshold)
        _check_flag("server_no_context_takeover", server_no_context_takeover)
        _check_flag("client_no_context_takeover", client_no_context_takeover)
        _check_flag("require_client_max_window_bits", require_client_max_window_bits)
        preset = settings.preset
        self._server_bits = _given(server_max_window_bits, preset.window_bits)
        _check("server_max_window_bits", self._server_bits, 9, 15)
        self._client_bits = _given(client_max_window_bits, preset.window_bits)
        _check("client_max_window_bits", self._client_bits, 8, 15)
        self._server_takeover = _given(server_no_context_takeover, not preset.takeover) is False
        self._client_takeover = _given(client_no_context_takeover, not preset.takeover) is False
        self._required = require_client_max_window_bits

    def process_request_params(
        self, params: ExtensionParameters, accepted_extensions: Sequence[Extension]
    ) -> tuple[ExtensionParameters, PerMessageDeflate]:
        """See :meth:`ServerExtensionFactory.process_request_params`."""
        offer = _parse(params, bare="client_max_window_bits")
        asked = offer.get("server_max_window_bits", 15)
        if asked == 8:
            raise NegotiationError(f"{_NAME}: no engine can compress with a window of 8 bits")
        server_bits = min(asked, self._server_bits)
        server_takeover = self._server_takeover and "server_no_context_takeover" not in offer
        client_takeover = self._client_takeover and "client_no_context_takeover" not in offer
        client_bits = 15
        if "client_max_window_bits" in offer:
            client_bits = min(offer["client_max_window_bits"] or 15, self._client_bits)
        elif self._required:
            raise NegotiationError(f"{_NAME}: client_max_window_bits is required")
        answer = _serialize(
            {
                "server_no_context_takeover": not server_takeover,
                "client_no_context_takeover": not client_takeover,
            },
            {
                "server_max_window_bits": (
                    server_bits if server_bits < 15 or "server_max_window_bits" in offer else None
                ),
                "client_max_window_bits": client_bits if client_bits < 15 else None,
            },
        )
        return answer, self._settings.extension(
            receive_bits=client_bits,
            receive_takeover=client_takeover,
            send_bits=server_bits,
            send_takeover=server_takeover,
        )


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _show(params: ExtensionParameters) -> str:
    return "; ".join(name if value is None else f"{name}={value}" for name, value in params)
