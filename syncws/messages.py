"""Messages as programs pass them, and the frames they become.

What belongs here: which Python types stand for which messages, and cutting a message
into frames. What does not: encoding a frame (:mod:`.frames`), sending it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .frames import Opcode
from .transport import Buffer

__all__ = [
    "as_message",
    "control_payload",
    "converted",
    "fragment_frames",
    "payload_of",
    "split_frame",
]


def converted(message: Any, decode: bool | None) -> Any:
    if decode is True and isinstance(message, bytes):
        return message.decode()
    if decode is False and isinstance(message, str):
        return message.encode()
    return message


def as_message(data: object) -> str | Buffer | None:
    """``data`` if it can be a message; a copy of maps of memory, arrays of bytes and the like.

    What has other elements than bytes, or is one number, is not meant to be its memory.
    """
    if isinstance(data, str | bytes | bytearray | memoryview):
        return data
    try:
        # Not kept: what exports its memory cannot be closed or grow meanwhile.
        with memoryview(data) as view:  # type: ignore[arg-type]  # whoever has a buffer
            of_bytes = view.ndim > 0 and view.format.lstrip("@=<>!") in ("B", "b", "c")
            return view.tobytes() if of_bytes else None
    except (TypeError, ValueError, BufferError):
        return None


def payload_of(message: str | Buffer) -> tuple[bytes, int]:
    if isinstance(message, str):
        return message.encode(), Opcode.TEXT
    return bytes(message), Opcode.BINARY


def control_payload(data: str | Buffer) -> bytes:
    message = as_message(data)
    if message is None:
        raise TypeError(f"data must be str or bytes-like, not {type(data).__name__}")
    payload = payload_of(message)[0]
    if len(payload) > 125:
        raise ValueError(
            f"data must not exceed 125 bytes (RFC 6455 section 5.5), not {len(payload)}"
        )
    return payload


def fragment_frames(
    fragments: Iterator[str | Buffer], text: bool | None
) -> Iterator[tuple[int, bytes]]:
    """The frames of a message: each leaves as soon as it is there, then an empty last one."""
    kind: type | None = None
    for item in fragments:
        fragment = as_message(item)
        if fragment is None:
            raise TypeError(
                f"message must be an iterable of str or bytes-like, not of {type(item).__name__}"
            )
        this_kind = str if isinstance(fragment, str) else bytes
        data, opcode = payload_of(fragment)
        if kind is None:
            kind = this_kind
            if text is not None:
                opcode = Opcode.TEXT if text else Opcode.BINARY
            yield opcode, data
        elif this_kind is not kind:
            raise TypeError("all fragments of a message must be of one type")
        else:
            yield Opcode.CONTINUATION, data
    if kind is not None:
        yield 0x80 | Opcode.CONTINUATION, b""


def split_frame(
    begin: int, data: bytes | memoryview, fin: bool, frame_size: int
) -> Iterable[tuple[int, bytes]]:
    """Cuts a frame into frames: (first byte, payload), none larger than ``frame_size``.

    Args:
        begin: Its first byte without FIN: RSV bits and opcode.
        data: Its payload.
        fin: Whether it ends its message.
        frame_size: Bytes.
    """
    last = 0x80 if fin else 0
    if len(data) <= frame_size:
        return ((last | begin, data),)  # type: ignore[return-value]  # bytes-like is enough
    view = memoryview(data)
    return (
        (
            (last if start + frame_size >= len(data) else 0)
            | (begin if start == 0 else Opcode.CONTINUATION),
            view[start : start + frame_size],  # type: ignore[misc]  # bytes-like is enough
        )
        for start in range(0, len(data), frame_size)
    )
